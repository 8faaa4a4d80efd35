"""The stability of every head in one launch on a GPU: SRCC by counted ranks.

`qamro_cache.evaluation.metrics` has the same figure for any size, in many small kernels and sorts,
which cost more than an epoch of a small grid. Here a program takes a head, and a rank is counted:
how many samples are smaller, and how many are equal.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from qamro_cache.evaluation import metrics

#: Clips of a validation set that are ranked by counting; sorting has fewer comparisons for more.
COUNTED_CLIPS = 2048
_BLOCK = 64


@triton.jit
def _read(x, mask, at, n):
    """Values where counted, else 0, and which are."""
    counted = tl.load(mask + at, mask=at < n, other=0) != 0
    return tl.load(x + at, mask=counted, other=0.0), counted


@triton.jit
def _twice_rank(a, x, mask, n, BLOCK: tl.constexpr):
    """Twice the rank of each ``a``: those below count twice, those equal (itself too) once."""
    place = tl.arange(0, BLOCK)
    rank = tl.zeros((BLOCK,), tl.int32) + 1
    for start in range(0, n, BLOCK):
        b, counted = _read(x, mask, start + place, n)
        below = (b[None, :] < a[:, None]).to(tl.int32) + (b[None, :] <= a[:, None]).to(tl.int32)
        rank += tl.sum(tl.where(counted[None, :], below, 0), axis=1)
    return rank


@triton.jit
def _srcc(x, y, mask, out, n, BLOCK: tl.constexpr):
    """Write a head's rank correlation of x and y over the counted samples."""
    head = tl.program_id(0).to(tl.int64)
    x += head * n
    y += head * n
    mask += head * n
    place = tl.arange(0, BLOCK)
    zero = tl.zeros((BLOCK,), tl.float64)
    count, sum_x, sum_y = zero, zero, zero
    low_x, high_x = zero + float("inf"), zero - float("inf")
    low_y, high_y = low_x, high_x
    for start in range(0, n, BLOCK):
        a, m = _read(x, mask, start + place, n)
        b, m = _read(y, mask, start + place, n)
        a, b = a.to(tl.float64), b.to(tl.float64)
        count += m.to(tl.float64)
        sum_x += a
        sum_y += b
        low_x, high_x = (
            tl.minimum(low_x, tl.where(m, a, float("inf"))),
            tl.maximum(high_x, tl.where(m, a, float("-inf"))),
        )
        low_y, high_y = (
            tl.minimum(low_y, tl.where(m, b, float("inf"))),
            tl.maximum(high_y, tl.where(m, b, float("-inf"))),
        )
    middle = (tl.sum(count) + 1) / 2
    xx, yy, xy = zero, zero, zero
    for start in range(0, n, BLOCK):
        a, m = _read(x, mask, start + place, n)
        b, m = _read(y, mask, start + place, n)
        p = tl.where(m, _twice_rank(a, x, mask, n, BLOCK).to(tl.float64) / 2 - middle, 0.0)
        q = tl.where(m, _twice_rank(b, y, mask, n, BLOCK).to(tl.float64) / 2 - middle, 0.0)
        xx += p * p
        yy += q * q
        xy += p * q
    r = tl.sum(xy) / (tl.sqrt(tl.sum(xx)) * tl.sqrt(tl.sum(yy)))
    r = tl.where(r > 1.0, 1.0, tl.where(r < -1.0, -1.0, r))
    constant = (tl.min(low_x) >= tl.max(high_x)) | (tl.min(low_y) >= tl.max(high_y))
    # NaN compares false and would pass for a low rank; the sums know of it.
    of_x, of_y = tl.sum(sum_x), tl.sum(sum_y)
    undefined = constant | (of_x != of_x) | (of_y != of_y)
    tl.store(out + head, tl.where(undefined, float("nan"), r))


def stability(pred: Tensor, before: Tensor, mask: Tensor) -> Tensor:
    """Return the SRCC [H] of predictions [H, S] with those of the epoch before."""
    heads, n = pred.shape
    if n > COUNTED_CLIPS:
        return metrics.srcc(pred, before, mask.to(torch.float64))
    out = torch.empty(heads, dtype=torch.float64, device=pred.device)
    counted = mask.contiguous().view(torch.uint8)
    with torch.cuda.device_of(pred):  # Triton launches on the current device
        _srcc[(heads,)](pred, before, counted, out, n, BLOCK=_BLOCK)
    return out
