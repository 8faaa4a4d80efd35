"""Figures of models on a terminal: what a table is of, a row a level, and words below it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import click

from qamro_cache.reports.numbers import bare, number, short_span, span

from .tables import show_lines, show_table

#: The metric whose interval and single seeds stand beside the figures.
_WITH_INTERVAL = "srcc"
_SYSTEMS_SHOWN = 40
#: Of the records of `qamro_cache.evaluation.by_system.by_system`.
SYSTEM_COLUMNS = ("predicted", "rated", "error")


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
    first = next(iter(models.values()))
    rows = [
        [
            model,
            _over(level, count, first["group_word"]),
            *(figure(name, metrics[name]["value"]) if name in metrics else "" for name in names),
            short_span(metrics[_WITH_INTERVAL]["low"], metrics[_WITH_INTERVAL]["high"]),
        ]
        for model, level, count, metrics in found
    ]
    bound = ceiling["figures"] if ceiling else {}
    for level in dict.fromkeys(figure.partition("_")[0] for figure in bound):
        keys = [(name, f"{level}_{name}") for name in names]
        values = [figure(name, bound[key]) if key in bound else "" for name, key in keys]
        count = ceiling["clips"] if ceiling and level == "clip" else first[f"{level}s"]
        rows.append(["ceiling", _over(level, count, first["group_word"]), *values, "-"])
    shown = [name.upper().replace("_FIT", " (fit)") for name in names]
    columns = ["", "", *shown, f"{_WITH_INTERVAL.upper()}, 95 %"]
    show_heading(axis, origin, first)
    show_table(columns, rows, left=2)
    show_lines(*_single_seeds(found), *_odd_rows(models), hang=2)
    if ceiling:
        show_lines(_panels(ceiling), hang=2)
    _show_counts(models)


def _over(level: str, count: int, group_word: str) -> str:
    """Say what figures of a level are over: ``84 clips``, ``7 systems``, ``in 12 groups``."""
    word = group_word if level == "group" else level
    return f"{'in ' if level == 'group' else ''}{count} {word}{'s' if count != 1 else ''}"


def figure(name: str, value: Any) -> str:
    """Return a metric's value as a table has it: correlations as the intervals beside them."""
    from qamro_cache.evaluation.metrics import METRICS

    shown = number(value)
    plain = shown == "-" or METRICS[name].interval != "correlation"
    return shown if plain else bare(float(value), 3)


def _odd_rows(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what is odd about rows: no MSE, or correlations of what is one number a fold."""
    lines = []
    errors = {name: "clip_mse" in scored["metrics"] for name, scored in models.items()}
    own = [name for name, there in errors.items() if not there]
    if own and any(errors.values()):
        lines.append(f"{', '.join(own)}: in units of {'its' if len(own) == 1 else 'their'} own, "
                     "so without MSE and RMSE")  # fmt: skip
    constant = models.get("train mean", {"metrics": {}})["metrics"].get("clip_lcc", {})
    if number(constant.get("value")) != "-":
        lines.append(
            "train mean: one number a fold, lower where good clips are held out: its correlations "
            "come from how clips are held out, and say nothing of it"
        )
    return lines


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


def far_words(ood: int, models: Mapping[str, Mapping[str, Any]], *, of_folds: bool = True) -> str:
    """Say how many of the clips judged are out of distribution, of their folds or of a head."""
    of, then = "their fold's training clips", "the figures count them"
    if not of_folds:
        of, then = "the head's training set", "do not rely on their predictions"
    clips = next(iter(models.values()))["clips"]
    return f"{ood} of {clips} clips are out of the distribution of {of}; {then}"


def begin(axis: str, axes: Collection[str]) -> str:
    """Return what lines about an axis begin with: of several its name, else nothing."""
    return f"{axis}: " if len(axes) > 1 else ""


def show_words(begins: str, found: Mapping[str, Any]) -> None:
    """Print the verdicts on an axis, and where its errors come from; ``begins``: of `begin`."""
    sources = found["error_sources"]
    lines = [verdict["words"] for verdict in found["verdicts"]]
    lines += sources["words"] if sources else ()
    show_lines(*(f"{begins}{line}" for line in lines), hang=2)
