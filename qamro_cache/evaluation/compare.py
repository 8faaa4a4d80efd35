"""How models are compared: baselines, the columns of every table, and paired differences.

Train, ablate and evaluate all come here with what `score` found. What is measured follows from
`metrics.METRICS` alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qamro_cache.evaluation.baselines import ridge, train_mean
from qamro_cache.evaluation.bootstrap import Interval, interval, resampled
from qamro_cache.evaluation.figures import FIGURES, LEVELS
from qamro_cache.evaluation.judged import Bools, Floats, Ints, Judged

#: What stands behind a figure in ``metrics.json`` and in ``summary.csv``.
PARTS = ("std", "low", "high")

#: Systems from which the system level decides which model is best.
MIN_SYSTEMS = 10


def baselines(
    vectors: Floats,
    truth: Floats,
    learned: Bools,
    test: Bools,
    blocks: Sequence[int],
    groups: Ints | None = None,
) -> dict[str, Floats]:
    """Predict held-out clips by what a head must beat: name -> predictions [C].

    Args:
        vectors: [C, D] one a clip.
        truth: [C] labels, NaN where a clip has none.
        learned: [F, C] the clips that each fold may learn from.
        test: [F, C] the clips that each fold predicts.
        blocks: widths of the vectors' blocks.
        groups: [C] clips that stay together as a penalty is chosen; see `fit_ridge`.
    """
    return {
        "ridge": ridge(vectors, truth, learned, test, blocks, groups),
        "train mean": train_mean(truth, learned, test),
    }


def columns(scored: Mapping[str, Any], *, parts: Sequence[str] = ()) -> dict[str, float]:
    """Return what `score` found as columns of a table, NaN where a figure is not there.

    Args:
        scored: of `score`.
        parts: of `PARTS`: each figure is followed by ``<figure>_<part>``.
    """
    found = {}
    for name in FIGURES:
        metric = scored["metrics"].get(name, {})
        found[name] = float(metric.get("value", np.nan))
        found |= {f"{name}_{part}": float(metric.get(part, np.nan)) for part in parts}
    return found


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


def best_of(
    models: Sequence[tuple[Mapping[str, Any], Floats, Mapping[str, Any]]],
    judged: Judged,
    resamples: int,
) -> dict[str, Any]:
    """Find the model of the highest SRCC, and those that a paired bootstrap cannot tell from it.

    Args:
        models: what each is called, its predictions [K, C], and what `score` found.
        judged: the same clips.
        resamples: bootstrap draws.
    """
    known = np.isfinite(judged.target)
    usable = [one for one in models if np.isfinite(one[1][:, known]).all()]
    if not usable:
        return {"cell": None, "reason": "every cell has heads that diverged"}
    systems = len(np.unique(judged.system[known & (judged.system >= 0)]))
    figure = f"{'system' if systems >= MIN_SYSTEMS else 'clip'}_srcc"
    values = [columns(scored)[figure] for *_, scored in usable]
    if not np.isfinite(values).any():
        return {"cell": None, "reason": f"{figure} is undefined"}
    place = int(np.nanargmax(values))
    alike = []
    for k, (names, pred, _) in enumerate(usable):
        if k == place:
            continue
        gap = paired_gap(usable[place][1], pred, judged, figure, resamples)
        if gap is None or not gap.low > 0:
            alike.append({"cell": dict(names), figure: values[k], "gap_95": gap})
    return {
        "metric": figure,
        "cell": dict(usable[place][0]),
        figure: values[place],
        "systems": systems,
        "clearly_best": len(usable) > 1 and not alike,
        "not_told_apart": alike,
        "note": "chosen on the clips it is reported on, so the figure flatters it",
    }


def paired_gap(
    ours: Floats, theirs: Floats, judged: Judged, figure: str, resamples: int
) -> Interval | None:
    """Return the 95 % interval of a figure's difference on the same resamples; None without any.

    Args:
        ours: [K, C] predictions of one model.
        theirs: [J, C] of the other.
        judged: the same clips.
        figure: of `FIGURES`.
        resamples: bootstrap draws.
    """
    known = np.isfinite(judged.target)
    target, system = judged.target[known], judged.system[known]
    systems = np.unique(system[system >= 0])
    system = np.where(system >= 0, np.searchsorted(systems, system), -1)
    drawn = [
        resampled(pred[:, known], target, system, resamples=resamples, only=[figure])
        for pred in (ours, theirs)
    ]
    if figure not in drawn[0]:
        return None
    return interval(drawn[0][figure] - drawn[1][figure])
