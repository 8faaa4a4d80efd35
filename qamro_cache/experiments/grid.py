"""Grids: lists of values by name, multiplied out into cells; from the command line or TOML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from qamro_cache.datasets.toml import read_toml
from qamro_cache.errors import QamroError
from qamro_cache.experiments.options import AblateOptions, Reads
from qamro_cache.losses.terms import PARAMETERS, parse_loss
from qamro_cache.settings import Setting, check_settings, nearest, setting, settings_of
from qamro_cache.training.recipe import DEFAULT_LOSS, RECIPE, Recipe, make_recipe

#: What a grid file may say of the run, beside its cells; options of `ablate` all but ``cv``.
_RUN_NAMES = ("seeds", "stop", "axis")


@dataclass(frozen=True, kw_only=True)
class Cell(Reads):
    """One cell.

    Attributes:
        names: what the cell sets, as it stands in the tables.
        recipe: how its heads are trained.
    """

    names: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    raters: int = setting(
        0, "Ratings a clip behind the training labels, 0 for all.", low=0, high=1_000_000
    )

    def __post_init__(self) -> None:
        check_settings(self)


#: Everything that a cell may set, by name.
CELL: Mapping[str, Setting] = {**RECIPE, **settings_of(Cell)}


@dataclass(frozen=True)
class Grid:
    """A set of cells.

    Attributes:
        values: name -> the values to multiply out; names of `CELL`.
        cells: further cells, each name -> value, on top of ``settings``.
        settings: what all cells share. A loss parameter goes to the cells whose loss takes it.
        run: ``seeds``, ``stop`` and ``axis`` as the file suggests them.
    """

    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    cells: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


def find_grid(name: str) -> Grid:
    """Read a grid file, or the grid of that name that comes along; empty: a grid of one cell.

    Raises:
        QamroError: there is neither, or the file is no grid.
    """
    if not name:
        return Grid()
    path, shipped = Path(name), shipped_grids()
    if not path.exists() and name not in shipped:
        raise QamroError(
            f"--grid {name}: there is no such file, and no grid of that name; "
            f"there are: {', '.join(shipped)}"
        )
    return read_grid(path if path.exists() else shipped[name])


def shipped_grids() -> dict[str, Path]:
    """Return the grids that come along: name -> file."""
    from importlib.resources import files

    folder = Path(str(files("qamro_cache_data"))) / "grids"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_grid(path: Path) -> Grid:
    """Read a grid file: tables ``[grid]`` (lists), ``[settings]``, ``[[cells]]``, and run names.

    Raises:
        QamroError: the file is missing, no TOML, or has a name that means nothing.
    """
    record = read_toml(path)
    allowed = ("about", "grid", "settings", "cells", "cv", *_RUN_NAMES)
    _names(record, allowed, f"{path}")
    values = _table(record, "grid", path)
    settings = _table(record, "settings", path)
    cells = record.get("cells", [])
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise QamroError(f"{path}: cells must be tables, [[cells]]")
    for table in (values, settings, *cells):
        _names(table, tuple(CELL), f"{path}")
    if "cv" in record:
        settings = {"cv": record["cv"], **settings}
    declared = settings_of(AblateOptions)
    try:
        run = {name: declared[name].check(record[name]) for name in _RUN_NAMES if name in record}
    except ValueError as error:
        raise QamroError(f"{path}: {error}") from error
    return Grid({n: _listed(CELL[n], v) for n, v in values.items()}, cells, settings, run)


def _table(record: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = record.get(name, {})
    if not isinstance(table, dict):
        raise QamroError(f"{path}: {name} must be a table, [{name}]")
    return table


def _names(table: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for name in table:
        if name not in allowed:
            like = nearest(name, allowed) or f"; there are: {', '.join(allowed)}"
            raise QamroError(f"{where}: there is no setting {name!r}{like}")


def _listed(declared: Setting, value: Any) -> list[Any]:
    """Return values as a list; a single one, or a single tuple of widths, is a list of one."""
    if not isinstance(value, list | tuple):
        return [value]
    if declared.several and not any(isinstance(item, list | tuple) for item in value):
        return [list(value)]
    return list(value)


def override(grid: Grid, given: Mapping[str, Any]) -> Grid:
    """Return the grid with other values in place of its own; one value is a setting.

    Args:
        grid: of a file.
        given: name of `CELL` -> a value, or a list of values.
    """
    lists = {name: _listed(CELL[name], value) for name, value in given.items()}
    values = {name: value for name, value in grid.values.items() if name not in lists}
    values |= {name: value for name, value in lists.items() if len(value) != 1}
    single = {name: value[0] for name, value in lists.items() if len(value) == 1}
    return Grid(values, grid.cells, {**grid.settings, **single}, grid.run)


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
    own = [
        dict(zip(grid.values, combination, strict=True))
        for combination in product(*grid.values.values())
    ]
    own += map(dict, grid.cells)
    cells = [_cell(shared, one) for one in own]
    _refuse_doubles(cells)
    for name in set(shared) & set(PARAMETERS):
        if not any(cell.recipe.loss.takes(name) for cell in cells):
            raise QamroError(f"no loss of the grid has a parameter {name}")
    return cells


def _refuse_doubles(cells: Sequence[Cell]) -> None:
    seen = set()
    for cell in cells:
        what = (cell.recipe, cell.feature, cell.raters, cell.cv)
        if what in seen:
            raise QamroError(f"the grid has a cell twice: {label(cell.names)}")
        seen.add(what)


def label(names: Mapping[str, Any]) -> str:
    """Return a cell's names on one line."""
    return ", ".join(f"{name}={value}" for name, value in names.items()) or "defaults"


def _cell(shared: Mapping[str, Any], own: Mapping[str, Any]) -> Cell:
    """Make a cell of its own values on top of the shared ones."""
    try:
        given = {name: CELL[name].check(value) for name, value in {**shared, **own}.items()}
        loss = parse_loss(given.get("loss", DEFAULT_LOSS))
        # What all share is for those that have a use for it; what a cell sets itself it must take.
        for name in set(PARAMETERS) & set(shared) - set(own):
            if not loss.takes(name):
                del given[name]
        reads = {name: given.pop(name) for name in settings_of(Cell) if name in given}
        recipe = make_recipe(given)
    except ValueError as error:
        raise QamroError(f"cell {label(own)}: {error}") from error
    names = {n: CELL[n].show(v) if CELL[n].several else v for n, v in own.items()}
    return Cell(names=names, recipe=recipe, **reads)
