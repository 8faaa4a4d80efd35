"""Stacked heads and their optimizer on the kernels of a GPU.

In bfloat16 a layer's gradient never exists: the kernel that computes it takes the step. In float32
and TF32 the vendor's products stay, with one pass over memory between them: they are faster than
Triton's (TF32 on an H100: a layer's gradient in 0.4 ms, in Triton with its step 2.8).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.network import Rows
from qamro_cache.training.batches import Batch
from qamro_cache.training.gpu import kernels, passes
from qamro_cache.training.gpu.epilogue import ACTIVATIONS
from qamro_cache.training.net import LayeredNet, is_layered
from qamro_cache.training.optimizer import SGD, AdamW
from qamro_cache.training.preferences import LEARNED
from qamro_cache.training.state import HeadState
from qamro_cache.training.views import Group, View


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
            rates = self.rates
            if name == LEARNED:
                rates = rates.clone()
                rates[:, 1] = 1
            passes.adamw(p, self.first[name], self.second[name], self.grads[name], rates)


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

    def _multiply(self, k: int, bias: Tensor, rows: Tensor, weight: Tensor, out: Tensor) -> None:
        if self.names[k] == "output":
            torch.baddbmm(bias, rows, weight, out=out)
        else:
            torch.bmm(rows, weight, out=out)

    def activation(self, k: int, z: Tensor) -> Tensor:
        """See `Layers`; adds the bias on the way."""
        self.kept.append(z)
        passes.activate_(z, self.params[f"{k}.bias"], self.architecture.activation)
        return z

    def _activation_backward(self, dh: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        total = dh.new_empty(dh.shape[0], dh.shape[2])
        passes.derivative_(dh, kept, total, self.architecture.activation)
        return dh, total


def covers(head: Architecture, dropout: bool) -> bool:
    """Whether the kernels can train these heads."""
    return is_layered(head) and bool(head.widths) and head.activation in ACTIVATIONS and not dropout


class KernelNet(LayeredNet):
    """Mlp heads with hidden layers, without layer norm and dropout, one row a clip.

    A layer's activation is applied where its product is made, and ``inputs`` are what each layer
    sees, from the rows on.
    """

    stored = torch.bfloat16

    def take(self, views: Sequence[View], batch: Batch) -> list[Group]:
        """Return the first group's rows for all heads, and keep every group's [groups, B, D]."""
        self.taken = self.table.take(views, batch)
        self.group = self.table.group
        return [Group(Rows(self.taken[0]), slice(0, len(self.group)))]

    def product(self, k: int, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """See `Layers`; takes the rows of every group instead of the first ``hidden``."""
        if k == 0:
            self.inputs = [self.taken]
        x = self.inputs[-1]
        if self.names[k] == "output":
            self.result = torch.empty(*x.shape[:2], 1, dtype=torch.float32, device=x.device)
            kernels.score(x, weight, bias, self.result)
            return self.result
        z = self._buffer("z", k, weight, hidden.shape[1])
        group = self.group if k == 0 else None
        kernels.forward(x, group, weight, bias, z, self.architecture.activation)
        self.inputs.append(z)
        return z

    def activation(self, k: int, z: Tensor) -> Tensor:
        """Return it as it is."""
        return z

    def backward(self, grad: Tensor, sink: KernelSGD | KernelAdamW) -> None:  # type: ignore[override]
        """Take the optimizer's step, from the gradient of the scores [H, B]."""
        grad = self._output_backward(grad).contiguous()
        activation = self.architecture.activation
        before = [self.params[f"{name}.weight"] for name in self.names[:-1]]
        rows = grad.shape[1]
        dz = self._buffer("dh", len(before) - 1, before[-1], rows)
        top = sink.layer("output")
        sums = kernels.score_update(self.inputs[-1], grad, dz, top, sink.rates, activation)
        for layer in range(len(before) - 1, -1, -1):
            x, this, here = self.inputs[layer], dz, sums
            if layer > 0:
                # From the weights as they were: before their own step.
                dz = self._buffer("dh", layer - 1, before[layer - 1], rows)
                sums = kernels.backward(this, before[layer], x, dz, activation)
            group = self.group if layer == 0 else None
            kernels.update(x, group, this, here, sink.layer(self.names[layer]), sink.rates)

    def score(self, params: Mapping[str, Tensor], rows: Rows, bounds: Tensor) -> Tensor:
        """Return the scores [H, R] of rows that all heads share; keeps nothing."""
        alone = KernelNet(self.architecture)
        alone.taken = rows.values.to(self.stored).unsqueeze(0)
        alone.group = torch.zeros(len(bounds), dtype=torch.int64, device=bounds.device)
        # A part of the heads begins where Triton might have to compile for another alignment.
        params = {name: p.clone() if p.data_ptr() % 16 else p for name, p in params.items()}
        return alone.forward(params, [Group(rows, slice(0, len(bounds)))], bounds, None)
