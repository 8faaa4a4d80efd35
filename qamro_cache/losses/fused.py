"""The fused form: value and gradient of many heads in one Triton kernel, for small N on a GPU.

A program first writes the scores and qualities of its head, in double precision and rounded
once, then compares its share of the samples, in registers, with all of them: no [heads, N, N]
tensor, and no atomic additions, so that two runs agree to the last bit. Every pair is looked at
from both its ends, which is cheaper than sharing it. Where one program does a whole head it also
divides by the number of pairs, and nothing else is launched.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from qamro_cache.losses.problem import RankingProblem

# Samples of a program, two a thread.
MOST_ROWS, SAMPLES_PER_WARP = 256, 64
UNROLL = 4
# alpha * y - p in a single rounding would break ties that the other forms see.
LAUNCH = {"enable_fp_fusion": False}


@triton.jit
def _label(y, mask, row, y_row, mask_row, at, n, MASKED: tl.constexpr):
    """Labels, NaN where not counted (it compares false), and which samples count."""
    inside = at < n
    if MASKED:
        inside = inside & (tl.load(mask + row * mask_row + at, mask=inside, other=0) != 0)
    return tl.load(y + row * y_row + at, mask=inside, other=float("nan")), inside


@triton.jit
def _lowest_and_span(y, mask, row, y_row, mask_row, n, MASKED: tl.constexpr, ROWS: tl.constexpr):
    """The lowest of the labels that count, and how far the highest lies above it."""
    lowest = tl.full((ROWS,), float("inf"), tl.float64)
    highest = tl.full((ROWS,), float("-inf"), tl.float64)
    for start in range(0, n, ROWS):
        at = start + tl.arange(0, ROWS)
        label, inside = _label(y, mask, row, y_row, mask_row, at, n, MASKED)
        lowest = tl.minimum(lowest, tl.where(inside, label.to(tl.float64), float("inf")))
        highest = tl.maximum(highest, tl.where(inside, label.to(tl.float64), float("-inf")))
    low = tl.min(lowest, axis=0)
    return low, tl.max(highest, axis=0) - low


@triton.jit
def compare(
    scores, qualities, labels, stderr, mine, n, extra,
    NOISY: tl.constexpr, DTYPE: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Compare some samples of a head with all: value, slope and number of worse samples of each.

    Each thread holds a few samples and meets all others one by one, so that nothing is shared
    between threads.
    """
    here = mine < n
    s_i = tl.load(scores + mine, mask=here, other=0.0)
    q_i = tl.load(qualities + mine, mask=here, other=0.0)
    y_i = tl.load(labels + mine, mask=here, other=float("nan"))
    if NOISY:
        e_i = tl.load(stderr + mine, mask=y_i == y_i, other=0.0)
        e_i = e_i.to(tl.float64)
    # A score that is not finite makes its slope and the loss NaN instead of comparing false.
    value = s_i * 0.0
    slope = s_i * 0.0
    count = tl.zeros(mine.shape, tl.int32)
    for j in tl.range(0, n, loop_unroll_factor=UNROLL):
        s_j, q_j, y_j = tl.load(scores + j), tl.load(qualities + j), tl.load(labels + j)
        hinge = s_i - s_j
        better, worse = y_i > y_j, y_i < y_j
        weight = tl.fma(tl.zeros_like(q_i) + extra, tl.maximum(q_i, q_j), tl.zeros_like(q_i) + 1.0)
        if NOISY:
            e_j = tl.load(stderr + j, mask=y_j == y_j, other=0.0)
            e_j = e_j.to(tl.float64)
            std = tl.sqrt(e_i * e_i + e_j * e_j)
            z = tl.abs(y_i.to(tl.float64) - y_j.to(tl.float64)) / tl.where(std > 0, std, 1.0)
            weight = weight * tl.where(std > 0, tl.erf(z * 0.7071067811865476), 1.0).to(DTYPE)
        # Positive where i is the better end of a pair that is charged, negative where the worse.
        charged = tl.where(worse & (hinge < 0), -weight, 0.0)
        charged = tl.where(better & (hinge > 0), weight, charged)
        value = tl.fma(charged, hinge, value)
        slope += charged
        count += better.to(tl.int32)
    return value, slope, count


# What differs between many rows and one, or between tensors of their own and columns of another.
_STRIDES = [
    "pred_row", "y_row", "mask_row", "alpha_row", "beta_row", "low_row", "high_row", "quality_row",
    "stderr_row",
]  # fmt: skip


@triton.jit(
    do_not_specialize=_STRIDES,
    do_not_specialize_on_alignment=["alpha_of", "beta_of", "low_of", "high_of"],
)
def _kernel(
    pred, y, mask, alpha_of, beta_of, low_of, high_of, table, stderr,
    scores, qualities, labels, values, slopes, counts,
    n, parts, pred_row, y_row, mask_row, alpha_row, beta_row, low_row, high_row,
    quality_row, stderr_row,
    MASKED: tl.constexpr, RANGED: tl.constexpr, BINNED: tl.constexpr, NOISY: tl.constexpr,
    DTYPE: tl.constexpr, ROWS: tl.constexpr, ALONE: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    alpha = tl.load(alpha_of + row * alpha_row)
    extra = (tl.load(beta_of + row * beta_row) - 1.0).to(DTYPE)

    low = tl.zeros((), tl.float64)
    span = tl.zeros((), tl.float64) + 1.0
    if RANGED:
        low = tl.load(low_of + row * low_row)
        span = tl.load(high_of + row * high_row) - low
    elif not BINNED:
        low, span = _lowest_and_span(y, mask, row, y_row, mask_row, n, MASKED, ROWS)
    span = tl.where(span > 0, span, 1.0)

    # Programs of one head write the same numbers to the same places, and read only after that.
    scores, qualities, labels = scores + row * n, qualities + row * n, labels + row * n
    for start in range(0, n, ROWS):
        at = start + tl.arange(0, ROWS)
        label, inside = _label(y, mask, row, y_row, mask_row, at, n, MASKED)
        p = tl.load(pred + row * pred_row + at, mask=inside, other=0.0).to(tl.float64)
        wide = tl.where(inside, label.to(tl.float64), 0.0)
        if BINNED:
            quality = tl.load(table + row * quality_row + at, mask=inside, other=0.0)
        else:
            quality = tl.minimum(tl.maximum((wide - low) / span, 0.0), 1.0)
        tl.store(scores + at, (alpha * wide - p).to(DTYPE), mask=at < n)
        tl.store(qualities + at, quality.to(DTYPE), mask=at < n)
        tl.store(labels + at, label, mask=at < n)
    tl.debug_barrier()

    mine = part * ROWS + tl.arange(0, ROWS)
    value, slope, count = compare(
        scores, qualities, labels, stderr + row * stderr_row, mine, n, extra, NOISY, DTYPE, UNROLL
    )
    total = tl.sum(value.to(tl.float64), axis=0) / 2  # each pair was met from both its ends
    pairs = tl.sum(count.to(tl.int64), axis=0)
    if ALONE:
        share = tl.maximum(pairs, 1).to(tl.float64)
        tl.store(values + row, total / share)
        slope = slope / -share.to(DTYPE)
    else:
        tl.store(values + row * parts + part, total)
        tl.store(counts + row * parts + part, pairs)
    tl.store(slopes + row * n + mine, slope, mask=mine < n)


def value_and_grad(problem: RankingProblem) -> tuple[Tensor, Tensor]:
    """Loss [R] and its gradient with respect to the predictions [R, N].

    Static shapes and no reading of values on the host, so a CUDA graph can capture it.

    Raises:
        ValueError: the predictions are not on a CUDA device.
    """
    pred, y = problem.pred.contiguous(), problem.y.contiguous()
    if not pred.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"method is 'fused': pred is on {pred.device}, it needs a CUDA device")
    heads, n = pred.shape
    rows_of_program = min(MOST_ROWS, max(SAMPLES_PER_WARP, triton.next_power_of_2(n)))
    parts = triton.cdiv(n, rows_of_program)
    values = torch.empty(heads, parts, dtype=torch.float64, device=pred.device)
    counts = torch.empty(heads, parts, dtype=torch.int64, device=pred.device)
    slopes = torch.empty(heads, n, dtype=problem.dtype, device=pred.device)
    if heads * n == 0:
        return values.new_zeros(heads), slopes
    scratch = torch.empty_like(slopes), torch.empty_like(slopes), y.new_empty(heads, n)
    # A tensor that is not used, or shared by all rows, has a row stride of 0.
    low, high = problem.label_range or (None, None)
    quality = None if problem.bins is None else problem.quality()
    optional = (problem.mask, problem.alpha, problem.beta, low, high, quality, problem.stderr)
    given = [pred if x is None else x.contiguous() for x in optional]
    strides = [0 if x is None or x.shape[0] == 1 else x.shape[1] for x in (y, *optional)]
    y_row, *rows = strides
    mask = given[0].view(torch.uint8) if problem.mask is not None else pred
    with torch.cuda.device_of(pred):  # Triton launches on the current device
        _kernel[(heads, parts)](
            pred, y, mask, *given[1:],
            *scratch, values, slopes, counts,
            n, parts, n, y_row, *rows,
            MASKED=problem.mask is not None,
            RANGED=problem.label_range is not None,
            BINNED=quality is not None,
            NOISY=problem.stderr is not None,
            DTYPE=tl.float64 if problem.dtype == torch.float64 else tl.float32,
            ROWS=rows_of_program, ALONE=parts == 1, UNROLL=UNROLL,
            num_warps=rows_of_program // SAMPLES_PER_WARP,
            **LAUNCH,
        )  # fmt: skip
    if parts == 1:
        return values.squeeze(-1), slopes
    pairs = counts.sum(-1).clamp(min=1)
    return values.sum(-1) / pairs, slopes / -pairs.unsqueeze(-1)
