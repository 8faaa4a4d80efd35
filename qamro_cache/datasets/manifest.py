"""``--manifest clips.csv``: anybody's own listening test."""

import os

import numpy as np
import numpy.typing as npt

from qamro_cache.datasets.assemble import group_rows, labels_of_rows
from qamro_cache.datasets.records import CLIP_COLUMNS, Axis, Dataset
from qamro_cache.datasets.tables import Text, numbers, read_table, text, without_doubles
from qamro_cache.errors import QamroError
from qamro_cache.files import PathLike, as_path

#: Scales that listening tests use; the first that holds every score is taken.
_SCALES = ((1.0, 5.0), (0.0, 1.0), (0.0, 10.0), (0.0, 100.0))


def load_manifest(path: PathLike, data_dir: PathLike | None = None) -> Dataset:
    """Read a comma-separated list of clips and ratings.

    Args:
        path: a UTF-8 file with a header. Columns ``clip_id`` and ``path``; optionally ``system``,
            ``prompt``, ``split``, ``group``, ``rater``; every other column is an axis of numbers
            (empty: not rated). With a ``rater`` column several rows may rate one clip; rows with
            the same in every cell count once.
        data_dir: folder that relative audio paths start from; None: the manifest's own.

    Raises:
        QamroError: one line with the file, the row and what to do.
    """
    path = as_path(path, "a manifest")
    frame = without_doubles(read_table(path, file_names=("clip_id", "path")), path)
    for required in ("clip_id", "path"):
        if required not in frame.columns:
            raise QamroError(
                f"{path}, row 1: there is no column {required!r} "
                f"(columns: {', '.join(map(str, frame.columns))}); add it"
            )
    if frame.empty:
        raise QamroError(f"{path}, row 2: there are no clips; add a row for each")
    columns: dict[str, Text] = {
        name: text(frame, name) for name in CLIP_COLUMNS if name in frame.columns
    }
    raters = text(frame, "rater") if "rater" in frame.columns else None
    row_numbers = frame.index.to_numpy(dtype=np.int64)
    rows = group_rows(columns, str(path), row_numbers, raters=raters is not None)
    no_path = np.flatnonzero(columns["path"] == "")
    if len(no_path):
        raise QamroError(f"{path}, row {row_numbers[no_path[0]]}: path is empty; name the file")
    names = [str(name) for name in frame.columns if name not in (*CLIP_COLUMNS, "rater")]
    scores = [numbers(frame, name, path) for name in names]
    axes = tuple(guess_axis(name, score) for name, score in zip(names, scores, strict=True))
    labels = labels_of_rows(rows, axes, scores, raters)
    # Links stay as they are.
    start = os.path.join(os.path.abspath(data_dir or path.parent), "")  # noqa: PTH100, PTH118
    clips = rows.clips
    # Plain strings, not Path objects: a million of them are made here.
    clips["path"] = [name if name.startswith("/") else start + name for name in clips["path"]]
    notes = tuple(
        f"scale of {axis.name}: {axis.low:g} to {axis.high:g}, guessed from the scores seen"
        for axis in axes
    )
    return Dataset(path.stem, clips, labels, notes=notes)


def guess_axis(name: str, scores: npt.NDArray[np.float64]) -> Axis:
    """Make an axis with the usual scale that holds all scores, or else with their range."""
    if not np.isfinite(scores).any():
        return Axis(name, *_SCALES[0], guessed=True)
    low, high = float(np.nanmin(scores)), float(np.nanmax(scores))
    for scale in _SCALES:
        if scale[0] <= low and high <= scale[1]:
            return Axis(name, *scale, guessed=True)
    return Axis(name, low, high, guessed=True)
