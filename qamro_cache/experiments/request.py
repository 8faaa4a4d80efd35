"""What is asked of `train` and `ablate`, checked once, before torch is loaded.

Torch takes seconds to load: a mistake is answered at once. Nothing here reads features.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qamro_cache.cache.reader import Cache, CacheLike, open_cache
from qamro_cache.datasets.ids import point_out_case
from qamro_cache.datasets.records import select_axes
from qamro_cache.datasets.selection import select_rows
from qamro_cache.devices import refuse_device
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.folds import make_folds
from qamro_cache.experiments.grid import CELL, Cell, Grid, cells_of, find_grid, override
from qamro_cache.experiments.options import AblateOptions, RunOptions, TrainOptions
from qamro_cache.experiments.store import refuse_file, refuse_other_run
from qamro_cache.settings import from_options, nearest, settings_of
from qamro_cache.training.recipe import RECIPE, Recipe, checked_recipe


@dataclass(frozen=True)
class TrainRequest:
    """A run of `train` that can begin.

    Attributes:
        cache: open.
        out: folder of the run.
        options: as given.
        recipe: of every head.
        asked: everything that decides what the run comes to, as JSON types.
    """

    cache: Cache
    out: Path
    options: TrainOptions
    recipe: Recipe
    asked: dict[str, Any]


@dataclass(frozen=True)
class AblateRequest:
    """A grid that can begin.

    Attributes:
        caches: open, one an encoder.
        out: folder of the tables.
        options: as given, else as the grid suggests.
        cells: of the grid.
    """

    caches: list[Cache]
    out: Path
    options: AblateOptions
    cells: list[Cell]


def train_request(cache: CacheLike, out: str | Path, given: Mapping[str, Any]) -> TrainRequest:
    """Check what is asked of `train` against the cache's tables and the folder.

    Args:
        cache: file or files, or an open cache.
        out: folder of the run.
        given: fields of `TrainOptions` and settings of `RECIPE`.

    Raises:
        QamroError: an option cannot be right, or ``out`` holds another run.
    """
    mine, recipe_given = _split(given, TrainOptions, RECIPE)
    options: TrainOptions = from_options(TrainOptions, mine)
    recipe = checked_recipe(recipe_given)
    out = Path(out)
    refuse_file(out)
    refuse_device(options.device)
    opened = open_cache(cache)
    _check_axes(opened, options.axis, options.labels)
    opened.feature_name(options.feature)
    text = recipe.head.inputs != "audio"
    if text:
        opened.feature_name(options.text_feature, "text_features")
    _check_folds(opened, options, options.cv, text)
    _point_out_case(opened, options, {options.cv})
    decides = {**asdict(options), **{name: recipe_given[name] for name in recipe_given}}
    del decides["device"], decides["overwrite"]
    asked = {
        **decides,
        "cache": opened.content_sha256,
        "encoder": opened.identity_sha256,
        "labels": _file_sha256(options.labels),
        "init": str(options.init or ""),
    }
    asked = json.loads(json.dumps(asked))
    if not options.overwrite:
        refuse_other_run(out, asked)
    return TrainRequest(opened, out, options, recipe, asked)


def ablate_request(
    caches: CacheLike | Sequence[CacheLike],
    out: str | Path,
    grid: str | Path | Grid,
    given: Mapping[str, Any],
) -> AblateRequest:
    """Check what is asked of `ablate` as `train_request` does.

    Args:
        caches: files or open caches; those of one encoder are parts of one.
        out: folder of the tables.
        grid: the cells: a name of a grid that comes along, a TOML file, or a `Grid`.
        given: fields of `AblateOptions`, which replace the grid's own, and settings of a cell,
            each a value or a list of values.
    """
    mine, cells_given = _split(given, AblateOptions, CELL)
    found = grid if isinstance(grid, Grid) else find_grid(str(grid))
    options: AblateOptions = from_options(AblateOptions, {**found.run, **mine})
    cells = cells_of(override(found, cells_given))
    out = Path(out)
    refuse_file(out)
    refuse_device(options.device)
    if (out / "head.safetensors").exists():
        raise QamroError(f"{out} holds a run of qamro-train; name another folder for the grid")
    by_encoder = _open_by_encoder(caches)
    for cache in by_encoder:
        _check_axes(cache, options.axis, options.labels)
        for feature in {cell.feature for cell in cells}:
            cache.feature_name(feature)
    # Several caches are compared on the clips that all have, which are not known yet.
    if len(by_encoder) == 1:
        for cv, text in {(cell.cv, cell.recipe.head.inputs != "audio") for cell in cells}:
            _check_folds(by_encoder[0], options, cv, text)
    _point_out_case(by_encoder[0], options, {cell.cv for cell in cells})
    return AblateRequest(by_encoder, out, options, cells)


def _open_by_encoder(caches: CacheLike | Sequence[CacheLike]) -> list[Cache]:
    """Open the caches, those of one identity as one."""
    listed = [caches] if isinstance(caches, str | Path | Cache) else list(caches)
    groups: dict[str, list[Cache]] = {}
    for cache in map(open_cache, listed):
        groups.setdefault(cache.identity_sha256, []).append(cache)
    return [
        parts[0] if len(parts) == 1 else open_cache([path for part in parts for path in part.paths])
        for parts in groups.values()
    ]


def _split(
    given: Mapping[str, Any], options: type, others: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part what was given into fields of ``options`` and names of ``others``."""
    mine = {name: value for name, value in given.items() if name in settings_of(options)}
    rest = {name: value for name, value in given.items() if name not in mine}
    for name in rest:
        if name not in others:
            known = (*settings_of(options), *others)
            raise OptionError(f"there is no option {name!r}{nearest(name, known)}")
    return mine, rest


def _check_axes(cache: Cache, axis: Sequence[str], labels: Path | None) -> None:
    if labels is None:
        select_axes(cache.labels, axis)
    elif not labels.exists():
        raise QamroError(f"there is no label file {labels}")


def _check_folds(cache: Cache, options: RunOptions, cv: str, text: bool) -> None:
    # Labels of another file are read once, with the features.
    if options.labels is not None:
        return
    clips = cache.clips
    usable = np.isfinite(select_axes(cache.labels, options.axis).mean).any(1)
    usable &= select_rows(clips, options.only, options.without)
    usable &= (clips["status"] == "ok").to_numpy(dtype=bool)
    if text:
        usable &= (clips["prompt"] != "").to_numpy(dtype=bool)
    if not cv or not usable.any():
        return
    chosen = clips[usable].reset_index(drop=True)
    make_folds(chosen, cv, np.ones(len(chosen), np.bool_), inner=False)


def _point_out_case(cache: Cache, options: RunOptions, cv: set[str]) -> None:
    """Point out folds that may be one; what a label file names is pointed out as it is read."""
    if options.labels is None:
        for column in sorted(cv & {"system", "group"}):
            point_out_case(cache.clips[column], column, str(cache.paths[0]))


def _file_sha256(path: Path | None) -> str:
    if path is None:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
