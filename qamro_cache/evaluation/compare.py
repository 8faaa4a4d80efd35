"""How models are compared: the columns of every table, the best model, and paired differences.

Train, ablate and evaluate all come here with what `score` found. What is measured follows from
`metrics.METRICS` alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qamro_cache.evaluation.figures import FIGURES, LEVELS, MAIN_FIGURES
from qamro_cache.evaluation.judged import Floats, Judged
from qamro_cache.evaluation.limits import Gap, intervals_of
from qamro_cache.evaluation.score import DECIDES

#: What stands behind a main figure in ``metrics.json`` and in ``summary.csv``.
PARTS = ("low", "high", "seeds_mean", "seeds_std")


def columns(scored: Mapping[str, Any], *, parts: Sequence[str] = ()) -> dict[str, float]:
    """Return what `score` found as columns of a table, NaN where a figure is not there.

    Args:
        scored: of `score`.
        parts: of `PARTS`: each main figure is followed by ``<figure>_<part>``.
    """
    found = {}
    for name in FIGURES:
        metric = scored["metrics"].get(name, {})
        found[name] = float(metric.get("value", np.nan))
        if name in MAIN_FIGURES:
            found |= {f"{name}_{part}": float(metric.get(part, np.nan)) for part in parts}
    return found


def seed_columns(scored: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Return the figures of one seed's own predictions, NaN where one is not there.

    Args:
        scored: of `score`.
        seed: its place among the seeds.
    """
    return {
        name: float(scored["metrics"][name]["by_seed"][seed])
        if name in scored["metrics"]
        else np.nan
        for name in FIGURES
    }


def levels(scored: Mapping[str, Any]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield each level that has figures, how many stand behind it, and its figures by metric."""
    for level in LEVELS:
        found = {
            name.removeprefix(f"{level}_"): metric
            for name, metric in scored["metrics"].items()
            if name.startswith(f"{level}_")
        }
        if found:
            yield level, scored[f"{level}s"], found


class Best(NamedTuple):
    """Which of several models may be the best.

    Attributes:
        record: what ``best.json`` says.
        mcs_p: of each model, see `Against.p`; NaN where there are too few systems or clips to tell.
    """

    record: dict[str, Any]
    mcs_p: Floats


def best_of(
    models: Sequence[tuple[Mapping[str, Any], Floats, Mapping[str, Any]]],
    judged: Judged,
) -> Best:
    """Find the model of the highest clip SRCC, and those that cannot be told from it.

    Args:
        models: what each is called, its averaged prediction [C], and what `score` found.
        judged: the clips that all of them predict; see `common`.
    """
    none = np.full(len(models), np.nan)
    if not models:
        return Best({"cell": None, "reason": "every cell has heads that diverged"}, none)
    values = [columns(scored)[DECIDES] for *_, scored in models]
    if not np.isfinite(values).any():
        return Best({"cell": None, "reason": f"{DECIDES} is undefined"}, none)
    place = int(np.nanargmax(values))
    predictions = [pred for _, pred, _ in models]
    # The highest first, those whose figure is undefined last.
    order = np.argsort(-np.array(values), kind="stable")
    p, told, gaps = intervals_of(judged).against(order, predictions, judged, DECIDES)
    alike = [k for k in range(len(models)) if k != place and not told[k]]
    record = {
        "metric": DECIDES,
        "cell": dict(models[place][0]),
        DECIDES: values[place],
        "cells": len(models),
        "mcs_p": float(p[place]),
        "systems": models[place][2]["systems"],
        "population": models[place][2]["population"],
        "signature": models[place][2]["signature"],
        "clearly_best": len(models) > 1 and not alike,
        "not_told_apart": [
            {
                "cell": dict(models[k][0]),
                DECIDES: values[k],
                "mcs_p": float(p[k]),
                "gap_95": None if (one := gaps[k]) is None else [one.low, one.high],
            }
            for k in alike
        ],
        "note": "chosen on the clips it is reported on, so the figure flatters it; mcs_p is a "
        "share of null draws, not a chance of being best",
    }
    return Best(record, p)


def paired_gap(ours: Floats, theirs: Floats, judged: Judged, figure: str) -> Gap | None:
    """Return a figure's difference, ours less theirs, with its interval; see `Intervals.gap`."""
    return intervals_of(judged).gap(ours, theirs, judged, figure)
