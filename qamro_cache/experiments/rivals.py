"""Held-out clips as predicted by what a head must beat, each fold's labels being its own."""

from collections.abc import Iterator

import numpy as np

from qamro_cache.evaluation.baselines import View, baselines
from qamro_cache.evaluation.judged import Floats
from qamro_cache.experiments.clips import Clips
from qamro_cache.experiments.labels import Wanted, targets_of
from qamro_cache.training.inputs import Folds


def held_out_baselines(
    clips: Clips, folds: Folds, views: Iterator[View], axis: int, *, every: bool
) -> dict[str, Floats]:
    """Predict held-out clips: name -> predictions [C], on the scale of each clip's test.

    Baselines see a vector a clip (its windows' mean, with the prompt's embedding) and learn plain
    means: of several tests in standard units of each, as heads do.
    """
    found: dict[str, Floats] = {}
    targets = targets_of(clips, folds, [Wanted(axis)])
    # Without several tests labels, and units, are the same in all folds.
    parts = _a_fold_each(views) if clips.several else views
    for fold, view in enumerate(parts):
        truth = targets.of(0, fold).numpy()
        for name, pred in baselines(view, truth, every=every).items():
            whole = found.setdefault(name, np.full(len(truth), np.nan))
            held = np.isfinite(pred)
            whole[held] = targets.own_units(pred, 0, fold)[held]
    return found


def rivals_in_folds(
    clips: Clips, folds: Folds, views: Iterator[View], axis: int, *, every: bool
) -> dict[str, Floats]:
    """Predict, for each fold, what it holds out and the clips that are in pairs with these.

    Returns:
        name -> predictions [F, C], NaN elsewhere. Labels are of one test, whose clips alone have
        pairs.
    """
    assert clips.pairs is not None
    found: dict[str, Floats] = {}
    truth, wanted = clips.labels.mean[:, axis], folds.test | clips.pairs.company(folds.test)
    for fold, view in enumerate(_a_fold_each(views)):
        of_pairs = view._replace(test=wanted[[fold]])
        for name, pred in baselines(of_pairs, truth, every=every).items():
            found.setdefault(name, np.full(folds.test.shape, np.nan))[fold] = pred
    return found


def pooled(each: Floats, folds: Folds) -> Floats:
    """Return the predictions [C] of clips by the fold that holds each out, of all folds' [F, C]."""
    found = np.full(each.shape[1], np.nan)
    for pred, held in zip(each, folds.test, strict=True):
        found[held] = pred[held]
    return found


def _a_fold_each(views: Iterator[View]) -> Iterator[View]:
    """Part views, which come in the order of their folds, into these."""
    for view in views:
        for learned, test in zip(view.learned, view.test, strict=True):
            yield view._replace(learned=learned[None], test=test[None])
