"""Train every cell of a grid on the same folds at once, and compare them honestly."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from qamro_cache.cache.reader import CacheLike
from qamro_cache.datasets.registry import defaults_chosen_on
from qamro_cache.evaluation.bootstrap import refuse_resamples
from qamro_cache.experiments.data import Material, load_material, words_of_all
from qamro_cache.experiments.fitting import refuse_heads
from qamro_cache.experiments.folds import refit_clips
from qamro_cache.experiments.grid import CELL, Cell, Grid, modelings_of
from qamro_cache.experiments.labels import raters_record
from qamro_cache.experiments.missing import Missing
from qamro_cache.experiments.nested import (
    Trained,
    heads_of,
    inner_folds,
    inner_predictions,
    tell_cost,
    tell_time,
)
from qamro_cache.experiments.options import AblateOptions
from qamro_cache.experiments.outcomes import (
    baseline_outcomes,
    head_outcomes,
    modeled_outcomes,
    source_outcomes,
    without_references,
)
from qamro_cache.experiments.parts import Part
from qamro_cache.experiments.plan import Plan, make_plan
from qamro_cache.experiments.request import AblateRequest, ablate_request
from qamro_cache.experiments.store import GRID_FILES, audio_of, read_stacks
from qamro_cache.experiments.tables import Outcome, write_tables
from qamro_cache.experiments.transfer import transfer_outcomes
from qamro_cache.files import replace_folder, replaceable_folder, write_json
from qamro_cache.paths import PathLike
from qamro_cache.settings import documented
from qamro_cache.temporary import remove_leftovers
from qamro_cache.training.inputs import Folds
from qamro_cache.training.meter import ProgressCallback
from qamro_cache.training.recipe import flat_recipe
from qamro_cache.training.schedule import passes_notice, training_entries

logger = logging.getLogger("qamro_cache")


@documented(AblateOptions, CELL)
def ablate(
    cache: CacheLike | Sequence[CacheLike],
    out: PathLike,
    *,
    grid: PathLike | Grid = "",
    progress: ProgressCallback | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train all cells x seeds x folds x axes in stacks and write the tables that compare them.

    Results are kept in ``out/done`` as each stack finishes, and stacks in training every few
    seconds in ``out/begun``; the same call goes on from there.

    Args:
        cache: cache files, or open caches. Those of one identity are parts of one cache; those of
            different ones are joined by clip: an expression may name several, and one that names
            none is trained on each, to compare them.
        out: folder for ``results.csv``, ``summary.csv``, ``best.json`` and ``config.json``.
        grid: the cells: a TOML file, the name of a grid that comes along, or a `Grid`.
        progress: see `fit`.
        options: those of qamro-ablate by their names. A setting of a cell is a value or a list of
            values, which replaces the grid's.

    Returns:
        What ``best.json`` holds; of a part (``shard``) that is done before others are, how many
        ``heads`` there are and how many are ``left`` to them.

    Raises:
        QamroError: a cache, label file, grid or option cannot be used.
    """
    return run_ablate(ablate_request(cache, out, grid, options), progress)


def run_ablate(request: AblateRequest, progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Do what was asked; see `ablate`."""
    options, out, cells = request.options, request.out, request.cells
    # A run that was killed while the folders changed places may have left ``done/`` beside.
    remove_leftovers(replaceable_folder(out), GRID_FILES)
    outer = [part.held_out.folds for part in request.parts]
    insides = [inner_folds(folds) if options.nested else None for folds in outer]
    tell_cost(request, insides)
    read = [part_material(part, cells) for part in request.parts]
    with closing(Missing(options, out, progress)) as missing:
        if request.onto is not None:
            return _tables(request, missing.device, read, progress=progress)
        plans, inner_plans = train_missing(request, read, insides, missing)
    with missing.alone():
        every = [*plans, *filter(None, inner_plans)]
        if left := missing.left(every):
            return {"heads": sum(len(plan.keys) for plan in every), "left": left}
        return _tables(request, missing.device, read, plans, inner_plans)


def _tables(
    request: AblateRequest,
    device: str,
    read: Sequence[Material],
    plans: Sequence[Plan] = (),
    inner_plans: Sequence[Plan | None] = (),
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Compare what was trained, or train for another test, and write the folder."""
    cells, outcomes, materials = request.cells, [], []
    varied = {name for cell in cells for name in cell.names}
    questions: dict[tuple[str, str], dict[str, Any]] = {}
    for place, (part, material) in enumerate(zip(request.parts, read, strict=True)):
        origin = {"encoder": material.encoder} if request.compares_encoders else {}
        # What baselines depend on too.
        reads = {"feature": material.feature, "context": part.context, "cv": part.held_out.cv}
        reads |= {name: getattr(cells[part.cells[0]], name) for name in ("clips", "systems")}
        origin |= {name: value for name, value in reads.items() if name in varied}
        if request.onto is not None:
            outcomes += transfer_outcomes(request, part, material, origin, device, progress)
        else:
            outcomes += _outcomes(request, part, plans[place], origin, inner_plans[place])
        held_out = part.held_out
        split = {"split": held_out.question, "copies": held_out.copies.record()}
        files = {"cache": [str(path) for path in part.sources.paths]}
        materials.append({**material.origin(), **files, **split, "heads": heads_of(part, request)})
        if found := _raters(part, cells):
            materials[-1]["raters"] = found
        questions[held_out.cv, held_out.question] = {"cv": held_out.cv, **split}
    if any(cell.context in ("reference", "both") for cell in cells):
        outcomes += [other for one in outcomes if (other := without_references(one))]
    return _write(request, device, outcomes, materials, list(questions.values()))


def _raters(part: Part, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return who is screened out by each model of the raters that some cell has."""
    folds, clips = part.held_out.folds, part.clips
    whole = refit_clips(folds, clips.known, everything=True)
    return {
        one.words(): raters_record(clips, folds, whole, one)
        for one in modelings_of([cells[place] for place in part.cells])
    }


def part_material(part: Part, cells: Sequence[Cell]) -> Material:
    """Read what the cells of one part see."""
    read = part.sources, part.clips, part.held_out.folds, part.expression
    material = load_material(*read, part.context, part.held_out.cv, text=part.text)
    material.tell()
    for place in part.cells:
        material.check_head(cells[place].recipe.head)
    return material


def train_missing(
    request: AblateRequest,
    materials: Sequence[Material],
    insides: Sequence[Folds | None],
    missing: Missing,
) -> tuple[list[Plan], list[Plan | None]]:
    """Train what is missing of all parts, in stacks that those of the same folds share.

    Returns:
        The plan of each part, and that of its inner folds.
    """
    options, cells = request.options, request.cells
    parts = list(zip(request.parts, materials, strict=True))
    plans = [_plan(part, material, cells, options) for part, material in parts]
    first = [missing.train(together) for together in _same_folds(plans)]
    heads, seconds = (sum(one[k] for one in first) for k in (0, 1))
    inner_plans: list[Plan | None] = []
    for (part, material), inner in zip(parts, insides, strict=True):
        more = None
        if inner is not None:
            more = _jobs_of(part, material.bound(inner), cells, options)
            tell_time(len(more.jobs), Trained(int(heads), seconds))
            missing.train([more])
        inner_plans.append(more)
    return plans, inner_plans


def _outcomes(
    request: AblateRequest,
    part: Part,
    plan: Plan,
    origin: Mapping[str, Any],
    more: Plan | None,
) -> list[Outcome]:
    """Return the predictions of one part's cells and baselines; ``more``: of the inner folds."""
    cv, done = part.held_out.cv, read_stacks(request.out / "done", len(part.clips.rows))
    inside = {}
    if more is not None:
        inside = inner_predictions(more, done, plan)
    found = head_outcomes(plan, done, origin, request.cells, cv, inside)
    found += baseline_outcomes(plan, origin, cv, every=request.options.baselines == "all")
    of_sources = source_outcomes(found, part.clips)
    modelings = modelings_of(request.cells)
    return found + of_sources + modeled_outcomes(found, part.clips, plan.folds, modelings)


def _write(
    request: AblateRequest,
    device: str,
    outcomes: Sequence[Outcome],
    materials: Sequence[Mapping[str, Any]],
    questions: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write the folder of a grid; return what ``best.json`` holds."""
    options, cells = request.options, request.cells
    onto = [] if request.onto is None else [request.onto.clips]
    judged = onto or [part.clips for part in request.parts]
    config = {
        "seeds": options.seeds,
        "device": device,
        "precision": options.precision,
        "given": request.given,
        "cache": request.caches,
        "materials": materials,
        "audio": audio_of(clips.table for clips in judged),
        "cells": [{**cell.names, "recipe": flat_recipe(cell.recipe)} for cell in cells],
    }
    synthetic = any(item["synthetic"] for item in materials)
    with replace_folder(request.out, GRID_FILES) as new:
        write_json(new / "config.json", config)
        origin = words_of_all(materials, ("dataset", "encoder", "feature"))
        chosen = defaults_chosen_on(*(str(item["dataset"]) for item in materials))
        about = {**origin, "synthetic": synthetic, "defaults_chosen_on": chosen}
        about |= {"questions": questions, "interval": options.kind._asdict()}
        return write_tables(new, outcomes, about)


def _plan(part: Part, material: Material, cells: Sequence[Cell], options: AblateOptions) -> Plan:
    """Return the jobs of the cells of one part."""
    chosen = [(place, cells[place]) for place in part.cells]
    heads = len(chosen) * options.seeds * len(part.clips.axes) * len(part.held_out.folds.train)
    refuse_heads(heads, len(part.clips.rows))
    refuse_resamples(options.kind.draws, len(part.clips.rows))
    plan = _jobs_of(part, material, cells, options)
    for job in plan.jobs:
        if job.recipe.takes("batch_size") and not job.recipe.loss.on_pairs.terms:
            entries = training_entries(plan.folds, plan.targets, job.recipe, job.target)
            if notice := passes_notice(entries, job.recipe.batch_size):
                logger.info(notice)
            break
    return plan


def _jobs_of(part: Part, material: Material, cells: Sequence[Cell], options: AblateOptions) -> Plan:
    chosen = [(place, cells[place]) for place in part.cells]
    return make_plan(material, chosen, options.seeds, options.precision)


def _same_folds(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Put plans together whose heads can share stacks: of the same clips and folds."""
    found: dict[bytes, list[Plan]] = {}
    for plan in plans:
        folds = plan.folds
        masks = np.stack([folds.train, folds.validation, folds.test])
        key = masks.tobytes() + plan.material.clips.rows.tobytes()
        found.setdefault(key, []).append(plan)
    return list(found.values())
