"""Passes over memory on a GPU that no product's epilogue can take: each reads and writes once."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from qamro_cache.training.gpu.epilogue import (
    activation_of,
    derivative_of,
    load_state,
    step,
    store_state,
)
from qamro_cache.training.gpu.kernels import block_of
from qamro_cache.training.optimizer import BETA1, BETA2, EPS


@triton.jit
def _activate(z, bias, size, width, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """Add the bias and apply the activation, in place, where another made the product."""
    tiles = tl.cdiv(size, BLOCK)
    head = (tl.program_id(0) // tiles).to(tl.int64)
    at = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    value = tl.load(z + head * size + at, mask=inside, other=0.0)
    value += tl.load(bias + head * width + at % width, mask=inside, other=0.0)
    tl.store(z + head * size + at, activation_of(value, ACTIVATION), mask=inside)


@triton.jit
def _differentiate(
    dh, kept, total, rows, width, ACTIVATION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    """Multiply by the activation's derivative in place, and sum over rows on the way."""
    across = tl.cdiv(width, BN)
    head = (tl.program_id(0) // across).to(tl.int64)
    n = tl.program_id(0) % across * BN + tl.arange(0, BN)
    kept += head * rows * width
    dh += head * rows * width
    over_rows = tl.zeros((BN,), tl.float32)
    for start in range(0, rows, BM):
        m = start + tl.arange(0, BM)
        at = m[:, None] * width + n[None, :]
        inside = (m[:, None] < rows) & (n[None, :] < width)
        grad = tl.load(dh + at, mask=inside, other=0.0)
        grad = derivative_of(grad, tl.load(kept + at, mask=inside, other=0.0), ACTIVATION)
        over_rows += tl.sum(grad, axis=0)
        tl.store(dh + at, grad, mask=inside)
    tl.store(total + head * width + n, over_rows, mask=n < width)


@triton.jit
def _keep(best, p, better, size, BLOCK: tl.constexpr):
    """Copy the heads that are better; the others cost nothing."""
    tiles = tl.cdiv(size, BLOCK)
    head = (tl.program_id(0) // tiles).to(tl.int64)
    if tl.load(better + head) != 0:
        at = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(p + head * size + at, mask=at < size)
        tl.store(best + head * size + at, value, mask=at < size)


@triton.jit
def _adamw(
    p, first, second, grad, rates, size,
    B1: tl.constexpr, B2: tl.constexpr, EPS_: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """AdamW where the gradient is in memory: everything is read and written once."""
    tiles = tl.cdiv(size, BLOCK)
    head = (tl.program_id(0) // tiles).to(tl.int64)
    at = head * size + tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    inside = at < (head + 1) * size
    g = tl.load(grad + at, mask=inside, other=0.0)
    value, one, two = load_state(p, first, second, at, inside, True)
    value, one, two = step(value, one, two, g, rates + head * 4, True, B1, B2, EPS_)
    store_state(p, first, second, at, inside, value, one, two, True)


def activate_(z: Tensor, bias: Tensor, activation: str) -> None:
    """Make z [H, B, N] activation(z + bias) in place; bias [H, 1, N]."""
    heads, rows, width = z.shape
    size = rows * width
    with torch.cuda.device_of(z):
        _activate[(heads * triton.cdiv(size, 1024),)](
            z, bias, size, width, ACTIVATION=activation, BLOCK=1024
        )


def derivative_(dh: Tensor, kept: Tensor, total: Tensor, activation: str) -> None:
    """Multiply dh [H, B, N] by activation' in place; write its sum over rows to ``total`` [H, N].

    ``kept`` [H, B, N] is the activation's result.
    """
    heads, rows, width = dh.shape
    bm, bn = block_of(rows, 64), block_of(width, 64)
    with torch.cuda.device_of(dh):
        _differentiate[(heads * triton.cdiv(width, bn),)](
            dh, kept, total, rows, width, ACTIVATION=activation, BM=bm, BN=bn
        )


def keep(best: Tensor, p: Tensor, better: Tensor) -> None:
    """Copy p [H, ...] to ``best`` for the heads where ``better`` [H] is true."""
    size = p[0].numel()
    with torch.cuda.device_of(p):
        _keep[(len(p) * triton.cdiv(size, 1024),)](
            best, p, better.view(torch.uint8), size, BLOCK=1024
        )


def adamw(p: Tensor, first: Tensor, second: Tensor, grad: Tensor, rates: Tensor) -> None:
    """Take AdamW's step of p [H, ...] in place; ``rates`` [H, 4] as for `update`."""
    size = p[0].numel()
    with torch.cuda.device_of(p):
        _adamw[(len(p) * triton.cdiv(size, 1024),)](
            p, first, second, grad, rates, size, B1=BETA1, B2=BETA2, EPS_=EPS, BLOCK=1024
        )
