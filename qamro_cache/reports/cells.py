"""The cells of a grid, as ``summary.csv`` and ``best.json`` have them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qamro_cache.evaluation.score import DECIDES
from qamro_cache.experiments.study import STUDIES
from qamro_cache.experiments.tables import RENAMED, question
from qamro_cache.reports.page import Estimate
from qamro_cache.reports.read import Folder

#: Settings that 0 stands for all in, as columns.
_ALL = {RENAMED.get(name, name) for name in STUDIES} - {"calibrate"}


@dataclass(frozen=True)
class Question:
    """The cells and baselines that answer one question.

    Attributes:
        name: the axis, and how clips were held out where that varies.
        rows: of ``summary.csv``, without the ceiling.
        names: the settings that vary.
        record: what ``best.json`` says.
        study: of ``study.csv`` the rows of the figure that decides; empty without a study.
    """

    name: str
    rows: list[dict[str, Any]]
    names: list[str]
    record: Mapping[str, Any]
    study: Sequence[Mapping[str, Any]] = ()

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The rows of heads."""
        return [row for row in self.rows if row["model"] == "head"]

    @cached_property
    def _marks(self) -> dict[frozenset[tuple[str, str]], str]:
        def place(cell: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
            return self._cell({RENAMED.get(name, name): value for name, value in cell.items()})

        found = {place(one["cell"]): "alike" for one in self.record.get("not_told_apart", [])}
        best = self.record["cell"]
        return found if best is None else found | {place(best): "best"}

    def _cell(self, row: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
        keys = {name: key_of(row[name]) for name in self.names if name in row}
        return frozenset((name, key) for name, key in keys.items() if key)

    def mark(self, row: Mapping[str, Any]) -> str:
        """Return ``best``, or ``alike`` for a cell that cannot be told from it."""
        return self._marks.get(self._cell(row), "") if row["model"] == "head" else ""


def questions(folder: Folder) -> list[Question]:
    """Return what a grid asks, an axis and a way to hold out each."""
    table = folder.summary
    assert table is not None
    ways = table["cv"] if "cv" in table else [None] * len(table)
    asked = [question(axis, cv) for axis, cv in zip(table["axis"], ways, strict=True)]
    found = []
    for name, part in table.groupby(asked, sort=False):
        part = part[part["model"] != "ceiling"]
        settings = list(part.columns[: part.columns.get_loc("model")])
        names = [one for one in settings if part[one].map(key_of).nunique() > 1]
        rows = [{str(k): v for k, v in row.items()} for row in part.to_dict("records")]
        record = folder.record["axes"][str(name)]
        found.append(Question(str(name), rows, names, record, _study(folder, rows[0])))
    return found


def _study(folder: Folder, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a study that answer the question of a row of ``summary.csv``."""
    if folder.study is None:
        return []
    table = folder.study
    mine = (table["axis"] == row["axis"]) & (table["figure"] == DECIDES)
    mine &= (table["cv"] == row["cv"]) if "cv" in row else True
    return [{str(k): v for k, v in one.items()} for one in table[mine].to_dict("records")]


def key_of(value: Any) -> str:
    """Return a setting's value as it is compared: numbers by their value, nothing as empty."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        if isinstance(value, list):
            return "-".join(map(str, value))
        return str(value)
    return "" if math.isnan(number) else f"{number:g}"


def estimate(row: Mapping[str, Any], figure: str = DECIDES) -> Estimate:
    """Return a figure of a row with its interval."""

    def read(name: str) -> float:
        value = row.get(name, "")
        return float("nan") if value == "" else float(value)

    return Estimate(read(figure), read(f"{figure}_low"), read(f"{figure}_high"))


def named(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return what a row is called: by the settings that vary, a baseline by its name too."""
    settings = [f"{name} {shown(name, key)}" for name in names if (key := key_of(row[name]))]
    model = [] if row["model"] == "head" else [str(row["model"])]
    return ", ".join([*model, *settings]) or "heads"


def shown(name: str, key: str) -> str:
    """Return a setting's value as people read it: 0 of what heads learn from is all there is."""
    return "all" if key == "0" and name in _ALL else key


def values_of(cells: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Return a setting's values, numbers in their order."""
    values = list(dict.fromkeys(key for row in cells if (key := key_of(row[name]))))
    return sorted(values, key=float) if numeric(values) else values


def numeric(values: Sequence[str]) -> bool:
    """Tell whether all values are numbers."""
    try:
        return all(math.isfinite(float(value)) for value in values)
    except ValueError:
        return False


def known(value: float) -> float:
    """Return a figure to sort by: one that is undefined comes last."""
    return value if math.isfinite(value) else -math.inf
