"""Train heads on a cache: estimate by held-out clips, then refit and save."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from qamro_cache.cache.reader import CacheLike
from qamro_cache.datasets.registry import defaults_chosen_on
from qamro_cache.devices import usable_device
from qamro_cache.evaluation.bootstrap import refuse_resamples
from qamro_cache.evaluation.scales import STANDARD
from qamro_cache.experiments.calibrated import Calibrated, calibrate_estimate, told
from qamro_cache.experiments.calibrated_pairs import with_preferences
from qamro_cache.experiments.clips import AxisGroup, Clips, HeldOut
from qamro_cache.experiments.data import Material, load_material
from qamro_cache.experiments.fitting import (
    Fitted,
    Starts,
    fit_all,
    refit_recipes,
    refuse_diverged,
    refuse_heads,
)
from qamro_cache.experiments.folds import refit_clips
from qamro_cache.experiments.judge import judge, own_scores
from qamro_cache.experiments.options import TrainOptions
from qamro_cache.experiments.request import TrainRequest, train_request
from qamro_cache.experiments.saved import Run, save_run
from qamro_cache.experiments.unpaired import alone
from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.ood import reference_clips
from qamro_cache.heads.parameters import parameter_shapes
from qamro_cache.heads.published import published_start
from qamro_cache.memory import refuse_disk
from qamro_cache.paths import PathLike
from qamro_cache.settings import documented
from qamro_cache.training.inputs import taught
from qamro_cache.training.meter import ProgressCallback
from qamro_cache.training.recipe import RECIPE, Job, Recipe, flat_recipe, huber_alone
from qamro_cache.training.schedule import passes_notice, training_entries
from qamro_cache.version import __version__

logger = logging.getLogger("qamro_cache")


@documented(TrainOptions, RECIPE)
def train(
    cache: CacheLike | Sequence[CacheLike],
    out: PathLike,
    *,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train heads on a cache's clips, say how good they are, and save one to predict with.

    Held-out clips only estimate; the saved head is trained on all clips (of a fixed split on all
    but the judged part, unless ``refit="all"``), for the median of the steps that the estimate's
    heads were trained for, one member a seed.

    Args:
        cache: cache files, or open caches: parts of one by one encoder, or of several encoders,
            which are joined by clip for ``feature="distillmos.embedding + mel.embedding"``.
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
    options, groups = request.options, request.groups
    device = usable_device(options.device)
    # A wrong checkpoint is told before anything is trained.
    starts = [_start(request, group) for group in groups]
    runs: list[Run] = []
    metrics: dict[str, Any] = {}
    for group, start in zip(groups, starts, strict=True):
        run, found = _train_axes(request, group, start, device, progress)
        runs.append(run)
        metrics |= found
    held_out = groups[0].held_out
    refit_rows = [run.whole.clips.rows[run.whole.folds.train[0]] for run in runs]
    config = {
        **_config(runs),
        "seeds": options.seeds,
        "cv": held_out.cv,
        "refit_clips": len(np.unique(np.concatenate(refit_rows))),
        "stop": "inner" if held_out.inner else "fixed",
        "device": device,
        "precision": options.precision,
        "asked": request.asked,
        "given": request.given,
    }
    origin = {name: config[name] for name in ("dataset", "synthetic", "encoder", "feature")}
    asks = [group.held_out.question for group in groups]
    if len(set(asks)) > 1:
        asks = [f"{group.names}: {ask}" for group, ask in zip(groups, asks, strict=True)]
    copies = {group.names: group.held_out.copies.record() for group in groups}
    split = {
        "split": "; ".join(dict.fromkeys(asks)),
        # By axes where they are rated on different clips.
        "copies": held_out.copies.record() if len(groups) == 1 else copies,
    }
    chosen = {"defaults_chosen_on": defaults_chosen_on(str(config["dataset"]))}
    interval = {"interval": options.kind._asdict()}
    record = {**origin, **chosen, **split, **interval, "axes": metrics}
    table = pd.concat([_predictions(run.material, run.estimate) for run in runs], ignore_index=True)
    far = table[table["ood"] & table["target"].notna()]
    for name, found in metrics.items():
        found["ood"] = len(set(far["clip_id"][far["axis"] == name]))
    save_run(request.out, runs, config, record, table, keep_folds=options.save_folds)
    return record


def _start(request: TrainRequest, group: AxisGroup) -> tuple[Architecture, Starts]:
    """Return the architecture of the heads, and what those of each axis start from."""
    head, init = request.recipe.head, request.options.init
    return (head, {}) if init is None else published_start(init, group.clips.axes, head)


def _train_axes(
    request: TrainRequest,
    group: AxisGroup,
    start: tuple[Architecture, Starts],
    device: str,
    progress: ProgressCallback | None,
) -> tuple[Run, dict[str, Any]]:
    """Train the folds' heads of some axes and the heads to be saved; say how good they are."""
    options, (head, starts) = request.options, start
    recipe = replace(request.recipe, head=head)
    clips, held_out = group
    folds = held_out.folds
    material = _material(request, clips, held_out)
    material.check_head(recipe.head)
    material.tell()
    _tell_passes(material, recipe)
    every, plain = options.baselines == "all", huber_alone(recipe)
    # Of axes that pairs alone judge there is nothing that Huber could learn.
    rated = bool(np.isfinite(clips.labels.mean).any(0).all())
    beside = every and rated and plain != recipe and not recipe.head.closed
    trained = 1 + len(folds.train) * (1 + beside)
    kept = 1 + len(folds.train) * options.save_folds
    refuse_resamples(options.kind.draws, len(clips.rows))
    _check_room(material, recipe, options.seeds * trained, options.seeds * kept, request.out)

    def fit_jobs(of: Material, jobs: list[Job], progress: ProgressCallback | None) -> Fitted:
        return fit_all(of, jobs, starts, device, options.precision, progress)

    targets, seeds = range(len(clips.axes)), range(options.seeds)
    jobs = _jobs(recipe, material, seeds)
    estimate, huber = fit_jobs(material, jobs, progress), None
    if beside:
        huber = fit_jobs(material, _jobs(plain, material, seeds), progress)
    # Of a fixed split the judged clips stay unseen: others will be judged by them too.
    everything = held_out.cv != "split" or options.refit == "all"
    calibrated = Calibrated(estimate, estimate, {}, {}, {})
    if options.calibrate:
        calibrated = calibrate_estimate(
            material,
            estimate,
            lambda within: _jobs(recipe, within, seeds),
            lambda within, jobs: fit_jobs(within, jobs, progress),
            unseen=not everything,
        )
    estimate, raw, marks, preferences, taus = calibrated
    own = own_scores(material, recipe, starts)
    metrics = judge(material, held_out, estimate, own, huber, every=every, raw=raw)
    for name in [axis.name for axis in clips.axes if marks or axis.name in taus]:
        metrics[name]["calibration"] = told(calibrated, name, len(folds.test))
    whole = material.bound(refit_clips(folds, clips.known, everything=everything))
    final = refit_recipes(recipe, estimate, material, whole)
    jobs = [Job(final[t], seed, 0, t) for t in targets for seed in seeds]
    refit = with_preferences(fit_jobs(whole, jobs, None), preferences)
    refuse_diverged(recipe, refit)
    return Run(material, recipe, estimate, refit, whole, marks), metrics


def _tell_passes(material: Material, recipe: Recipe) -> None:
    """Say that an epoch is several passes over the training clips, where it is."""
    entries = training_entries(material.folds, material.targets(), recipe, 0)
    notice = passes_notice(entries, recipe.batch_size)
    if notice and not recipe.head.closed and not recipe.loss.on_pairs.terms:
        logger.info(notice)


def _jobs(recipe: Recipe, material: Material, seeds: Sequence[int]) -> list[Job]:
    """Return the heads of the estimate, of folds that have something to learn from."""
    targets, rows = material.targets(), range(len(material.clips.axes))
    able = [taught(material.folds, targets, row, recipe.loss) for row in rows]
    return [
        Job(recipe, seed, int(fold), target, material.view(int(fold)))
        for target, one in enumerate(able)
        for seed in seeds
        for fold in np.flatnonzero(one)
    ]


def _material(request: TrainRequest, clips: Clips, held_out: HeldOut) -> Material:
    material = load_material(
        request.sources,
        clips,
        held_out.folds,
        request.expression,
        request.options.context,
        held_out.cv,
        text=request.recipe.head.takes_prompts,
        text_feature=request.options.text_feature,
    )
    return replace(material, modeling=request.options.modeling)


def _check_room(material: Material, recipe: Recipe, heads: int, kept: int, out: Path) -> None:
    """Refuse more heads an axis than fit in memory, or ``kept`` ones on the disk of ``out``."""
    clips = len(material.clips.rows)
    shapes = parameter_shapes(recipe.head, material.row_shape(recipe.head), (clips, 1))
    weights = sum(math.prod(shape) for shape in shapes.values())
    axes = len(material.clips.axes)
    refuse_heads(heads * axes, clips, weights)
    refuse_disk(4 * weights * kept * axes, out)


def _config(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what ``config.json`` says of the clips and the heads."""
    material, recipe = runs[0].material, runs[0].recipe
    of_axes = {
        axis.name: (run.refit, run.refit.of_target(target)[0])
        for run in runs
        for target, axis in enumerate(run.material.clips.axes)
    }
    found: dict[str, Any] = {}
    if recipe.head.kind == "ridge":
        found = {"penalty": {n: fitted.penalty[k] for n, (fitted, k) in of_axes.items()}}
    elif not recipe.head.closed:
        epochs = {n: fitted.jobs[k].recipe.epochs for n, (fitted, k) in of_axes.items()}
        found = {"refit_epochs": epochs}
    return {
        **material.origin(),
        "text_feature": material.text_feature,
        "axes": list(of_axes),
        "recipe": flat_recipe(recipe),
        **found,
        "versions": {"qamro_cache": __version__, "torch": torch.__version__},
    }


def far_clips(material: Material) -> list[npt.NDArray[np.bool_]]:
    """Tell which clips [C] are out of the distribution of each fold's training clips."""
    folds, far = material.folds, []
    for fold, held in enumerate(folds.test):
        seen, means = folds.train[fold] | folds.validation[fold], material.clip_means(fold)
        one = np.zeros(len(held), np.bool_)
        one[held] = reference_clips(means[torch.from_numpy(seen)]).is_ood(
            means[torch.from_numpy(held)]
        )
        far.append(one)
    return far


def _predictions(material: Material, fitted: Fitted) -> pd.DataFrame:
    """Return held-out predictions as rows clip_id, system, group, axis, seed, fold, ..."""
    jobs, folds, far = fitted.jobs, material.folds, far_clips(material)
    held = [np.flatnonzero(folds.test[job.fold]) for job in jobs]
    labels = material.clips.labels.mean

    def of_jobs(values: Iterable[Any]) -> list[Any]:
        """Repeat a value a job for each of its clips."""
        return [value for value, rows in zip(values, held, strict=True) for _ in rows]

    def of_rows(values: Iterable[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return np.concatenate([one[rows] for one, rows in zip(values, held, strict=True)])

    columns: dict[str, Any] = {
        "axis": of_jobs(material.clips.axes[job.target].name for job in jobs),
        "seed": of_jobs(job.seed for job in jobs),
        "fold": of_jobs(folds.names[job.fold] for job in jobs),
        "prediction": of_rows(fitted.predictions),
        "target": of_rows(labels[:, job.target] for job in jobs),
        "ood": of_rows(far[job.fold] for job in jobs),
    }
    if alone(jobs[0].recipe):
        columns["scale"] = STANDARD
    clips = material.clips.table[["clip_id", "system", "group"]]
    return clips.iloc[np.concatenate(held)].assign(**columns).reset_index(drop=True)
