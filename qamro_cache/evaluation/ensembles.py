"""What averaging several cells is worth: members chosen without the clips that they are judged by.

The members are the highest cells, or chosen one after another so that their mean is highest, each
as often as it helps (Caruana et al., "Ensemble selection from libraries of models", ICML 2004).
For an estimate each fold chooses by its own training clips, as `nested` does for a single cell.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from qamro_cache.evaluation.compare import paired_gap
from qamro_cache.evaluation.figures import figures_of
from qamro_cache.evaluation.intervals import figure_of
from qamro_cache.evaluation.judged import Floats, Ints, Judged
from qamro_cache.evaluation.nested import Inside
from qamro_cache.evaluation.score import DECIDES
from qamro_cache.heads.averaged import mean_and_std

#: The figures that an ensemble is held against the best cell by. Those of ranks are of predictions
#: less the mean of the labels that their fold learned from, and are called ``centered_`` so: it is
#: lower where a good group is left out, which puts the pooled rank correlation of who knows little
#: below 0, and that of an ensemble, which has less noise to hide it, further.
RANKS, ERRORS = ("clip_srcc", "group_srcc", "system_srcc"), ("clip_mse",)
#: Models whose ranks are taken at once.
_AT_ONCE = 256


class Averaged(NamedTuple):
    """An estimate of an ensemble, and of the best single cell, on clips that chose neither.

    Attributes:
        times: [F, M] how often each fold counts each of M cells; all 0 where it could not choose.
        best: [F] the single cell that each fold would take, -1 likewise.
        pred: [C] of the ensemble, NaN where no fold predicts a clip.
        std: [C] over its cells.
        single: [C] of the best cells.
        mean: [C] of the labels that the fold which predicts a clip taught its ensemble.
        single_mean: [C] likewise of the best cell.
    """

    times: Ints
    best: Ints
    pred: Floats
    std: Floats
    single: Floats
    mean: Floats
    single_mean: Floats


def average(
    cells: Sequence[Floats], inside: Sequence[Inside], chooser: "Chooser"
) -> tuple[Averaged, tuple[Floats, Floats]]:
    """Choose for each fold by its training clips, and predict what it holds out.

    Args:
        cells: of M cells the held-out predictions [C], the seeds averaged.
        inside: what each can be chosen by; all with predictions.
        chooser: how.

    Returns:
        The estimate; and what each fold's ensemble, and its best cell, predict of the clips [F, C]
        that it chose by, NaN elsewhere.
    """
    test, labels = inside[0].test, inside[0].labels
    inner = [one.pred for one in inside if one.pred is not None]
    known = np.isfinite(labels)
    counted = np.logical_and.reduce([np.isfinite(one) for one in inner]) & known & ~test
    clips, folds = test.shape[1], len(test)
    times = np.zeros((folds, len(cells)), np.int64)
    best = np.full(folds, -1)
    pred, std, single, mean, single_mean = (np.full(clips, np.nan) for _ in range(5))
    ours, theirs = (np.full(test.shape, np.nan) for _ in range(2))
    for fold, held in enumerate(test):
        used = counted[fold]
        seen = np.stack([one[fold, used] for one in inner])
        times[fold] = chooser.choose(seen, labels[used])
        alone = Chooser("top", 1).choose(seen, labels[used])
        if not alone.any():
            continue
        best[fold] = int(alone.argmax())
        pred[held], std[held] = weighted([one[held] for one in cells], times[fold])
        single[held] = cells[best[fold]][held]
        means = [labels[used].mean() if one.mean is None else one.mean[fold] for one in inside]
        mean[held], _ = weighted([np.array([one]) for one in means], times[fold])
        single_mean[held] = means[best[fold]]
        ours[fold, used], _ = weighted(list(seen), times[fold])
        theirs[fold, used] = seen[best[fold]]
    return Averaged(times, best, pred, std, single, mean, single_mean), (ours, theirs)


class Chooser(NamedTuple):
    """How members are chosen: one of `options.WAYS`, and how many.

    ``top``: the ``members`` cells of the highest clip SRCC, of equal ones the first; ``greedy``:
    the same cell may be taken again, and of ``members`` choices those up to the highest count.
    """

    way: str
    members: int

    def choose(self, pred: Floats, labels: Floats) -> Ints:
        """Return how often each cell counts [M], by predictions [M, N] of labels [N], all finite.

        All 0 where no cell has a figure: its predictions are one number, or the labels are.
        """
        times = np.zeros(len(pred), np.int64)
        values = _figures(pred, labels)
        able = np.flatnonzero(np.isfinite(values))
        if not len(able):
            return times
        order = able[np.argsort(-values[able], kind="stable")]
        if self.way == "top":
            times[order[: self.members]] = 1
            return times
        picks, reached = [int(order[0])], [float(values[order[0]])]
        while len(picks) < self.members:
            # Differences from the first, so that equal cells come to exactly what one does.
            apart = pred - pred[picks[0]]
            means = pred[picks[0]] + (apart[picks].sum(0) + apart) / (len(picks) + 1)
            values = np.where(np.isfinite(means).all(1), _figures(means, labels), np.nan)
            if not np.isfinite(values).any():
                break
            picks.append(int(np.nanargmax(values)))
            reached.append(float(values[picks[-1]]))
        for pick in picks[: int(np.argmax(reached)) + 1]:
            times[pick] += 1
        return times


def weighted(cells: Sequence[Floats], times: Ints) -> tuple[Floats, Floats]:
    """Return the mean [C] of M cells' predictions and their std, by how often each counts [M]."""
    taken = np.flatnonzero(times)
    return mean_and_std(np.stack([cells[k] for k in taken]), times[taken] / times.sum())


def gains(found: Averaged, judged: Judged) -> dict[str, dict[str, float]]:
    """Hold an ensemble against the best cell: each of `RANKS`, centered, and of `ERRORS`.

    Args:
        found: the estimate of both.
        judged: the clips that both predict.

    Returns:
        Figure -> ``ensemble`` and ``best_cell``, their ``gain`` and its paired 95 % interval from
        ``low`` to ``high``, NaN where there is none. JSON types.
    """
    told = {}
    centered = found.pred - found.mean, found.single - found.single_mean
    plain = found.pred, found.single
    for names, (ours, theirs), begins in ((RANKS, centered, "centered_"), (ERRORS, plain, "")):
        values = figures_of(np.stack([ours, theirs]), judged, only=names)
        for name, (mine, other) in values.items():
            gap = paired_gap(ours, theirs, judged, name)
            low, high = (np.nan, np.nan) if gap is None else (gap.low, gap.high)
            both = {"ensemble": mine, "best_cell": other, "gain": mine - other}
            told[f"{begins}{name}"] = {**both, "low": float(low), "high": float(high)}
    return told


def counts(names: Sequence[Mapping[str, Any]], times: Ints) -> list[dict[str, Any]]:
    """Say how often cells were chosen: the ``cell``, in how many ``folds``, and its ``share``.

    Args:
        names: of M cells.
        times: [F, M], of a fold that could not choose all 0.
    """
    shares = times / np.maximum(times.sum(1, keepdims=True), 1)
    share = shares.sum(0) / max(1, int((times.sum(1) > 0).sum()))
    order = np.argsort(-share, kind="stable")
    return [
        {"cell": dict(names[k]), "folds": int((times[:, k] > 0).sum()), "share": float(share[k])}
        for k in order
        if share[k] > 0
    ]


def _figures(pred: Floats, labels: Floats) -> Floats:
    """Return the figure that decides of each of M predictions [M, N]."""
    truth, function = torch.as_tensor(labels), figure_of(DECIDES).function
    parts = torch.as_tensor(pred).split(_AT_ONCE)
    values: Floats = torch.cat([function(part, truth, None) for part in parts]).numpy()
    return values
