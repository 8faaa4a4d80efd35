"""What is said of the best of many cells: on a terminal and on a page."""

from collections.abc import Iterator, Mapping
from typing import Any

from qamro_cache.reports.numbers import number, short_span, span
from qamro_cache.reports.page import Block, Estimate, Table, Value, sentences
from qamro_cache.reports.scores import value_of


def nested_words(record: Mapping[str, Any]) -> Iterator[str]:
    """Say what the choice among the cells is worth."""
    found = record["nested"] or {}
    how = {
        "exact": "with each fold's cell chosen among the {} without what the fold holds out",
        "approximate": "approximately, with each fold's cell chosen among the {} by the other "
        "folds, whose heads have learned what it holds out (--nested: without)",
    }
    for name, words in how.items():
        if one := found.get(name):
            limits = short_span(one["low"], one["high"])
            said = words.format(found["cells"])
            yield f"{record['metric']} {number(one['value'])} ({limits}) {said}"


def choice_words(axis: str, record: Mapping[str, Any]) -> str:
    """Say which cell is best by the one metric that decides, and what cannot be told from it."""
    if record["cell"] is None:
        return f"{axis}: no best cell: {record['reason']}"
    cell = ", ".join(f"{name}={value}" for name, value in record["cell"].items())
    others, cells, baseline = (record[name] for name in ("not_told_apart", "cells", "baseline"))
    verdict = "the only cell"
    if record["clearly_best"]:
        verdict = f"clearly above all others (95 %, {cells} cells)"
    elif others and all(one["gap_95"] is None for one in others):
        verdict = f"and nothing tells the {cells} cells apart: there are no intervals"
    elif others:
        verdict = f"not told apart at 95 %: {len(others) + 1} of {cells} cells"
    elif baseline is not None and not baseline["beats"]:
        verdict = f"but not clearly above {baseline['baseline']}"
    return f"{axis}: highest {record['metric']} with {cell or 'this cell'}, {verdict}"


#: What a gain is of, in words.
_GAINS = {
    "centered_clip_srcc": "clip SRCC",
    "centered_group_srcc": "SRCC within groups",
    "centered_system_srcc": "system SRCC",
    "clip_mse": "clip MSE",
}
#: What those of ranks are of (`qamro_cache.evaluation.ensembles.RANKS`).
_CENTERED = "ranks by predictions less the mean label of their fold's training clips"


def ensemble_words(record: Mapping[str, Any]) -> Iterator[str]:
    """Say what an ensemble gains over the best cell, and what it is of."""
    yield f"{_how(record)}, less the best cell chosen so ({_CENTERED}):"
    yield from _gain_words(record)
    yield _saved(record)


def gain_words(record: Mapping[str, Any]) -> str:
    """Say in a line what an ensemble gains over the best cell."""
    return f"over the best cell, {'; '.join(_gain_words(record))}"


def ensemble_blocks(axis: str, record: Mapping[str, Any]) -> list[Block]:
    """Return the same for a page: a table of gains, and words."""
    rows: list[list[Value]] = [
        [
            _GAINS[name],
            *(value_of(one, model) for model in ("best_cell", "ensemble")),
            Estimate(*(value_of(one, part) for part in ("gain", "low", "high"))),
        ]
        for name, one in record["gain"].items()
    ]
    gains = Table(
        f"{axis}: what averaging gains",
        ["figure", "best cell", "ensemble", "difference"],
        rows,
        paper=True,
        note=f"With the paired 95 % interval; {_CENTERED}, so they are not those of the table of "
        "models. An interval that holds 0 does not tell them apart; of an error less is better.",
    )
    return [sentences([_how(record), _saved(record)]), gains]


def _gain_words(record: Mapping[str, Any]) -> Iterator[str]:
    for name, one in record["gain"].items():
        both = f"{number(one['best_cell'])} to {number(one['ensemble'])}"
        limits, verb = short_span(one["low"], one["high"]), "gains"
        if name == "clip_mse":  # where less is better
            limits, verb = span(one["low"], one["high"], like=one["gain"]), "changes by"
        yield f"{_GAINS[name]} {verb} {_signed(one['gain'])} (95 % {limits}), {both}"


def _how(record: Mapping[str, Any]) -> str:
    way = "the highest" if record["choose"] == "top" else "greedily"
    return (
        f"up to {record['members']} of {record['cells']} cells, chosen {way} by heads inside each "
        "fold's training clips"
    )


def _saved(record: Mapping[str, Any]) -> str:
    shares = (f"{100 * one['share']:.0f} % {_cell_words(one['cell'])}" for one in record["saved"])
    return f"saved: {', '.join(shares)}"


def _signed(value: float) -> str:
    text = number(value)
    return text if text.startswith("-") else f"+{text}"


def _cell_words(cell: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in cell.items()) or "the only cell"
