"""What heads learn: each fold's labels, made of what its training clips' listeners said alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from qamro_cache.datasets.axes import guess_scale
from qamro_cache.datasets.modeled import Modeled, model_ratings
from qamro_cache.datasets.options import PLAIN, RaterOptions
from qamro_cache.datasets.raters import subsampled
from qamro_cache.datasets.records import Axis, Labels, select_axes
from qamro_cache.datasets.screening import Scores
from qamro_cache.datasets.selection import is_reference
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.judged import Bools, Floats, Ints, Judged
from qamro_cache.experiments.clips import Clips
from qamro_cache.experiments.several import mean_and_std
from qamro_cache.heads.head import AxisHead
from qamro_cache.memory import refuse_memory
from qamro_cache.training.inputs import Folds, Targets


class Wanted(NamedTuple):
    """A row of targets.

    Attributes:
        axis: which.
        few: ratings a clip at most; 0: all.
        modeling: what is made of them.
    """

    axis: int
    few: int = 0
    modeling: RaterOptions = PLAIN


def targets_of(clips: Clips, folds: Folds, wanted: Sequence[Wanted]) -> Targets:
    """Return labels as `fit` takes them, a row each that is wanted.

    Plain means are the same in all folds. A model of the raters is fitted to a fold's training and
    validation clips, and the fold knows no other labels. Labels of several tests are in standard
    units of each, by its training labels in the fold.
    """
    of_axes = [(np.nan, np.nan) if a.guessed else (a.low, a.high) for a in clips.axes]
    ranges = torch.tensor([of_axes[one.axis] for one in wanted], dtype=torch.float64)
    plain = [_labels(clips, one.axis, one.few) for one in wanted]
    mean = np.stack([one.mean[:, 0] for one in plain])
    spread = np.stack([one.spread[:, 0] for one in plain])
    pairs = clips.pairs, [one.axis for one in wanted]
    if all(one.modeling.plain for one in wanted) and not clips.several:
        return Targets(torch.from_numpy(mean), ranges, torch.from_numpy(spread), *pairs)
    count = len(folds.train)
    refuse_memory(24 * count * mean.size, "labels of each fold", "use another --cv")
    means, spreads = (np.tile(one, (count, *[1] * one.ndim)) for one in (mean, spread))
    for row, one in enumerate(wanted):
        if one.modeling.plain:
            continue
        for fold, learned in enumerate(folds.train | folds.validation):
            made = _modeled(clips, plain[row], learned, one.modeling)
            if np.isfinite(mean[row, learned]).any() and not np.isfinite(made.mean).any():
                raise QamroError(
                    f"{clips.axes[one.axis].name}: --screen {one.modeling.screen} takes out all "
                    f"{len(made.out)} raters who rated the training clips of a fold; leave it out"
                )
            means[fold, row], spreads[fold, row] = made.mean, made.spread
    source = of_source = None
    if clips.several:
        source, ranges = torch.from_numpy(clips.sources()), torch.full_like(ranges, torch.nan)
        of_source = torch.from_numpy(_standardize(means, spreads, folds, clips.sources()))
    found = torch.from_numpy(means), ranges, torch.from_numpy(spreads)
    return Targets(*found, *pairs, source, of_source)


def _standardize(means: Floats, spreads: Floats, folds: Folds, source: Ints) -> Floats:
    """Bring labels to standard units of their tests, in place; return mean and std of each.

    Args:
        means: [F, T, C] labels; what a fold does not learn from becomes NaN.
        spreads: [F, T, C, 2] likewise.
        folds: over the clips.
        source: [C] number of each clip's test.

    Returns:
        [F, T, S, 2], NaN where a fold has no training label of a test.
    """
    scales = np.full((*means.shape[:2], int(source.max()) + 1, 2), np.nan)
    learned = folds.train | folds.validation
    for fold, row, test in np.ndindex(*scales.shape[:3]):
        labels, mine = means[fold, row], source == test
        known = labels[folds.train[fold] & mine & np.isfinite(labels)]
        if len(known):
            scales[fold, row, test] = mean_and_std(known)
        mean, std = scales[fold, row, test]
        seen = mine & learned[fold]
        labels[mine] = np.where(seen, (labels - mean) / std, np.nan)[mine]
        spreads[fold, row, mine, 1] /= std**2
    return scales


def _labels(clips: Clips, axis: int, few: int) -> Labels:
    """Return the labels of one axis by all ratings or a few of each clip's."""
    if few:
        return subsampled(clips.labels, axis, few, seed=0)
    return select_axes(clips.labels, [clips.axes[axis].name])


def _modeled(clips: Clips, labels: Labels, learned: Bools, options: RaterOptions) -> Modeled:
    """Return the labels of some clips [C] by their own ratings; NaN of the others."""
    assert labels.ratings is not None
    of = labels.ratings
    scores = Scores(of.clip.astype(np.int64), of.rater.astype(np.int64), of.score)
    made = _by_test(clips, scores.only(learned[scores.clip]), labels.axes[0], options)
    # Of a clip whose single ratings are not known its mean stays.
    bare = learned & np.isfinite(labels.mean[:, 0])
    bare[scores.clip] = False
    mean = np.where(bare, labels.mean[:, 0], made.mean)
    spread = np.where(bare[:, None], labels.spread[:, 0], made.spread)
    return Modeled(mean, spread, made.out)


def _by_test(clips: Clips, scores: Scores, axis: Axis, options: RaterOptions) -> Modeled:
    """Make labels of ratings, those of each test by themselves: raters are its own."""
    reference, source = is_reference(clips.table), clips.sources()
    mean, spread = np.full(len(source), np.nan), np.full((len(source), 2), np.nan)
    out = [np.zeros(0, np.int64)]
    for one in np.unique(source[scores.clip]):
        mine = source == one
        some = scores.only(mine[scores.clip])
        made = model_ratings(some, reference, _scale(axis, some), options)
        mean[mine], spread[mine] = made.mean[mine], made.spread[mine]
        out.append(made.out)
    return Modeled(mean, spread, np.unique(np.concatenate(out)))


def _scale(axis: Axis, scores: Scores) -> tuple[float, float]:
    """Return the scale of an axis; one that nobody named by these ratings alone."""
    if not axis.guessed:
        return axis.low, axis.high
    return guess_scale(float(scores.score.min()), float(scores.score.max()))


def by_modeled(
    judged: Judged, clips: Clips, folds: Folds, axis: int, options: RaterOptions
) -> Judged | None:
    """Return the clips judged with modeled labels, all of their ratings being looked at.

    None where labels are plain means, or fewer than two clips have one.
    """
    if options.plain:
        return None
    labels = _labels(clips, axis, 0)
    mean = clips.units(axis, folds).label(_modeled(clips, labels, judged.known, options).mean)
    made = replace(judged, target=np.where(judged.known, mean, np.nan))
    return made if made.known.sum() >= 2 else None


def screened(clips: Clips, folds: Folds, axis: int, options: RaterOptions) -> Iterator[list[str]]:
    """Yield the names of the raters who are screened out of each fold's training labels."""
    labels = _labels(clips, axis, 0)
    assert labels.ratings is not None
    for learned in folds.train | folds.validation:
        out = _modeled(clips, labels, learned, options).out
        yield [labels.ratings.raters[rater] for rater in out]


def raters_record(
    clips: Clips, folds: Folds, whole: Folds, options: RaterOptions
) -> dict[str, dict[str, Any]]:
    """Return who rated and who was screened out, an axis each, for ``config.json``.

    Args:
        clips: of some axes.
        folds: of the estimate.
        whole: the one fold of the saved head.
        options: what was done.
    """
    found: dict[str, dict[str, Any]] = {}
    for index, axis in enumerate(clips.axes):
        ratings = _labels(clips, index, 0).ratings
        assert ratings is not None
        out = [len(names) for names in screened(clips, folds, index, options)]
        (names,) = screened(clips, whole, index, options)
        found[axis.name] = {
            "raters": len(np.unique(ratings.rater)),
            "screened_most": max(out),
            "screened_mean": float(np.mean(out)),
            "screened": names,
        }
    return found


def on_its_tests(
    head: AxisHead, clips: Clips, targets: Targets, target: int, fold: int
) -> AxisHead:
    """Return a head that scores in standard units on the scale of a test that it learned from.

    Of several that with the most training labels in the fold; it keeps the scales of all.
    """
    assert targets.scales is not None
    labels, source = targets.of(target, fold).numpy(), clips.sources()
    names, axis = clips.table["source"].to_numpy(dtype=str), clips.axes[target]
    scales: dict[str, tuple[float, float, float, float]] = {}
    sizes: dict[str, int] = {}
    for test, (mean, std) in enumerate(targets.scales[fold, target].tolist()):
        mine = (source == test) & np.isfinite(labels)
        if not mine.any() or np.isnan(mean):
            continue
        low, high = axis.low, axis.high
        if axis.guessed:
            own = clips.labels.mean[mine, target]
            low, high = float(own.min()), float(own.max())
            low, high = guess_scale(low, high if high > low else low + 1)
        name = str(names[mine][0])
        scales[name], sizes[name] = (mean, std, low, high), int(mine.sum())
    home = max(sizes, key=lambda name: sizes[name])
    mean, std, low, high = scales[home]
    return replace(
        head,
        axis=replace(head.axis, low=low, high=high),
        label_mean=mean + std * head.label_mean,
        label_std=std * head.label_std,
        scales=scales,
        source=home,
    )
