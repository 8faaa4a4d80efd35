"""How far a figure moves by chance: cluster bootstrap over systems, paired between two models.

Clips of one system are not independent, so whole systems are drawn with replacement (Field and
Welsh, "Bootstrapping clustered data", 2007). A resample is a count a system, which the metrics
take as weights: all resamples are one batch.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qamro_cache.evaluation.metrics import METRICS, system_means

#: Resamples computed at once: bounds memory at N clips to 64 N numbers a metric.
_CHUNK = 64

#: Tau compares all pairs in every resample; beyond this many clips its interval is left out.
_TAU_LIMIT = 1000


class Interval(NamedTuple):
    """A figure on the data as it is, and the middle ``level`` of its resamples."""

    value: float
    low: float
    high: float


def draw_clusters(num_clusters: int, resamples: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Counts [resamples, num_clusters] of drawing that many clusters with replacement."""
    generator = np.random.default_rng(seed)
    even = np.full(num_clusters, 1.0 / num_clusters)
    return generator.multinomial(num_clusters, even, size=resamples)


def resampled_metrics(
    pred: Tensor, target: Tensor, cluster: Tensor, counts: Tensor
) -> dict[str, Tensor]:
    """Clip- and system-level metrics of every resample.

    Args:
        pred: [N] predictions.
        target: [N] labels.
        cluster: [N] int64, each clip's system.
        counts: [R, S] how often each system was drawn.

    Returns:
        ``clip_mse`` ... ``system_ktau``, each [R] float64. Clip-level tau is left out beyond
        1,000 clips, where it would take minutes.
    """
    system_pred, present = system_means(pred, cluster, counts.shape[-1])
    system_target = system_means(target, cluster, counts.shape[-1]).mean
    results: dict[str, list[Tensor]] = {}
    for chunk in torch.split(counts, _CHUNK):
        clip_weights = chunk[:, cluster]
        system_weights = chunk * (present > 0)
        for name, metric in METRICS.items():
            if name != "ktau" or len(pred) <= _TAU_LIMIT:
                results.setdefault(f"clip_{name}", []).append(metric(pred, target, clip_weights))
            value = metric(system_pred, system_target, system_weights)
            results.setdefault(f"system_{name}", []).append(value)
    return {name: torch.cat(parts) for name, parts in results.items()}


def interval(value: float, resampled: Tensor, level: float = 0.95) -> Interval:
    """Percentile interval of a resampled figure; NaN resamples (undefined there) are left out."""
    known = resampled[~resampled.isnan()]
    if known.numel() < 2:
        return Interval(value, float("nan"), float("nan"))
    tail = (1 - level) / 2
    low, high = torch.quantile(known, torch.tensor([tail, 1 - tail], dtype=known.dtype)).tolist()
    return Interval(value, low, high)


def bootstrap_intervals(
    pred: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
    system: npt.NDArray[np.int64],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of every metric, clip and system level, over systems drawn with replacement.

    Args:
        pred: [N] predictions.
        target: [N] labels.
        system: [N] each clip's system from 0; give every clip its own where there are none.
        resamples: bootstrap draws.
        level: share of the resamples inside the interval.
        seed: of the draws.
    """
    p, t, s = torch.as_tensor(pred), torch.as_tensor(target), torch.as_tensor(system)
    figures = resampled_metrics(p, t, s, _once_and_drawn(system, resamples, seed))
    return {name: interval(f[0].item(), f[1:], level) for name, f in figures.items()}


def paired_difference(
    pred_a: npt.NDArray[np.float64],
    pred_b: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
    system: npt.NDArray[np.int64],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of metric(a) - metric(b) on the same resamples; arguments as above."""
    t, s = torch.as_tensor(target), torch.as_tensor(system)
    counts = _once_and_drawn(system, resamples, seed)
    a = resampled_metrics(torch.as_tensor(pred_a), t, s, counts)
    b = resampled_metrics(torch.as_tensor(pred_b), t, s, counts)
    difference = {name: a[name] - b[name] for name in a}
    return {name: interval(d[0].item(), d[1:], level) for name, d in difference.items()}


def _once_and_drawn(system: npt.NDArray[np.int64], resamples: int, seed: int) -> Tensor:
    """Counts [1 + resamples, S]: first the data as they are, every system once, then the draws."""
    drawn = torch.as_tensor(draw_clusters(int(system.max()) + 1, resamples, seed))
    return torch.cat([torch.ones_like(drawn[:1]), drawn])
