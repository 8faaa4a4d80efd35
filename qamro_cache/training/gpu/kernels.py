"""Triton kernels of a training step on a GPU: products with everything else in their epilogue.

A step of stacked heads is limited by memory, so a number that is in a register is used there:
bias and activation in the forward product, the activation's derivative in the backward one, and
the optimizer's step in the gradient's. No gradient of a weight is ever written, and each weight
and its momentum are read and written once a step. Sums have a fixed order and nothing is added
atomically, so that two runs agree to the last bit, and a head does not depend on its neighbors.

Rows are [groups, B, K] in bfloat16, shared by heads with the same ``group`` [H]; None: a head has
its own. Weights and the optimizer's state are float32, sums too. Static shapes and no look at a
value on the host, so that a graph can capture it. Block sizes follow from the shapes (the fastest
of 69 on an H100); widths are constants, so that as much is loaded at once as divides them.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from typing import NamedTuple

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
from qamro_cache.training.optimizer import BETA1, BETA2, EPS

#: Of fewer heads the programs are made smaller, so that every multiprocessor has one.
FEW_HEADS = 64


class Layer(NamedTuple):
    """A layer's parameters [H, K, N] and [H, N], and the optimizer's state of both.

    ``first`` is the velocity or the first moment; ``second`` is given to AdamW.
    """

    weight: Tensor
    bias: Tensor
    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor] | None = None


@triton.jit
def _product(
    x, group, weight, bias, kept, out, sums, rows,
    inner: tl.constexpr, width: tl.constexpr, w_inner: tl.constexpr, w_outer: tl.constexpr,
    SHARED: tl.constexpr, BACKWARD: tl.constexpr, ACTIVATION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Write activation(x @ weight + bias), or going back (x @ weight) * derivative(kept).

    Going back a program's sum over its rows is written too, for the bias.
    """
    down = tl.cdiv(rows, BM)
    tiles = down * tl.cdiv(width, BN)
    head = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    # Tiles that read the same weights run side by side.
    m = tile % down * BM + tl.arange(0, BM)[:, None]
    n = tile // down * BN + tl.arange(0, BN)[None, :]
    place = head
    if SHARED:
        place = tl.load(group + head)
    x += place * rows * inner
    weight += head * inner * width
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, inner, BK):
        k = start + tl.arange(0, BK)
        a = tl.load(x + m * inner + k[None, :], mask=(m < rows) & (k[None, :] < inner), other=0.0)
        b = tl.load(
            weight + k[:, None] * w_inner + n * w_outer,
            mask=(k[:, None] < inner) & (n < width),
            other=0.0,
        )
        total = tl.dot(a, b.to(a.dtype), total)
    kept += head * rows * width
    out += head * rows * width
    at = m * width + n
    inside = (m < rows) & (n < width)
    if BACKWARD:
        y = tl.load(kept + at, mask=inside, other=0.0).to(tl.float32)
        total = derivative_of(total, y, ACTIVATION)
        over_rows = tl.sum(total, axis=0)[None, :]
        tl.store(sums + (head * down + tile % down) * width + n, over_rows, mask=n < width)
    else:
        total += tl.load(bias + head * width + n, mask=n < width, other=0.0)
        total = activation_of(total, ACTIVATION)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _update(
    x, group, dz, sums, weight, bias, first_w, first_b, second_w, second_b, rates,
    rows, parts, inner: tl.constexpr, width: tl.constexpr,
    SHARED: tl.constexpr, ADAM: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr,
    EPS_: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Step with the gradient x^T @ dz, which never leaves the registers, and that of the bias."""
    down = tl.cdiv(inner, BM)
    tiles = down * tl.cdiv(width, BN)
    head = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    m = tile % down * BM + tl.arange(0, BM)
    n = tile // down * BN + tl.arange(0, BN)[None, :]
    place = head
    if SHARED:
        place = tl.load(group + head)
    x += place * rows * inner
    dz += head * rows * width
    rates += head * 4
    weight += head * inner * width
    first_w += head * inner * width
    second_w += head * inner * width
    at = m[:, None] * width + n
    inside = (m[:, None] < inner) & (n < width)
    grad = tl.zeros((BM, BN), tl.float32)
    for start in range(0, rows, BK):
        k = start + tl.arange(0, BK)[:, None]
        a = tl.load(x + k * inner + m[None, :], mask=(k < rows) & (m[None, :] < inner), other=0.0)
        b = tl.load(dz + k * width + n, mask=(k < rows) & (n < width), other=0.0)
        grad = tl.dot(tl.trans(a), b, grad)
    # Not before the product: its registers let one more program run, which hides the wait.
    p, one, two = load_state(weight, first_w, second_w, at, inside, ADAM)
    p, one, two = step(p, one, two, grad, rates, ADAM, B1, B2, EPS_)
    store_state(weight, first_w, second_w, at, inside, p, one, two, ADAM)
    if tile % down == 0:
        total = tl.zeros((1, BN), tl.float32)
        for part in range(0, parts):
            total += tl.load(sums + (head * parts + part) * width + n, mask=n < width, other=0.0)
        here = head * width + n
        q, one_b, two_b = load_state(bias, first_b, second_b, here, n < width, ADAM)
        q, one_b, two_b = step(q, one_b, two_b, total, rates, ADAM, B1, B2, EPS_)
        store_state(bias, first_b, second_b, here, n < width, q, one_b, two_b, ADAM)


@triton.jit
def _score(x, weight, bias, out, rows, inner: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The output layer, one number a row: a sum, not a product of matrices."""
    down = tl.cdiv(rows, BM)
    head = (tl.program_id(0) // down).to(tl.int64)
    m = tl.program_id(0) % down * BM + tl.arange(0, BM)
    total = tl.zeros((BM,), tl.float32)
    for start in range(0, inner, BN):
        n = start + tl.arange(0, BN)
        y = tl.load(
            x + head * rows * inner + m[:, None] * inner + n[None, :],
            mask=(m[:, None] < rows) & (n[None, :] < inner),
            other=0.0,
        )
        w = tl.load(weight + head * inner + n, mask=n < inner, other=0.0)
        total += tl.sum(y.to(tl.float32) * w[None, :], axis=1)
    tl.store(out + head * rows + m, total + tl.load(bias + head), mask=m < rows)


@triton.jit
def _score_update(
    x, grad, dz, sums, weight, bias, first_w, first_b, second_w, second_b, rates, rows,
    inner: tl.constexpr,
    ADAM: tl.constexpr, ACTIVATION: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr,
    EPS_: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The output layer's step, the gradient before its activation, and that one's sum over rows."""
    across = tl.cdiv(inner, BN)
    head = (tl.program_id(0) // across).to(tl.int64)
    tile = tl.program_id(0) % across
    n = tile * BN + tl.arange(0, BN)
    rates += head * 4
    w, one, two = load_state(weight, first_w, second_w, head * inner + n, n < inner, ADAM)
    slope = tl.zeros((BN,), tl.float32)
    over_rows = tl.zeros((BN,), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    for start in range(0, rows, BM):
        m = start + tl.arange(0, BM)
        at = head * rows * inner + m[:, None] * inner + n[None, :]
        inside = (m[:, None] < rows) & (n[None, :] < inner)
        y = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + head * rows + m, mask=m < rows, other=0.0)
        slope += tl.sum(y * g[:, None], axis=0)
        total += g
        back = derivative_of(g[:, None] * w[None, :], y, ACTIVATION)
        over_rows += tl.sum(back, axis=0)
        tl.store(dz + at, back.to(dz.dtype.element_ty), mask=inside)
    tl.store(sums + head * inner + n, over_rows, mask=n < inner)
    w, one, two = step(w, one, two, slope, rates, ADAM, B1, B2, EPS_)
    store_state(weight, first_w, second_w, head * inner + n, n < inner, w, one, two, ADAM)
    if tile == 0:
        p, one_b, two_b = load_state(bias, first_b, second_b, head, True, ADAM)
        p, one_b, two_b = step(p, one_b, two_b, tl.sum(total), rates, ADAM, B1, B2, EPS_)
        store_state(bias, first_b, second_b, head, True, p, one_b, two_b, ADAM)


def forward(
    x: Tensor, group: Tensor | None, weight: Tensor, bias: Tensor, out: Tensor, activation: str
) -> None:
    """Write activation(x @ weight + bias) to ``out`` [H, B, N]."""
    _launch_product(x, group, weight, bias, out, out, bias, activation, backward=False)


def backward(dz: Tensor, weight: Tensor, kept: Tensor, out: Tensor, activation: str) -> Tensor:
    """Write (dz @ weight^T) * activation' to ``out`` [H, B, K], from the result ``kept``.

    Returns:
        [H, parts, K], the sums of parts of the rows.
    """
    heads, rows, width = out.shape
    parts = triton.cdiv(rows, block_of(rows, 128))
    sums = torch.empty(heads, parts, width, device=out.device)
    _launch_product(dz, None, weight, weight, kept, out, sums, activation, backward=True)
    return sums


def _launch_product(x, group, weight, bias, kept, out, sums, activation, *, backward) -> None:
    heads, rows, width = out.shape
    inner = x.shape[2]
    # Going forward a program takes all rows, so that each weight is read once; where there are few
    # heads, more programs have less to do. Going back there is little to sum over.
    most, depth = (128, 64) if backward or heads < FEW_HEADS else (256, 32)
    bm, bn, bk = block_of(rows, most), block_of(width, 64), block_of(inner, depth)
    w_inner, w_outer = (1, inner) if backward else (width, 1)
    grid = (heads * triton.cdiv(rows, bm) * triton.cdiv(width, bn),)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _product[grid](
            x, x if group is None else group, weight, bias, kept, out, sums,
            rows, inner, width, w_inner, w_outer,
            SHARED=group is not None, BACKWARD=backward, ACTIVATION=activation,
            BM=bm, BN=bn, BK=bk,
            num_warps=4 if bm < 256 else 8, num_stages=1 if backward else 4 if bm == 256 else 3,
        )  # fmt: skip


def update(
    x: Tensor, group: Tensor | None, dz: Tensor, sums: Tensor, layer: Layer, rates: Tensor
) -> None:
    """Take a step with the gradients of a layer: x^T @ dz [H, K, N] and dz's sum over rows.

    ``sums`` [H, parts, N] add up to that sum.
    """
    heads, rows, width = dz.shape
    inner = x.shape[2]
    bm, bn, bk = block_of(inner, 64), block_of(width, 64), block_of(rows, 128)
    grid = (heads * triton.cdiv(inner, bm) * triton.cdiv(width, bn),)
    with torch.cuda.device_of(x):
        _update[grid](
            x, x if group is None else group, dz, sums, *_pointers(layer), rates,
            rows, sums.shape[1], inner, width,
            SHARED=group is not None, **_constants(layer), BM=bm, BN=bn, BK=bk, num_stages=2,
        )  # fmt: skip


def score(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """Write the output layer's scores to ``out`` [H, B]; weight [H, K, 1], bias [H, 1]."""
    heads, rows, inner = x.shape
    bm, bn = block_of(rows, 64), block_of(inner, 64)
    with torch.cuda.device_of(x):
        _score[(heads * triton.cdiv(rows, bm),)](x, weight, bias, out, rows, inner, BM=bm, BN=bn)


def score_update(
    x: Tensor, grad: Tensor, dz: Tensor, layer: Layer, rates: Tensor, activation: str
) -> Tensor:
    """Take a step of the output layer, and write the gradient before ``activation`` to ``dz``.

    Args:
        x: [H, B, K], what the layer saw: the activation's result.
        grad: [H, B] of the scores.
        dz: [H, B, K], written.
        layer: the output layer.
        rates: [H, 4].
        activation: that gave ``x``.

    Returns:
        [H, 1, K], the sum of ``dz`` over rows.
    """
    heads, rows, inner = x.shape
    bm, bn = block_of(rows, 64), block_of(inner, 64)
    sums = torch.empty(heads, 1, inner, device=x.device)
    with torch.cuda.device_of(x):
        _score_update[(heads * triton.cdiv(inner, bn),)](
            x, grad, dz, sums, *_pointers(layer), rates, rows, inner,
            ACTIVATION=activation, **_constants(layer), BM=bm, BN=bn,
        )  # fmt: skip
    return sums


def _pointers(layer: Layer) -> tuple[Tensor, ...]:
    return (layer.weight, layer.bias, *layer.first, *(layer.second or layer.first))


def _constants(layer: Layer) -> dict[str, object]:
    return {"ADAM": layer.second is not None, "B1": BETA1, "B2": BETA2, "EPS_": EPS}


def block_of(size: int, most: int) -> int:
    """Return the block of a dimension: no larger than it need be, at least what a dot takes."""
    return int(max(16, min(most, triton.next_power_of_2(size))))
