"""The likelihood of single ratings under a Gaussian a clip, of which a head says mean and std."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: Least std, in stds of the training labels: copies of one rating would draw it to 0.
FLOOR = 0.05
#: What softplus makes 1 - `FLOOR` of: an output of 0 is a std of 1.
_START = math.log(math.expm1(1 - FLOOR))


def deviation(outputs: Tensor) -> Tensor:
    """Return the std of a clip's ratings, in stds of the training labels.

    Args:
        outputs: [..., 2] of heads; the first are the means.
    """
    return FLOOR + F.softplus(outputs[..., 1] + _START)


def value_and_grad(
    outputs: Tensor, target: Tensor, spread: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the negative log-likelihood of a rating [H], a mean over all of the head's clips'.

    Of n ratings with mean m and variance v, under a mean p and a std s, it is
    n (log s + ((m - p)^2 + v) / (2 s^2) + log(2 pi) / 2). A head that counts no clip has loss 0.

    Args:
        outputs: [H, N, 2] of heads, in standardized labels.
        target: [H, N] mean rating, in standardized labels.
        spread: [H, N, 2] number of ratings, and their variance in standardized labels.
        mask: [H, N], true for the clips that a head counts.

    Returns:
        The loss [H], and its gradient [H, N, 2].
    """
    count, variance = spread.unbind(2)
    share = torch.where(mask, count, 0)
    share = share / share.sum(1, keepdim=True).clamp_min(1)
    std, error = deviation(outputs), outputs[..., 0] - target
    squared = torch.where(mask, error.square() + variance, 0) / std.square()
    value = share * (std.log() + squared / 2 + math.log(2 * math.pi) / 2)
    slope = torch.sigmoid(outputs[..., 1] + _START)
    of_mean = share * torch.where(mask, error, 0) / std.square()
    of_std = share * (1 - squared) / std * slope
    return value.sum(1), torch.stack([of_mean, of_std], 2)
