"""Pairs that heads are to learn from: what has none is refused, before torch is loaded."""

import numpy as np

from qamro_cache.datasets.preferences import Pairs
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.clips import Clips
from qamro_cache.losses.loss import Loss
from qamro_cache.training.inputs import Folds
from qamro_cache.training.recipe import Recipe


def refuse_without_pairs(recipe: Recipe, pairs: object, *, calibrate: bool = False) -> None:
    """Refuse a loss on pairs where none are given, and lines to labels of what is in no units."""
    if recipe.takes("loss") and recipe.loss.on_pairs.terms and pairs is None:
        raise OptionError(f"loss {recipe.loss} learns from pairs; give them with --pairs FILE")
    if calibrate and alone(recipe) and not learns_tau(recipe.loss):
        raise OptionError(
            f"loss {recipe.loss} learns from pairs alone, in standard units, and has no tau; leave "
            "--calibrate out: qamro-calibrate brings the saved head to labels"
        )


def refuse_unfit(recipe: Recipe, clips: Clips, folds: Folds) -> None:
    """Refuse axes that have nothing to teach such heads.

    Raises:
        QamroError: an axis without pairs, or without ratings, as the loss needs them; or without a
            pair to stop by.
    """
    for index, axis in enumerate(clips.axes if clips.pairs is not None else ()):
        assert clips.pairs is not None
        if alone(recipe):
            _refuse_few(axis.name, recipe.loss, clips.pairs.on([index]), folds)
        elif not np.isfinite(clips.labels.mean[:, index]).any():
            raise QamroError(
                f"axis {axis.name} has pairs and no ratings, which this loss learns from; "
                "use --loss bt, or name other axes with --axis"
            )


def refuse_unrated(clips: Clips) -> None:
    """Refuse axes of a grid that pairs alone judge: its tables hold cells by ratings."""
    for axis, rated in zip(clips.axes, np.isfinite(clips.labels.mean).any(0), strict=True):
        if clips.pairs is not None and not rated:
            raise OptionError(
                f"axis {axis.name} has pairs and no ratings, by which a grid's cells are judged; "
                "name other axes with --axis, or use qamro-train"
            )


def _refuse_few(axis: str, loss: Loss, pairs: Pairs, folds: Folds) -> None:
    if not pairs.within(folds.train).any():
        raise QamroError(
            f"axis {axis} has no training pair for {loss}: of {len(pairs)} pairs none has two "
            "clips that one fold trains on; name axes that have with --axis, or use another --cv"
        )
    watched = folds.validation.any(1)
    if watched.any() and not pairs.within(folds.validation[watched]).any(1).all():
        raise QamroError(
            f"axis {axis}: no pair has both clips in the part kept for stopping; use --stop fixed"
        )


def alone(recipe: Recipe) -> bool:
    """Whether heads learn from pairs alone, and so score in standard units."""
    return recipe.takes("loss") and not recipe.loss.on_labels.terms


def learns_tau(loss: Loss) -> bool:
    """Whether heads of a loss learn how sure a difference of scores is."""
    return any(term.name == "bt" for term in loss.on_pairs.terms)
