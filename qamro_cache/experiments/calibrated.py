"""Calibration under cross-validation: each fold's by heads inside its training clips."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from qamro_cache.datasets.records import Axis
from qamro_cache.evaluation.judged import Bools, Floats
from qamro_cache.experiments.calibrated_pairs import Preferences, can_tell, likeliest
from qamro_cache.experiments.data import Material
from qamro_cache.experiments.fitting import Fitted, pool_folds, refuse_heads
from qamro_cache.experiments.nested import inner_folds, of_outer_folds
from qamro_cache.experiments.unpaired import alone, learns_tau
from qamro_cache.heads.calibration import Calibration, NotCalibratedError, fit_calibration
from qamro_cache.heads.head import AxisHead, Head
from qamro_cache.training.inputs import Folds
from qamro_cache.training.recipe import Job

logger = logging.getLogger("qamro_cache")

#: The fold of the head that is saved, among others.
SAVED = -1
#: Fold -> axis -> test -> what brings its heads' scores to the labels; the test is empty where all
#: clips are of one.
Calibrations = Mapping[int, Mapping[str, Mapping[str, Calibration]]]


class Calibrated(NamedTuple):
    """An estimate that is calibrated.

    Attributes:
        estimate: with predictions on the labels' scale.
        raw: with predictions as they came, in whose units tau is.
        marks: the calibrations of the folds and, as `SAVED`, that of the held-out predictions,
            where there is one.
        preferences: tau and the tie parameter of the head that is saved.
        taus: axis -> in how many folds tau was told; of axes with pairs, where it is learned.
    """

    estimate: Fitted
    raw: Fitted
    marks: Calibrations
    preferences: Preferences
    taus: Mapping[str, int]


def calibrate_estimate(
    material: Material,
    estimate: Fitted,
    jobs_of: Callable[[Material], list[Job]],
    fit_jobs: Callable[[Material, list[Job]], Fitted],
    *,
    unseen: bool,
) -> Calibrated:
    """Bring each fold's predictions to the labels, and its tau to the verdicts, on training clips.

    Heads inside the folds predict these (`inner_folds`); the cost is said before they are trained.
    Clips of several listening tests have a line for each test, heads of pairs alone have none.

    Args:
        material: the clips.
        estimate: heads of the folds.
        jobs_of: makes the jobs of other folds.
        fit_jobs: trains them.
        unseen: whether the saved head must not see the labels of what the folds hold out.
    """
    folds, (inner, inside) = material.folds, _inside(material, estimate, jobs_of, fit_jobs)
    recipe = estimate.jobs[0].recipe
    preferences: Preferences = {}
    taus: Mapping[str, int] = {}
    if learns_tau(recipe.loss):
        estimate, preferences, taus = likeliest(material, estimate, inner, inside, unseen=unseen)
    if alone(recipe):
        return Calibrated(estimate, estimate, {}, preferences, taus)
    held_out = pool_folds(estimate, folds)
    every = (SAVED, *range(len(folds.test)))
    found: dict[int, dict[str, dict[str, Calibration]]] = {fold: {} for fold in every}
    predictions, targets = estimate.predictions.copy(), material.targets()
    for (target, axis), (test, clips) in product(
        enumerate(material.clips.axes), _tests(material).items()
    ):
        labels = np.where(clips, material.clips.labels.mean[:, target], np.nan)
        told_as = replace(axis, name=f"{axis.name} of {test}") if test else axis
        # A scale of each test takes a line in, and no steps.
        bends = {"bends": not test}
        counted = np.ones_like(folds.test)
        by_fold = calibrations(inside[target], labels, told_as, counted, **bends)
        for k in estimate.of_target(target):
            fold = estimate.jobs[k].fold
            if mine := by_fold.get(fold):
                on_scale = clips & targets.has_scale(target, fold)
                predictions[k, on_scale] = mine.apply(predictions[k, on_scale])
        saved = by_fold.get(0)
        if not unseen:
            known = material.clips.units(target, folds).learned
            pred = np.where(known, held_out[target].mean(0), np.nan)
            saved = saved_calibration(pred, labels, told_as, **bends)
        for fold, one in {**by_fold, **({} if saved is None else {SAVED: saved})}.items():
            found[fold].setdefault(axis.name, {})[test] = one
    on_scale_of_labels = replace(estimate, predictions=predictions)
    return Calibrated(on_scale_of_labels, estimate, found, preferences, taus)


def _inside(
    material: Material,
    estimate: Fitted,
    jobs_of: Callable[[Material], list[Job]],
    fit_jobs: Callable[[Material, list[Job]], Fitted],
) -> tuple[Folds, dict[int, Floats]]:
    """Train heads inside the folds; return these folds, and target -> [F, C] what they predict.

    NaN of clips of a test that a head has not learned from: it does not know their scale.
    """
    inner, axes = inner_folds(material.folds), range(len(material.clips.axes))
    # Of an axis none of these heads may have had anything to learn from.
    nothing = np.full(material.folds.test.shape, np.nan)
    if alone(estimate.jobs[0].recipe) and not can_tell(material, inner):
        return inner, dict.fromkeys(axes, nothing)
    within = material.bound(inner)
    jobs = jobs_of(within)
    refuse_heads(len(jobs), len(material.clips.rows))
    logger.info(
        "--calibrate: %s heads inside the folds, beside the folds' own %s: %.1f times their time",
        f"{len(jobs):,}",
        f"{len(estimate.jobs):,}",
        len(jobs) / len(estimate.jobs),
    )
    fitted, targets = fit_jobs(within, jobs), within.targets()
    rows = zip(fitted.jobs, fitted.predictions, strict=True)
    known = ((job, targets.has_scale(job.target, job.fold), pred) for job, pred in rows)
    found = ((job.target, job, np.where(scale, pred, np.nan)) for job, scale, pred in known)
    predicted = of_outer_folds(inner, found)
    return inner, {target: predicted.get(target, nothing) for target in axes}


def _tests(material: Material) -> dict[str, Bools]:
    """Return the clips [C] of each listening test; of a single one all, as those of none."""
    clips = material.clips
    if not clips.several:
        return {"": np.ones(len(clips.rows), np.bool_)}
    source = clips.table["source"].to_numpy(dtype=str)
    return {str(name): source == name for name in np.unique(source)}


def on_lines(head: AxisHead, lines: Mapping[str, Calibration]) -> AxisHead:
    """Return a head of several tests with the scale of each brought to its labels by a line."""
    scales = dict(head.scales)
    for test, line in lines.items():
        if test not in scales:
            continue
        mean, std, low, high = scales[test]
        scales[test] = line.offset + line.slope * mean, line.slope * std, low, high
    if head.source and (home := lines.get(head.source)) is not None:
        mean, std = home.offset + home.slope * head.label_mean, home.slope * head.label_std
        head = replace(head, label_mean=mean, label_std=std)
    return replace(head, scales=scales)


def calibrations(
    inside: Floats, labels: Floats, axis: Axis, counted: Bools, *, bends: bool = True
) -> dict[int, Calibration]:
    """Return the calibration of each fold that has one; tell of the others.

    Args:
        inside: [F, C] predictions of each fold's training clips, NaN where there is none.
        labels: [C].
        axis: of the labels.
        counted: [F, C] the clips that count.
        bends: see `fit_calibration`.
    """
    found, why = {}, ""
    for fold, pred in enumerate(inside):
        try:
            used = counted[fold]
            found[fold] = fit_calibration(pred[used], labels[used], axis, bends=bends)
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


def saved_calibration(
    pred: Floats, labels: Floats, axis: Axis, *, bends: bool = True
) -> Calibration | None:
    """Return the calibration of held-out predictions [C], or tell why there is none."""
    try:
        return fit_calibration(pred, labels, axis, bends=bends)
    except NotCalibratedError as error:
        logger.warning("%s: the saved head keeps its scores as they are: %s", axis.name, error)
        return None


def records(some: Mapping[str, Calibration]) -> dict[str, Any] | None:
    """Return what a head file keeps of an axis' calibrations; None of none."""
    return {axis: one.record() for axis, one in some.items()} or None


def calibrated(head: Head, marks: Mapping[str, Mapping[str, Calibration]]) -> Head:
    """Return a head with the calibrations of its axes, each of one test or of several."""
    axes = tuple(on_lines(one, marks.get(one.axis.name, {})) for one in head.axes)
    kept = records({axis: some[""] for axis, some in marks.items() if "" in some})
    return replace(head, axes=axes, calibration=kept)


def told(found: Calibrated, axis: str, folds: int) -> dict[str, Any]:
    """Return what ``metrics.json`` says of an axis: in how many folds, and their median slope.

    ``tau_folds`` counts those whose tau was told, ``folds`` those with a line; each where the heads
    have one.
    """
    about: dict[str, Any] = {}
    if found.marks:
        lines = [some for fold in range(folds) if (some := found.marks[fold].get(axis))]
        slopes = [one.slope for some in lines for one in some.values()]
        about["folds"] = len(lines)
        about["median_slope"] = float(np.median(slopes)) if slopes else np.nan
    if axis in found.taus:
        about["tau_folds"] = found.taus[axis]
    return about
