"""The axes of a set: their scales, named or guessed from the ratings, and which are taken."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qamro_cache.datasets.options import Scales
from qamro_cache.datasets.records import Axis, Dataset, Labels, select_axes
from qamro_cache.errors import QamroError, at_rows, unknown

logger = logging.getLogger("qamro_cache")

#: Scales that listening tests use; the first that holds every score is taken.
_SCALES = ((1.0, 5.0), (0.0, 1.0), (0.0, 10.0), (0.0, 100.0))
#: Ratings that may be mistaken, of all: what is more is a scale of its own.
_FEW = 0.05
#: Labels farther from 0 than this times their range have errors of a percent of it in float32.
_FARTHEST = 1e5


def refuse_unknown(asked: Scales, names: Sequence[str]) -> None:
    """Refuse a scale for an axis that is not there."""
    for name in asked:
        if name not in names:
            raise unknown("--scale names no axis:", name, names)


def make_axis(
    name: str,
    scores: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    path: Path,
    scales: Scales,
) -> Axis:
    """Make the axis of a column of ratings: on its named scale, or on a guessed one.

    Args:
        name: of the axis.
        scores: [R], NaN where there is none.
        rows: [R] of the table, for messages.
        path: of the table.
        scales: named by the user.

    Raises:
        QamroError: a rating is not on the named scale.
    """
    if name not in scales:
        axis = guess_axis(name, scores)
        _point_out_far(axis, scores, rows, path)
        return axis
    low, high = scales[name]
    off = np.flatnonzero((scores < low) | (scores > high))
    if len(off):
        raise QamroError(
            f"{at_rows(path, rows[off])}{scores[off[0]]:g} in column {name!r} is not on the "
            f"scale {low:g} to {high:g} of --scale; correct the one or the other"
        )
    return Axis(name, low, high)


def guess_axis(name: str, scores: npt.NDArray[np.float64]) -> Axis:
    """Make an axis with the usual scale that holds all scores, or else with their range."""
    if not np.isfinite(scores).any():
        return Axis(name, *_SCALES[0], guessed=True)
    low, high = float(np.nanmin(scores)), float(np.nanmax(scores))
    return Axis(name, *guess_scale(low, high), guessed=True)


def guess_scale(low: float, high: float) -> tuple[float, float]:
    """Return the usual scale that holds scores from ``low`` to ``high``, or else their range."""
    return _usual(low, high) or (low, high)


def _usual(low: float, high: float) -> tuple[float, float] | None:
    for scale in _SCALES:
        if scale[0] <= low and high <= scale[1]:
            return scale
    return None


def far_off(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return the places of ratings that others make look mistaken; few or none.

    Those are: a twentieth of all at most, on the one side of a gap that is wider than the range
    of the others, or outside the only usual scale that holds the others; and zeros among
    ratings of 1 to 5. Without them the scale would be guessed narrower.
    """
    places = np.flatnonzero(np.isfinite(scores))
    order = places[np.argsort(scores[places], kind="stable")]
    values = scores[order]
    nothing = np.zeros(0, np.intp)
    if len(values) < 2 or values[0] == values[-1]:
        return nothing
    whole = _usual(values[0], values[-1])
    most = max(1, int(_FEW * len(values)))
    zeros = int(np.searchsorted(values, 0, side="right"))
    if whole == (0.0, 10.0) and values[0] == 0 and values[zeros] >= 1 and values[-1] <= 5:
        return order[:zeros]
    # The widest gap first; what is behind a hundred wider ones is not apart.
    for cut in np.argsort(-np.diff(values), kind="stable")[:100] + 1:
        if values[cut] == values[cut - 1]:
            break
        few = order[:cut] if cut <= len(values) - cut else order[cut:]
        rest = values[cut:] if cut <= len(values) - cut else values[:cut]
        if len(few) > most or len(rest) < 4:
            continue
        gap = values[cut] - values[cut - 1]
        scale = _usual(rest[0], rest[-1])
        alone = scale is not None and whole is None
        if alone or (scale != whole and rest[0] < rest[-1] and gap > rest[-1] - rest[0]):
            return few
    return nothing


def _point_out_far(
    axis: Axis, scores: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], path: Path
) -> None:
    far = np.sort(far_off(scores))
    if not len(far):
        return
    rest = np.delete(scores, far)
    listed = ", ".join(f"{scores[place]:g} in row {rows[place]}" for place in far[:3])
    more = f" and {len(far) - 3} more" if len(far) > 3 else ""
    logger.warning(
        "%s: %s: %s%s, the other ratings lie between %g and %g; correct it, leave the cell empty "
        "where nobody rated, or name the scale with --scale %s=LOW:HIGH",
        path,
        axis.name,
        listed,
        more,
        np.nanmin(rest),
        np.nanmax(rest),
        shlex.quote(axis.name),
    )


def with_scales(labels: Labels, scales: Scales, clip_ids: Sequence[str]) -> Labels:
    """Put axes on the scales that a user names.

    Args:
        labels: of C clips.
        scales: axis -> lowest and highest rating.
        clip_ids: [C] for messages.

    Raises:
        QamroError: no such axis, or a rating is not on its scale.
    """
    refuse_unknown(scales, [axis.name for axis in labels.axes])
    if not scales:
        return labels
    axes = list(labels.axes)
    for index, axis in enumerate(axes):
        if axis.name not in scales:
            continue
        low, high = scales[axis.name]
        clip, score = np.arange(len(labels.mean)), labels.mean[:, index]
        if labels.ratings is not None:
            mine = labels.ratings.axis == index
            clip = np.concatenate([labels.ratings.clip[mine], clip])
            score = np.concatenate([labels.ratings.score[mine], score])
        off = np.flatnonzero((score < low) | (score > high))
        if len(off):
            raise QamroError(
                f"clip {clip_ids[clip[off[0]]]!r} has {score[off[0]]:g} on {axis.name!r}, which is "
                f"not on the scale {low:g} to {high:g} of --scale; correct the one or the other"
            )
        axes[index] = Axis(axis.name, low, high)
    return replace(labels, axes=tuple(axes))


def refuse_far(labels: Labels) -> None:
    """Refuse labels between which heads, which compute in float32, could not tell.

    Raises:
        QamroError: labels of an axis are far from 0 beside their range.
    """
    for axis in rated_axes(labels):
        mean = labels.mean[:, labels.axis_index(axis.name)]
        low, high = float(np.nanmin(mean)), float(np.nanmax(mean))
        if low < high and max(-low, high) > _FARTHEST * (high - low):
            raise QamroError(
                f"{axis.name}: labels from {low:.12g} to {high:.12g} differ too little for their "
                "size, heads compute in float32; take the same number off all of them"
            )


def rated_axes(labels: Labels) -> list[Axis]:
    """Return the axes that some clip has a label on."""
    some = np.isfinite(labels.mean).any(0)
    return [axis for axis, rated in zip(labels.axes, some, strict=True) if rated]


def notice_guessed(axes: Sequence[Axis]) -> None:
    """Log which scales nobody named."""
    guessed = [f"{axis.name} {axis.low:g} to {axis.high:g}" for axis in axes if axis.guessed]
    if guessed:
        logger.info(
            "scales guessed from the ratings: %s; --scale AXIS=LOW:HIGH names one",
            ", ".join(guessed),
        )


def take_axes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Keep the axes of these names; all for none.

    Raises:
        QamroError: there is no such axis.
    """
    if not names:
        return dataset
    labels = dataset.labels
    if not labels.axes:
        raise QamroError(f"{dataset.name} has no axes; leave out --axis")
    taken = select_axes(labels, names)
    places = [labels.axis_index(axis.name) for axis in taken.axes]
    published = {
        system: tuple(scores[place] for place in places)
        for system, scores in dataset.system_scores.items()
    }
    return replace(dataset, labels=taken, system_scores=published)
