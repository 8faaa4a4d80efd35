"""How far a figure moves by chance: cluster bootstrap over systems.

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
    pred: Tensor,
    target: Tensor,
    cluster: Tensor,
    counts: Tensor,
    system_truth: Tensor | None = None,
) -> dict[str, Tensor]:
    """Clip- and system-level metrics of every resample.

    Args:
        pred: [K, N] predictions of K seeds (or folds of one model): each is scored by itself.
        target: [N] labels.
        cluster: [N] int64, each clip's system.
        counts: [R, S] how often each system was drawn.
        system_truth: [S] published system scores, see `true_system_scores`.

    Returns:
        ``clip_mse`` ... ``system_ktau``, each [K, R] float64. Clip-level tau is left out beyond
        1,000 clips, where it would take minutes.
    """
    system_pred = system_means(pred, cluster, counts.shape[-1]).mean
    system_target, clips = system_means(target, cluster, counts.shape[-1])
    system_target = true_system_scores(system_target, system_truth)
    results: dict[str, list[Tensor]] = {}
    for chunk in torch.split(counts, _CHUNK):
        levels = {
            "clip": (pred, target, chunk[:, cluster]),
            "system": (system_pred, system_target, chunk * (clips > 0)),
        }
        for level, (of_seeds, truth, weights) in levels.items():
            for name, metric in METRICS.items():
                if name != "ktau" or len(truth) <= _TAU_LIMIT:
                    # A seed at a time: its pair signs then serve all resamples in one product.
                    figures = torch.stack([metric(one, truth, weights) for one in of_seeds])
                    results.setdefault(f"{level}_{name}", []).append(figures)
    return {name: torch.cat(parts, -1) for name, parts in results.items()}


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
    system_truth: Tensor | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of every metric, clip and system level, over systems drawn with replacement.

    Args:
        pred: [K, N] predictions of K seeds; a figure is the mean over the seeds' figures, in the
            data and in each resample.
        target: [N] labels.
        system: [N] each clip's system from 0; give every clip its own where there are none.
        system_truth: [S] published system scores, see `true_system_scores`.
        resamples: bootstrap draws.
        level: share of the resamples inside the interval.
        seed: of the draws.
    """
    t, s = torch.as_tensor(target), torch.as_tensor(system)
    drawn = torch.as_tensor(draw_clusters(int(system.max()) + 1, resamples, seed))
    # The data as they are stand first: every system drawn once.
    counts = torch.cat([torch.ones_like(drawn[:1]), drawn])
    figures = _seed_mean(torch.as_tensor(pred), t, s, counts, system_truth)
    return {name: interval(f[0].item(), f[1:], level) for name, f in figures.items()}


def true_system_scores(means: Tensor, published: Tensor | None) -> Tensor:
    """The systems' truth [S]: what was published, and where that is NaN the mean over the clips."""
    return means if published is None else torch.where(published.isnan(), means, published)


def _seed_mean(
    pred: Tensor, target: Tensor, system: Tensor, counts: Tensor, truth: Tensor | None
) -> dict[str, Tensor]:
    figures = resampled_metrics(pred, target, system, counts, truth)
    return {name: value.mean(0) for name, value in figures.items()}
