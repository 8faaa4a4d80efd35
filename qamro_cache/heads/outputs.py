"""What the parts of a head give: mixed layers, an activation, a score within bounds, a mean."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mixed(logits: Tensor, values: Tensor, *, unit: bool) -> Tensor:
    """Return the layers' mean [H, R, D] of rows [R, L, D], by softmax weights of logits [H, L].

    ``unit``: scaled to length 1.
    """
    mean = torch.einsum("hl,rld->hrd", logits.softmax(-1), values)
    return F.normalize(mean, dim=-1) if unit else mean


def attention_logits(weights: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """Return [H, R] of weights [H, D] on rows [R, D], or on those that each head has [H, R, D]."""
    if values.ndim > 2:
        return torch.einsum("hd,hrd->hr", weights, hidden)
    return torch.matmul(weights, values.T)


def activate(name: str, x: Tensor) -> Tensor:
    """Apply an activation by name; ``none`` is the identity."""
    known = {"relu": torch.relu, "gelu": F.gelu, "tanh": torch.tanh}
    return known[name](x) if name in known else x


def between(bounds: Tensor, share: Tensor) -> Tensor:
    """Return the scores [H, N] at a ``share`` [H, N] of the way between both bounds [H, 2]."""
    low, high = bounds[:, :1], bounds[:, 1:]
    return low + (high - low) * share


def means(scores: Tensor) -> Tensor:
    """Return the scores [H, N] of heads' outputs: these, or [H, N, 2] with the mean first."""
    return scores[..., 0] if scores.ndim > 2 else scores
