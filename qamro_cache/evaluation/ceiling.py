"""How well the listeners agree with themselves: the most that a prediction can be asked for."""

from typing import NamedTuple

import numpy as np
import torch

from qamro_cache.datasets.records import Labels
from qamro_cache.evaluation.metrics import lcc, srcc
from qamro_cache.evaluation.weighted import system_means


class Ceiling(NamedTuple):
    """Agreement of two random halves of the ratings, and what it bounds.

    Attributes:
        split_half: mean correlation of the two halves' scores.
        reliability: of all ratings, by Spearman and Brown's formula 2r / (1 + r).
        ceiling: the square root of the reliability: the expected correlation of a perfect
            predictor with these scores (Spearman's correction for attenuation, 1904).
    """

    split_half: float
    reliability: float
    ceiling: float


def split_half(
    labels: Labels,
    axis: int,
    system: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None,
    *,
    metric: str = "srcc",
    splits: int = 100,
    seed: int = 0,
) -> Ceiling | None:
    """Correlate the mean scores of random halves of each clip's ratings.

    Args:
        labels: with single ratings; None is returned without any, or where fewer than two clips
            have two ratings.
        axis: index of the axis.
        system: [C] each clip's system from 0 (-1: none): compare systems' means, not clips'.
        metric: ``srcc`` or ``lcc``.
        splits: random halvings to average over.
        seed: of the halvings.
    """
    ratings = labels.ratings
    if ratings is None:
        return None
    of_axis = ratings.axis == axis
    clip, score = ratings.clip[of_axis].astype(np.int64), ratings.score[of_axis]
    num_clips = len(labels.mean)
    if (np.bincount(clip, minlength=num_clips) >= 2).sum() < 2:
        return None
    generator = np.random.default_rng(seed)
    halves: list[list[np.ndarray[tuple[int], np.dtype[np.float64]]]] = [[], []]
    for _ in range(splits):
        # A random order, then by clip: each clip's ratings go in turn to one half and the other,
        # starting at random, so that an odd rating falls to either.
        order = generator.permutation(len(clip))
        order = order[np.argsort(clip[order], kind="stable")]
        ordered = clip[order]
        first = np.searchsorted(ordered, ordered)
        turn = np.arange(len(order)) - first + generator.integers(0, 2, num_clips)[ordered]
        for half in (0, 1):
            mine = order[turn % 2 == half]
            total = np.bincount(clip[mine], weights=score[mine], minlength=num_clips)
            count = np.bincount(clip[mine], minlength=num_clips)
            halves[half].append(total / np.where(count > 0, count, np.nan))
    a, b = (torch.as_tensor(np.stack(half)) for half in halves)
    both = ~(a.isnan() | b.isnan())
    if system is not None:
        index = torch.as_tensor(system)
        size = int(system.max()) + 1
        a, both_systems = system_means(a, index, size, both.double())
        b = system_means(b, index, size, both.double()).mean
        both = both_systems > 0
    correlation = (srcc if metric == "srcc" else lcc)(a, b, both.double())
    r = float(correlation[~correlation.isnan()].mean())
    reliability = 2 * r / (1 + r) if r > -1 else float("nan")
    return Ceiling(r, reliability, float(np.sqrt(max(reliability, 0.0))))
