"""Predictions and labels as people have them on disk, for `evaluate`."""

from pathlib import Path

import numpy as np
import pandas as pd

from qamro_cache.cache.reader import CacheLike, open_cache
from qamro_cache.datasets.answers import TRACK_AXES, read_answer, read_answer_list
from qamro_cache.datasets.labels import load_rated
from qamro_cache.datasets.records import Dataset
from qamro_cache.datasets.tables import numbers, read_table, repeated, text
from qamro_cache.errors import QamroError


def read_truth(labels: CacheLike) -> Dataset:
    """Read labels to score against from a cache, or from a CSV (see `evaluate`)."""
    if isinstance(labels, str | Path) and Path(labels).suffix not in (".h5", ".hdf5"):
        return Dataset(Path(labels).stem, *load_rated(Path(labels)))
    cache = open_cache(labels)
    return Dataset(cache.dataset, cache.clips, cache.labels, cache.synthetic)


def read_predictions(path: Path, answer_list: Path | None = None) -> pd.DataFrame:
    """Read predictions as one row a clip, axis and seed: clip_id, axis, seed, prediction, ...

    Where no column says the axis or the seed, they are empty.

    Args:
        path: see `evaluate`.
        answer_list: see `evaluate`.

    Raises:
        QamroError: a column is missing, a clip is twice in one axis and seed, or a prediction is
            no number.
    """
    if path.suffix == ".txt":
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
    # A reason names files, too.
    frame = read_table(path, file_names=("clip_id", "reason"))
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
        if name not in table:
            table[name] = ""
    twice = repeated(table[["clip_id", "axis", "seed"]])
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        clip_id, axis = table["clip_id"].iloc[row], table["axis"].iloc[row]
        raise QamroError(
            f"{path}, row {frame.index[row]}: clip {clip_id!r} has a prediction"
            f"{f' on {axis!r}' if axis else ''} already; keep one a clip, axis and seed"
        )
    return table
