"""What is said of an estimate: the heads and what they must beat, on the same held-out clips."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.evaluation.by_system import by_system
from qamro_cache.evaluation.ceiling import ceiling
from qamro_cache.evaluation.compare import columns
from qamro_cache.evaluation.diagnostics import diagnose
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.score import DECIDES, common, score_models
from qamro_cache.evaluation.variance import error_sources
from qamro_cache.evaluation.verdict import Model, verdicts
from qamro_cache.experiments.clips import Clips, HeldOut
from qamro_cache.experiments.data import Beside, Material
from qamro_cache.experiments.fitting import Fitted, Starts, pool_folds
from qamro_cache.experiments.gain import group_gain
from qamro_cache.experiments.labels import by_modeled
from qamro_cache.experiments.paired import asked, heads_of
from qamro_cache.experiments.rivals import pooled
from qamro_cache.experiments.unpaired import alone
from qamro_cache.heads.published import published_scores
from qamro_cache.training.recipe import Recipe

#: What the trained heads are called among models; where they are a baseline's own kind, no baseline
#: is beside them that is the same once more.
_HEAD, _BASELINE = "qamro head", {"ridge": "ridge", "knn": "kNN", "svr": "SVR"}

#: The same heads with no loss but Huber's.
_HUBER = "Huber alone"


def own_scores(
    material: Material, recipe: Recipe, starts: Starts
) -> list[dict[str, npt.NDArray[np.float64]]]:
    """Return what the encoder says of the clips itself: for each axis name -> [C]."""
    own = [material.own_scores() for _ in material.clips.axes]
    windows, offsets, weights, *_ = material.seen(0)
    for target, start in starts.items():
        found = published_scores(recipe.head, start, windows, offsets, weights)
        name = f"published {material.clips.axes[target].name}"
        own[target] = {**own[target], name: found.double().numpy()}
    return own


def judge(
    material: Material,
    held_out: HeldOut,
    fitted: Fitted,
    own: Sequence[Mapping[str, npt.NDArray[np.float64]]],
    huber: Fitted | None,
    *,
    every: bool,
    raw: Fitted,
) -> dict[str, Any]:
    """Score the heads and the baselines on the same held-out clips, axis by axis.

    ``raw`` are the heads before a calibration: it is in the units of theirs that pairs are told by.
    """
    folds, clips = held_out.folds, material.clips
    scales = [clips.units(axis, folds) for axis in range(len(clips.axes))]
    scores = {t: scales[t].prediction(pred) for t, pred in pool_folds(fitted, folds).items()}
    kind = _BASELINE.get(fitted.jobs[0].recipe.head.kind)
    head = f"{kind} head" if kind else _HEAD
    systems = clips.apart["system"].to_numpy(dtype=str)
    in_own_units = alone(fitted.jobs[0].recipe)
    metrics: dict[str, Any] = {}
    for target, axis in enumerate(material.clips.axes):
        judged = material.clips.judged(target, folds, held_out.cv)
        mine, counts = fitted.of_target(target), _counts(raw, target)
        given, rated = asked(material.clips.pairs, target, folds), bool(judged.known.any())
        each = {} if given is None or not rated else material.rivals(target, every=every)
        if given is not None:
            counts["pairs"] = given.judge(heads_of(raw, target), {**own[target], **each})
        if not rated:
            metrics[axis.name] = counts
            continue
        made = {n: pooled(one, folds) for n, one in each.items()}
        made = made or material.baselines(target, every=every)
        beside = {**own[target], **{n: scales[target].prediction(p) for n, p in made.items()}}
        ridge = beside["ridge"]
        if kind and material.modeling.plain:
            beside.pop(kind, None)
        models = {head: scores[target]}
        if huber is not None:
            models[_HUBER] = scales[target].prediction(pool_folds(huber, folds)[target])
        models |= {name: pred[None] for name, pred in beside.items()}
        always, units = {"ridge", _HUBER, *own[target]}, own[target]
        names = [*units, *([head] if in_own_units else [])]
        metrics[axis.name] = {
            "range": [axis.low, axis.high],
            **judge_models(models, judged, units, always, systems, standard=in_own_units),
            **counts,
        }
        if material.beside is None:
            gain = group_gain(material, held_out, target, ridge, judged)
            metrics[axis.name] |= {} if gain is None else {"context_group": gain}
        else:
            metrics[axis.name] |= _without_references(material.beside, models, judged, names)
        metrics[axis.name] |= _by_source(clips, models, judged, names)
        metrics[axis.name] |= _by_modeled(material, target, models, judged, names)
        if np.isfinite(fitted.penalty[mine]).any():
            metrics[axis.name]["median_penalty"] = float(np.nanmedian(fitted.penalty[mine]))
    return metrics


def _counts(fitted: Fitted, target: int) -> dict[str, Any]:
    """Count the heads of an axis."""
    mine = fitted.of_target(target)
    counts: dict[str, Any] = {
        "folds": len({fitted.jobs[k].fold for k in mine}),
        "diverged": int(fitted.diverged[mine].sum()),
        "median_epoch": float(np.median(fitted.best_epoch[mine])),
    }
    if curve := _by_epoch(fitted, mine):
        counts["validation_loss"] = curve
    return counts


def judge_models(
    models: Mapping[str, npt.NDArray[np.float64]],
    judged: Judged,
    own: Collection[str],
    always: Collection[str],
    systems: npt.NDArray[np.str_],
    *,
    standard: bool = False,
    without_verdict: Collection[str] = (),
) -> dict[str, Any]:
    """Return what ``metrics.json`` says of the first of some models beside the others.

    Args:
        models: name -> predictions [K, C], the first to be judged.
        judged: the clips.
        own: names of those in units of their own.
        always: see `verdicts`.
        systems: [C] names.
        standard: whether the first is in units of its own too.
        without_verdict: names of those that are no baselines.
    """
    head = next(iter(models))
    units = [*own, *([head] if standard else [])]
    pred, scored = models[head], score_models(models, judged, own_units=units)
    ours, *others = [
        Model(name, name, models[name].mean(0), columns(one)[DECIDES])
        for name, one in scored.items()
        if name not in without_verdict
    ]
    same = common(models.values(), judged)
    compared = {name: scored[name] for name in models if name not in (head, *own)}
    of_head = replace(same, same_scale=same.same_scale and not standard)
    found = diagnose(scored[head], compared, pred, of_head)
    return {
        "models": scored,
        "verdicts": verdicts(ours, others, always, same),
        "ceiling": ceiling(same),
        "error_sources": error_sources(pred, of_head),
        "by_system": by_system(pred.mean(0), of_head, systems),
        "diagnostics": [one._asdict() for one in found],
    }


def _by_epoch(fitted: Fitted, heads: Sequence[int]) -> list[dict[str, float]]:
    """Return the validation sets' loss after each epoch, over heads; empty where none was watched.

    ``heads`` counts those still in training, whose median and quartiles the others are.
    """
    wanted = set(heads)
    rows = [
        result.validation_loss[:, [k for k, head in enumerate(part) if head in wanted]]
        for part, result in fitted.parts
        if result.validation_loss.numel()
    ]
    found: list[dict[str, float]] = []
    for epoch in range(max((len(part) for part in rows), default=0)):
        values = np.concatenate(
            [part[epoch].double().numpy() for part in rows if epoch < len(part)]
        )
        values = values[np.isfinite(values)]
        if not len(values):
            break
        low, median, high = (float(v) for v in np.quantile(values, (0.25, 0.5, 0.75)))
        found.append({"heads": len(values), "median": median, "low": low, "high": high})
    return found


def _by_source(
    clips: Clips,
    models: Mapping[str, npt.NDArray[np.float64]],
    judged: Judged,
    own: Collection[str],
) -> dict[str, Any]:
    """Return the figures of each test by itself, where there are several."""
    if not clips.several:
        return {}
    found, source = {}, clips.table["source"].to_numpy(dtype=str)
    for name in np.unique(source):
        alone = judged.only(source == name)
        if common(models.values(), alone).known.sum() >= 2:
            found[str(name)] = _scored(models, alone, own)
    return {"by_source": found}


def _by_modeled(
    material: Material,
    target: int,
    models: Mapping[str, npt.NDArray[np.float64]],
    judged: Judged,
    own: Collection[str],
) -> dict[str, Any]:
    """Return the figures by modeled labels; plain means are those that judge."""
    other = by_modeled(judged, material.clips, material.folds, target, material.modeling)
    if other is None:
        return {}
    return {
        "by_modeled_labels": {
            "labels": material.modeling.words(),
            "clips": int(common(models.values(), other).known.sum()),
            "models": score_models(models, other, own_units=own),
        }
    }


def _without_references(
    beside: Beside,
    models: Mapping[str, npt.NDArray[np.float64]],
    judged: Judged,
    own: Collection[str],
) -> dict[str, Any]:
    """Return the figures without references, which a difference of zero gives away."""
    if beside.company.kind == "group" or judged.reference is None:
        return {}
    return {"without_references": _scored(models, judged.only(~judged.reference), own)}


def _scored(
    models: Mapping[str, npt.NDArray[np.float64]], judged: Judged, own: Collection[str]
) -> dict[str, Any]:
    """Return the figures of models on some of the clips."""
    same, scored = common(models.values(), judged), score_models(models, judged, own_units=own)
    return {"clips": int(same.known.sum()), "models": scored, "ceiling": ceiling(same)}
