"""Score a file of predictions against labels, of the same listening test or of another."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache.datasets.answers import TRACK_AXES, read_answer, read_answer_list
from qamro_cache.datasets.ids import match_ids
from qamro_cache.datasets.labels import load_rated
from qamro_cache.datasets.records import Axis, Dataset, select_clips
from qamro_cache.datasets.tables import numbers, read_table, text
from qamro_cache.errors import QamroError

logger = logging.getLogger("qamro_cache")


def evaluate(
    predictions: Path,
    labels: Path | Dataset,
    *,
    axis_map: Mapping[str, str] | None = None,
    split: str = "",
    answer_list: Path | None = None,
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
        answer_list: the challenge's list of clips, which an ``answer.txt`` must match: ids, order
            and number.
        resamples: bootstrap draws of the intervals.

    Returns:
        ``axes``: for each axis of the labels what `score` returns, with ``predicted_axis``,
        ``ceiling`` (clip and system level, or None without single ratings), ``ood`` (how many of
        the clips scored are out of distribution for the head, None where not known) and
        ``published_systems`` (systems whose published score is the truth; the others' is the mean
        over the clips scored); ``synthetic``; ``unpredicted`` and ``unlabeled``: clips that only
        one of the two has (a row without a number is no prediction). JSON types.

    Raises:
        QamroError: the files do not fit each other.
    """
    truth = labels if isinstance(labels, Dataset) else read_truth(labels)
    table = read_predictions(predictions, answer_list)
    pairs = _pairs(table, truth, axis_map or {}, predictions)
    clips = truth.clips
    rows = np.arange(len(clips))
    if split:
        rows = np.flatnonzero(clips["split"].to_numpy(str) == split)
        if len(rows) == 0:
            raise QamroError(
                f"no clip has the split {split!r}; there are: "
                f"{', '.join(sorted(set(clips['split']) - {''})) or 'none'}"
            )
    empty = int(table["prediction"].isna().sum())
    table = table[table["prediction"].notna()]
    if empty:
        logger.warning("%s: %d rows have no prediction and are left out", predictions, empty)
    predicted = list(dict.fromkeys(table["clip_id"]))
    if not predicted:
        raise QamroError(f"{predictions}: no row has a prediction; see its column reason")
    at = match_ids(predicted, list(clips["clip_id"].iloc[rows]))
    position = {predicted[place]: row for row, place in enumerate(at) if place >= 0}
    if not position:
        raise QamroError(
            f"{predictions}: none of its clips is in the labels: it has {predicted[0]!r}, they "
            f"have {clips['clip_id'].iloc[rows[0]]!r}; are these the labels of the same clips?"
        )
    # Loads torch, which takes seconds: what is wrong with the files has been said by now.
    from qamro_cache.evaluation.score import score, warn_of_small_numbers

    systems = sorted(set(clips["system"]) - {""})
    number = {name: index for index, name in enumerate(systems)}
    system = np.array([number.get(name, -1) for name in clips["system"].iloc[rows]], np.int64)
    result: dict[str, Any] = {
        "dataset": truth.name,
        "synthetic": truth.synthetic,
        "unpredicted": len(rows) - len(position),
        "unlabeled": len(predicted) - len(position),
        "axes": {},
    }
    for theirs, ours in pairs.items():
        part = table[(table["axis"] == theirs) & table["clip_id"].isin(position.keys())]
        index = truth.labels.axis_index(ours)
        axis = truth.labels.axes[index]
        target, published = truth.labels.mean[rows, index], _published(truth, systems, index)
        scored_predictions = _by_seed(part, position, len(rows))
        judged = np.isfinite(scored_predictions).all(0)
        warn_of_small_numbers(ours, np.where(judged, target, np.nan), system)
        same_scale = theirs == ours and _same_scale(
            part, axis, target[part["clip_id"].map(position).to_numpy(np.int64)]
        )
        if same_scale and (off := axis.notice_outside(part["prediction"].to_numpy(np.float64))):
            logger.warning(off)
        scored = score(
            scored_predictions,
            target,
            system,
            system_truth=published,
            same_scale=same_scale,
            resamples=resamples,
        )
        scored["predicted_axis"] = theirs
        scored["scale"] = [axis.low, axis.high]
        scored["ood"] = int((part["ood"] == "True").sum()) if "ood" in part else None
        scored["published_systems"] = 0 if published is None else int(np.isfinite(published).sum())
        scored["ceiling"] = _ceilings(truth, rows, index, system)
        result["axes"][ours] = scored
    return result


def read_truth(path: Path) -> Dataset:
    """Read labels to score against from a cache, or from a CSV (see `evaluate`)."""
    if path.suffix in (".h5", ".hdf5"):
        from qamro_cache.cache.reader import open_cache

        cache = open_cache(path)
        return Dataset(cache.dataset, cache.clips, cache.labels, cache.synthetic)
    return Dataset(path.stem, *load_rated(path))


def read_predictions(path: Path, answer_list: Path | None = None) -> pd.DataFrame:
    """Read predictions as one row a clip, axis and seed: clip_id, axis, seed, prediction, ...

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
    # A clip may be called as its file, whose name need not be UTF-8.
    frame = read_table(path, any_bytes=True)
    for required in ("clip_id", "axis", "prediction"):
        if required not in frame.columns:
            raise QamroError(
                f"{path}, row 1: there is no column {required!r} "
                f"(columns: {', '.join(map(str, frame.columns))}); give a predictions.csv of "
                "qamro-train or qamro-predict, or an answer.txt"
            )
    if frame.empty:
        raise QamroError(f"{path}, row 2: there are no predictions; predict some clips first")
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
    if len(set(pairs.values())) < len(pairs):
        raise QamroError("an axis of the labels stands for two predicted ones; map them in turn")
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
    seeds = {seed: row for row, seed in enumerate(dict.fromkeys(part["seed"]))}
    out = np.full((len(seeds), num_clips), np.nan)
    rows = part["seed"].map(seeds).to_numpy(np.int64)
    out[rows, part["clip_id"].map(position).to_numpy(np.int64)] = part["prediction"].to_numpy()
    return out


def _same_scale(part: pd.DataFrame, axis: Axis, labels: np.ndarray[Any, Any]) -> bool:
    """Whether predictions are on the labels' scale; those that tell nothing are taken to be.

    Those of qamro-predict name their scale. Those of qamro-train hold the labels that they were
    held against; opinions of the same clips do not lie a quarter of the scale apart, units do.
    """
    if "scale" in part:
        return set(part["scale"]) <= {"", f"{axis.low:g}..{axis.high:g}"}
    if "target" not in part:
        return True
    apart = np.abs(pd.to_numeric(part["target"], errors="coerce").to_numpy() - labels)
    known = apart[np.isfinite(apart)]
    return len(known) == 0 or bool(np.median(known) <= (axis.high - axis.low) / 4)


def _published(truth: Dataset, systems: list[str], index: int) -> np.ndarray[Any, Any] | None:
    if not truth.system_scores:
        return None
    missing = [np.nan] * len(truth.labels.axes)
    return np.array([truth.system_scores.get(name, missing)[index] for name in systems])


def _ceilings(
    truth: Dataset, rows: np.ndarray[Any, Any], index: int, system: np.ndarray[Any, Any]
) -> dict[str, float] | None:
    """SRCC that a perfect predictor of these raters' opinion would reach."""
    from qamro_cache.evaluation.ceiling import split_half

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
