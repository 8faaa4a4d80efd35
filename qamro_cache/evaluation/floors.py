"""The least variance of an error: few clusters cannot estimate their own spread."""

import numpy as np

from qamro_cache.evaluation.judged import Floats, Ints
from qamro_cache.evaluation.ways import Sample


def least_variances(level: str, metric: str, pred: Floats, sample: Sample) -> list[Floats]:
    """The least relative variance [M] of an error in each way.

    Eight squared song errors cannot estimate their own spread: a mean square of C normal cluster
    errors of mean m and variance v has at least (2 v^2 + 4 m^2 v) / C. A root or an absolute
    error has a quarter of it, relatively (the delta method).
    """
    error = pred - sample.target
    if metric == "mse_fit":
        error = _left_by_a_line(pred, sample.target)
    squared = (error**2).mean(-1)
    factor = 0.25 if metric == "mae" else 1.0
    floors = []
    for way, label in zip(sample.ways.over, sample.ways.clusters(), strict=False):
        if level == "system" and way.noun != "system":
            floors.append(np.zeros(len(pred)))
            continue
        means = _cluster_means(error, label)
        m = error.mean(-1)
        if level == "system":
            truth = _cluster_means(sample.target[None], sample.system)
            if sample.truth is not None:
                truth = np.where(np.isnan(sample.truth), truth, sample.truth)
            means = _cluster_means(pred, sample.system) - truth
            if metric == "mse_fit":
                means = _left_by_a_line(_cluster_means(pred, sample.system), truth)
            m, squared = means.mean(-1), (means**2).mean(-1)
        v = means.var(-1, ddof=1)
        floor = (2 * v**2 + 4 * m**2 * v) / (means.shape[-1] * squared**2)
        floors.append(floor * factor * (0.75 if level == "system" else 1.0))
    return floors


def _cluster_means(values: Floats, label: Ints) -> Floats:
    """Means [M, C] of values [M, N] over the clips of each label."""
    belongs = (label[:, None] == np.arange(label.max() + 1)).astype(np.float64)
    means: Floats = values @ belongs / belongs.sum(0)
    return means


def _left_by_a_line(pred: Floats, target: Floats) -> Floats:
    """What the best straight line of the predictions [M, N] leaves of the targets."""
    p = pred - pred.mean(-1, keepdims=True)
    t = target - target.mean(-1, keepdims=True)
    rest: Floats = t - (p * t).sum(-1, keepdims=True) / (p**2).sum(-1, keepdims=True) * p
    return rest
