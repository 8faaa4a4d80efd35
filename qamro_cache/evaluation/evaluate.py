"""Score a file of predictions against labels, of the same listening test or of another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache.datasets.answers import TRACK_AXES, read_answer
from qamro_cache.datasets.labels import load_labels, match_ids
from qamro_cache.datasets.records import CLIP_COLUMNS, Axis, Dataset, select_clips
from qamro_cache.datasets.tables import numbers, read_table, text
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.ceiling import split_half
from qamro_cache.evaluation.score import score


def evaluate(
    predictions: Path,
    labels: Path | Dataset,
    *,
    axis_map: Mapping[str, str] | None = None,
    split: str = "",
    resamples: int = 1000,
) -> dict[str, Any]:
    """Score predictions as the challenge does, with intervals and the raters' ceiling.

    Args:
        predictions: ``predictions.csv`` of qamro-train or qamro-predict (columns clip_id, axis,
            prediction, optionally seed and scale), or a challenge's ``answer.txt``.
        labels: the truth: a data set, a cache (``.h5``), or a CSV with clip_id, optionally system
            and split, and a column an axis.
        axis_map: predicted axis -> axis of the labels. Axes of the same name are compared when it
            is empty. A mapped axis is taken to be on another scale.
        split: score the clips of this split only; empty: all that were predicted.
        resamples: bootstrap draws of the intervals.

    Returns:
        ``axes``: for each axis of the labels what `score` returns, with ``predicted_axis``,
        ``ceiling`` (clip and system level, or None without single ratings); ``synthetic``;
        ``unpredicted`` and ``unlabelled``: clips that only one of the two has. JSON types.

    Raises:
        QamroError: the files do not fit each other.
    """
    truth = labels if isinstance(labels, Dataset) else read_truth(labels)
    table = read_predictions(predictions)
    clips = truth.clips
    rows = np.arange(len(clips))
    if split:
        rows = np.flatnonzero(clips["split"].to_numpy(str) == split)
        if len(rows) == 0:
            raise QamroError(
                f"no clip has the split {split!r}; there are: "
                f"{', '.join(sorted(set(clips['split']) - {''})) or 'none'}"
            )
    predicted = list(dict.fromkeys(table["clip_id"]))
    at = match_ids(predicted, list(clips["clip_id"].iloc[rows]))
    position = {predicted[place]: row for row, place in enumerate(at) if place >= 0}
    if not position:
        raise QamroError(
            f"{predictions}: none of its clips is in the labels: it has {predicted[0]!r}, they "
            f"have {clips['clip_id'].iloc[rows[0]]!r}; are these the labels of the same clips?"
        )
    systems = sorted(set(clips["system"]) - {""})
    number = {name: index for index, name in enumerate(systems)}
    system = np.array([number.get(name, -1) for name in clips["system"].iloc[rows]], np.int64)
    result: dict[str, Any] = {
        "dataset": truth.name,
        "synthetic": truth.synthetic,
        "unpredicted": len(rows) - len(position),
        "unlabelled": len(predicted) - len(position),
        "axes": {},
    }
    for theirs, ours in _pairs(table, truth, axis_map or {}, predictions).items():
        part = table[table["axis"] == theirs]
        index = truth.labels.axis_index(ours)
        axis = truth.labels.axes[index]
        scored = score(
            _by_seed(part, position, len(rows)),
            truth.labels.mean[rows, index],
            system,
            system_truth=_published(truth, systems, index),
            same_scale=theirs == ours and _same_scale(part, axis),
            resamples=resamples,
        )
        scored["predicted_axis"] = theirs
        scored["scale"] = [axis.low, axis.high]
        scored["far"] = int((part["far"].to_numpy(str) == "True").sum()) if "far" in part else None
        scored["ceiling"] = _ceilings(truth, rows, index, system)
        result["axes"][ours] = scored
    return result


def read_truth(path: Path) -> Dataset:
    """Read labels to score against from a cache, or from a CSV (see `evaluate`)."""
    if path.suffix in (".h5", ".hdf5"):
        from qamro_cache.cache.reader import open_cache

        cache = open_cache(path)
        return Dataset(cache.dataset, cache.clips, cache.labels, cache.synthetic)
    frame = read_table(path)
    if "clip_id" not in frame.columns:
        names = ", ".join(map(str, frame.columns))
        raise QamroError(f"{path}, row 1: there is no column 'clip_id' (columns: {names}); add it")
    first = frame.drop_duplicates("clip_id")
    clips = pd.DataFrame("", index=range(len(first)), columns=list(CLIP_COLUMNS))
    for name in set(CLIP_COLUMNS) & set(frame.columns):
        clips[name] = text(first, name)
    return Dataset(path.stem, clips, load_labels(path, list(clips["clip_id"])))


def read_predictions(path: Path) -> pd.DataFrame:
    """Read predictions as one row a clip, axis and seed: clip_id, axis, seed, prediction, ...

    Raises:
        QamroError: a column is missing, a clip is twice in one axis and seed, or a prediction is
            no number.
    """
    if path.suffix == ".txt":
        answer = read_answer(path)
        parts = [
            pd.DataFrame(
                {"clip_id": answer.clip_ids, "axis": axis, "seed": "", "prediction": scores}
            )
            for axis, scores in zip(TRACK_AXES[answer.track], answer.scores.T, strict=True)
        ]
        return pd.concat(parts, ignore_index=True)
    frame = read_table(path)
    for required in ("clip_id", "axis", "prediction"):
        if required not in frame.columns:
            raise QamroError(
                f"{path}, row 1: there is no column {required!r} "
                f"(columns: {', '.join(map(str, frame.columns))}); give a predictions.csv of "
                "qamro-train or qamro-predict, or an answer.txt"
            )
    table = pd.DataFrame({name: text(frame, name) for name in frame.columns})
    table["prediction"] = numbers(frame, "prediction", path)
    if "seed" not in table:
        table["seed"] = ""
    twice = table.duplicated(["clip_id", "axis", "seed"])
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        clip_id, axis = table["clip_id"].iloc[row], table["axis"].iloc[row]
        raise QamroError(
            f"{path}, row {frame.index[row]}: clip {clip_id!r} has a prediction on {axis!r} "
            "already; keep one a clip, axis and seed"
        )
    return table


def _pairs(
    table: pd.DataFrame, truth: Dataset, axis_map: Mapping[str, str], path: Path
) -> dict[str, str]:
    """Predicted axis -> axis of the labels."""
    predicted = list(dict.fromkeys(table["axis"]))
    there = [axis.name for axis in truth.labels.axes]
    pairs = dict(axis_map) or {name: name for name in predicted if name in there}
    for theirs, ours in pairs.items():
        for name, names, where in ((theirs, predicted, path), (ours, there, "the labels")):
            if name not in names:
                raise QamroError(f"{where}: no axis {name!r}; there are: {', '.join(names)}")
    if not pairs:
        raise QamroError(
            f"{path}: its axes ({', '.join(predicted)}) are not those of the labels "
            f"({', '.join(there)}); say which belong together with --axis-map PREDICTED=LABEL"
        )
    return pairs


def _by_seed(
    part: pd.DataFrame, position: Mapping[str, int], num_clips: int
) -> np.ndarray[Any, Any]:
    """Predictions [seeds, clips], NaN where a clip has none."""
    part = part[part["clip_id"].isin(position.keys())]
    seeds = {seed: row for row, seed in enumerate(dict.fromkeys(part["seed"]))}
    out = np.full((len(seeds), num_clips), np.nan)
    rows = part["seed"].map(seeds).to_numpy(np.int64)
    out[rows, part["clip_id"].map(position).to_numpy(np.int64)] = part["prediction"].to_numpy()
    return out


def _same_scale(part: pd.DataFrame, axis: Axis) -> bool:
    """Whether predictions say that they are on the labels' scale; those that say nothing do."""
    return "scale" not in part or set(part["scale"]) <= {"", f"{axis.low:g}..{axis.high:g}"}


def _published(truth: Dataset, systems: list[str], index: int) -> np.ndarray[Any, Any] | None:
    if not truth.system_scores:
        return None
    missing = [np.nan] * len(truth.labels.axes)
    return np.array([truth.system_scores.get(name, missing)[index] for name in systems])


def _ceilings(
    truth: Dataset, rows: np.ndarray[Any, Any], index: int, system: np.ndarray[Any, Any]
) -> dict[str, float] | None:
    """SRCC that a perfect predictor of these raters' opinion would reach."""
    labels = select_clips(truth, rows).labels
    clip = split_half(labels, index)
    if clip is None:
        return None
    result = {"clip_srcc": clip.ceiling}
    if (system >= 0).any():
        of_systems = split_half(labels, index, system)
        if of_systems is not None:
            result["system_srcc"] = of_systems.ceiling
    return result
