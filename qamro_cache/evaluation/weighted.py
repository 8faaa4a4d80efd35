"""Weighted samples, batched: brought to one shape, ranked, and averaged into systems.

A weight is a frequency: weight w means that the sample stands there w times, 0 that it does not,
and then its value may be anything.
"""

import torch
from torch import Tensor


def prepare(pred: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Bring all three to one shape in float64; samples of weight 0 become 0, whatever they held."""
    if weights is None:
        weights = torch.ones((), device=pred.device)
    pred, target, weights = torch.broadcast_tensors(pred, target, weights)
    counted = weights > 0
    pred = torch.where(counted, pred.double(), 0.0)
    target = torch.where(counted, target.double(), 0.0)
    return pred, target, weights.double()


def constant(values: Tensor, weights: Tensor) -> Tensor:
    """Whether the counted values [..., N] are all the same (or there is none)."""
    low = values.masked_fill(weights <= 0, torch.inf).amin(-1)
    high = values.masked_fill(weights <= 0, -torch.inf).amax(-1)
    return low >= high


def average_ranks(values: Tensor, weights: Tensor) -> Tensor:
    """Ranks [..., N] from 1, float64, ties at their average; a sample of weight w fills w ranks.

    Samples of weight 0 take no rank; what stands at their place means nothing. The order does not
    depend on the weights: values [N] are sorted once for weights [R, N].
    """
    ordered, order = values.sort(-1)
    order, w = torch.broadcast_tensors(order, weights.double())
    shape = order.shape
    w = w.gather(-1, order)
    through = w.cumsum(-1)
    position = torch.arange(shape[-1], device=values.device).expand(values.shape)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    last = torch.ones_like(first)
    last[..., :-1] = first[..., 1:]
    start = torch.where(first, position, 0).cummax(-1).values
    stop = torch.where(last, position, shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    before = (through - w).gather(-1, start.expand(shape))
    rank = (before + through.gather(-1, stop.expand(shape)) + 1) / 2
    return torch.empty_like(rank).scatter_(-1, order, rank)


def system_means(values: Tensor, system: Tensor, num_systems: int) -> Tensor:
    """Average clips [..., N] into systems [..., S], 0 where a system has no clip.

    Args:
        values: predictions or targets.
        system: [N] int64, each clip's system; -1 for a clip of none, which is left out.
        num_systems: S.
    """
    values, _, weights = prepare(values, values, system >= 0)
    index = system.clamp(min=0).expand(values.shape)
    zeros = values.new_zeros((*values.shape[:-1], num_systems))
    total, count = (zeros.scatter_add(-1, index, part) for part in (values, weights))
    # Ratings have few values, so systems often tie. Rounding undoes what the order of the sum did
    # to the last bits: a tie by arithmetic is a tie for the ranks.
    return torch.where(count > 0, torch.round(total / count, decimals=12), 0.0)
