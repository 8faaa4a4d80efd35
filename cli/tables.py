"""Tables and fields on a terminal."""

import textwrap
from collections.abc import Iterable, Sequence

import click

from .common import printable

#: Columns of what is printed.
_WIDTH = 80
#: What stands in a table: a line, or several.
Cell = str | Sequence[str]


def _lines_of(cell: Cell) -> str:
    """Return what a cell shows; a line break in a name is none."""
    return printable(cell) if isinstance(cell, str) else "\n".join(map(printable, cell))


def show_table(
    columns: Sequence[Cell],
    rows: Iterable[Sequence[Cell]],
    *,
    title: str = "",
    left: int = 1,
) -> None:
    """Print a table: the first ``left`` columns aligned left, the others right; its title above."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    show_lines(title)
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        # Text, not str: what a name holds is no markup.
        table.add_column(
            Text(_lines_of(column)), justify="left" if index < left else "right", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(_lines_of(cell)) for cell in row))
    # A pipe or a log file has no width; do not fold a table there.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    wide = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    table.collapse_padding = wide > console.width
    console.print(table)


def show_cells(columns: Sequence[str], rows: Sequence[Sequence[str]], named: int) -> None:
    """Print a table of cells within 80 columns.

    The words of a figure's name stand below each other. Where settings take more room than there
    is, they stand together in one column, as ``name=value``, over several lines.

    Args:
        columns: names: of the model and the settings, then of the figures.
        rows: as many values.
        named: how many columns say which cell it is, one of them the ``model``; of a baseline its
            settings are empty.
    """
    heads = [*((name,) for name in columns[:named]), *(n.split("_") for n in columns[named:])]
    widths = [
        max(map(len, (*head, *(row[place] for row in rows)))) for place, head in enumerate(heads)
    ]
    if sum(widths) + 2 * (len(widths) - 1) <= _WIDTH:
        show_table(heads, rows, left=named)
        return
    room = max(20, _WIDTH - sum(widths[named:]) - 2 * (len(widths) - named))
    together: list[list[Cell]] = []
    for row in rows:
        says = dict(zip(columns[:named], row, strict=False))
        settings = [f"{name}={value}" for name, value in says.items() if value and name != "model"]
        cell = ", ".join([says["model"], *settings])
        together.append([textwrap.wrap(printable(cell), room), *row[named:]])
    show_table([("cell",), *heads[named:]], together)


def show_lines(*lines: str, hang: int = 0) -> None:
    """Print lines of text within 80 columns, without those that are empty.

    Args:
        lines: each begins a line.
        hang: blanks before what of a line goes on in the next.
    """
    for line in filter(None, lines):
        # A signature, or a path, stays in one piece.
        wrapped = textwrap.fill(
            printable(line).replace(" %", "\0%"),  # stays with its number
            _WIDTH,
            subsequent_indent=" " * hang,
            break_on_hyphens=False,
            break_long_words=False,
        )
        click.echo(wrapped.replace("\0", " "))


def show_fields(fields: Iterable[tuple[str, str]], *, indent: int = 0) -> None:
    """Print labels with their values beside them, within 80 columns where words are that short."""
    fields = list(fields)
    margin = indent + max((len(label) for label, _ in fields), default=0) + 2
    for label, value in fields:
        label, value = printable(label), printable(value)
        # What does not fit beside its label (a hash, a long path) stands below it, in one piece.
        beside = max(map(len, value.split()), default=0) <= 80 - margin
        place = margin if beside else indent + 4
        lines = textwrap.wrap(
            value, 80 - place, break_long_words=False, break_on_hyphens=False
        ) or ["-"]
        head = " " * indent + label
        click.echo(f"{head:{margin}}{lines.pop(0)}" if beside else head)
        for line in lines:
            click.echo(" " * place + line)
