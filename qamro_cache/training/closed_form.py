"""Heads that are fitted at once, without steps, for the same jobs and with the same results."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qamro_cache.heads.points import Neighbors, Vectors, fit_neighbors, fit_vectors
from qamro_cache.heads.ridge import Ridge, fit_ridge
from qamro_cache.training.inputs import Features, Inputs
from qamro_cache.training.recipe import Job
from qamro_cache.training.result import Result

#: How each kind of `CLOSED` is fitted.
_FIT: dict[str, Callable[..., Ridge | Neighbors | Vectors]] = {
    "ridge": fit_ridge,
    "knn": fit_neighbors,
    "svr": fit_vectors,
}


def is_closed(job: Job) -> bool:
    """Tell whether a job's head is fitted at once."""
    return job.recipe.head.closed


def solve(
    features: Features,
    inputs: Inputs,
    jobs: Sequence[Job],
    *,
    weights: bool = True,
    done: Callable[[], None] = lambda: None,
) -> Result:
    """Fit heads of one architecture, on the processor in float64.

    A head learns from the training and the validation clips that have a label: nothing is stopped
    by the latter. Each has two training labels at least.

    Args:
        features: of the clips, which all jobs see.
        inputs: rows made of them, labels and folds.
        jobs: the heads; their seeds do not matter.
        weights: whether the result has the heads' weights. Of heads that keep training clips it is
            one job then: another one's may be more.
        done: called after each head.
    """
    head = jobs[0].recipe.head
    blocks = features.blocks(head.inputs)
    (seen,) = inputs.rows.values()
    rows = seen.values.double().cpu().numpy()
    folds = inputs.folds
    learns = folds.train | folds.validation
    fitted, stds = [], []
    for job in jobs:
        target = inputs.targets.of(job.target, job.fold).cpu().numpy()
        used = learns[job.fold] & np.isfinite(target)
        groups = None if folds.groups is None else folds.groups[used]
        fitted.append(_FIT[head.kind](rows[used], target[used], blocks, groups))
        stds.append(float(target[used].std()))
        done()
    return _result(rows, fitted, stds, weights)


def _result(
    rows: npt.NDArray[np.float64],
    fitted: Sequence[Ridge | Neighbors | Vectors],
    stds: Sequence[float],
    weights: bool,
) -> Result:
    """Return solutions as `fit` returns heads: for standardized rows and labels."""
    label_std = torch.tensor([std if std > 0 else 1.0 for std in stds])
    known = [one.params(float(std)) for one, std in zip(fitted, label_std, strict=True)]

    def stacked(values: Sequence[npt.NDArray[np.floating[Any]]]) -> torch.Tensor:
        return torch.from_numpy(np.stack(values)).float()

    return Result(
        predictions=stacked([one.predict(rows) for one in fitted]),
        best_epoch=torch.zeros(len(fitted), dtype=torch.int64),
        diverged=torch.zeros(len(fitted), dtype=torch.bool),
        validation_loss=torch.empty(0, len(fitted)),
        stability=torch.empty(0, len(fitted)),
        params={name: stacked([one[name] for one in known]) for name in known[0]}
        if weights
        else {},
        row_mean=stacked([one.mean for one in fitted]),
        row_std=stacked([one.std for one in fitted]),
        label_mean=torch.tensor([one.intercept for one in fitted]),
        label_std=label_std,
        penalty=torch.tensor([one.penalty for one in fitted], dtype=torch.float64),
    )
