"""Labels for clips that exist already: another file's ratings on a cache's clips."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.assemble import ClipRows, group_rows, labels_of_rows
from qamro_cache.datasets.ids import match_ids
from qamro_cache.datasets.manifest import guess_axis
from qamro_cache.datasets.records import CLIP_COLUMNS, Axis, Labels, select_labels
from qamro_cache.datasets.tables import Text, numbers, read_table, text, without_doubles
from qamro_cache.errors import QamroError
from qamro_cache.files import PathLike, as_path

logger = logging.getLogger("qamro_cache")

#: Columns of a cache's clips that belong to its labels and may be replaced with them.
REPLACED = ("system", "group", "split")


def load_labels(path: PathLike, clip_ids: Sequence[str], axes: tuple[Axis, ...] = ()) -> Labels:
    """Read a label file and put it in the order of the clips of a cache.

    Args:
        path: a manifest, or less: ``clip_id``, optionally ``rater``, and one column an axis. Its
            other known columns are not used. An id may leave out ``.wav`` and the like.
        clip_ids: [C] the clips that get labels; one that the file does not name gets none.
        axes: axes known already; one of the same name keeps its scale if that holds the scores.

    Returns:
        Labels of C rows.

    Raises:
        QamroError: a file that is not of this form, or that names none of the clips.
    """
    table = _read(path)
    if not table.axes:
        raise QamroError(f"{path}, row 1: there is no axis; add a column of scores")
    return _labels(table, _place(table, clip_ids), axes)


def load_rated(path: PathLike) -> tuple[pd.DataFrame, Labels]:
    """Read a label file by itself: its clips (``CLIP_COLUMNS``, in its order) and their labels.

    Raises:
        QamroError: as ``load_labels``, or a file without a clip.
    """
    table = _read(path)
    if not table.axes:
        raise QamroError(f"{path}, row 1: there is no axis; add a column of scores")
    clips = table.grouped.clips
    if clips.empty:
        raise QamroError(f"{path}, row 2: there are no clips; add a row for each")
    return clips, _labels(table, np.arange(len(clips)), ())


def relabel(path: PathLike, clips: pd.DataFrame, labels: Labels) -> tuple[pd.DataFrame, Labels]:
    """Replace what a label file says about the clips of a cache; features stay as they are.

    Args:
        path: as for ``load_labels``. Columns ``system``, ``group`` and ``split``, where there,
            replace those of the clips that the file names; without any axis the scores stay.
        clips: [C] of the cache, with ``clip_id``.
        labels: of the same rows.

    Returns:
        New clips and labels; the arguments are not changed.

    Raises:
        QamroError: as ``load_labels``, or a file with nothing to replace.
    """
    table = _read(path)
    columns = [name for name in REPLACED if name in table.columns]
    if not table.axes and not columns:
        raise QamroError(
            f"{path}, row 1: there is nothing to replace; add a column of scores, or of "
            f"{', '.join(REPLACED)}"
        )
    at = _place(table, list(clips["clip_id"]))
    clips = clips.copy()
    for name in columns:
        values = clips[name].to_numpy(dtype=object).copy()
        values[at >= 0] = table.grouped.clips[name].to_numpy(dtype=object)[at[at >= 0]]
        clips[name] = values
    if columns:
        logger.info("%s: replaces %s of %d clips", path, ", ".join(columns), int((at >= 0).sum()))
    return clips, _labels(table, at, labels.axes) if table.axes else labels


@dataclass(frozen=True)
class _LabelFile:
    path: Path
    columns: dict[str, Text]
    raters: Text | None
    grouped: ClipRows
    axes: list[str]
    scores: list[npt.NDArray[np.float64]]


def _read(path: PathLike) -> _LabelFile:
    path = as_path(path, "a label file")
    frame = without_doubles(read_table(path, file_names=("clip_id", "path")), path)
    if "clip_id" not in frame.columns:
        there = ", ".join(map(str, frame.columns))
        raise QamroError(f"{path}, row 1: there is no column 'clip_id' (columns: {there}); add it")
    columns = {name: text(frame, name) for name in ("clip_id", *REPLACED) if name in frame.columns}
    raters = text(frame, "rater") if "rater" in frame.columns else None
    row_numbers = frame.index.to_numpy(dtype=np.int64)
    grouped = group_rows(columns, str(path), row_numbers, raters=raters is not None)
    axes = [str(name) for name in frame.columns if name not in (*CLIP_COLUMNS, "rater")]
    scores = [numbers(frame, name, path) for name in axes]
    return _LabelFile(path, columns, raters, grouped, axes, scores)


def _labels(table: _LabelFile, at: npt.NDArray[np.int64], axes: tuple[Axis, ...]) -> Labels:
    known = {axis.name: axis for axis in axes}
    made = tuple(
        _axis(known.get(name), guess_axis(name, score), score)
        for name, score in zip(table.axes, table.scores, strict=True)
    )
    labels = labels_of_rows(table.grouped, made, table.scores, table.raters)
    return select_labels(labels, at)


def _place(table: _LabelFile, clip_ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """[C] the table's clip for each id; -1 for none."""
    path, names = table.path, list(table.grouped.clips["clip_id"])
    at = match_ids(names, clip_ids)
    if len(at) and (at < 0).all():
        raise QamroError(
            f"{path}: names none of the {len(clip_ids)} clips (the first here is "
            f"{names[0] if names else 'nothing'!r}, there {clip_ids[0]!r}); "
            "use the clip ids of the cache"
        )
    if (at < 0).any():
        logger.warning("%s: nothing about %d of %d clips", path, int((at < 0).sum()), len(at))
    unused = len(names) - len(set(at[at >= 0].tolist()))
    if unused:
        logger.warning("%s: %d of its clips are not in the cache", path, unused)
    return at


def _axis(known: Axis | None, guessed: Axis, scores: npt.NDArray[np.float64]) -> Axis:
    finite = scores[np.isfinite(scores)]
    if known is None or (
        len(finite) and not known.low <= finite.min() <= finite.max() <= known.high
    ):
        return guessed
    return known
