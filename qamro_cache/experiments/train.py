"""Train heads on a cache: estimate by held-out clips, then refit on everything and save."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from qamro_cache import __version__
from qamro_cache.cache.reader import Cache
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.baselines import ridge, train_mean
from qamro_cache.evaluation.score import json_text, score, warn_of_small_numbers
from qamro_cache.experiments.data import Material, load_material
from qamro_cache.experiments.early import check_train
from qamro_cache.experiments.files import write_text
from qamro_cache.experiments.folds import all_clips, default_cv, make_folds, wants_inner
from qamro_cache.heads.file import AxisHead, Head, save_head
from qamro_cache.heads.network import Architecture, input_width, prepare_rows
from qamro_cache.heads.ood import reference_clips
from qamro_cache.heads.pooling import clip_of_window, mean_rows
from qamro_cache.heads.published import published_start
from qamro_cache.training.fit import ProgressCallback, fit
from qamro_cache.training.inputs import Bools, Folds
from qamro_cache.training.recipe import (
    Job,
    Recipe,
    Settings,
    checked_recipe,
    flat_settings,
)
from qamro_cache.training.result import Result
from qamro_cache.training.schedule import passes_notice, passes_per_epoch

logger = logging.getLogger("qamro_cache")


@dataclass(frozen=True)
class Fitted:
    """What `fit_all` puts together from the chunks, in the order of the jobs.

    Attributes:
        predictions: [J, C] in label units, NaN for a diverged head.
        best_epoch: [J].
        diverged: [J].
        parts: the chunks, for their parameters.
    """

    predictions: npt.NDArray[np.float64]
    best_epoch: npt.NDArray[np.int64]
    diverged: Bools
    parts: list[tuple[list[int], Result]]


def train(
    caches: str | Path | Sequence[str | Path] | Cache,
    out: str | Path,
    *,
    axis: Sequence[str] = (),
    labels: Path | None = None,
    feature: str = "",
    text_feature: str = "",
    seeds: int = 5,
    cv: str = "",
    stop: str = "",
    save_folds: bool = False,
    init: Path | None = None,
    device: str = "",
    precision: str = "float32",
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    **settings: Unpack[Settings],
) -> dict[str, Any]:
    """Train heads on a cache's clips, say how good they are, and save one to predict with.

    Held-out clips only estimate; the saved head is trained on all clips, for the median of the
    epochs that the estimate's heads were trained for, one member a seed.

    Args:
        caches: cache file or files, or an open cache.
        out: folder for ``config.json``, ``metrics.json``, ``predictions.csv`` and
            ``head.safetensors``. A run of the same cache and arguments is replaced.
        axis: axes to train for, each with heads of its own; empty for all.
        labels: a label file in place of the cache's labels.
        feature: of the cache; empty for the encoder's first.
        text_feature: of the prompts; empty for the encoder's first.
        seeds: how many heads of different initialization.
        cv: ``system``, ``group``, ``prompt``, a number of folds, or ``split``; empty: the split
            column if it has train and something else, else groups, else 5 folds.
        stop: ``inner``: stop on a part of the training clips; ``fixed``: train for ``epochs``.
            Empty: ``inner`` where the split has its own dev clips, else ``fixed``.
        save_folds: keep the heads of each fold too, as ``folds/*.safetensors``.
        init: checkpoint of the published Audiobox model to start an ``audiobox`` head from.
        device: torch device; empty: a GPU if there is one.
        precision: see `fit`.
        overwrite: replace the folder's run, whatever it was made from.
        progress: see `fit`.
        settings: of the recipe, see `make_recipe`.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        QamroError: the cache, the labels or the settings cannot be used, or ``out`` holds a
            run of other settings.
    """
    out = Path(out)
    cache, asked = check_train(
        caches,
        out,
        axis=axis,
        labels=labels,
        feature=feature,
        text_feature=text_feature,
        seeds=seeds,
        cv=cv,
        stop=stop,
        save_folds=save_folds,
        init=init,
        precision=precision,
        overwrite=overwrite,
        settings=settings,
    )
    recipe = checked_recipe(settings)
    text = recipe.head.inputs != "audio"
    material = load_material(
        cache, axes=axis, labels=labels, feature=feature, text=text, text_feature=text_feature
    )
    starts: dict[int, Mapping[str, torch.Tensor]] = {}
    if init is not None:
        head, starts = published_start(init, material.axes, recipe.head)
        recipe = replace(recipe, head=head)
    check_head(recipe.head, material)
    known = np.isfinite(material.labels.mean).any(1)
    cv = cv or default_cv(material.clips, known)
    inner = wants_inner(cv, stop)
    folds, question = make_folds(material.clips, cv, known, inner=inner)
    warn_of_small_sets(material, folds)
    notice = passes_notice(int(folds.train.sum(1).min()), recipe.batch_size)
    if notice:
        logger.info(notice)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    jobs = [
        Job(recipe, seed, fold, target)
        for target in range(len(material.axes))
        for seed in range(seeds)
        for fold in range(len(folds.train))
    ]
    fitted = fit_all(material, folds, jobs, starts, device, precision, progress)
    held_out = pool_folds(fitted.predictions, jobs, folds)
    metrics = _metrics(material, folds, fitted, jobs, held_out)
    everything = all_clips(known)
    final = [
        Job(_refit_recipe(recipe, fitted, jobs, target, folds, known), seed, 0, target)
        for target in range(len(material.axes))
        for seed in range(seeds)
    ]
    refit = fit_all(material, everything, final, starts, device, precision, None)
    if refit.diverged.any():
        raise QamroError(
            f"{int(refit.diverged.sum())} of {len(final)} heads diverged on all clips; "
            f"lower --lr (now {recipe.lr:g})"
        )
    config = {
        "dataset": material.dataset,
        "synthetic": material.synthetic,
        "encoder": material.encoder,
        "identity_sha256": material.identity_sha256,
        "feature": material.feature,
        "text_feature": material.text_feature,
        "axes": [item.name for item in material.axes],
        "seeds": seeds,
        "cv": cv,
        "stop": "inner" if inner else "fixed",
        "recipe": flat_settings(recipe),
        "refit_epochs": {material.axes[job.target].name: job.recipe.epochs for job in final},
        "versions": {"qamro_cache": __version__, "torch": torch.__version__},
        "device": device,
        "precision": precision,
        "asked": asked,
    }
    record = {
        "dataset": material.dataset,
        "synthetic": material.synthetic,
        "encoder": material.encoder,
        "feature": material.feature,
        "split": question,
        "axes": metrics,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.json", json_text(config))
    write_text(out / "metrics.json", json_text(record))
    _predictions(material, folds, jobs, fitted).to_csv(out / "predictions.csv", index=False)
    save_head(out / "head.safetensors", _head(material, recipe, final, refit, config))
    for stale in (out / "folds").glob("*.safetensors"):
        stale.unlink()
    if save_folds:
        (out / "folds").mkdir(exist_ok=True)
        for fold, name in enumerate(folds.names):
            path = out / "folds" / f"{fold}.safetensors"
            note = {**config, "held_out": str(name)}
            save_head(path, _head(material, recipe, jobs, fitted, note, fold))
    return record


def warn_of_small_sets(material: Material, folds: Folds) -> None:
    """Log where the held-out clips are too few, or too much alike, for figures that mean much."""
    judged = folds.test.any(0)
    for index, axis in enumerate(material.axes):
        target = np.where(judged, material.labels.mean[:, index], np.nan)
        warn_of_small_numbers(axis.name, target, material.systems())


def check_head(head: Architecture, material: Material) -> None:
    """Refuse a head that does not take the feature."""
    text = material.features.text
    try:
        input_width(head, material.features.windows.shape[1:], 0 if text is None else text.shape[1])
    except ValueError as error:
        raise QamroError(f"feature {material.feature!r}: {error}") from error


def fit_all(
    material: Material,
    folds: Folds,
    jobs: Sequence[Job],
    starts: Mapping[int, Mapping[str, torch.Tensor]],
    device: str,
    precision: str,
    progress: ProgressCallback | None,
) -> Fitted:
    """Run `fit` to the end and put its chunks together."""
    clips = len(material.clips)
    predictions = np.full((len(jobs), clips), np.nan)
    best = np.zeros(len(jobs), np.int64)
    diverged = np.zeros(len(jobs), np.bool_)
    parts = []
    try:
        for where, result in fit(
            material.features,
            material.targets(),
            folds,
            jobs,
            device=device,
            precision=precision,
            initial=starts,
            progress=progress,
        ):
            predictions[where] = result.predictions.double().numpy()
            best[where] = result.best_epoch.numpy()
            diverged[where] = result.diverged.numpy()
            parts.append((where, result))
    except ValueError as error:
        raise QamroError(str(error)) from error
    if diverged.any():
        logger.warning("%d of %d heads diverged; lower --lr", int(diverged.sum()), len(jobs))
    return Fitted(predictions, best, diverged, parts)


def pool_folds(
    predictions: npt.NDArray[np.float64], jobs: Sequence[Job], folds: Folds
) -> dict[tuple[int, int], npt.NDArray[np.float64]]:
    """Put each seed's held-out predictions of all folds together: (target, seed) -> [C]."""
    pooled: dict[tuple[int, int], npt.NDArray[np.float64]] = {}
    for job, row in zip(jobs, predictions, strict=True):
        blank = np.full(predictions.shape[1], np.nan)
        held = pooled.setdefault((job.target, job.seed), blank)
        held[folds.test[job.fold]] = row[folds.test[job.fold]]
    return pooled


def clip_vectors(material: Material) -> npt.NDArray[np.float64]:
    """Return one vector a clip [C, D] for baselines: its windows' mean, with the prompt's."""
    windows, offsets, weights, text = material.features
    values = mean_rows(windows.flatten(1), clip_of_window(offsets), weights, len(material.clips))
    return (values if text is None else torch.cat([values, text], 1)).double().numpy()


def _metrics(
    material: Material,
    folds: Folds,
    fitted: Fitted,
    jobs: Sequence[Job],
    held_out: Mapping[tuple[int, int], npt.NDArray[np.float64]],
) -> dict[str, Any]:
    """Score the heads and the baselines on the same held-out clips, axis by axis."""
    test, learned = folds.test.any(0), folds.train | folds.validation
    systems = material.systems()
    vectors = clip_vectors(material)
    metrics: dict[str, Any] = {}
    for target, axis in enumerate(material.axes):
        y = np.where(test, material.labels.mean[:, target], np.nan)
        heads = np.stack([p for (t, _), p in held_out.items() if t == target])
        truth = material.labels.mean[:, target]
        models = {
            "qamro head": heads,
            "ridge": ridge(vectors, truth, learned, folds.test)[None],
            "train mean": train_mean(truth, learned, folds.test)[None],
        }
        mine = [k for k, job in enumerate(jobs) if job.target == target]
        metrics[axis.name] = {
            "range": [axis.low, axis.high],
            "models": {name: score(pred, y, systems) for name, pred in models.items()},
            "folds": len(folds.train),
            "diverged": int(fitted.diverged[mine].sum()),
            "median_epoch": float(np.median(fitted.best_epoch[mine])),
        }
    return metrics


def _refit_recipe(
    recipe: Recipe, fitted: Fitted, jobs: Sequence[Job], target: int, folds: Folds, known: Bools
) -> Recipe:
    """Return the recipe for all clips: as many steps as the folds' heads took at the median."""
    mine = [k for k, job in enumerate(jobs) if job.target == target and not fitted.diverged[k]]
    if not mine:
        raise QamroError(f"every head diverged; lower --lr (now {recipe.lr:g})")

    def steps(clips: int) -> int:
        return passes_per_epoch(clips, recipe.batch_size) * -(-clips // recipe.batch_size)

    pool = folds.train.any(0) if recipe.batches == "shared" else folds.train[0]
    wanted = float(np.median(fitted.best_epoch[mine])) * steps(int(pool.sum()))
    epochs = max(1, round(wanted / steps(int(known.sum()))))
    return replace(recipe, epochs=epochs)


def _head(
    material: Material,
    recipe: Recipe,
    jobs: Sequence[Job],
    fitted: Fitted,
    config: Mapping[str, Any],
    fold: int = 0,
) -> Head:
    """Put the members of a fold, a seed each, into a head file's record."""
    where = {k: (result, row) for part, result in fitted.parts for row, k in enumerate(part)}
    axes = []
    for target, axis in enumerate(material.axes):
        members = [k for k, job in enumerate(jobs) if (job.target, job.fold) == (target, fold)]
        members = [k for k in members if not fitted.diverged[k]]
        if not members:
            raise QamroError(f"every head of axis {axis.name} diverged; lower --lr")
        first, row = where[members[0]]
        params = {
            name: torch.stack([where[k][0].params[name][where[k][1]] for k in members])
            for name in first.params
        }
        standardized = first.row_mean is not None and first.row_std is not None
        axes.append(
            AxisHead(
                axis,
                tuple(jobs[k].seed for k in members),
                params,
                float(first.label_mean[row]),
                float(first.label_std[row]),
                first.row_mean[row] if standardized and first.row_mean is not None else None,
                first.row_std[row] if standardized and first.row_std is not None else None,
            )
        )
    windows, offsets, weights, _ = material.features
    shape = _row_shape(material, recipe.head)
    clips = mean_rows(windows.flatten(1), clip_of_window(offsets), weights, len(material.clips))
    return Head(
        recipe.head,
        shape,
        material.feature,
        material.text_feature,
        material.identity,
        tuple(axes),
        reference_clips(clips),
        dict(config),
    )


def _row_shape(material: Material, head: Architecture) -> tuple[int, ...]:
    windows, offsets, weights, text = material.features
    few = int(offsets[1])
    one = None if text is None else text[:1]
    rows = prepare_rows(head, windows[:few], offsets[:2], weights[:few], one)
    return tuple(rows.values.shape[1:])


def _predictions(
    material: Material, folds: Folds, jobs: Sequence[Job], fitted: Fitted
) -> pd.DataFrame:
    """Return held-out predictions as rows clip_id, system, group, axis, seed, fold, ..."""
    tables = []
    for job, row in zip(jobs, fitted.predictions, strict=True):
        held = np.flatnonzero(folds.test[job.fold])
        chosen = material.clips.iloc[held]
        tables.append(
            pd.DataFrame(
                {
                    "clip_id": chosen["clip_id"].to_numpy(),
                    "system": chosen["system"].to_numpy(),
                    "group": chosen["group"].to_numpy(),
                    "axis": material.axes[job.target].name,
                    "seed": job.seed,
                    "fold": folds.names[job.fold],
                    "prediction": row[held],
                    "target": material.labels.mean[held, job.target],
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
