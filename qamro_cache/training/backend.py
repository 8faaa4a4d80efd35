"""What computes a stack's steps: plain torch, or Triton kernels where they run; chosen once.

Each field of a `Backend` has a form in plain torch that is complete on every device, so that each
can be taken back to it alone.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from qamro_cache.devices import float32_products, refuse_capability
from qamro_cache.self_check import interpreted, usable
from qamro_cache.training import stopping
from qamro_cache.training.batches import Batches, EagerEpochs, EpochRunner, TrainEpoch
from qamro_cache.training.net import AutogradNet, LayeredNet, Net, is_layered
from qamro_cache.training.optimizer import SGD, AdamW, Optimizer
from qamro_cache.training.recipe import Recipe
from qamro_cache.training.state import HeadState
from qamro_cache.training.step_loss import (
    ComposedStepLoss,
    LikelihoodStepLoss,
    PairStepLoss,
    StepLoss,
)


@dataclass(frozen=True)
class Backend:
    """The parts that a stack is computed by.

    Attributes:
        net: makes the heads' network; a stack has its own, with its buffers.
        optimizer: makes the optimizer of parameters and heads; it goes with the net.
        loss: makes the loss of heads.
        stability: SRCC [H] of predictions [H, S] with the epoch's before, by a mask [H, S].
        judge: decides what an epoch's validation loss means for each head.
        keep_best: copies a parameter [H, ...] to the best one of the heads [H] that are better.
        epochs: runs a stack's epochs, from what trains one and the batches.
        products: in which the epochs run: the precision of PyTorch's float32 products.
        scoring: in which the kept heads are scored: as whoever loads them will, in full float32.
    """

    net: Callable[[], Net]
    optimizer: Callable[[Mapping[str, Tensor], HeadState], Optimizer]
    loss: Callable[[HeadState], StepLoss]
    stability: Callable[[Tensor, Tensor, Tensor], Tensor] = stopping.stability
    judge: Callable[[HeadState, stopping.Progress, Tensor | None, Tensor | None], Tensor] = (
        stopping.judge
    )
    keep_best: Callable[[Tensor, Tensor, Tensor], None] = stopping.keep_best
    epochs: Callable[[TrainEpoch, Batches], EpochRunner] = EagerEpochs
    products: Callable[[], AbstractContextManager[None]] = nullcontext
    scoring: Callable[[], AbstractContextManager[None]] = nullcontext


def choose_backend(
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    precision: str = "float32",
    *,
    windows: bool = False,
) -> Backend:
    """Return what computes a bucket's heads.

    Args:
        recipe: of one of its heads.
        device: that trains.
        dtype: of weights and activations.
        precision: see `fit`.
        windows: whether a row is a window, not a clip.

    Raises:
        ValueError: a precision that the kind of device does not have.
        QamroError: one that this GPU is too old for.
    """
    _check_precision(precision, dtype, device)
    # Interpreted kernels are for tests that ask for them by a lower precision.
    plain = device.type == "cpu" and precision == "float32"
    uses = partial(usable, device=device)
    return backend_of(
        recipe, device, dtype, precision, windows=windows, uses=_none if plain else uses
    )


def backend_of(
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    precision: str = "float32",
    *,
    windows: bool = False,
    uses: Callable[[str], bool],
) -> Backend:
    """Return the backend with those families of kernels (`qamro_cache.self_check`) it ``uses``."""
    backend = plain_backend(recipe, half=precision == "bf16")
    if device.type == "cuda":
        products = partial(float32_products, tf32=precision != "float32")
        scoring = partial(float32_products, tf32=False)
        backend = replace(backend, products=products, scoring=scoring)
    if uses("graph"):
        from qamro_cache.training.gpu import graph

        backend = replace(backend, epochs=graph.GraphEpochs)
    if uses("measures"):
        from qamro_cache.training.gpu import judge, ranks

        backend = replace(backend, stability=ranks.stability, judge=judge.judge)
    if recipe.loss.on_pairs.terms:
        # Whose kernels know of no parameter beside the network.
        return backend
    if dtype == torch.float32 and not windows and uses("step loss"):
        backend = _with_step_loss(backend, recipe)
    if precision == "bf16" and uses("products"):
        backend = _with_products(backend, recipe)
    return _with_passes(backend, recipe, dtype, precision) if uses("passes") else backend


def _none(family: str) -> bool:
    return False


def plain_backend(recipe: Recipe, half: bool = False) -> Backend:
    """Return the backend in plain torch; ``half``: products in bfloat16, on a GPU."""
    layered = is_layered(recipe.head) and not half
    return Backend(
        net=partial(LayeredNet, recipe.head)
        if layered
        else partial(AutogradNet, recipe.head, half),
        optimizer=SGD if recipe.optimizer == "sgd" else AdamW,
        loss=_plain_loss(recipe),
    )


def _plain_loss(recipe: Recipe) -> Callable[[HeadState], StepLoss]:
    if recipe.head.output == "gaussian":
        return LikelihoodStepLoss
    kind = PairStepLoss if recipe.loss.on_pairs.terms else ComposedStepLoss
    return partial(kind, loss=recipe.loss)


def _with_step_loss(backend: Backend, recipe: Recipe) -> Backend:
    from qamro_cache.training.gpu import step_loss

    if recipe.head.output == "gaussian" or not step_loss.fuses(recipe.loss):
        return backend
    return replace(backend, loss=partial(step_loss.FusedStepLoss, loss=recipe.loss))


def _with_products(backend: Backend, recipe: Recipe) -> Backend:
    from qamro_cache.training.gpu import kernel_net

    if not kernel_net.covers(recipe.head, dropout=recipe.dropout > 0):
        return backend
    return replace(
        backend,
        net=partial(kernel_net.KernelNet, recipe.head),
        optimizer=kernel_net.KernelSGD if recipe.optimizer == "sgd" else kernel_net.KernelAdamW,
    )


def _with_passes(backend: Backend, recipe: Recipe, dtype: torch.dtype, precision: str) -> Backend:
    from qamro_cache.training.gpu import kernel_net, passes

    backend = replace(backend, keep_best=passes.keep)
    if dtype != torch.float32:
        return backend
    if backend.optimizer is AdamW:
        # In one pass; PyTorch's operations would pass two dozen times.
        backend = replace(backend, optimizer=kernel_net.StepAdamW)
    plain = getattr(backend.net, "func", None) is LayeredNet
    if precision != "bf16" and plain and kernel_net.fuses_passes(recipe.head):
        backend = replace(backend, net=partial(kernel_net.PassNet, recipe.head))
    return backend


def _check_precision(precision: str, dtype: torch.dtype, device: torch.device) -> None:
    if precision == "float32":
        return
    on_gpu = device.type == "cuda" or interpreted()
    if precision not in ("tf32", "bf16") or dtype != torch.float32 or not on_gpu:
        raise ValueError(
            "precision must be float32, or tf32 or bf16 for float32 heads on a GPU, "
            f"got {precision!r} on {device.type}"
        )
    refuse_capability(precision, device)
