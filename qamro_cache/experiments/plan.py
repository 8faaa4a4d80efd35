"""The heads that a grid needs of one material: jobs, labels, and a key that names each result."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from qamro_cache.datasets.preferences import Pairs
from qamro_cache.experiments.data import Material
from qamro_cache.experiments.grid import Cell
from qamro_cache.experiments.labels import Wanted, targets_of
from qamro_cache.identity import canonical_json
from qamro_cache.training.inputs import Features, Folds, Targets, stacked, taught
from qamro_cache.training.recipe import Job, flat_recipe
from qamro_cache.training.schedule import drawn_from


@dataclass(frozen=True)
class Plan:
    """The heads of one material.

    Attributes:
        material: clips, folds and features.
        targets: a row for each that some job learns from.
        jobs: the heads.
        cells: position of each job's cell in the grid.
        axes: each job's axis.
        keys: sha256 of everything that decides a job's result.
    """

    material: Material
    targets: Targets
    jobs: list[Job]
    cells: list[int]
    axes: list[int]
    keys: list[str]

    @property
    def folds(self) -> Folds:
        """Shared by all jobs."""
        return self.material.folds


def make_plan(
    material: Material,
    cells: Sequence[tuple[int, Cell]],
    seeds: int,
    precision: str,
) -> Plan:
    """Multiply cells, axes, seeds and folds out into jobs.

    Args:
        material: the clips, as the heads of their folds see them.
        cells: (position in the grid, cell).
        seeds: heads a cell, axis and fold.
        precision: of products on a GPU, which a result depends on.
    """
    folds = material.folds
    # A row of targets for every axis and what cells make of its ratings. All seeds learn from the
    # same ratings: averaged, heads of several draws would have learned from more.
    rows = {Wanted(axis): axis for axis in range(len(material.clips.axes))}
    for _, cell in cells:
        for axis in range(len(material.clips.axes)):
            rows.setdefault(Wanted(axis, cell.raters, cell.modeling), len(rows))
    targets = targets_of(material.clips, folds, list(rows))
    jobs, places, axes = [], [], []
    for place, cell in cells:
        for axis in range(len(material.clips.axes)):
            row = rows[Wanted(axis, cell.raters, cell.modeling)]
            able = np.flatnonzero(taught(folds, targets, row, cell.recipe.loss))
            for seed in range(seeds_of(cell, seeds)):
                for fold in able:
                    view = material.view(int(fold))
                    jobs.append(Job(cell.recipe, seed, int(fold), row, view))
                    places.append(place)
                    axes.append(axis)
    keys = _keys(material, targets, jobs, precision)
    return Plan(material, targets, jobs, places, axes, keys)


def seeds_of(cell: Cell, seeds: int) -> int:
    """Return how many heads a cell has: one where it has no seed of its own, fitted at once."""
    return 1 if cell.recipe.head.closed else seeds


def joined(plans: Sequence[Plan]) -> tuple[list[Features], Targets, list[Job]]:
    """Put plans of the same clips and folds together: all views, targets, and jobs with both."""
    views = [features for plan in plans for features in plan.material.features]
    jobs: list[Job] = []
    view = target = 0
    for plan in plans:
        jobs += [
            replace(job, view=view + job.view, target=target + job.target) for job in plan.jobs
        ]
        view += len(plan.material.features)
        target += len(plan.targets.ranges)
    return views, stacked([plan.targets for plan in plans]), jobs


def _keys(material: Material, targets: Targets, jobs: Sequence[Job], precision: str) -> list[str]:
    """Name each job's result by all that decides it."""
    data, folds = hashlib.sha256(), material.folds
    for part in (
        material.sources.identity_sha256,
        material.feature,
        str(material.origin()["context"]),
        material.text_feature,
        "\n".join(material.clips.table["clip_id"]),
        "\n".join(material.clips.table["system"]),
    ):
        data.update(hashlib.sha256(part.encode("utf-8", "surrogateescape")).digest())
    # The embeddings too: other sounds may stand behind the same names.
    for features in material.features:
        for values in features[:4]:
            if values is not None:
                data.update(hashlib.sha256(values.contiguous().numpy().data).digest())
    for mask in (folds.train, folds.validation, folds.test):
        data.update(np.packbits(mask).tobytes())
    if folds.groups is not None:
        data.update(folds.groups.tobytes())

    @cache
    def digest(part: str, target: int, fold: int) -> str:
        values = targets.of(target, fold) if part == "labels" else targets.spread_of(target, fold)
        assert values is not None
        return hashlib.sha256(values.numpy().tobytes()).hexdigest()

    @cache
    def drawn(target: int, paired: bool) -> str:
        clips, _ = drawn_from(folds, targets, target, paired=paired)
        return hashlib.sha256(clips.tobytes()).hexdigest()

    # JSON has no NaN: a scale that nobody named follows from the labels.
    ranges = [pair if np.isfinite(pair).all() else None for pair in targets.ranges.tolist()]
    recipes = {id(job.recipe): flat_recipe(job.recipe) for job in jobs}
    keys = []
    for job in jobs:
        record = {
            "data": data.hexdigest(),
            "recipe": recipes[id(job.recipe)],
            "seed": job.seed,
            "fold": job.fold,
            "target": digest("labels", job.target, job.fold),
            "range": ranges[job.target],
            "precision": precision,
            "version": 2,
        }
        if targets.pairs is not None:
            record["pairs"] = _of_axis(targets.pairs, targets.axes[job.target])
            if job.recipe.takes("loss"):
                record["drawn"] = drawn(job.target, bool(job.recipe.loss.on_pairs.terms))
        if targets.source is not None:
            record["sources"] = hashlib.sha256(targets.source.numpy().tobytes()).hexdigest()
        if job.recipe.head.output == "gaussian":
            record["spread"] = digest("spread", job.target, job.fold)
        keys.append(hashlib.sha256(canonical_json(record).encode()).hexdigest())
    return keys


def _of_axis(pairs: Pairs, axis: int) -> str:
    """Return the sha256 of what can be learned of the pairs on an axis."""
    mine, digest = pairs.on([axis]), hashlib.sha256()
    for part in (mine.clips, mine.winner, mine.weight):
        digest.update(part.tobytes())
    return digest.hexdigest()
