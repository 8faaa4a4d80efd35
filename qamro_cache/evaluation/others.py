"""Scores of other models that predictions are held against: ``--baseline other.csv``."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from qamro_cache.cache.reader import Cache
from qamro_cache.datasets.answer_zip import is_zip
from qamro_cache.datasets.ids import match_ids
from qamro_cache.datasets.tables import factorize, numbers, repeated, text
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.files import read_predictions, read_scores
from qamro_cache.evaluation.judged import Floats, Judged

logger = logging.getLogger("qamro_cache")

#: The columns of a table of predictions, beside which another table has one score.
_OF_PREDICTIONS = {"clip_id", "axis", "prediction"}


class Other(NamedTuple):
    """The scores of another model.

    Attributes:
        path: of the file; a table names it by its stem.
        by_axis: predicted axis -> clip id -> score; the axis "" stands for all of them.
        own_units: whether the scores are not in the labels' units.
    """

    path: Path
    by_axis: dict[str, pd.Series]
    own_units: bool

    def scores(self, axis: str, clip_ids: Sequence[str]) -> Floats | None:
        """Return the scores of clips [C], NaN where it has none; None without such an axis."""
        found = self.by_axis.get("" if self.own_units else axis)
        if found is None:
            return None
        at = match_ids(list(found.index), list(clip_ids))
        if (at < 0).all():
            raise QamroError(
                f"{self.path}: none of its clips is among those that are scored: it has "
                f"{found.index[0]!r}, they have {clip_ids[0]!r}"
            )
        return np.where(at < 0, np.nan, found.to_numpy(np.float64)[at])


def read_other(path: Path) -> Other:
    """Read another model's scores: a predictions.csv, an answer.txt, or a table.

    A table (CSV or parquet) has a column clip_id and one of scores.

    Raises:
        QamroError: the table has no clip_id, not one column beside it, a clip twice, or a score
            that is no number.
    """
    ours = path.suffix.lower() in (".txt", ".jsonl") or is_zip(path)
    frame = pd.DataFrame() if ours else read_scores(path)
    if ours or set(frame.columns) >= _OF_PREDICTIONS:
        table = read_predictions(path)
        by_axis = {str(axis): _seeds_mean(part) for axis, part in table.groupby("axis")}
        return Other(path, by_axis, own_units=False)
    names = [name for name in frame.columns if name != "clip_id"]
    if "clip_id" not in frame or len(names) != 1:
        raise QamroError(
            f"{path}, row 1: a baseline has the columns clip_id and one score, or those of a "
            f"predictions.csv (here: {', '.join(map(str, frame.columns))})"
        )
    if frame.empty:
        raise QamroError(f"{path}, row 2: there are no scores")
    ids, scores = text(frame, "clip_id"), numbers(frame, names[0], path)
    if np.isnan(scores).all():
        raise QamroError(f"{path}: no row has a score in column {names[0]!r}; fill it")
    twice = repeated(pd.DataFrame({"clip_id": ids}))
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        where = f"{path}, row {frame.index[row]}"
        raise QamroError(f"{where}: clip {ids[row]!r} has a score already; keep one")
    return Other(path, {"": pd.Series(np.asarray(scores, np.float64), list(ids))}, own_units=True)


def _seeds_mean(part: pd.DataFrame) -> "pd.Series[float]":
    """Return each clip's mean over the seeds, by its id; NaN where one has none."""
    # By number: pandas takes names that are not UTF-8 for one.
    clip, ids = factorize(text(part, "clip_id"))
    means = part["prediction"].groupby(clip).agg(lambda seeds: seeds.mean(skipna=False))
    return means.set_axis(list(ids))


class Source(NamedTuple):
    """Where baselines come from.

    Attributes:
        cache: open; its clips are those of the labels.
        feature: that the heads read; empty: not known, the cache's first.
        table: of the predictions, as `read_predictions` reads it.
    """

    cache: Cache
    feature: str
    table: pd.DataFrame


class Beside(NamedTuple):
    """The scores [C] of another model on one axis, and whether they are in their own units."""

    scores: Floats
    own_units: bool


def scores_beside(others: Sequence[Other], axis: str, clip_ids: Sequence[str]) -> dict[str, Beside]:
    """Return what other models say of some clips on an axis: file -> scores."""
    found = {}
    names = [other.path.name for other in others]
    for other in others:
        scores = other.scores(axis, clip_ids)
        if scores is None:
            there = ", ".join(other.by_axis)
            logger.warning("%s has no axis %s; there are: %s", other.path, axis, there)
        else:
            name = other.path.name
            found[name if names.count(name) == 1 else str(other.path)] = Beside(
                scores, other.own_units
            )
    return found


def only_scored(target: Floats, beside: Mapping[str, Beside], axis: str) -> Floats:
    """Return the labels [C] without those of clips that another model has no score for."""
    for name, (scores, _) in beside.items():
        lost = np.isfinite(target) & np.isnan(scores)
        if lost.any():
            logger.warning("%s: %d rated clips have no score in %s", axis, int(lost.sum()), name)
        target = np.where(lost, np.nan, target)
    return target


def on_same_clips(pred: Floats, beside: Mapping[str, Beside], judged: Judged, axis: str) -> Judged:
    """Leave out the clips that some seed of a prediction [K, C], or another model, cannot score."""
    from qamro_cache.evaluation.score import common

    ours = judged.only(np.isfinite(pred).all(0))
    same = common([scores[None] for scores, _ in beside.values()], ours)
    if lost := int(ours.known.sum() - same.known.sum()):
        logger.warning("%s: %d clips that not every baseline predicts are in no row", axis, lost)
    return same


def held_against(
    name: str,
    pred: Floats,
    scored: Mapping[str, Any],
    beside: Mapping[str, Beside],
    judged: Judged,
) -> dict[str, Any]:
    """Score other models on the clips of a prediction, and say whether it beats them.

    Args:
        name: of the prediction.
        pred: [K, C] seeds.
        scored: what `score` found of it.
        beside: the other models.
        judged: the clips that all of them score.

    Returns:
        ``baselines``: file -> what `score` returns, and ``verdicts``.
    """
    from qamro_cache.evaluation.compare import columns
    from qamro_cache.evaluation.score import DECIDES, score_models
    from qamro_cache.evaluation.verdict import Model, verdicts

    models = {other: scores[None] for other, (scores, _) in beside.items()}
    own = [other for other, (_, own_units) in beside.items() if own_units]
    found = score_models(models, judged, own_units=own)
    ours, *others = [
        Model(one, one, values.mean(0), columns(figures)[DECIDES])
        for one, values, figures in (
            (name, pred, scored),
            *((other, models[other], found[other]) for other in found),
        )
    ]
    always = set(models) - {"kNN", "train mean"}
    return {"baselines": found, "verdicts": verdicts(ours, others, always, judged)}
