"""What fewer raters would have said: labels of a few of each clip's ratings."""

import numpy as np

from qamro_cache.datasets.records import Labels, Ratings, labels_from_ratings
from qamro_cache.errors import QamroError


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
