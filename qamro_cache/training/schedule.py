"""Which clips and pairs are each step's batch: decided by seeds, never by a head or a label."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from qamro_cache.training.inputs import Bools, Folds, Targets
from qamro_cache.training.recipe import Job, Recipe

Indices = npt.NDArray[np.int64]

#: An epoch has at least this many steps: a small set is passed over several times. MusicEval's
#: 1,634 training clips make 7 steps of 256, the size that the paper's patience is meant for.
MIN_STEPS = 8


#: Pairs are drawn by seeds of their own.
_OF_PAIRS = 1 << 40


@dataclass(frozen=True)
class Schedule:
    """Batches of one or several orders in lockstep; step s has the same width in every epoch.

    What is drawn are entries: rated clips, and behind them pairs, numbered on from the last clip.
    A step has as many of each as there are of all.

    Attributes:
        pools: the clips of each order, one array an order.
        seeds: of each order.
        batch_size: entries a step.
        length: clips of a pass: at least the longest pool.
        passes: over its pools that make up an epoch.
        pairs: the pairs of each order, as entries; empty where there are none.
        pair_length: pairs of a pass: at least the longest pool of them.
    """

    pools: tuple[Indices, ...]
    seeds: tuple[int, ...]
    batch_size: int
    length: int
    passes: int
    pairs: tuple[Indices, ...] = ()
    pair_length: int = 0

    def epoch(self, number: int) -> list[tuple[Indices, Bools]]:
        """Return each step's entries [orders, b], clips first, and which count [orders, b].

        A pool shorter than its length ends in entries that do not count.
        """
        steps = []
        for turn in range(number * self.passes, (number + 1) * self.passes):
            clips = self._drawn(self.pools, self.length, turn, 0)
            pairs = self._drawn(self.pairs, self.pair_length, turn, _OF_PAIRS)
            for part, behind in self._cuts():
                steps.append(
                    (
                        np.concatenate([clips[0][:, part], pairs[0][:, behind]], 1),
                        np.concatenate([clips[1][:, part], pairs[1][:, behind]], 1),
                    )
                    if self.pair_length
                    else (clips[0][:, part], clips[1][:, part])
                )
        return steps

    def pairs_a_step(self) -> list[int]:
        """Return how many entries at the end of each step of an epoch are pairs."""
        return [behind.stop - behind.start for _, behind in self._cuts()] * self.passes

    def entries(self, order: int) -> Indices:
        """Return all entries of an order."""
        pairs = self.pairs[order] if self.pairs else np.zeros(0, np.int64)
        return np.concatenate([self.pools[order], pairs])

    def _drawn(
        self, pools: Sequence[Indices], length: int, turn: int, kind: int
    ) -> tuple[Indices, Bools]:
        drawn = np.zeros((len(pools), length), np.int64)
        valid = np.zeros((len(pools), length), np.bool_)
        # A counter-based generator: any pass can be drawn without those before it. One serves all:
        # to make one takes as long as the shuffle.
        philox = np.random.Philox(key=0)
        random, fresh = np.random.Generator(philox), philox.state
        for row, (pool, seed) in enumerate(zip(pools, self.seeds, strict=False)):
            fresh["state"]["key"][:] = seed + kind, turn
            philox.state = fresh
            drawn[row, : len(pool)] = random.permutation(pool)
            valid[row, : len(pool)] = True
        return drawn, valid

    def _cuts(self) -> list[tuple[slice, slice]]:
        """Return each step's clips and pairs of a pass."""
        total = self.length + self.pair_length
        steps = -(-total // self.batch_size)

        def edges(length: int) -> list[int]:
            if length in (0, total):
                return [min(k * self.batch_size, length) for k in range(steps + 1)]
            return [k * length // steps for k in range(steps + 1)]

        clips, pairs = edges(self.length), edges(self.pair_length)
        return [
            (slice(*part), slice(*behind))
            for part, behind in zip(pairwise(clips), pairwise(pairs), strict=True)
        ]


def passes_per_epoch(clips: int, batch_size: int) -> int:
    """Return how many passes over ``clips`` make an epoch of at least MIN_STEPS steps."""
    return -(-MIN_STEPS // -(-clips // batch_size))


def passes_notice(clips: int, batch_size: int) -> str:
    """Say that an epoch is several passes over ``clips``, where it is; else nothing."""
    passes = passes_per_epoch(clips, batch_size)
    if passes == 1:
        return ""
    return (
        f"an epoch goes through the {clips} training clips {passes} times, so that it has "
        f"{MIN_STEPS} steps or more at --batch-size {batch_size}"
    )


def make_schedule(
    folds: Folds, targets: Targets, jobs: Sequence[Job], order_seed: int = 0
) -> tuple[Schedule, list[int]]:
    """Return the batches of a bucket's jobs and the order that each job follows.

    Shared: one order over the clips that any fold trains on. Own: one for each seed, fold and
    set of labeled clips, of the clips that this head trains on. Heads that learn from pairs are of
    one target (`buckets`): their batches are the same whatever else is learned beside it.
    """
    recipe, clips, row = jobs[0].recipe, folds.train.shape[1], jobs[0].target
    labeled, paired = bool(recipe.loss.on_labels.terms), bool(recipe.loss.on_pairs.terms)

    def whole(pools: list[Indices], pairs: list[Indices], seeds: list[int]) -> Schedule:
        # Lockstep for the largest fold of the set, whoever the neighbors are.
        sizes = _sizes(folds, targets, recipe, row)
        pools = pools if labeled else [pool[:0] for pool in pools]
        passes = passes_per_epoch(sum(sizes), recipe.batch_size)
        behind = tuple(clips + one for one in pairs) if paired else ()
        first = (tuple(pools), tuple(seeds), recipe.batch_size, sizes[0], passes)
        return Schedule(*first, behind, sizes[1])

    if recipe.batches == "shared":
        drawn = drawn_from(folds, targets, row, paired=paired)
        return whole([drawn[0]], [drawn[1]], [order_seed]), [0] * len(jobs)
    known = {
        (job.target, job.fold): targets.of(job.target, job.fold).isfinite().cpu().numpy()
        for job in jobs
    }
    none = np.zeros(0, np.bool_)
    mine = [targets.pairs_of(j.target, folds.train[j.fold]) if paired else none for j in jobs]
    keys = [
        (job.seed, job.fold, known[job.target, job.fold].tobytes(), one.tobytes())
        for job, one in zip(jobs, mine, strict=True)
    ]
    first = {key: h for h, key in reversed(list(enumerate(keys)))}
    names = sorted(first)
    some = [jobs[first[key]] for key in names]
    pools = [np.flatnonzero(folds.train[job.fold] & known[job.target, job.fold]) for job in some]
    pairs = [np.flatnonzero(mine[first[key]]) for key in names]
    schedule = whole(pools, pairs, [order_seed + 1 + key[0] for key in names])
    return schedule, [names.index(key) for key in keys]


def drawn_from(
    folds: Folds, targets: Targets, row: int, *, paired: bool
) -> tuple[Indices, Indices]:
    """Return the clips and the pairs that shared batches of heads of a row of targets are of.

    Those that some fold trains on. Of heads that learn from pairs (``paired``) only what tells
    something of their own axis; of others, where a clip may be known by pairs alone, those with a
    label on any.
    """
    pool = folds.train.any(0)
    if targets.pairs is not None:
        known = targets.labels.isfinite().cpu().numpy()
        known = known[..., row : row + 1, :] if paired else known
        pool = pool & known.reshape(-1, len(pool)).any(0)
    pairs = targets.pairs_of(row, folds.train).any(0) & paired
    return np.flatnonzero(pool), np.flatnonzero(pairs)


def _sizes(folds: Folds, targets: Targets, recipe: Recipe, row: int) -> tuple[int, int]:
    """Return how many clips and pairs a pass is of: of own batches, in the fold with the most."""
    labeled, paired = bool(recipe.loss.on_labels.terms), bool(recipe.loss.on_pairs.terms)
    if recipe.batches == "own":
        clips = int(folds.train.sum(1).max())
        pairs = int(targets.pairs_of(row, folds.train).sum(1).max())
    else:
        clips, pairs = map(len, drawn_from(folds, targets, row, paired=paired))
    return clips * labeled, pairs * paired


def training_entries(folds: Folds, targets: Targets, recipe: Recipe, row: int) -> int:
    """Return how many entries a pass of such heads of a row of targets goes through.

    Of own batches those of the fold with the most.
    """
    return sum(_sizes(folds, targets, recipe, row))


def steps_per_epoch(folds: Folds, targets: Targets, recipe: Recipe, row: int) -> Indices:
    """Return how many steps an epoch of such heads of a row of targets has in each fold [F].

    Of own batches a smaller fold has fewer: steps in which it has nothing are none.
    """
    length, pair_length = _sizes(folds, targets, recipe, row)
    passes = passes_per_epoch(length + pair_length, recipe.batch_size)
    cuts = Schedule((), (), recipe.batch_size, length, passes, (), pair_length)._cuts()
    if recipe.batches == "shared":
        return np.full(len(folds.train), passes * len(cuts))
    steps = []
    for fold, train in enumerate(folds.train):
        known = targets.of(row, fold).isfinite().cpu().numpy()
        clips = int((train & known).sum()) * bool(recipe.loss.on_labels.terms)
        pairs = int(targets.pairs_of(row, train).sum()) * bool(recipe.loss.on_pairs.terms)
        steps.append(sum(_any(part, clips) or _any(behind, pairs) for part, behind in cuts))
    return passes * np.array(steps, np.int64)


def _any(part: slice, size: int) -> bool:
    """Tell whether a step's part of a pass holds some of the first ``size`` entries."""
    return bool(part.start < min(part.stop, size))


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
        comparable_pairs(known[entries[order][valid[order] & (entries[order] < len(known))]])
        for number in range(epochs)
        for entries, valid in schedule.epoch(number)
    )
    return seen / total / epochs / schedule.passes
