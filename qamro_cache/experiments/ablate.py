"""Train every cell of a grid on the same folds at once, and compare them honestly."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.cache.reader import Cache, CacheLike
from qamro_cache.devices import usable_device
from qamro_cache.errors import QamroError
from qamro_cache.experiments.data import Material, load_material
from qamro_cache.experiments.folds import default_cv, make_folds, wants_inner
from qamro_cache.experiments.grid import CELL, Cell, Grid
from qamro_cache.experiments.options import AblateOptions
from qamro_cache.experiments.outcomes import baseline_outcomes, head_outcomes
from qamro_cache.experiments.plan import Plan, make_plan
from qamro_cache.experiments.request import AblateRequest, ablate_request
from qamro_cache.experiments.store import keep_stack, read_stacks
from qamro_cache.experiments.tables import Outcome, write_tables
from qamro_cache.files import write_json
from qamro_cache.settings import documented
from qamro_cache.training.fit import ProgressCallback, fit
from qamro_cache.training.recipe import flat_recipe
from qamro_cache.training.schedule import passes_notice

logger = logging.getLogger("qamro_cache")


@documented(AblateOptions, CELL)
def ablate(
    cache: CacheLike | Sequence[CacheLike],
    out: str | Path,
    *,
    grid: str | Path | Grid = "",
    progress: ProgressCallback | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train all cells x seeds x folds x axes in stacks and write the tables that compare them.

    Results are kept in ``out/done`` as each stack finishes; the same call goes on from there.

    Args:
        cache: cache files, or open caches. Those of one identity are parts of one cache; those of
            different ones are compared: each cell is trained on each, on the clips that all have.
        out: folder for ``results.csv``, ``summary.csv``, ``best.json`` and ``config.json``.
        grid: the cells: a TOML file, the name of a grid that comes along, or a `Grid`.
        progress: see `fit`.
        options: those of qamro-ablate by their names. A setting of a cell is a value or a list of
            values, which replaces the grid's.

    Returns:
        What ``best.json`` holds.

    Raises:
        QamroError: a cache, label file, grid or option cannot be used.
    """
    return run_ablate(ablate_request(cache, out, grid, options), progress)


def run_ablate(request: AblateRequest, progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Do what was asked; see `ablate`."""
    options, out, cells = request.options, request.out, request.cells
    device = usable_device(options.device)
    common = _common_clips(request.caches)
    varied = {name for cell in cells for name in cell.names}
    outcomes: list[Outcome] = []
    materials = []
    done = read_stacks(out / "done")
    for cache in request.caches:
        for (feature, text, own_cv), members in _by_material(cells).items():
            material = load_material(
                cache,
                options,
                feature=feature,
                text=text,
                common=common,
            )
            cv = own_cv or default_cv(material.clips, material.known)
            plan, question = _plan(material, [(k, cells[k]) for k in members], cv, options)
            _train_missing(plan, done, out / "done", device, options.precision, progress)
            origin = {"encoder": material.encoder} if len(request.caches) > 1 else {}
            # What baselines depend on too.
            reads = {"feature": material.feature, "cv": cv}
            origin |= {name: value for name, value in reads.items() if name in varied}
            outcomes += head_outcomes(plan, done, origin, cells)
            outcomes += baseline_outcomes(plan, origin)
            materials.append({**material.origin(), "split": question, "heads": len(plan.jobs)})
    config = {
        "seeds": options.seeds,
        "device": device,
        "precision": options.precision,
        "materials": materials,
        "cells": [{**cell.names, "recipe": flat_recipe(cell.recipe)} for cell in cells],
    }
    write_json(out / "config.json", config)
    synthetic = any(item["synthetic"] for item in materials)
    return write_tables(out, outcomes, synthetic, options.resamples)


def _common_clips(caches: Sequence[Cache]) -> frozenset[str] | None:
    """Return the clips that every cache has features of; None for a single cache."""
    if len(caches) == 1:
        return None
    sets = [set(c.clips["clip_id"][c.clips["status"] == "ok"]) for c in caches]
    common = frozenset.intersection(*map(frozenset, sets))
    if not common:
        raise QamroError("the caches have no clip in common")
    lost = max(len(one) for one in sets) - len(common)
    if lost:
        logger.warning("comparing on the %d clips that all caches have", len(common))
    return common


def _by_material(cells: Sequence[Cell]) -> dict[tuple[str, bool, str], list[int]]:
    """Group cells by what they read of a cache (the feature, whether prompts), and by folds."""
    groups: dict[tuple[str, bool, str], list[int]] = {}
    for place, cell in enumerate(cells):
        key = (cell.feature, cell.recipe.head.inputs != "audio", cell.cv)
        groups.setdefault(key, []).append(place)
    return groups


def _plan(
    material: Material, cells: Sequence[tuple[int, Cell]], cv: str, options: AblateOptions
) -> tuple[Plan, str]:
    """Return the jobs of the cells of one material, and the line that says what folds ask."""
    for _, cell in cells:
        material.check_head(cell.recipe.head)
    inner = wants_inner(cv, options.stop)
    folds, question = make_folds(material.clips, cv, material.known, inner=inner)
    question = material.asked(question, options)
    material.warn_of_small_sets(folds)
    notice = passes_notice(int(folds.train.sum(1).min()), cells[0][1].recipe.batch_size)
    if notice:
        logger.info(notice)
    return make_plan(material, folds, cells, options.seeds, options.precision), question


def _train_missing(
    plan: Plan,
    done: dict[str, Any],
    folder: Path,
    device: str,
    precision: str,
    progress: ProgressCallback | None,
) -> None:
    """Train the jobs that have no result yet; add each stack's to ``done`` and keep it."""
    clips = len(plan.material.clips)
    missing = [
        k
        for k, key in enumerate(plan.keys)
        if key not in done or len(done[key]["predictions"]) != clips
    ]
    if not missing:
        return
    if len(missing) < len(plan.jobs):
        logger.info(
            "%d of %d heads are done already", len(plan.jobs) - len(missing), len(plan.jobs)
        )
    try:
        for where, result in fit(
            plan.material.features,
            plan.targets,
            plan.folds,
            [plan.jobs[k] for k in missing],
            device=device,
            precision=precision,
            weights=False,
            progress=progress,
        ):
            heads = [missing[k] for k in where]
            test = plan.folds.test[[plan.jobs[k].fold for k in heads]]
            results: Mapping[str, Any] = {
                "predictions": np.where(test, result.predictions.float().numpy(), np.nan),
                "best_epoch": result.best_epoch.numpy(),
                "diverged": result.diverged.numpy(),
                "stability": _mean_known(result.stability.double().numpy()),
            }
            done |= keep_stack(folder, [plan.keys[k] for k in heads], results)
    except ValueError as error:
        raise QamroError(str(error)) from error


def _mean_known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each column's mean over its numbers; NaN for a column without any."""
    seen = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: npt.NDArray[np.float64] = np.where(seen, values, 0).sum(0) / seen.sum(0)
    return means
