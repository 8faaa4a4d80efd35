"""The figures of an epoch on a GPU: MSE, LCC and SRCC of every head in a few launches.

`qamro_cache.evaluation.metrics` has the same figures for any size, in hundreds of small kernels and
sorts, which cost more than an epoch of a small grid. Here a program takes a head, and a rank is
counted: how many samples are smaller, and how many are equal.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64


@triton.jit
def _read(x, mask, at, n):
    """Values where counted, else 0, and which are."""
    counted = tl.load(mask + at, mask=at < n, other=0) != 0
    return tl.load(x + at, mask=counted, other=0.0), counted


@triton.jit
def _pearson(xy, xx, yy, low_x, high_x, low_y, high_y):
    r = xy / (tl.sqrt(xx) * tl.sqrt(yy))
    r = tl.where(r > 1.0, 1.0, tl.where(r < -1.0, -1.0, r))
    constant = (low_x >= high_x) | (low_y >= high_y)
    return tl.where(constant, float("nan"), r)


@triton.jit
def _agreement(x, y, mask, out, n, heads, RANKS_ONLY: tl.constexpr, BLOCK: tl.constexpr):
    """Write mse, lcc and srcc of a head to rows 0, 1 and 2 of ``out``, or srcc to row 0."""
    head = tl.program_id(0).to(tl.int64)
    x += head * n
    y += head * n
    mask += head * n
    place = tl.arange(0, BLOCK)
    zero = tl.zeros((BLOCK,), tl.float64)
    count, sum_x, sum_y, square = zero, zero, zero, zero
    low_x, high_x = zero + float("inf"), zero - float("inf")
    low_y, high_y = low_x, high_x
    for start in range(0, n, BLOCK):
        a, m = _read(x, mask, start + place, n)
        b, m = _read(y, mask, start + place, n)
        a, b = a.to(tl.float64), b.to(tl.float64)
        count += m.to(tl.float64)
        sum_x += a
        sum_y += b
        square += (a - b) * (a - b)
        low_x, high_x = (
            tl.minimum(low_x, tl.where(m, a, float("inf"))),
            tl.maximum(high_x, tl.where(m, a, float("-inf"))),
        )
        low_y, high_y = (
            tl.minimum(low_y, tl.where(m, b, float("inf"))),
            tl.maximum(high_y, tl.where(m, b, float("-inf"))),
        )
    total = tl.sum(count)
    mean_x, mean_y, middle = tl.sum(sum_x) / total, tl.sum(sum_y) / total, (total + 1) / 2
    least_x, most_x = tl.min(low_x), tl.max(high_x)
    least_y, most_y = tl.min(low_y), tl.max(high_y)
    xx, yy, xy = zero, zero, zero
    rank_xx, rank_yy, rank_xy = zero, zero, zero
    for start in range(0, n, BLOCK):
        a, m = _read(x, mask, start + place, n)
        b, m = _read(y, mask, start + place, n)
        p = tl.where(m, a.to(tl.float64) - mean_x, 0.0)
        q = tl.where(m, b.to(tl.float64) - mean_y, 0.0)
        xx += p * p
        yy += q * q
        xy += p * q
        # Twice the rank, less one: those below count twice, those equal (itself too) once.
        rank_x = tl.zeros((BLOCK,), tl.int32)
        rank_y = tl.zeros((BLOCK,), tl.int32)
        for other in range(0, n, BLOCK):
            c, k = _read(x, mask, other + place, n)
            d, k = _read(y, mask, other + place, n)
            below = (c[None, :] < a[:, None]).to(tl.int32) + (c[None, :] <= a[:, None]).to(tl.int32)
            rank_x += tl.sum(tl.where(k[None, :], below, 0), axis=1)
            below = (d[None, :] < b[:, None]).to(tl.int32) + (d[None, :] <= b[:, None]).to(tl.int32)
            rank_y += tl.sum(tl.where(k[None, :], below, 0), axis=1)
        p = tl.where(m, (rank_x + 1).to(tl.float64) / 2 - middle, 0.0)
        q = tl.where(m, (rank_y + 1).to(tl.float64) / 2 - middle, 0.0)
        rank_xx += p * p
        rank_yy += q * q
        rank_xy += p * q
    spearman = _pearson(
        tl.sum(rank_xy), tl.sum(rank_xx), tl.sum(rank_yy), least_x, most_x, least_y, most_y
    )
    # NaN compares false and would pass for a low rank; the means know of it.
    spearman = tl.where((mean_x != mean_x) | (mean_y != mean_y), float("nan"), spearman)
    out += head
    if RANKS_ONLY:
        tl.store(out, spearman.to(tl.float32))
    else:
        linear = _pearson(tl.sum(xy), tl.sum(xx), tl.sum(yy), least_x, most_x, least_y, most_y)
        tl.store(out, (tl.sum(square) / total).to(tl.float32))
        tl.store(out + heads, linear.to(tl.float32))
        tl.store(out + 2 * heads, spearman.to(tl.float32))


@triton.jit
def _by_system(
    x, y, mask, system, mean_x, mean_y, present, n, systems,
    BLOCK: tl.constexpr, SYSTEMS: tl.constexpr,
):  # fmt: skip
    """Means of both over the clips of each system, rounded as `metrics.system_means` does."""
    head = tl.program_id(0).to(tl.int64)
    x += head * n
    y += head * n
    mask += head * n
    system += head * n
    place = tl.arange(0, BLOCK)
    for first in range(0, systems, SYSTEMS):
        name = first + tl.arange(0, SYSTEMS)
        count = tl.zeros((SYSTEMS,), tl.float64)
        sum_x = tl.zeros((SYSTEMS,), tl.float64)
        sum_y = tl.zeros((SYSTEMS,), tl.float64)
        for start in range(0, n, BLOCK):
            a, m = _read(x, mask, start + place, n)
            b, m = _read(y, mask, start + place, n)
            whose = tl.load(system + start + place, mask=m, other=-1)
            mine = whose[None, :] == name[:, None]
            count += tl.sum(mine.to(tl.float64), axis=1)
            sum_x += tl.sum(tl.where(mine, a[None, :].to(tl.float64), 0.0), axis=1)
            sum_y += tl.sum(tl.where(mine, b[None, :].to(tl.float64), 0.0), axis=1)
        share = tl.where(count > 0, count, 1.0)
        at = head * systems + name
        inside = name < systems
        tl.store(mean_x + at, tl.floor(sum_x / share * 1e12 + 0.5) / 1e12, mask=inside)
        tl.store(mean_y + at, tl.floor(sum_y / share * 1e12 + 0.5) / 1e12, mask=inside)
        tl.store(present + at, (count > 0).to(tl.uint8), mask=inside)


def measure(
    pred: Tensor, before: Tensor, target: Tensor, mask: Tensor, system: Tensor, num_systems: int
) -> Tensor:
    """Return what `stack.WATCHED` names after the loss, [7, H] float32.

    Args:
        pred: [H, S] this epoch's predictions.
        before: [H, S] the epoch's before, for the stability of the ranking.
        target: [H, S] labels.
        mask: [H, S] bool, which count.
        system: [H, S] int64, -1 for none.
        num_systems: the systems' number.
    """
    heads, n = pred.shape
    out = torch.empty(7, heads, dtype=torch.float32, device=pred.device)
    counted = mask.contiguous().view(torch.uint8)
    means = torch.empty(2, heads, num_systems, dtype=torch.float64, device=pred.device)
    present = torch.empty(heads, num_systems, dtype=torch.uint8, device=pred.device)
    with torch.cuda.device_of(pred):  # Triton launches on the current device
        _agreement[(heads,)](pred, target, counted, out, n, heads, RANKS_ONLY=False, BLOCK=_BLOCK)
        _by_system[(heads,)](
            pred, target, counted, system, means[0], means[1], present, n, num_systems,
            BLOCK=_BLOCK, SYSTEMS=32,
        )  # fmt: skip
        _agreement[(heads,)](
            means[0], means[1], present, out[3:], num_systems, heads,
            RANKS_ONLY=False, BLOCK=_BLOCK,
        )  # fmt: skip
        _agreement[(heads,)](
            pred, before, counted, out[6:], n, heads, RANKS_ONLY=True, BLOCK=_BLOCK
        )
    return out
