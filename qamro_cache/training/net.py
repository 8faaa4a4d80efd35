"""Forward and backward of stacked heads in training.

The forward pass is `score_rows` for every network. `LayeredNet` goes back by hand in the common
case (mlp and linear heads on one row a clip): it hands the optimizer the factors of each weight's
gradient instead of the gradient. `AutogradNet` leaves all others to autograd. Both give the same.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.network import Layers, Rows, score_rows
from qamro_cache.heads.outputs import activate
from qamro_cache.heads.parameters import parameter_shapes
from qamro_cache.training.batches import Batch
from qamro_cache.training.optimizer import Optimizer
from qamro_cache.training.views import Group, RowTable, View, stand_in_small_groups


class Net(Protocol):
    """What a stack asks of its heads' network."""

    def take(self, views: Sequence[View], batch: Batch) -> list[Group]:
        """Return the rows of a batch's clips as `forward` takes them."""

    def forward(
        self,
        params: Mapping[str, Tensor],
        groups: Sequence[Group],
        bounds: Tensor,
        dropout: "Dropout | None",
    ) -> Tensor:
        """Return scores [H, B], and keep what `backward` needs."""

    def backward(self, grad: Tensor, sink: Any) -> None:
        """Send the gradient of every parameter to ``sink``, from that of the scores [H, B].

        The sink is the optimizer that goes with the network.
        """

    def score(self, params: Mapping[str, Tensor], rows: Rows, bounds: Tensor) -> Tensor:
        """Return the scores [H, R] of rows that all heads share; keeps nothing."""


class Dropout:
    """Dropout masks from a hash of (seed, step, layer, place).

    A head's masks depend on nothing else: not on its neighbors, the device, or what was drawn
    before, and a captured graph needs no generator.
    """

    def __init__(self, rate: Tensor, seeds: Tensor, step: Tensor) -> None:
        """Take rate [H] in [0, 1), seeds [H] int64 and the number of the step [] int64."""
        self.rate, self.seeds, self.step = rate, seeds, step

    def __call__(self, layer: int, hidden: Tensor) -> Tensor:
        """Return the factor [H, B, width] of a layer's output: 0 or 1 / (1 - rate)."""
        _, rows, width = hidden.shape
        place = torch.arange(rows * width, device=hidden.device).reshape(1, rows, width)
        key = _mix(_mix(self.seeds + 0x9E3779B9) ^ (self.step * 64 + layer))
        bits = _mix(place ^ _mix(key).reshape(-1, 1, 1))
        rate = self.rate.reshape(-1, 1, 1)
        keep = bits.to(torch.float64) >= rate.double() * 2**32
        return keep.to(hidden.dtype) / (1 - rate).to(hidden.dtype)


def _mix(x: Tensor) -> Tensor:
    """The finalizer of MurmurHash3 on the low 32 bits (in int64, where products wrap)."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def is_layered(head: Architecture) -> bool:
    """Whether `LayeredNet` covers these heads."""
    plain = not (head.mixes or head.layer_norm or head.output == "gaussian")
    return head.rows_are_clips and plain


class LayeredNet(Layers):
    """Mlp and linear heads without layer norm, one row a clip.

    Activations and their gradients live in buffers that the next step overwrites: fresh memory
    for each would cost more page faults than arithmetic.
    """

    #: Activations are stored as this; None: as the weights are.
    stored: torch.dtype | None = None

    def __init__(self, head: Architecture) -> None:
        super().__init__(head)
        self.names = [*map(str, range(len(head.widths))), "output"]
        self.buffers: dict[tuple[str, int], Tensor] = {}
        self.table = RowTable(self.stored)
        self.own: Tensor | None = None

    def take(self, views: Sequence[View], batch: Batch) -> list[Group]:
        """Return the rows of a batch's clips."""
        self.own = None
        if not stand_in_small_groups(views):
            return [view.take(batch) for view in views]
        # A product for each group would leave most of a GPU idle: every head has a copy instead.
        taken = self.table.take(views, batch)
        self.own = taken.index_select(0, self.table.group)
        return [Group(Rows(taken[0]), slice(0, len(self.own)))]

    def forward(
        self,
        params: Mapping[str, Tensor],
        groups: Sequence[Group],
        bounds: Tensor,
        dropout: Dropout | None,
    ) -> Tensor:
        """Return scores [H, B], and keep what `backward` needs."""
        self.params, self.groups, self.bounds = params, groups, bounds
        # What each hidden layer's activation has left, the factors of dropout, and what the next
        # layer sees.
        self.kept: list[Tensor] = []
        self.factors: list[Tensor] = []
        self.inputs: list[Tensor] = []

        # The first product goes to each group's own rows; here it matters how many there are.
        return score_rows(
            self.architecture,
            params,
            groups[0].rows,
            bounds=bounds,
            dropout=None if dropout is None else partial(self._drop, dropout),
            layers=self,
        )

    def product(self, k: int, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """See `Layers`; the first layer's ``hidden`` are the rows of every group instead."""
        z = self._buffer("z", k, weight, hidden.shape[1])
        if k > 0:
            self.inputs.append(hidden)
            self._multiply(k, bias, hidden, weight, z)
        else:
            for rows, heads in self._rows():
                self._multiply(k, bias[heads], rows, weight[heads], z[heads])
        self.result = z
        return z

    def activation(self, k: int, z: Tensor) -> Tensor:
        """See `Layers`; in place where the derivative can be told from the result."""
        self.kept.append(z)
        return _activate_(self.architecture.activation, z)

    def backward(self, grad: Tensor, sink: Optimizer) -> None:
        """Send the gradient of every parameter to ``sink``, from that of the scores [H, B]."""
        dz = self._output_backward(grad).unsqueeze(-1)
        over_rows = dz.sum(1)
        everyone = slice(0, dz.shape[0])
        for layer in range(len(self.names) - 1, -1, -1):
            name = self.names[layer]
            sink.add(f"{name}.bias", over_rows)
            if layer == 0:
                for rows, heads in self._rows():
                    sink.add_product(f"{name}.weight", heads, rows.mT, dz[heads])
                return
            hidden, weight = self.inputs[layer - 1], self.params[f"{name}.weight"]
            sink.add_product(f"{name}.weight", everyone, hidden.transpose(1, 2), dz)
            before = self.params[f"{self.names[layer - 1]}.weight"]
            dh = self._buffer("dh", layer - 1, before, hidden.shape[1])
            product = torch.mul if name == "output" else torch.bmm
            product(dz, weight.transpose(1, 2), out=dh)
            if self.factors:
                dh.mul_(self.factors[layer - 1])
            dz, over_rows = self._activation_backward(dh, self.kept[layer - 1])

    def _rows(self) -> list[tuple[Tensor, slice]]:
        """Return the rows [heads, B, D] of all heads, in parts; a group's share their memory."""
        if self.own is not None:
            return [(self.own, slice(0, len(self.own)))]
        return [
            (values.expand(heads.stop - heads.start, *values.shape), heads)
            for (values, _), heads in self.groups
        ]

    def _drop(self, dropout: Dropout, layer: int, hidden: Tensor) -> Tensor:
        self.factors.append(dropout(layer, hidden))
        return self.factors[-1]

    def _multiply(self, k: int, bias: Tensor, rows: Tensor, weight: Tensor, out: Tensor) -> None:
        """Write layer k's rows @ weight + bias."""
        torch.baddbmm(bias, rows, weight, out=out)

    def _activation_backward(self, dh: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient before the activation, and its sum over rows."""
        dz = _activation_backward(self.architecture.activation, dh, kept)
        return dz, dz.sum(1)

    def score(self, params: Mapping[str, Tensor], rows: Rows, bounds: Tensor) -> Tensor:
        """Return the scores [H, R] of rows that all heads share; keeps nothing."""
        return score_rows(self.architecture, params, rows, bounds=bounds)

    def _output_backward(self, grad: Tensor) -> Tensor:
        """Return the gradient of the last product's result [H, B], from that of the scores."""
        if self.architecture.output == "bounded":
            span = self.bounds[:, 1:] - self.bounds[:, :1]
            share = torch.sigmoid(self.result.squeeze(-1))
            grad = grad * span * share * (1 - share)
        return grad

    def _buffer(self, use: str, layer: int, weight: Tensor, rows: int) -> Tensor:
        """Return room for a layer's [H, rows, width] values."""
        shape = (weight.shape[0], rows, weight.shape[2])
        buffer = self.buffers.get((use, layer))
        if buffer is None or buffer.shape[0] < shape[0] or buffer.shape[1] < rows:
            self.buffers[use, layer] = buffer = weight.new_empty(shape, dtype=self.stored)
        if buffer.shape == shape:
            return buffer
        return buffer.flatten()[: shape[0] * shape[1] * shape[2]].view(shape)


def _activate_(name: str, z: Tensor) -> Tensor:
    """Apply an activation; in place where its derivative can be told from its result."""
    if name == "relu":
        return z.relu_()
    if name == "tanh":
        return z.tanh_()
    return activate(name, z)


def _activation_backward(name: str, grad: Tensor, kept: Tensor) -> Tensor:
    """Multiply by the derivative, from what `_activate_` left in ``kept``; relu'(0) is 0."""
    operators = torch.ops.aten
    if name == "relu":
        result: Tensor = operators.threshold_backward.grad_input(grad, kept, 0, grad_input=grad)
    elif name == "tanh":
        result = operators.tanh_backward.grad_input(grad, kept, grad_input=grad)
    elif name == "gelu":
        result = operators.gelu_backward(grad, kept)
    else:
        result = grad
    return result


class AutogradNet:
    """Any head, by autograd; ``half`` computes its products in bfloat16."""

    def __init__(self, head: Architecture, half: bool = False) -> None:
        self.head, self.half = head, half

    def take(self, views: Sequence[View], batch: Batch) -> list[Group]:
        """Return the rows of a batch's clips."""
        return [view.take(batch) for view in views]

    def forward(
        self,
        params: Mapping[str, Tensor],
        groups: Sequence[Group],
        bounds: Tensor,
        dropout: Dropout | None,
    ) -> Tensor:
        """Return scores [H, B], and keep what `backward` needs."""
        # Not what a loss learns beside the network.
        own = parameter_shapes(self.head, tuple(groups[0].rows.values.shape[1:]))
        self.leaves = {name: params[name].detach().requires_grad_() for name in own}
        with torch.enable_grad(), self._precision():
            parts = []
            for rows, heads in groups:
                drop = None
                if dropout is not None:
                    drop = Dropout(dropout.rate[heads], dropout.seeds[heads], dropout.step)
                part = {name: leaf[heads] for name, leaf in self.leaves.items()}
                parts.append(score_rows(self.head, part, rows, bounds=bounds[heads], dropout=drop))
            self.scores = torch.cat(parts)
            self.scores = self.scores.to(bounds.dtype)
        return self.scores.detach()

    def score(self, params: Mapping[str, Tensor], rows: Rows, bounds: Tensor) -> Tensor:
        """Return the scores [H, R] of rows that all heads share; keeps nothing."""
        with self._precision():
            return score_rows(self.head, params, rows, bounds=bounds).to(bounds.dtype)

    def _precision(self) -> AbstractContextManager[object]:
        if not self.half:
            return nullcontext()
        # Without its cache: a cast that is kept would outlive the weights in a captured graph.
        return torch.autocast("cuda", torch.bfloat16, cache_enabled=False)

    def backward(self, grad: Tensor, sink: Optimizer) -> None:
        """Send the gradient of every parameter to ``sink``, from that of the scores [H, B]."""
        names = list(self.leaves)
        grads = torch.autograd.grad(self.scores, [self.leaves[name] for name in names], grad)
        for name, value in zip(names, grads, strict=True):
            sink.add(name, value)
        del self.scores
