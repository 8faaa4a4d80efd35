"""Jobs to held-out predictions: what every fold's heads say of the clips that they never saw."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qamro_cache.datasets.records import Axis
from qamro_cache.errors import QamroError
from qamro_cache.experiments.data import Material
from qamro_cache.heads.head import AxisHead
from qamro_cache.memory import refuse_memory
from qamro_cache.training.fit import fit
from qamro_cache.training.inputs import Bools, Features, Folds, Targets
from qamro_cache.training.meter import ProgressCallback
from qamro_cache.training.recipe import Job, Recipe
from qamro_cache.training.result import Result
from qamro_cache.training.schedule import steps_per_epoch

logger = logging.getLogger("qamro_cache")

#: Parameters of one head to start from, by target.
Starts = Mapping[int, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Fitted:
    """Trained heads, in the order of their jobs.

    Attributes:
        jobs: J jobs.
        predictions: [J, C] in label units; a diverged head predicts its `training_mean`.
        best_epoch: [J].
        diverged: [J].
        penalty: [J] that ridge heads chose, NaN for others.
        preference: [J, 2] `Result.preference`, NaN for heads that learned from no pairs.
        parts: the stacks, with the positions of their heads, for their parameters.
    """

    jobs: Sequence[Job]
    predictions: npt.NDArray[np.float64]
    best_epoch: npt.NDArray[np.int64]
    diverged: Bools
    penalty: npt.NDArray[np.float64]
    preference: npt.NDArray[np.float64]
    parts: list[tuple[list[int], Result]]

    def of_target(self, target: int) -> list[int]:
        """Return the positions of a target's heads."""
        return [k for k, job in enumerate(self.jobs) if job.target == target]

    def steps(self, target: int, per_epoch: npt.NDArray[np.int64]) -> list[int]:
        """Return the steps of a target's heads that did not diverge; an epoch's by fold [F]."""
        mine = [k for k in self.of_target(target) if not self.diverged[k]]
        return [int(self.best_epoch[k] * per_epoch[self.jobs[k].fold]) for k in mine]


def kept_bytes(heads: int, clips: int, weights: int = 0) -> int:
    """Estimate the memory that the results of heads take; arguments as of `refuse_heads`."""
    # Predictions in float32, once more as they are pooled in float64; jobs, keys and names.
    return heads * (12 * clips + 4 * weights + 2000)


def refuse_heads(heads: int, clips: int, weights: int = 0) -> None:
    """Refuse more heads than memory can keep the results of.

    Args:
        heads: how many.
        clips: that each predicts.
        weights: of each head, where they are kept.
    """
    kept = f" of {weights:,} weights" if weights else ""
    what = f"{heads:,} heads{kept} on {clips:,} clips"
    refuse_memory(
        kept_bytes(heads, clips, weights), what, "ask for fewer --seeds, folds, cells or --widths"
    )


def fit_all(
    material: Material,
    jobs: Sequence[Job],
    starts: Starts,
    device: str,
    precision: str,
    progress: ProgressCallback | None,
) -> Fitted:
    """Train the heads of a material; see `fit_heads`."""
    options: dict[str, Any] = {"initial": starts, "device": device, "precision": precision}
    data = material.features, material.targets(), material.folds
    return fit_heads(*data, jobs, progress=progress, **options)


def fit_heads(
    features: Sequence[Features],
    targets: Targets,
    folds: Folds,
    jobs: Sequence[Job],
    **options: Any,
) -> Fitted:
    """Run `fit` to the end and put its stacks together; arguments as of `fit`."""
    predictions = np.full((len(jobs), targets.labels.shape[-1]), np.nan)
    best, diverged = np.zeros(len(jobs), np.int64), np.zeros(len(jobs), np.bool_)
    penalty, preference = np.full(len(jobs), np.nan), np.full((len(jobs), 2), np.nan)
    parts = []
    for where, result in stacks(features, targets, folds, jobs, **options):
        for k, scores in zip(where, result.predictions.double().numpy(), strict=True):
            predictions[k] = targets.own_units(scores, jobs[k].target, jobs[k].fold)
        best[where] = result.best_epoch.numpy()
        diverged[where] = result.diverged.numpy()
        if result.penalty is not None:
            penalty[where] = result.penalty.numpy()
        if result.preference is not None:
            preference[where] = result.preference.numpy()
        parts.append((where, result))
    for k in np.flatnonzero(diverged):
        predictions[k] = training_mean(targets, folds, jobs[k])
    warn_of_diverged(jobs, diverged)
    return Fitted(jobs, predictions, best, diverged, penalty, preference, parts)


def refit_recipe(recipe: Recipe, steps: Sequence[int], per_epoch: int) -> Recipe:
    """Return the recipe of heads that learn from everything: the folds' median of steps.

    A head that is fitted at once takes no steps.

    Args:
        recipe: of the folds' heads.
        steps: that those which did not diverge were trained for (`Fitted.steps`).
        per_epoch: steps of an epoch of the heads to be kept (`steps_per_epoch`).

    Raises:
        QamroError: every head diverged.
    """
    if recipe.head.closed:
        return recipe
    if not len(steps):
        raise QamroError(f"every head diverged; lower --lr (now {recipe.lr:g})")
    return replace(recipe, epochs=max(1, round(float(np.median(steps)) / per_epoch)))


def refit_recipes(
    recipe: Recipe, estimate: Fitted, before: Material, after: Material
) -> list[Recipe]:
    """Return the recipe of the heads of each axis that learn from everything; see `refit_recipe`.

    Args:
        recipe: of the folds' heads.
        estimate: these heads.
        before: that they learned from.
        after: what is learned from now, by one fold.
    """
    taught_by = [(of.folds, of.targets()) for of in (before, after)]
    found = []
    for axis in range(len(before.clips.axes)):
        mine, kept = (steps_per_epoch(*of, recipe, axis) for of in taught_by)
        found.append(refit_recipe(recipe, estimate.steps(axis, mine), int(kept[0])))
    return found


def refuse_diverged(recipe: Recipe, refit: Fitted) -> None:
    """Refuse heads that are to be kept, some of which diverged."""
    if refit.diverged.any():
        diverged = f"{int(refit.diverged.sum())} of {len(refit.jobs)} heads to be saved diverged"
        raise QamroError(f"{diverged}; lower --lr (now {recipe.lr:g})")


def axis_head(axis: Axis, fitted: Fitted, members: Sequence[int]) -> AxisHead:
    """Stack the members of one axis.

    Args:
        axis: with the scale that they were trained with.
        fitted: with their weights.
        members: positions of their jobs, at least one; none diverged.
    """
    where = {k: (result, row) for part, result in fitted.parts for row, k in enumerate(part)}
    first, row = where[members[0]]
    params = {
        name: torch.stack([where[k][0].params[name][where[k][1]] for k in members])
        for name in first.params
    }
    return AxisHead(
        axis,
        tuple(fitted.jobs[k].seed for k in members),
        params,
        float(first.label_mean[row]),
        float(first.label_std[row]),
        None if first.row_mean is None else first.row_mean[row],
        None if first.row_std is None else first.row_std[row],
    )


def training_mean(targets: Targets, folds: Folds, job: Job) -> npt.NDArray[np.float64]:
    """Return the mean of the labels that a head learned from [C]: what it predicts if it diverged.

    Of several tests each clip has that of its own. From pairs alone it learned none: 0, in
    standard units.
    """
    if not job.recipe.loss.on_labels.terms:
        return np.zeros(targets.labels.shape[-1])
    labels = targets.of(job.target, job.fold).numpy()
    known = labels[folds.train[job.fold]]
    mean = np.full(len(labels), known[np.isfinite(known)].mean())
    return targets.own_units(mean, job.target, job.fold)


def predicted(
    targets: Targets, folds: Folds, job: Job, done: Mapping[str, Any]
) -> npt.NDArray[np.float64]:
    """Return what a head whose result was kept predicts [C], on the scale of each clip's test."""
    if done["diverged"]:
        return training_mean(targets, folds, job)
    return targets.own_units(done["predictions"], job.target, job.fold)


def warn_of_diverged(jobs: Sequence[Job], diverged: Bools) -> None:
    """Say how many heads diverged [J], and what they are judged by."""
    if diverged.any():
        mean = "diverged and count with the mean of their training labels; lower --lr"
        logger.warning("%d of %d heads %s", int(diverged.sum()), len(jobs), mean)


def stacks(
    features: Sequence[Features],
    targets: Targets,
    folds: Folds,
    jobs: Sequence[Job],
    **options: Any,
) -> Iterator[tuple[list[int], Result]]:
    """Run `fit`, a user's mistake being one line."""
    try:
        yield from fit(features, targets, folds, jobs, **options)
    except ValueError as error:
        raise QamroError(str(error)) from error


def pool_folds(fitted: Fitted, folds: Folds) -> dict[int, npt.NDArray[np.float64]]:
    """Put each seed's held-out predictions of all folds together: target -> [seeds, C]."""
    pooled: dict[tuple[int, int], npt.NDArray[np.float64]] = {}
    for job, row in zip(fitted.jobs, fitted.predictions, strict=True):
        held = pooled.setdefault((job.target, job.seed), np.full(len(row), np.nan))
        held[folds.test[job.fold]] = row[folds.test[job.fold]]
    targets = dict.fromkeys(target for target, _ in pooled)
    return {t: np.stack([row for (u, _), row in pooled.items() if u == t]) for t in targets}
