"""What a report says, whatever it is written as: pages of sections of words, tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Estimate(NamedTuple):
    """A figure with the ends of its 95 % interval, NaN where there is none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


class Sound(NamedTuple):
    """A clip to listen to: its name, and its file; empty where that is not known."""

    clip_id: str
    path: str


#: What stands in a table. Text and names are never markup.
Value = str | float | Estimate | Sound | None


@dataclass(frozen=True)
class Table:
    """A table that sorts.

    Attributes:
        title: above it.
        columns: names.
        rows: of values, one a column.
        left: columns of text; the others hold numbers.
        strong: rows that stand out.
        paper: whether it belongs into a paper.
        note: below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    left: int = 1
    strong: frozenset[int] = frozenset()
    paper: bool = False
    note: str = ""


@dataclass(frozen=True)
class Words:
    """Paragraphs; ``kind`` is ``plain``, ``good``, ``warning`` or ``code``."""

    lines: Sequence[str]
    kind: str = "plain"


def sentences(lines: Sequence[str]) -> Words:
    """Return remarks as sentences: a capital letter first, a full stop last."""
    return Words([f"{line[:1].upper()}{line[1:].removesuffix('.')}." for line in lines])


@dataclass(frozen=True)
class Facts:
    """Names with their values beside them."""

    rows: Sequence[tuple[str, str]]


class Scale(NamedTuple):
    """What is measured along a side of a figure, from ``low`` to ``high``."""

    label: str
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """What all figures have: a title, and what is seen, for those who cannot see it."""

    title: str
    about: str


@dataclass(frozen=True)
class Scatter(Figure):
    """Points, those of a series in one color while there are few.

    Attributes:
        x, y: the sides.
        points: (x, y) each.
        names: of the points.
        series: of each point, its place among ``series_names``.
        series_names: empty for one series.
        errors: (x low, x high, y low, y high) each, or empty.
        diagonal: whether x and y are the same units.
    """

    x: Scale
    y: Scale
    points: Sequence[tuple[float, float]]
    names: tuple[str, ...]
    series: Sequence[int] = ()
    series_names: Sequence[str] = ()
    errors: Sequence[tuple[float, float, float, float]] = ()
    diagonal: bool = True


class Row(NamedTuple):
    """A row of a `Forest`: an estimate, and single values beside it (of seeds)."""

    name: str
    estimate: Estimate
    singles: Sequence[float] = ()
    strong: bool = False


@dataclass(frozen=True)
class Forest(Figure):
    """Estimates below each other, with their intervals; ``line`` is a value to compare with."""

    x: Scale
    rows: Sequence[Row]
    line: tuple[str, float] | None = None


class Square(NamedTuple):
    """A cell of a `Heat`: its color's value, what stands in it, and what it says when pointed at.

    ``mark`` is ``best`` or ``alike`` (not told from the best), or empty.
    """

    value: float
    text: str
    about: str
    mark: str = ""


@dataclass(frozen=True)
class Heat(Figure):
    """Squares in rows and columns, colored by value; None where there is none."""

    x_label: str
    y_label: str
    columns: Sequence[str]
    rows: Sequence[str]
    squares: Sequence[Sequence[Square | None]]
    scale: Scale


class Line(NamedTuple):
    """A series of a `Curve`: its name, and (x, estimate) in order of x."""

    name: str
    points: Sequence[tuple[float, Estimate]]


@dataclass(frozen=True)
class Curve(Figure):
    """Lines over a number, with intervals; ``line`` is a value to compare with."""

    x_label: str
    y_label: str
    lines: Sequence[Line]
    line: tuple[str, float] | None = None


@dataclass(frozen=True)
class Bars(Figure):
    """A histogram: ``counts`` between each two of ``edges``."""

    x_label: str
    y_label: str
    edges: Sequence[float]
    counts: Sequence[float]


Block = Words | Facts | Table | Figure


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading."""

    title: str
    blocks: Sequence[Block]


def figures_first(blocks: Sequence[Block]) -> list[Block]:
    """Return blocks with their figures side by side: after what stands before the first one."""
    first = next((k for k, one in enumerate(blocks) if isinstance(one, Figure)), len(blocks))
    rest = blocks[first:]
    figures = [one for one in rest if isinstance(one, Figure)]
    return [*blocks[:first], *figures, *(one for one in rest if not isinstance(one, Figure))]


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: of the page.
        lead: what matters, in sentences.
        sections: in order.
        synthetic: whether the data are made by a program.
        kind: what is reported on, in a word or two.
    """

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]
    synthetic: bool = False
    kind: str = field(default="report")

    def figures(self) -> list[Figure]:
        """Return the figures of all sections."""
        return [one for part in self.sections for one in part.blocks if isinstance(one, Figure)]

    def tables(self) -> list[Table]:
        """Return the tables that belong into a paper."""
        found = [one for part in self.sections for one in part.blocks if isinstance(one, Table)]
        return [table for table in found if table.paper]
