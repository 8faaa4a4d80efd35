"""Grids: lists of values by name, multiplied out into cells; from the command line or TOML."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from qamro_cache.errors import QamroError
from qamro_cache.training.recipe import Recipe, Settings, make_recipe

#: What a cell may name beside a recipe's settings: the feature of the cache, how many ratings of
#: each clip the training labels are averaged from (0: all), and how clips are held out.
OWN_NAMES = ("feature", "raters", "cv")

_RUN_NAMES = ("seeds", "cv", "stop", "axis")


@dataclass(frozen=True)
class Grid:
    """A set of cells.

    Attributes:
        values: name -> the values to multiply out; names of `Settings` and OWN_NAMES.
        cells: further cells, each name -> value, on top of ``settings``.
        settings: what all cells share.
        run: ``seeds``, ``cv``, ``stop`` and ``axis`` as the file suggests them.
    """

    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    cells: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        names: what the cell sets, as it stands in the tables.
        recipe: how its heads are trained.
        feature: of the cache; empty for its first.
        raters: ratings a clip behind the training labels; 0 for all.
        cv: as in `train`; empty for the run's.
    """

    names: Mapping[str, Any]
    recipe: Recipe
    feature: str = ""
    raters: int = 0
    cv: str = ""


def read_grid(path: Path) -> Grid:
    """Read a grid file: tables ``[grid]`` (lists), ``[settings]``, ``[[cells]]``, and run names.

    Raises:
        QamroError: the file is missing, no TOML, or has a name that means nothing.
    """
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise QamroError(f"there is no grid file {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise QamroError(f"{path}: {error}") from error
    allowed = {"grid", "settings", "cells", "about", *_RUN_NAMES}
    for name in record:
        if name not in allowed:
            raise QamroError(f"{path}: {name!r} is not one of {', '.join(sorted(allowed))}")
    values = {
        name: value if isinstance(value, list) else [value]
        for name, value in record.get("grid", {}).items()
    }
    run = {name: record[name] for name in _RUN_NAMES if name in record}
    return Grid(values, record.get("cells", []), record.get("settings", {}), run)


def override(grid: Grid, given: Mapping[str, Sequence[Any]]) -> Grid:
    """Return the grid with a command line's values in place of its own; one value is a setting."""
    values = {name: value for name, value in grid.values.items() if name not in given}
    values |= {name: value for name, value in given.items() if len(value) > 1}
    settings = dict(grid.settings) | {
        name: value[0] for name, value in given.items() if len(value) == 1
    }
    return Grid(values, grid.cells, settings, grid.run)


def cells_of(grid: Grid) -> list[Cell]:
    """Multiply a grid out, in the order in which its names stand, the last changing fastest.

    A study of the batch size draws each seed's own full batches unless ``batches`` is set: in
    shared ones a fold's held-out clips would make them smaller.

    Raises:
        QamroError: a name or value that means nothing, or a cell twice.
    """
    for name, value in grid.values.items():
        if not value:
            raise QamroError(f"the grid has no values for {name}")
    shared = dict(grid.settings)
    if len(grid.values.get("batch_size", ())) > 1:
        shared.setdefault("batches", "own")
    cells = [
        dict(zip(grid.values, combination, strict=True))
        for combination in product(*grid.values.values())
    ]
    made = [_cell(shared, cell) for cell in [*cells, *map(dict, grid.cells)]]
    seen: list[tuple[Recipe, str, int, str]] = []
    for cell in made:
        what = (cell.recipe, cell.feature, cell.raters, cell.cv)
        if what in seen:
            raise QamroError(f"the grid has a cell twice: {label(cell.names)}")
        seen.append(what)
    return made


def label(names: Mapping[str, Any]) -> str:
    """Return a cell's names on one line."""
    return ", ".join(f"{name}={value}" for name, value in names.items()) or "defaults"


def _cell(shared: Mapping[str, Any], own: Mapping[str, Any]) -> Cell:
    everything = {**shared, **own}
    feature, raters = everything.pop("feature", ""), everything.pop("raters", 0)
    cv = str(everything.pop("cv", ""))
    for name, value in everything.items():
        if name not in Settings.__annotations__:
            raise QamroError(f"the grid sets {name!r}, which is no setting")
        if isinstance(value, list):
            everything[name] = tuple(value)
    try:
        recipe = make_recipe(**everything)
    except (ValueError, TypeError) as error:
        raise QamroError(f"cell {label(own)}: {error}") from error
    if not isinstance(raters, int) or raters < 0:
        raise QamroError(f"raters must be a number of ratings, 0 for all, got {raters!r}")
    names = {name: _shown(value) for name, value in own.items()}
    return Cell(names, recipe, str(feature), raters, cv)


def _shown(value: Any) -> Any:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else value
