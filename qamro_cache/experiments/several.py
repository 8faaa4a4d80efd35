"""Several listening tests at once: the units that clips of different tests are judged in."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from qamro_cache.datasets.records import Axis, Labels
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.evaluation.judged import Bools, Floats, Ints, Judged
from qamro_cache.training.inputs import Folds
from qamro_cache.training.recipe import Recipe

logger = logging.getLogger("qamro_cache")


class Units(NamedTuple):
    """The standard units of each clip's test: those of its judged labels.

    Attributes:
        mean: [C] what is subtracted from a label, and from a prediction on the test's own scale.
        std: [C] what the difference is divided by.
        learned: [C] clips of a test that the fold which holds them out has learned from; a
            prediction of the others is in standard units as it comes.
    """

    mean: Floats
    std: Floats
    learned: Bools

    def label(self, values: Floats) -> Floats:
        """Bring labels [..., C] to standard units."""
        found: Floats = (values - self.mean) / self.std
        return found

    def prediction(self, values: Floats) -> Floats:
        """Bring predictions [..., C] to standard units."""
        return np.where(self.learned, self.label(values), values)

    def judged(self, judged: Judged) -> Judged:
        """Return the same clips with their labels, and the ratings behind them, in these units."""
        ratings = judged.ratings
        if ratings is not None:
            at = ratings.clip
            score = (ratings.score - self.mean[at]) / self.std[at]
            ratings = ratings._replace(score=score)
        # Of a test without a scale predictions have none.
        same = judged.same_scale and bool(self.learned[judged.known].all())
        target = self.label(judged.target)
        return replace(judged, target=target, ratings=ratings, same_scale=same)


def own_units(clips: int) -> Units:
    """Return units that leave everything as it is."""
    return Units(np.zeros(clips), np.ones(clips), np.ones(clips, np.bool_))


def mean_and_std(labels: Floats) -> tuple[float, float]:
    """Return what labels are standardized by; equal ones have the std 1."""
    mean, std = float(labels.mean()), float(labels.std())
    return mean, std if std > 1e-9 * max(1e-12, abs(mean)) else 1.0


def units_of(source: Ints, labels: Floats, folds: Folds) -> Units:
    """Return the units of clips that folds hold out.

    Args:
        source: [C] number of each clip's test.
        labels: [C] NaN where there is none.
        folds: over the clips.
    """
    mean, std = np.full(len(source), np.nan), np.full(len(source), np.nan)
    learned = np.zeros(len(source), np.bool_)
    judged = folds.test.any(0) & np.isfinite(labels)
    for test in np.unique(source):
        mine = source == test
        if (judged & mine).any():
            mean[mine], std[mine] = mean_and_std(labels[judged & mine])
        taught = (folds.train & mine & np.isfinite(labels)).any(1)
        learned |= mine & folds.test[taught].any(0)
    return Units(mean, std, learned)


def tests_apart(table: pd.DataFrame) -> pd.DataFrame:
    """Return clips whose systems, groups and prompts are called after their test too.

    Two tests may have a ``ref`` or a song 1 each, which are not one.
    """
    found = table.copy()
    for name in ("system", "group", "prompt"):
        named = table["source"] + ": " + table[name]
        found[name] = np.where(table[name] == "", "", named)
    return found


def check_sources(table: pd.DataFrame, labels: Labels, labeled: Bools) -> None:
    """Refuse clips of several tests some of which do not say which; warn of labels all alike."""
    bare = labeled & (table["source"] == "").to_numpy()
    if bare.any() and not bare[labeled].all():
        named = table["source"][labeled & ~bare].iloc[0]
        raise QamroError(
            f"{int(bare.sum())} rated clips have no source ({table['clip_id'][bare].iloc[0]!r} for "
            f"one), others are of {named!r}; name the test of each (qamro-cache relabel --source), "
            f"or take one with --only source={named}"
        )
    _warn_of_flat(table[labeled], labels.axes, labels.mean[labeled])


def _warn_of_flat(table: pd.DataFrame, axes: Sequence[Axis], labels: Floats) -> None:
    """Warn of tests whose labels have no spread, which predictions on their scale then lack too."""
    tests = table["source"].to_numpy(dtype=str)
    names = np.unique(tests)
    for (index, axis), name in product(enumerate(axes), names if len(names) > 1 else ()):
        rated = labels[tests == name, index]
        rated = rated[np.isfinite(rated)]
        if len(rated) and np.ptp(rated) == 0:
            logger.warning(
                "%s: source %r has %d rated clip%s, all with the label %g: its scale cannot be "
                "told, and predictions on it stay near that label; rate more of its clips, or "
                "leave it out by --without source=%s",
                axis.name,
                str(name),
                len(rated),
                "s" * (len(rated) > 1),
                rated[0],
                name,
            )


def refuse_in_several(recipe: Recipe, options: Sequence[str] = ()) -> None:
    """Refuse what needs the labels' own units, where tests have their own.

    Args:
        recipe: of the heads.
        options: that were given, of those that need these units.

    Raises:
        OptionError: names the option.
    """
    bins = any(dict(term.parameters).get("bins") for term in recipe.loss.terms)
    for what, given in (
        ("--output bounded", recipe.head.output == "bounded"),
        ("--normalize scale", recipe.takes("loss") and recipe.loss.label_range == "scale"),
        ("--bins", recipe.takes("loss") and bins),
        *((f"--{name}", True) for name in options),
    ):
        if given:
            raise OptionError(
                f"{what} needs one scale, and labels of several sources are learned in standard "
                "units of each; leave it out, or take one source with --only source=NAME"
            )


def refuse_lines(calibrate: bool, cv: str) -> None:
    """Refuse lines to the labels of a test of which no rating is known."""
    if calibrate and cv == "source":
        raise OptionError(
            "--calibrate needs labels of the test that is predicted, and --cv source knows none; "
            "leave it out: qamro-calibrate brings the saved head to labels of yours"
        )
