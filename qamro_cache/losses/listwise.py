"""The alternatives the paper leaves open: losses over whole lists, and plain pairwise ones.

Each takes ``pred`` [H, N], ``target`` [1 | H, N] and ``mask`` [1 | H, N] or None, and returns the
loss of each head [H], differentiable by autograd; `by_autograd` turns that into a value and a
gradient. A head without a sample, or without two different labels, has the loss 0. They are
written from their papers: of the packages that have them, torchsort (soft ranks) must be compiled
against the installed torch, and allRank has had no release since 2021 and knows no masks over
stacked heads.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

ListLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Elements of a [heads, N, N] tensor that autograd may hold at once.
_BLOCK = 1 << 22


def by_autograd(
    loss: ListLoss, pred: Tensor, target: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Value [H] and gradient [H, N] of a loss of this module, a few heads at a time."""
    heads, n = pred.shape
    if n == 0:
        return pred.new_zeros(heads), torch.zeros_like(pred)
    step = max(1, _BLOCK // (n * n))
    values, grads = [], []
    for start in range(0, heads, step):
        part = slice(start, start + step)
        with torch.enable_grad():
            some = pred[part].detach().requires_grad_()
            value = loss(
                some,
                target if target.shape[0] == 1 else target[part],
                mask if mask is None or mask.shape[0] == 1 else mask[part],
            )
            (grad,) = torch.autograd.grad(value.sum(), some)
        values.append(value.detach())
        grads.append(grad)
    return torch.cat(values), torch.cat(grads)


def _counted(x: Tensor, mask: Tensor | None, otherwise: float) -> Tensor:
    return x if mask is None else torch.where(mask, x, otherwise)


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over a head's own samples [H]; 0 without any."""
    if mask is None:
        return x.mean(-1)
    return torch.where(mask, x, 0).sum(-1) / mask.sum(-1).clamp(min=1)


def listnet(
    pred: Tensor, target: Tensor, mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """ListNet's top-one cross entropy (Cao et al. 2007), less its least possible value.

    The Kullback-Leibler divergence from softmax(target / T) to softmax(pred / T): the same
    gradient as the cross entropy, and 0 for perfect predictions.
    """
    # Masked samples get a probability of 0, but a finite logit: -inf has no gradient.
    lowest = torch.finfo(pred.dtype).min / 4
    wanted = F.log_softmax(_counted(target / temperature, mask, lowest), dim=-1)
    given = F.log_softmax(_counted(pred / temperature, mask, lowest), dim=-1)
    return _counted(wanted.exp() * (wanted - given), mask, 0).sum(-1)


def listmle(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """ListMLE (Xia et al. 2008): how unlikely the order of the labels is, per sample.

    The negative log-likelihood of Plackett and Luce's model. Equal labels have no order: each
    of them competes with all samples of its label or a lower one (Breslow's rule for ties), so
    that the loss does not depend on the order of the batch.
    """
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


def _soft_wins(pred: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """How many other samples each one beats [H, N], a sigmoid in the place of each comparison."""
    wins = torch.sigmoid((pred.unsqueeze(-1) - pred.unsqueeze(-2)) / temperature)
    # Half a win is a sample's own, against itself.
    return _counted(wins, None if mask is None else mask.unsqueeze(-2), 0).sum(-1) - 0.5


def approx_ndcg(
    pred: Tensor, target: Tensor, mask: Tensor | None = None, temperature: float = 0.1
) -> Tensor:
    """1 - ApproxNDCG (Qin, Liu and Li 2010): the gain discounted by soft ranks.

    The gain is 2^(label - the head's lowest label) - 1, which suits ratings from 1 to 5; on
    0-to-100 ratings use ``approx_ndcg@standardized``.
    """
    target, pred = target.expand_as(pred), _counted(pred, mask, 0)
    lowest = _counted(target, mask, torch.inf).amin(-1, keepdim=True)
    gain = _counted(torch.exp2(target - lowest) - 1, mask, 0)
    count = pred.shape[-1] if mask is None else mask.sum(-1, keepdim=True)
    rank = count - _soft_wins(pred, mask, temperature)
    found = _counted(gain / torch.log2(1 + rank.clamp(min=1)), mask, 0).sum(-1)
    place = torch.arange(1, pred.shape[-1] + 1, device=pred.device, dtype=pred.dtype)
    best = (gain.sort(dim=-1, descending=True).values / torch.log2(1 + place)).sum(-1)
    return torch.where(best > 0, 1 - found / torch.where(best > 0, best, 1), 0)


def spearman(
    pred: Tensor, target: Tensor, mask: Tensor | None = None, temperature: float = 0.1
) -> Tensor:
    """1 - Spearman's correlation, with soft ranks of the predictions.

    Ranks are counted with a sigmoid in the place of each comparison (Qin, Liu and Li 2010),
    which holds for any mask; as the temperature goes to 0 they become the ranks. Those of the
    labels are exact, ties sharing their mean rank.
    """
    target, pred = target.expand_as(pred), _counted(pred, mask, 0)
    mine = _soft_wins(pred, mask, temperature)
    ordered = torch.sort(_counted(target, mask, torch.inf).contiguous(), dim=-1).values
    target = target.contiguous()
    lower = torch.searchsorted(ordered, target)
    through = torch.searchsorted(ordered, target, right=True)
    true = (lower + through).to(pred.dtype) / 2
    mine = _counted(mine - _mean(mine, mask).unsqueeze(-1), mask, 0)
    true = _counted(true - _mean(true, mask).unsqueeze(-1), mask, 0)
    spread = mine.square().sum(-1) * true.square().sum(-1)
    # The root's slope at 0 is infinite, so 0 must not reach it.
    some = spread > 0
    correlation = (mine * true).sum(-1) / torch.where(some, spread, 1).sqrt()
    return torch.where(true.square().sum(-1) > 0, 1 - correlation * some, 0)


def _mean_over_pairs(
    cost: Callable[[Tensor], Tensor], pred: Tensor, target: Tensor, mask: Tensor | None
) -> Tensor:
    """The mean of cost(p_i - p_j) over the pairs with y_i > y_j [H]; 0 without any."""
    valid = target.unsqueeze(-1) > target.unsqueeze(-2)
    if mask is not None:
        valid = valid & mask.unsqueeze(-1) & mask.unsqueeze(-2)
    pred = _counted(pred, mask, 0)
    costs = torch.where(valid, cost(pred.unsqueeze(-1) - pred.unsqueeze(-2)), 0)
    return costs.sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1)


def margin_ranking(
    pred: Tensor, target: Tensor, mask: Tensor | None = None, margin: float = 0.1
) -> Tensor:
    """Hinge with one margin for all pairs: mean of relu(margin - (p_i - p_j)) over y_i > y_j."""
    return _mean_over_pairs(lambda gap: F.relu(margin - gap), pred, target, mask)


def ranknet(
    pred: Tensor, target: Tensor, mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """RankNet (Burges et al. 2005): mean of log(1 + exp(-(p_i - p_j) / T)) over y_i > y_j."""
    return _mean_over_pairs(lambda gap: F.softplus(-gap / temperature), pred, target, mask)


def with_settings(loss: Callable[..., Tensor], **settings: float | None) -> ListLoss:
    """The loss with the settings that are given; None leaves its own default."""
    return partial(loss, **{name: value for name, value in settings.items() if value is not None})
