"""Regression losses over [heads, N] with masks, value and gradient written out.

Each takes the `Samples` of stacked heads and returns the loss of each head, a mean over the head's
own counted samples, and the gradient [H, N]. A head that counts no sample has the loss 0 and a zero
gradient. None reads a value on the host.
"""

import torch
from torch import Tensor

from qamro_cache.losses.samples import Samples


def _residual(samples: Samples) -> tuple[Tensor, Tensor]:
    """The error, 0 where masked, and the number of samples [H | 1, 1] it is a mean over."""
    pred, target, mask = samples.pred, samples.target, samples.mask
    if mask is None:
        return pred - target, pred.new_full((1, 1), max(1, pred.shape[-1]))
    count = mask.sum(-1, keepdim=True).clamp(min=1).to(pred.dtype)
    return torch.where(mask, pred - target, 0), count


def mse(samples: Samples) -> tuple[Tensor, Tensor]:
    """Mean squared error."""
    error, count = _residual(samples)
    return (error.square() / count).sum(-1), 2 * error / count


def mae(samples: Samples) -> tuple[Tensor, Tensor]:
    """Mean absolute error; the gradient at 0 is 0."""
    error, count = _residual(samples)
    return (error.abs() / count).sum(-1), error.sign() / count


def huber(samples: Samples, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Huber's loss: squared (halved) up to `delta`, linear with slope `delta` beyond.

    `delta` [1 | H, 1] is in the unit of the labels: on 0-to-100 ratings a delta of 1 is nearly
    the absolute error.
    """
    error, count = _residual(samples)
    bound = delta.to(error.dtype)
    slope = torch.clamp(error, -bound, bound)
    # slope * (error - slope / 2) is error^2 / 2 within delta and delta (|error| - delta / 2)
    # beyond: one formula, without a branch.
    return (slope * (error - slope / 2) / count).sum(-1), slope / count


def ccc(samples: Samples) -> tuple[Tensor, Tensor]:
    """1 - Lin's (1989) concordance correlation coefficient, with population moments.

    2 cov / (var_p + var_y + (mean_p - mean_y)^2). Where that is 0 / 0 (all predictions and
    labels are one number) the loss is 0 and has no gradient.
    """
    pred, target, mask = samples.pred, samples.target, samples.mask
    _, count = _residual(samples)

    def centered(x: Tensor) -> tuple[Tensor, Tensor]:
        if mask is not None:
            x = torch.where(mask, x, 0)
        mean = x.sum(-1, keepdim=True) / count
        x = x - mean
        return (x if mask is None else torch.where(mask, x, 0)), mean

    p, p_mean = centered(pred)
    y, y_mean = centered(target)
    shift = p_mean - y_mean
    covariance = (p * y).sum(-1, keepdim=True) / count
    total = (p.square() + y.square()).sum(-1, keepdim=True) / count + shift.square()
    undefined = total == 0
    total = torch.where(undefined, 1, total)
    coefficient = 2 * covariance / total
    grad = -2 * (y - coefficient * (p + shift)) / (count * total)
    if mask is not None:
        grad = torch.where(mask, grad, 0)
    return torch.where(undefined, 0, 1 - coefficient).squeeze(-1), torch.where(undefined, 0, grad)
