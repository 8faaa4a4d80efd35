"""From the heads of a plan, and its baselines, to the outcomes that a grid's tables compare."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache.datasets.options import RaterOptions
from qamro_cache.evaluation.judged import Floats, Judged
from qamro_cache.evaluation.nested import Inside
from qamro_cache.experiments.clips import Clips
from qamro_cache.experiments.fitting import predicted, warn_of_diverged
from qamro_cache.experiments.grid import Cell
from qamro_cache.experiments.labels import by_modeled
from qamro_cache.experiments.nested import own_labels
from qamro_cache.experiments.paired import Heads, asked
from qamro_cache.experiments.plan import Plan
from qamro_cache.experiments.rivals import pooled
from qamro_cache.experiments.tables import Outcome
from qamro_cache.experiments.thinned import learned_from
from qamro_cache.experiments.unpaired import alone
from qamro_cache.training.closed_form import is_closed
from qamro_cache.training.inputs import Folds
from qamro_cache.training.recipe import Job
from qamro_cache.training.schedule import make_schedule, pair_coverage


def head_outcomes(
    plan: Plan,
    done: Mapping[str, Mapping[str, Any]],
    origin: Mapping[str, str],
    cells: Sequence[Cell],
    cv: str,
    inner: Mapping[tuple[int, int], Floats],
) -> list[Outcome]:
    """Pool the folds of each cell, axis and seed.

    Args:
        plan: the heads.
        done: key -> one head's result.
        origin: what stands before the cell's own names in the tables.
        cells: of the grid.
        cv: how the plan's folds hold clips out.
        inner: (cell, axis) -> `Inside.pred`, where there are inner heads.
    """
    coverage, told = _Coverage(plan), _Told(plan, done)
    clips = named_clips(plan.material.clips.table, plan.folds)
    outcomes = []
    for (cell, axis), by_seed in _by_cell(plan).items():
        failed = [done[plan.keys[k]]["diverged"] for heads in by_seed.values() for k in heads]
        predictions = np.full((len(by_seed), len(plan.material.clips.rows)), np.nan)
        details: dict[str, list[float]] = {}
        for row, heads in enumerate(by_seed.values()):
            results = [done[plan.keys[k]] for k in heads]
            for k, one in zip(heads, results, strict=True):
                held = plan.folds.test[plan.jobs[k].fold]
                found = predicted(plan.targets, plan.folds, plan.jobs[k], one)
                predictions[row, held] = found[held]
            for name, value in (
                ("best_epoch", np.median([one["best_epoch"] for one in results])),
                ("diverged", sum(bool(one["diverged"]) for one in results)),
                ("stability", np.mean([one["stability"] for one in results])),
                ("pair_coverage", coverage.of(heads)),
            ):
                details.setdefault(name, []).append(float(value))
        outcomes.append(
            Outcome(
                {**origin, **cells[cell].names, **origin},
                "head",
                plan.material.clips.axes[axis].name,
                list(by_seed),
                plan.material.clips.units(axis, plan.folds).prediction(predictions),
                _judged(plan, axis, cv, cells[cell]),
                {name: np.array(values) for name, values in details.items()},
                trained=not all(failed),
                inside=_inside(plan, axis, by_seed, inner.get((cell, axis))),
                clips=clips,
                amounts=learned_from(plan.folds, plan.material.clips, axis, cells[cell].raters),
                pairs=told.of(axis, [k for heads in by_seed.values() for k in heads]),
            )
        )
    diverged = np.array([bool(done[key]["diverged"]) for key in plan.keys], np.bool_)
    warn_of_diverged(plan.jobs, diverged)
    return outcomes


def _by_cell(plan: Plan) -> dict[tuple[int, int], dict[int, list[int]]]:
    """Return the positions of the jobs of each cell and axis, by seed."""
    found: dict[tuple[int, int], dict[int, list[int]]] = {}
    for k, job in enumerate(plan.jobs):
        by_seed = found.setdefault((plan.cells[k], plan.axes[k]), {})
        by_seed.setdefault(job.seed, []).append(k)
    return found


def _inside(
    plan: Plan, axis: int, by_seed: Mapping[int, Sequence[int]], pred: Floats | None
) -> Inside:
    clips = plan.material.clips
    labels = clips.units(axis, plan.folds).label(clips.labels.mean[:, axis])
    own = None if pred is None else own_labels(plan, axis)
    mean = None if clips.several else _learned_means(plan, next(iter(by_seed.values())))
    return Inside(plan.folds.test, labels, pred, own, mean)


def _learned_means(plan: Plan, heads: Sequence[int]) -> Floats:
    """Return the mean of the labels that heads have learned from [F], NaN of a fold without one."""
    found = np.full(len(plan.folds.test), np.nan)
    for job in (plan.jobs[k] for k in heads):
        learns = plan.folds.train[job.fold]
        if is_closed(job):
            learns = learns | plan.folds.validation[job.fold]
        labels = plan.targets.of(job.target, job.fold).numpy()
        labels = labels[learns & np.isfinite(labels)]
        found[job.fold] = labels.mean() if len(labels) else np.nan
    return found


def _judged(plan: Plan, axis: int, cv: str, cell: Cell) -> Judged:
    judged = plan.material.clips.judged(axis, plan.folds, cv)
    return replace(judged, same_scale=not alone(cell.recipe))


def named_clips(table: pd.DataFrame, folds: Folds) -> pd.DataFrame:
    """Return what clips are called, and the fold that holds each out; empty where none does."""
    fold = np.full(len(table), "", object)
    for name, held in zip(folds.names, folds.test, strict=True):
        fold[held] = name
    return table[["clip_id", "system", "group"]].assign(fold=fold)


def baseline_outcomes(
    plan: Plan, origin: Mapping[str, str], cv: str, *, every: bool
) -> list[Outcome]:
    """Predict the same held-out clips by what a head must beat."""
    own = plan.material.own_scores()
    outcomes = []
    for axis, info in enumerate(plan.material.clips.axes):
        judged = plan.material.clips.judged(axis, plan.folds, cv)
        amounts = learned_from(plan.folds, plan.material.clips, axis, raters=0)
        units_of = plan.material.clips.units(axis, plan.folds)
        given = asked(plan.material.clips.pairs, axis, plan.folds)
        each = {} if given is None else plan.material.rivals(axis, every=every)
        made = {name: pooled(one, plan.folds) for name, one in each.items()}
        made = made or plan.material.baselines(axis, every=every)
        beside = {**own, **{name: units_of.prediction(pred) for name, pred in made.items()}}
        for model, pred in beside.items():
            units = replace(judged, same_scale=judged.same_scale and model not in own)
            where = dict(origin), model, info.name
            one = Outcome(*where, [0], pred[None], units, {}, amounts=amounts)
            if given is not None:
                one = replace(one, pairs=given.record(given.of_scores(each.get(model, pred))))
            outcomes.append(one)
    return outcomes


class _Told:
    """What heads of a plan say of held-out pairs, which are the same for all cells."""

    def __init__(self, plan: Plan, done: Mapping[str, Mapping[str, Any]]) -> None:
        self.plan, self.done = plan, done
        axes, pairs = range(len(plan.material.clips.axes)), plan.material.clips.pairs
        self.given = [asked(pairs, axis, plan.folds) for axis in axes]

    def of(self, axis: int, heads: Sequence[int]) -> dict[str, Any] | None:
        """Return what some heads of an axis are worth on its pairs; None without."""
        plan, given = self.plan, self.given[axis]
        if given is None:
            return None
        results = [self.done[plan.keys[k]] for k in heads]
        jobs = [plan.jobs[k] for k in heads]
        pred = [
            predicted(plan.targets, plan.folds, job, one)
            for job, one in zip(jobs, results, strict=True)
        ]
        fold = np.array([job.fold for job in jobs], np.int64)
        preference = np.stack([one["preference"] for one in results])
        diverged = np.array([bool(one["diverged"]) for one in results])
        return given.record(given.of_heads(Heads(fold, np.stack(pred), preference, diverged)))


def modeled_outcomes(
    outcomes: Sequence[Outcome], clips: Clips, folds: Folds, modelings: Sequence[RaterOptions]
) -> list[Outcome]:
    """Return outcomes by modeled labels, beside those by plain means: for each model of raters."""
    names = [axis.name for axis in clips.axes]
    found = []
    for modeling in modelings:
        judged: dict[str, Judged | None] = {}
        for one in outcomes:
            if one.axis not in judged:
                axis = names.index(one.axis)
                judged[one.axis] = by_modeled(one.judged, clips, folds, axis, modeling)
            if (other := judged[one.axis]) is not None:
                units = replace(other, same_scale=one.judged.same_scale)
                axis_words = f"{one.axis} ({modeling.words()} labels)"
                found.append(replace(one, axis=axis_words, judged=units, pairs=None))
    return found


def source_outcomes(outcomes: Sequence[Outcome], clips: Clips) -> list[Outcome]:
    """Return outcomes of each test by itself, where there are several."""
    if not clips.several:
        return []
    source = clips.table["source"].to_numpy(dtype=str)
    found = []
    for name in np.unique(source):
        mine = source == name
        for one in outcomes:
            judged, inside = one.judged.only(mine), one.inside and one.inside.only(mine)
            if judged.known.sum() >= 2:
                axis = f"{one.axis} of {name}"
                found.append(replace(one, axis=axis, judged=judged, inside=inside))
    return found


def without_references(outcome: Outcome) -> Outcome | None:
    """Return an outcome by the clips alone that are no references; None where none is one."""
    judged = outcome.judged
    if judged.reference is None or not (judged.reference & judged.known).any():
        return None
    kept = judged.only(~judged.reference)
    axis = f"{outcome.axis} (without references)"
    return replace(outcome, axis=axis, judged=kept, pairs=None)


class _Coverage:
    """Pair coverage of heads, computed once for all that see the same batches and labels."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.known: dict[tuple[object, ...], float] = {}

    def of(self, heads: Sequence[int]) -> float:
        """Return the mean over the folds of one cell, axis and seed."""
        return float(np.mean([self._head(self.plan.jobs[k]) for k in heads]))

    def _head(self, job: Job) -> float:
        plan, recipe = self.plan, job.recipe
        if is_closed(job) or alone(recipe):
            return float("nan")
        # Another seed's own batches differ only by chance: the first seed stands for all.
        paired = bool(recipe.loss.on_pairs.terms)
        key = (recipe.batch_size, recipe.batches, job.fold, job.target, paired)
        if key not in self.known:
            schedule, (order,) = make_schedule(plan.folds, plan.targets, [job])
            labels = plan.targets.of(job.target, job.fold).numpy()
            train = plan.folds.train[job.fold]
            self.known[key] = pair_coverage(schedule, order, labels, train, 1)
        return self.known[key]
