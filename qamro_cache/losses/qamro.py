"""The QAMRO loss (arXiv 2508.08957): quality-aware adaptive margins over all pairs.

For predictions p, labels y and labels n normalized to [0, 1]::

    L = 1/|P| * sum over y_i > y_j of (1 + (beta-1) max(n_i, n_j)) relu(alpha (y_i-y_j) - (p_i-p_j))

docs/loss.md derives why this takes O(N log N) time and O(N) memory.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qamro_cache.losses import pairs
from qamro_cache.losses import sorted as sorted_form
from qamro_cache.losses.problem import (
    LabelRange,
    RankingProblem,
    Scalar,
    check_values,
    prepare,
)
from qamro_cache.losses.samples import Samples
from qamro_cache.self_check import usable

Form = Callable[[RankingProblem], tuple[Tensor, Tensor]]
METHODS = ("auto", "pairs", "sorted", "fused")

#: From how many samples a row `auto` sorts, without a kernel. Measured on a CPU,
#: `python benchmarks/loss.py --crossover`.
SORTED_FROM = 1024
#: Up to how many pairs of all rows, [rows, N, N], the kernel takes. An estimate, not measured yet;
#: the same command measures it on a GPU.
FUSED_PAIRS = 1 << 32

_static = ContextVar("qamro_static", default=False)


@contextmanager
def static_shapes() -> Iterator[None]:
    """Let `auto` choose, inside, no form that reads a value on the host: ``sorted`` does.

    For steps that a CUDA graph captures, and for the one that is run before the capture, so that
    both take the same form.
    """
    token = _static.set(True)
    try:
        yield
    finally:
        _static.reset(token)


def qamro_loss(
    pred: Tensor,
    target: Tensor,
    *,
    alpha: Scalar = 0.2,
    beta: Scalar = 7.0,
    normalize: str = "batch",
    label_range: LabelRange | None = None,
    weights: str | tuple[object, object] | None = None,
    stderr: Tensor | None = None,
    mask: Tensor | None = None,
    method: str = "auto",
) -> Tensor:
    """The QAMRO loss of each row of predictions, differentiable once with respect to `pred`.

    Args:
        pred: [..., N] predictions, in the unit of the labels.
        target: [N] or [..., N] labels.
        alpha: margin per unit of label difference, a number or a tensor of the leading shape.
        beta: weight of a pair whose better sample has the best label; 1 weighs all alike.
        normalize: what n is relative to: ``batch``, the row's own labels (as in the authors'
            code); ``train`` or ``scale``, the given `label_range`. n is clamped to [0, 1].
        label_range: (low, high) of the training labels or of the rating scale; numbers or
            tensors of the leading shape.
        weights: the authors' track-2 variant: ``aes-PQ``, ``aes-PC``, ``aes-CE``, ``aes-CU``,
            or (edges, values). n is then the value of the label's bin, and a label in no bin
            takes part in no pair.
        stderr: [N] or [..., N] standard errors of the labels: each pair's weight is multiplied
            by 2 Phi(z) - 1, where z = (y_i - y_j) / sqrt(se_i^2 + se_j^2) (Welch 1947;
            Thurstone 1927, case III). The mean stays over all pairs.
        mask: [N] or [..., N], true for the samples that count; the rest may be NaN.
        method: ``pairs``, ``sorted``, ``fused`` or ``auto``: how, never what.

    Returns:
        The loss, of pred's leading shape; float32 for half types, else pred's dtype. Without
        a pair of different labels it is 0, with a zero gradient.

    Raises:
        ValueError: names the argument and its value.
    """
    problem = prepare(
        pred.detach(),
        target.detach(),
        alpha=alpha,
        beta=beta,
        normalize=normalize,
        label_range=label_range,
        weights=weights,
        stderr=stderr,
        mask=mask,
    )
    if not (pred.is_cuda and torch.cuda.is_current_stream_capturing()):
        check_values(
            target, alpha=alpha, beta=beta, label_range=label_range, stderr=stderr, mask=mask
        )
    loss: Tensor = DirectGradient.apply(pred, lambda _: _solve(problem, method, pred))  # type: ignore[no-untyped-call]
    return loss


def qamro_value_and_grad(
    pred: Tensor,
    target: Tensor,
    *,
    alpha: Scalar = 0.2,
    beta: Scalar = 7.0,
    normalize: str = "batch",
    label_range: LabelRange | None = None,
    weights: str | tuple[object, object] | None = None,
    stderr: Tensor | None = None,
    mask: Tensor | None = None,
    method: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The loss of `qamro_loss` and its gradient with respect to `pred`, without autograd.

    For training loops: it never waits for the device, so it checks shapes, names and plain
    numbers but not the values inside tensors. ``pairs`` and ``fused`` can be captured in a
    CUDA graph, and ``auto`` takes one of them there (see `static_shapes`).

    Returns:
        The loss, of pred's leading shape, and the gradient of each row's loss, of pred's
        shape; both float32 for half types, else of pred's dtype.
    """
    problem = prepare(
        pred.detach(),
        target.detach(),
        alpha=alpha,
        beta=beta,
        normalize=normalize,
        label_range=label_range,
        weights=weights,
        stderr=stderr,
        mask=mask,
    )
    return _solve(problem, method, pred)


def qamro(
    samples: Samples, alpha: Tensor, beta: Tensor, normalize: str, bins: str
) -> tuple[Tensor, Tensor]:
    """The term of a composed loss: `qamro_value_and_grad` over stacked heads.

    Args:
        samples: with `label_range` where `normalize` is not ``batch``.
        alpha: [1 | H, 1]; as `beta`.
        beta: of `qamro_loss`.
        normalize: of `qamro_loss`.
        bins: its `weights` by name; empty for none.
    """

    def shared(x: Tensor) -> Tensor:
        return x[0] if x.shape[0] == 1 else x

    label_range = samples.label_range
    if label_range is not None:
        label_range = label_range[0].squeeze(-1), label_range[1].squeeze(-1)
    elif normalize != "batch" and not bins:
        raise ValueError(f"qamro(normalize={normalize}) needs labels.low and labels.high")
    return qamro_value_and_grad(
        samples.pred,
        shared(samples.target),
        alpha=alpha.squeeze(-1),
        beta=beta.squeeze(-1),
        normalize=normalize,
        label_range=label_range,
        weights=bins or None,
        stderr=None if samples.stderr is None else shared(samples.stderr),
        mask=None if samples.mask is None else shared(samples.mask),
    )


def _solve(problem: RankingProblem, method: str, pred: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient in the shape of `pred`."""
    value, grad = choose_form(problem, method)(problem)
    dtype = problem.dtype
    return value.to(dtype).reshape(pred.shape[:-1]), grad.to(dtype).reshape(pred.shape)


def choose_form(problem: RankingProblem, method: str) -> Form:
    """The form that a method names.

    Raises:
        ValueError: an unknown method, or one that needs a missing package.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: use one of {', '.join(METHODS)}")
    if method == "auto":
        method = _fastest(problem)
    if method == "sorted":
        return sorted_form.value_and_grad
    if method == "fused":
        if importlib.util.find_spec("triton") is None:
            raise ValueError("method is 'fused': it needs triton, which is not installed")
        from qamro_cache.losses import fused  # torch brings triton on Linux only

        return fused.value_and_grad
    return pairs.value_and_grad


def _fastest(problem: RankingProblem) -> str:
    """The form for `auto`, from the size and the device alone: never from a value."""
    pred = problem.pred
    heads, n = pred.shape
    static = _static.get() or (pred.is_cuda and torch.cuda.is_current_stream_capturing())
    sorts = problem.stderr is None and not static
    if pred.is_cuda and usable("loss", pred.device):
        return "sorted" if sorts and heads * n * n > FUSED_PAIRS else "fused"
    return "sorted" if sorts and n >= SORTED_FROM else "pairs"


class QAMROLoss(nn.Module):
    """`qamro_loss` as a module: the mean over rows of the loss with fixed settings.

    Args:
        alpha, beta, normalize, label_range, weights, method: as in `qamro_loss`.
    """

    def __init__(
        self,
        alpha: float = 0.2,
        beta: float = 7.0,
        *,
        normalize: str = "batch",
        label_range: tuple[float, float] | None = None,
        weights: str | tuple[object, object] | None = None,
        method: str = "auto",
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "alpha": alpha,
            "beta": beta,
            "normalize": normalize,
            "label_range": label_range,
            "weights": weights,
            "method": method,
        }
        # Wrong settings fail here, and not in the middle of a training; only ``fused`` depends on
        # where the predictions are.
        anywhere = {"method": "auto"} if method == "fused" else {}
        qamro_loss(torch.zeros(0), torch.zeros(0), **self.settings | anywhere)

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        stderr: Tensor | None = None,
    ) -> Tensor:
        """The mean of `qamro_loss` over the rows of `pred` [..., N]."""
        return qamro_loss(pred, target, mask=mask, stderr=stderr, **self.settings).mean()

    def extra_repr(self) -> str:
        """The settings, as `print(model)` shows them."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())


class DirectGradient(torch.autograd.Function):
    """A loss of each row whose gradient is computed together with its value."""

    @staticmethod
    def forward(
        ctx: Any, pred: Tensor, compute: Callable[[Tensor], tuple[Tensor, Tensor]]
    ) -> Tensor:
        """`compute` maps detached predictions [..., N] to (value [...], gradient [..., N])."""
        value, grad = compute(pred.detach())
        ctx.save_for_backward(grad)
        ctx.pred_dtype = pred.dtype
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        """The saved gradient, scaled row by row."""
        (grad,) = ctx.saved_tensors
        return (grad_output.unsqueeze(-1) * grad).to(ctx.pred_dtype), None
