"""What a stack's heads learn of given pairs: which of them count, tau and ties, standard units."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qamro_cache.losses.loss import Loss
from qamro_cache.training.inputs import Bools, Inputs
from qamro_cache.training.recipe import Job
from qamro_cache.training.verdicts import best_preference

#: Name of the parameter [H, 2] that is learned beside a network: log tau, log of the tie parameter.
LEARNED = "preference"

Ints = npt.NDArray[np.int64]


class HeadPairs(NamedTuple):
    """The pairs of H heads; P and V are 0 where they learn from none.

    Attributes:
        pair_winner, pair_weight: [H, P] of all pairs, no weight for those not learned from.
        validation_pairs: [H, V, 2] places in the head's validation set.
        validation_winner, validation_weight: [H, V] of the pairs with both clips there.
    """

    pair_winner: Tensor
    pair_weight: Tensor
    validation_pairs: Tensor
    validation_winner: Tensor
    validation_weight: Tensor


def head_pairs(inputs: Inputs, jobs: Sequence[Job], dtype: torch.dtype) -> HeadPairs:
    """Return the pairs of a stack's heads, on the inputs' device."""
    pairs, device, heads = inputs.targets.pairs, inputs.targets.labels.device, len(jobs)
    if pairs is None or not jobs[0].recipe.loss.on_pairs.terms:
        none = torch.zeros(heads, 0, dtype=dtype, device=device)
        return HeadPairs(none, none, none.long().unsqueeze(2).expand(heads, 0, 2), none, none)
    folds = inputs.folds
    kinds = list(dict.fromkeys((job.target, job.fold) for job in jobs))
    row = torch.tensor([kinds.index((job.target, job.fold)) for job in jobs], device=device)
    learned = np.stack([inputs.targets.pairs_of(t, folds.train[f]) for t, f in kinds])
    kept = [inputs.targets.pairs_of(t, folds.validation[f]) for t, f in kinds]
    most = max(int(one.sum()) for one in kept)
    places: Ints = np.zeros((len(kinds), most, 2), np.int64)
    winner, weight = np.zeros((2, len(kinds), most))
    for k, ((_, fold), mask) in enumerate(zip(kinds, kept, strict=True)):
        count = int(mask.sum())
        held = np.flatnonzero(folds.validation[fold])
        places[k, :count] = np.searchsorted(held, pairs.clips[mask])
        winner[k, :count], weight[k, :count] = pairs.winner[mask], pairs.weight[mask]

    def of_heads(values: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values).to(device, dtype)[row]

    return HeadPairs(
        of_heads(np.broadcast_to(pairs.winner.astype(np.float64), learned.shape).copy()),
        of_heads(pairs.weight * learned),
        torch.from_numpy(places).to(device)[row],
        of_heads(winner),
        of_heads(weight),
    )


def with_ties(winner: Tensor, weight: Tensor) -> Tensor:
    """Tell which heads [H] have ties among the pairs that they learn from."""
    return ((winner == 0) & (weight > 0)).any(1)


def first_learned(winner: Tensor, weight: Tensor) -> Tensor:
    """Return what `LEARNED` starts from [H, 2]: tau 1, and as many ties as the pairs have.

    At equal scores; in standardized units of the scores.
    """
    total = weight.sum(1)
    share = (weight * (winner == 0)).sum(1) / torch.where(total > 0, total, 1)
    # nu / (2 + nu) is the probability of a tie between equals.
    nu = 2 * share / (1 - share).clamp_min(0.01)
    log_nu = torch.where(share > 0, nu, 1).log()
    return torch.stack([torch.zeros_like(log_nu), log_nu], 1)


def given_tau(loss: Loss, numbers: Tensor) -> Tensor | None:
    """Return the temperatures [H] of heads that learn no tau, by RankNet alone; else None.

    Args:
        loss: of the heads.
        numbers: [H, ...] its `Loss.numbers`.
    """
    terms = loss.on_pairs.terms
    if any(term.name == "bt" for term in terms):
        return None
    # Behind the first term's weight.
    return numbers[:, loss.numbers_on(pairs=True)[1]]


def ends_of(inputs: Inputs) -> Tensor | None:
    """Return both clips [2, P] of each pair on the inputs' device; None without pairs."""
    pairs = inputs.targets.pairs
    if pairs is None:
        return None
    return torch.from_numpy(pairs.clips.T.copy()).to(inputs.targets.labels.device)


def standard_units(
    params: dict[str, Tensor], scores: Tensor, learned: Tensor
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Bring heads to scores of mean 0 and standard deviation 1 over the clips that taught them.

    Args:
        params: name -> [H, ...], with a linear output.
        scores: [H, C] of all clips.
        learned: [H, C] bool, clips in a pair that the head learned from.

    Returns:
        Parameters and scores in these units, and the old standard deviations [H].
    """
    count = learned.sum(1).clamp_min(1)
    mean = (scores * learned).sum(1) / count
    std = ((((scores - mean[:, None]) ** 2) * learned).sum(1) / count).sqrt()
    std = torch.where((std > 0) & std.isfinite(), std, 1)
    weight, bias = params["output.weight"], params["output.bias"]
    here, size = mean.to(bias).unsqueeze(1), std.to(bias).unsqueeze(1)
    changed = {"output.weight": weight / size.unsqueeze(2), "output.bias": (bias - here) / size}
    return {**params, **changed}, (scores - mean[:, None]) / std[:, None], std


def finished(
    params: Mapping[str, Tensor],
    scores: Tensor,
    label_std: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor],
    *,
    alone: bool,
    tau: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return the networks, scores and `Result.preference` of heads that are done.

    Args:
        params: name -> [H, ...], with `LEARNED`.
        scores: [H, C] of all clips, on the CPU.
        label_std: [H] of the training labels.
        pairs: winner and weight [H, P], and both clips [2, P].
        alone: whether they learned from pairs alone; then they come in standard units.
        tau: of `given_tau`, and then a tie is half a win for each clip; None: the likeliest.
    """
    winner, weight, ends = pairs
    unit = label_std.double().cpu()
    if tau is None:
        found = _best(scores, winner, weight, ends)
    else:
        # Who had no pair has learned nothing of any.
        given = torch.stack([tau.double(), torch.zeros_like(tau.double())], 1)
        found = torch.where((weight > 0).any(1, keepdim=True), given, torch.nan).cpu()
    network = network_of(params)
    if alone:
        named = torch.zeros_like(weight[:, :1]).expand(-1, scores.shape[1]).clone()
        for end in ends:
            named.index_add_(1, end, weight)
        network, scores, size = standard_units(network, scores, named.cpu() > 0)
        unit = 1 / size.double()
    return network, scores, torch.stack([found[:, 0] * unit, found[:, 1]], 1)


def _best(scores: Tensor, winner: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Return the likeliest tau and tie parameter [H, 2] of heads whose scores [H, C] are done.

    Those that they were trained with have come only as far as the weights' steps took them.
    """
    rows = (one.double().cpu().numpy() for one in (scores, winner, weight))
    a, b = ends.cpu().numpy()
    found = []
    for score, won, counts in zip(*rows, strict=True):
        mine = counts > 0
        gap = score[a[mine]] - score[b[mine]]
        found.append(best_preference(gap, won[mine].astype(np.int64), counts[mine]))
    return torch.tensor(found, dtype=torch.float64)


def network_of(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of the network alone."""
    return {name: p for name, p in params.items() if name != LEARNED}


def labels_seen(train: Bools, jobs: Sequence[Job]) -> Bools:
    """Return the training clips [F, C] whose labels are learned from: none, from pairs alone."""
    return train if jobs[0].recipe.loss.on_labels.terms else np.zeros_like(train)
