"""The alternatives the paper leaves open: losses over whole lists, and plain pairwise ones.

Each is written as the loss of each head [H], differentiable by autograd; `by_autograd` makes a
value and a gradient of it. A head without a sample, or without two different labels, has the loss
0. They are written from their papers: of the packages that have them, torchsort (soft ranks) must
be compiled against the installed torch, and allRank has had no release since 2021 and knows no
masks over stacked heads.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from qamro_cache.losses.samples import Samples, by_autograd


def _counted(x: Tensor, mask: Tensor | None, otherwise: float) -> Tensor:
    return x if mask is None else torch.where(mask, x, otherwise)


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over a head's own samples [H]; 0 without any."""
    if mask is None:
        return x.mean(-1)
    return torch.where(mask, x, 0).sum(-1) / mask.sum(-1).clamp(min=1)


@by_autograd
def listnet(samples: Samples, temperature: Tensor) -> Tensor:
    """ListNet's top-one cross entropy (Cao et al. 2007), less its least possible value.

    The Kullback-Leibler divergence from softmax(target / T) to softmax(pred / T): the same
    gradient as the cross entropy, and 0 for perfect predictions.
    """
    pred, target, mask = samples.pred, samples.target, samples.mask
    # Masked samples get a probability of 0, but a finite logit: -inf has no gradient.
    lowest = torch.finfo(pred.dtype).min / 4
    wanted = F.log_softmax(_counted(target / temperature, mask, lowest), dim=-1)
    given = F.log_softmax(_counted(pred / temperature, mask, lowest), dim=-1)
    return _counted(wanted.exp() * (wanted - given), mask, 0).sum(-1)


@by_autograd
def listmle(samples: Samples) -> Tensor:
    """ListMLE (Xia et al. 2008): how unlikely the order of the labels is, per sample.

    The negative log-likelihood of Plackett and Luce's model. Equal labels have no order: each
    of them competes with all samples of its label or a lower one (Breslow's rule for ties), so
    that the loss does not depend on the order of the batch.
    """
    pred, target, mask = samples.pred, samples.target, samples.mask
    target = target.expand_as(pred)
    labels = _counted(target, mask, -torch.inf)
    labels, order = torch.sort(labels, dim=-1)
    lowest = torch.finfo(pred.dtype).min / 4
    scores = _counted(pred, mask, lowest).gather(-1, order)
    rivals = torch.logcumsumexp(scores, dim=-1)
    last = torch.searchsorted(labels, labels, right=True) - 1
    unlikely = rivals.gather(-1, last) - scores
    counted = None if mask is None else mask.expand_as(pred).gather(-1, order)
    # With one label only, every order is right.
    several = labels[:, -1:] > _counted(target, mask, torch.inf).amin(-1, keepdim=True)
    return torch.where(several.squeeze(-1), _mean(unlikely, counted), 0)


def _soft_wins(pred: Tensor, mask: Tensor | None, temperature: Tensor) -> Tensor:
    """How many other samples each one beats [H, N], a sigmoid in the place of each comparison."""
    wins = torch.sigmoid((pred.unsqueeze(-1) - pred.unsqueeze(-2)) / temperature.unsqueeze(-1))
    # Half a win is a sample's own, against itself.
    return _counted(wins, None if mask is None else mask.unsqueeze(-2), 0).sum(-1) - 0.5


@by_autograd
def approx_ndcg(samples: Samples, temperature: Tensor) -> Tensor:
    """1 - ApproxNDCG (Qin, Liu and Li 2010): the gain discounted by soft ranks.

    The gain is 2^(label - the head's lowest label) - 1, which suits ratings from 1 to 5; on
    0-to-100 ratings use ``approx_ndcg@standardized``.
    """
    mask = samples.mask
    target, pred = samples.target.expand_as(samples.pred), _counted(samples.pred, mask, 0)
    lowest = _counted(target, mask, torch.inf).amin(-1, keepdim=True)
    gain = _counted(torch.exp2(target - lowest) - 1, mask, 0)
    count = pred.shape[-1] if mask is None else mask.sum(-1, keepdim=True)
    rank = count - _soft_wins(pred, mask, temperature)
    found = _counted(gain / torch.log2(1 + rank.clamp(min=1)), mask, 0).sum(-1)
    place = torch.arange(1, pred.shape[-1] + 1, device=pred.device, dtype=pred.dtype)
    best = (gain.sort(dim=-1, descending=True).values / torch.log2(1 + place)).sum(-1)
    return torch.where(best > 0, 1 - found / torch.where(best > 0, best, 1), 0)


@by_autograd
def spearman(samples: Samples, temperature: Tensor) -> Tensor:
    """1 - Spearman's correlation, with soft ranks of the predictions.

    Ranks are counted with a sigmoid in the place of each comparison (Qin, Liu and Li 2010),
    which holds for any mask; as the temperature goes to 0 they become the ranks. Those of the
    labels are exact, ties sharing their mean rank.
    """
    mask = samples.mask
    target, pred = samples.target.expand_as(samples.pred), _counted(samples.pred, mask, 0)
    mine = _soft_wins(pred, mask, temperature)
    ordered = torch.sort(_counted(target, mask, torch.inf).contiguous(), dim=-1).values
    target = target.contiguous()
    lower = torch.searchsorted(ordered, target)
    through = torch.searchsorted(ordered, target, right=True)
    true = (lower + through).to(pred.dtype) / 2
    mine = _counted(mine - _mean(mine, mask).unsqueeze(-1), mask, 0)
    true = _counted(true - _mean(true, mask).unsqueeze(-1), mask, 0)
    variances = mine.square().sum(-1) * true.square().sum(-1)
    # The root's slope at 0 is infinite, so 0 must not reach it.
    some = variances > 0
    correlation = (mine * true).sum(-1) / torch.where(some, variances, 1).sqrt()
    return torch.where(true.square().sum(-1) > 0, 1 - correlation * some, 0)


def _mean_over_pairs(cost: Callable[[Tensor], Tensor], samples: Samples) -> Tensor:
    """The mean of cost(p_i - p_j) over the pairs with y_i > y_j [H]; 0 without any."""
    pred, target, mask = samples.pred, samples.target, samples.mask
    valid = target.unsqueeze(-1) > target.unsqueeze(-2)
    if mask is not None:
        valid = valid & mask.unsqueeze(-1) & mask.unsqueeze(-2)
    pred = _counted(pred, mask, 0)
    costs = torch.where(valid, cost(pred.unsqueeze(-1) - pred.unsqueeze(-2)), 0)
    return costs.sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1)


@by_autograd
def margin(samples: Samples, width: Tensor) -> Tensor:
    """Hinge with one margin for all pairs: mean of relu(width - (p_i - p_j)) over y_i > y_j."""
    return _mean_over_pairs(lambda gap: F.relu(width.unsqueeze(-1) - gap), samples)


@by_autograd
def ranknet(samples: Samples, temperature: Tensor) -> Tensor:
    """RankNet (Burges et al. 2005): mean of log(1 + exp(-(p_i - p_j) / T)) over y_i > y_j."""
    return _mean_over_pairs(lambda gap: F.softplus(-gap / temperature.unsqueeze(-1)), samples)
