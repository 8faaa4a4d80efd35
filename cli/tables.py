"""Tables and fields on a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from qamro_cache.reports.numbers import bare, number, short_span, span

from .common import printable

#: The metric whose interval and single seeds stand beside the figures.
_WITH_INTERVAL = "srcc"
_SYSTEMS_SHOWN = 40
#: Of the records of `qamro_cache.evaluation.by_system.by_system`.
SYSTEM_COLUMNS = ("predicted", "rated", "error")


def show_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
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
            Text(printable(column)), justify="left" if index < left else "right", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    # A pipe or a log file has no width; do not fold a table there.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    wide = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    table.collapse_padding = wide > console.width
    console.print(table)


def show_lines(*lines: str, hang: int = 0) -> None:
    """Print lines of text within 80 columns, without those that are empty.

    Args:
        lines: each begins a line.
        hang: blanks before what of a line goes on in the next.
    """
    import textwrap

    for line in filter(None, lines):
        # A signature, or a path, stays in one piece.
        wrapped = textwrap.fill(
            printable(line).replace(" %", "\0%"),  # stays with its number
            80,
            subsequent_indent=" " * hang,
            break_on_hyphens=False,
            break_long_words=False,
        )
        click.echo(wrapped.replace("\0", " "))


def show_heading(axis: str, origin: Mapping[str, Any], scored: Mapping[str, Any]) -> None:
    """Print what a table of figures is of, so that it says so wherever it is pasted.

    Args:
        axis: that was judged.
        origin: ``dataset``, ``synthetic``, ``defaults_chosen_on``, ``encoder``, ``feature`` and
            ``split``, what was held out; empty where not known.
        scored: what stands behind the first row: ``clips``, ``seeds`` and ``population``.
    """
    parts = [
        f"{'synthetic data, ' if origin['synthetic'] else ''}{origin['dataset']}"
        f"{', which defaults were chosen on' if origin['defaults_chosen_on'] else ''}",
        f"{origin['encoder']} {origin['feature']}".strip(),
        f"{scored['clips']} clips",
        f"{scored['seeds']} seed{'s' if scored['seeds'] != 1 else ''}",
    ]
    over = scored["population"]
    show_lines(
        f"{axis}: {'; '.join(filter(None, parts))}",
        origin["split"],
        f"95 % intervals {'' if over.startswith('over') else 'of '}{over}"
        if over
        else "no intervals",
    )


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
    axis: str,
    origin: Mapping[str, Any],
    models: Mapping[str, Mapping[str, Any]],
    ceiling: Mapping[str, Any] | None,
) -> None:
    """Print what `qamro_cache.evaluation.score.score` returned for each model, a level a row.

    ``axis`` and ``origin`` are as in `show_heading`.
    """
    from qamro_cache.evaluation.compare import levels
    from qamro_cache.evaluation.metrics import METRICS

    found = [(model, *level) for model, scored in models.items() for level in levels(scored)]
    # RMSE is in the units of the labels.
    names = [name for name in METRICS if METRICS[name].main or name == "rmse"]
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
        ]
        for model, level, count, metrics in found
    ]
    bound = ceiling["figures"] if ceiling else {}
    for level in dict.fromkeys(figure.partition("_")[0] for figure in bound):
        keys = [f"{level}_{name}" for name in names]
        values = [number(bound[key]) if key in bound else "" for key in keys]
        count = str(ceiling["clips"]) if ceiling and level == "clip" else ""
        rows.append(["ceiling", level, count, *values, ""])
    shown = [name.upper().replace("_FIT", " (fit)") for name in names]
    columns = ["", "level", "n", *shown, f"{_WITH_INTERVAL.upper()}, 95 %"]
    show_heading(axis, origin, next(iter(models.values())))
    show_table(columns, rows, left=2)
    show_lines(*_single_seeds(found), hang=2)
    if ceiling:
        show_lines(_panels(ceiling), hang=2)
    _show_counts(models)


def _show_counts(models: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what was computed, and on what, below a table whose models share their clips."""
    scored = next(iter(models.values()))
    if scored["left_out"] and len(models) > 1:
        missing = "rated clips in no row, because some model has no prediction"
        show_lines(f"{missing}: {scored['left_out']}")
    if scored["groups_left_out"]:
        word = scored["group_word"]
        alone = f"{word}s in no {word} row, because of one clip or one label"
        show_lines(f"{alone}: {scored['groups_left_out']}")
    if scored["signature"]:
        show_lines(scored["signature"])


def show_systems(axis: str, records: Sequence[Mapping[Any, Any]], values: Sequence[str]) -> None:
    """Print a table by system below an empty line, if there are any systems.

    Args:
        axis: that was predicted.
        records: a system each: ``system``, ``clips`` and the values with ``_low`` and ``_high``.
        values: columns, the last of them with its interval.
    """
    if not records:
        return
    values = [name for name in values if name in records[0]]
    last = values[-1]
    largest = max(abs(one[name]) for one in records for name in values)
    click.echo()
    what = ", ".join(f"mean {name}" for name in values)
    rows = [
        [
            str(one["system"]),
            str(one["clips"]),
            *(number(one[name], like=largest) for name in values),
            span(one[f"{last}_low"], one[f"{last}_high"], like=largest),
        ]
        for one in records[:_SYSTEMS_SHOWN]
    ]
    show_table(
        ["system", "clips", *values, f"{last}, 95 %"],
        rows,
        title=f"{axis} by system: {what}; 95 % intervals over the clips of a system (t)",
    )
    if len(records) > _SYSTEMS_SHOWN:
        click.echo(f"and {len(records) - _SYSTEMS_SHOWN} more systems")


def _panels(ceiling: Mapping[str, Any]) -> str:
    """Say whose ceiling it is, and what panels that differ do to the labels."""
    if ceiling["lower_bound"]:
        return "the ceiling's correlations are a lower bound: it is not known who rated what"
    line = f"ceiling: of {ceiling['raters']} raters"
    if ceiling["panels"] < 0.0005:
        return f"{line}; their offsets move no label apart from another"
    share = 100 * ceiling["panels"]
    return f"{line}; not all rated the same clips ({share:.1f} % of the variance)"


def _single_seeds(found: Iterable[tuple[str, str, int, Mapping[str, Any]]]) -> list[str]:
    """Mean and std of single seeds' figures, a line a model with several seeds."""
    spreads: dict[str, list[str]] = {}
    for model, level, _, metrics in found:
        metric = metrics[_WITH_INTERVAL]
        if number(metric["seeds_std"]) != "-":
            mean, std = bare(metric["seeds_mean"], 3), bare(metric["seeds_std"], 3)
            spreads.setdefault(model, []).append(f"{level} {mean} (std {std})")
    word = _WITH_INTERVAL.upper()
    return [f"{model}, mean {word} of single seeds: {', '.join(s)}" for model, s in spreads.items()]


def show_words(axis: str, found: Mapping[str, Any]) -> None:
    """Print the verdicts on an axis, and where its errors come from."""
    sources = found["error_sources"]
    lines = [verdict["words"] for verdict in found["verdicts"]]
    lines += sources["words"] if sources else ()
    show_lines(*(f"{axis}: {line}" for line in lines), hang=2)
