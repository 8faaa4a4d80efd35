"""Every figure of one model: over clips, over systems and within groups; as is or in resamples."""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from qamro_cache.evaluation.judged import Floats, Judged
from qamro_cache.evaluation.metrics import METRICS
from qamro_cache.evaluation.ways import sample_of
from qamro_cache.evaluation.weighted import system_means
from qamro_cache.evaluation.within import Block, blocks_of, mean_over_groups

#: Over all clips, over the systems' means, and the mean over groups of what is found in each.
LEVELS = ("clip", "system", "group")

#: The figures of a table, in the order of its columns: ``clip_mse`` ... ``group_best_hit``.
FIGURES = tuple(
    f"{level}_{name}"
    for level in LEVELS
    for name, metric in METRICS.items()
    if level in metric.levels
)

#: The figures that have an interval.
MAIN_FIGURES = tuple(name for name in FIGURES if METRICS[name.partition("_")[2]].main)

#: Tau without each cluster compares all pairs of clips; beyond this many clips it has no interval.
_TAU_LIMIT = 1000

#: Resamples computed at once: bounds memory at N clips to 64 N numbers a metric.
_CHUNK = 64


def figures(
    pred: Tensor,
    target: Tensor,
    system: Tensor,
    truth: Tensor | None = None,
    *,
    group: Tensor | None = None,
    candidates: Tensor | None = None,
    weights: Mapping[str, Tensor] | None = None,
    only: Collection[str] = FIGURES,
) -> dict[str, Tensor]:
    """Compute figures of K predictions: name -> [K], or [K, R] in R resamples; float64.

    Args:
        pred: [K, N]; each is scored by itself.
        target: [N] labels.
        system: [N] int64, each clip's system from 0; -1 for none. Without any there are no figures
            of the system level.
        truth: [S] published system scores; where NaN, or not given, the mean over the clips.
        group: [N] int64, -1 for none; without any there are no figures of the group level.
        candidates: [N] bool, the clips that one would choose among; None: all.
        weights: how often each clip [R, N] and each system [R, S] stands in a resample, by level;
            None: the sample as it is.
        only: names of `FIGURES`.
    """
    levels = by_level(pred, target, system, truth)
    blocks = [] if group is None else blocks_of(group)
    if blocks:
        levels["group"] = (pred, target)
    chosen = None if candidates is None else candidates.double()
    found = {}
    for name in FIGURES:
        level = name.partition("_")[0]
        if name not in only or level not in levels:
            continue
        of_models, labels = levels[level]
        function = _function(name, blocks, chosen)
        if weights is None:
            found[name] = function(of_models, labels, None)
        else:
            # A model at a time: its pair signs then serve all resamples in one product.
            parts = [
                torch.stack([function(one, labels, part) for one in of_models])
                for part in weights["system" if level == "system" else "clip"].split(_CHUNK)
            ]
            found[name] = torch.cat(parts, -1)
    return found


def with_interval(clips: int) -> list[str]:
    """Return which of `MAIN_FIGURES` have an interval over that many clips."""
    return [name for name in MAIN_FIGURES if name != "clip_ktau" or clips <= _TAU_LIMIT]


def _function(
    name: str, blocks: Sequence[Block], candidates: Tensor | None
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """Return what computes a figure of predictions, labels and weights of its level."""
    level, _, short = name.partition("_")
    metric = METRICS[short]
    if level != "group":
        return metric.function

    def within(pred: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        if metric.choice and candidates is not None:
            weights = candidates if weights is None else weights * candidates
        return mean_over_groups(metric.function, pred, target, weights, blocks)

    return within


def by_level(
    pred: Tensor, target: Tensor, system: Tensor, truth: Tensor | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return predictions [K, N or S] and labels of each level; arguments as of `figures`."""
    levels = {"clip": (pred, target)}
    if (system >= 0).any():
        size = int(system.max()) + 1
        means = system_means(target, system, size)
        if truth is not None:
            means = torch.where(truth.isnan(), means, truth)
        levels["system"] = (system_means(pred, system, size), means)
    return levels


def figures_of(
    pred: Floats, judged: Judged, *, only: Collection[str] = FIGURES
) -> dict[str, list[float]]:
    """Return each figure of each prediction [K, C], on another scale without those in its units."""
    known, sample = judged.known, sample_of(judged)
    found = figures(
        torch.as_tensor(pred[:, known]),
        torch.as_tensor(sample.target),
        torch.as_tensor(sample.system),
        None if sample.truth is None else torch.as_tensor(sample.truth),
        group=torch.as_tensor(sample.group),
        candidates=None if judged.reference is None else torch.as_tensor(~judged.reference[known]),
        only=only,
    )
    return {
        name: values.tolist()
        for name, values in found.items()
        if judged.same_scale or not METRICS[name.partition("_")[2]].same_scale
    }
