"""Figures of a grid: its cells below each other, heat maps of two settings, curves over one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qamro_cache.evaluation.score import DECIDES
from qamro_cache.experiments.tables import RENAMED
from qamro_cache.reports.cells import Question, estimate, key_of, known, named, numeric, values_of
from qamro_cache.reports.numbers import number, span
from qamro_cache.reports.page import Block, Curve, Estimate, Forest, Heat, Line, Row, Scale, Square
from qamro_cache.reports.scores import around

#: Rows of the figure of the best cells, lines of a curve, and heat maps of a question, at most.
MOST_ROWS, MOST_LINES, MOST_HEATS = 25, 6, 12


def _best(one: Question) -> Forest:
    cells = sorted(one.cells, key=lambda row: -known(estimate(row).value))
    baselines = [row for row in one.rows if row["model"] != "head"]
    shown = cells[: max(1, MOST_ROWS - len(baselines))]
    rows = [
        Row(named(row, one.names), estimate(row), strong=one.mark(row) == "best")
        for row in [*shown, *baselines]
    ]
    few = f"the {len(shown)} highest of {len(cells)} cells" if len(shown) < len(cells) else "all"
    ceiling = (one.record.get("ceiling") or {}).get("figures", {}).get(DECIDES)
    return Forest(
        f"{one.name}: cells and baselines",
        f"SRCC over clips with 95 % intervals; {few}, the highest first, and the baselines. An "
        "interval is of one cell: whether two differ stands in the table (mcs_p).",
        around("SRCC over clips", [row.estimate for row in rows], 0.0, 1.0),
        rows,
        None if ceiling is None else ("raters' ceiling", float(ceiling)),
    )


def _sides(one: Question) -> tuple[str, str] | None:
    """Return the settings across and down a heat map: beta and alpha, else numbers first."""
    names = [name for name in one.names if len(values_of(one.cells, name)) > 1]
    if {"alpha", "beta"} <= set(names):
        return "beta", "alpha"
    names.sort(key=lambda name: not numeric(values_of(one.cells, name)))
    return (names[0], names[1]) if len(names) > 1 else None


def _heats(one: Question) -> list[Heat]:
    sides = _sides(one)
    if sides is None:
        return []
    across, down = sides
    cells = [row for row in one.cells if key_of(row[across]) and key_of(row[down])]
    values = [v for row in cells if math.isfinite(v := estimate(row).value)]
    if not values:
        return []
    scale = Scale("SRCC over clips", min(values), max(values))
    rest = [name for name in one.names if name not in sides]
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in cells:
        parts.setdefault(named(row, rest) if rest else "", []).append(row)
    ranked = sorted(parts, key=lambda name: -max(known(estimate(r).value) for r in parts[name]))
    few = "" if len(ranked) <= MOST_HEATS else f" The best {MOST_HEATS} of {len(ranked)} maps."
    return [
        _heat(one, sides, parts[name], name, scale, few if k == 0 else "")
        for k, name in enumerate(ranked[:MOST_HEATS])
    ]


def _heat(
    one: Question,
    sides: tuple[str, str],
    cells: Sequence[Mapping[str, Any]],
    name: str,
    scale: Scale,
    more: str,
) -> Heat:
    across, down = sides
    columns, rows = values_of(cells, across), values_of(cells, down)
    at = {(key_of(row[down]), key_of(row[across])): row for row in cells}
    wide = len(columns) <= 6
    squares = [
        [None if (row := at.get((a, b))) is None else _square(one, row, wide) for b in columns]
        for a in rows
    ]
    return Heat(
        f"{one.name}: {down} x {across}{f', {name}' if name else ''}",
        "SRCC over clips, with its 95 % interval below. A whole frame: the highest cell; a dashed "
        f"one: cannot be told from it.{more}",
        across,
        down,
        columns,
        rows,
        squares,
        scale,
    )


def _square(one: Question, row: Mapping[str, Any], wide: bool) -> Square:
    value, low, high = estimate(row)
    mark = one.mark(row)
    said = {"best": "; the highest", "alike": "; not told from the highest"}.get(mark, "")
    interval = f", 95 % {span(low, high)}" if math.isfinite(low) else ""
    text = number(value)
    if wide and math.isfinite(low):
        text += f"\n{low:.2f} to {high:.2f}"
    return Square(value, text, f"{named(row, one.names)}: {number(value)}{interval}{said}", mark)


def _curves(one: Question) -> list[Curve]:
    """Return curves over a number that varies alone, or beside few others."""
    found = []
    sides = _sides(one) or ()
    drawn_already = all(numeric(values_of(one.cells, name)) for name in sides)
    studied = {RENAMED.get(str(row["study"]), row["study"]) for row in one.study}
    for name in one.names:
        if name in studied or (name in sides and drawn_already):
            continue
        cells = [row for row in one.cells if key_of(row[name])]
        values = values_of(cells, name)
        if len(values) < 3 or not numeric(values):
            continue
        rest = [other for other in one.names if other != name]
        lines: dict[str, list[tuple[float, Estimate]]] = {}
        for row in cells:
            point = (float(row[name]), estimate(row))
            lines.setdefault(named(row, rest) if rest else "heads", []).append(point)
        if len(lines) <= MOST_LINES:
            found.append(_curve(f"{one.name}: by {name}", name, lines))
    return found


def _studies(one: Question) -> list[Curve]:
    """Return the learning curves: how good heads and baselines are by what they learned from."""
    found = []
    for study in dict.fromkeys(str(row["study"]) for row in one.study):
        rows = [row for row in one.study if row["study"] == study]
        lines: dict[str, list[tuple[float, Estimate]]] = {}
        bound = None
        for row in rows:
            if row["model"] == "ceiling":
                bound = ("raters' ceiling", float(row["value"]))
            elif math.isfinite(row["x"]):
                name = ", ".join(str(row[key]) for key in ("model", "cell") if row[key])
                point = (float(row["x"]), Estimate(row["value"], row["low"], row["high"]))
                lines.setdefault(name, []).append(point)
        ranked = sorted(lines, key=lambda name: -max(e.value for _, e in lines[name]))
        shown = {name: lines[name] for name in lines if name in ranked[:MOST_LINES]}
        if shown and any(len(points) > 1 for points in shown.values()):
            label = f"{study} learned from, at the mean over the folds"
            found.append(_curve(f"{one.name}: learning curve, {study}", label, shown, bound))
    return found


def _curve(
    title: str,
    label: str,
    lines: Mapping[str, Sequence[tuple[float, Estimate]]],
    bound: tuple[str, float] | None = None,
) -> Curve:
    drawn = [Line(key, sorted(points)) for key, points in lines.items()]
    ends = [
        f"{line.name} from {number(line.points[0][1].value)} to {number(line.points[-1][1].value)}"
        for line in drawn
    ]
    about = f"SRCC over clips; bands are 95 % intervals. {'; '.join(ends)}."
    return Curve(title, about, label, "SRCC over clips", drawn, bound)


def grid_figures(one: Question) -> list[Block]:
    """Return the figures of the cells that answer one question."""
    return [_best(one), *_studies(one), *_heats(one), *_curves(one)]
