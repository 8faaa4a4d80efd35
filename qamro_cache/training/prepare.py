"""What a stack starts from: rows standardized for each fold, and a tensor a number of its heads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qamro_cache.heads.network import Architecture, Rows
from qamro_cache.training.problem import Problem, indices
from qamro_cache.training.recipe import Job


class FoldRows(NamedTuple):
    """One fold's view of the clips.

    Attributes:
        values: rows of all clips.
        validation: rows of the validation set; None for a fold without one.
        moments: mean and std [D] of the training clips' rows; None where rows stay as they are.
    """

    values: Tensor
    validation: Rows | None
    moments: tuple[Tensor, Tensor] | None


def rows_of_folds(
    problem: Problem, folds: Iterable[int], settings: Architecture, dtype: torch.dtype
) -> dict[int, FoldRows]:
    """Standardize the rows by each fold's training clips, and cut out its validation set."""
    values = problem.rows.values.to(dtype)
    device = values.device
    made = {}
    for fold in dict.fromkeys(folds):
        mine, moments = values, None
        if settings.kind != "audiobox":
            train = indices(problem.folds.train[fold], device)
            seen = problem.take(values, train).values
            row_mean, row_std = seen.double().mean(0), seen.double().std(0, correction=0)
            # A feature that is constant but for rounding carries nothing.
            row_std = torch.where(row_std > 1e-7 * row_mean.abs().clamp_min(1e-12), row_std, 1)
            moments = row_mean.to(dtype), row_std.to(dtype)
            mine = (values - moments[0]) / moments[1]
        validation = None
        if problem.folds.validation[fold].any():
            validation = problem.take(mine, indices(problem.folds.validation[fold], device))
        made[fold] = FoldRows(mine, validation, moments)
    return made


def tensors_of_heads(
    problem: Problem, jobs: Sequence[Job], orders: Sequence[int], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return one tensor of each setting and label statistic, [H] or [H, clips]."""
    device = problem.targets.device
    fold = torch.tensor([job.fold for job in jobs], device=device)
    row = torch.tensor([job.target for job in jobs], device=device)
    target = problem.targets[row]
    known = target.isfinite()
    masks = (
        torch.from_numpy(problem.folds.train).to(device),
        torch.from_numpy(problem.folds.validation).to(device),
    )
    train, validation = (mask[fold] & known for mask in masks)
    count = train.sum(1).clamp_min(1)
    target = torch.where(known, target, 0)
    mean = (target * train).sum(1) / count
    std = (((target - mean[:, None]) ** 2 * train).sum(1) / count).sqrt()
    std = torch.where(std > 0, std, 1)
    low = torch.where(train, target, torch.inf).amin(1)
    high = torch.where(train, target, -torch.inf).amax(1)
    # Equal training labels: no pair, so any range will do.
    high = torch.where(high > low, high, low + 1)
    scale = problem.ranges[row]
    losses = [job.recipe.full_loss for job in jobs]
    if losses[0].label_range == "scale":
        low, high = scale[:, 0], scale[:, 1]
    numbers: dict[str, Any] = {
        name: [getattr(job.recipe, name) for job in jobs]
        for name in ("lr", "momentum", "weight_decay", "dropout")
    }
    numbers["loss_numbers"] = [loss.numbers for loss in losses]
    heads = {
        name: torch.tensor(values, dtype=torch.float64).to(device, dtype)
        for name, values in numbers.items()
    }
    none = torch.zeros(len(jobs), dtype=torch.bool, device=device)
    heads |= {
        "epochs": torch.tensor([job.recipe.epochs for job in jobs], device=device),
        "patience": torch.tensor([job.recipe.patience for job in jobs], device=device),
        "seed": torch.tensor([job.seed for job in jobs], device=device),
        "order": torch.tensor(orders, device=device),
        "target": target.to(dtype),
        "train": train,
        "label_mean": mean.to(dtype),
        "label_std": std.to(dtype),
        "low": low.to(dtype),
        "high": high.to(dtype),
        "bounds": ((scale - mean[:, None]) / std[:, None]).to(dtype),
        "has_validation": validation.any(1),
        "finite": ~none,
        "diverged": none.clone(),
        "finished": none.clone(),
        "best_loss": torch.full((len(jobs),), torch.inf, device=device, dtype=dtype),
        "best_epoch": torch.zeros(len(jobs), dtype=torch.int64, device=device),
    }
    return heads | _validation_labels(problem, jobs, heads["target"], validation)


def _validation_labels(
    problem: Problem, jobs: Sequence[Job], target: Tensor, validation: Tensor
) -> dict[str, Tensor]:
    """Bring each head's validation set to one width: labels, masks and systems [H, S]."""
    # Row by row on the host and copied once: a copy a head would take longer than an epoch.
    rows = [np.flatnonzero(problem.folds.validation[job.fold]) for job in jobs]
    shape = len(rows), max(map(len, rows))
    places, counted = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for h, held in enumerate(rows):
        places[h, : len(held)], counted[h, : len(held)] = held, True
    clips, inside = (torch.from_numpy(x).to(target.device) for x in (places, counted))
    return {
        "validation_target": target.gather(1, clips),
        "validation_mask": validation.gather(1, clips) & inside,
        "validation_system": problem.systems.expand(len(jobs), -1).gather(1, clips),
        "validation_before": torch.full(shape, torch.nan, dtype=target.dtype, device=target.device),
    }


def start_from(
    params: Mapping[str, Tensor],
    heads: Mapping[str, Tensor],
    jobs: Sequence[Job],
    initial: Mapping[int, Mapping[str, Tensor]],
) -> None:
    """Replace random parameters by those of a head that scores in label units."""
    for h, job in enumerate(jobs):
        start = dict(initial.get(job.target, {}))
        if start:
            # The stack's heads score in standardized labels.
            mean, std = heads["label_mean"][h], heads["label_std"][h]
            like = params["output.bias"]
            bias = start["output.bias"].to(like)
            start["output.bias"] = (bias - mean) / std
            start["output.weight"] = start["output.weight"].to(like) / std
        for name, value in start.items():
            params[name][h] = value.to(params[name])
