"""What is said of the best of many cells: on a terminal and on a page."""

from collections.abc import Iterator, Mapping
from typing import Any

from qamro_cache.reports.numbers import number, short_span, span


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
    "clip_srcc": "clip SRCC",
    "group_srcc": "SRCC within groups",
    "system_srcc": "system SRCC",
    "clip_mse": "clip MSE",
}


def ensemble_words(record: Mapping[str, Any]) -> Iterator[str]:
    """Say what an ensemble gains over the best cell, and what it is of."""
    way = "the highest" if record["choose"] == "top" else "greedily"
    yield (
        f"up to {record['members']} of {record['cells']} cells, chosen {way} by heads inside each "
        "fold's training clips, less the best cell chosen so:"
    )
    for name, one in record["gain"].items():
        both = f"{number(one['best_cell'])} to {number(one['ensemble'])}"
        limits, verb = short_span(one["low"], one["high"]), "gains"
        if name == "clip_mse":  # where less is better
            limits, verb = span(one["low"], one["high"], like=one["gain"]), "changes by"
        yield f"{_GAINS[name]} {verb} {_signed(one['gain'])} (95 % {limits}), {both}"
    saved = ", ".join(
        f"{100 * one['share']:.0f} % {_cell_words(one['cell'])}" for one in record["saved"]
    )
    yield f"saved: {saved}"


def _signed(value: float) -> str:
    text = number(value)
    return text if text.startswith("-") else f"+{text}"


def _cell_words(cell: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in cell.items()) or "the only cell"
