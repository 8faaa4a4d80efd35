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
from qamro_cache.datasets.records import Axis, Labels, select_labels
from qamro_cache.errors import QamroError
from qamro_cache.paths import PathLike, as_path

logger = logging.getLogger("qamro_cache")

#: Columns of a cache's clips that belong to its labels and may be replaced with them.
REPLACED = ("system", "group", "split", "reference")


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
    at = _place(table, clip_ids)
    return select_labels(table.labels({}, axes), at)


def load_rated(path: PathLike, columns: Sequence[str] = ()) -> tuple[pd.DataFrame, Labels]:
    """Read a label file by itself: its clips (``CLIP_COLUMNS``, in its order) and their labels.

    Args:
        path: as for ``load_labels``.
        columns: what columns are, for example ``clip_id=name``.

    Raises:
        QamroError: as ``load_labels``, or a file without a clip.
    """
    table = _read(path, columns)
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
        path: as for ``load_labels``. Columns ``system``, ``group``, ``split`` and ``reference``,
            where there, replace those of the clips that the file names; without any axis the
            scores stay.
        clips: [C] of the cache, with ``clip_id``.
        labels: of the same rows.
        columns: what columns are, for example ``clip_id=name``.
        axes: the only ones that are of use, where the file has them.
        scale: of axes, for example ``quality=0:100``.

    Returns:
        New clips and labels; the arguments are not changed.

    Raises:
        QamroError: as ``load_labels``, or a file with nothing to replace.
    """
    scales = parse_scales(scale)
    table = _read(path, columns, axes, alone=False)
    replaced = [name for name in REPLACED if name in table.fields]
    if not table.scores and not replaced:
        raise QamroError(
            f"{path}, row 1: there is nothing to replace; add a column of scores, or of "
            f"{', '.join(REPLACED)}"
        )
    at = _place(table, list(clips["clip_id"]))
    clips = clips.copy()
    for name in replaced:
        values = clips[name].to_numpy(dtype=object).copy()
        values[at >= 0] = table.rows.clips[name].to_numpy(dtype=object)[at[at >= 0]]
        clips[name] = values
    if "reference" in replaced:
        clips["reference"] = resolved_references(clips, str(path))
    if replaced:
        logger.info("%s: replaces %s of %d clips", path, ", ".join(replaced), int((at >= 0).sum()))
    if not table.scores:
        return clips, with_scales(labels, scales, list(clips["clip_id"]))
    return clips, select_labels(table.labels(scales, labels.axes), at)


def _read(
    path: PathLike, columns: Sequence[str] = (), axes: Sequence[str] = (), *, alone: bool = True
) -> RatedTable:
    """Read a label file; ``alone``: one that must have scores."""
    path = as_path(path, "a label file")
    fields = ("clip_id", *REPLACED)
    table = read_rated(path, ("clip_id",), columns=columns, axes=axes, fields=fields, strict=False)
    if alone and not table.scores:
        raise QamroError(f"{path}, row 1: there is no axis; add a column of scores")
    return table


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
