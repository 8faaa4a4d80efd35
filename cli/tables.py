"""Tables and fields on a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from .common import printable

#: The metric whose interval and single seeds stand beside the figures.
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
    title: str, models: Mapping[str, Mapping[str, Any]], ceiling: Mapping[str, Any] | None
) -> None:
    """Print what `qamro_cache.evaluation.score.score` returned for each model, a level a row."""
    from qamro_cache.evaluation.compare import levels
    from qamro_cache.evaluation.metrics import METRICS

    found = [(model, *level) for model, scored in models.items() for level in levels(scored)]
    names = [name for name in METRICS if METRICS[name].main]
    given = {name for *_, metrics in found for name in metrics}
    # The error after a fitted line is for predictions in other units.
    names = [name for name in names if name in given and (name != "mse_fit" or "mse" not in given)]
    rows = [
        [
            model,
            level,
            str(count),
            *(number(metrics[name]["value"]) if name in metrics else "" for name in names),
            short_span(metrics[_WITH_INTERVAL]["low"], metrics[_WITH_INTERVAL]["high"]),
            _spread(metrics[_WITH_INTERVAL]),
        ]
        for model, level, count, metrics in found
    ]
    bound = ceiling["figures"] if ceiling else {}
    for level in dict.fromkeys(figure.partition("_")[0] for figure in bound):
        keys = [f"{level}_{name}" for name in names]
        values = [number(bound[key]) if key in bound else "" for key in keys]
        count = str(ceiling["clips"]) if ceiling and level == "clip" else ""
        rows.append(["ceiling", level, count, *values, "", ""])
    shown = [name.upper().replace("_FIT", " (fit)") for name in names]
    columns = ["", "level", "n", *shown, f"{_WITH_INTERVAL.upper()}, 95 %", "seeds"]
    show_table(columns, rows, title=title, left=2)
    if ceiling:
        click.echo(_panels(ceiling))
    _show_counts(models)


def _show_counts(models: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what was computed, and on what, below a table whose models share their clips."""
    scored = next(iter(models.values()))
    if scored["left_out"] and len(models) > 1:
        missing = "rated clips in no row, because some model has no prediction"
        click.echo(f"{missing}: {scored['left_out']}")
    if scored["groups_left_out"]:
        word = scored["group_word"]
        alone = f"{word}s in no {word} row, because of one clip or one label"
        click.echo(f"{alone}: {scored['groups_left_out']}")
    show_origin(scored)


def show_origin(scored: Mapping[str, Any]) -> None:
    """Print what the intervals of a table are over, and the signature of what was computed."""
    import textwrap

    if scored["population"]:
        click.echo(textwrap.fill(printable(f"95 % intervals {scored['population']}"), 80))
    if scored["signature"]:
        click.echo(printable(scored["signature"]))


def _panels(ceiling: Mapping[str, Any]) -> str:
    """Say whose ceiling it is, and what panels that differ do to the labels."""
    if ceiling["lower_bound"]:
        return "the ceiling's correlations are a lower bound: it is not known who rated what"
    line = f"ceiling: of {ceiling['raters']} raters"
    if ceiling["panels"] < 0.0005:
        return f"{line}; their offsets move no label apart from another"
    share = 100 * ceiling["panels"]
    return f"{line}; not all rated the same clips ({share:.1f} % of the variance)"


def short_span(low: Any, high: Any) -> str:
    """A correlation's interval; - where there is none."""
    return "-" if number(low) == "-" else f"{_bare(float(low), 2)} to {_bare(float(high), 2)}"


def _spread(metric: Mapping[str, Any]) -> str:
    """Mean and std of single seeds' figures; - where there is one seed."""
    if number(metric["seeds_std"]) == "-":
        return "-"
    return f"{_bare(metric['seeds_mean'], 3)}\u00b1{_bare(metric['seeds_std'], 3)}"


def _bare(value: float, decimals: int) -> str:
    """A correlation without the 0 before its point."""
    return f"{value:.{decimals}f}".replace("0.", ".", 1 if abs(value) < 1 else 0)


def span(low: Any, high: Any) -> str:
    """An interval in its own units; - where there is none."""
    return "-" if number(low) == "-" else f"{number(low)} to {number(high)}"


def number(value: Any) -> str:
    """Three decimals, one or none for large errors; - where there is none."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return "-"
    if value != value:
        return "-"
    decimals = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:.{decimals}f}"
