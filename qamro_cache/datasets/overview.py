"""What a rated set holds: its splits and what they share, systems, axes and raters, in numbers."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.records import Dataset, Labels

Mask = npt.NDArray[np.bool_]


def prompt_keys(dataset: Dataset) -> "pd.Series[Any]":
    """Return what tells prompts apart: their text, or the group where that is their number.

    A release may be here without its prompt files.
    """
    text = dataset.clips["prompt"]
    if dataset.group_kind == "prompt" and (text == "").any():
        return dataset.clips["group"]
    return text


def count_names(values: "pd.Series[Any]") -> int:
    """Return how many different names there are; an empty one is none."""
    return len(names_of(values))


def names_of(values: Iterable[str]) -> set[str]:
    """Return the different names, without the empty one."""
    return {value for value in pd.unique(pd.Series(values, dtype=object)) if value != ""}


def describe_splits(
    dataset: Dataset,
    rows_of: Mapping[str, Mask],
    labeled: Mask,
    missing: Mask,
    same_audio: npt.NDArray[np.int64] | None,
) -> dict[str, dict[str, Any]]:
    """Return each split's counts, and what it shares with the splits before it."""
    clips, prompts = dataset.clips, prompt_keys(dataset)
    sets: dict[str, dict[str, set[Any]]] = {}
    records: dict[str, dict[str, Any]] = {}
    for split, rows in rows_of.items():
        own: dict[str, set[Any]] = {
            "systems": names_of(clips["system"][rows]),
            "groups": names_of(clips["group"][rows]),
            "prompts": names_of(prompts[rows]),
        }
        if same_audio is not None:
            own["audio"] = set(same_audio[rows].tolist()) - {-1}
        records[split] = {
            "clips": int(rows.sum()),
            "labeled": int((rows & labeled).sum()),
            "missing_audio": int((rows & missing).sum()),
            **{what: len(own[what]) for what in ("systems", "groups", "prompts")},
            "shared": {
                other: {what: len(own[what] & theirs[what]) for what in own}
                for other, theirs in sets.items()
            },
        }
        sets[split] = own
    return records


def describe_systems(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Return each system's clips and mean scores, and the published ones."""
    labels = dataset.labels
    records: dict[str, dict[str, Any]] = {}
    for system, rows in dataset.clips.groupby("system", sort=True).indices.items():
        if system == "":
            continue
        means = {}
        for index, axis in enumerate(labels.axes):
            scores = labels.mean[rows, index]
            known = scores[np.isfinite(scores)]
            means[axis.name] = _number(known.mean()) if len(known) else None
        published = dataset.system_scores.get(str(system))
        records[str(system)] = {"clips": len(rows), "mean": means}
        if published is not None:
            names = [axis.name for axis in labels.axes]
            values = [_number(value) for value in published]
            records[str(system)]["published"] = dict(zip(names, values, strict=True))
    return records


def describe_axes(labels: Labels) -> dict[str, dict[str, Any]]:
    """Return each axis' scale, and the spread and number of its scores."""
    records = {}
    for index, axis in enumerate(labels.axes):
        scores = labels.mean[:, index]
        known = scores[np.isfinite(scores)]
        counts = labels.count[np.isfinite(scores), index]
        errors = labels.stderr[np.isfinite(labels.stderr[:, index]), index]
        records[axis.name] = {
            "low": axis.low,
            "high": axis.high,
            "clips": len(known),
            "mean": _number(known.mean()) if len(known) else None,
            "std": _number(known.std(ddof=1)) if len(known) > 1 else None,
            "min": _number(known.min()) if len(known) else None,
            "max": _number(known.max()) if len(known) else None,
            "ratings": int(counts.sum()),
            "ratings_a_clip": _number(counts.mean()) if counts.any() else None,
            "stderr": _number(errors.mean()) if len(errors) else None,
        }
    return records


def describe_raters(labels: Labels) -> dict[str, Any]:
    """Return how many ratings each rater gave, and their mean."""
    ratings = labels.ratings
    if ratings is None:
        return {"known": 0, "single_ratings": 0, "by_rater": {}}
    number = len(ratings.raters)
    who = ratings.rater[ratings.rater >= 0]
    score = ratings.score[ratings.rater >= 0]
    count = np.bincount(who, minlength=number)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(who, weights=score, minlength=number) / count
    return {
        "known": number,
        "single_ratings": len(ratings.score),
        "by_rater": {
            name: {"ratings": int(count[i]), "mean": _number(mean[i])}
            for i, name in enumerate(ratings.raters)
        },
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
