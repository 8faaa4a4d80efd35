"""Figures as SVG: one function a kind of figure."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from qamro_cache.reports.numbers import compact, number, span, ticks
from qamro_cache.reports.page import (
    Bars,
    Curve,
    Estimate,
    Figure,
    Forest,
    Heat,
    Scale,
    Scatter,
    Square,
)
from qamro_cache.reports.svg import (
    WIDTH,
    Drawing,
    Side,
    closed,
    frame,
    heat_color,
    line,
    short,
    text,
)

#: Series beyond this have one color: more cannot be told apart.
COLORS = 8

_Marks = list[tuple[float, float, str]]


def draw(figure: Figure) -> Drawing:
    """Draw a figure."""
    kinds: dict[type, Callable[[Any], Drawing]] = {
        Scatter: _scatter,
        Forest: _forest,
        Heat: _heat,
        Curve: _curve,
        Bars: _bars,
    }
    return kinds[type(figure)](figure)


def _scatter(figure: Scatter) -> Drawing:
    few = len(figure.series_names) <= COLORS
    legend = list(figure.series_names) if few and len(figure.series_names) > 1 else []
    height = 400.0 + 17 * ((len(legend) + 1) // 2)
    x, y = Side(figure.x, 46, WIDTH - 10), Side(figure.y, 350, 10)
    parts = frame(x, y)
    if figure.diagonal:
        low, high = max(x.scale.low, y.scale.low), min(x.scale.high, y.scale.high)
        parts.append(line(x.at(low), y.at(low), x.at(high), y.at(high), "diagonal"))
    places = [(x.at(a), y.at(b)) for a, b in figure.points]
    bars = [
        f"M{x.at(a):.1f} {v:.1f}H{x.at(b):.1f}M{u:.1f} {y.at(c):.1f}V{y.at(d):.1f}"
        for (u, v), (a, b, c, d) in zip(places, figure.errors, strict=False)
    ]
    if bars:
        parts.append(f'<path class="error" d="{"".join(bars)}"/>')
    series = figure.series or [0] * len(places)
    by_series: dict[int, list[str]] = {}
    for (u, v), one in zip(places, series, strict=True):
        by_series.setdefault(one, []).append(f"M{u:.1f} {v:.1f}h0")
    size = " many" if len(places) > 1000 else ""
    for one, path in sorted(by_series.items()):
        color = one if few else 0
        parts.append(f'<path class="p s{color}{size}" data-s="{one}" d="{"".join(path)}"/>')
    for place, name in enumerate(legend):
        at = (46 + 200 * (place % 2), 398 + 17 * (place // 2))
        parts.append(f'<path class="p s{place}" d="M{at[0]} {at[1] - 4}h0"/>')
        parts.append(text(at[0] + 9, at[1], short(name), "legend"))
    marks: _Marks = [
        (u, v, f"{name}: {figure.x.label} {compact(a)}, {figure.y.label} {compact(b)}")
        for (u, v), (a, b), name in zip(places, figure.points, figure.names, strict=True)
    ]
    return Drawing(closed(figure.title, figure.about, WIDTH, height, parts), marks)


def _forest(figure: Forest) -> Drawing:
    names = [short(row.name) for row in figure.rows]
    left, top, step = 18 + 6.8 * max(map(len, names), default=1), 8.0, 24.0
    bottom = top + step * len(figure.rows) + 4
    x = Side(figure.x, left, WIDTH - 14)
    parts, marks = [], []
    for value in ticks(figure.x.low, figure.x.high):
        parts.append(line(x.at(value), top, x.at(value), bottom, "grid"))
        parts.append(text(x.at(value), bottom + 14, compact(value), "tick mid"))
    if figure.line is not None and math.isfinite(figure.line[1]):
        label, value = figure.line
        parts.append(line(x.at(value), top, x.at(value), bottom, "reference"))
        end = x.at(value) > (left + WIDTH) / 2
        words = f"{label} {number(value)}"
        parts.append(text(x.at(value), bottom + 28, words, f"legend {'end' if end else ''}"))
    for place, (name, row) in enumerate(zip(names, figure.rows, strict=True)):
        y = top + step * (place + 0.5)
        strong = " strong" if row.strong else ""
        parts.append(text(left - 8, y + 4, name, f"name end{strong}"))
        parts += [_dot(x.at(v), y + 6, "single") for v in row.singles if math.isfinite(v)]
        value, low, high = row.estimate
        words = f"{row.name}: {number(value)}"
        if not math.isfinite(value):
            continue
        if math.isfinite(low):
            parts.append(line(x.at(low), y, x.at(high), y, f"interval{strong}"))
            words += f", 95 % {span(low, high)}"
        if row.singles:
            words += f"; single: {', '.join(number(v) for v in row.singles[:12])}"
        parts.append(_dot(x.at(value), y, f"p estimate{strong}"))
        marks.append((x.at(value), y, words))
    parts.append(text((left + WIDTH - 14) / 2, bottom + 44, figure.x.label, "label mid"))
    return Drawing(closed(figure.title, figure.about, WIDTH, bottom + 52, parts), marks)


def _dot(x: float, y: float, kind: str) -> str:
    return f'<path class="{kind}" d="M{x:.1f} {y:.1f}h0"/>'


def _heat(figure: Heat) -> Drawing:
    left = 30 + min(140.0, 6.8 * max((len(short(n, 20)) for n in figure.rows), default=1))
    wide = min(90.0, max(30.0, (WIDTH - left - 8) / max(1, len(figure.columns))))
    high = 40.0 if any("\n" in one.text for row in figure.squares for one in row if one) else 26.0
    top, width = 34.0, max(WIDTH, left + wide * len(figure.columns) + 8)
    middle = left + wide * len(figure.columns) / 2
    parts, marks = [text(middle, 12, figure.x_label, "label mid")], []
    centre = top + high * len(figure.rows) / 2
    turned = f' transform="rotate(-90 12 {centre:.1f})"'
    parts.append(text(12, centre, figure.y_label, "label mid", turned))
    for place, name in enumerate(figure.columns):
        at = left + wide * (place + 0.5)
        parts.append(text(at, 28, short(name, max(3, int(wide / 6))), "tick mid"))
    for row, (name, squares) in enumerate(zip(figure.rows, figure.squares, strict=True)):
        y = top + high * row
        parts.append(text(left - 6, y + high / 2 + 4, short(name, 20), "tick end"))
        for place, square in enumerate(squares):
            if square is not None:
                x = left + wide * place
                parts.append(_square(square, figure.scale, x, y, wide, high))
                marks.append((x + wide / 2, y + high / 2, square.about))
    bottom = top + high * len(figure.rows) + 8
    parts += _legend(figure.scale, left, bottom, max(120.0, wide * len(figure.columns)))
    return Drawing(closed(figure.title, figure.about, width, bottom + 34, parts), marks)


def _square(one: Square, scale: Scale, x: float, y: float, wide: float, high: float) -> str:
    share = (one.value - scale.low) / (scale.high - scale.low) if scale.high > scale.low else 0.5
    color, words = heat_color(share)
    mark = f" {one.mark}" if one.mark else ""
    parts = [
        f'<rect class="square" x="{x + 1:.1f}" y="{y + 1:.1f}" width="{wide - 2:.1f}" '
        f'height="{high - 2:.1f}" fill="{color}"/>'
    ]
    if mark:
        parts.append(
            f'<rect class="mark{mark} on-{words}" x="{x + 3.5:.1f}" y="{y + 3.5:.1f}" '
            f'width="{wide - 7:.1f}" height="{high - 7:.1f}"/>'
        )
    said = one.text.split("\n")
    for k, words_of in enumerate(said):
        down = y + high / 2 + 4 + 13 * (k - (len(said) - 1) / 2)
        kind = f"on-{words} mid{' small' if k else ''}"
        parts.append(text(x + wide / 2, down, words_of, kind))
    return "".join(parts)


def _legend(scale: Scale, left: float, y: float, wide: float) -> list[str]:
    width = wide / 40
    parts = [
        f'<rect x="{left + k * width:.1f}" y="{y:.1f}" width="{width + 0.3:.1f}" height="8" '
        f'fill="{heat_color(k / 39)[0]}"/>'
        for k in range(40)
    ]
    end = left + 40 * width
    parts.append(text(left, y + 21, compact(scale.low), "tick"))
    parts.append(text((left + end) / 2, y + 21, scale.label, "label mid"))
    parts.append(text(end, y + 21, compact(scale.high), "tick end"))
    return parts


def _curve(figure: Curve) -> Drawing:
    every = [point for one in figure.lines for point in one.points]
    xs = sorted({a for a, _ in every})
    log = bool(xs) and xs[0] > 0 and xs[-1] / xs[0] > 20
    x = Side(Scale(figure.x_label, xs[0], xs[-1]), 52, WIDTH - 14, log)
    bound = [] if figure.line is None else [Estimate(figure.line[1])]
    y = Side(_around(figure.y_label, [*bound, *(estimate for _, estimate in every)]), 270, 10)
    parts = frame(x, y, x_ticks=xs if len(xs) <= 8 else ticks(xs[0], xs[-1]))
    if figure.line is not None:
        at = y.at(figure.line[1])
        parts.append(line(x.start, at, x.end, at, "reference"))
        parts.append(
            text(x.start + 4, at + 12, f"{figure.line[0]} {number(figure.line[1])}", "legend")
        )
    marks: _Marks = []
    for k, one in enumerate(figure.lines):
        places = [(x.at(a), estimate) for a, estimate in one.points]
        known = [(u, e) for u, e in places if math.isfinite(e.low)]
        edge = [f"{u:.1f} {y.at(e.high):.1f}" for u, e in known]
        edge += [f"{u:.1f} {y.at(e.low):.1f}" for u, e in reversed(known)]
        # More bands than a few hide one another.
        if len(known) > 1 and len(figure.lines) <= 3:
            parts.append(f'<path class="band s{k % COLORS}" d="M{"L".join(edge)}Z"/>')
        path = "L".join(f"{u:.1f} {y.at(e.value):.1f}" for u, e in places)
        parts.append(f'<path class="line s{k % COLORS}" d="M{path}"/>')
        dots = "".join(f"M{u:.1f} {y.at(e.value):.1f}h0" for u, e in places)
        parts.append(f'<path class="p s{k % COLORS}" d="{dots}"/>')
        for (a, e), (u, _) in zip(one.points, places, strict=True):
            words = f"{one.name}, {figure.x_label} {compact(a)}: {number(e.value)}"
            words += f", {span(e.low, e.high)}" if math.isfinite(e.low) else ""
            marks.append((u, y.at(e.value), words))
        parts.append(f'<path class="p s{k % COLORS}" d="M52 {316 + 17 * k}h0"/>')
        parts.append(text(61, 320 + 17 * k, short(one.name, 50), "legend"))
    height = 320 + 17 * len(figure.lines)
    return Drawing(closed(figure.title, figure.about, WIDTH, height, parts), marks)


def _around(label: str, estimates: Sequence[Estimate]) -> Scale:
    values = [v for one in estimates for v in one if math.isfinite(v)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return Scale(label, low - room, high + room)


def _bars(figure: Bars) -> Drawing:
    x = Side(Scale(figure.x_label, figure.edges[0], figure.edges[-1]), 52, WIDTH - 14)
    y = Side(Scale(figure.y_label, 0.0, max(1.0, *figure.counts)), 230, 10)
    parts, marks = frame(x, y), []
    for low, high, count in zip(figure.edges, figure.edges[1:], figure.counts, strict=False):
        a, b, top = x.at(low), x.at(high), y.at(count)
        size = f'width="{max(0.5, b - a - 1):.1f}" height="{y.start - top:.1f}"'
        parts.append(f'<rect class="bar s0" x="{a + 0.5:.1f}" y="{top:.1f}" {size}/>')
        words = f"{compact(low)} to {compact(high)}: {compact(count)} {figure.y_label}"
        marks.append(((a + b) / 2, top, words))
    return Drawing(closed(figure.title, figure.about, WIDTH, 272, parts), marks)
