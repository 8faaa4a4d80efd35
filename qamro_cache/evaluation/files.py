"""Predictions and labels as people have them on disk, for `evaluate`."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from qamro_cache.cache.reader import CacheLike, open_cache
from qamro_cache.datasets.answer_zip import is_zip
from qamro_cache.datasets.answers import TRACK_AXES, read_answer, read_answer_list
from qamro_cache.datasets.ids import clean_ids
from qamro_cache.datasets.json_lines import json_objects
from qamro_cache.datasets.labels import load_rated
from qamro_cache.datasets.other_tables import read_other
from qamro_cache.datasets.records import Dataset
from qamro_cache.datasets.registry import group_kind
from qamro_cache.datasets.tables import numbers, read_table, repeated, text
from qamro_cache.errors import QamroError, words_of
from qamro_cache.paths import as_path, title_of

#: Columns of predictions that may hold names of files: a system is its folder, a reason names them.
FILE_NAMES = ("clip_id", "system", "reason")


def is_table(labels: object) -> bool:
    """Return whether labels are named as a person's table is, and not a cache."""
    return isinstance(labels, str | os.PathLike) and as_path(labels).suffix not in (".h5", ".hdf5")


def read_truth(labels: CacheLike, columns: Sequence[str] = ()) -> Dataset:
    """Read labels to score against from a cache, or from a table (see `evaluate`)."""
    if isinstance(labels, str | os.PathLike) and is_table(labels):
        return Dataset(title_of(as_path(labels)), *load_rated(labels, columns))
    cache = open_cache(labels)
    kind = group_kind(cache.dataset)
    return Dataset(cache.dataset, cache.clips, cache.labels, cache.synthetic, group_kind=kind)


def predictions_file(path: Path) -> Path:
    """Return the file of predictions; that of a folder is the run's of qamro-train in it."""
    if not path.is_dir():
        return path
    if (path / "predictions.csv").is_file():
        return path / "predictions.csv"
    raise QamroError(f"{path} is a folder without predictions.csv; name a run of qamro-train")


def name_of(predictions: Path | pd.DataFrame) -> Path:
    """Return what a message calls predictions by: their file."""
    return predictions if isinstance(predictions, Path) else Path("the table of predictions")


def read_predictions(
    predictions: Path | pd.DataFrame, answer_list: Path | None = None
) -> pd.DataFrame:
    """Read predictions as one row a clip, axis and seed: clip_id, axis, seed, prediction, ...

    Where no column says the axis or the seed, they are empty.

    Args:
        predictions: see `evaluate`.
        answer_list: see `evaluate`.

    Raises:
        QamroError: a column is missing, a clip is twice in one axis and seed, or a prediction is
            no number.
    """
    path = name_of(predictions)
    if path.suffix.lower() == ".txt" or is_zip(path):
        answer = read_answer(path, None if answer_list is None else read_answer_list(answer_list))
        parts = [
            pd.DataFrame(
                {"clip_id": answer.clip_ids, "axis": axis, "seed": "", "prediction": scores}
            )
            for axis, scores in zip(TRACK_AXES[answer.track], answer.scores.T, strict=True)
        ]
        return pd.concat(parts, ignore_index=True)
    if answer_list is not None:
        raise QamroError(f"{path}: a list is for an answer.txt; leave it out for a predictions.csv")
    if isinstance(predictions, Path) and path.suffix.lower() == ".jsonl":
        frame = _json_lines(path)
    elif isinstance(predictions, Path):
        frame = read_scores(path)
    else:
        frame = _as_text(predictions)
    for required in ("clip_id", "prediction"):
        if required not in frame.columns:
            raise QamroError(
                f"{path}, row 1: there is no column {required!r} "
                f"(columns: {', '.join(map(str, frame.columns))}); give a table with clip_id, "
                "prediction and, of several axes, axis, or an answer.txt"
            )
    if frame.empty:
        raise QamroError(f"{path}, row 2: there are no predictions; predict some clips first")
    table = pd.DataFrame({name: text(frame, name) for name in frame.columns})
    table["prediction"] = numbers(frame, "prediction", path)
    for name in ("axis", "seed"):
        table[name] = clean_ids(text(table, name), name, str(path)) if name in table else ""
    twice = repeated(table[["clip_id", "axis", "seed"]])
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        clip_id, axis = table["clip_id"].iloc[row], table["axis"].iloc[row]
        raise QamroError(
            f"{path}, row {frame.index[row]}: clip {clip_id!r} has a prediction"
            f"{f' on {axis!r}' if axis else ''} already; keep one a clip, axis and seed"
        )
    return table


def read_scores(path: Path) -> pd.DataFrame:
    """Read a table of scores as text, its rows as `read_table` numbers them: CSV or parquet.

    Raises:
        QamroError: it cannot be read.
    """
    frame = read_other(path, lambda name: name in ("clip_id", "axis", "seed", "prediction"))
    return read_table(path, file_names=FILE_NAMES) if frame is None else frame


def _json_lines(path: Path) -> pd.DataFrame:
    """Return the table that `predict` writes as JSON lines; its first row is row 1."""
    try:
        rows = dict(json_objects(path))
    except OSError as error:
        raise QamroError(f"{path} cannot be read: {words_of(error)}") from error
    return _as_text(pd.DataFrame(list(rows.values()), dtype=object)).set_axis(list(rows))


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as `read_table` reads it back from a file: text, empty where missing."""
    cells = table.astype(object)
    frame = cells.map(str).where(cells.notna(), "")
    return frame.set_axis(pd.RangeIndex(2, len(frame) + 2))
