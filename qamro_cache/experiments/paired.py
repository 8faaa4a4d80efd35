"""What heads are worth on held-out pairs: what each fold's heads say of them, and the figures."""

from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.datasets.preferences import Pairs
from qamro_cache.evaluation.preferences import (
    HeldPairs,
    Said,
    held_pairs,
    known_rows,
    pair_record,
)
from qamro_cache.experiments.fitting import Fitted
from qamro_cache.training.inputs import Folds


def said_by(fitted: Fitted, target: int, pairs: Pairs, rows: HeldPairs) -> Said:
    """Return what the heads of each row's fold say of it: the seeds' mean score, their tau and tie.

    Tau and the tie parameter are geometric means over the seeds that did not diverge.
    """
    gap = np.full(len(rows.pair), np.nan)
    tau, tie = gap.copy(), gap.copy()
    a, b = pairs.clips[rows.pair].T
    for fold in np.unique(rows.fold):
        heads = [k for k in fitted.of_target(target) if fitted.jobs[k].fold == fold]
        here = rows.fold == fold
        if not heads:
            continue
        mean = fitted.predictions[heads].mean(0)
        gap[here] = mean[a[here]] - mean[b[here]]
        if able := [k for k in heads if not fitted.diverged[k]]:
            tau[here], tie[here] = geometric(fitted.preference[able])
    return Said(gap, tau, tie)


def geometric(preference: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return tau and the tie parameter of heads [H, 2], geometric means; no ties stay none."""
    with np.errstate(divide="ignore"):
        tau, tie = np.exp(np.log(preference).mean(0))
    return float(tau), float(tie)


def judge_pairs(fitted: Fitted, target: int, pairs: Pairs, folds: Folds) -> dict[str, Any]:
    """Return what the heads of an axis are worth on its held-out pairs (`pair_record`).

    Args:
        fitted: heads of the folds.
        target: the axis.
        pairs: on all axes.
        folds: over the clips.
    """
    mine = pairs.on([target])
    rows = held_pairs(mine, folds.test)
    said = said_by(fitted, target, mine, rows)
    rows, said = known_rows(rows, said, np.isfinite(said.gap))
    training = mine.within(folds.train).sum(1)
    record = pair_record(rows, said)
    record["counts"] |= {
        "pairs": len(mine),
        "training_least": int(training.min()),
        "training_most": int(training.max()),
    }
    return record
