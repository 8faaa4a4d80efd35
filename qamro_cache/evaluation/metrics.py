"""Agreement of predicted and given scores: MSE, LCC, SRCC, KTAU, batched on any device.

Every function takes predictions [..., N], targets and weights broadcastable to them, and returns
[...] in float64. A weight is a frequency: the result is that of the sample in which clip i stands
``weights[i]`` times, so 0 and 1 make a mask and the counts of a resample make a bootstrap.
Correlations are NaN where they are undefined: fewer than two samples, or a constant side.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

# Elements of one block of the pair matrix in `ktau`; 32 MiB of float64.
_BLOCK = 1 << 22


def mse(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error, in squared label units; NaN without a sample."""
    pred, target, weights = _prepare(pred, target, weights)
    return (weights * (pred - target) ** 2).sum(-1) / weights.sum(-1)


def lcc(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Pearson's linear correlation coefficient."""
    pred, target, weights = _prepare(pred, target, weights)
    total = weights.sum(-1, keepdim=True)
    p = pred - (weights * pred).sum(-1, keepdim=True) / total
    t = target - (weights * target).sum(-1, keepdim=True) / total
    # A constant has no correlation. Its rounding error has, so ask for equality, not for zero.
    defined = ~(_constant(pred, weights) | _constant(target, weights))
    # Scaling by the largest deviation keeps squares of tiny and huge values in range.
    p = p / torch.where(weights > 0, p, 0).abs().amax(-1, keepdim=True)
    t = t / torch.where(weights > 0, t, 0).abs().amax(-1, keepdim=True)
    norm = (weights * p * p).sum(-1).sqrt() * (weights * t * t).sum(-1).sqrt()
    r = ((weights * p * t).sum(-1) / norm).clamp(-1, 1)
    return torch.where(defined, r, torch.nan)


def srcc(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Spearman's rank correlation: Pearson's over ranks, ties at their average rank."""
    pred, target, weights = _prepare(pred, target, weights)
    r = lcc(average_ranks(pred, weights), average_ranks(target, weights), weights)
    undefined = ((weights > 0) & (pred.isnan() | target.isnan())).any(-1)
    return r.masked_fill(undefined, torch.nan)


def ktau(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Kendall's tau-b (ties corrected), in O(N^2) time and bounded memory."""
    weights = torch.ones(pred.shape[-1:], device=pred.device) if weights is None else weights
    w = weights.double()
    missing = ((w > 0) & (pred.isnan() | target.isnan())).any(-1)
    p, t = pred.double().nan_to_num(), target.double().nan_to_num()
    shape = torch.broadcast_shapes(p.shape, t.shape, w.shape)
    agree, apart_p, apart_t = (torch.zeros(shape[:-1], device=p.device).double() for _ in range(3))
    rows = max(1, _BLOCK // max(1, p.numel(), t.numel()))
    for start in range(0, shape[-1], rows):
        block = slice(start, start + rows)
        sign_p = torch.sign(p[..., block, None] - p[..., None, :])
        sign_t = torch.sign(t[..., block, None] - t[..., None, :])
        # Signs do not depend on the weights: with many resamples of one prediction each sum is
        # one matrix product, w' S w.
        for total, signs in (
            (agree, sign_p * sign_t),
            (apart_p, sign_p.abs()),
            (apart_t, sign_t.abs()),
        ):
            total += ((w[..., None, block] @ signs).squeeze(-2) * w).sum(-1)
    tau = (agree / (apart_p.sqrt() * apart_t.sqrt())).clamp(-1, 1)
    return tau.masked_fill(missing, torch.nan)


class Metric(NamedTuple):
    """What a table's column is computed by, and whether it is in the units of the labels."""

    function: Callable[..., Tensor]
    in_label_units: bool = False


#: Every metric by name, in the order of the tables' columns.
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "mse": Metric(mse, in_label_units=True),
        "lcc": Metric(lcc),
        "srcc": Metric(srcc),
        "ktau": Metric(ktau),
    }
)


def average_ranks(values: Tensor, weights: Tensor) -> Tensor:
    """Ranks [..., N] from 1, float64, ties at their average; a sample of weight w fills w ranks.

    Samples of weight 0 take no rank; what stands at their place means nothing.
    """
    ordered, order = values.sort(-1)
    w = weights.expand(values.shape).gather(-1, order)
    through = w.cumsum(-1)
    position = torch.arange(values.shape[-1], device=values.device).expand(values.shape)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    last = torch.ones_like(first)
    last[..., :-1] = first[..., 1:]
    n = values.shape[-1]
    start = torch.where(first, position, 0).cummax(-1).values
    stop = torch.where(last, position, n).flip(-1).cummin(-1).values.flip(-1)
    before = (through - w).gather(-1, start)
    rank = (before + through.gather(-1, stop) + 1) / 2
    return torch.empty_like(rank).scatter_(-1, order, rank)


class SystemMeans(NamedTuple):
    """System scores [..., S] and how many of the weighted samples stand behind each [..., S]."""

    mean: Tensor
    clips: Tensor


def system_means(
    values: Tensor, system: Tensor, num_systems: int, weights: Tensor | None = None
) -> SystemMeans:
    """Average clips [..., N] into systems [..., S].

    Args:
        values: predictions or targets.
        system: [N] int64, each clip's system; -1 for a clip of none, which is left out.
        num_systems: S.
        weights: which clips count, as everywhere here; give truth and prediction the same.

    Returns:
        The means, 0 where a system has no clip, and the counts: (count > 0) are the weights of a
        system-level metric.
    """
    values, _, weights = _prepare(values, values, weights)
    weights = torch.where(system >= 0, weights, 0.0).expand(values.shape)
    index = system.clamp(min=0).expand(values.shape)
    zeros = values.new_zeros((*values.shape[:-1], num_systems))
    total = zeros.scatter_add(-1, index, torch.where(weights > 0, weights * values, 0.0))
    count = zeros.scatter_add(-1, index, weights)
    # Ratings have few values, so systems often tie. Rounding undoes what the order of the sum did
    # to the last bits: a tie by arithmetic is a tie for the ranks.
    mean = torch.round(total / count, decimals=12)
    return SystemMeans(torch.where(count > 0, mean, 0.0), count)


def _prepare(pred: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Bring all three to one shape in float64; samples of weight 0 become 0, whatever they held."""
    if weights is None:
        weights = torch.ones((), device=pred.device)
    pred, target, weights = torch.broadcast_tensors(pred, target, weights)
    counted = weights > 0
    pred = torch.where(counted, pred.double(), 0.0)
    target = torch.where(counted, target.double(), 0.0)
    return pred, target, weights.double()


def _constant(values: Tensor, weights: Tensor) -> Tensor:
    """Whether the counted values [..., N] are all the same (or there is none)."""
    low = values.masked_fill(weights <= 0, torch.inf).amin(-1)
    high = values.masked_fill(weights <= 0, -torch.inf).amax(-1)
    return low >= high
