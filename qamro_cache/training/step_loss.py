"""The loss of a stack's heads, on a step's batch and on their validation sets."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from qamro_cache.losses import gaussian
from qamro_cache.losses.composed import LabelStats, value_and_grad
from qamro_cache.losses.loss import Loss
from qamro_cache.losses.preferences import Found, Verdicts, preference_loss
from qamro_cache.training.batches import Batch
from qamro_cache.training.preferences import LEARNED, with_ties
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
        self.state, self.loss = state, loss.on_labels
        self.label_numbers = state.loss_numbers[:, loss.numbers_on(pairs=False)]
        self.labels = LabelStats(
            state.label_mean, state.label_std, state.label_low, state.label_high
        )
        # Told once: a step never waits for the device.
        self.sources = 1 + int(state.source.max()) if state.source.numel() else 0

    def step(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `StepLoss`."""
        state = self.state
        clips = batch.clips[state.order]
        mask = state.train.gather(1, clips) & batch.valid[state.order]
        pred = state.predictions(scores[:, : clips.shape[1]])
        source = state.source.gather(1, clips) if state.source.shape[1] else None
        value, grad = self._value_and_grad(pred, state.target.gather(1, clips), mask, source)
        state.finite.logical_and_(value.isfinite())
        grad = grad * state.label_std[:, None]
        if scores.shape[1] > grad.shape[1]:
            grad = torch.cat([grad, grad.new_zeros(len(grad), scores.shape[1] - grad.shape[1])], 1)
        return grad, mask

    def validation(self, scores: Tensor) -> Tensor:
        """See `StepLoss`."""
        state = self.state
        pred = state.predictions(scores)
        source = state.validation_source if state.source.shape[1] else None
        seen = state.validation_target, state.validation_mask, source
        return self._value_and_grad(pred, *seen)[0]

    def _value_and_grad(
        self, pred: Tensor, target: Tensor, mask: Tensor, source: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        numbers, labels = self.label_numbers, self.labels
        return value_and_grad(
            self.loss, pred, target, mask=mask, labels=labels, numbers=numbers,
            source=source, sources=self.sources,
        )  # fmt: skip


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


class PairStepLoss(ComposedStepLoss):
    """Of losses with terms on given pairs: the clips' labels, if they count, and the pairs."""

    def __init__(self, state: HeadState, loss: Loss) -> None:
        super().__init__(state, loss)
        self.on_pairs = loss.on_pairs
        self.pair_numbers = state.loss_numbers[:, loss.numbers_on(pairs=True)]
        self.ties = with_ties(state.pair_winner, state.pair_weight)
        self.params: Mapping[str, Tensor] = {}

    def bind(self, params: Mapping[str, Tensor]) -> None:
        """Take the stack's parameters: what is learned beside the scores is one of them."""
        self.params = params

    def step(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `StepLoss`; behind the clips stand all first clips of the pairs, then the second."""
        state, count = self.state, batch.pairs
        if not count or batch.compared is None:
            grad, mask = super().step(scores, batch)
            self.learned = torch.zeros_like(self.params[LEARNED])
            return grad, mask
        clips, first = batch.clips.shape[1] - 2 * count, batch.valid.shape[1] - count
        of_labels, mask = scores[:, :0], batch.valid[state.order, :0]
        if clips:
            rated = batch._replace(clips=batch.clips[:, :clips], valid=batch.valid[:, :first])
            of_labels, mask = super().step(scores[:, :clips], rated)
        pairs = batch.compared[state.order]
        weight = state.pair_weight.gather(1, pairs) * batch.valid[state.order, first:]
        a, b = scores[:, clips : clips + count], scores[:, clips + count : clips + 2 * count]
        value, of_gap, self.learned = self._of_pairs(
            a - b, state.pair_winner.gather(1, pairs), weight
        )
        state.finite.logical_and_(value.isfinite())
        rest = scores.shape[1] - clips - 2 * count
        grad = torch.cat([of_labels, of_gap, -of_gap, of_gap.new_zeros(len(of_gap), rest)], 1)
        return grad, torch.cat([mask, weight > 0], 1)

    def backward(self, sink: Any) -> None:
        """Send the gradient of what is learned beside the scores to the optimizer."""
        sink.add(LEARNED, self.learned)

    def validation(self, scores: Tensor) -> Tensor:
        """See `StepLoss`."""
        state = self.state
        value = super().validation(scores) if self.loss.terms else scores.new_zeros(len(scores))
        a, b = (scores.gather(1, state.validation_pairs[..., end]) for end in (0, 1))
        return value + self._of_pairs(a - b, state.validation_winner, state.validation_weight)[0]

    def _of_pairs(self, gap: Tensor, winner: Tensor, weight: Tensor) -> Found:
        verdicts = Verdicts(gap, winner, weight, self.params[LEARNED], self.ties)
        return preference_loss(self.on_pairs, verdicts, self.pair_numbers)
