"""Metrics over all pairs of samples, in bounded memory. As in `metrics`.

Samples of more than `_DENSE` take O(N log N) time each where nothing is shared among them: without
weights, or with those of 0 and 1 of predictions and labels that differ as well. Else it is O(N^2).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from qamro_cache.evaluation.order import Floats, equal_pairs, order
from qamro_cache.evaluation.weighted import prepare

# Elements of one block of the pair matrix; 32 MiB of float64.
_BLOCK = 1 << 22

# Samples up to which the pair matrix is faster than sorting.
_DENSE = 300


def ktau(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Kendall's tau-b (ties corrected)."""
    p, t, w, missing = _finite(pred, target, weights)
    agree, apart_p, apart_t = (
        _by_order(_signs_by_order, w, p, t) if _many(p, t, weights) else _signs(p, t, w)
    )
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
    twice, all_pairs = (
        _by_order(_above_by_order, w, p, t, margin[..., 0])
        if _many(p, t, weights)
        else _above(p, t, weights, margin)
    )
    return (twice / 2 / all_pairs).masked_fill(missing, torch.nan)


def _signs(p: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    """Sum over pairs the product of both sides' signs, and the pairs that differ on each side."""
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
    return agree, apart_p, apart_t


def _signs_by_order(p: Floats, t: Floats) -> tuple[int, ...]:
    found = order(p, t)
    wrong = found.above - found.not_wrong
    return 2 * (found.right - wrong), len(p) ** 2 - equal_pairs(p), 2 * found.above


def _above(p: Tensor, t: Tensor, weights: Tensor | None, margin: Tensor) -> tuple[Tensor, ...]:
    """Count pairs by target, twice those that are right and once the undecided; and all of them."""
    w = torch.ones(p.shape[-1:], device=p.device).double() if weights is None else weights.double()
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
    return twice, all_pairs


def _above_by_order(p: Floats, t: Floats, margin: Floats) -> tuple[int, ...]:
    found = order(p, t, float(margin[0]))
    return found.right + found.not_wrong, found.above


def _many(p: Tensor, t: Tensor, weights: Tensor | None) -> bool:
    """Whether to sort rather than to make the pair matrix, which serves all weights at once."""
    if t.shape[-1] <= _DENSE:
        return False
    if weights is None:
        return True
    own = p.shape == t.shape == weights.shape
    return own and bool(((weights == 0) | (weights == 1)).all())


def _by_order(
    function: Callable[..., tuple[int, ...]], w: Tensor, *sides: Tensor
) -> tuple[Tensor, ...]:
    """Call a function of the counted samples for each of the leading dimensions; tensors [...].

    Sides of one number a row are passed as they are.
    """
    shape = torch.broadcast_shapes(*(side.shape[:-1] for side in (w, *sides)))
    counted, *rows = (
        side.expand(*shape, -1).reshape(-1, side.shape[-1]).cpu().numpy() for side in (w, *sides)
    )
    found = [
        function(*(row[mask > 0] if len(row) == len(mask) else row for row in some))
        for mask, *some in zip(counted, *rows, strict=True)
    ]
    made = torch.tensor(found, dtype=torch.float64, device=sides[0].device)
    return tuple(made.reshape(*shape, made.shape[-1]).unbind(-1))


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
