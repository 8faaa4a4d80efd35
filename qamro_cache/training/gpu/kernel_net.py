"""Stacked heads and their optimizer on the kernels of a GPU, in TF32 or bfloat16.

The same as `LayeredNet` with `SGD` or `AdamW`, but a layer's gradient never exists: the kernel that
computes it takes the step. In float32 the vendor's products stay, with one pass over memory between
them: on plain multiply-adds a step is limited by arithmetic, where Triton's products can hardly win
(a judgment, not a measurement).
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.network import Rows
from qamro_cache.training.gpu import kernels, passes
from qamro_cache.training.gpu.epilogue import ACTIVATIONS
from qamro_cache.training.net import Dropout, Group, LayeredNet, is_layered
from qamro_cache.training.optimizer import SGD, AdamW
from qamro_cache.training.state import HeadState

#: What rows and activations are stored as, by the products' precision.
STORED = {"tf32": torch.float32, "bf16": torch.bfloat16}


class KernelSGD(SGD):
    """SGD in the gradients' epilogue; a head's rates are (momentum, weight decay, lr, unused)."""

    def bind(self, params: Mapping[str, Tensor], state: HeadState) -> None:
        """Take the heads' parameters and rates."""
        self.params = params
        columns = [state.momentum, state.weight_decay, state.lr]
        self.moving = torch.stack([*columns, torch.zeros_like(state.lr)], 1)
        self.resting = torch.zeros_like(self.moving)
        self.resting[:, 0] = 1

    def begin(self, active: Tensor | None) -> None:
        """Start a step; ``active`` [H] says which heads take it, None all."""
        rates = self.moving
        if active is not None:
            rates = torch.where(active.unsqueeze(1), rates, self.resting)
        self.rates = rates

    def layer(self, name: str) -> kernels.Layer:
        """Return a layer's parameters with their state."""
        weight, bias = f"{name}.weight", f"{name}.bias"
        velocity = self.velocity[weight], self.velocity[bias]
        return kernels.Layer(self.params[weight], self.params[bias], velocity)

    def step(self) -> None:
        """Nothing is left to do."""


class StepAdamW(AdamW):
    """AdamW in one pass; a head's rates are (active, shrinkage, corrections of both moments)."""

    def begin(self, active: Tensor | None) -> None:
        """Start a step; ``active`` [H] says which heads take it, None all."""
        super().begin(active)
        self.rates = torch.stack([self.active, *self.advance()], 1)

    def step(self) -> None:
        """Move the parameters."""
        for name, p in self.params.items():
            passes.adamw(p, self.first[name], self.second[name], self.grads[name], self.rates)


class KernelAdamW(StepAdamW):
    """AdamW in the gradients' epilogue."""

    keeps_gradients = False

    def layer(self, name: str) -> kernels.Layer:
        """Return a layer's parameters with their state."""
        weight, bias = f"{name}.weight", f"{name}.bias"
        first = self.first[weight], self.first[bias]
        second = self.second[weight], self.second[bias]
        return kernels.Layer(self.params[weight], self.params[bias], first, second)

    def step(self) -> None:
        """Nothing is left to do."""


def fuses_passes(head: Architecture) -> bool:
    """Whether `PassNet` can train these heads."""
    return is_layered(head) and head.activation in ACTIVATIONS


class PassNet(LayeredNet):
    """`LayeredNet` with PyTorch's products, and one pass over memory between two of them."""

    def _multiply(self, bias: Tensor, rows: Tensor, weight: Tensor, out: Tensor, name: str) -> None:
        if name == "output":
            torch.baddbmm(bias, rows, weight, out=out)
        else:
            torch.bmm(rows, weight, out=out)

    def _activate_(self, z: Tensor, bias: Tensor) -> Tensor:
        passes.activate_(z, bias, self.head.activation)
        return z

    def _activation_backward(self, dh: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        total = dh.new_empty(dh.shape[0], dh.shape[2])
        passes.derivative_(dh, kept, total, self.head.activation)
        return dh, total


def covers(head: Architecture, dropout: bool) -> bool:
    """Whether the kernels can train these heads."""
    return is_layered(head) and bool(head.widths) and head.activation in ACTIVATIONS and not dropout


class KernelNet(LayeredNet):
    """Mlp heads with hidden layers, without layer norm and dropout, one row a clip."""

    def __init__(self, head: Architecture, precision: str) -> None:
        super().__init__(head)
        self.stored = STORED[precision]
        self.places: dict[tuple[tuple[int, int], ...], Tensor] = {}

    def forward(
        self,
        params: Mapping[str, Tensor],
        groups: Sequence[Group],
        bounds: Tensor,
        dropout: Dropout | None,
    ) -> Tensor:
        """Return scores [H, B], and keep what `backward` needs."""
        self.params = params
        values = [group.rows.values for group in groups]
        # The groups' rows side by side, and each head's group.
        x = torch.stack(values) if len(values) > 1 else values[0].unsqueeze(0)
        self.group: Tensor | None = self._group(groups, x.device)
        rows = x.shape[1]
        # What each layer sees, and the activation's derivative is computed from.
        self.inputs = self._hidden(
            params, x, self.group, lambda layer, w: self._buffer("z", layer, w, rows)
        )
        return self._score(params, self.inputs[-1], bounds)

    def backward(self, grad: Tensor, sink: KernelSGD | KernelAdamW) -> None:  # type: ignore[override]
        """Take the optimizer's step, from the gradient of the scores [H, B]."""
        grad = self._output_backward(grad).contiguous()
        activation = self.head.activation
        before = [self.params[f"{name}.weight"] for name in self.names[:-1]]
        rows = grad.shape[1]
        dz = self._buffer("dh", len(before) - 1, before[-1], rows)
        top = sink.layer("output")
        kernels.score_update(self.inputs[-1], grad, dz, top, sink.rates, activation)
        for layer in range(len(before) - 1, -1, -1):
            x, this = self.inputs[layer], dz
            if layer > 0:
                # From the weights as they were: before their own step.
                dz = self._buffer("dh", layer - 1, before[layer - 1], rows)
                kernels.backward(this, before[layer], x, dz, activation)
            group = self.group if layer == 0 else None
            kernels.update(x, group, this, sink.layer(self.names[layer]), sink.rates)

    def score(self, params: Mapping[str, Tensor], rows: Rows, bounds: Tensor) -> Tensor:
        """Return the scores [H, R] of rows that all heads share; keeps nothing."""
        x, heads = rows.values.unsqueeze(0), bounds.shape[0]
        group = torch.zeros(heads, dtype=torch.int64, device=x.device)

        def fresh(layer: int, weight: Tensor) -> Tensor:
            return x.new_empty(heads, x.shape[1], weight.shape[2], dtype=self.stored)

        return self._score(params, self._hidden(params, x, group, fresh)[-1], bounds)

    def _hidden(
        self,
        params: Mapping[str, Tensor],
        x: Tensor,
        group: Tensor | None,
        room: Callable[[int, Tensor], Tensor],
    ) -> list[Tensor]:
        """Return what each layer sees; ``room``: (layer, its weight) -> where its result goes."""
        seen = [x.to(self.stored)]
        for layer, name in enumerate(self.names[:-1]):
            weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
            z = room(layer, weight)
            kernels.forward(seen[-1], group, weight, bias, z, self.head.activation)
            seen.append(z)
            group = None
        return seen

    def _score(self, params: Mapping[str, Tensor], x: Tensor, bounds: Tensor) -> Tensor:
        scores = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
        kernels.score(x, params["output.weight"], params["output.bias"], scores)
        self.bounds = bounds
        return self._output(scores)

    def _group(self, groups: Sequence[Group], device: torch.device) -> Tensor:
        """Return each head's group [H], filled on the device, which waits for nothing."""
        key = tuple((group.heads.start, group.heads.stop) for group in groups)
        if key not in self.places:
            place = torch.empty(key[-1][1], dtype=torch.int64, device=device)
            for k, (start, stop) in enumerate(key):
                place[start:stop].fill_(k)
            self.places = {key: place}
        return self.places[key]
