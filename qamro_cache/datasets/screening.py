"""Whose ratings do not count, by the rules that listening tests name.

Written from the recommendations' text. Both rules look at the ratings that they are given and at
nothing else, so a fold's training clips are all that they can learn from.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

#: ITU-R BS.1534-3, 4.1.2: the hidden reference is rated below 90 (of 0 to 100) for more than 15 %
#: of the items.
_FOUND, _MISSED = 0.9, 0.15
#: ITU-R BT.500-14, A1-2.3.1: more than 5 % of a rater's scores are far off, and not to one side.
_FAR, _ONE_SIDED = 0.05, 0.3


class Scores(NamedTuple):
    """Single ratings of one axis of one test.

    Attributes:
        clip: [R] place among the clips.
        rater: [R] number of the rater, at least 0.
        score: [R] in label units.
    """

    clip: Ints
    rater: Ints
    score: Floats

    def only(self, kept: Bools) -> "Scores":
        """Return the ratings that are ``kept`` [R]."""
        return Scores(self.clip[kept], self.rater[kept], self.score[kept])


def misses_reference(scores: Scores, reference: Bools, low: float, high: float) -> Ints:
    """Return the raters who rate hidden references below 90 for over 15 % of the items.

    The hidden-reference rule of ITU-R BS.1534-3. A rater's items are the references that the rater
    heard, a repeated one each time; who heard none stays.

    Args:
        scores: of the clips.
        reference: [C] clips that are a hidden reference.
        low: lowest rating of the scale; 90 is nine tenths of the way to ``high``.
        high: highest.
    """
    asked = reference[scores.clip]
    raters = int(scores.rater.max(initial=-1)) + 1
    missed = asked & (scores.score < low + _FOUND * (high - low))
    items = np.bincount(scores.rater[asked], minlength=raters)
    below = np.bincount(scores.rater[missed], minlength=raters)
    return np.flatnonzero(below > _MISSED * items)


def inconsistent(scores: Scores) -> Ints:
    """Return the raters whom the screening of ITU-R BT.500-14 takes out.

    Of each clip the mean, the standard deviation S (of n - 1) and the kurtosis m4 / m2^2 of its
    scores; a score is far off at 2 S from the mean where the kurtosis lies between 2 and 4, else at
    the root of 20 times S. A rater with P scores far above and Q far below is out if (P + Q) is
    more than 5 % of the rater's scores and abs(P - Q) / (P + Q) less than .3. A clip whose scores
    are all equal has none that is far off. Done once, not again with who is left.
    """
    clips = int(scores.clip.max(initial=-1)) + 1
    raters = int(scores.rater.max(initial=-1)) + 1
    size = np.bincount(scores.clip, minlength=clips)

    def mean_of(values: Floats) -> Floats:
        found: Floats = np.bincount(scores.clip, values, clips) / np.maximum(size, 1)
        return found

    apart: Floats = scores.score - mean_of(scores.score)[scores.clip]
    squared: Floats = apart**2
    second, fourth = mean_of(squared), mean_of(squared * squared)
    deviation = np.sqrt(second * size / np.maximum(size - 1, 1))
    # Of equal scores rounding alone is left.
    spread = second > (1e-12 * np.abs(scores.score).max(initial=0)) ** 2
    kurtosis = fourth / np.where(spread, second, 1) ** 2
    normal = (kurtosis >= 2) & (kurtosis <= 4)
    limit = np.where(spread, np.where(normal, 2, np.sqrt(20)) * deviation, np.inf)[scores.clip]
    above = np.bincount(scores.rater[apart >= limit], minlength=raters)
    below = np.bincount(scores.rater[apart <= -limit], minlength=raters)
    far, given = above + below, np.bincount(scores.rater, minlength=raters)
    one_sided = np.abs(above - below) >= _ONE_SIDED * far
    return np.flatnonzero((far > _FAR * given) & ~one_sided)
