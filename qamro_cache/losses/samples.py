"""What a term of a loss sees: predictions and labels of stacked heads, in the term's units."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

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


def _rows(x: Tensor, part: slice) -> Tensor:
    return x if x.shape[0] == 1 else x[part]
