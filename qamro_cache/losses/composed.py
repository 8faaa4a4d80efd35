"""The value and gradient of a composed loss over stacked heads, each with numbers of its own."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from qamro_cache.losses.loss import Loss
from qamro_cache.losses.problem import Scalar, as_rows, per_row, per_sample, result_dtype
from qamro_cache.losses.qamro import DirectGradient
from qamro_cache.losses.samples import Samples, TermFunction, within_sources
from qamro_cache.losses.terms import TERMS


@dataclass(frozen=True)
class LabelStats:
    """The labels of the training fold, in raw units; numbers, or tensors [H] with one a head.

    Attributes:
        mean, std: what a ``standardized`` term subtracts and divides by.
        low, high: the range for ``normalize=train`` or ``scale``; None where no term needs it.
    """

    mean: Scalar = 0.0
    std: Scalar = 1.0
    low: Scalar | None = None
    high: Scalar | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.std, Tensor) and not 0 < self.std < float("inf"):
            raise ValueError(f"std of the labels is {self.std}: it must be above 0 and finite")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"labels have low {self.low} and high {self.high}: give both")
        ends = [end for end in (self.low, self.high) if isinstance(end, float | int)]
        if len(ends) == 2 and not 0 < ends[1] - ends[0] < float("inf"):
            raise ValueError(
                f"labels have low {self.low} and high {self.high}: "
                "high must be above low, both finite"
            )


_AS_THEY_ARE = LabelStats()


def value_and_grad(
    loss: Loss,
    pred: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    stderr: Tensor | None = None,
    labels: LabelStats = _AS_THEY_ARE,
    numbers: Tensor | None = None,
    source: Tensor | None = None,
    sources: int = 0,
) -> tuple[Tensor, Tensor]:
    """The loss of each head and its gradient with respect to `pred`, without autograd.

    Never waits for the device, and so looks at no tensor's values: check labels once, when they
    are loaded. A CUDA graph can capture it (see `qamro.static_shapes`).

    Args:
        loss: what `parse_loss` read.
        pred: [H, N] (or [..., N]) predictions in raw label units.
        target: [N] or [H, N] labels in raw units.
        mask: [N] or [H, N], true for the samples a head counts; the rest may be NaN.
        stderr: [N] or [H, N] standard errors of the labels in raw units, for ``qamro``.
        labels: of the training fold.
        numbers: [H, P] in place of the loss's own `Loss.numbers`, a row a head.
        source: [N] or [H, N] which listening test each sample is of: samples of two tests are not
            ranked against each other (`within_sources`).
        sources: how many tests there are, numbered from 0.

    Returns:
        The loss [H], a mean over the head's own samples or pairs (0 where it has none), and the
        gradient of each head's loss [H, N]; float32 for half types, else pred's dtype.

    Raises:
        ValueError: a shape or a plain number is wrong, or `labels` lack what a term needs.
    """
    raw = _samples(pred, target, mask, stderr, labels)
    mean = per_row(labels.mean, pred, "labels.mean")
    std = per_row(labels.std, pred, "labels.std")
    value, grad = raw.pred.new_zeros(raw.pred.shape[0]), torch.zeros_like(raw.pred)
    dtype, columns = grad.dtype, _columns(loss, pred, numbers)
    for term in loss.terms:
        weight = next(columns).to(dtype)
        own = {
            name: given if isinstance(given, str) else next(columns)
            for name, given in term.parameters
        }
        samples = raw if term.units == "raw" else _standardized(raw, mean, std)
        function = _function(term.name)
        if source is not None and TERMS[term.name].kind == "ranking":
            of = per_sample(source, pred, "source").to(pred.device)
            function = within_sources(function, of, sources, pairs=TERMS[term.name].pairs)
        term_value, term_grad = function(samples, **own)
        if term.units == "standardized":
            term_grad = term_grad / std.to(dtype)
        value = value + weight.squeeze(-1) * term_value.to(dtype)
        grad = grad + weight * term_grad.to(dtype)
    return value.reshape(pred.shape[:-1]), grad.reshape(pred.shape)


def composed_loss(loss: Loss, pred: Tensor, target: Tensor, **options: Any) -> Tensor:
    """The loss of each head, differentiable once by autograd; ``options`` of `value_and_grad`."""
    value: Tensor = DirectGradient.apply(  # type: ignore[no-untyped-call]
        pred, lambda detached: value_and_grad(loss, detached, target, **options)
    )
    return value


@functools.cache
def _function(name: str) -> TermFunction:
    function: TermFunction = getattr(import_module(TERMS[name].module), name)
    return function


def _samples(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None,
    stderr: Tensor | None,
    labels: LabelStats,
) -> Samples:
    """The arguments of `value_and_grad` as rows, in raw units."""
    target = per_sample(target.detach(), pred, "target").to(pred.device)
    if mask is not None:
        mask = per_sample(mask, pred, "mask").to(pred.device, torch.bool)
        target = torch.where(mask, target, 0)
    if stderr is not None:
        stderr = per_sample(stderr, pred, "stderr").to(pred.device)
    label_range = None
    if labels.low is not None and labels.high is not None:
        label_range = (
            per_row(labels.low, pred, "labels.low"),
            per_row(labels.high, pred, "labels.high"),
        )
    return Samples(as_rows(pred.detach().to(result_dtype(pred))), target, mask, stderr, label_range)


def _standardized(raw: Samples, mean: Tensor, std: Tensor) -> Samples:
    label_range = raw.label_range
    if label_range is not None:
        label_range = (label_range[0] - mean) / std, (label_range[1] - mean) / std
    mean, std = mean.to(raw.pred.dtype), std.to(raw.pred.dtype)
    return Samples(
        (raw.pred - mean) / std,
        (raw.target - mean) / std,
        raw.mask,
        None if raw.stderr is None else raw.stderr / std,
        label_range,
    )


def _columns(loss: Loss, pred: Tensor, numbers: Tensor | None) -> Iterator[Tensor]:
    """Each of the loss's numbers as [1 | H, 1] in float64, in their order."""
    if numbers is None:
        return (per_row(number, pred, "number") for number in loss.numbers)
    if numbers.shape != (*pred.shape[:-1], len(loss.numbers)):
        raise ValueError(
            f"numbers has shape {tuple(numbers.shape)}: expected "
            f"{(*pred.shape[:-1], len(loss.numbers))}, a row a head"
        )
    return (per_row(column, pred, "numbers") for column in numbers.unbind(-1))
