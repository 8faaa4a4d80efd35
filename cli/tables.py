"""Tables and fields on a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from .common import printable

#: The metric whose interval and std over seeds stand beside the figures.
_WITH_INTERVAL = "srcc"


def show_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    left: int = 1,
    err: bool = False,
) -> None:
    """Print a table: the first ``left`` columns aligned left, the others right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, not str: what a name holds is no markup.
    heading = Text(printable(title)) if title else None
    table = Table(title=heading, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(
            Text(printable(column)), justify="left" if index < left else "right", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    # A pipe or a log file has no width; do not fold a table there.
    console = Console(stderr=err, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=err, highlight=False, width=160)
    console.print(table)


def show_fields(fields: Iterable[tuple[str, str]], *, indent: int = 0) -> None:
    """Print labels with their values beside them, within 80 columns where words are that short."""
    import textwrap

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


def show_scores(
    title: str, models: Mapping[str, Mapping[str, Any]], ceiling: Mapping[str, float] | None
) -> None:
    """Print what `qamro_cache.evaluation.score.score` returned for each model, a level a row."""
    from qamro_cache.evaluation.compare import levels

    found = [(model, *level) for model, scored in models.items() for level in levels(scored)]
    names = list(dict.fromkeys(name for *_, metrics in found for name in metrics))
    rows = [
        [
            model,
            level,
            str(count),
            *(number(metrics[name]["value"]) if name in metrics else "" for name in names),
            span(metrics[_WITH_INTERVAL]["low"], metrics[_WITH_INTERVAL]["high"]),
            number(metrics[_WITH_INTERVAL]["std"]),
        ]
        for model, level, count, metrics in found
    ]
    for figure, value in (ceiling or {}).items():
        level, _, metric = figure.partition("_")
        figures = [number(value) if name == metric else "" for name in names]
        rows.append(["raters' ceiling", level, "", *figures, "", ""])
    shown = [name.upper().replace("_FIT", " (fit)") for name in names]
    columns = ["", "level", "n", *shown, f"{_WITH_INTERVAL.upper()}, 95 %", "std"]
    show_table(columns, rows, title=title, left=2)


def span(low: Any, high: Any) -> str:
    """An interval; - where there is none."""
    return "-" if number(low) == "-" else f"{number(low)} to {number(high)}"


def number(value: Any) -> str:
    """Three decimals, one for large errors; - where there is none."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return "-"
    if value != value:
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
