"""Other panels from the same ratings: what fewer raters would have said."""

import numpy as np
import numpy.typing as npt

from qamro_cache.datasets.records import Labels, Ratings, labels_from_ratings
from qamro_cache.errors import QamroError


def resample_ratings(labels: Labels, num_raters: int, seed: int = 0) -> Labels:
    """Average the ratings of a random panel of at most ``num_raters`` raters a clip.

    A rater is drawn with all that he said about the clip, on every axis, replicates included.
    Where raters are not known, a rating's place among those of its clip and axis stands for one.
    Panels of different clips are independent. A clip of which only the mean is known gets no
    label: its panel cannot be drawn.

    Args:
        labels: with single ratings.
        num_raters: raters to keep; a clip with fewer keeps all.
        seed: of the draw; the same seed gives nested panels for growing ``num_raters``.

    Raises:
        QamroError: only means are known.
        ValueError: num_raters < 1.
    """
    if num_raters < 1:
        raise ValueError(f"num_raters must be at least 1, not {num_raters}")
    ratings = _single(labels)
    return _keep(labels, _panel_rank(ratings, seed) < num_raters)


def _single(labels: Labels) -> Ratings:
    if labels.ratings is None:
        raise QamroError("only mean scores are known; resampling raters needs single ratings")
    return labels.ratings


def _keep(labels: Labels, kept: npt.NDArray[np.bool_]) -> Labels:
    ratings = _single(labels)
    chosen = Ratings(
        ratings.clip[kept],
        ratings.axis[kept],
        ratings.rater[kept],
        ratings.score[kept],
        ratings.raters,
    )
    return labels_from_ratings(labels.axes, len(labels.mean), chosen)


def _panel_rank(ratings: Ratings, seed: int) -> npt.NDArray[np.int64]:
    """[R] the place of each rating's rater in a random order of its clip's raters."""
    known = ratings.rater >= 0
    place = _place_within(ratings.clip.astype(np.int64) * (1 << 16) + ratings.axis)
    most = len(ratings.raters)
    person = np.where(known, ratings.rater, most + place)
    unit = ratings.clip.astype(np.int64) * (int(person.max(initial=0)) + 1) + person
    units, of = np.unique(unit, return_inverse=True)
    clip = units // (int(person.max(initial=0)) + 1)
    order = np.lexsort((np.random.default_rng(seed).random(len(units)), clip))
    rank = np.empty(len(units), np.int64)
    rank[order] = _place_within(clip[order])
    return rank[of]


def _place_within(key: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[R] how many earlier entries have the same key."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    start = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(key) else ordered > 0
    first = np.maximum.accumulate(np.where(start, np.arange(len(key)), 0))
    place = np.empty(len(key), np.int64)
    place[order] = np.arange(len(key)) - first
    return place
