"""Who rated: raters of several tests told apart, and what fewer of them would have said."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qamro_cache.datasets.records import Dataset, Labels, Ratings, labels_from_ratings
from qamro_cache.errors import QamroError


def raters_apart(labels: Labels, source: Sequence[str]) -> Labels:
    """Return labels whose raters are those of their test: one of two tests is two.

    Args:
        labels: of C clips.
        source: [C] the test of each clip.
    """
    of = labels.ratings
    if of is None or not len(of.clip):
        return labels
    names, test = np.unique(np.array(source, str), return_inverse=True)
    who, known = test[of.clip] * len(of.raters) + of.rater, of.rater >= 0
    pairs, place = np.unique(who[known], return_inverse=True)
    rater = np.full(len(of.rater), -1, np.int32)
    rater[known] = place
    of_test, one = pairs // max(1, len(of.raters)), pairs % max(1, len(of.raters))
    several = np.bincount(one, minlength=len(of.raters)) > 1
    called = tuple(
        f"{names[t]}: {of.raters[k]}" if several[k] else of.raters[k]
        for t, k in zip(of_test.tolist(), one.tolist(), strict=True)
    )
    return replace(labels, ratings=replace(of, rater=rater, raters=called))


def with_raters_apart(dataset: Dataset) -> Dataset:
    """Return a set whose raters are those of their test; see `raters_apart`."""
    labels = raters_apart(dataset.labels, dataset.clips["source"].tolist())
    return replace(dataset, labels=labels)


def subsampled(labels: Labels, axis: int, raters: int, seed: int) -> Labels:
    """Return the labels of one axis by ``raters`` of each clip's ratings, without replacement.

    A clip with fewer ratings keeps them all. A smaller number's
    ratings are among a larger one's for the same seed, so that a study of the number is not blurred
    by the draw.

    Raises:
        QamroError: the single ratings are not known.
    """
    ratings = labels.ratings
    if ratings is None:
        raise QamroError("only mean scores are known, so no raters can be left out (raters=...)")
    mine = np.flatnonzero(ratings.axis == axis)
    random = np.random.default_rng([2, seed, axis])
    # By clip, at random within a clip; then a rating's place within its clip is its turn.
    order = mine[np.lexsort((random.random(len(mine)), ratings.clip[mine]))]
    clip = ratings.clip[order]
    starts = np.flatnonzero(np.r_[True, clip[1:] != clip[:-1]]) if len(clip) else np.empty(0, int)
    turn = np.arange(len(clip)) - np.repeat(starts, np.diff(np.r_[starts, len(clip)]))
    kept = order[turn < raters]
    few = Ratings(
        ratings.clip[kept], np.zeros(len(kept), np.int16), ratings.rater[kept], ratings.score[kept]
    )
    return labels_from_ratings((labels.axes[axis],), len(labels.mean), few)
