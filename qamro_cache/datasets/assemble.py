"""From rows as people write them (a row a rating, or a row a clip) to a Dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.ids import clean_ids
from qamro_cache.datasets.records import (
    CLIP_COLUMNS,
    Axis,
    Labels,
    Ratings,
    labels_from_means,
    labels_from_ratings,
)
from qamro_cache.datasets.tables import Text, factorize
from qamro_cache.errors import QamroError, Together, at_rows

#: Of the columns of a clip, those that hold names.
ID_COLUMNS = ("clip_id", "system", "group", "split", "reference", "source")


@dataclass(frozen=True)
class ClipRows:
    """Rows of a table, grouped by clip.

    Attributes:
        clips: a row a clip, in the order of first appearance; columns ``CLIP_COLUMNS``.
        code: [R] the clip of each row.
        first: [C] the first row of each clip.
        where: the file, for messages.
    """

    clips: pd.DataFrame
    code: npt.NDArray[np.intp]
    first: npt.NDArray[np.intp]
    where: str


def group_rows(
    columns: Mapping[str, Text], where: str, row_numbers: npt.NDArray[np.int64], *, raters: bool
) -> ClipRows:
    """Find the clips in rows that name them, by names that are clean from here on.

    Args:
        columns: ``clip_id`` and any other of ``CLIP_COLUMNS``, [R] str each.
        where: the file, for messages.
        row_numbers: [R] the rows' numbers in that file.
        raters: several rows may describe one clip, a rater each.

    Raises:
        QamroError: an empty id; a clip twice without raters; rows of one clip that disagree.
    """
    columns = {
        name: clean_ids(values, name, where) if name in ID_COLUMNS else values
        for name, values in columns.items()
        if name in CLIP_COLUMNS
    }
    if "clip_id" not in columns:
        raise QamroError(f"{where}, row 1: there is no column 'clip_id'; name each row's clip")
    ids = columns["clip_id"]
    empty = np.flatnonzero(ids == "")
    mistakes = Together()
    with mistakes:
        if len(empty):
            rows = at_rows(where, row_numbers[empty])
            raise QamroError(f"{rows}clip_id is empty; give the clip a name")
    code, names = factorize(ids)
    first = np.full(len(names), len(ids), np.intp)
    np.minimum.at(first, code, np.arange(len(ids)))
    again = np.flatnonzero((first[code] != np.arange(len(ids))) & (ids != ""))
    with mistakes:
        if not raters and len(again):
            raise QamroError(
                f"{at_rows(where, row_numbers[again])}clip_id {ids[again[0]]!r} is already in row "
                f"{row_numbers[int(first[code[again[0]]])]}; remove one, or name each row's rater "
                "in a column `rater`"
            )
    clips = {}
    for name in CLIP_COLUMNS:
        values = columns.get(name)
        if values is None:
            clips[name] = np.full(len(names), "", object)
            continue
        clips[name] = values[first]
        if len(names) == len(ids):
            continue
        differs = np.flatnonzero((values != clips[name][code]) & (ids != ""))
        with mistakes:
            if raters and len(differs):
                row = int(differs[0])
                raise QamroError(
                    f"{at_rows(where, row_numbers[differs])}clip {ids[row]!r} has {name} "
                    f"{values[row]!r} here and {clips[name][code[row]]!r} in row "
                    f"{row_numbers[int(first[code[row]])]}; make them the same"
                )
    mistakes.tell()
    frame = pd.DataFrame({name: pd.Series(clips[name], dtype=object) for name in CLIP_COLUMNS})
    return ClipRows(frame, code, first, where)


def labels_of_rows(
    rows: ClipRows,
    axes: tuple[Axis, ...],
    scores: Sequence[npt.NDArray[np.float64]],
    raters: Text | None,
    count: int = 0,
) -> Labels:
    """Labels from one score column an axis.

    Args:
        rows: which clip each row is of.
        axes: the A axes.
        scores: A arrays [R], NaN where a row says nothing about the axis.
        raters: [R] who rated in each row ("" where not known); None: a row is a clip's mean.
        count: ratings behind such a mean; 0 where not known.
    """
    num_clips = len(rows.clips)
    if raters is None:
        mean = np.full((num_clips, len(axes)), np.nan)
        for index, score in enumerate(scores):
            known = np.isfinite(score)
            mean[rows.code[known], index] = score[known]
        return labels_from_means(axes, mean, count)
    rater, names = rater_codes(raters, rows.where)
    parts = [np.flatnonzero(np.isfinite(score)) for score in scores]
    at = np.concatenate([*parts, np.zeros(0, np.intp)]).astype(np.intp)
    axis = np.repeat(np.arange(len(axes)), [len(part) for part in parts])
    values = np.concatenate([*(s[p] for s, p in zip(scores, parts, strict=True)), np.zeros(0)])
    return labels_from_ratings(
        axes,
        num_clips,
        Ratings(
            rows.code[at].astype(np.int32),
            axis.astype(np.int16),
            rater[at],
            values,
            names,
        ),
    )


def rater_codes(raters: Text, where: str) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """Return each row's rater as a number (sorted names; -1 for "", not known) and the names."""
    code, names = factorize(clean_ids(raters, "rater", where))
    order = sorted((str(name), index) for index, name in enumerate(names) if name != "")
    number = np.full(len(names), -1, np.int32)
    for new, (_, old) in enumerate(order):
        number[old] = new
    return number[code], tuple(name for name, _ in order)
