"""SGD and AdamW over stacked heads, each head with its own learning rate, momentum and decay.

A gradient arrives as the two factors of a product (`add_product`) or as it is (`add`), so that
SGD can accumulate the product straight into its momentum: no gradient tensor is ever written.
A head without a valid sample in a step (``active`` false) keeps its parameters and its state.
Weight decay is for the network: what is learned beside it (`LEARNED`) is not pulled towards 0.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from qamro_cache.training.preferences import LEARNED
from qamro_cache.training.state import HeadState

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class Optimizer(Protocol):
    """What a stack asks of an optimizer: `begin` a step, take each gradient, `step`."""

    def begin(self, active: Tensor | None) -> None:
        """Start a step; ``active`` [H] says which heads take it, None all."""

    def add_product(self, name: str, heads: slice, left: Tensor, right: Tensor) -> None:
        """Take the gradient left @ right of the parameter's ``heads``."""

    def add(self, name: str, grad: Tensor) -> None:
        """Take a gradient of the parameter's shape."""

    def step(self) -> None:
        """Move the parameters."""

    def select(self, heads: Tensor, params: Mapping[str, Tensor], state: HeadState) -> None:
        """Go on with ``heads`` [K] only, whose parameters and state are given; may wait."""

    def memory(self) -> dict[str, Tensor]:
        """Return what it knows of earlier steps, by name; what is copied into it goes on there."""


class SGD:
    """v = momentum * v + gradient + weight_decay * p; p = p - lr * v, as torch.optim.SGD."""

    def __init__(self, params: Mapping[str, Tensor], state: HeadState) -> None:
        self.velocity = {name: torch.zeros_like(p) for name, p in params.items()}
        self.bind(params, state)

    def select(self, heads: Tensor, params: Mapping[str, Tensor], state: HeadState) -> None:
        """Go on with ``heads`` [K] only; waits for the device."""
        select_(self.velocity, heads)
        self.bind(params, state)

    def memory(self) -> dict[str, Tensor]:
        """Return what it knows of earlier steps, by name."""
        return {f"velocity/{name}": value for name, value in self.velocity.items()}

    def bind(self, params: Mapping[str, Tensor], state: HeadState) -> None:
        """Take the heads' parameters and rates; waits for the device."""
        self.params, self.state = params, state
        self.decays = bool((state.weight_decay != 0).any())
        same = bool((state.momentum == state.momentum[0]).all())
        self.momentum = float(state.momentum[0]) if same else None
        self.down = -state.lr

    def begin(self, active: Tensor | None) -> None:
        """Start a step; ``active`` [H] says which heads take it, None all."""
        self.taken = self.down
        # One momentum for all and nothing to skip: the product itself shrinks the old velocity.
        self.fused = active is None and self.momentum is not None and not self.decays
        if self.fused:
            return
        momentum, decay = self.state.momentum, self.state.weight_decay
        if active is not None:
            momentum = torch.where(active, momentum, 1)
            decay = torch.where(active, decay, 0)
            self.taken = torch.where(active, self.down, 0)
        for name, p in self.params.items():
            velocity = self.velocity[name].mul_(_like(momentum, p))
            if self.decays and name != LEARNED:
                velocity.addcmul_(p, _like(decay, p))

    def add_product(self, name: str, heads: slice, left: Tensor, right: Tensor) -> None:
        """Add the gradient left @ right of the parameter's ``heads``."""
        velocity = self.velocity[name][heads]
        velocity.baddbmm_(left, right, beta=self._old())

    def add(self, name: str, grad: Tensor) -> None:
        """Add a gradient of the parameter's shape."""
        velocity = self.velocity[name]
        torch.add(grad, velocity, alpha=self._old(), out=velocity)

    def step(self) -> None:
        """Move the parameters."""
        for name, p in self.params.items():
            p.addcmul_(self.velocity[name], _like(self.taken, p))

    def _old(self) -> float:
        return self.momentum if self.fused and self.momentum is not None else 1.0


class AdamW:
    """Decoupled weight decay, betas .9 and .999, eps 1e-8, as torch.optim.AdamW."""

    #: Whether gradients are kept until `step`.
    keeps_gradients = True

    def __init__(self, params: Mapping[str, Tensor], state: HeadState) -> None:
        self.first = {name: torch.zeros_like(p) for name, p in params.items()}
        self.second = {name: torch.zeros_like(p) for name, p in params.items()}
        self.steps = torch.zeros_like(state.lr)
        self.grads = {
            name: torch.zeros_like(p) for name, p in params.items() if self.keeps_gradients
        }
        self.params, self.state = params, state

    def select(self, heads: Tensor, params: Mapping[str, Tensor], state: HeadState) -> None:
        """Go on with ``heads`` [K] only."""
        for moments in (self.first, self.second):
            select_(moments, heads)
        self.steps = self.steps.index_select(0, heads)
        self.grads = {name: grad[: len(heads)] for name, grad in self.grads.items()}
        self.params, self.state = params, state

    def memory(self) -> dict[str, Tensor]:
        """Return what it knows of earlier steps, by name."""
        first = {f"first/{name}": value for name, value in self.first.items()}
        second = {f"second/{name}": value for name, value in self.second.items()}
        return {"steps": self.steps, **first, **second}

    def begin(self, active: Tensor | None) -> None:
        """Start a step; ``active`` [H] says which heads take it, None all."""
        lr = self.state.lr
        self.active = torch.ones_like(lr) if active is None else active.to(lr.dtype)

    def add_product(self, name: str, heads: slice, left: Tensor, right: Tensor) -> None:
        """Set the gradient of the parameter's ``heads`` to left @ right."""
        torch.bmm(left, right, out=self.grads[name][heads])

    def add(self, name: str, grad: Tensor) -> None:
        """Set the parameter's gradient."""
        self.grads[name].copy_(grad)

    def advance(self) -> tuple[Tensor, Tensor, Tensor]:
        """Count the step; return the weights' shrinkage and both moments' corrections [H].

        The first one's is the step size; the second one's is for its square root.
        """
        steps = self.steps.add_(self.active)
        lr = self.state.lr * self.active
        shrink = 1 - lr * self.state.weight_decay
        counted = steps.clamp_min(1).double()
        step_size = (lr / (1 - BETA1**counted)).to(lr.dtype)
        correction = (1 / (1 - BETA2**counted).sqrt()).to(lr.dtype)
        return shrink, step_size, correction

    def step(self) -> None:
        """Move the parameters."""
        shrink, step_size, correction = self.advance()
        for name, p in self.params.items():
            grad, active = self.grads[name], _like(self.active, p)
            first = self.first[name].lerp_(grad, (1 - BETA1) * active)
            second = self.second[name].lerp_(grad.square(), (1 - BETA2) * active)
            size = second.sqrt().mul_(_like(correction, p)).add_(EPS)
            if name != LEARNED:
                p.mul_(_like(shrink, p))
            p.sub_((first * _like(step_size, p)).div_(size))


def select_(tensors: dict[str, Tensor], heads: Tensor) -> None:
    """Keep ``heads`` [K] of each tensor [H, ...]; only one at a time is there twice."""
    for name, value in tensors.items():
        tensors[name] = value.index_select(0, heads)


def _like(per_head: Tensor, parameter: Tensor) -> Tensor:
    """Shape [H] so that it multiplies a parameter [H, ...]."""
    return per_head.reshape(-1, *[1] * (parameter.ndim - 1))
