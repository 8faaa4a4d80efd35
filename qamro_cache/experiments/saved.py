"""What a run leaves behind: its figures, its out-of-fold predictions and its heads."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from qamro_cache.datasets.axes import guess_scale
from qamro_cache.datasets.records import Axis
from qamro_cache.errors import QamroError
from qamro_cache.experiments.data import Material
from qamro_cache.experiments.fitting import Fitted
from qamro_cache.experiments.store import RUN_FILES
from qamro_cache.files import replace_folder, write_json, write_table
from qamro_cache.heads.file import save_head
from qamro_cache.heads.head import AxisHead, Head
from qamro_cache.heads.ood import reference_clips
from qamro_cache.heads.trained import trained_clips
from qamro_cache.training.inputs import Bools, Folds
from qamro_cache.training.recipe import Recipe


def save_run(
    out: Path,
    material: Material,
    recipe: Recipe,
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    predictions: pd.DataFrame,
    refit: tuple[Fitted, Folds],
    estimate: tuple[Fitted, Folds],
    keep_folds: bool,
) -> None:
    """Write a run's folder, whole: what another run left there goes in the same step.

    Args:
        out: the folder.
        material: the clips.
        recipe: of the heads.
        config: of ``config.json``, kept in the head files too.
        record: of ``metrics.json``.
        predictions: of ``predictions.csv``.
        refit: heads for ``head.safetensors``, and the one fold that they were trained on.
        estimate: heads of the folds, and the folds.
        keep_folds: whether to keep these as ``folds/*.safetensors``.
    """
    with replace_folder(out, (*RUN_FILES, "folds")) as new:
        write_json(new / "config.json", config)
        write_json(new / "metrics.json", record)
        write_table(new / "predictions.csv", predictions)
        save_head(new / "head.safetensors", _head(material, recipe, *refit, config))
        if not keep_folds:
            return
        (new / "folds").mkdir()
        for fold, name in enumerate(estimate[1].names):
            note = {**config, "held_out": str(name)}
            if not any(job.fold == fold for job in estimate[0].jobs):
                continue
            head = _head(material, recipe, *estimate, note, fold)
            save_head(new / "folds" / f"{fold}.safetensors", head)


def _head(
    material: Material,
    recipe: Recipe,
    fitted: Fitted,
    folds: Folds,
    config: Mapping[str, Any],
    fold: int = 0,
) -> Head:
    """Put the members of a fold, a seed each, into a head file's record: the axes it trained."""
    clips = material.clips
    seen = folds.train[fold] | folds.validation[fold]
    targets = sorted({job.target for job in fitted.jobs if job.fold == fold})
    learned = seen[:, None] & np.isfinite(clips.labels.mean[:, targets])
    return Head(
        recipe.head,
        material.row_shape(recipe.head),
        material.feature,
        material.text_feature,
        material.cache.identity,
        tuple(_axis_head(material, fitted, t, folds, fold) for t in targets),
        reference_clips(material.clip_means()[torch.from_numpy(seen)]),
        dict(config),
        trained_clips(clips.table, learned),
    )


def _axis(material: Material, target: int, learned: Bools) -> Axis:
    """Return an axis with the scale that its heads were trained with: a guess is their own."""
    axis = material.clips.axes[target]
    if not axis.guessed:
        return axis
    labels = material.clips.labels.mean[learned, target]
    low, high = float(np.nanmin(labels)), float(np.nanmax(labels))
    low, high = guess_scale(low, high if high > low else low + 1)
    return replace(axis, low=low, high=high)


def _axis_head(
    material: Material, fitted: Fitted, target: int, folds: Folds, fold: int
) -> AxisHead:
    """Stack the members of one axis that did not diverge."""
    where = {k: (result, row) for part, result in fitted.parts for row, k in enumerate(part)}
    jobs, axis = fitted.jobs, _axis(material, target, folds.train[fold])
    members = [
        k for k in fitted.of_target(target) if jobs[k].fold == fold and not fitted.diverged[k]
    ]
    if not members:
        raise QamroError(f"every head of axis {axis.name} diverged; lower --lr")
    first, row = where[members[0]]
    params = {
        name: torch.stack([where[k][0].params[name][where[k][1]] for k in members])
        for name in first.params
    }
    return AxisHead(
        axis,
        tuple(jobs[k].seed for k in members),
        params,
        float(first.label_mean[row]),
        float(first.label_std[row]),
        None if first.row_mean is None else first.row_mean[row],
        None if first.row_std is None else first.row_std[row],
    )
