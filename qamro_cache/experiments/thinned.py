"""Folds whose heads learn from fewer clips, or from fewer systems: for learning curves."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from qamro_cache.errors import QamroError
from qamro_cache.experiments.clips import Clips
from qamro_cache.training.inputs import Bools, Folds


def thinned(folds: Folds, clips: Clips, most_clips: int, most_systems: int) -> Folds:
    """Return folds that hold out the same clips and learn from fewer.

    Each fold draws its own: systems first, then clips of these. A smaller number's are among a
    larger one's, and all seeds have the same, so that averaging them adds no clip.

    Args:
        folds: of the clips.
        clips: their systems.
        most_clips: that a fold learns from or stops by, in their proportion; 0: all.
        most_systems: that these are from; 0: all, and clips without a system.

    Raises:
        QamroError: there is nothing left to learn from.
    """
    if not most_clips and not most_systems:
        return folds
    system = clips.systems()
    train, validation = folds.train.copy(), folds.validation.copy()
    for fold in range(len(train)):
        random = np.random.default_rng([3, fold])
        by_system, by_clip = (random.permutation(n) for n in (system.max() + 2, len(system)))
        learned = train[fold] | validation[fold]
        if most_systems:
            turn = by_system[system]
            some = np.unique(turn[learned & (system >= 0)])[:most_systems]
            kept = np.isin(turn, some) & (system >= 0)
            train[fold] &= kept
            validation[fold] &= kept
        if most_clips:
            share = validation[fold].sum() / max(1, (train[fold] | validation[fold]).sum())
            stopping = round(share * most_clips)
            train[fold] = _first(train[fold], by_clip, most_clips - stopping)
            validation[fold] = _first(validation[fold], by_clip, stopping)
    if not train.any(1).all():
        raise QamroError("a fold has no clip left to learn from; take more --clips or --systems")
    return replace(folds, train=train, validation=validation, whole=folds)


def _first(mask: Bools, turn: npt.NDArray[np.int64], most: int) -> Bools:
    """Return those of a mask [C] whose turn [C] comes first."""
    ends = np.sort(turn[mask])
    kept: Bools = mask & (turn <= ends[most - 1]) if 0 < most < len(ends) else mask & (most > 0)
    return kept


def learned_from(folds: Folds, clips: Clips, axis: int, raters: int) -> dict[str, float]:
    """Return how much heads learn from, by a cell's settings: the mean over the folds.

    Args:
        folds: of the clips.
        clips: their systems and ratings.
        axis: that the heads learn.
        raters: ratings a clip at most; 0: all.
    """
    known = np.isfinite(clips.labels.mean[:, axis])
    learned = (folds.train | folds.validation) & known
    system = clips.systems()
    systems = [len(np.unique(system[one & (system >= 0)])) for one in learned]
    found = {"clips": float(learned.sum(1).mean()), "systems": float(np.mean(systems))}
    ratings = clips.labels.ratings
    if ratings is not None:
        mine = ratings.clip[ratings.axis == axis]
        count = np.bincount(mine, minlength=len(known))[learned.any(0)]
        found["raters"] = float((np.minimum(count, raters) if raters else count).mean())
    return found
