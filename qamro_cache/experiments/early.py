"""What can be refused before torch is loaded, which takes seconds: a mistake is answered at once.

A command calls this before it imports the training, which calls it again for those who come from
Python; nothing here reads features.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qamro_cache.cache.reader import Cache, open_cache
from qamro_cache.datasets.records import select_axes
from qamro_cache.errors import QamroError
from qamro_cache.experiments.files import refuse_file, refuse_other_run
from qamro_cache.experiments.folds import make_folds
from qamro_cache.experiments.grid import Grid, cells_of
from qamro_cache.training.recipe import Settings, checked_recipe

Caches = str | Path | Sequence[str | Path]


def check_train(
    caches: Caches | Cache,
    out: Path,
    *,
    axis: Sequence[str],
    labels: Path | None,
    feature: str,
    text_feature: str,
    seeds: int,
    cv: str,
    stop: str,
    save_folds: bool,
    init: Path | None,
    precision: str,
    overwrite: bool,
    settings: Settings,
) -> tuple[Cache, dict[str, Any]]:
    """Check the arguments of `train` (they mean what they mean there) against the cache's tables.

    Returns:
        The open cache, and everything that decides what the run comes to, as JSON types.

    Raises:
        QamroError: an argument cannot be right, or ``out`` holds another run.
    """
    _check_seeds(seeds)
    refuse_file(out)
    cache = caches if isinstance(caches, Cache) else open_cache(caches)
    _check_choice(cache, axis, labels, feature)
    text = checked_recipe(settings).head.inputs != "audio"
    if text:
        cache.feature_name(text_feature, "text_features")
    _check_folds(cache, axis, labels, cv, text)
    asked = {
        "cache": cache.content_sha256,
        "encoder": cache.identity_sha256,
        "axis": axis,
        "labels": _file_sha256(labels),
        "feature": feature,
        "text_feature": text_feature,
        "seeds": seeds,
        "cv": cv,
        "stop": stop,
        "save_folds": save_folds,
        "init": str(init or ""),
        "precision": precision,
        **settings,
    }
    asked = json.loads(json.dumps(asked))
    if not overwrite:
        refuse_other_run(out, asked)
    return cache, asked


def check_ablate(
    caches: Caches | Sequence[Cache],
    out: Path,
    *,
    grid: Grid,
    axis: Sequence[str],
    labels: Path | None,
    seeds: int,
    cv: str,
) -> list[Cache]:
    """Check the arguments of `ablate` as `check_train` does; return its caches, one an encoder."""
    _check_seeds(seeds)
    refuse_file(out)
    if (out / "head.safetensors").exists():
        raise QamroError(f"{out} holds a run of qamro-train; name another folder for the grid")
    by_encoder = _open_by_encoder(caches)
    for cache in by_encoder:
        _check_choice(cache, axis, labels, "")
    for cell in cells_of(grid):
        text = cell.recipe.head.inputs != "audio"
        for cache in by_encoder:
            cache.feature_name(cell.feature)
        # Several caches are compared on the clips that all have, which are not known yet.
        if len(by_encoder) == 1:
            _check_folds(by_encoder[0], axis, labels, cell.cv or cv, text)
    return by_encoder


def _check_seeds(seeds: int) -> None:
    if seeds < 1:
        raise QamroError(f"seeds must be at least 1, got {seeds}")


def _open_by_encoder(caches: Caches | Sequence[Cache]) -> list[Cache]:
    """Open the caches, those of one identity as one."""
    listed = [caches] if isinstance(caches, str | Path) else list(caches)
    opened = [one if isinstance(one, Cache) else open_cache(one) for one in listed]
    groups: dict[str, list[Cache]] = {}
    for cache in opened:
        groups.setdefault(cache.identity_sha256, []).append(cache)
    return [
        parts[0] if len(parts) == 1 else open_cache([path for part in parts for path in part.paths])
        for parts in groups.values()
    ]


def _check_choice(cache: Cache, axis: Sequence[str], labels: Path | None, feature: str) -> None:
    cache.feature_name(feature)
    if labels is None:
        select_axes(cache.labels, axis)
    elif not labels.exists():
        raise QamroError(f"there is no label file {labels}")


def _check_folds(
    cache: Cache, axis: Sequence[str], labels: Path | None, cv: str, text: bool
) -> None:
    # Labels of another file are read once, with the features.
    if not cv or labels is not None:
        return
    clips = cache.clips
    usable = np.isfinite(select_axes(cache.labels, axis).mean).any(1)
    usable &= (clips["status"] == "ok").to_numpy(dtype=bool)
    if text:
        usable &= (clips["prompt"] != "").to_numpy(dtype=bool)
    if not usable.any():
        return
    chosen = clips[usable].reset_index(drop=True)
    make_folds(chosen, cv, np.ones(len(chosen), np.bool_), inner=False)


def _file_sha256(path: Path | None) -> str:
    if path is None:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
