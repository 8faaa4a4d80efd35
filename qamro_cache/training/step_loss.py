"""The loss of a stack's heads, on a step's batch and on their validation sets."""

from typing import Protocol

import torch
from torch import Tensor

from qamro_cache.losses import gaussian
from qamro_cache.losses.composed import LabelStats, value_and_grad
from qamro_cache.losses.loss import Loss
from qamro_cache.training.batches import Batch
from qamro_cache.training.state import HeadState


class StepLoss(Protocol):
    """What a stack asks of a loss; scores are in standardized labels."""

    def step(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the gradient of scores [H, R >= b], and the samples that count [H, b].

        Scores behind the batch's b clips are of padding. A head whose loss is not finite is
        marked so in the state.
        """

    def validation(self, scores: Tensor) -> Tensor:
        """Return the loss [H] of scores [H, S] on the validation sets."""


class ComposedStepLoss:
    """Any loss, in plain torch."""

    def __init__(self, state: HeadState, loss: Loss) -> None:
        self.state, self.loss = state, loss
        self.labels = LabelStats(
            state.label_mean, state.label_std, state.label_low, state.label_high
        )

    def step(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `StepLoss`."""
        state = self.state
        clips = batch.clips[state.order]
        mask = state.train.gather(1, clips) & batch.valid[state.order]
        pred = state.predictions(scores[:, : clips.shape[1]])
        value, grad = self._value_and_grad(pred, state.target.gather(1, clips), mask)
        state.finite.logical_and_(value.isfinite())
        grad = grad * state.label_std[:, None]
        if scores.shape[1] > grad.shape[1]:
            grad = torch.cat([grad, grad.new_zeros(len(grad), scores.shape[1] - grad.shape[1])], 1)
        return grad, mask

    def validation(self, scores: Tensor) -> Tensor:
        """See `StepLoss`."""
        state = self.state
        pred = state.predictions(scores)
        return self._value_and_grad(pred, state.validation_target, state.validation_mask)[0]

    def _value_and_grad(self, pred: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        numbers = self.state.loss_numbers
        return value_and_grad(
            self.loss, pred, target, mask=mask, labels=self.labels, numbers=numbers
        )


class LikelihoodStepLoss:
    """Of ``gaussian`` heads, whose scores are [H, R, 2] everywhere: the ratings' likelihood."""

    def __init__(self, state: HeadState) -> None:
        self.state = state
        self.target = state.standardized(state.target)
        self.validation_target = state.standardized(state.validation_target)

    def step(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `StepLoss`."""
        state = self.state
        clips = batch.clips[state.order]
        mask = state.train.gather(1, clips) & batch.valid[state.order]
        spread = state.spread.gather(1, clips.unsqueeze(2).expand(*clips.shape, 2))
        counted = scores[:, : clips.shape[1]]
        value, grad = gaussian.value_and_grad(counted, self.target.gather(1, clips), spread, mask)
        state.finite.logical_and_(value.isfinite())
        padding = grad.new_zeros(len(grad), scores.shape[1] - grad.shape[1], 2)
        return torch.cat([grad, padding], 1), mask

    def validation(self, scores: Tensor) -> Tensor:
        """See `StepLoss`."""
        state = self.state
        seen = self.validation_target, state.validation_spread, state.validation_mask
        return gaussian.value_and_grad(scores, *seen)[0]
