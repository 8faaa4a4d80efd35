"""Tau under cross-validation: the likeliest for verdicts on clips that a head has not learned from.

By its own training verdicts a head is surer of itself than new clips bear out.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qamro_cache.datasets.preferences import Pairs
from qamro_cache.evaluation.judged import Bools, Floats
from qamro_cache.experiments.data import Material
from qamro_cache.experiments.fitting import Fitted, pool_folds
from qamro_cache.training.inputs import Folds
from qamro_cache.training.verdicts import best_preference

logger = logging.getLogger("qamro_cache")

#: Verdicts that tau is told by, at least: by a few it is told worse than by those of training.
FEWEST = 30
#: Target -> tau and the tie parameter of the head that is saved; NaN where no verdict is a tie.
Preferences = Mapping[int, tuple[float, float]]


def can_tell(material: Material, inner: Folds) -> bool:
    """Whether some fold's training clips hold verdicts enough, before heads are trained inside."""
    pairs, folds = material.clips.pairs, material.folds
    return pairs is not None and any(
        pairs.on([target]).within(_parts(inner, test, fold)).any(0).sum() >= FEWEST
        for target in range(len(material.clips.axes))
        for fold, test in enumerate(folds.test)
    )


def likeliest(
    material: Material,
    estimate: Fitted,
    inner: Folds,
    inside: Mapping[int, Floats],
    *,
    unseen: bool,
) -> tuple[Fitted, Preferences, dict[str, int]]:
    """Give each fold's heads the tau and tie parameter under which its verdicts are likeliest.

    Both clips of such a verdict are held out by one head inside the fold's training clips, so what
    the fold holds out has no say.

    Args:
        material: the clips.
        estimate: heads of the folds.
        inner: the folds inside (`inner_folds`).
        inside: target -> [F, C], what their heads predict of each fold's training clips.
        unseen: whether the saved head must not learn of what the folds hold out.

    Returns:
        The estimate with them; those of the saved head, by the held-out predictions; and in how
        many folds they were told, an axis each that has pairs. Where there are fewer than `FEWEST`
        such verdicts, what was learned stays.
    """
    pairs, folds = material.clips.pairs, material.folds
    preference = estimate.preference.copy()
    saved: dict[int, tuple[float, float]] = {}
    told: dict[str, int] = {}
    held_out = pool_folds(estimate, folds)
    for target, axis in enumerate(material.clips.axes):
        mine = None if pairs is None else pairs.on([target])
        if mine is None or not len(mine):
            continue
        found = [
            _of_verdicts(mine, scores, _parts(inner, folds.test[fold], fold))
            for fold, scores in enumerate(inside[target])
        ]
        for k in estimate.of_target(target):
            one = found[estimate.jobs[k].fold]
            if one is not None and not estimate.diverged[k]:
                preference[k] = _with_tie(one, preference[k])
        told[axis.name] = len(found) - found.count(None)
        if missing := found.count(None):
            logger.warning(
                "%s: %d of %d folds keep the tau of their training: fewer than %d verdicts on "
                "clips that one head inside them holds out", axis.name, missing, len(found), FEWEST
            )  # fmt: skip
        last = found[0] if unseen else _of_verdicts(mine, held_out[target].mean(0), folds.test)
        if last is not None:
            saved[target] = last
    return replace(estimate, preference=preference), saved, told


def _parts(inner: Folds, test: Bools, fold: int) -> Bools:
    """Return the training clips [K, C] of a fold that heads inside it hold out together."""
    parts = [inner.test[k] & ~test for k, served in enumerate(inner.serves) if fold in served]
    return np.stack(parts)


def with_preferences(fitted: Fitted, saved: Preferences) -> Fitted:
    """Return heads that are to be saved with the tau and tie parameter of their targets."""
    preference = fitted.preference.copy()
    for target, found in saved.items():
        for k in fitted.of_target(target):
            if not fitted.diverged[k]:
                preference[k] = _with_tie(found, preference[k])
    return replace(fitted, preference=preference)


def _with_tie(found: tuple[float, float], learned: Floats) -> Floats:
    """Return tau as found, and the tie parameter too where it was."""
    return np.where(np.isnan(found), learned, found)


def _of_verdicts(pairs: Pairs, scores: Floats, parts: Bools) -> tuple[float, float] | None:
    """Return the likeliest tau and tie parameter, of pairs whose clips are in one of the parts.

    Without a tie among them they tell nothing of that parameter, which is NaN then; of tau they do:
    who wins, if anybody does, does not depend on it.
    """
    a, b = pairs.clips.T
    gap = scores[a] - scores[b]
    told = pairs.within(parts).any(0) & np.isfinite(gap)
    if told.sum() < FEWEST:
        return None
    winner = pairs.winner[told]
    tau, tie = best_preference(gap[told], winner, pairs.weight[told])
    return tau, tie if (winner == 0).any() else np.nan
