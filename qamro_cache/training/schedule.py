"""Which clips make up each step's batch: decided by seeds alone, never by a head or a label."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qamro_cache.training.inputs import Bools, Folds, Targets
from qamro_cache.training.recipe import Job

Indices = npt.NDArray[np.int64]

#: An epoch has at least this many steps: a small set is passed over several times. MusicEval's
#: 1,634 training clips make 7 steps of 256, the size that the paper's patience is meant for.
MIN_STEPS = 8


@dataclass(frozen=True)
class Schedule:
    """Batches of one or several orders in lockstep; step s has the same width in every epoch.

    Attributes:
        pools: the clips of each order, one array an order.
        seeds: of each order.
        batch_size: clips a step.
        length: entries of a pass: at least the longest pool.
        passes: over its pool that make up an epoch.
    """

    pools: tuple[Indices, ...]
    seeds: tuple[int, ...]
    batch_size: int
    length: int
    passes: int

    def epoch(self, number: int) -> list[tuple[Indices, Bools]]:
        """Return each step's clips [orders, b] and which of them count [orders, b].

        A pool shorter than ``length`` ends in entries that do not count.
        """
        steps = []
        for turn in range(number * self.passes, (number + 1) * self.passes):
            clips = np.zeros((len(self.pools), self.length), np.int64)
            valid = np.zeros((len(self.pools), self.length), np.bool_)
            for row, (pool, seed) in enumerate(zip(self.pools, self.seeds, strict=True)):
                # A counter-based generator: any pass can be drawn without those before it.
                random = np.random.Generator(np.random.Philox(key=[seed, turn]))
                clips[row, : len(pool)] = random.permutation(pool)
                valid[row, : len(pool)] = True
            for start in range(0, self.length, self.batch_size):
                part = slice(start, start + self.batch_size)
                steps.append((clips[:, part], valid[:, part]))
        return steps


def passes_per_epoch(clips: int, batch_size: int) -> int:
    """Return how many passes over ``clips`` make an epoch of at least MIN_STEPS steps."""
    return -(-MIN_STEPS // -(-clips // batch_size))


def passes_notice(clips: int, batch_size: int) -> str:
    """Say that an epoch is several passes over ``clips``, where it is; else nothing."""
    passes = passes_per_epoch(clips, batch_size)
    if passes == 1:
        return ""
    steps = -(-clips // batch_size)
    return (
        f"{clips} training clips make {steps} step{'s' * (steps != 1)} of {batch_size}: "
        f"an epoch is {passes} passes, for at least {MIN_STEPS} steps"
    )


def make_schedule(
    folds: Folds, targets: Targets, jobs: Sequence[Job], order_seed: int = 0
) -> tuple[Schedule, list[int]]:
    """Return the batches of a bucket's jobs and the order that each job follows.

    Shared: one order over the clips that any fold trains on. Own: one for each seed, fold and
    set of labeled clips, of the clips that this head trains on.
    """
    recipe = jobs[0].recipe
    if recipe.batches == "shared":
        pool = np.flatnonzero(folds.train.any(0))
        passes = passes_per_epoch(len(pool), recipe.batch_size)
        schedule = Schedule((pool,), (order_seed,), recipe.batch_size, len(pool), passes)
        return schedule, [0] * len(jobs)
    known = {
        (job.target, job.fold): targets.of(job.target, job.fold).isfinite().cpu().numpy()
        for job in jobs
    }
    keys = [(job.seed, job.fold, known[job.target, job.fold].tobytes()) for job in jobs]
    first = {key: h for h, key in reversed(list(enumerate(keys)))}
    names = sorted(first)
    some = [jobs[first[key]] for key in names]
    pools = [np.flatnonzero(folds.train[job.fold] & known[job.target, job.fold]) for job in some]
    # Lockstep for the largest fold of the set, whoever the neighbors are.
    largest = int(folds.train.sum(1).max())
    passes = passes_per_epoch(largest, recipe.batch_size)
    seeds = tuple(order_seed + 1 + key[0] for key in names)
    schedule = Schedule(tuple(pools), seeds, recipe.batch_size, largest, passes)
    return schedule, [names.index(key) for key in keys]


def comparable_pairs(labels: npt.NDArray[np.float64]) -> int:
    """Count the pairs of different labels among ``labels`` [N]; NaN takes part in none."""
    known = labels[np.isfinite(labels)]
    ties = np.unique(known, return_counts=True)[1].astype(np.int64)
    return int((len(known) * (len(known) - 1) - (ties * (ties - 1)).sum()) // 2)


def pair_coverage(
    schedule: Schedule,
    order: int,
    labels: npt.NDArray[np.float64],
    train: Bools,
    epochs: int,
) -> float:
    """Return the share of all comparable training pairs that meet in a pass over the clips.

    Args:
        schedule: of the head.
        order: the head's.
        labels: [C], NaN where a clip has none.
        train: [C] the head's training clips.
        epochs: how many epochs to average over, from the first.

    Returns:
        The mean over the passes of these epochs; NaN where no two training labels differ.
    """
    known = np.where(train, labels, np.nan)
    total = comparable_pairs(known)
    if total == 0:
        return float("nan")
    seen = sum(
        comparable_pairs(np.where(valid[order], known[clips[order]], np.nan))
        for number in range(epochs)
        for clips, valid in schedule.epoch(number)
    )
    return seen / total / epochs / schedule.passes
