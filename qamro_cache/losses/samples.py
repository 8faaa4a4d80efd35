"""What a term of a loss sees: predictions and labels of stacked heads, in the term's units."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Elements of a [heads, N, N] tensor that autograd may hold at once.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Samples:
    """Stacked heads and their labels; tensors have one row where all heads share them.

    Attributes:
        pred: [H, N] predictions; anything where masked.
        target: [1 | H, N] labels, 0 where masked.
        mask: [1 | H, N], true for the samples a head counts, or None where it counts all.
        stderr: [1 | H, N] standard errors of the labels, or None.
        label_range: lowest and highest label, each [1 | H, 1] in float64, or None.
    """

    pred: Tensor
    target: Tensor
    mask: Tensor | None = None
    stderr: Tensor | None = None
    label_range: tuple[Tensor, Tensor] | None = None


TermFunction = Callable[..., tuple[Tensor, Tensor]]


def by_autograd(loss: Callable[..., Tensor]) -> TermFunction:
    """Make a term of a differentiable loss: value [H] and gradient [H, N], a few heads at a time.

    Args:
        loss: maps `Samples` without range or standard errors, and its parameters by name as
            columns [1 | H, 1] in pred's dtype, to the loss of each head [H].
    """

    @functools.wraps(loss)
    def term(samples: Samples, **parameters: Tensor) -> tuple[Tensor, Tensor]:
        pred = samples.pred
        heads, n = pred.shape
        if n == 0:
            return pred.new_zeros(heads), torch.zeros_like(pred)
        columns = {name: value.to(pred.dtype) for name, value in parameters.items()}
        step = max(1, _BLOCK // (n * n))
        values, grads = [], []
        for start in range(0, heads, step):
            part = slice(start, start + step)
            with torch.enable_grad():
                some = pred[part].detach().requires_grad_()
                value = loss(
                    Samples(
                        some,
                        _rows(samples.target, part),
                        None if samples.mask is None else _rows(samples.mask, part),
                    ),
                    **{name: _rows(column, part) for name, column in columns.items()},
                )
                (grad,) = torch.autograd.grad(value.sum(), some)
            values.append(value.detach())
            grads.append(grad)
        return torch.cat(values), torch.cat(grads)

    return term


def within_sources(
    term: TermFunction, source: Tensor, sources: int, *, pairs: bool
) -> TermFunction:
    """Make a term that ranks the samples of each listening test by themselves.

    Tests count by their pairs of different labels, so that the whole is the mean over all pairs
    within a test; a loss over lists counts by their samples.

    Args:
        term: a ranking.
        source: [1 | H, N] the number of each sample's test.
        sources: how many there are.
        pairs: whether the term is a mean over pairs.
    """

    def whole(samples: Samples, **parameters: Tensor) -> tuple[Tensor, Tensor]:
        heads = len(samples.pred)
        value, grad = samples.pred.new_zeros(heads), torch.zeros_like(samples.pred)
        total = samples.pred.new_zeros(heads, dtype=torch.float64)
        for one in range(sources):
            mask = source == one
            if samples.mask is not None:
                mask = mask & samples.mask
            target = torch.where(mask, samples.target, 0)
            some = replace(samples, mask=mask, target=target)
            found, slope = term(some, **parameters)
            count = _pairs(target, mask) if pairs else mask.sum(-1).double()
            value = value + (count * found.double()).to(value.dtype)
            grad = grad + (count[:, None] * slope.double()).to(grad.dtype)
            total = total + count
        total = total.clamp_min(1)
        return (value / total).to(value.dtype), (grad / total[:, None]).to(grad.dtype)

    return whole


def _pairs(target: Tensor, mask: Tensor) -> Tensor:
    """Count the pairs of different labels [1 | H] among the masked ones, in float64."""
    ordered = torch.where(mask, target, torch.inf).sort(-1).values
    counted = ordered.isfinite()
    place = torch.arange(ordered.shape[-1], device=target.device).expand_as(ordered)
    first = torch.ones_like(counted)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # Each sample makes a pair with those of a lower label: all before the first of its own.
    lower = torch.where(first, place, 0).cummax(-1).values
    return torch.where(counted, lower, 0).sum(-1).double()


def _rows(x: Tensor, part: slice) -> Tensor:
    return x if x.shape[0] == 1 else x[part]
