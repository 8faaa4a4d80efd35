"""Calibration under cross-validation: each fold's by heads inside its training clips."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qamro_cache.datasets.records import Axis
from qamro_cache.evaluation.judged import Bools, Floats
from qamro_cache.experiments.data import Material
from qamro_cache.experiments.fitting import Fitted, pool_folds, refuse_heads
from qamro_cache.experiments.nested import inner_folds, of_outer_folds
from qamro_cache.heads.calibration import Calibration, NotCalibratedError, fit_calibration
from qamro_cache.training.recipe import Job

logger = logging.getLogger("qamro_cache")

#: The fold of the head that is saved, among others.
SAVED = -1
#: Fold -> axis -> what brings its heads' scores to the labels.
Calibrations = Mapping[int, Mapping[str, Calibration]]


def calibrate_estimate(
    material: Material,
    estimate: Fitted,
    jobs_of: Callable[[Material], list[Job]],
    fit_jobs: Callable[[Material, list[Job]], Fitted],
    *,
    unseen: bool,
) -> tuple[Fitted, Calibrations]:
    """Bring each fold's predictions to the labels by its training clips alone.

    Heads inside the folds predict these (`inner_folds`); the cost is said before they are trained.

    Args:
        material: the clips.
        estimate: heads of the folds.
        jobs_of: makes the jobs of other folds.
        fit_jobs: trains them.
        unseen: whether the saved head must not see the labels of what the folds hold out.

    Returns:
        The estimate with calibrated predictions; and the calibrations of the folds and, as
        `SAVED`, that of the held-out predictions, where there is one.
    """
    folds, inner = material.folds, inner_folds(material.folds)
    within = material.bound(inner)
    jobs = jobs_of(within)
    refuse_heads(len(jobs), len(material.clips.rows))
    logger.info(
        "--calibrate: %s heads inside the folds, beside the folds' own %s: %.1f times their time",
        f"{len(jobs):,}",
        f"{len(estimate.jobs):,}",
        len(jobs) / len(estimate.jobs),
    )
    fitted = fit_jobs(within, jobs)
    rows = zip(jobs, fitted.predictions, strict=True)
    inside = of_outer_folds(inner, ((job.target, job, pred) for job, pred in rows))
    held_out = pool_folds(estimate, folds)
    every = (SAVED, *range(len(folds.test)))
    found: dict[int, dict[str, Calibration]] = {fold: {} for fold in every}
    predictions = estimate.predictions.copy()
    for target, axis in enumerate(material.clips.axes):
        labels = material.clips.labels.mean[:, target]
        by_fold = calibrations(inside[target], labels, axis, np.ones_like(folds.test))
        for fold, one in by_fold.items():
            found[fold][axis.name] = one
        for k in estimate.of_target(target):
            if mine := by_fold.get(estimate.jobs[k].fold):
                predictions[k] = mine.apply(predictions[k])
        saved = by_fold.get(0)
        if not unseen:
            saved = saved_calibration(held_out[target].mean(0), labels, axis)
        if saved is not None:
            found[SAVED][axis.name] = saved
    return replace(estimate, predictions=predictions), found


def calibrations(
    inside: Floats, labels: Floats, axis: Axis, counted: Bools
) -> dict[int, Calibration]:
    """Return the calibration of each fold that has one; tell of the others.

    Args:
        inside: [F, C] predictions of each fold's training clips, NaN where there is none.
        labels: [C].
        axis: of the labels.
        counted: [F, C] the clips that count.
    """
    found, why = {}, ""
    for fold, pred in enumerate(inside):
        try:
            used = counted[fold]
            found[fold] = fit_calibration(pred[used], labels[used], axis)
        except NotCalibratedError as error:
            why = str(error)
    if why:
        logger.warning(
            "%s: %d of %d folds keep their scores as they are: %s",
            axis.name,
            len(inside) - len(found),
            len(inside),
            why,
        )
    return found


def saved_calibration(pred: Floats, labels: Floats, axis: Axis) -> Calibration | None:
    """Return the calibration of held-out predictions [C], or tell why there is none."""
    try:
        return fit_calibration(pred, labels, axis)
    except NotCalibratedError as error:
        logger.warning("%s: the saved head keeps its scores as they are: %s", axis.name, error)
        return None


def records(some: Mapping[str, Calibration]) -> dict[str, Any] | None:
    """Return what a head file keeps of an axis' calibrations; None of none."""
    return {axis: one.record() for axis, one in some.items()} or None


def told(found: Calibrations, axis: str, folds: int) -> dict[str, Any]:
    """Return what ``metrics.json`` says of an axis: in how many folds, and their median slope."""
    slopes: Sequence[float] = [
        found[fold][axis].slope for fold in range(folds) if axis in found[fold]
    ]
    return {"folds": len(slopes), "median_slope": float(np.median(slopes)) if slopes else np.nan}
