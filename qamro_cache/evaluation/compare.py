"""How models are compared: baselines, the columns of every table, and paired differences.

Train, ablate and evaluate all come here with what `score` found. What is measured follows from
`metrics.METRICS` alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from qamro_cache.evaluation.baselines import nearest, ridge, support_vectors, train_mean
from qamro_cache.evaluation.bootstrap import interval, resampled
from qamro_cache.evaluation.choice import Evidence, Gap, confidence_set, evidence, gap
from qamro_cache.evaluation.figures import FIGURES, LEVELS, MAIN_FIGURES
from qamro_cache.evaluation.intervals import figure_of
from qamro_cache.evaluation.judged import Bools, Floats, Ints, Judged
from qamro_cache.evaluation.score import DECIDES, figures_of
from qamro_cache.evaluation.ways import sample_of

#: What stands behind a main figure in ``metrics.json`` and in ``summary.csv``.
PARTS = ("low", "high", "seeds_mean", "seeds_std")


def baselines(
    vectors: Floats,
    truth: Floats,
    learned: Bools,
    test: Bools,
    blocks: Sequence[int],
    groups: Ints | None = None,
    *,
    every: bool = False,
) -> dict[str, Floats]:
    """Predict held-out clips by what a head must beat: name -> predictions [C].

    Args:
        vectors: [C, D] one a clip.
        truth: [C] labels, NaN where a clip has none.
        learned: [F, C] the clips that each fold may learn from.
        test: [F, C] the clips that each fold predicts.
        blocks: widths of the vectors' blocks.
        groups: [C] clips that stay together as a penalty or k is chosen; see `fit_ridge`.
        every: support vector regression too, where scikit-learn is installed.
    """
    seen = (vectors, truth, learned, test, blocks, groups)
    found = {"ridge": ridge(*seen), "kNN": nearest(*seen)}
    if every and find_spec("sklearn") is not None:
        found["SVR"] = support_vectors(*seen)
    return {**found, "train mean": train_mean(truth, learned, test)}


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


#: So many cells take seven seconds to compare, ten times as many would take hours.
MOST_CELLS = 1000


class Best(NamedTuple):
    """Which of several models may be the best.

    Attributes:
        record: what ``best.json`` says.
        mcs_p: of each model the share of null draws that reach what it falls behind by, see
            `Choice`; NaN where there are too few systems or clips to tell, beyond the `MOST_CELLS`
            highest, or without the jackknife.
    """

    record: dict[str, Any]
    mcs_p: Floats


def best_of(
    models: Sequence[tuple[Mapping[str, Any], Floats, Mapping[str, Any]]],
    judged: Judged,
    resamples: int | None = None,
) -> Best:
    """Find the model of the highest clip SRCC, and those that cannot be told from it.

    By the jackknife a model confidence set tells: among many models the highest flatters itself.
    By a bootstrap each paired difference does, one at a time.

    Args:
        models: what each is called, its averaged prediction [C], and what `score` found.
        judged: the clips that all of them predict; see `common`.
        resamples: of `limits`.
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
    p, told, gaps = _against(order, predictions, judged, resamples)
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


def _against(
    order: Ints, predictions: Sequence[Floats], judged: Judged, resamples: int | None
) -> tuple[Floats, Bools, list[Gap | None]]:
    """Compare all with the first in ``order``: `Best.mcs_p`, whether told from it, differences."""
    p, told = np.full(len(order), np.nan), np.zeros(len(order), np.bool_)
    gaps: list[Gap | None] = [None] * len(order)
    if resamples is not None:
        for k in order:
            one = paired_gap(predictions[order[0]], predictions[k], judged, DECIDES, resamples)
            gaps[k], told[k] = one, one is not None and one.low > 0
        return p, told, gaps
    compared = order[:MOST_CELLS]
    found = _evidence([predictions[k] for k in compared], judged, DECIDES)
    for row, k in enumerate(compared):
        gaps[k] = _gap(found, 0, row)
    if found is not None:
        p[compared], left = confidence_set(found)
        told[compared] = ~left & np.isfinite(p[compared])
    return p, told, gaps


def paired_gap(
    ours: Floats, theirs: Floats, judged: Judged, figure: str, resamples: int | None = None
) -> Gap | None:
    """Return a figure's difference, ours less theirs, with its 95 % interval; None without any.

    Args:
        ours: [C] predictions of one model, its seeds averaged.
        theirs: [C] of the other.
        judged: the clips that both predict.
        figure: of `MAIN_FIGURES`.
        resamples: of `limits`.
    """
    if resamples is None:
        return _gap(_evidence([ours, theirs], judged, figure), 0, 1)
    drawn = [resampled(pred, judged, resamples=resamples, only=[figure]) for pred in (ours, theirs)]
    if figure not in drawn[0]:
        return None
    (both,) = figures_of(np.stack([ours, theirs]), judged, only=[figure]).values()
    return Gap(both[0] - both[1], *interval(drawn[0][figure] - drawn[1][figure]))


def _evidence(predictions: Sequence[Floats], judged: Judged, figure: str) -> Evidence | None:
    known = np.stack(predictions)[:, judged.known]
    return evidence(figure_of(figure), known, sample_of(judged))


def _gap(found: Evidence | None, ours: int, theirs: int) -> Gap | None:
    between = None if found is None else gap(found, ours, theirs)
    return None if between is None or np.isnan(between.low) else between
