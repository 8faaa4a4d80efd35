"""Average the cells of a grid: choose them, say what that gains, and save one head."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache.datasets.records import Axis
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.ensembles import (
    Averaged,
    Chooser,
    average,
    counts,
    gains,
    weighted,
)
from qamro_cache.evaluation.figures import figures_of
from qamro_cache.evaluation.judged import Floats, Ints, Judged
from qamro_cache.evaluation.nested import Inside
from qamro_cache.evaluation.score import DECIDES, common
from qamro_cache.experiments.ablate import part_material, train_missing
from qamro_cache.experiments.calibrated import calibrations, records, saved_calibration
from qamro_cache.experiments.data import Material
from qamro_cache.experiments.ensemble_folder import (
    Candidate,
    config_of,
    predictions_of,
    record_of,
)
from qamro_cache.experiments.grid_folder import EnsembleRequest, ensemble_request
from qamro_cache.experiments.judge import judge_models
from qamro_cache.experiments.members import refitted
from qamro_cache.experiments.missing import Missing
from qamro_cache.experiments.nested import inner_folds, inner_predictions, tell_cost
from qamro_cache.experiments.options import EnsembleOptions
from qamro_cache.experiments.outcomes import baseline_outcomes, head_outcomes
from qamro_cache.experiments.plan import Plan
from qamro_cache.experiments.saved import figures_kept
from qamro_cache.experiments.store import RUN_FILES, audio_of, read_stacks
from qamro_cache.experiments.tables import Outcome
from qamro_cache.files import replace_folder, write_json, write_table
from qamro_cache.heads.calibration import Calibration
from qamro_cache.heads.file import save_head
from qamro_cache.paths import PathLike
from qamro_cache.settings import documented
from qamro_cache.training.meter import ProgressCallback
from qamro_cache.training.schedule import steps_per_epoch

logger = logging.getLogger("qamro_cache")

#: What models are called in ``metrics.json``.
ENSEMBLE, BEST = "ensemble", "best cell"


@documented(EnsembleOptions)
def ensemble(
    grid: PathLike,
    out: PathLike,
    *,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Choose cells of a grid to average, say what that gains, and save them as one head.

    The estimate chooses for each fold by heads inside its training clips (`ablate` with
    ``nested=True``; what of these is missing is trained, and kept in the grid's folder), so that no
    member is chosen by the clips that it is judged by. The members that are saved are chosen by the
    held-out predictions of all clips, and trained on all clips (of a fixed split, by its training
    clips, and on these).

    Args:
        grid: the folder of a finished grid.
        out: folder for ``config.json``, ``metrics.json``, ``predictions.csv`` and
            ``head.safetensors``, as `train` writes them.
        progress: see `fit`.
        options: those of qamro-ensemble by their names.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        QamroError: the grid or an option cannot be used, or ``out`` holds another run.
    """
    return run_ensemble(ensemble_request(grid, out, options), progress)


def run_ensemble(
    request: EnsembleRequest, progress: ProgressCallback | None = None
) -> dict[str, Any]:
    """Do what was asked; see `ensemble`."""
    grid, chooser = request.grid, Chooser(request.options.choose, request.options.members)
    insides = [inner_folds(part.held_out.folds) for part in grid.parts]
    tell_cost(grid, insides, "the choice")
    materials = [part_material(part, grid.cells) for part in grid.parts]
    with closing(Missing(grid.options, grid.out, progress)) as missing:
        plans, inner = train_missing(grid, materials, insides, missing)
        device = missing.device
    by_axis: dict[str, list[Candidate]] = {}
    for place, (plan, more) in enumerate(zip(plans, inner, strict=True)):
        assert more is not None
        for one in _candidates(request, place, plan, more):
            by_axis.setdefault(one.outcome.axis, []).append(one)
    if lost := [name for name in _axes(request) if name not in by_axis]:
        raise QamroError(f"axis {lost[0]}: every cell has heads that diverged; lower --lr")
    metrics: dict[str, Any] = {}
    saved: dict[str, Calibration] = {}
    tables, choices = [], []
    beside = _beside(request, plans)
    for axis, cells in by_axis.items():
        found, estimate, final, mark = _axis(request, cells, beside, materials, chooser)
        metrics[axis] = found
        saved |= {} if mark is None else {axis: mark}
        tables.append(predictions_of(cells, estimate, materials))
        counted = zip(cells, final.tolist(), strict=True)
        choices += [one._replace(times=times) for one, times in counted if times]
    config = config_of(request, materials, device)
    head = refitted(grid, materials, choices, config, device)
    record = record_of(request, materials, metrics)
    head = replace(head, calibration=records(saved), figures=figures_kept(record))
    with replace_folder(request.out, (*RUN_FILES, "folds")) as new:
        audio = audio_of(part.clips.table for part in grid.parts)
        write_json(new / "config.json", {**config, "cache": list(grid.caches), "audio": audio})
        write_json(new / "metrics.json", record)
        write_table(new / "predictions.csv", pd.concat(tables, ignore_index=True))
        save_head(new / "head.safetensors", head)
    return record


def _axes(request: EnsembleRequest) -> list[str]:
    return [axis.name for part in request.grid.parts for axis in part.clips.axes]


def _candidates(request: EnsembleRequest, place: int, plan: Plan, more: Plan) -> list[Candidate]:
    """Return the cells of a part, each axis on its own, but for those whose heads all diverged."""
    grid = request.grid
    part, done = grid.parts[place], read_stacks(grid.out / "done", len(plan.material.clips.rows))
    origin = {"encoder": plan.material.encoder} if grid.compares_encoders else {}
    inside = inner_predictions(more, done, plan)
    outcomes = head_outcomes(plan, done, origin, grid.cells, part.held_out.cv, inside)
    named = dict.fromkeys(zip(plan.cells, plan.axes, strict=True))
    steps: dict[tuple[int, int], list[int]] = {}
    lengths: dict[tuple[int, int], Ints] = {}
    for key, job, *of in zip(plan.keys, plan.jobs, plan.cells, plan.axes, strict=True):
        head = of[0], of[1]
        if head not in lengths and not job.recipe.head.closed:
            lengths[head] = steps_per_epoch(plan.folds, plan.targets, job.recipe, job.target)
        if not done[key]["diverged"]:
            per_epoch = lengths[head][job.fold] if head in lengths else 1
            steps.setdefault(head, []).append(int(done[key]["best_epoch"] * per_epoch))
    return [
        Candidate(place, cell, axis, outcome, steps[cell, axis])
        for (cell, axis), outcome in zip(named, outcomes, strict=True)
        if outcome.trained
    ]


def _axis(
    request: EnsembleRequest,
    cells: Sequence[Candidate],
    beside: Sequence[Outcome],
    materials: Sequence[Material],
    chooser: Chooser,
) -> tuple[dict[str, Any], Averaged, Ints, Calibration | None]:
    """Estimate an axis' ensemble and choose the one to be saved.

    Returns:
        What ``metrics.json`` says, the estimate, how often each cell counts in the saved one, and
        its calibration.
    """
    grid = request.grid
    inside = [one.outcome.inside for one in cells if one.outcome.inside is not None]
    part, first = grid.parts[cells[0].part], cells[0]
    info = materials[first.part].clips.axes[first.axis]
    estimate, seen = average([one.pred for one in cells], inside, chooser)
    marks: dict[int, Calibration] = {}
    if request.options.calibrate:
        estimate, marks = _calibrated(estimate, seen, inside, info)
    judged, names = first.outcome.judged, [one.outcome.names for one in cells]
    final, saved = estimate.times[0], marks.get(0)
    if part.held_out.cv != "split":
        labels = np.where(inside[0].test.any(0), inside[0].labels, np.nan)
        every = np.stack([one.pred for one in cells])
        used = np.isfinite(every).all(0) & np.isfinite(labels)
        final = chooser.choose(every[:, used], labels[used])
        if request.options.calibrate:
            pred, _ = weighted(list(every), final)
            saved = saved_calibration(pred, labels, info)
    models, own = {ENSEMBLE: estimate.pred[None], BEST: estimate.single[None]}, set()
    for one in (one for one in beside if one.axis == first.outcome.axis):
        name = one.model
        if one.judged.same_scale:
            name = ", ".join([name, *one.names.values()])
        else:
            own.add(name)
        models[name] = one.predictions
    judged = replace(judged, same_scale=True)
    models = _highest(models, own, judged)
    systems = materials[first.part].clips.table["system"].to_numpy(dtype=str)
    always = {*own, *(name for name in models if name.partition(", ")[0] == "ridge")}
    found = {
        "range": [info.low, info.high],
        # Against the best cell stands the gain.
        **judge_models(models, judged, own, always, systems, without_verdict=[BEST]),
        "folds": int((estimate.times.sum(1) > 0).sum()),
        "diverged": int(sum(one.outcome.details["diverged"].sum() for one in cells)),
        "ensemble": {
            "cells": len(cells),
            "choose": chooser.way,
            "members": chooser.members,
            "gain": gains(estimate, common(models.values(), judged)),
            "chosen": counts(names, estimate.times),
            "best_cells": counts(names, _one_hot(estimate.best, len(cells))),
            "saved": counts(names, final[None]),
        },
    }
    return found, estimate, final, saved


def _calibrated(
    estimate: Averaged, seen: tuple[Floats, Floats], inside: Sequence[Inside], axis: Axis
) -> tuple[Averaged, dict[int, Calibration]]:
    """Bring an ensemble, and the best cells, to the labels by each fold's training clips.

    Args:
        estimate: of an axis.
        seen: of the ensemble and of the best cells, predictions [F, C] of each fold's own clips.
        inside: of its cells.
        axis: of the labels.
    """
    test, labels = inside[0].test, inside[0].labels
    marks = [calibrations(one, labels, axis, ~test) for one in seen]
    parts = [part.copy() for part in (estimate.pred, estimate.single)]
    means = [part.copy() for part in (estimate.mean, estimate.single_mean)]
    std = estimate.std.copy()
    for fold, held in enumerate(test):
        for part, mean, found, told in zip(parts, means, marks, seen, strict=True):
            if one := found.get(fold):
                part[held] = one.apply(part[held])
                # The line goes through the mean of the labels that it was fitted to, whichever
                # the heads had learned from.
                mean[held] = labels[np.isfinite(told[fold]) & np.isfinite(labels)].mean()
        if one := marks[0].get(fold):
            std[held] = one.spread(estimate.pred[held], std[held])
    (pred, single), (mean, single_mean) = parts, means
    made = Averaged(estimate.times, estimate.best, pred, std, single, mean, single_mean)
    return made, marks[0]


def _beside(request: EnsembleRequest, plans: Sequence[Plan]) -> list[Outcome]:
    """Return the baselines of all parts, named by what they read where that varies."""
    every = request.grid.options.baselines == "all"
    found = []
    for part, plan in zip(request.grid.parts, plans, strict=True):
        reads = {"feature": plan.material.feature, "context": part.context}
        found.append(baseline_outcomes(plan, reads, part.held_out.cv, every=every))
    varies = {
        name
        for name in ("feature", "context")
        if len({one.names[name] for some in found for one in some}) > 1
    }
    return [
        replace(one, names={n: v for n, v in one.names.items() if n in varies})
        for some in found
        for one in some
    ]


def _highest(models: Mapping[str, Floats], own: set[str], judged: Judged) -> dict[str, Floats]:
    """Keep of the baselines of one kind, which read other features, the highest."""
    same = common(models.values(), judged)
    kept: dict[str, tuple[float, str]] = {}
    for name, pred in models.items():
        kind = name if name in own else name.partition(", ")[0]
        (value,) = figures_of(pred.mean(0)[None], same, only=[DECIDES])[DECIDES]
        if kind not in kept or value > kept[kind][0]:
            kept[kind] = value, name
    return {name: models[name] for _, name in kept.values()}


def _one_hot(picks: Ints, cells: int) -> Ints:
    """Return [F, M] with a 1 for what each fold picked, all 0 where it picked none."""
    found = np.zeros((len(picks), cells), np.int64)
    folds = np.flatnonzero(picks >= 0)
    found[folds, picks[folds]] = 1
    return found
