"""Figures within a group (a prompt, a song): what choosing the best of its clips takes.

A figure is computed in each group and averaged over the groups, each counting once. Groups whose
labels are all equal, or of fewer than two clips, say nothing and are left out: the labels alone
decide that, so that all models are judged by the same groups. A model that gives all clips of a
group one score has no ranking there: its correlation counts as 0, what a toss has on average.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from qamro_cache.evaluation.weighted import constant, prepare


class Block(NamedTuple):
    """Groups of about one size: the places of their clips [G, n] and which of them are filled."""

    place: Tensor
    filled: Tensor


def blocks_of(group: Tensor) -> list[Block]:
    """Lay the clips of each group of two or more side by side.

    Args:
        group: [N] int64, -1 for a clip of none.

    Returns:
        Groups by size, so that at most half of a block is padding.
    """
    order = group.argsort(stable=True)
    order = order[group[order] >= 0]
    _, size = group[order].unique_consecutive(return_counts=True)
    start = size.cumsum(0) - size
    found = []
    n = 2
    while n < 2 * int(size.max() if len(size) else 0):
        # Sizes 2, 3 to 4, 5 to 8, ...
        mine = (size <= n) & (size > (n // 2))
        if mine.any():
            step = torch.arange(int(size[mine].max()), device=group.device)
            filled = step < size[mine, None]
            place = order[torch.where(filled, start[mine, None] + step, start[mine, None])]
            found.append(Block(place, filled))
        n *= 2
    return found


def mean_over_groups(
    metric: Callable[..., Tensor],
    pred: Tensor,
    target: Tensor,
    weights: Tensor | None,
    blocks: Sequence[Block],
) -> Tensor:
    """Average a metric over the groups: [...]; NaN where no group is left.

    Args:
        metric: of predictions, targets and weights [..., N].
        pred: [..., N].
        target: [N].
        weights: [..., N] as in `metrics`, or None.
        blocks: of `blocks_of`.
    """
    total = torch.zeros((), dtype=torch.float64, device=pred.device)
    count = total
    for place, filled in blocks:
        p, t = pred[..., place], target[place]
        w = filled.double() if weights is None else weights[..., place] * filled
        value, says = _by_group(metric, p, t, w, filled)
        total = total + torch.where(says, value, 0.0).sum(-1)
        count = count + says.sum(-1)
    of_weights = () if weights is None else weights.shape[:-1]
    return (total / count).expand(torch.broadcast_shapes(pred.shape[:-1], of_weights))


def _by_group(
    metric: Callable[..., Tensor], p: Tensor, t: Tensor, w: Tensor, filled: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a metric of each group [..., G], and whether the group says something.

    Most groups are as they are in most of the samples that leave a few clips out: these are
    computed once.

    Args:
        metric: as of `mean_over_groups`.
        p: [..., G, n].
        t: [G, n].
        w: [..., G, n].
        filled: [G, n], which of these are clips.
    """
    if p.dim() == 2 and w.dim() == 3:
        changed = (w != filled).any(-1)
        if 2 * int(changed.sum()) < changed.numel():
            whole = _of_each(metric, p, t, filled.double())
            value, says = (one.expand(changed.shape).clone() for one in whole)
            group = changed.nonzero()[:, 1]
            value[changed], says[changed] = _of_each(metric, p[group], t[group], w[changed])
            return value, says
    return _of_each(metric, p, t, w)


def _of_each(
    metric: Callable[..., Tensor], p: Tensor, t: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    value = metric(p, t, w)
    return torch.where(value.isnan() & constant(p, w), 0.0, value), ~constant(t, w)


def group_sizes(target: Tensor, blocks: Sequence[Block], weights: Tensor | None = None) -> Tensor:
    """Return how many clips each group has that `mean_over_groups` averages over [groups].

    Args:
        target: [N].
        blocks: of `blocks_of`.
        weights: [N] as there, or None.
    """
    sizes = [torch.zeros(0, dtype=torch.float64)]
    for place, filled in blocks:
        w = filled.double() if weights is None else weights[place] * filled
        sizes.append(w.sum(-1)[~constant(target[place], w)])
    return torch.cat(sizes)


def best_regret(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """How far the clip of the highest prediction lies below the best one, in label units.

    Where several share the highest prediction, the mean of their labels stands for the choice.
    """
    _, t, w, chosen = _chosen(pred, target, weights)
    best = t.masked_fill(w <= 0, -torch.inf).amax(-1)
    return best - (chosen * t).sum(-1) / chosen.sum(-1)


def best_hit(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Whether the clip of the highest prediction is a best one; ties are hit in part."""
    _, t, w, chosen = _chosen(pred, target, weights)
    best = t.masked_fill(w <= 0, -torch.inf).amax(-1, keepdim=True)
    hit: Tensor = (chosen * (t == best)).sum(-1) / chosen.sum(-1)
    return hit.masked_fill(((w > 0) & t.isnan()).any(-1), torch.nan)


def _chosen(
    pred: Tensor, target: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return all three of one shape, and the weights of those with the highest prediction."""
    p, t, w = prepare(pred, target, weights)
    highest = p.masked_fill(w <= 0, -torch.inf).amax(-1, keepdim=True)
    # A NaN makes the highest one NaN, nothing equal to it, and the figure 0 / 0.
    return p, t, w, torch.where(p == highest, w, 0.0)
