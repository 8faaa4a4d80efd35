"""The state of a stack's heads: a tensor a number, the heads side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from qamro_cache.datasets.axes import guess_scale
from qamro_cache.training.inputs import Bools, Inputs
from qamro_cache.training.preferences import head_pairs, labels_seen
from qamro_cache.training.recipe import Job, Recipe


@dataclass(frozen=True)
class HeadState:
    """What there is of each of H heads beside its parameters; the fields are never replaced.

    Real numbers have the stack's type. What changes in training is written in place, on the
    device, so that a captured epoch sees it.

    Attributes:
        lr, momentum, weight_decay, dropout: [H] of the recipe.
        loss_numbers: [H, P] `Loss.numbers` of the recipe.
        max_epochs, patience, seed: [H] int64, of the recipe and the job.
        order: [H] int64, which order of the schedule the head follows.
        target: [H, C] labels in their own units, 0 where a clip has none.
        train: [H, C] bool, which clips the head learns from.
        label_mean, label_std: [H] of the training labels.
        label_low, label_high: [H] what QAMRO's label quality is relative to.
        bounds: [H, 2] the rating scale in standardized labels.
        has_validation: [H] bool; without, a head trains for ``max_epochs``.
        spread: [H, C, 2] of ``gaussian`` heads: ratings of each clip, and their variance in
            standardized labels; [H, 0, 2] of others.
        source: [H, C] int16, number of each clip's listening test; [H, 0] where all are of one.
        validation_source: [H, S] of the validation set, likewise.
        validation_spread: [H, S, 2] of the validation set, likewise.
        validation_target: [H, S] labels of the head's own validation set.
        validation_mask: [H, S] bool, which of them count.
        pair_winner, pair_weight: [H, P] of given pairs, no weight for those not learned from.
        validation_pairs: [H, V, 2] places in the validation set of both clips of its pairs.
        validation_winner, validation_weight: [H, V] of these pairs.
        validation_before: [H, S] the predictions of the epoch before, at first NaN; written.
        finite: [H] bool, no loss was infinite or NaN yet; written.
        diverged: [H] bool, became so while it ran; written.
        finished: [H] bool, only waits to be taken out; written.
        best_loss: [H] on the validation set; written.
        best_epoch: [H] int64, after which the kept weights were; written.
    """

    lr: Tensor
    momentum: Tensor
    weight_decay: Tensor
    dropout: Tensor
    loss_numbers: Tensor
    max_epochs: Tensor
    patience: Tensor
    seed: Tensor
    order: Tensor
    target: Tensor
    train: Tensor
    label_mean: Tensor
    label_std: Tensor
    label_low: Tensor
    label_high: Tensor
    bounds: Tensor
    spread: Tensor
    source: Tensor
    has_validation: Tensor
    validation_spread: Tensor
    validation_source: Tensor
    validation_target: Tensor
    validation_mask: Tensor
    pair_winner: Tensor
    pair_weight: Tensor
    validation_pairs: Tensor
    validation_winner: Tensor
    validation_weight: Tensor
    validation_before: Tensor
    finite: Tensor
    diverged: Tensor
    finished: Tensor
    best_loss: Tensor
    best_epoch: Tensor

    def written(self) -> dict[str, Tensor]:
        """Return what changes in training, by name."""
        names = ("validation_before", "finite", "diverged", "finished", "best_loss", "best_epoch")
        return {name: getattr(self, name) for name in names}

    def select(self, heads: Tensor) -> "HeadState":
        """Return the state of some ``heads`` [K] int64 only."""
        chosen = {
            item.name: getattr(self, item.name).index_select(0, heads) for item in fields(self)
        }
        return HeadState(**chosen)

    def standardized(self, labels: Tensor) -> Tensor:
        """Bring labels [H] or [H, N] to the units that heads score in."""
        shape = (-1, *[1] * (labels.ndim - 1))
        return (labels - self.label_mean.view(shape)) / self.label_std.view(shape)

    def predictions(self, scores: Tensor) -> Tensor:
        """Bring scores [H, N] to the units of the labels."""
        return scores * self.label_std[:, None] + self.label_mean[:, None]


def make_state(
    inputs: Inputs, jobs: Sequence[Job], orders: Sequence[int], dtype: torch.dtype
) -> HeadState:
    """Return what the heads of ``jobs`` start from, on the inputs' device."""
    device = inputs.targets.labels.device
    fold, row = torch.tensor([(j.fold, j.target) for j in jobs], device=device).unbind(1)
    known = (target := inputs.targets.of(row, fold)).isfinite()
    masks = [labels_seen(m, jobs) for m in (inputs.folds.train, inputs.folds.validation)]
    train, validation = (torch.from_numpy(mask).to(device)[fold] & known for mask in masks)
    target = torch.where(known, target, 0)
    mean, std, low, high = _label_stats(target, train)
    pairs = head_pairs(inputs, jobs, dtype)
    scale = _scales(inputs.targets.ranges[row], low, high)
    if jobs[0].recipe.loss.label_range == "scale":
        low, high = scale[:, 0], scale[:, 1]
    places, inside = _validation_sets(inputs.folds.validation, jobs, device)
    if jobs[0].recipe.loss.on_labels.terms:
        inside = validation.gather(1, places) & inside
    spread = _spread(inputs.targets.spread_of(row, fold), std, jobs[0].recipe)

    def reals(values: Sequence[float] | Sequence[tuple[float, ...]]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).to(device, dtype)

    def whole(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    none = torch.zeros(len(jobs), dtype=torch.bool, device=device)
    recipes = [job.recipe for job in jobs]
    return HeadState(
        lr=reals([recipe.lr for recipe in recipes]),
        momentum=reals([recipe.momentum for recipe in recipes]),
        weight_decay=reals([recipe.weight_decay for recipe in recipes]),
        dropout=reals([recipe.dropout for recipe in recipes]),
        loss_numbers=reals([recipe.loss.numbers for recipe in recipes]),
        max_epochs=whole([recipe.epochs for recipe in recipes]),
        patience=whole([recipe.patience for recipe in recipes]),
        seed=whole([job.seed for job in jobs]),
        order=whole(orders),
        target=target.to(dtype),
        train=train,
        label_mean=mean.to(dtype),
        label_std=std.to(dtype),
        label_low=low.to(dtype),
        label_high=high.to(dtype),
        bounds=((scale - mean[:, None]) / std[:, None]).to(dtype),
        spread=spread.to(dtype),
        source=(source := _sources(inputs, len(jobs))),
        has_validation=validation.any(1) | (pairs.validation_weight > 0).any(1),
        validation_spread=_at(spread, places).to(dtype),
        validation_source=source.gather(1, places) if source.shape[1] else source,
        validation_target=target.to(dtype).gather(1, places),
        validation_mask=inside,
        **pairs._asdict(),
        validation_before=torch.full(places.shape, torch.nan, dtype=dtype, device=device),
        finite=~none,
        diverged=none.clone(),
        finished=none.clone(),
        best_loss=torch.full((len(jobs),), torch.inf, device=device, dtype=dtype),
        best_epoch=torch.zeros(len(jobs), dtype=torch.int64, device=device),
    )


def _sources(inputs: Inputs, heads: int) -> Tensor:
    """Return the number of each clip's listening test [H, C]; [H, 0] where all are of one."""
    of = inputs.targets.source
    if of is None:
        device = inputs.targets.labels.device
        return torch.zeros(heads, 0, dtype=torch.int16, device=device)
    return of.to(torch.int16).expand(heads, -1)


def _label_stats(target: Tensor, train: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean, std, lowest and highest [H] of the training labels."""
    count = train.sum(1).clamp_min(1)
    mean = (target * train).sum(1) / count
    std = (((target - mean[:, None]) ** 2 * train).sum(1) / count).sqrt()
    low = torch.where(train, target, torch.inf).amin(1)
    high = torch.where(train, target, -torch.inf).amax(1)
    # From pairs alone no label is learned from, and none may tell a scale.
    low = torch.where(train.any(1), low, 0)
    # Equal training labels: no pair, so any range will do.
    return mean, torch.where(std > 0, std, 1), low, torch.where(high > low, high, low + 1)


def _spread(known: Tensor | None, std: Tensor, recipe: Recipe) -> Tensor:
    """Return the ratings [H, C, 2] of each head's target: their number, standardized variance."""
    if recipe.head.output != "gaussian":
        return std.new_zeros(len(std), 0, 2)
    if known is None:
        raise ValueError("a gaussian head needs the targets' spread")
    count, variance = known.nan_to_num(0).unbind(2)
    return torch.stack([count, variance / std[:, None] ** 2], 2)


def _at(spread: Tensor, places: Tensor) -> Tensor:
    """Return the spread [H, C, 2] at clips [H, S]; as empty as it is."""
    if not spread.shape[1]:
        return spread
    return spread.gather(1, places.unsqueeze(2).expand(*places.shape, 2))


def _scales(named: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return each head's rating scale [H, 2]: as named, else guessed from its training labels.

    A guess from all labels would tell the head of those that are held out.
    """
    unnamed = named.isnan().any(1).nonzero()[:, 0]
    if not len(unnamed):
        return named
    ends = torch.stack([low, high], 1)[unnamed].tolist()
    guesses = torch.tensor([guess_scale(*pair) for pair in ends], dtype=named.dtype)
    return named.index_copy(0, unnamed, guesses.to(named.device))


def _validation_sets(
    masks: Bools, jobs: Sequence[Job], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return each head's validation clips [H, S], and which of the places are one."""
    # Row by row on the host and copied once: a copy a head would take longer than an epoch.
    rows = [np.flatnonzero(masks[job.fold]) for job in jobs]
    shape = len(rows), max(map(len, rows))
    places, inside = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for h, held in enumerate(rows):
        places[h, : len(held)], inside[h, : len(held)] = held, True
    return torch.from_numpy(places).to(device), torch.from_numpy(inside).to(device)
