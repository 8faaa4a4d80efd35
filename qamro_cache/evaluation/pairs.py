"""Metrics over all pairs of samples: O(N^2) time, bounded memory. As in `metrics`."""

import torch
from torch import Tensor

from qamro_cache.evaluation.weighted import prepare

# Elements of one block of the pair matrix; 32 MiB of float64.
_BLOCK = 1 << 22


def ktau(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Kendall's tau-b (ties corrected)."""
    p, t, w, missing = _finite(pred, target, weights)
    shape = torch.broadcast_shapes(p.shape, t.shape, w.shape)
    agree, apart_p, apart_t = (torch.zeros(shape[:-1], device=p.device).double() for _ in range(3))
    for block in _blocks(p, t):
        sign_p = torch.sign(p[..., block, None] - p[..., None, :])
        sign_t = torch.sign(t[..., block, None] - t[..., None, :])
        for total, signs in (
            (agree, sign_p * sign_t),
            (apart_p, sign_p.abs()),
            (apart_t, sign_t.abs()),
        ):
            total += _sum(signs, w, block)
    tau = (agree / (apart_p.sqrt() * apart_t.sqrt())).clamp(-1, 1)
    return tau.masked_fill(missing, torch.nan)


def pair_accuracy(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Share of the pairs of different labels that are predicted in the right order.

    Equal predictions are right half the time, as by a toss. NaN without such a pair.
    """
    return _accuracy(pred, target, weights, far=False)


def far_pair_accuracy(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """`pair_accuracy` over the pairs whose labels differ by more than the labels' std."""
    return _accuracy(pred, target, weights, far=True)


def _accuracy(pred: Tensor, target: Tensor, weights: Tensor | None, *, far: bool) -> Tensor:
    p, t, w, missing = _finite(pred, target, weights)
    margin = torch.zeros((1, 1), device=p.device).double()
    if far:
        _, counted, ones = prepare(t, t, w)
        mean = (ones * counted).sum(-1, keepdim=True) / ones.sum(-1, keepdim=True)
        margin = ((ones * (counted - mean) ** 2).sum(-1) / ones.sum(-1)).sqrt()[..., None, None]
        # Rounding must not part labels that differ by the std exactly.
        margin = margin * (1 + 1e-12)
    shape = torch.broadcast_shapes(p.shape, t.shape, w.shape)
    twice, all_pairs = (torch.zeros(shape[:-1], device=p.device).double() for _ in range(2))
    for block in _blocks(p, t, t + margin.squeeze(-1)):
        above = t[..., block, None] - t[..., None, :] > margin
        here, there = p[..., block, None], p[..., None, :]
        # Above counts twice, equal once.
        for total, pairs in (
            (twice, above & (here > there)),
            (twice, above & (here >= there)),
            (all_pairs, above),
        ):
            # Without weights bits are counted, which is several times faster.
            total += pairs.sum((-2, -1)) if weights is None else _sum(pairs.double(), w, block)
    return (twice / 2 / all_pairs).masked_fill(missing, torch.nan)


def _finite(
    pred: Tensor, target: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return all three in float64 without NaN, and where a counted one was NaN."""
    weights = torch.ones(pred.shape[-1:], device=pred.device) if weights is None else weights
    w = weights.double()
    missing = ((w > 0) & (pred.isnan() | target.isnan())).any(-1)
    return pred.double().nan_to_num(), target.double().nan_to_num(), w, missing


def _blocks(*sides: Tensor) -> list[slice]:
    """Cut the samples so that a block's pairs with all samples stay within `_BLOCK`."""
    rows = max(1, _BLOCK // max(1, *(side.numel() for side in sides)))
    return [slice(start, start + rows) for start in range(0, sides[0].shape[-1], rows)]


def _sum(of_pairs: Tensor, w: Tensor, block: slice) -> Tensor:
    """Sum pairs [..., rows of the block, N], each as often as its two samples stand there."""
    # Pairs do not depend on the weights: with many resamples of one prediction each sum is one
    # matrix product, w' S w.
    return ((w[..., None, block] @ of_pairs).squeeze(-2) * w).sum(-1)
