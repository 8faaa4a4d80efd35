"""Folds inside the folds' training clips, by whose heads a cell can be chosen for each fold."""

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from qamro_cache.evaluation.judged import Floats
from qamro_cache.experiments.fitting import kept_bytes, predicted, refuse_heads
from qamro_cache.experiments.folds import keep_for_stopping
from qamro_cache.experiments.parts import Part
from qamro_cache.experiments.plan import Plan, seeds_of
from qamro_cache.experiments.request import AblateRequest
from qamro_cache.memory import refuse_disk, refuse_memory
from qamro_cache.training.inputs import Bools, Folds
from qamro_cache.training.recipe import Job

logger = logging.getLogger("qamro_cache")

Name = TypeVar("Name", bound=Hashable)

#: Parts of a fold's training clips, where the folds themselves are no parts to leave out of them.
_PARTS = 5


def inner_folds(outer: Folds) -> Folds:
    """Return the folds inside other folds' training clips.

    Three folds or more that hold all clips out in turn: two of them are left out at a time, and a
    pair serves both, F(F-1)/2 inner folds. Else (a fixed split, two halves) each fold's training
    clips are cut into five parts, groups staying together.

    Raises:
        QamroError: their masks would not fit in memory.
    """
    learned, held = outer.train | outer.validation, outer.test.any(0)
    count, clips = outer.test.shape
    in_turn = count > 2 and bool((learned == (held & ~outer.test)).all())
    size = count * (count - 1) // 2 if in_turn else _PARTS * count
    refuse_memory(
        8 * size * clips, f"{size:,} inner folds of {clips:,} clips", "use a --cv of fewer folds"
    )
    if in_turn:
        serves: list[tuple[int, ...]] = list(combinations(range(count), 2))
        test = np.stack([outer.test[i] | outer.test[j] for i, j in serves])
        train = held & ~test
    else:
        parts = [parts_of(one, outer.groups) for one in learned]
        cut = [(fold, part) for fold, some in enumerate(parts) for part in some]
        serves = [(fold,) for fold, _ in cut]
        test = np.stack([part for _, part in cut])
        train = np.stack([learned[fold] & ~part for fold, part in cut])
    validation = np.zeros_like(train)
    if outer.validation.any():
        kept = [keep_for_stopping(one, outer.groups, k) for k, one in enumerate(train)]
        validation = np.stack(kept)
    made = train & ~validation, validation, test
    return Folds(*made, groups=outer.groups, outer=outer, serves=serves)


def parts_of(learned: Bools, groups: npt.NDArray[np.int64] | None) -> list[Bools]:
    """Cut some clips [C] into at most `_PARTS` parts, those of one number staying together."""
    names = np.arange(len(learned)) if groups is None else groups
    order = np.random.default_rng(2).permutation(np.unique(names[learned]))
    return [learned & np.isin(names, order[k::_PARTS]) for k in range(min(_PARTS, len(order)))]


class Trained(NamedTuple):
    """How many heads were trained, and in how many seconds."""

    heads: int
    seconds: float


def heads_of(part: Part, request: AblateRequest) -> int:
    """Return how many heads a part's own folds have."""
    cells = [request.cells[place] for place in part.cells]
    seeds = sum(seeds_of(cell, request.options.seeds) for cell in cells)
    return seeds * len(part.clips.axes) * len(part.held_out.folds.test)


def tell_cost(
    request: AblateRequest, insides: Sequence[Folds | None], what: str = "--nested"
) -> None:
    """Say, before anything is trained, what the heads of inner folds cost.

    Args:
        request: the grid.
        insides: the inner folds of its parts; None: not asked for.
        what: that asks for them.

    Raises:
        QamroError: their results would not fit in memory or on the disk.
    """
    outer = heads = size = disk = 0
    for part, inner in zip(request.parts, insides, strict=True):
        if inner is None:
            continue
        clips = len(part.clips.rows)
        a_fold = heads_of(part, request) // len(part.held_out.folds.test)
        mine = a_fold * len(inner.serves)
        refuse_heads(mine, clips)
        outer, heads = outer + a_fold * len(part.held_out.folds.test), heads + mine
        size, disk = max(size, kept_bytes(mine, clips)), disk + 4 * mine * clips
    if heads:
        refuse_disk(disk, request.out / "done")
        logger.info(
            "%s: %s heads inside the folds, beside the folds' own %s: %.1f times their time, "
            "%.0f MB of memory",
            what,
            f"{heads:,}",
            f"{outer:,}",
            heads / outer,
            size / 1e6,
        )


def tell_time(heads: int, first: Trained) -> None:
    """Say how long the inner heads will take, going by how long the folds' own took."""
    if first.heads:
        seconds = heads * first.seconds / first.heads
        logger.info("inside the folds: %s heads more, about %.0f seconds", f"{heads:,}", seconds)


def inner_predictions(
    plan: Plan, done: Mapping[str, Mapping[str, Any]], outer: Plan
) -> dict[tuple[int, int], Floats]:
    """Put the inner heads' predictions together: (cell, axis) -> `Inside.pred` [F, C].

    Args:
        plan: of the inner folds.
        done: key -> one head's result.
        outer: of the folds that these are inside of, in whose units they come where there are
            several listening tests.
    """
    rows = []
    for job, key, *of in zip(plan.jobs, plan.keys, plan.cells, plan.axes, strict=True):
        pred = predicted(plan.targets, plan.folds, job, done[key])
        rows.append(((of[0], of[1]), job, pred))

    def units(name: tuple[int, int], fold: int, job: Job, pred: Floats) -> Floats:
        # Rows of targets begin with the axes' plain means.
        mine = outer.targets.standard_units(pred, name[1], fold)
        # Of a test that it has not learned from a head scores in standard units as it is.
        return np.where(plan.targets.has_scale(job.target, job.fold), mine, pred)

    return of_outer_folds(plan.folds, rows, units if plan.material.clips.several else None)


def own_labels(plan: Plan, axis: int) -> Floats | None:
    """Return `Inside.own` of an axis: of several tests, labels in each fold's standard units."""
    if not plan.material.clips.several:
        return None
    labels = [plan.targets.of(axis, fold).numpy() for fold in range(len(plan.folds.test))]
    own: Floats = np.stack(labels)
    return own


def of_outer_folds(
    inner: Folds,
    rows: Iterable[tuple[Name, Job, Floats]],
    units: Callable[[Name, int, Job, Floats], Floats] | None = None,
) -> dict[Name, Floats]:
    """Average the seeds of inner heads: name -> predictions [F, C] of each outer fold's own clips.

    Args:
        inner: folds inside others.
        rows: the name, the job and the predictions [C] of each head.
        units: brings a head's predictions to those of an outer fold.
    """
    outer = inner.outer
    assert outer is not None
    total: dict[Name, Floats] = {}
    count: dict[Name, Floats] = {}
    seeds: dict[Name, set[int]] = {}
    for name, job, pred in rows:
        for sums in (total, count):
            sums.setdefault(name, np.zeros(outer.test.shape))
        seeds.setdefault(name, set()).add(job.seed)
        for fold in inner.serves[job.fold]:
            where = inner.test[job.fold] & ~outer.test[fold]
            mine = pred if units is None else units(name, fold, job, pred)
            total[name][fold, where] += mine[where]
            count[name][fold, where] += 1
    return {
        name: np.where(count[name] == len(seeds[name]), sums / len(seeds[name]), np.nan)
        for name, sums in total.items()
    }
