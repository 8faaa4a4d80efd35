"""Labels for clips that exist already: another file's ratings on a cache's clips."""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.axes import with_scales
from qamro_cache.datasets.ids import match_ids, resolved_references
from qamro_cache.datasets.options import parse_scales
from qamro_cache.datasets.rated import RatedTable, read_rated
from qamro_cache.datasets.records import Labels, select_labels
from qamro_cache.errors import QamroError, quoted
from qamro_cache.paths import PathLike, as_path

logger = logging.getLogger("qamro_cache")

#: Columns of a cache's clips that belong to its labels and may be replaced with them.
REPLACED = ("system", "group", "split", "reference", "source")


def load_rated(path: PathLike, columns: Sequence[str] = ()) -> tuple[pd.DataFrame, Labels]:
    """Read a label file by itself: its clips (``CLIP_COLUMNS``, in its order) and their labels.

    Args:
        path: as for `relabel`.
        columns: what columns are, for example ``clip_id=name``.

    Raises:
        QamroError: a file that is not of this form, without a column of scores, or without a clip.
    """
    table = _read(path, columns)
    if not table.scores:
        raise QamroError(f"{path}, row 1: there is no axis; add a column of scores")
    clips = table.rows.clips
    if clips.empty:
        raise QamroError(f"{path}, row 2: there are no clips; add a row for each")
    return clips, table.labels({})


def relabel(
    path: PathLike,
    clips: pd.DataFrame,
    labels: Labels,
    *,
    columns: Sequence[str] = (),
    axes: Sequence[str] = (),
    scale: Sequence[str] = (),
) -> tuple[pd.DataFrame, Labels]:
    """Replace what a label file says about the clips of a cache; features stay as they are.

    Args:
        path: ``clip_id``, optionally ``rater``, and a column an axis; a clip that is not named gets
            no label. Columns ``system``, ``group``, ``split``, ``reference`` and ``source``, where
            there, replace those of the clips named (one without a word in any cell says nothing;
            where single cells are empty, a warning counts what is lost); without any axis the
            scores stay. An id may
            leave out ``.wav`` and the like. Other columns that manifests have are not used.
        clips: [C] of the cache, with ``clip_id``.
        labels: of the same rows; an axis of the same name keeps its scale if that holds the scores.
        columns: what columns are, for example ``clip_id=name``.
        axes: the only ones that are of use, where the file has them.
        scale: of axes, for example ``quality=0:100``.

    Returns:
        New clips and labels; the arguments are not changed.

    Raises:
        QamroError: a file that is not of this form, names none of the clips, has nothing to
            replace, or columns of scores without any.
    """
    scales = parse_scales(scale)
    table = _read(path, columns, axes)
    # A column without a word says nothing: spreadsheets keep the columns that nobody filled.
    replaced = [n for n in REPLACED if n in table.fields and (table.rows.clips[n] != "").any()]
    if not table.scores and not replaced:
        raise QamroError(
            f"{path}, row 1: there is nothing to replace; add a column of scores, or of "
            f"{', '.join(REPLACED)}"
        )
    at = _place(table, list(clips["clip_id"]))
    if table.scores and all(np.isnan(score).all() for score in table.scores.values()):
        raise QamroError(
            f"{path}: no row has a score ({', '.join(table.scores)}), and labels would be lost; "
            "fill the column, or take it out"
        )
    clips = clips.copy()
    for name in replaced:
        clips[name] = _replaced(table, clips, name, at)
    if "reference" in replaced:
        clips["reference"] = resolved_references(clips, str(path))
    if replaced:
        logger.info("%s: replaces %s of %d clips", path, ", ".join(replaced), int((at >= 0).sum()))
    if not table.scores:
        return clips, with_scales(labels, scales, list(clips["clip_id"]))
    return clips, select_labels(table.labels(scales, labels.axes), at)


def _replaced(
    table: RatedTable, clips: pd.DataFrame, name: str, at: npt.NDArray[np.int64]
) -> npt.NDArray[np.object_]:
    """[C] a column of the clips with the table's cells, and a warning of what is lost by that."""
    before = clips[name].to_numpy(dtype=object)
    values = before.copy()
    values[at >= 0] = table.rows.clips[name].to_numpy(dtype=object)[at[at >= 0]]
    lost = np.flatnonzero((values == "") & (before != ""))
    if len(lost):
        logger.warning(
            "%s: %d clips lose their %s, which is empty there (%s had %s); fill the cells, or take "
            "the column out to keep all",
            table.path,
            len(lost),
            name,
            clips["clip_id"].iloc[int(lost[0])],
            quoted(before[lost[0]]),
        )
    return values


def _read(path: PathLike, columns: Sequence[str], axes: Sequence[str] = ()) -> RatedTable:
    path, need = as_path(path, "a label file"), ("clip_id",)
    fields = (*need, *REPLACED)
    return read_rated(path, need, columns=columns, axes=axes, fields=fields, strict=False)


def _place(table: RatedTable, clip_ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """[C] the table's clip for each id; -1 for none."""
    path, names = table.path, list(table.rows.clips["clip_id"])
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
