"""Grids: lists of values by name, multiplied out into cells; from the command line or TOML."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from qamro_cache.datasets.options import RaterOptions
from qamro_cache.datasets.toml import read_toml
from qamro_cache.errors import QamroError, nearest, quoted, unknown
from qamro_cache.experiments.options import AblateOptions, Reads
from qamro_cache.heads.architecture import CLOSED
from qamro_cache.losses.terms import PARAMETERS
from qamro_cache.paths import PathLike, as_path
from qamro_cache.settings import Setting, check_settings, setting, settings_of
from qamro_cache.training.recipe import RECIPE, Recipe, huber_alone, make_recipe

#: What a grid file may say of the run, beside its cells; options of `ablate` all but ``cv``.
_RUN_NAMES = ("seeds", "stop", "axis")


#: Most cells of a grid: they are kept in memory, and compared with one another.
MAX_CELLS = 10_000
_ALL = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Cell(RaterOptions, Reads):
    """One cell.

    Attributes:
        names: what the cell sets, as it stands in the tables.
        recipe: how its heads are trained.
    """

    names: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    clips: int = setting(0, "Clips that a fold's heads learn from, 0 for all.", low=0, high=_ALL)
    systems: int = setting(0, "Systems that these are from, 0 for all.", low=0, high=_ALL)
    raters: int = setting(
        0, "Ratings a clip behind the training labels, 0 for all.", low=0, high=_ALL
    )
    calibrate: int = setting(
        0,
        "Labeled clips of --onto through which a line brings scores to its scale, 0: none.",
        low=0,
        high=_ALL,
    )

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def what(self) -> tuple[Any, ...]:
        """All but the names: two cells of the same are one."""
        reads = (
            self.feature,
            self.context,
            self.cv,
            self.clips,
            self.systems,
            self.raters,
            self.calibrate,
            self.modeling,
        )
        return (self.recipe, *reads)


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


def find_grid(name: PathLike) -> Grid:
    """Read a grid file, or the grid of that name that comes along; empty: a grid of one cell.

    Raises:
        OptionError: there is neither.
        QamroError: the file is no grid.
    """
    if not name:
        return Grid()
    path, shipped = as_path(name, "a grid"), shipped_grids()
    name = str(name)
    if not path.exists() and name not in shipped:
        raise unknown("there is no such file, and no grid", name, tuple(shipped))
    return read_grid(path if path.exists() else shipped[name])


def shipped_grids() -> dict[str, Path]:
    """Return the grids that come along: name -> file."""
    from importlib.resources import files

    folder = Path(str(files("qamro_cache_data"))) / "grids"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_grid(path: PathLike) -> Grid:
    """Read a grid file: tables ``[grid]`` (lists), ``[settings]``, ``[[cells]]``, and run names.

    Raises:
        QamroError: one line with the file: it is missing, no TOML, or has a name or a value that
            means nothing.
    """
    path = as_path(path, "a grid")
    if not path.exists():
        raise QamroError(f"there is no grid file {path}")
    record = read_toml(path)
    try:
        return _grid_of(record)
    except (ValueError, QamroError) as error:
        raise QamroError(f"{path}: {error}") from error


def _grid_of(record: Mapping[str, Any]) -> Grid:
    _names(record, ("about", "grid", "settings", "cells", "cv", *_RUN_NAMES))
    values, settings = record.get("grid", {}), record.get("settings", {})
    cells = record.get("cells", [])
    for name, table in (("grid", values), ("settings", settings)):
        if not isinstance(table, dict):
            raise QamroError(f"{name} must be a table, [{name}]")
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise QamroError("cells must be tables, [[cells]]")
    if "cv" in record:
        settings = {"cv": record["cv"], **settings}
    declared = settings_of(AblateOptions)
    run = {name: declared[name].check(record[name]) for name in _RUN_NAMES if name in record}
    grid = Grid(values, cells, settings, run)
    cells_of(grid)
    return grid


def _names(table: Mapping[str, Any], allowed: Sequence[str]) -> None:
    for name in table:
        if name not in allowed:
            like = nearest(name, allowed) or f"; there are: {', '.join(allowed)}"
            raise QamroError(f"there is no setting {quoted(name)}{like}")


def listed(declared: Setting, value: Any) -> list[Any]:
    """Return values as a list; a single one, or a single tuple of widths, is a list of one."""
    if not isinstance(value, list | tuple):
        return [value]
    # A text is a value of its own: ``widths=["256-64", "8"]``.
    if declared.several and not any(isinstance(item, list | tuple | str) for item in value):
        return [list(value)]
    return list(value)


def override(grid: Grid, given: Mapping[str, Any]) -> Grid:
    """Return the grid with other values in place of its own; one value is a setting.

    Args:
        grid: of a file.
        given: name of `CELL` -> a value, or a list of values. They replace what ``[grid]``,
            ``[settings]`` and ``[[cells]]`` say of the name.
    """
    lists = {name: listed(CELL[name], value) for name, value in given.items()}

    def rest(table: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in table.items() if name not in lists}

    many = {name: value for name, value in lists.items() if len(value) != 1}
    single = {name: value[0] for name, value in lists.items() if len(value) == 1}
    cells = [rest(cell) for cell in grid.cells]
    return Grid({**rest(grid.values), **many}, cells, {**rest(grid.settings), **single}, grid.run)


def cells_of(grid: Grid) -> list[Cell]:
    """Multiply a grid out, in the order in which its names stand, the last changing fastest.

    A study of the batch size draws each seed's own full batches unless ``batches`` is set: in
    shared ones a fold's held-out clips would make them smaller.

    Raises:
        QamroError: a name or value that means nothing, or a cell twice.
    """
    for table in (grid.values, grid.settings, *grid.cells):
        _names(table, tuple(CELL))
    values = {name: listed(CELL[name], value) for name, value in grid.values.items()}
    for name, value in values.items():
        if not value:
            raise QamroError(f"the grid has no values for {name}")
    _refuse_number(math.prod(map(len, values.values())) + len(grid.cells))
    shared = dict(grid.settings)
    if len(values.get("batch_size", ())) > 1:
        shared.setdefault("batches", "own")
    own: list[dict[str, Any]] = []
    if values or not grid.cells:
        products = product(*values.values())
        own = [dict(zip(values, combination, strict=True)) for combination in products]
    own += map(dict, grid.cells)
    cells = [_cell(shared, one) for one in own]
    refuse_cells(cells)
    for name in sorted(set(shared) & set(RECIPE)):
        if not any(cell.recipe.takes(name) for cell in cells):
            if all(cell.recipe.head.closed for cell in cells):
                kinds = " or ".join(dict.fromkeys(cell.recipe.head.kind for cell in cells))
                raise QamroError(f"a {kinds} head takes no {name}")
            if all(cell.recipe.head.output == "gaussian" for cell in cells):
                raise QamroError(f"a gaussian head is trained by its likelihood: no {name}")
            raise QamroError(f"no loss of the grid has a parameter {name}")
    return cells


def with_huber_alone(cells: Sequence[Cell]) -> list[Cell]:
    """Add each kind of trained head with the Huber loss alone, where the grid has it not."""
    found = {cell.what: cell for cell in cells}
    for cell in cells:
        recipe = huber_alone(cell.recipe)
        names = {n: v for n, v in cell.names.items() if n not in (*PARAMETERS, "loss")}
        if "output" in names:
            names["output"] = recipe.head.output
        plain = replace(cell, names={**names, "loss": str(recipe.loss)}, recipe=recipe)
        if not cell.recipe.head.closed:
            found.setdefault(plain.what, plain)
    return list(found.values())


def _refuse_number(cells: int) -> None:
    if cells > MAX_CELLS:
        raise QamroError(f"the grid has {cells:,} cells; at most {MAX_CELLS:,} go together")


def refuse_cells(cells: Sequence[Cell]) -> None:
    """Refuse too many cells, or one that is there twice."""
    _refuse_number(len(cells))
    seen = set()
    for cell in cells:
        if cell.what in seen:
            raise QamroError(f"the grid has a cell twice: {label(cell.names)}")
        seen.add(cell.what)


def modelings_of(cells: Sequence[Cell]) -> list[RaterOptions]:
    """Return what cells make of the ratings, each once, but for plain means."""
    return list(dict.fromkeys(cell.modeling for cell in cells if not cell.modeling.plain))


def label(names: Mapping[str, Any]) -> str:
    """Return a cell's names on one line."""
    return ", ".join(f"{name}={value}" for name, value in names.items()) or "defaults"


def _cell(shared: Mapping[str, Any], own: Mapping[str, Any]) -> Cell:
    """Make a cell of its own values on top of the shared ones."""
    try:
        given = {name: CELL[name].check(value) for name, value in {**shared, **own}.items()}
        # What all share is for those that have a use for it; what a cell sets itself it must take.
        decides = "head" if given.get("head") in CLOSED else "loss"
        decides = "output" if given.get("output") == "gaussian" else decides
        bare = make_recipe({decides: given[decides]} if decides in given else {})
        useless = {name for name in shared if name in RECIPE and not bare.takes(name)}
        given = {name: value for name, value in given.items() if name not in useless - set(own)}
        reads = {name: given.pop(name) for name in settings_of(Cell) if name in given}
        recipe = make_recipe(given)
    except ValueError as error:
        where = label(own) if len(label(own)) <= 100 else f"{label(own)[:90]}..."
        raise QamroError(f"cell {where}: {error}" if own else str(error)) from error
    names = {n: CELL[n].show(v) if CELL[n].several else v for n, v in own.items()}
    return Cell(names=names, recipe=recipe, **reads)
