"""What `qamro_cache.evaluation.score.score` found of models, as tables and figures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qamro_cache.evaluation.compare import levels
from qamro_cache.evaluation.metrics import METRICS
from qamro_cache.evaluation.score import DECIDES
from qamro_cache.reports.numbers import number
from qamro_cache.reports.page import (
    Block,
    Estimate,
    Forest,
    Row,
    Scale,
    Table,
    Value,
    Words,
    sentences,
)

_NONE = float("nan")

Scored = Mapping[str, Any]


def value_of(record: Mapping[str, Any], name: str) -> float:
    """Return a number of a JSON record, NaN for null."""
    value = record.get(name)
    return _NONE if value is None else float(value)


def estimate_of(metric: Mapping[str, Any]) -> Estimate:
    """Return a figure with its interval."""
    return Estimate(*(value_of(metric, name) for name in ("value", "low", "high")))


def decides(scored: Scored) -> Estimate:
    """Return the figure that decides between models."""
    return estimate_of(scored["metrics"].get(DECIDES, {}))


def headline(name: str, scored: Scored) -> str:
    """Say what was estimated, with its interval and of what population, in a sentence."""
    value, low, high = decides(scored)
    if not math.isfinite(value):
        return f"{name}: the SRCC of {scored['clips']} clips is undefined."
    interval = ""
    if math.isfinite(low):
        interval = f" (95 % {number(low)} to {number(high)}, {scored['population']})"
    return f"{name}: SRCC over {scored['clips']} clips {number(value)}{interval}."


def source_words(found: Mapping[str, Any] | None) -> list[Block]:
    """Return where the error comes from, in sentences; nothing where that is not known."""
    return [sentences(found["words"])] if found else []


def level_words(level: str, scored: Scored, noun: str) -> str:
    """Say over what figures of a level are; ``noun`` is what a group is called."""
    if level == "group":
        return f"within {scored['groups']} {noun or scored['group_word']}s"
    return f"over {scored[f'{level}s']} {level}s"


def score_blocks(
    axis: str,
    models: Mapping[str, Scored],
    ceiling: Mapping[str, Any] | None,
    strong: str,
    noun: str = "",
) -> list[Block]:
    """Return the figure that decides, and a table a level, of models on the same clips.

    Args:
        axis: its name.
        models: what `score` found of each.
        ceiling: the raters', where it is known.
        strong: the model that stands out.
        noun: what a group is called (``song``).
    """
    first = next(iter(models.values()))
    tables = [
        table
        for level in dict.fromkeys(name for one in models.values() for name, *_ in levels(one))
        if (table := _level_table(axis, level, models, ceiling, strong, noun)) is not None
    ]
    population = first["population"]
    note = f"95 % intervals {population}." if population else "There are no intervals."
    lines = [note]
    if ceiling and ceiling.get("lower_bound"):
        lines.append("The raters' ceiling is a lower bound: it is not known who rated what.")
    if first["signature"]:
        lines.append(first["signature"])
    return [_forest(axis, models, ceiling, strong), *tables, Words(lines)]


def _forest(
    axis: str, models: Mapping[str, Scored], ceiling: Mapping[str, Any] | None, strong: str
) -> Forest:
    rows = []
    for name, scored in models.items():
        metric = scored["metrics"].get(DECIDES, {})
        singles = [_NONE if v is None else float(v) for v in metric.get("by_seed", [])]
        rows.append(
            Row(name, estimate_of(metric), singles if len(singles) > 1 else (), name == strong)
        )
    bound = value_of((ceiling or {}).get("figures", {}), DECIDES)
    line = ("raters' ceiling", bound) if math.isfinite(bound) else None
    about = "Dots are estimates, lines 95 % intervals"
    if any(row.singles for row in rows):
        about += ", small dots below single seeds"
    about += ". " + "; ".join(f"{row.name} {number(row.estimate.value)}" for row in rows[:12])
    scale = around(f"SRCC over clips, {axis}", [row.estimate for row in rows], 0.0, 1.0)
    return Forest(f"{axis}: who ranks clips as listeners do", about, scale, rows, line)


def around(label: str, found: Sequence[Estimate], low: float, high: float) -> Scale:
    """Return a scale that holds estimates with their intervals, and at least low to high."""
    ends = [v for one in found for v in one if math.isfinite(v)]
    return Scale(label, min([low, *ends]), max([high, *ends]))


def _level_table(
    axis: str,
    level: str,
    models: Mapping[str, Scored],
    ceiling: Mapping[str, Any] | None,
    strong: str,
    noun: str,
) -> Table | None:
    names = [
        name
        for name, metric in METRICS.items()
        if metric.main and any(f"{level}_{name}" in one["metrics"] for one in models.values())
    ]
    # The error after a fitted line is for predictions in other units.
    if "mse" in names and "mse_fit" in names:
        names.remove("mse_fit")
    if not names:
        return None
    rows: list[list[Value]] = []
    for model, scored in models.items():
        found = [scored["metrics"].get(f"{level}_{name}") for name in names]
        srcc = scored["metrics"].get(f"{level}_srcc", {})
        std = value_of(srcc, "seeds_std")
        seeds = f"{number(srcc['seeds_mean'])} ± {number(std)}" if math.isfinite(std) else ""
        rows.append([model, *(None if one is None else estimate_of(one) for one in found), seeds])
    columns = [
        "model",
        *(name.upper().replace("_FIT", " (fit)") for name in names),
        "SRCC of seeds",
    ]
    bound = (ceiling or {}).get("figures", {})
    if any(f"{level}_{name}" in bound for name in names):
        values = [value_of(bound, f"{level}_{name}") for name in names]
        shown = [Estimate(v) if math.isfinite(v) else None for v in values]
        rows.append(["raters' ceiling", *shown, ""])
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    words = level_words(level, next(iter(models.values())), noun)
    return Table(
        f"{axis}, {words}",
        columns,
        rows,
        strong=frozenset(k for k, row in enumerate(rows) if row[0] == strong),
        paper=True,
    )
