"""What the kernels do with a number in a register: the activation, its derivative, a step.

Device functions; ``ACTIVATION`` is one of ACTIVATIONS, ``ADAM`` says AdamW and not SGD.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

#: Activations whose derivative follows from their result.
ACTIVATIONS = ("none", "relu", "tanh")


@triton.jit
def activation_of(z, ACTIVATION: tl.constexpr):
    """Apply an activation; relu(NaN) is NaN."""
    if ACTIVATION == "relu":
        z = tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == "tanh":
        z = 2 * tl.sigmoid(2 * z) - 1
    return z


@triton.jit
def derivative_of(grad, kept, ACTIVATION: tl.constexpr):
    """Multiply by the activation's derivative, from the activation's result."""
    if ACTIVATION == "relu":
        grad = tl.where(kept > 0, grad, 0.0)
    elif ACTIVATION == "tanh":
        grad = grad * (1 - kept * kept)
    return grad


@triton.jit
def step(p, first, second, grad, rates, ADAM: tl.constexpr, B1, B2, EPS_):
    """One step of SGD or AdamW; ``rates``: a head's four numbers, see kernel_net.py."""
    r0, r1 = tl.load(rates), tl.load(rates + 1)
    r2, r3 = tl.load(rates + 2), tl.load(rates + 3)
    if ADAM:
        first += (1 - B1) * r0 * (grad - first)
        second += (1 - B2) * r0 * (grad * grad - second)
        p = p * r1 - first * r2 / (tl.sqrt(second) * r3 + EPS_)
    else:
        first = r0 * first + grad + r1 * p
        p -= r2 * first
    return p, first, second


@triton.jit
def load_state(p, first, second, at, inside, ADAM: tl.constexpr):
    """Parameter and state; read once, so they need not stay in the L2 cache."""
    value = tl.load(p + at, mask=inside, other=0.0, eviction_policy="evict_first")
    one = tl.load(first + at, mask=inside, other=0.0, eviction_policy="evict_first")
    two = one
    if ADAM:
        two = tl.load(second + at, mask=inside, other=0.0, eviction_policy="evict_first")
    return value, one, two


@triton.jit
def store_state(p, first, second, at, inside, value, one, two, ADAM: tl.constexpr):
    """Write what `load_state` read."""
    tl.store(p + at, value, mask=inside)
    tl.store(first + at, one, mask=inside)
    if ADAM:
        tl.store(second + at, two, mask=inside)
