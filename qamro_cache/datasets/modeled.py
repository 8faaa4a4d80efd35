"""Labels by a model of the raters: screened, brought to one scale, weighted."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qamro_cache.datasets.options import RaterOptions
from qamro_cache.datasets.records import Labels
from qamro_cache.datasets.screening import (
    Bools,
    Floats,
    Ints,
    Scores,
    inconsistent,
    misses_reference,
)
from qamro_cache.errors import OptionError, QamroError, quoted

logger = logging.getLogger("qamro_cache")

#: Ratings of a usual rater that a rater's variance is told from: of few ratings it says little.
_PRIOR = 5


class Modeled(NamedTuple):
    """Labels of C clips on one axis.

    Attributes:
        mean: [C] NaN for a clip without a rating that counts.
        spread: [C, 2] how many ratings each is the mean of, and their variance around it.
        out: numbers of the raters who were screened out.
    """

    mean: Floats
    spread: Floats
    out: Ints


def refuse_raters(
    labels: Labels,
    reference: Bools,
    options: RaterOptions,
    source: Sequence[str] = (),
) -> None:
    """Refuse a model that these labels cannot have; on each axis and of each test they need it.

    Args:
        labels: of C clips.
        reference: [C] clips that are a hidden reference.
        options: what is asked.
        source: [C] the test of each clip, where there may be several.

    Raises:
        QamroError: single ratings or their raters are not known, or there is no reference.
    """
    if options.plain:
        return
    ratings, asked = labels.ratings, options.words()
    if ratings is None:
        raise QamroError(
            f"only mean scores are known, and {asked} needs each rater's: give a row a rating, "
            "with a column `rater`"
        )
    tests = np.array(source or [""] * len(labels.mean), object)
    for index, axis in enumerate(labels.axes):
        bare = np.isfinite(labels.mean[:, index])
        bare[ratings.clip[ratings.axis == index]] = False
        for test in dict.fromkeys(tests[bare]):
            mine = np.isfinite(labels.mean[:, index]) & (tests == test)
            of = f"{axis.name} of source {quoted(test)}" if test else axis.name
            if bare[mine].all():
                raise QamroError(
                    f"{of}: only mean scores are known, and {asked} needs each rater's; leave "
                    + (f"that source out (--without source={test})" if test else "that axis out")
                )
            logger.warning(
                "%s: of %d of %d clips only means are known, which no model changes",
                of, int(bare[mine].sum()), int(mine.sum()),
            )  # fmt: skip
    if (ratings.rater < 0).any():
        count = int((ratings.rater < 0).sum())
        raise QamroError(f"{asked} needs to know who rated, and {count} ratings do not say")
    if options.screen == "bs1534" and not reference[ratings.clip].any():
        raise OptionError(
            "--screen bs1534 goes by the hidden reference, and no rated clip is one: name it in "
            "the column `reference` or call its system `reference`, or use --screen bt500"
        )


def model_ratings(
    scores: Scores,
    reference: Bools,
    scale: tuple[float, float],
    options: RaterOptions,
) -> Modeled:
    """Make labels of the ratings of one axis of one test.

    First raters are screened; then the scores of each who is left are brought to one scale; then
    each clip's are averaged.

    Args:
        scores: those that may be looked at: the labels of other clips are not known.
        reference: [C] clips that are a hidden reference.
        scale: lowest and highest rating.
        options: what is done.
    """
    out = np.zeros(0, np.int64)
    if options.screen == "bs1534":
        out = misses_reference(scores, reference, *scale)
    elif options.screen == "bt500":
        out = inconsistent(scores)
    scores = scores.only(~np.isin(scores.rater, out))
    if options.rater_model == "standardized":
        scores = scores._replace(score=standardized(scores))
    elif options.rater_model == "additive":
        scores = scores._replace(score=scores.score - offsets(scores)[scores.rater])
    weights = np.ones(len(scores.score))
    if options.rater_weights == "reliability":
        weights = reliabilities(scores)[scores.rater]
    return Modeled(*_averaged(scores, weights, len(reference)), out)


def standardized(scores: Scores) -> Floats:
    """Return the scores [R] with each rater's mean and std brought to those of all ratings.

    A rater without two different scores keeps them as they are.
    """
    if not len(scores.score):
        return scores.score
    raters = int(scores.rater.max()) + 1
    size = np.maximum(np.bincount(scores.rater, minlength=raters), 1)
    mean = np.bincount(scores.rater, scores.score, raters) / size
    apart = scores.score - mean[scores.rater]
    std = np.sqrt(np.bincount(scores.rater, apart**2, raters) / size)
    told = (std > 1e-9 * np.abs(scores.score).max(initial=0))[scores.rater]
    std = np.where(std > 0, std, 1)[scores.rater]
    whole: Floats = scores.score.mean() + scores.score.std() * apart / std
    return np.where(told, whole, scores.score)


def offsets(scores: Scores) -> Floats:
    """Return each rater's offset by least squares of score = clip + rater's offset + rest.

    The offsets of raters whom common clips connect add up to 0.
    """
    from scipy import sparse
    from scipy.sparse.linalg import lsqr

    raters = int(scores.rater.max(initial=-1)) + 1
    if not raters:
        return np.zeros(0)
    _, clip, size = np.unique(scores.clip, return_inverse=True, return_counts=True)
    ones, row = np.ones(len(clip)), np.arange(len(clip))
    of_clip = sparse.csr_array((ones, (row, clip)), (len(clip), len(size)))
    of_rater = sparse.csr_array((ones, (row, scores.rater)), (len(clip), raters))
    # Clips' means are taken out of both sides; of all solutions lsqr finds the shortest.
    mean = sparse.diags_array(1 / size) @ of_clip.T
    inside = of_rater - of_clip @ (mean @ of_rater)
    apart = scores.score - of_clip @ (mean @ scores.score)
    found: Floats = lsqr(inside, apart, atol=1e-12, btol=1e-12, iter_lim=100 * raters)[0]
    return found


def reliabilities(scores: Scores) -> Floats:
    """Return each rater's weight: one over the variance of the rater's scores about the others'.

    Each is compared with its clip's mean; the variance of a rater is that of the rater's own
    scores and of five of a usual one's.
    """
    raters = int(scores.rater.max(initial=-1)) + 1
    _, clip, size = np.unique(scores.clip, return_inverse=True, return_counts=True)
    apart = scores.score - (np.bincount(clip, scores.score) / size)[clip]
    several = (size > 1)[clip]
    # A score pulls its clip's mean towards itself.
    squares = np.where(several, apart**2 * (size / np.maximum(size - 1, 1))[clip], 0)
    counted = np.bincount(scores.rater, several, raters)
    usual = squares.sum() / max(1, int(several.sum()))
    if usual <= 1e-18 * max(1.0, float(np.abs(scores.score).max(initial=0)) ** 2):
        return np.ones(raters)
    own = np.bincount(scores.rater, squares, raters)
    weights: Floats = (counted + _PRIOR) / (own + _PRIOR * usual)
    return weights


def _averaged(scores: Scores, weights: Floats, clips: int) -> tuple[Floats, Floats]:
    """Return the weighted mean of each clip's scores [C], their number and variance [C, 2]."""
    count = np.bincount(scores.clip, minlength=clips)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.bincount(scores.clip, weights, clips)
        mean = np.bincount(scores.clip, weights * scores.score, clips) / total
        squares = weights * (scores.score - mean[scores.clip]) ** 2
        variance = np.bincount(scores.clip, squares, clips) / total
    known = np.where(count > 0, count, np.nan)
    return mean, np.stack([known, variance], 1)
