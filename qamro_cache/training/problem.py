"""What a bucket of heads learns from, and in which order it sees the clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qamro_cache.heads.network import Rows, Windows
from qamro_cache.training.recipe import Folds, Job
from qamro_cache.training.schedule import Schedule, passes_per_epoch


@dataclass(frozen=True)
class Problem:
    """What the heads of a bucket learn from, on the device they are trained on.

    Attributes:
        rows: of all clips, not standardized.
        offsets: [C+1] rows of each clip, where rows are windows.
        targets: [T, C] float64 labels in their own units, NaN where a clip has none.
        ranges: [T, 2] the rating scales.
        folds: who may see what.
        systems: [C] int64, -1 for a clip of no system.
        order_seed: of the shared batches.
    """

    rows: Rows
    offsets: Tensor | None
    targets: Tensor
    ranges: Tensor
    folds: Folds
    systems: Tensor
    order_seed: int

    @property
    def num_clips(self) -> int:
        """C."""
        return int(self.targets.shape[1])

    def take(self, values: Tensor, clips: Tensor, cap: int | None = None) -> Rows:
        """Return the rows of ``clips`` [B] out of ``values`` [R, ...].

        Args:
            values: rows of all clips, standardized or not.
            clips: which clips.
            cap: rows to make room for, so that shapes do not depend on the clips and nothing
                waits for the device; None: as many as there are.
        """
        if self.rows.windows is None or self.offsets is None:
            return Rows(values.index_select(0, clips))
        counts = self.offsets.diff().index_select(0, clips)
        through = counts.cumsum(0)
        size = int(through[-1]) if cap is None else cap
        place = torch.arange(size, device=clips.device)
        # Padding belongs to one clip too many and has no weight.
        clip = torch.searchsorted(through, place, right=True)
        real = clip < len(clips)
        inside = clip.clamp_max(len(clips) - 1)
        row = self.offsets[clips[inside]] + place - (through - counts)[inside]
        row = torch.where(real, row, 0)
        weights = torch.where(real, self.rows.windows.weights[row], 0)
        return Rows(values.index_select(0, row), Windows(clip, weights, len(clips) + 1))


def make_schedule(problem: Problem, jobs: Sequence[Job]) -> tuple[Schedule, list[int]]:
    """Return the batches of a bucket's jobs and the order that each job follows.

    Shared: one order over the clips that any fold trains on. Own: one for each seed, fold and
    set of labeled clips, of the clips that this head trains on.
    """
    recipe, folds = jobs[0].recipe, problem.folds
    if recipe.batches == "shared":
        pool = np.flatnonzero(folds.train.any(0))
        passes = passes_per_epoch(len(pool), recipe.batch_size)
        schedule = Schedule((pool,), (problem.order_seed,), recipe.batch_size, len(pool), passes)
        return schedule, [0] * len(jobs)
    known = problem.targets.isfinite().cpu().numpy()
    keys = [(job.seed, job.fold, known[job.target].tobytes()) for job in jobs]
    first = {key: h for h, key in reversed(list(enumerate(keys)))}
    names = sorted(first)
    pools = [
        np.flatnonzero(folds.train[jobs[first[key]].fold] & known[jobs[first[key]].target])
        for key in names
    ]
    # Lockstep for the largest fold of the set, whoever the neighbors are.
    largest = int(folds.train.sum(1).max())
    passes = passes_per_epoch(largest, recipe.batch_size)
    seeds = tuple(problem.order_seed + 1 + key[0] for key in names)
    schedule = Schedule(tuple(pools), seeds, recipe.batch_size, largest, passes)
    return schedule, [names.index(key) for key in keys]


def indices(mask: npt.NDArray[np.bool_], device: torch.device) -> Tensor:
    """Return the positions where ``mask`` is true."""
    return torch.from_numpy(np.flatnonzero(mask)).to(device)
