"""Train heads on a cache: estimate by held-out clips, then refit and save."""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from qamro_cache.cache.reader import CacheLike
from qamro_cache.devices import usable_device
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.ceiling import ceiling
from qamro_cache.evaluation.diagnostics import diagnose
from qamro_cache.evaluation.score import common, score_models
from qamro_cache.experiments.clips import HeldOut
from qamro_cache.experiments.data import Material, load_material
from qamro_cache.experiments.fitting import Fitted, Starts, fit_all, pool_folds, refuse_heads
from qamro_cache.experiments.folds import refit_clips
from qamro_cache.experiments.options import TrainOptions
from qamro_cache.experiments.request import TrainRequest, train_request
from qamro_cache.experiments.saved import save_run
from qamro_cache.files import PathLike
from qamro_cache.heads.network import parameter_shapes
from qamro_cache.heads.published import published_start
from qamro_cache.settings import documented
from qamro_cache.training.inputs import Folds
from qamro_cache.training.meter import ProgressCallback
from qamro_cache.training.recipe import RECIPE, Job, Recipe, flat_recipe
from qamro_cache.training.schedule import passes_notice, passes_per_epoch
from qamro_cache.version import __version__

logger = logging.getLogger("qamro_cache")


@documented(TrainOptions, RECIPE)
def train(
    cache: CacheLike, out: PathLike, *, progress: ProgressCallback | None = None, **options: Any
) -> dict[str, Any]:
    """Train heads on a cache's clips, say how good they are, and save one to predict with.

    Held-out clips only estimate; the saved head is trained on all clips (of a fixed split on all
    but the judged part, unless ``refit="all"``), for the median of the epochs that the estimate's
    heads were trained for, one member a seed.

    Args:
        cache: cache file or files, or an open cache.
        out: folder for ``config.json``, ``metrics.json``, ``predictions.csv`` and
            ``head.safetensors``. A run of the same cache and options is replaced.
        progress: see `fit`.
        options: those of qamro-train by their names.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        QamroError: the cache, the labels or an option cannot be used, or ``out`` holds a run of
            other options.
    """
    return run_train(train_request(cache, out, options), progress)


def run_train(request: TrainRequest, progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Do what was asked; see `train`."""
    options, recipe = request.options, request.recipe
    held_out = request.held_out
    folds = held_out.folds
    material = load_material(
        request.cache,
        request.clips,
        feature=options.feature,
        text=recipe.head.inputs != "audio",
        text_feature=options.text_feature,
    )
    starts: Starts = {}
    if options.init is not None:
        head, starts = published_start(options.init, request.clips.axes, recipe.head)
        recipe = replace(recipe, head=head)
    material.check_head(recipe.head)
    notice = passes_notice(int(folds.train.sum(1).min()), recipe.batch_size)
    if notice and recipe.head.kind != "ridge":
        logger.info(notice)
    device = usable_device(options.device)
    _check_memory(material, recipe, options.seeds * (len(folds.train) + 1))

    def fit_jobs(jobs: list[Job], folds: Folds, progress: ProgressCallback | None) -> Fitted:
        return fit_all(material, folds, jobs, starts, device, options.precision, progress)

    targets, seeds = range(len(request.clips.axes)), range(options.seeds)
    jobs = [
        Job(recipe, seed, fold, target)
        for target in targets
        for seed in seeds
        for fold in range(len(folds.train))
    ]
    estimate = fit_jobs(jobs, folds, progress)
    metrics = _metrics(material, held_out, estimate)
    # Of a fixed split the judged clips stay unseen: others will be judged by them too.
    everything = held_out.cv != "split" or options.refit == "all"
    whole = refit_clips(folds, request.clips.known, everything=everything)
    final = [_refit_recipe(recipe, estimate, t, folds, int(whole.train.sum())) for t in targets]
    jobs = [Job(final[t], seed, 0, t) for t in targets for seed in seeds]
    refit = fit_jobs(jobs, whole, None)
    if refit.diverged.any():
        diverged = f"{int(refit.diverged.sum())} of {len(jobs)} heads to be saved diverged"
        raise QamroError(f"{diverged}; lower --lr (now {recipe.lr:g})")
    config = {
        **_config(material, recipe, refit),
        "seeds": options.seeds,
        "cv": held_out.cv,
        "refit_clips": int(whole.train.sum()),
        "stop": "inner" if held_out.inner else "fixed",
        "device": device,
        "precision": options.precision,
        "asked": request.asked,
    }
    origin = {name: config[name] for name in ("dataset", "synthetic", "encoder", "feature")}
    record = {**origin, "split": held_out.question, "axes": metrics}
    table = _predictions(material, folds, estimate)
    heads = (refit, whole), (estimate, folds), options.save_folds
    save_run(request.out, material, recipe, config, record, table, *heads)
    return record


def _check_memory(material: Material, recipe: Recipe, heads: int) -> None:
    """Refuse more heads an axis than fit in memory with their weights."""
    shapes = parameter_shapes(recipe.head, material.row_shape(recipe.head))
    weights = sum(math.prod(shape) for shape in shapes.values())
    refuse_heads(heads * len(material.clips.axes), len(material.clips.rows), weights)


def _config(material: Material, recipe: Recipe, refit: Fitted) -> dict[str, Any]:
    """Return what ``config.json`` says of the clips and the heads."""
    names = [axis.name for axis in material.clips.axes]
    firsts = [refit.of_target(target)[0] for target in range(len(names))]
    found: dict[str, Any] = {}
    if recipe.head.kind == "ridge":
        found["penalty"] = {n: refit.penalty[k] for n, k in zip(names, firsts, strict=True)}
    else:
        epochs = [refit.jobs[k].recipe.epochs for k in firsts]
        found["refit_epochs"] = dict(zip(names, epochs, strict=True))
    return {
        **material.origin(),
        "text_feature": material.text_feature,
        "axes": names,
        "recipe": flat_recipe(recipe),
        **found,
        "versions": {"qamro_cache": __version__, "torch": torch.__version__},
    }


def _metrics(material: Material, held_out: HeldOut, fitted: Fitted) -> dict[str, Any]:
    """Score the heads and the baselines on the same held-out clips, axis by axis."""
    folds = held_out.folds
    pooled = pool_folds(fitted, folds)
    metrics: dict[str, Any] = {}
    for target, axis in enumerate(material.clips.axes):
        judged = material.clips.judged(target, folds, held_out.cv)
        baselines = material.baselines(target, folds)
        models = {"qamro head": pooled[target]}
        models |= {name: pred[None] for name, pred in baselines.items()}
        scored, same = score_models(models, judged), common(models.values(), judged)
        others = {name: one for name, one in scored.items() if name in baselines}
        found = diagnose(scored["qamro head"], others, pooled[target], same)
        heads = fitted.of_target(target)
        metrics[axis.name] = {
            "range": [axis.low, axis.high],
            "models": scored,
            "ceiling": ceiling(same),
            "diagnostics": [one._asdict() for one in found],
            "folds": len(folds.train),
            "diverged": int(fitted.diverged[heads].sum()),
            "median_epoch": float(np.median(fitted.best_epoch[heads])),
        }
        if np.isfinite(fitted.penalty[heads]).any():
            metrics[axis.name]["median_penalty"] = float(np.nanmedian(fitted.penalty[heads]))
    return metrics


def _refit_recipe(recipe: Recipe, fitted: Fitted, target: int, folds: Folds, clips: int) -> Recipe:
    """Return the recipe for the saved head's clips: as many steps as the folds' median.

    A ridge head takes no steps.
    """
    if recipe.head.kind == "ridge":
        return recipe
    mine = [k for k in fitted.of_target(target) if not fitted.diverged[k]]
    if not mine:
        raise QamroError(f"every head diverged; lower --lr (now {recipe.lr:g})")

    def steps(clips: int) -> int:
        return passes_per_epoch(clips, recipe.batch_size) * -(-clips // recipe.batch_size)

    pool = folds.train.any(0) if recipe.batches == "shared" else folds.train[0]
    wanted = float(np.median(fitted.best_epoch[mine])) * steps(int(pool.sum()))
    return replace(recipe, epochs=max(1, round(wanted / steps(clips))))


def _predictions(material: Material, folds: Folds, fitted: Fitted) -> pd.DataFrame:
    """Return held-out predictions as rows clip_id, system, group, axis, seed, fold, ..."""
    tables = []
    for job, row in zip(fitted.jobs, fitted.predictions, strict=True):
        held = np.flatnonzero(folds.test[job.fold])
        columns: Mapping[str, Any] = {
            "axis": material.clips.axes[job.target].name,
            "seed": job.seed,
            "fold": folds.names[job.fold],
            "prediction": row[held],
            "target": material.clips.labels.mean[held, job.target],
        }
        clips = material.clips.table.iloc[held][["clip_id", "system", "group"]]
        tables.append(clips.assign(**columns))
    return pd.concat(tables, ignore_index=True)
