"""Predictions of clips on one axis: what of them is worth looking at, and listening to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.selection import named_reference
from qamro_cache.evaluation.judged import Floats, Judged, codes_of

Ints = npt.NDArray[np.int64]
Strings = npt.NDArray[np.str_]

#: Elements of a block of all pairs: 8 MiB.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Predicted:
    """The clips of one axis that have a label and a prediction of every seed.

    Attributes:
        clip_id: [C].
        system: [C], empty where not known.
        group: [C] what clips are compared within; empty where not known.
        target: [C] labels.
        pred: [K, C] predictions, a row a seed.
        path: [C] of the audio, empty where not known.
    """

    clip_id: Strings
    system: Strings
    group: Strings
    target: Floats
    pred: Floats
    path: Strings

    @property
    def mean(self) -> Floats:
        """[C] the seeds' mean prediction."""
        mean: Floats = self.pred.mean(0)
        return mean

    def only(self, rows: Ints) -> "Predicted":
        """Return some of the clips, in the order of ``rows``."""
        return Predicted(
            self.clip_id[rows],
            self.system[rows],
            self.group[rows],
            self.target[rows],
            self.pred[:, rows],
            self.path[rows],
        )

    def judged(self, cv: str, word: str, kind: str) -> Judged:
        """Return the clips as `qamro_cache.evaluation` takes them; see `Judged`."""
        reference = np.array([named_reference(name) for name in self.system], np.bool_)
        return Judged(
            self.target,
            codes_of(self.system),
            group=codes_of(self.group),
            group_word=word,
            group_kind=kind,
            reference=reference,
            cv=cv,
        )


def predicted_of(table: pd.DataFrame, paths: Mapping[str, str], cv: str = "") -> Predicted:
    """Collect the rows of one axis: a row a clip and seed.

    Args:
        table: with ``clip_id``, ``prediction``, ``target``, and as far as known ``system``,
            ``group``, ``seed`` and ``fold``.
        paths: clip id -> its audio.
        cv: how clips were held out; of ``prompt`` a fold is named by the prompt.
    """
    blank = pd.Series("", table.index)
    group = table["fold"] if cv == "prompt" else table.get("group", blank)
    frame = pd.DataFrame(
        {
            "clip_id": table["clip_id"].astype(str),
            "system": table.get("system", blank).astype(str),
            "group": group.astype(str),
            "seed": table.get("seed", blank),
            "prediction": table["prediction"].astype(float),
            "target": table["target"].astype(float),
        }
    )
    # By number: pandas takes names that are not UTF-8 for one.
    ids, first, number = np.unique(
        frame["clip_id"].to_numpy(dtype=str), return_index=True, return_inverse=True
    )
    wide = frame.assign(number=number).pivot(index="number", columns="seed", values="prediction")
    clips = frame.take(first)
    pred, target = wide.to_numpy(np.float64).T, clips["target"].to_numpy(np.float64)
    known = np.isfinite(pred).all(0) & np.isfinite(target)
    names = ids[known]
    return Predicted(
        names,
        clips["system"].to_numpy(dtype=str)[known],
        clips["group"].to_numpy(dtype=str)[known],
        target[known],
        pred[:, known],
        np.array([paths.get(name, "") for name in names], dtype=str),
    )


def largest_errors(of: Predicted, most: int) -> Ints:
    """Return the places of the clips with the largest errors, the largest first."""
    return np.argsort(-np.abs(of.mean - of.target), kind="stable")[:most].astype(np.int64)


def worst_pairs(of: Predicted, most: int) -> list[tuple[int, int]]:
    """Return pairs in the wrong order: the clip that listeners preferred, and the other.

    How wrong a pair is says the gap of the labels and that of the predictions together. A clip
    stands in one pair; pairs are of one group where clips have groups.
    """
    error = of.mean - of.target
    found: list[tuple[float, int, int]] = []
    for rows in _apart(of.group):
        step = max(1, _BLOCK // max(1, len(rows)))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            preferred = of.target[some, None] > of.target[rows]
            wrong = preferred & (of.mean[some, None] < of.mean[rows])
            size = np.where(wrong, error[rows] - error[some, None], 0)
            best = size.argmax(1)
            found += [
                (float(size[k, j]), int(some[k]), int(rows[j]))
                for k, j in enumerate(best)
                if size[k, j] > 0
            ]
    pairs: list[tuple[int, int]] = []
    seen: set[int] = set()
    for _, one, other in sorted(found, reverse=True):
        if one not in seen and other not in seen:
            pairs.append((one, other))
            seen |= {one, other}
    return pairs[:most]


def _apart(group: Strings) -> list[Ints]:
    """Return the rows of each group; all rows where there are no groups."""
    if not (group != "").any():
        return [np.arange(len(group), dtype=np.int64)]
    return [
        np.flatnonzero(group == name).astype(np.int64) for name in np.unique(group[group != ""])
    ]


class Ranked(NamedTuple):
    """A group: its clips in the order of their labels, the best first, and their places.

    A ``place`` is that in the order of the predictions, from 1; ``srcc`` is NaN where undefined.
    """

    name: str
    clips: Ints
    place: Ints
    srcc: float


def ranked_groups(of: Predicted) -> list[Ranked]:
    """Rank the clips of each group of two or more; the worst ranked group first."""
    from scipy.stats import rankdata

    groups = []
    for name in np.unique(of.group[of.group != ""]):
        rows = np.flatnonzero(of.group == name)
        if len(rows) < 2:
            continue
        order = rows[np.argsort(-of.target[rows], kind="stable")].astype(np.int64)
        place = rankdata(-of.mean[order], "ordinal").astype(np.int64)
        pred, target = rankdata(of.mean[rows]), rankdata(of.target[rows])
        known = np.ptp(pred) > 0 and np.ptp(target) > 0
        srcc = float(np.corrcoef(pred, target)[0, 1]) if known else float("nan")
        groups.append(Ranked(str(name), order, place, srcc))
    return sorted(groups, key=lambda one: (np.isnan(one.srcc), one.srcc))
