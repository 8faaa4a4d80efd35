"""The usual loss of a step in one launch: Huber plus QAMRO on standardized labels, on a GPU.

`qamro_cache.losses.composed` adds up any losses from small operations, some fifty a step; with few
heads a GPU spends its time on launching those. Here a program takes a head: it looks up the labels
of its batch, compares every pair as `qamro_cache.losses.fused` does, and adds Huber's loss. Heads
score in standardized labels, so nothing is converted.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from qamro_cache.losses.fused import LAUNCH, MOST_ROWS, SAMPLES_PER_WARP, UNROLL, compare
from qamro_cache.losses.loss import Loss
from qamro_cache.training.batches import Batch
from qamro_cache.training.state import HeadState
from qamro_cache.training.step_loss import ComposedStepLoss


@triton.jit(do_not_specialize=["clips_row", "valid_row"], do_not_specialize_on_alignment=["clips"])
def _loss(
    pred, clips, valid, order, target, train, ranges, numbers, finite,
    scores, qualities, labels, mask, values, grad,
    n, width, clips_row, valid_row,
    STEP: tl.constexpr, RANGED: tl.constexpr, ROWS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """A head's loss and its gradient; not ``STEP``: ``train`` says which of the targets count.

    ``numbers`` are a head's five: Huber's weight and delta, QAMRO's weight, alpha and beta.
    """
    head = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, ROWS)
    inside = at < n
    clip = head * width + at
    counts = inside
    if STEP:
        turn = tl.load(order + head)
        clip = head * width + tl.load(clips + turn * clips_row + at, mask=inside, other=0)
        counts = counts & (tl.load(valid + turn * valid_row + at, mask=inside, other=0) != 0)
    counts = counts & (tl.load(train + clip, mask=inside, other=0) != 0)
    y = tl.load(target + clip, mask=counts, other=float("nan"))
    p = tl.load(pred + head * n + at, mask=counts, other=0.0)
    huber, delta = tl.load(numbers + 5 * head), tl.load(numbers + 5 * head + 1)
    qamro, alpha = tl.load(numbers + 5 * head + 2), tl.load(numbers + 5 * head + 3)
    extra = (tl.load(numbers + 5 * head + 4) - 1.0).to(tl.float32)

    wide = tl.where(counts, y.to(tl.float64), 0.0)
    if RANGED:
        low = tl.load(ranges + 2 * head)
        span = tl.load(ranges + 2 * head + 1) - low
    else:
        low = tl.min(tl.where(counts, y.to(tl.float64), float("inf")), axis=0)
        span = tl.max(tl.where(counts, y.to(tl.float64), float("-inf")), axis=0) - low
    span = tl.where(span > 0, span, 1.0)
    quality = tl.minimum(tl.maximum((wide - low) / span, 0.0), 1.0)
    scores, qualities, labels = scores + head * n, qualities + head * n, labels + head * n
    tl.store(scores + at, (alpha * wide - p.to(tl.float64)).to(tl.float32), mask=inside)
    tl.store(qualities + at, quality.to(tl.float32), mask=inside)
    tl.store(labels + at, y, mask=inside)
    tl.debug_barrier()
    charged, slope, worse = compare(
        scores, qualities, labels, labels, at, n, extra, False, tl.float32, UNROLL
    )
    # Each pair was met from both its ends.
    pairs = tl.maximum(tl.sum(worse.to(tl.int64), axis=0), 1).to(tl.float64)
    ranking = (tl.sum(charged.to(tl.float64), axis=0) / 2 / pairs).to(tl.float32)

    huber, delta, qamro = huber.to(tl.float32), delta.to(tl.float32), qamro.to(tl.float32)
    error = tl.where(counts, p - y, 0.0)
    clipped = tl.where(error > delta, delta, tl.where(error < -delta, -delta, error))
    count = tl.maximum(tl.sum(counts.to(tl.int32), axis=0), 1).to(tl.float32)
    value = huber * (tl.sum(clipped * (error - clipped / 2), axis=0) / count) + qamro * ranking
    tl.store(values + head, value)
    if STEP:
        good = tl.load(finite + head) != 0
        tl.store(finite + head, (good & (value - value == 0)).to(tl.uint8))
        tl.store(mask + head * n + at, counts.to(tl.uint8), mask=inside)
        total = huber * (clipped / count) + qamro * (slope / -pairs.to(tl.float32))
        tl.store(grad + head * n + at, total, mask=inside)


def fuses(loss: Loss) -> bool:
    """Whether `FusedStepLoss` computes this loss: the usual terms, whatever their numbers."""
    usual = [("huber", "standardized"), ("qamro", "standardized")]
    return [(term.name, term.units) for term in loss.terms] == usual


class FusedStepLoss(ComposedStepLoss):
    """`ComposedStepLoss` of the usual loss, for float32 heads on one row a clip.

    More clips than a program takes, and clips of several tests, are left to the general form, whose
    ranking term is a kernel.
    """

    def __init__(self, state: HeadState, loss: Loss) -> None:
        """Standardize the labels, once."""
        super().__init__(state, loss)
        self.ranged = str(dict(loss.terms[1].parameters)["normalize"]) != "batch"
        self.numbers = state.loss_numbers[:, :5].double().contiguous()
        ends = (state.standardized(x) for x in (state.label_low, state.label_high))
        self.ranges = torch.stack([x.double() for x in ends], 1)
        self.target = state.standardized(state.target).contiguous()
        self.validation_target = state.standardized(state.validation_target).contiguous()

    def step(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the gradient [H, b] and the samples that count [H, b], see `StepLoss`."""
        if scores.shape[1] > MOST_ROWS or self.sources:
            return super().step(scores, batch)
        mask, grad = scores.new_empty(scores.shape, dtype=torch.bool), torch.empty_like(scores)
        self._launch(scores, self.target, self.state.train, batch, mask, grad)
        return grad, mask

    def validation(self, scores: Tensor) -> Tensor:
        """Return the loss [H] of scores [H, S] on the validation sets."""
        if scores.shape[1] > MOST_ROWS or self.sources:
            return super().validation(scores)
        mask = self.state.validation_mask
        return self._launch(scores, self.validation_target, mask, None, mask, scores)

    def _launch(
        self, scores: Tensor, target: Tensor, counts: Tensor, batch: Batch | None, mask: Tensor,
        grad: Tensor,
    ) -> Tensor:  # fmt: skip
        """Write mask and gradient of a step; return the loss [H]."""
        scores, (heads, n), order = scores.contiguous(), scores.shape, self.state.order
        value = scores.new_empty(heads)
        if not heads * n:
            return value.zero_()
        scratch = [torch.empty_like(scores) for _ in range(3)]
        clips, valid = (order, counts) if batch is None else (batch.clips, batch.valid)
        rows = max(SAMPLES_PER_WARP, triton.next_power_of_2(n))
        with torch.cuda.device_of(scores):  # Triton launches on the current device
            _loss[(heads,)](
                scores, clips, valid.view(torch.uint8), order, target, counts.view(torch.uint8),
                self.ranges, self.numbers, self.state.finite.view(torch.uint8),
                *scratch, mask.view(torch.uint8), value, grad,
                n, target.shape[1], clips.stride(0), valid.stride(0),
                STEP=batch is not None, RANGED=self.ranged, ROWS=rows, UNROLL=UNROLL,
                num_warps=rows // SAMPLES_PER_WARP, **LAUNCH,
            )  # fmt: skip
        return value
