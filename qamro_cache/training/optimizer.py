"""SGD and AdamW over stacked heads, each head with its own settings.

A gradient arrives as the two factors of a product (`add_product`) or as it is (`add`), so that
SGD can accumulate the product straight into its momentum: no gradient tensor is ever written.
A head without a valid sample in a step (``active`` false) keeps its parameters and its state.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class SGD:
    """v = momentum * v + gradient + weight_decay * p; p = p - lr * v, as torch.optim.SGD."""

    def __init__(self, params: Mapping[str, Tensor], settings: Mapping[str, Tensor]) -> None:
        self.params = params
        self.state = {f"velocity.{name}": torch.zeros_like(p) for name, p in params.items()}
        self.use(settings)

    def use(self, settings: Mapping[str, Tensor]) -> None:
        """Take lr, momentum and weight_decay [H] of the heads; waits for the device."""
        self.settings = settings
        self.decays = bool((settings["weight_decay"] != 0).any())
        momentum = settings["momentum"]
        same = bool((momentum == momentum[0]).all())
        self.momentum = float(momentum[0]) if same else None

    def begin(self, active: Tensor | None) -> None:
        """Start a step; ``active`` [H] says which heads take it, None all."""
        self.lr = self.settings["lr"]
        # One momentum for all and nothing to skip: the product itself scales the old velocity.
        self.fused = active is None and self.momentum is not None and not self.decays
        if self.fused:
            return
        momentum, decay = self.settings["momentum"], self.settings["weight_decay"]
        if active is not None:
            momentum = torch.where(active, momentum, 1)
            decay = torch.where(active, decay, 0)
            self.lr = torch.where(active, self.lr, 0)
        for name, p in self.params.items():
            velocity = self.state[f"velocity.{name}"].mul_(_like(momentum, p))
            if self.decays:
                velocity.addcmul_(p, _like(decay, p))

    def add_product(self, name: str, heads: slice, left: Tensor, right: Tensor) -> None:
        """Add the gradient left @ right of the parameter's ``heads``."""
        velocity = self.state[f"velocity.{name}"][heads]
        velocity.baddbmm_(left, right, beta=self._old())

    def add(self, name: str, grad: Tensor) -> None:
        """Add a gradient of the parameter's shape."""
        self.state[f"velocity.{name}"].mul_(self._old()).add_(grad)

    def step(self) -> None:
        """Move the parameters."""
        for name, p in self.params.items():
            p.addcmul_(self.state[f"velocity.{name}"], _like(-self.lr, p))

    def _old(self) -> float:
        return self.momentum if self.fused and self.momentum is not None else 1.0


class AdamW:
    """Decoupled weight decay, betas .9 and .999, eps 1e-8, as torch.optim.AdamW."""

    #: Whether gradients are kept until `step`.
    keeps_gradients = True

    def __init__(self, params: Mapping[str, Tensor], settings: Mapping[str, Tensor]) -> None:
        self.params = params
        self.state = {f"first.{name}": torch.zeros_like(p) for name, p in params.items()}
        self.state |= {f"second.{name}": torch.zeros_like(p) for name, p in params.items()}
        self.state["steps"] = torch.zeros_like(settings["lr"])
        self.grads = {
            name: torch.zeros_like(p) for name, p in params.items() if self.keeps_gradients
        }
        self.use(settings)

    def use(self, settings: Mapping[str, Tensor]) -> None:
        """Take lr and weight_decay [H] of the heads."""
        self.settings = settings
        heads = len(settings["lr"])
        self.grads = {name: grad[:heads] for name, grad in self.grads.items()}

    def begin(self, active: Tensor | None) -> None:
        """Start a step; ``active`` [H] says which heads take it, None all."""
        lr = self.settings["lr"]
        self.active = torch.ones_like(lr) if active is None else active.to(lr.dtype)

    def add_product(self, name: str, heads: slice, left: Tensor, right: Tensor) -> None:
        """Set the gradient of the parameter's ``heads`` to left @ right."""
        torch.bmm(left, right, out=self.grads[name][heads])

    def add(self, name: str, grad: Tensor) -> None:
        """Set the parameter's gradient."""
        self.grads[name].copy_(grad)

    def advance(self) -> tuple[Tensor, Tensor, Tensor]:
        """Count the step; return its shrinkage of the weights and scales of both moments [H]."""
        steps = self.state["steps"].add_(self.active)
        lr = self.settings["lr"] * self.active
        shrink = 1 - lr * self.settings["weight_decay"]
        counted = steps.clamp_min(1).double()
        first_scale = (lr / (1 - BETA1**counted)).to(lr.dtype)
        second_scale = (1 / (1 - BETA2**counted).sqrt()).to(lr.dtype)
        return shrink, first_scale, second_scale

    def step(self) -> None:
        """Move the parameters."""
        shrink, first_scale, second_scale = self.advance()
        for name, p in self.params.items():
            grad, active = self.grads[name], _like(self.active, p)
            first = self.state[f"first.{name}"].lerp_(grad, (1 - BETA1) * active)
            second = self.state[f"second.{name}"].lerp_(grad.square(), (1 - BETA2) * active)
            size = second.sqrt().mul_(_like(second_scale, p)).add_(EPS)
            p.mul_(_like(shrink, p)).sub_((first * _like(first_scale, p)).div_(size))


def _like(per_head: Tensor, parameter: Tensor) -> Tensor:
    """Shape [H] so that it multiplies a parameter [H, ...]."""
    return per_head.reshape(-1, *[1] * (parameter.ndim - 1))
