"""What computes a stack's steps: plain torch, or Triton kernels where they run; chosen once.

Each field of a `Backend` has a form in plain torch that is complete on every device, so that each
can be taken back to it alone.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from qamro_cache.training import stopping
from qamro_cache.training.batches import Batches, EagerEpochs, EpochRunner, TrainEpoch
from qamro_cache.training.net import AutogradNet, LayeredNet, Net, is_layered
from qamro_cache.training.optimizer import SGD, AdamW, Optimizer
from qamro_cache.training.recipe import Recipe
from qamro_cache.training.state import HeadState
from qamro_cache.training.step_loss import ComposedStepLoss, StepLoss


@dataclass(frozen=True)
class Backend:
    """The parts that a stack is computed by.

    Attributes:
        net: makes the heads' network; a stack has its own, with its buffers.
        optimizer: makes the optimizer of parameters and heads; it goes with the net.
        loss: makes the loss of heads.
        stability: SRCC [H] of predictions [H, S] with the epoch's before, by a mask [H, S].
        keep_best: copies a parameter [H, ...] to the best one of the heads [H] that are better.
        epochs: runs a stack's epochs, from what trains one and the batches.
        products: in which the epochs run: the precision of PyTorch's float32 products.
    """

    net: Callable[[], Net]
    optimizer: Callable[[Mapping[str, Tensor], HeadState], Optimizer]
    loss: Callable[[HeadState], StepLoss]
    stability: Callable[[Tensor, Tensor, Tensor], Tensor] = stopping.stability
    keep_best: Callable[[Tensor, Tensor, Tensor], None] = stopping.keep_best
    epochs: Callable[[TrainEpoch, Batches], EpochRunner] = EagerEpochs
    products: Callable[[], AbstractContextManager[None]] = nullcontext


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
        ValueError: a precision that the device does not have.
    """
    _check_precision(precision, dtype, device)
    backend = plain_backend(recipe, half=precision == "bf16")
    if device.type == "cuda":
        matmul = "highest" if precision == "float32" else "high"
        backend = replace(backend, products=partial(_float32_products, matmul))
    # Interpreted kernels are for tests that ask for them by a lower precision.
    if not _runs_kernels(device) or (device.type == "cpu" and precision == "float32"):
        return backend
    return _with_kernels(backend, recipe, device, dtype, precision, windows)


def plain_backend(recipe: Recipe, half: bool = False) -> Backend:
    """Return the backend in plain torch; ``half``: products in bfloat16, on a GPU."""
    layered = is_layered(recipe.head) and not half
    return Backend(
        net=partial(LayeredNet, recipe.head)
        if layered
        else partial(AutogradNet, recipe.head, half),
        optimizer=SGD if recipe.optimizer == "sgd" else AdamW,
        loss=partial(ComposedStepLoss, loss=recipe.loss),
    )


def _with_kernels(
    backend: Backend,
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype,
    precision: str,
    windows: bool,
) -> Backend:
    """Take kernels for the parts that have them; most compute in float32 alone."""
    from qamro_cache.training.gpu import graph, kernel_net, passes, ranks, step_loss

    head, sgd = recipe.head, recipe.optimizer == "sgd"
    backend = replace(backend, stability=ranks.stability, keep_best=passes.keep)
    if device.type == "cuda":
        backend = replace(backend, epochs=graph.GraphEpochs)
    if dtype != torch.float32:
        return backend
    if not windows and step_loss.fuses(recipe.loss):
        fused = partial(step_loss.FusedStepLoss, loss=recipe.loss)
        backend = replace(backend, loss=fused)
    if precision != "float32" and kernel_net.covers(head, dropout=recipe.dropout > 0):
        return replace(
            backend,
            net=partial(kernel_net.KernelNet, head, precision),
            optimizer=kernel_net.KernelSGD if sgd else kernel_net.KernelAdamW,
        )
    if not sgd:
        # In one pass; PyTorch's operations would pass two dozen times.
        backend = replace(backend, optimizer=kernel_net.StepAdamW)
    if precision != "bf16" and kernel_net.fuses_passes(head):
        backend = replace(backend, net=partial(kernel_net.PassNet, head))
    return backend


def _check_precision(precision: str, dtype: torch.dtype, device: torch.device) -> None:
    if precision == "float32":
        return
    on_gpu = device.type == "cuda" or _interpreted()
    if precision not in ("tf32", "bf16") or dtype != torch.float32 or not on_gpu:
        raise ValueError(
            "precision must be float32, or tf32 or bf16 for float32 heads on a GPU, "
            f"got {precision!r} on {device.type}"
        )
    if device.type == "cuda" and (found := torch.cuda.get_device_capability(device)) < (8, 0):
        raise ValueError(
            f"precision {precision!r} needs a GPU of compute capability 8.0 or more, this one has "
            f"{found[0]}.{found[1]}; use float32"
        )


def _runs_kernels(device: torch.device) -> bool:
    return find_spec("triton") is not None and (device.type == "cuda" or _interpreted())


def _interpreted() -> bool:
    """Whether Triton interprets its kernels, slowly, in tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@contextmanager
def _float32_products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
