"""Score a file of predictions against labels, of the same listening test or of another."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.cache.reader import CacheLike
from qamro_cache.datasets.records import Axis, Dataset, select_labels
from qamro_cache.datasets.registry import defaults_chosen_on
from qamro_cache.datasets.selection import describe, point_out_sources
from qamro_cache.errors import QamroError, few, unknown
from qamro_cache.evaluation.by_system import by_system
from qamro_cache.evaluation.files import name_of, read_predictions
from qamro_cache.evaluation.judged import check_judged, judged_of, rated
from qamro_cache.evaluation.kinds import Kind
from qamro_cache.evaluation.matched import Found, match
from qamro_cache.evaluation.of_run import kind_for, of_run
from qamro_cache.evaluation.options import EvaluateOptions
from qamro_cache.evaluation.others import (
    Other,
    Source,
    held_against,
    on_same_clips,
    only_scored,
    read_other,
    scores_beside,
)
from qamro_cache.evaluation.request import EvaluateRequest, evaluate_request
from qamro_cache.evaluation.scales import why_other_scale
from qamro_cache.paths import PathLike
from qamro_cache.settings import documented

logger = logging.getLogger("qamro_cache")


@documented(EvaluateOptions)
def evaluate(
    predictions: PathLike | pd.DataFrame, labels: CacheLike | Dataset | None = None, **options: Any
) -> dict[str, Any]:
    """Score predictions as the challenge does, with intervals and the raters' ceiling.

    Args:
        predictions: ``predictions.csv`` of qamro-train, or the run's folder, or of qamro-predict
            (columns clip_id, axis, prediction, optionally seed and scale; of labels with one axis,
            axis may be left out), such a table as `predict` returns it, or an ``answer.txt``.
        labels: the truth: a data set, a cache (``.h5``, or open), or a CSV with clip_id, optionally
            system and split, and a column an axis; or name ``dataset``.
        options: those of qamro-evaluate by their names; ``axis_map`` may be a mapping of predicted
            axis -> axis of the labels. Axes of the same name are compared when it is empty. A
            mapped axis is taken to be on another scale.

    Returns:
        ``axes``: for each axis of the labels what `score` returns, with ``predicted_axis``,
        ``ceiling`` (see `ceiling`; None without single ratings), ``ood`` (how many of
        the clips scored are out of distribution for the head, None where not known),
        ``trained_on`` (how many of them the head was trained on, by the predictions' own column:
        ``yes`` or ``near``; None where not known), ``trained_on_near`` (how many of these sound
        like a clip that it was trained on), ``without_trained`` (`score` of the others, None where
        that are all or none),
        ``by_system`` (see `by_system`), ``baselines`` (file, or baseline on the predictions' own
        folds where the labels are a cache -> what `score` returns of it), ``verdicts`` (see
        `verdicts`), ``error_sources`` (see there), ``partly_predicted`` (clips left out because
        not every seed predicts them) and ``published_systems`` (systems whose published score is
        the truth; the others' is the mean over the clips scored); ``synthetic``;
        ``defaults_chosen_on`` (the set, if a default of the training was chosen on it);
        ``encoder``, ``feature`` and ``split`` as the ``metrics.json`` beside the predictions of a
        qamro-train run has them, else empty; ``unpredicted`` and ``unlabeled``: clips that only
        one of the two has (a row without a number is no prediction). JSON types.

    Raises:
        QamroError: the files do not fit each other, or no clip is left on any axis: an axis whose
            clips the head was all trained on is left out, unless they are to be included.
    """
    return run_evaluate(evaluate_request(predictions, labels, options))


def run_evaluate(request: EvaluateRequest) -> dict[str, Any]:
    """Do what was asked; see `evaluate`."""
    truth, options = request.truth, request.options
    file = name_of(request.predictions)
    table = read_predictions(request.predictions, options.answer_list)
    pairs = _pairs(table, truth, options.axes, file)
    others = [read_other(path) for path in options.baseline]
    if empty := int(table["prediction"].isna().sum()):
        logger.warning("%s: %d rows have no prediction and are left out", file, empty)
    found = match(table, truth, options, file)
    point_out_sources(truth.clips["source"].iloc[found.rows].tolist())
    # Loads torch, which takes seconds: what is wrong with the files has been said by now.
    from qamro_cache.evaluation.bootstrap import refuse_resamples

    run, cache = of_run(request.predictions), request.cache
    kind = kind_for(run, options, truth.clips)
    refuse_resamples(kind.draws, len(found.rows))
    source = None if cache is None else Source(cache, run.feature, table)
    axes: dict[str, Any] = {}
    learned = False
    for theirs, ours in pairs.items():
        scored = _score_axis(found, truth, theirs, ours, kind, others, source)
        scored["model"] = run.heads.get(theirs, "predictions")
        if scored["clips"] == scored["trained_on"] and scored["clips"]:
            learned = True
            if not options.include_trained:
                logger.warning("%s: the head was trained on all %d clips", ours, scored["clips"])
                continue
        if scored["clips"]:
            axes[ours] = scored
        else:
            logger.warning(
                "%s: no clip has a label and a prediction of every seed; it is left out", ours
            )
    if not axes and learned:
        raise QamroError(
            f"{file}: the head was trained on all of these clips, or on clips that sound like "
            "them, so the figures would be no sign of how good it is; that is in the "
            "predictions.csv of its qamro-train run. --include-trained scores them all the same"
        )
    if not axes:
        raise QamroError(
            f"{file}: no clip is left to score: none has both a label and a "
            f"prediction of every seed ({', '.join(pairs)})"
        )
    return {
        "dataset": truth.name,
        "synthetic": truth.synthetic,
        "defaults_chosen_on": defaults_chosen_on(truth.name),
        **run.origin,
        "chosen": describe(options.only, options.without),
        "unpredicted": len(found.rows) - len(found.position),
        "unlabeled": found.unlabeled,
        "axes": axes,
    }


def _score_axis(
    found: Found,
    truth: Dataset,
    theirs: str,
    ours: str,
    interval: Kind,
    models: Sequence[Other],
    source: Source | None,
) -> dict[str, Any]:
    """Return what `evaluate` does of one axis; without ``metrics`` where no clip is left."""
    from qamro_cache.evaluation.ceiling import ceiling
    from qamro_cache.evaluation.from_cache import baselines_beside
    from qamro_cache.evaluation.learned import of_trained
    from qamro_cache.evaluation.score import score
    from qamro_cache.evaluation.variance import error_sources

    part, clips = found.table[found.table["axis"] == theirs], truth.clips.iloc[found.rows]
    index = truth.labels.axis_index(ours)
    axis = truth.labels.axes[index]
    target, published = truth.labels.mean[found.rows, index], _published(truth, index)
    pred = found.by_seed(part)
    beside = scores_beside(models, theirs, clips["clip_id"].tolist())
    target = only_scored(target, beside, ours)
    beside |= baselines_beside(source, theirs, ours, truth.labels.mean[:, index], found.rows)
    labeled = np.isfinite(target)
    some, every = np.isfinite(pred).any(0) & labeled, np.isfinite(pred).all(0) & labeled
    if (partial := int(some.sum() - every.sum())) and every.any():
        told = "%s: %d of %d clips are scored, which have a prediction of all %d seeds; %d lack one"
        logger.warning(told, ours, every.sum(), some.sum(), len(pred), partial)
    why = _why_other_units(part, axis, theirs, target[found.places(part)])
    if why and every.any():
        logger.info("%s: MSE (fit), the error after the best straight line: %s", ours, why)
    judged = judged_of(
        clips,
        target,
        system=found.system,
        system_truth=published,
        same_scale=not why,
        group_kind=truth.group_kind,
        ratings=rated(select_labels(truth.labels, found.rows), index),
        interval=interval,
    )
    check_judged(ours, judged.only(every))
    judged = on_same_clips(pred, beside, judged, ours)
    scored = score(pred, judged) | {"left_out": int(some.sum() - judged.known.sum())}
    scored |= held_against(theirs, pred, scored, beside, judged)
    scored |= of_trained(found.said(part), pred, judged)
    far = part.loc[part["ood"] == "True", "clip_id"] if "ood" in part else None
    return scored | {
        "predicted_axis": theirs or ours,
        "scale": [axis.low, axis.high],
        "partly_predicted": partial,
        "ood": None if far is None else len(set(far)),  # a clip stands there once a seed
        "published_systems": 0 if published is None else int(np.isfinite(published).sum()),
        "ceiling": ceiling(judged),
        "error_sources": error_sources(pred, judged),
        "by_system": by_system(pred.mean(0), judged, clips["system"].tolist()),
    }


def _why_other_units(
    part: pd.DataFrame, axis: Axis, theirs: str, labels: npt.NDArray[np.float64]
) -> str:
    """Return why predictions are in other units than the labels; empty where they are not."""
    if theirs not in ("", axis.name):
        return f"the predictions are of another axis, {theirs}"
    why = why_other_scale(part, axis, labels)
    if not why and (off := axis.notice_outside(part["prediction"].to_numpy(np.float64))):
        logger.warning(off)
    return why


def _pairs(
    table: pd.DataFrame, truth: Dataset, axis_map: Mapping[str, str], path: Path
) -> dict[str, str]:
    """Predicted axis -> axis of the labels."""
    predicted = list(dict.fromkeys(table["axis"]))
    there = [axis.name for axis in truth.labels.axes]
    if predicted == [""]:
        if len(there) != 1:
            raise QamroError(
                f"{path}, row 1: there is no column 'axis', and the labels have {len(there)} axes "
                f"({', '.join(there)}); add a column that says of which the predictions are"
            )
        return {"": there[0]}
    pairs = dict(axis_map) or {name: name for name in predicted if name in there}
    if len(set(pairs.values())) < len(pairs):
        raise QamroError("an axis of the labels stands for two predicted ones; map them in turn")
    for theirs, ours in pairs.items():
        for name, names, where in ((theirs, predicted, path), (ours, there, "the labels")):
            if name not in names:
                raise unknown(f"{where}: no axis", name, names)
    if not pairs:
        raise QamroError(
            f"{path}: its axes ({', '.join(predicted)}) are not those of the labels "
            f"({', '.join(there)}); say which belong together with --axis-map PREDICTED=LABEL"
        )
    return pairs


def _published(truth: Dataset, index: int) -> npt.NDArray[np.float64] | None:
    if not truth.system_scores:
        return None
    missing = [np.nan] * len(truth.labels.axes)
    names = sorted(set(truth.clips["system"]) - {""})
    if truth.system_scores.keys().isdisjoint(names):
        logger.warning(
            "%s: none of the %d published system scores is of a system of its clips (they have %s, "
            "the clips %s); the means over clips are used",
            truth.name,
            len(truth.system_scores),
            few(sorted(truth.system_scores), 2),
            few(names, 2) or "none",
        )
    scores = [truth.system_scores.get(name, missing)[index] for name in names]
    return np.array(scores, np.float64)
