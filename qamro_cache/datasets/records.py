"""Clips, axes, ratings: what a listening test is, whatever its files look like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.errors import OptionError, QamroError, nearest

#: Columns of every clip table, all strings; an unknown value is the empty string. ``reference`` is
#: the id of the clip that a clip is compared with; its own for a reference. ``source`` names the
#: listening test that rated it, where several are taken together.
CLIP_COLUMNS = ("clip_id", "path", "system", "group", "prompt", "split", "reference", "source")


@dataclass(frozen=True)
class Axis:
    """One question the listeners answered, on a scale from ``low`` to ``high``.

    Attributes:
        name: of the question.
        low: lowest rating of the scale.
        high: highest.
        guessed: nobody named the scale, it was guessed from the scores. Not compared.
    """

    name: str
    low: float
    high: float
    guessed: bool = field(default=False, compare=False)

    def notice_outside(self, predictions: npt.NDArray[np.float64]) -> str:
        """Return a line that counts the predictions off the scale (rounding apart); or empty."""
        slack = 1e-6 * (self.high - self.low)
        off = (predictions < self.low - slack) | (predictions > self.high + slack)
        if not off.any():
            return ""
        return (
            f"{self.name}: {int(off.sum())} of {int(np.isfinite(predictions).sum())} predictions "
            f"lie outside the scale {self.low:g} to {self.high:g}; they are left as they are"
        )


@dataclass(frozen=True)
class Ratings:
    """Single ratings, one entry each: who gave which clip what score on which axis.

    Attributes:
        clip: [R] int32, row of the clip table.
        axis: [R] int16, index into the axes.
        rater: [R] int32, index into ``raters``; -1 where the rater is not known.
        score: [R] float64, in the axis' own units.
        raters: names of the raters.
    """

    clip: npt.NDArray[np.int32]
    axis: npt.NDArray[np.int16]
    rater: npt.NDArray[np.int32]
    score: npt.NDArray[np.float64]
    raters: tuple[str, ...] = ()

    def repeats(self) -> tuple[int, int]:
        """Count known raters' second ratings of a clip on an axis, and those with equal scores."""
        columns = {"rater": self.rater, "axis": self.axis, "clip": self.clip, "score": self.score}
        frame = pd.DataFrame(columns)[self.rater >= 0]
        again = frame.duplicated(["rater", "axis", "clip"])
        return int(again.sum()), int(frame.duplicated().sum())


@dataclass(frozen=True)
class Labels:
    """Mean opinion scores of C clips on A axes, with the single ratings where they are known.

    Attributes:
        axes: the A axes.
        mean: [C, A] float64, NaN where a clip has no rating on an axis.
        count: [C, A] int32 ratings behind each mean; 0 where not known.
        stderr: [C, A] float64 standard error of the mean (sample deviation over the square root
            of the count); NaN where fewer than two ratings are known.
        ratings: the single ratings, or None where only means are known.
    """

    axes: tuple[Axis, ...]
    mean: npt.NDArray[np.float64]
    count: npt.NDArray[np.int32]
    stderr: npt.NDArray[np.float64]
    ratings: Ratings | None = None

    @property
    def spread(self) -> npt.NDArray[np.float64]:
        """Ratings behind each mean, and their variance around it [C, A, 2]; NaN where not known."""
        several = self.stderr**2 * (self.count - 1)
        variance = np.where(self.count == 1, 0.0, np.where(self.count > 1, several, np.nan))
        return np.stack([np.where(np.isfinite(variance), self.count, np.nan), variance], 2)

    def axis_index(self, name: str) -> int:
        """Return the column of axis ``name``; a KeyError names those there are."""
        names = [axis.name for axis in self.axes]
        if name not in names:
            raise KeyError(f"no axis {name!r}; there are: {', '.join(names)}{nearest(name, names)}")
        return names.index(name)


@dataclass(frozen=True)
class Published:
    """What is published about a set, to be checked on import; absent or 0: not checked.

    Attributes:
        clips: split -> number of clips.
        systems: number of systems.
        ratings_a_clip: ratings of each clip on each axis.
        steps: axis -> the means are multiples of this from the axis' low end.
    """

    clips: Mapping[str, int] = field(default_factory=dict)
    systems: int = 0
    ratings_a_clip: int = 0
    steps: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """A rated set of clips.

    Attributes:
        name: as on the command line.
        clips: one row a clip, columns ``CLIP_COLUMNS``; ``path`` is absolute.
        labels: of the same rows; no axes for a set without ratings.
        synthetic: made by a program, ratings included: every table says so.
        license: under which the audio and ratings may be used; empty where not known.
        source: where to get them; empty where not known.
        notes: facts a table must carry (for example what the split shares), a line each.
        system_scores: published system-level truth, a score an axis (NaN: not published); empty
            where the mean over a system's clips is the truth.
        published: what the loaded set is checked against.
        group_kind: what a group is, in a word (``prompt``, ``song``, ``speaker``); empty where not
            known.
    """

    name: str
    clips: pd.DataFrame
    labels: Labels
    synthetic: bool = False
    license: str = ""
    source: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)
    system_scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    published: Published = field(default_factory=Published)
    group_kind: str = ""


def labels_from_means(
    axes: tuple[Axis, ...], mean: npt.NDArray[np.float64], count: int = 0
) -> Labels:
    """Labels where only means [C, A] are known, each of ``count`` ratings (0: not known)."""
    counts = np.where(np.isfinite(mean), count, 0).astype(np.int32)
    return Labels(axes, mean, counts, np.full_like(mean, np.nan))


def labels_from_ratings(axes: tuple[Axis, ...], num_clips: int, ratings: Ratings) -> Labels:
    """Average single ratings into means, counts and standard errors [num_clips, A]."""
    shape = (num_clips, len(axes))
    cell = ratings.clip.astype(np.int64) * len(axes) + ratings.axis
    size = num_clips * len(axes)
    count = np.bincount(cell, minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(cell, weights=ratings.score, minlength=size) / count
        squares = np.bincount(cell, weights=(ratings.score - mean[cell]) ** 2, minlength=size)
        stderr = np.where(count > 1, np.sqrt(squares / (count - 1) / count), np.nan)
    return Labels(
        axes,
        mean.reshape(shape),
        count.astype(np.int32).reshape(shape),
        stderr.reshape(shape),
        ratings,
    )


def select_axes(labels: Labels, names: Sequence[str]) -> Labels:
    """Keep the axes of these names, one that is named twice once; all for none.

    Raises:
        OptionError: there is no such axis.
        QamroError: there is none at all.
    """
    if not labels.axes:
        raise QamroError("the cache has no labels; use --labels FILE")
    try:
        columns = [labels.axis_index(name) for name in dict.fromkeys(names)]
    except KeyError as error:
        raise OptionError(str(error.args[0])) from error
    columns = columns or list(range(len(labels.axes)))
    ratings = labels.ratings
    if ratings is not None and columns != list(range(len(labels.axes))):
        place = np.full(len(labels.axes), -1, np.int16)
        place[columns] = np.arange(len(columns))
        keep = place[ratings.axis] >= 0
        ratings = Ratings(
            ratings.clip[keep],
            place[ratings.axis[keep]],
            ratings.rater[keep],
            ratings.score[keep],
            ratings.raters,
        )
    return Labels(
        tuple(labels.axes[column] for column in columns),
        labels.mean[:, columns],
        labels.count[:, columns],
        labels.stderr[:, columns],
        ratings,
    )


def select_labels(labels: Labels, rows: npt.NDArray[np.int64]) -> Labels:
    """Keep the labels of ``rows``, in that order; -1 makes a row without labels.

    Single ratings are kept; no row but -1 may be named twice.
    """
    have = rows >= 0

    def pick(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        taken = np.full((len(rows), values.shape[1]), np.nan)
        taken[have] = values[rows[have]]
        return taken

    count = np.zeros((len(rows), labels.count.shape[1]), np.int32)
    count[have] = labels.count[rows[have]]
    ratings = labels.ratings
    if ratings is not None:
        new_row = np.full(len(labels.mean), -1, np.int32)
        new_row[rows[have]] = np.flatnonzero(have).astype(np.int32)
        keep = new_row[ratings.clip] >= 0
        ratings = Ratings(
            new_row[ratings.clip[keep]],
            ratings.axis[keep],
            ratings.rater[keep],
            ratings.score[keep],
            ratings.raters,
        )
    return Labels(labels.axes, pick(labels.mean), count, pick(labels.stderr), ratings)


def select_clips(dataset: Dataset, rows: npt.NDArray[np.int64]) -> Dataset:
    """Keep the clips in ``rows``, in that order, ratings included."""
    return replace(
        dataset,
        clips=dataset.clips.iloc[rows].reset_index(drop=True),
        labels=select_labels(dataset.labels, rows),
    )
