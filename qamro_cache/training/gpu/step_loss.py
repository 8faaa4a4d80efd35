"""The usual loss of a step in a few launches: Huber plus QAMRO on standardized labels, on a GPU.

`qamro_cache.losses.composed` adds up any losses from small operations, some fifty a step; with few
heads a GPU spends its time on launching those. Here the ranking term is its own kernel and all else
is one before it and one after it. Heads score in standardized labels, so nothing is converted.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from qamro_cache.losses.loss import Loss
from qamro_cache.losses.qamro import qamro_value_and_grad
from qamro_cache.training.batches import Batch
from qamro_cache.training.state import HeadState

_BLOCK = 256


@triton.jit
def _batch(
    clips, valid, order, target, train, y, mask, n, clips_row, valid_row, width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Labels of a head's batch, and which of its clips count."""
    head = tl.program_id(0).to(tl.int64)
    turn = tl.load(order + head)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < n
        clip = head * width + tl.load(clips + turn * clips_row + at, mask=inside, other=0)
        counts = tl.load(train + clip, mask=inside, other=0)
        counts = counts & tl.load(valid + turn * valid_row + at, mask=inside, other=0)
        tl.store(y + head * n + at, tl.load(target + clip, mask=inside, other=0.0), mask=inside)
        tl.store(mask + head * n + at, counts, mask=inside)


@triton.jit
def _combine(
    scores, y, mask, ranking, slopes, numbers, values, grad, finite, n,
    STEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add Huber's loss and the ranking term by the head's numbers: weight, delta, weight."""
    head = tl.program_id(0).to(tl.int64)
    huber, delta = tl.load(numbers + 3 * head), tl.load(numbers + 3 * head + 1)
    qamro = tl.load(numbers + 3 * head + 2)
    counts = tl.zeros((BLOCK,), tl.int32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        at = head * n + start + tl.arange(0, BLOCK)
        m = tl.load(mask + at, mask=at < (head + 1) * n, other=0) != 0
        error = tl.load(scores + at, mask=m, other=0.0) - tl.load(y + at, mask=m, other=0.0)
        slope = tl.where(error > delta, delta, tl.where(error < -delta, -delta, error))
        total += slope * (error - slope / 2)
        counts += m.to(tl.int32)
    count = tl.maximum(tl.sum(counts), 1).to(tl.float32)
    value = huber * (tl.sum(total) / count) + qamro * tl.load(ranking + head)
    tl.store(values + head, value)
    if STEP:
        good = tl.load(finite + head) != 0
        tl.store(finite + head, (good & (value - value == 0)).to(tl.uint8))
    for start in range(0, n, BLOCK):
        at = head * n + start + tl.arange(0, BLOCK)
        inside = at < (head + 1) * n
        m = tl.load(mask + at, mask=inside, other=0) != 0
        error = tl.load(scores + at, mask=m, other=0.0) - tl.load(y + at, mask=m, other=0.0)
        slope = tl.where(error > delta, delta, tl.where(error < -delta, -delta, error))
        rank = tl.load(slopes + at, mask=inside, other=0.0)
        tl.store(grad + at, huber * (slope / count) + qamro * rank, mask=inside)


def fuses(loss: Loss) -> bool:
    """Whether `FusedStepLoss` computes this loss: the usual terms, whatever their numbers."""
    usual = [("huber", "standardized"), ("qamro", "standardized")]
    return [(term.name, term.units) for term in loss.terms] == usual


class FusedStepLoss:
    """`ComposedStepLoss` of the usual loss, for float32 heads on one row a clip."""

    def __init__(self, state: HeadState, loss: Loss) -> None:
        """Standardize the labels, once."""
        self.state, self.normalize = state, str(dict(loss.terms[1].parameters)["normalize"])
        self.numbers = state.loss_numbers[:, :3].float().contiguous()
        # What the ranking term would otherwise convert at every step.
        self.alpha, self.beta = (state.loss_numbers[:, k].double() for k in (3, 4))
        low, high = (state.standardized(x) for x in (state.label_low, state.label_high))
        self.label_range = low.double(), high.double()
        self.target = state.standardized(state.target).contiguous()
        self.validation_target = state.standardized(state.validation_target).contiguous()

    def step(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the gradient [H, b] and the samples that count [H, b], see `StepLoss`."""
        clips, valid, state = batch.clips, batch.valid, self.state
        heads, n = scores.shape
        y, mask = torch.empty_like(scores), scores.new_empty(scores.shape, dtype=torch.bool)
        bits = valid.view(torch.uint8), state.train.view(torch.uint8)
        with torch.cuda.device_of(scores):  # Triton launches on the current device
            _batch[(heads,)](
                clips, bits[0], state.order, self.target, bits[1], y,
                mask.view(torch.uint8), n, clips.stride(0), valid.stride(0),
                self.target.shape[1], BLOCK=_BLOCK,
            )  # fmt: skip
        return self._loss(scores, y, mask, step=True)[1], mask

    def validation(self, scores: Tensor) -> Tensor:
        """Return the loss [H] of scores [H, S] on the validation sets."""
        return self._loss(scores, self.validation_target, self.state.validation_mask, step=False)[0]

    def _loss(self, scores: Tensor, y: Tensor, mask: Tensor, step: bool) -> tuple[Tensor, Tensor]:
        value, slopes = qamro_value_and_grad(
            scores, y, alpha=self.alpha, beta=self.beta, normalize=self.normalize,
            label_range=None if self.normalize == "batch" else self.label_range, mask=mask,
        )  # fmt: skip
        total, grad = torch.empty_like(value), torch.empty_like(scores)
        with torch.cuda.device_of(scores):
            _combine[(len(scores),)](
                scores, y, mask.view(torch.uint8), value, slopes, self.numbers, total, grad,
                self.state.finite.view(torch.uint8), scores.shape[1], STEP=step, BLOCK=_BLOCK,
            )  # fmt: skip
        return total, grad
