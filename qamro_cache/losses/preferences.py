"""Losses over given pairs [heads, pairs]: verdicts on two clips, value and gradient written out.

Each takes the `Verdicts` of stacked heads and returns the loss of each head [H], a mean over the
pairs that it counts by their weights, the gradient of the gaps [H, P] and that of what is learned
beside the scores [H, 2]. A head that counts no pair has the loss 0 and a zero gradient. None reads
a value on the host; all take O(P).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from qamro_cache.losses.loss import Loss
from qamro_cache.losses.terms import TERMS

Found = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Verdicts:
    """Pairs of clips as stacked heads score them; tensors have one row where all heads share them.

    Attributes:
        gap: [H, P] score of clip a less that of clip b; anything finite where not counted.
        winner: [1 | H, P] 1 where a won, -1 where b did, 0 for a tie.
        weight: [1 | H, P] of each pair, 0 where a head does not count it.
        learned: [H, 2] log tau, and the logarithm of Davidson's tie parameter.
        ties: [H] bool, heads whose training pairs have ties; to others no tie is possible, and one
            is half a win for each clip.
    """

    gap: Tensor
    winner: Tensor
    weight: Tensor
    learned: Tensor
    ties: Tensor

    def mean(self, cost: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean [H] of each pair's cost [H, P], and each pair's share of it [H, P]."""
        total = self.weight.sum(-1, keepdim=True)
        share = self.weight / torch.where(total > 0, total, 1)
        return (share * cost).sum(-1), share


def bt(verdicts: Verdicts) -> Found:
    """Bradley and Terry's model with Davidson's (1970) ties, its negative log-likelihood.

    With x = (s_a - s_b) / tau, a win of a, a win of b and a tie are as exp(x/2) to exp(-x/2) to nu:
    without ties, sigmoid(x).
    """
    zero = verdicts.gap.new_zeros(())
    tau = verdicts.learned[:, :1].exp()
    x = verdicts.gap / tau
    log_nu, tie = verdicts.learned[:, 1:], verdicts.winner == 0
    nu = torch.where(verdicts.ties[:, None], log_nu.exp(), zero)
    # exp(x/2) + exp(-x/2) + nu, divided by its largest exponential.
    small = (-x.abs() / 2).exp()
    log_sum = x.abs() / 2 + (small.square() + nu * small).log1p()
    half = verdicts.winner.to(x.dtype) / 2
    of_ties = torch.where(tie & verdicts.ties[:, None], log_nu, zero)
    value, share = verdicts.mean(log_sum - half * x - of_ties)
    won, lost, even = ((e - log_sum).exp() for e in (x / 2, -x / 2, nu.log()))
    of_x = share * ((won - lost) / 2 - half)
    of_nu = torch.where(verdicts.ties[:, None], share * (even - tie.to(x.dtype)), zero)
    return value, of_x / tau, torch.stack([-(of_x * x).sum(-1), of_nu.sum(-1)], 1)


def ranknet_pairs(verdicts: Verdicts, temperature: Tensor) -> Found:
    """RankNet (Burges et al. 2005) on given pairs: a tie is half a win for each clip.

    The cross entropy of sigmoid((s_a - s_b) / T) with 1, 0, or 1/2.
    """
    t = temperature.to(verdicts.gap.dtype)
    x, half = verdicts.gap / t, verdicts.winner.to(verdicts.gap.dtype) / 2
    cost = x.abs() / 2 + (-x.abs()).exp().log1p() - half * x
    value, share = verdicts.mean(cost)
    grad = share * (torch.sigmoid(x) - 0.5 - half) / t
    return value, grad, torch.zeros_like(verdicts.learned)


def preference_loss(loss: Loss, verdicts: Verdicts, numbers: Tensor | None = None) -> Found:
    """Return the loss [H] of given pairs, the gradient of their gaps, and that of what is learned.

    Args:
        loss: of terms on pairs alone (`Loss.on_pairs`).
        verdicts: in standardized scores.
        numbers: [H, P] in place of the loss's own `Loss.numbers`, a row a head.
    """
    gap = verdicts.gap
    value, grad = gap.new_zeros(len(gap)), torch.zeros_like(gap)
    learned = torch.zeros_like(verdicts.learned)
    if numbers is None:
        numbers = gap.new_tensor([loss.numbers])
    columns = iter(numbers.unbind(-1))
    for term in loss.terms:
        weight = next(columns)[:, None].to(gap.dtype)
        own = {name: next(columns)[:, None] for name, _ in term.parameters}
        one = _function(term.name)(verdicts, **own)
        value = value + weight[:, 0] * one[0]
        grad, learned = grad + weight * one[1], learned + weight * one[2]
    return value, grad, learned


@functools.cache
def _function(name: str) -> Callable[..., Found]:
    function: Callable[..., Found] = getattr(import_module(TERMS[name].module), name)
    return function
