"""The fused form: value and gradient of many heads in one Triton kernel, for small N on a GPU.

Each program takes some samples of one head, compares them with all of that head's samples in
registers, and writes their slopes: no [heads, N, N] tensor, and no atomic additions, so that two
runs agree to the last bit. Every pair is looked at from both its ends, which is cheaper than
sharing it.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from qamro_cache.losses.problem import RankingProblem

# 32 by 32 pairs stay in the registers of four warps; 64 by 64 spill (ptxas -v, sm_90).
_BLOCK = 32
# alpha * y - p in a single rounding would break ties that the other forms see.
LAUNCH = {"enable_fp_fusion": False}


@triton.jit
def _load(pred, y, mask, row, pred_row, y_row, mask_row, alpha, at, n, MASKED: tl.constexpr):
    """Scores, labels (NaN where not counted: it compares false) and which samples count."""
    inside = at < n
    if MASKED:
        inside = inside & (tl.load(mask + row * mask_row + at, mask=inside, other=0) != 0)
    label = tl.load(y + row * y_row + at, mask=inside, other=float("nan")).to(tl.float64)
    p = tl.load(pred + row * pred_row + at, mask=inside, other=0.0).to(tl.float64)
    # In double precision and rounded once, as in the other forms: ties are the same ties.
    score = tl.where(inside, alpha * label - p, 0.0)
    return score, label, inside


@triton.jit
def _quality(table, label, inside, row, quality_row, at, low, span, BINNED: tl.constexpr):
    if BINNED:
        quality = tl.load(table + row * quality_row + at, mask=inside, other=0.0).to(tl.float64)
    else:
        quality = tl.minimum(tl.maximum((label - low) / span, 0.0), 1.0)
    return tl.where(inside, quality, 0.0)


@triton.jit
def _kernel(
    pred, y, mask, alpha_of, beta_of, low_of, high_of, table, stderr,
    values, slopes, counts,
    n, tiles, pred_row, y_row, mask_row, alpha_row, beta_row, low_row, high_row,
    quality_row, stderr_row,
    MASKED: tl.constexpr, RANGED: tl.constexpr, BINNED: tl.constexpr, NOISY: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    alpha = tl.load(alpha_of + row * alpha_row)
    extra = (tl.load(beta_of + row * beta_row) - 1.0).to(DTYPE)
    low = tl.zeros((), tl.float64)
    span = tl.zeros((), tl.float64) + 1.0
    if RANGED:
        low = tl.load(low_of + row * low_row)
        span = tl.load(high_of + row * high_row) - low
    elif not BINNED:
        lowest = tl.full((BLOCK,), float("inf"), tl.float64)
        highest = tl.full((BLOCK,), float("-inf"), tl.float64)
        for start in range(0, n, BLOCK):
            at = start + tl.arange(0, BLOCK)
            _, label, inside = _load(
                pred, y, mask, row, pred_row, y_row, mask_row, alpha, at, n, MASKED
            )
            lowest = tl.minimum(lowest, tl.where(inside, label, float("inf")))
            highest = tl.maximum(highest, tl.where(inside, label, float("-inf")))
        low = tl.min(lowest, axis=0)
        high = tl.max(highest, axis=0)
        span = high - low
    span = tl.where(span > 0, span, 1.0)

    mine = tile * BLOCK + tl.arange(0, BLOCK)
    s_i, y_i, in_i = _load(pred, y, mask, row, pred_row, y_row, mask_row, alpha, mine, n, MASKED)
    q_i = _quality(table, y_i, in_i, row, quality_row, mine, low, span, BINNED).to(DTYPE)
    s_i = s_i.to(DTYPE)
    e_i = tl.zeros((BLOCK,), tl.float64)
    if NOISY:
        e_i = tl.load(stderr + row * stderr_row + mine, mask=in_i, other=0.0).to(tl.float64)
    # A score that is not finite makes its slope and the loss NaN instead of comparing false.
    poison = s_i * 0.0
    value, slope, count = poison, poison, tl.zeros((BLOCK,), tl.int32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        s_j, y_j, in_j = _load(pred, y, mask, row, pred_row, y_row, mask_row, alpha, at, n, MASKED)
        q_j = _quality(table, y_j, in_j, row, quality_row, at, low, span, BINNED).to(DTYPE)
        hinge = s_i[:, None] - s_j.to(DTYPE)[None, :]
        better = y_i[:, None] > y_j[None, :]
        worse = y_i[:, None] < y_j[None, :]
        weight = 1.0 + extra * tl.maximum(q_i[:, None], q_j[None, :])
        if NOISY:
            e_j = tl.load(stderr + row * stderr_row + at, mask=in_j, other=0.0).to(tl.float64)
            spread = tl.sqrt(e_i[:, None] * e_i[:, None] + e_j[None, :] * e_j[None, :])
            z = tl.abs(y_i[:, None] - y_j[None, :]) / tl.where(spread > 0, spread, 1.0)
            sure = tl.where(spread > 0, tl.erf(z * 0.7071067811865476), 1.0)
            weight = weight * sure.to(DTYPE)
        lost = tl.where(better & (hinge > 0), weight, 0.0)
        won = tl.where(worse & (hinge < 0), weight, 0.0)
        value += tl.sum(tl.where(better & (hinge > 0), weight * hinge, 0.0), axis=1)
        slope += tl.sum(lost - won, axis=1)
        count += tl.sum(better.to(tl.int32), axis=1)
    tl.store(slopes + row * n + mine, slope, mask=mine < n)
    tl.store(values + row * tiles + tile, tl.sum(value.to(tl.float64), axis=0))
    tl.store(counts + row * tiles + tile, tl.sum(count.to(tl.int64), axis=0))


def value_and_grad(problem: RankingProblem) -> tuple[Tensor, Tensor]:
    """Loss [R] and its gradient with respect to the predictions [R, N].

    Static shapes and no reading of values on the host, so a CUDA graph can capture it.

    Raises:
        ValueError: the predictions are not on a CUDA device.
    """
    pred = problem.pred.contiguous()
    if not pred.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"method is 'fused': pred is on {pred.device}, it needs a CUDA device")
    heads, n = pred.shape
    tiles = triton.cdiv(n, _BLOCK)
    values = torch.empty(heads, tiles, dtype=torch.float64, device=pred.device)
    counts = torch.empty(heads, tiles, dtype=torch.int64, device=pred.device)
    slopes = torch.empty(heads, n, dtype=problem.dtype, device=pred.device)
    if heads * n == 0:
        return values.sum(-1), slopes
    # A tensor that is not used, or shared by all rows, has a row stride of 0.
    low, high = problem.label_range or (None, None)
    quality = None if problem.bins is None else problem.quality()
    optional = (problem.mask, problem.alpha, problem.beta, low, high, quality, problem.stderr)
    given = [pred if x is None else x.contiguous() for x in optional]
    strides = [0 if x is None or x.shape[0] == 1 else x.shape[1] for x in (problem.y, *optional)]
    y_row, *rows = strides
    mask = given[0].view(torch.uint8) if problem.mask is not None else pred
    with torch.cuda.device_of(pred):  # Triton launches on the current device
        _kernel[(heads, tiles)](
            pred, problem.y.contiguous(), mask, *given[1:],
            values, slopes, counts,
            n, tiles, n, y_row, *rows,
            MASKED=problem.mask is not None,
            RANGED=problem.label_range is not None,
            BINNED=quality is not None,
            NOISY=problem.stderr is not None,
            DTYPE=tl.float64 if problem.dtype == torch.float64 else tl.float32,
            BLOCK=_BLOCK,
            **LAUNCH,
        )  # fmt: skip
    pairs = counts.sum(-1).clamp(min=1)
    return values.sum(-1) / pairs, slopes / -pairs.unsqueeze(-1)
