"""How models are compared: baselines, the columns of every table, and paired differences.

Train, ablate and evaluate all come here with what `score` found. What is measured follows from
`metrics.METRICS` alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qamro_cache.evaluation.baselines import ridge, train_mean
from qamro_cache.evaluation.bootstrap import draw_clusters, interval
from qamro_cache.evaluation.metrics import METRICS, system_means
from qamro_cache.evaluation.score import FIGURES, LEVELS, Bools, Floats, Judged, clusters, score

#: What stands behind a figure in ``metrics.json`` and in ``summary.csv``.
PARTS = ("std", "low", "high")

#: Systems from which the system level decides which model is best.
MIN_SYSTEMS = 10


def baselines(vectors: Floats, truth: Floats, learned: Bools, test: Bools) -> dict[str, Floats]:
    """Predict held-out clips by what a head must beat: name -> predictions [C].

    Args:
        vectors: [C, D] one a clip.
        truth: [C] labels, NaN where a clip has none.
        learned: [F, C] the clips that each fold may learn from.
        test: [F, C] the clips that each fold predicts.
    """
    return {
        "ridge": ridge(vectors, truth, learned, test),
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
    models: Sequence[tuple[Mapping[str, Any], Floats]], judged: Judged, resamples: int
) -> dict[str, Any]:
    """Find the model of the highest SRCC, and those that a paired bootstrap cannot tell from it.

    Args:
        models: what each is called, and its predictions [K, C].
        judged: the same clips.
        resamples: bootstrap draws.
    """
    known = np.isfinite(judged.target)
    usable = [(names, pred) for names, pred in models if np.isfinite(pred[:, known]).all()]
    if not usable:
        return {"cell": None, "reason": "every cell has heads that diverged"}
    systems = len(np.unique(judged.system[known & (judged.system >= 0)]))
    figure = f"{'system' if systems >= MIN_SYSTEMS else 'clip'}_srcc"
    values = [columns(score(pred, judged, resamples=0))[figure] for _, pred in usable]
    if not np.isfinite(values).any():
        return {"cell": None, "reason": f"{figure} is undefined"}
    place = int(np.nanargmax(values))
    alike = []
    for k, (names, pred) in enumerate(usable):
        if k == place:
            continue
        gap = paired_gap(usable[place][1], pred, judged, figure, resamples)
        if gap is None or not gap[0] > 0:
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
) -> tuple[float, float] | None:
    """Return the 95 % interval of a figure's difference on the same resamples; None without any.

    Args:
        ours: [K, C] predictions of one model.
        theirs: [J, C] of the other.
        judged: the same clips.
        figure: of `FIGURES`.
        resamples: bootstrap draws.
    """
    known = np.isfinite(judged.target)
    if not known.any() or resamples == 0:
        return None
    cluster, inside = clusters(judged.system[known])
    used = np.flatnonzero(known)[inside]
    place = torch.as_tensor(np.unique(cluster[inside], return_inverse=True)[1])
    counts = torch.as_tensor(draw_clusters(int(place.max()) + 1, resamples))
    target = torch.as_tensor(judged.target[used])
    gaps = [
        _resampled(torch.as_tensor(pred[:, used]), target, place, counts, figure)
        for pred in (ours, theirs)
    ]
    found = interval(float("nan"), gaps[0] - gaps[1])
    return found.low, found.high


def _resampled(
    pred: torch.Tensor,
    target: torch.Tensor,
    cluster: torch.Tensor,
    counts: torch.Tensor,
    figure: str,
) -> torch.Tensor:
    """Return one figure of each resample [R], the mean over the seeds."""
    level, _, name = figure.partition("_")
    if level == "system":
        pred = system_means(pred, cluster, counts.shape[1]).mean
        target, clips = system_means(target, cluster, counts.shape[1])
        weights = counts * (clips > 0)
    else:
        weights = counts[:, cluster]
    parts = [METRICS[name](pred[:, None], target, part) for part in weights.split(64)]
    return torch.cat(parts, -1).mean(0)
