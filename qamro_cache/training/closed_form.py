"""Ridge heads: solved at once, without steps, for the same jobs and with the same results."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from qamro_cache.heads.ridge import Ridge, fit_ridge
from qamro_cache.training.inputs import Features, Inputs
from qamro_cache.training.recipe import Job
from qamro_cache.training.result import Result


def is_closed(job: Job) -> bool:
    """Tell whether a job's head has a closed form."""
    return job.recipe.head.kind == "ridge"


def solve(
    features: Features,
    inputs: Inputs,
    jobs: Sequence[Job],
    *,
    weights: bool = True,
    done: Callable[[], None] = lambda: None,
) -> Result:
    """Solve ridge heads of one architecture, on the processor in float64.

    A head learns from the training and the validation clips that have a label: nothing is stopped
    by the latter. Each has two training labels at least.

    Args:
        features: of the clips, which all jobs see.
        inputs: rows made of them, labels and folds.
        jobs: the heads; their seeds do not matter.
        weights: whether the result has the heads' weights.
        done: called after each head.
    """
    blocks = features.blocks(jobs[0].recipe.head.inputs)
    (seen,) = inputs.rows.values()
    rows = seen.values.double().cpu().numpy()
    folds = inputs.folds
    learns = folds.train | folds.validation
    fitted, stds = [], []
    for job in jobs:
        target = inputs.targets.of(job.target, job.fold).cpu().numpy()
        used = learns[job.fold] & np.isfinite(target)
        groups = None if folds.groups is None else folds.groups[used]
        fitted.append(fit_ridge(rows[used], target[used], blocks, groups))
        stds.append(float(target[used].std()))
        done()
    return _result(rows, fitted, stds, weights)


def _result(
    rows: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    fitted: Sequence[Ridge],
    stds: Sequence[float],
    weights: bool,
) -> Result:
    """Return solutions as `fit` returns heads: for standardized rows and labels."""
    label_std = torch.tensor([std if std > 0 else 1.0 for std in stds])

    def stacked(values: Sequence["np.ndarray[tuple[int], np.dtype[np.float64]]"]) -> torch.Tensor:
        return torch.from_numpy(np.stack(values)).float()

    slopes = stacked([one.weights for one in fitted])
    params = {
        "output.weight": (slopes / label_std[:, None]).unsqueeze(-1),
        "output.bias": torch.zeros(len(fitted), 1),
    }
    return Result(
        predictions=stacked([one.predict(rows) for one in fitted]),
        best_epoch=torch.zeros(len(fitted), dtype=torch.int64),
        diverged=torch.zeros(len(fitted), dtype=torch.bool),
        validation_loss=torch.empty(0, len(fitted)),
        stability=torch.empty(0, len(fitted)),
        params=params if weights else {},
        row_mean=stacked([one.mean for one in fitted]),
        row_std=stacked([one.std for one in fitted]),
        label_mean=torch.tensor([one.intercept for one in fitted]),
        label_std=label_std,
        penalty=torch.tensor([one.penalty for one in fitted], dtype=torch.float64),
    )
