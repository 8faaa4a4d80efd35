"""Every figure of one model, clip and system level, in the sample itself or in resamples of it."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from qamro_cache.evaluation.metrics import METRICS, system_means

LEVELS = ("clip", "system")

#: The figures of a table, in the order of its columns: ``clip_mse`` ... ``system_ktau``.
FIGURES = tuple(f"{level}_{name}" for level in LEVELS for name in METRICS)

#: Resamples computed at once: bounds memory at N clips to 64 N numbers a metric.
_CHUNK = 64


def figures(
    pred: Tensor,
    target: Tensor,
    system: Tensor,
    truth: Tensor | None = None,
    *,
    weights: Mapping[str, Tensor] | None = None,
    only: Collection[str] = FIGURES,
) -> dict[str, Tensor]:
    """Compute figures of K seeds: name -> [K], or [K, R] in R resamples; float64.

    Args:
        pred: [K, N] predictions; each seed is scored by itself.
        target: [N] labels.
        system: [N] int64, each clip's system from 0; -1 for none. Without any there are no figures
            of the system level.
        truth: [S] published system scores; where NaN, or not given, the mean over the clips.
        weights: how often each clip [R, N] and each system [R, S] stands in a resample, by level;
            None: the sample as it is.
        only: names of `FIGURES`.
    """
    found = {}
    for level, (of_seeds, labels) in by_level(pred, target, system, truth).items():
        for name, metric in METRICS.items():
            if f"{level}_{name}" not in only:
                continue
            if weights is None:
                value = metric.function(of_seeds, labels)
            else:
                # A seed at a time: its pair signs then serve all resamples in one product.
                parts = [
                    torch.stack([metric.function(one, labels, part) for one in of_seeds])
                    for part in weights[level].split(_CHUNK)
                ]
                value = torch.cat(parts, -1)
            found[f"{level}_{name}"] = value
    return found


def by_level(
    pred: Tensor, target: Tensor, system: Tensor, truth: Tensor | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return predictions [K, N or S] and labels of each level; arguments as of `figures`."""
    levels = {"clip": (pred, target)}
    if (system >= 0).any():
        size = int(system.max()) + 1
        means = system_means(target, system, size).mean
        if truth is not None:
            means = torch.where(truth.isnan(), means, truth)
        levels["system"] = (system_means(pred, system, size).mean, means)
    return levels
