"""Figures by matplotlib, for papers: PNG, or PDF, whose lines and letters stay sharp."""

import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from qamro_cache.reports.cells import numeric
from qamro_cache.reports.draw import COLORS
from qamro_cache.reports.page import (
    Bars,
    Curve,
    Figure,
    Forest,
    Heat,
    Page,
    Scatter,
    Table,
)
from qamro_cache.reports.svg import heat_color, short
from qamro_cache.reports.tables import cells_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot

#: Okabe and Ito's colors, as on the page.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#a89a00", "#000000")

#: Inches of a figure: a column of a paper.
_WIDE, _HIGH = 4.2, 3.6

#: Rows of a table on a page of a PDF, at most; inches of a letter and of a line.
_ROWS, _LETTER, _LINE = 40, 0.07, 0.19


def plot(figure: Figure, form: str) -> bytes:
    """Return a figure as ``png`` or ``pdf``."""
    return _bytes(_draw(figure), form)


def pdf_of(page: Page, made_by: str) -> bytes:
    """Return a page's tables for a paper, and its figures, one a page."""
    from matplotlib.backends.backend_pdf import PdfPages

    data = io.BytesIO()
    # No date, so that the same page is the same bytes.
    about = {"Title": page.title, "Creator": made_by, "CreationDate": None}
    with PdfPages(data, metadata=about) as pages:
        for table in page.tables():
            for start in range(0, max(1, len(table.rows)), _ROWS):
                pages.savefig(_table(table, start), bbox_inches="tight")
        for figure in page.figures():
            pages.savefig(_draw(figure), bbox_inches="tight")
    return data.getvalue()


def _bytes(plot: "Plot", form: str) -> bytes:
    data = io.BytesIO()
    # No date, so that the same figure is the same bytes.
    nothing: dict[str, Any] = {"CreationDate": None} if form == "pdf" else {}
    plot.savefig(data, format=form, dpi=200, bbox_inches="tight", metadata=nothing)
    return data.getvalue()


def _blank(height: float = _HIGH) -> "tuple[Plot, Axes]":
    from matplotlib import rcParams
    from matplotlib.figure import Figure as Plot

    # A name with dollar signs is no formula; letters in a PDF stay letters.
    rcParams["text.parse_math"] = False
    rcParams["pdf.fonttype"] = 42
    found = Plot(figsize=(_WIDE, height))
    axes = found.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return found, axes


def _draw(figure: Figure) -> "Plot":
    height = _HIGH
    if isinstance(figure, Forest | Heat):
        height = 1.0 + 0.24 * max(3, len(figure.rows))
    found, axes = _blank(height)
    kinds: dict[type, Callable[[Any, Axes], None]] = {
        Scatter: _scatter,
        Forest: _forest,
        Heat: _heat,
        Curve: _curve,
        Bars: _bars,
    }
    kinds[type(figure)](figure, axes)
    axes.set_title(short(figure.title, 60), fontsize=9)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    return found


def _scatter(figure: Scatter, axes: "Axes") -> None:
    points = np.array(figure.points).reshape(-1, 2)
    low, high = max(figure.x.low, figure.y.low), min(figure.x.high, figure.y.high)
    if figure.diagonal:
        axes.plot([low, high], [low, high], color="0.6", lw=0.8, ls="--")
    if figure.errors:
        ends = np.array(figure.errors).reshape(-1, 4).T
        x, y = points.T
        beside, around = [x - ends[0], ends[1] - x], [y - ends[2], ends[3] - y]
        axes.errorbar(x, y, around, beside, fmt="none", ecolor="0.7", lw=0.7)
    series = np.array(figure.series) if len(figure.series) else np.zeros(len(points), int)
    few = 1 < len(figure.series_names) <= COLORS
    for one in np.unique(series):
        label = short(figure.series_names[one]) if few else None
        color = _COLORS[one] if few else _COLORS[0]
        x, y = points[series == one].T
        axes.scatter(x, y, s=12, color=color, alpha=0.7, lw=0, label=label)
    if few:
        axes.legend(
            fontsize=7, frameon=False, ncol=3, loc="upper center", bbox_to_anchor=(0.5, -0.16)
        )
    axes.set(xlim=(figure.x.low, figure.x.high), ylim=(figure.y.low, figure.y.high))
    axes.set(xlabel=figure.x.label, ylabel=figure.y.label)


def _forest(figure: Forest, axes: "Axes") -> None:
    if figure.line is not None and math.isfinite(figure.line[1]):
        axes.axvline(figure.line[1], color="0.5", lw=0.8, ls="--")
        foot = len(figure.rows) - 0.6
        name, at = figure.line
        axes.text(at, foot, name, size=7, rotation=90, ha="right", va="bottom", color="0.4")
    for k, row in enumerate(figure.rows):
        color = _COLORS[0] if row.strong else "0.35"
        value, low, high = row.estimate
        if math.isfinite(low):
            axes.plot([low, high], [k, k], color=color, lw=1.5)
        axes.plot([value], [k], "o", color=color, ms=5)
        axes.plot(row.singles, [k + 0.25] * len(row.singles), ".", color=_COLORS[1], ms=3)
    axes.set_yticks(range(len(figure.rows)), [short(row.name) for row in figure.rows])
    axes.set(xlim=(figure.x.low, figure.x.high), xlabel=figure.x.label)
    axes.set_ylim(len(figure.rows) - 0.5, -0.6)


def _heat(figure: Heat, axes: "Axes") -> None:
    values = np.array(
        [[math.nan if one is None else one.value for one in row] for row in figure.squares]
    )
    low, high = figure.scale.low, figure.scale.high
    shown = axes.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    for k, row in enumerate(figure.squares):
        for j, one in enumerate(row):
            if one is not None:
                share = (one.value - low) / (high - low) if high > low else 0.5
                ink = "black" if heat_color(share)[1] == "dark" else "white"
                words = one.text.split("\n")[0] + {"best": "*", "alike": "'"}.get(one.mark, "")
                axes.text(j, k, words, ha="center", va="center", fontsize=6, color=ink)
    axes.set_xticks(range(len(figure.columns)), [short(name, 12) for name in figure.columns])
    axes.set_yticks(range(len(figure.rows)), [short(name, 20) for name in figure.rows])
    axes.set(xlabel=figure.x_label, ylabel=figure.y_label)
    if numeric([square.text.split("\n")[0] for row in figure.squares for square in row if square]):
        bar = axes.figure.colorbar(shown, ax=axes)
        bar.set_label(figure.scale.label, fontsize=8)
        bar.ax.tick_params(labelsize=7)


def _curve(figure: Curve, axes: "Axes") -> None:
    for k, line in enumerate(figure.lines):
        x = [at for at, _ in line.points]
        value, low, high = np.array([tuple(one) for _, one in line.points]).T
        color = _COLORS[k % COLORS]
        axes.plot(x, value, "o-", color=color, ms=4, lw=1.2, label=short(line.name, 40))
        if len(figure.lines) <= 3:
            axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
    if figure.line is not None:
        axes.axhline(figure.line[1], color="0.5", lw=0.8, ls="--", label=figure.line[0])
    axes.set(xlabel=figure.x_label, ylabel=figure.y_label)
    axes.legend(fontsize=7, frameon=False)


def _bars(figure: Bars, axes: "Axes") -> None:
    axes.stairs(figure.counts, figure.edges, fill=True, color=_COLORS[0])
    axes.set(xlabel=figure.x_label, ylabel=figure.y_label)


def _table(table: Table, start: int) -> "Plot":
    """Draw rows of a table from one on, between rules as LaTeX's booktabs has them."""
    strong = [False, *(k in table.strong for k in range(start, start + _ROWS))]
    body = [[short(cell, 40) for cell in cells_of(r)] for r in table.rows[start : start + _ROWS]]
    lines = [[short(name, 24) for name in table.columns], *body]
    widths = [max(len(line[k]) for line in lines) + 3 for k in range(len(table.columns))]
    ends, foot = np.cumsum([0, *widths]), len(lines) - 0.5
    found, axes = _blank()
    found.set_size_inches(_LETTER * ends[-1], _LINE * len(lines) + 0.3)
    axes.axis("off")
    axes.set(xlim=(0, ends[-1]), ylim=(foot, -0.5))
    axes.set_title(short(table.title, 90), fontsize=9)
    axes.hlines([-0.5, 0.5, foot], 0, ends[-1], "black", lw=[1.0, 0.5, 1.0], clip_on=False)
    for y, (line, bold) in enumerate(zip(lines, strong, strict=False)):
        for k, words in enumerate(line):
            x, side = (ends[k] + 1, "left") if k < table.left else (ends[k + 1] - 1, "right")
            weight = "bold" if bold else "normal"
            axes.text(x, y, words, ha=side, va="center", size=7, weight=weight)
    return found
