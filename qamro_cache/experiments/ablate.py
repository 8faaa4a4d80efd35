"""Train every cell of a grid on the same folds at once, and compare them honestly."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qamro_cache.cache.reader import Cache
from qamro_cache.datasets.raters import subsampled_means
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.baselines import ridge, train_mean
from qamro_cache.evaluation.score import json_text
from qamro_cache.experiments.data import Material, load_material
from qamro_cache.experiments.done import keep, read_done
from qamro_cache.experiments.early import check_ablate
from qamro_cache.experiments.files import write_text
from qamro_cache.experiments.folds import default_cv, make_folds, wants_inner
from qamro_cache.experiments.grid import Cell, Grid, cells_of
from qamro_cache.experiments.tables import Outcome, write_tables
from qamro_cache.experiments.train import check_head, clip_vectors, warn_of_small_sets
from qamro_cache.identity import canonical_json
from qamro_cache.training.fit import ProgressCallback, fit
from qamro_cache.training.inputs import Bools, Folds, Targets
from qamro_cache.training.recipe import Job, flat_settings
from qamro_cache.training.schedule import make_schedule, pair_coverage, passes_notice

logger = logging.getLogger("qamro_cache")


@dataclass(frozen=True)
class Plan:
    """The heads of one material: jobs, what each belongs to, and a key that names its result.

    Attributes:
        material: clips and features.
        folds: shared by all jobs.
        targets: labels, a row for each that some job learns from.
        jobs: the heads.
        cells: position of each job's cell in the grid.
        axes: each job's axis.
        keys: sha256 of everything that decides a job's result.
    """

    material: Material
    folds: Folds
    targets: Targets
    jobs: list[Job]
    cells: list[int]
    axes: list[int]
    keys: list[str]


def ablate(
    caches: str | Path | Sequence[str | Path] | Sequence[Cache],
    out: str | Path,
    *,
    grid: Grid,
    axis: Sequence[str] = (),
    labels: Path | None = None,
    seeds: int = 5,
    cv: str = "",
    stop: str = "",
    resamples: int = 1000,
    device: str = "",
    precision: str = "float32",
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Train all cells x seeds x folds x axes in stacks and write the tables that compare them.

    Results are kept in ``out/done`` as each stack finishes; the same call goes on from there.

    Args:
        caches: cache files. Those of one identity are parts of one cache; those of different
            ones are compared: each cell is trained on each, on the clips that all have. Or
            open caches of different identities.
        out: folder for ``results.csv``, ``summary.csv``, ``best.json`` and ``config.json``.
        grid: the cells.
        axis: axes; empty for all.
        labels: a label file in place of the caches' labels.
        seeds: heads a cell, fold and axis.
        cv: as in `train`, for cells that don't name their own.
        stop: as in `train`.
        resamples: bootstrap draws of the intervals.
        device: torch device; empty: a GPU if there is one.
        precision: see `fit`.
        progress: see `fit`.

    Returns:
        What ``best.json`` holds.

    Raises:
        QamroError: a cache, label file or grid cannot be used.
    """
    out = Path(out)
    by_encoder = check_ablate(caches, out, grid=grid, axis=axis, labels=labels, seeds=seeds, cv=cv)
    (out / "done").mkdir(parents=True, exist_ok=True)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    cells = cells_of(grid)
    common = _common_clips(by_encoder)
    varied = {name for cell in cells for name in cell.names}
    outcomes: list[Outcome] = []
    config: dict[str, Any] = {
        "seeds": seeds,
        "device": device,
        "precision": precision,
        "materials": [],
    }
    for cache in by_encoder:
        for (feature, text, own_cv), members in _by_material(cells).items():
            material = load_material(
                cache, axes=axis, labels=labels, feature=feature, text=text, only=common
            )
            chosen = [(place, cells[place]) for place in members]
            held_out = own_cv or cv or default_cv(material.clips, _known(material))
            plan, question = _plan(material, chosen, seeds, held_out, stop, precision)
            warn_of_small_sets(material, plan.folds)
            _train_missing(plan, out / "done", device, precision, progress)
            origin = {"encoder": material.encoder} if len(by_encoder) > 1 else {}
            # What baselines depend on too.
            reads = {"feature": material.feature, "cv": held_out}
            origin |= {name: value for name, value in reads.items() if name in varied}
            outcomes += _outcomes(plan, out / "done", origin, cells)
            outcomes += _baselines(plan, origin)
            config["materials"].append(
                {
                    "dataset": material.dataset,
                    "synthetic": material.synthetic,
                    "encoder": material.encoder,
                    "identity_sha256": material.identity_sha256,
                    "feature": material.feature,
                    "split": question,
                    "heads": len(plan.jobs),
                }
            )
    config["cells"] = [{**cell.names, "recipe": flat_settings(cell.recipe)} for cell in cells]
    write_text(out / "config.json", json_text(config))
    synthetic = any(item["synthetic"] for item in config["materials"])
    return write_tables(out, outcomes, synthetic, resamples)


def _known(material: Material) -> Bools:
    known: Bools = np.isfinite(material.labels.mean).any(1)
    return known


def _common_clips(caches: Sequence[Cache]) -> frozenset[str] | None:
    """Return the clips that every cache has features of; None for a single cache."""
    if len(caches) == 1:
        return None
    sets = [set(c.clips["clip_id"][c.clips["status"] == "ok"]) for c in caches]
    common = frozenset.intersection(*map(frozenset, sets))
    if not common:
        raise QamroError("the caches have no clip in common")
    lost = max(len(one) for one in sets) - len(common)
    if lost:
        logger.warning("comparing on the %d clips that all caches have", len(common))
    return common


def _by_material(cells: Sequence[Cell]) -> dict[tuple[str, bool, str], list[int]]:
    """Group cells by what they read of a cache (the feature, whether prompts), and by folds."""
    groups: dict[tuple[str, bool, str], list[int]] = {}
    for place, cell in enumerate(cells):
        key = (cell.feature, cell.recipe.head.inputs != "audio", cell.cv)
        groups.setdefault(key, []).append(place)
    return groups


def _plan(
    material: Material,
    cells: Sequence[tuple[int, Cell]],
    seeds: int,
    cv: str,
    stop: str,
    precision: str,
) -> tuple[Plan, str]:
    for _, cell in cells:
        check_head(cell.recipe.head, material)
    known = _known(material)
    folds, question = make_folds(material.clips, cv, known, inner=wants_inner(cv, stop))
    notice = passes_notice(int(folds.train.sum(1).min()), cells[0][1].recipe.batch_size)
    if notice:
        logger.info(notice)
    base = material.targets()
    # A row of targets for every axis, and one for every axis, number of raters and seed.
    rows: dict[tuple[int, int, int], int] = {(a, 0, 0): a for a in range(len(material.axes))}
    labels = list(base.labels.numpy())
    jobs, places, axes = [], [], []
    for place, cell in cells:
        for a in range(len(material.axes)):
            for seed in range(seeds):
                key = (a, cell.raters, seed if cell.raters else 0)
                if key not in rows:
                    rows[key] = len(labels)
                    labels.append(subsampled_means(material.labels, a, cell.raters, seed))
                for fold in range(len(folds.train)):
                    jobs.append(Job(cell.recipe, seed, fold, rows[key]))
                    places.append(place)
                    axes.append(a)
    axis_of_row = [key[0] for key, _ in sorted(rows.items(), key=lambda item: item[1])]
    targets = Targets(torch.from_numpy(np.stack(labels)), base.ranges[axis_of_row])
    return Plan(
        material,
        folds,
        targets,
        jobs,
        places,
        axes,
        _keys(material, folds, targets, jobs, precision),
    ), question


def _keys(
    material: Material, folds: Folds, targets: Targets, jobs: Sequence[Job], precision: str
) -> list[str]:
    """Name each job's result by all that decides it."""
    data = hashlib.sha256()
    for part in (
        material.identity_sha256,
        material.feature,
        material.text_feature,
        "\n".join(material.clips["clip_id"]),
        "\n".join(material.clips["system"]),
    ):
        data.update(hashlib.sha256(part.encode()).digest())
    # The embeddings too: other sounds may stand behind the same names.
    for values in material.features:
        if values is not None:
            data.update(hashlib.sha256(values.contiguous().numpy().data).digest())
    for mask in (folds.train, folds.validation, folds.test):
        data.update(np.packbits(mask).tobytes())
    rows = [hashlib.sha256(row.numpy().tobytes()).hexdigest() for row in targets.labels]
    ranges = targets.ranges.tolist()
    recipes = {id(job.recipe): flat_settings(job.recipe) for job in jobs}
    keys = []
    for job in jobs:
        record = {
            "data": data.hexdigest(),
            "recipe": recipes[id(job.recipe)],
            "seed": job.seed,
            "fold": job.fold,
            "target": rows[job.target],
            "range": ranges[job.target],
            "precision": precision,
            "version": 1,
        }
        keys.append(hashlib.sha256(canonical_json(record).encode()).hexdigest())
    return keys


def _train_missing(
    plan: Plan, folder: Path, device: str, precision: str, progress: ProgressCallback | None
) -> None:
    """Train the jobs that have no result yet, and keep each stack's results when it is done."""
    done = read_done(folder)
    missing = [k for k, key in enumerate(plan.keys) if key not in done]
    if not missing:
        return
    if len(missing) < len(plan.jobs):
        logger.info(
            "%d of %d heads are done already", len(plan.jobs) - len(missing), len(plan.jobs)
        )
    jobs = [plan.jobs[k] for k in missing]
    try:
        for where, result in fit(
            plan.material.features,
            plan.targets,
            plan.folds,
            jobs,
            device=device,
            precision=precision,
            weights=False,
            progress=progress,
        ):
            heads = [missing[k] for k in where]
            test = plan.folds.test[[plan.jobs[k].fold for k in heads]]
            keep(folder, [plan.keys[k] for k in heads], test, result)
    except ValueError as error:
        raise QamroError(str(error)) from error


def _outcomes(
    plan: Plan, folder: Path, origin: Mapping[str, str], cells: Sequence[Cell]
) -> list[Outcome]:
    """Pool the folds of each cell, axis and seed."""
    done = read_done(folder)
    groups: dict[tuple[int, int], dict[int, list[int]]] = {}
    for k, job in enumerate(plan.jobs):
        by_seed = groups.setdefault((plan.cells[k], plan.axes[k]), {})
        by_seed.setdefault(job.seed, []).append(k)
    coverage = _Coverage(plan)
    test = plan.folds.test.any(0)
    outcomes = []
    for (cell, axis), by_seed in groups.items():
        predictions = np.full((len(by_seed), len(test)), np.nan)
        details: dict[str, list[float]] = {
            name: [] for name in ("best_epoch", "diverged", "stability", "pair_coverage")
        }
        for row, heads in enumerate(by_seed.values()):
            results = [done[plan.keys[k]] for k in heads]
            for k, one in zip(heads, results, strict=True):
                held = plan.folds.test[plan.jobs[k].fold]
                predictions[row, held] = one["predictions"][held]
            details["best_epoch"].append(float(np.median([r["best_epoch"] for r in results])))
            details["diverged"].append(float(sum(bool(r["diverged"]) for r in results)))
            details["stability"].append(float(np.mean([r["stability"] for r in results])))
            details["pair_coverage"].append(coverage.of(heads))
        outcomes.append(
            Outcome(
                {**origin, **cells[cell].names},
                "head",
                plan.material.axes[axis].name,
                list(by_seed),
                predictions,
                np.where(test, plan.material.labels.mean[:, axis], np.nan),
                plan.material.systems(),
                {name: np.array(values) for name, values in details.items()},
            )
        )
    return outcomes


def _baselines(plan: Plan, origin: Mapping[str, str]) -> list[Outcome]:
    """Predict the same held-out clips by ridge and by the training mean."""
    material, folds = plan.material, plan.folds
    learned, test = folds.train | folds.validation, folds.test.any(0)
    vectors = clip_vectors(material)
    outcomes = []
    for axis, info in enumerate(material.axes):
        truth = material.labels.mean[:, axis]
        for model, predictions in (
            ("ridge", ridge(vectors, truth, learned, folds.test)),
            ("train mean", train_mean(truth, learned, folds.test)),
        ):
            target = np.where(test, truth, np.nan)
            outcomes.append(
                Outcome(dict(origin), model, info.name, [0], predictions[None], target,
                        material.systems(), {})
            )  # fmt: skip
    return outcomes


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
        # Another seed's own batches differ only by chance: the first seed stands for all.
        key = (recipe.batch_size, recipe.batches, job.fold, job.target)
        if key not in self.known:
            schedule, (order,) = make_schedule(plan.folds, plan.targets, [job])
            labels = plan.targets.labels[job.target].numpy()
            train = plan.folds.train[job.fold]
            self.known[key] = pair_coverage(schedule, order, labels, train, 1)
        return self.known[key]
