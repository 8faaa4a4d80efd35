"""The clips that models are judged by. Without torch, so that a request can look at them."""

import logging
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.records import Labels
from qamro_cache.datasets.selection import is_reference
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.kinds import JACKKNIFE, Kind

logger = logging.getLogger("qamro_cache")

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

#: Fewer clips or systems than this are worth a warning. Two unrelated rankings of ten have an SRCC
#: beyond 0.65 one time in twenty (the critical value of Spearman's test, two-sided); of five, 1.0
#: one time in sixty.
FEW = 10


class Rated(NamedTuple):
    """Single ratings of one axis.

    Attributes:
        clip: [R] place among the clips.
        rater: [R] number of the rater, -1 where not known.
        score: [R] in label units.
    """

    clip: Ints
    rater: Ints
    score: Floats

    def only(self, kept: Bools) -> "Rated":
        """Return the ratings that are ``kept`` [R]."""
        return Rated(self.clip[kept], self.rater[kept], self.score[kept])


def rated(labels: Labels, axis: int) -> Rated | None:
    """Return the single ratings of an axis; None where only means are known."""
    if labels.ratings is None:
        return None
    of = labels.ratings
    mine = of.axis == axis
    return Rated(of.clip[mine].astype(np.int64), of.rater[mine].astype(np.int64), of.score[mine])


@dataclass(frozen=True)
class Judged:
    """The clips that models are judged by, on one axis.

    Attributes:
        target: [C] labels; NaN for a clip that is not judged.
        system: [C] each clip's system, -1 for none.
        system_truth: [S] published scores of the systems; where NaN (or not given) a system's truth
            is the mean of its clips' labels, over the same clips as its prediction.
        same_scale: whether predictions are in the labels' units. Otherwise no MSE is given but
            ``mse_fit``, the error left after the best straight line (least squares).
        group: [C] the clips that one would choose among (of one group, or one prompt), -1 for none.
        group_word: what such a group is: ``group`` or ``prompt``.
        group_kind: what the set's description calls its groups (``song``); empty where not known.
        reference: [C] clips that nobody would choose among others, because they are the original.
        cv: how clips were held out from training; empty where that is not known.
        ratings: the single ratings behind the labels, or None.
        interval: the kind of interval that figures and differences have.
    """

    target: Floats
    system: Ints
    system_truth: Floats | None = None
    same_scale: bool = True
    group: Ints | None = None
    group_word: str = "group"
    group_kind: str = ""
    reference: Bools | None = None
    cv: str = ""
    ratings: Rated | None = None
    interval: Kind = JACKKNIFE

    @property
    def known(self) -> Bools:
        """[C] the clips that are judged."""
        known: Bools = np.isfinite(self.target)
        return known

    @property
    def group_noun(self) -> str:
        """What such a group is called where it stands in a sentence: ``song``, ``prompt``."""
        named = self.group_word == "group" and self.group_kind.isalpha()
        return self.group_kind if named else self.group_word

    def only(self, kept: Bools) -> "Judged":
        """Return the same clips, of which no others than the ``kept`` [C] are judged."""
        return replace(self, target=np.where(kept, self.target, np.nan))


def judged_of(clips: pd.DataFrame, target: Floats, *, cv: str = "", **more: Any) -> Judged:
    """Return the clips of a table, judged by labels [C]; ``more`` are fields of `Judged`."""
    word = group_word(clips, cv)
    system, group = (codes_of(clips[name].to_numpy(dtype=str)) for name in ("system", word))
    ways = {"system": system, "group": group, "group_word": word, "reference": is_reference(clips)}
    return Judged(target, cv=cv, **{**ways, **more})


def group_word(clips: pd.DataFrame, cv: str = "") -> str:
    """Return what one would choose among the clips of: ``group`` or ``prompt``.

    What ``cv`` left out, if that is one of both; else groups where some clip has one, else prompts.
    """
    if cv in ("group", "prompt"):
        return cv
    return "group" if (clips["group"] != "").any() else "prompt"


def codes_of(names: npt.NDArray[np.str_]) -> Ints:
    """Number names [C] in their order, -1 for an empty one."""
    index = np.searchsorted(np.unique(names[names != ""]), names)
    return np.where(names == "", -1, index).astype(np.int64)


def check_judged(axis: str, judged: Judged) -> None:
    """Log a line where the figures of an axis say nothing, or next to nothing.

    Raises:
        QamroError: intervals are to be over a way alone that no judged clip has a label of.
    """
    known, over = judged.known, judged.interval.over
    group = np.full(len(known), -1) if judged.group is None else judged.group
    named = {"": known, "system": judged.system >= 0, "group": group >= 0}[over]
    if known.any() and not (named & known).any():
        noun = "system" if over == "system" else "group or prompt"
        raise QamroError(f"--over {over}: no clip has a {noun}; name them, or leave out --over")
    target, system = judged.target[known], judged.system[known]
    if len(target) and np.ptp(target) == 0:
        logger.warning(
            "%s: all %d clips have the rating %g: there is no ranking to learn or to judge, and "
            "correlations are undefined (-)",
            axis,
            len(target),
            target[0],
        )
        return
    counts = [(len(target), "clip"), (len(np.unique(system[system >= 0])), "system")]
    few = [f"{n} {noun}{'s' if n > 1 else ''}" for n, noun in counts if 0 < n < FEW]
    if few:
        what = "correlations and intervals over so few mean"
        if over == "group" and few[0].endswith(("system", "systems")):
            # Intervals are over groups, while these systems stay as they are.
            what = "correlations of systems mean"
        logger.warning(
            "%s: only %s: %s little (even of ten unrelated ones, one SRCC in twenty is beyond "
            "0.65)",
            axis,
            " and ".join(few),
            what,
        )
