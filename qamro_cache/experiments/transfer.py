"""Train on one listening test, judge by another: as scores come, and brought to its scale."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.evaluation.judged import Floats, Judged
from qamro_cache.experiments.data import Material, load_material
from qamro_cache.experiments.fitting import fit_all
from qamro_cache.experiments.grid import Cell
from qamro_cache.experiments.nested import parts_of
from qamro_cache.experiments.onto import Onto, axis_of
from qamro_cache.experiments.parts import Part
from qamro_cache.experiments.plan import seeds_of
from qamro_cache.experiments.request import AblateRequest
from qamro_cache.experiments.saved import head_of
from qamro_cache.experiments.tables import Outcome
from qamro_cache.experiments.thinned import learned_from
from qamro_cache.scoring.predict import scores_table
from qamro_cache.scoring.scores import score_clips
from qamro_cache.training.inputs import Bools
from qamro_cache.training.meter import ProgressCallback
from qamro_cache.training.recipe import Job, Recipe


def transfer_outcomes(
    request: AblateRequest,
    part: Part,
    material: Material,
    origin: Mapping[str, Any],
    device: str,
    progress: ProgressCallback | None,
) -> list[Outcome]:
    """Train each recipe on all clips of one test, and predict those of another.

    Args:
        request: the grid, with the other test.
        part: the clips to learn from.
        material: their features.
        origin: what stands before the cell's own names in the tables.
        device: where to train.
        progress: see `fit`.
    """
    onto, options = request.onto, request.options
    assert onto is not None
    read = onto.sources, onto.clips, onto.folds, part.expression
    there = load_material(*read, part.context, onto.cv, text=part.text)
    predicted: dict[Recipe, list[Floats]] = {}
    outcomes = []
    for cell in (request.cells[place] for place in part.cells):
        recipe, targets = cell.recipe, range(len(part.clips.axes))
        if recipe not in predicted:
            seeds = range(seeds_of(cell, options.seeds))
            jobs = [Job(recipe, seed, 0, target) for target in targets for seed in seeds]
            fitted = fit_all(material, jobs, {}, device, options.precision, progress)
            head = head_of(recipe, [(material, fitted, 0)], material.origin())
            scores = score_clips(head, onto.sources, device)
            # Tells of clips that both tests share, or that are unlike those of the first.
            scores_table(head, scores)
            members = [one[:, onto.clips.rows] for one in scores.members]
            predicted[recipe] = [one.cpu().numpy() for one in members]
        for target in targets:
            names = {**origin, **cell.names, **origin}
            outcomes.append(_outcome(names, part, cell, target, predicted[recipe][target], onto))
    return outcomes + _beside(part, onto, there, origin, every=options.baselines == "all")


def _outcome(
    names: Mapping[str, Any], part: Part, cell: Cell, target: int, pred: Floats, onto: Onto
) -> Outcome:
    index, judged = _judged(part, target, onto)
    ours, theirs = part.clips.axes[target], onto.clips.axes[index]
    same = (ours.low, ours.high) == (theirs.low, theirs.high)
    used = 0.0
    if cell.calibrate:
        labels = onto.clips.labels.mean[:, index]
        pred, used = calibrated(pred, labels, onto.folds.groups, cell.calibrate)
    units = replace(judged, same_scale=same or cell.calibrate > 0)
    amounts = learned_from(part.held_out.folds, part.clips, target, raters=0)
    amounts["calibrate"] = used
    seeds = range(len(pred))
    clips = onto.clips.table[["clip_id", "system", "group"]].assign(fold="")
    head = names, "head", ours.name
    return Outcome(*head, seeds, pred, units, {}, clips=clips, amounts=amounts)


def _judged(part: Part, target: int, onto: Onto) -> tuple[int, Judged]:
    """Return which axis of the other test judges one that heads learn, and its labels."""
    names = [axis.name for axis in part.clips.axes]
    index = axis_of(names[target], names, onto)
    return index, onto.clips.judged(index, onto.folds, "")


def calibrated(
    pred: Floats, labels: Floats, groups: npt.NDArray[np.int64] | None, count: int
) -> tuple[Floats, float]:
    """Bring scores to the scale of labels by the best straight line through some labeled clips.

    The clips are cut into five parts, groups staying together; each part's line comes from clips of
    the others, so that every clip is judged and none by a line that has seen its label. A smaller
    number's clips are among a larger one's.

    Args:
        pred: [K, C] of K seeds, whose mean a line is fitted to.
        labels: [C], NaN where a clip has none.
        groups: [C] clips of one number stay together; None: any clip may be apart from any.
        count: labeled clips of a line; all where there are fewer.

    Returns:
        [K, C], NaN where there is no line (of one clip, or equal scores, it is the mean label); and
        how many clips a line is through, on average.
    """
    mean = pred.mean(0)
    known = np.isfinite(mean) & np.isfinite(labels)
    turn = np.random.default_rng(4).permutation(len(mean))
    found = np.full(pred.shape, np.nan)
    every: Bools = np.ones(len(mean), np.bool_)
    counts = []
    for part in parts_of(every, groups):
        rest = np.flatnonzero(known & ~part)
        used = rest[np.argsort(turn[rest])][:count]
        counts.append(len(used))
        if not len(used):
            continue
        x, y = mean[used], labels[used]
        spread = ((x - x.mean()) ** 2).sum()
        slope = ((x - x.mean()) * y).sum() / spread if spread > 0 else 0.0
        found[:, part] = y.mean() + slope * (pred[:, part] - x.mean())
    return found, float(np.mean(counts))


def _beside(
    part: Part, onto: Onto, material: Material, origin: Mapping[str, Any], *, every: bool
) -> list[Outcome]:
    """Return the encoder's own scores of the other test, and baselines that were trained on it."""
    own = material.own_scores()
    outcomes = []
    for target, axis in enumerate(part.clips.axes):
        index, judged = _judged(part, target, onto)
        within = material.baselines(index, every=every)
        beside = {**own, **{f"{model}, trained there": pred for model, pred in within.items()}}
        for model, pred in beside.items():
            units = replace(judged, same_scale=model not in own)
            outcomes.append(Outcome(dict(origin), model, axis.name, [0], pred[None], units, {}))
    return outcomes
