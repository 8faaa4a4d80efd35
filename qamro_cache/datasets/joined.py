"""The labels of several sets of clips as one: parts of a test, or different tests."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from qamro_cache.datasets.records import Axis, Labels, Ratings
from qamro_cache.errors import QamroError

#: Of each clip, the test that rated it.
Names = npt.NDArray[np.object_]


def concatenate_labels(parts: Sequence[Labels], sources: Sequence[Names] = ()) -> Labels:
    """Join the labels of several sets of clips, one after the other.

    Single ratings are kept where a part has them; clips of a part without keep their means alone.
    Parts of different listening tests may have different axes, and different scales of an axis:
    then nobody has named one for both.

    Args:
        parts: the labels.
        sources: of each part the test of each clip, "" for none.

    Raises:
        QamroError: the parts have different axes and are not of different tests.
    """
    if len(parts) == 1:
        return parts[0]
    if any(part.axes != parts[0].axes for part in parts):
        parts = _one_set_of_axes(parts, sources)
    starts = np.cumsum([0] + [len(part.mean) for part in parts])
    rated = [
        (part.ratings, start)
        for part, start in zip(parts, starts, strict=False)
        if part.ratings is not None
    ]
    names = tuple(sorted({name for ratings, _ in rated for name in ratings.raters}))
    number = {name: index for index, name in enumerate(names)}
    # The last entry stands for rater -1, who is not known.
    raters = [
        np.array([*(number[n] for n in one.raters), -1], np.int32)[one.rater] for one, _ in rated
    ]
    ratings = None
    if rated:
        ratings = Ratings(
            np.concatenate([one.clip + start for one, start in rated]).astype(np.int32),
            np.concatenate([one.axis for one, _ in rated]),
            np.concatenate(raters),
            np.concatenate([one.score for one, _ in rated]),
            names,
        )
    guessed = [any(part.axes[a].guessed for part in parts) for a in range(len(parts[0].axes))]
    axes = zip(parts[0].axes, guessed, strict=True)
    return Labels(
        tuple(replace(axis, guessed=guess) for axis, guess in axes),
        np.concatenate([part.mean for part in parts]),
        np.concatenate([part.count for part in parts]),
        np.concatenate([part.stderr for part in parts]),
        ratings,
    )


def _one_set_of_axes(parts: Sequence[Labels], sources: Sequence[Names]) -> list[Labels]:
    """Return the labels of different tests with the axes of all; see `concatenate_labels`."""
    if not sources or any((one == "").any() for one in sources):
        raise QamroError(
            "the files have different axes; give them the same labels first, or, if they are of "
            "different listening tests, name each file's (qamro-cache relabel --source NAME)"
        )
    scales: dict[tuple[str, str], Axis] = {}
    found: dict[str, Axis] = {}
    for part, names in zip(parts, sources, strict=True):
        for axis in part.axes:
            for name in dict.fromkeys(names.tolist()):
                known = scales.setdefault((name, axis.name), axis)
                if known != axis:
                    raise QamroError(
                        f"source {name!r} has {axis.name} from {known.low:g} to {known.high:g} in "
                        f"one file and from {axis.low:g} to {axis.high:g} in another; correct one "
                        "(qamro-cache relabel --scale), or name two sources"
                    )
            other = found.setdefault(axis.name, axis)
            if other != axis:
                low, high = min(other.low, axis.low), max(other.high, axis.high)
                found[axis.name] = Axis(axis.name, low, high, guessed=True)
    return [_with_axes(part, tuple(found.values())) for part in parts]


def _with_axes(labels: Labels, axes: tuple[Axis, ...]) -> Labels:
    """Return labels with these axes, some of which nothing is known of."""
    place = [[axis.name for axis in axes].index(axis.name) for axis in labels.axes]
    shape = (len(labels.mean), len(axes))
    mean, stderr = np.full(shape, np.nan), np.full(shape, np.nan)
    count = np.zeros(shape, np.int32)
    mean[:, place], stderr[:, place], count[:, place] = labels.mean, labels.stderr, labels.count
    ratings = labels.ratings
    if ratings is not None:
        axis = np.array(place, np.int16)[ratings.axis]
        ratings = replace(ratings, axis=axis)
    return Labels(axes, mean, count, stderr, ratings)
