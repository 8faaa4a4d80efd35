"""A stack's batches on its device, and its epochs run one step after another."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from qamro_cache.training.inputs import Bools
from qamro_cache.training.schedule import Indices, Schedule


class Batch(NamedTuple):
    """One step's clips.

    Attributes:
        clips: [orders, b]; as it is drawn, a pair is one entry, and its number stands behind those
            of all clips.
        valid: [orders, entries] bool, which of them count.
        everybody: every head has a sample among them.
        row_cap: rows to make room for, see `take_rows`.
        pairs: how many entries are pairs: the last ones.
        compared: [orders, pairs] their numbers; None until `Batches.both`.
    """

    clips: Tensor
    valid: Tensor
    everybody: bool
    row_cap: int | None = None
    pairs: int = 0
    compared: Tensor | None = None


class Batches:
    """The batches of a stack's heads, whether or not they still run."""

    def __init__(
        self,
        schedule: Schedule,
        orders: Sequence[int],
        train: Tensor,
        offsets: Tensor | None,
        epochs: int,
        ends: Tensor | None = None,
    ) -> None:
        """Take the order [H] and the training entries [H, C + P] of each head.

        Args:
            schedule: of the stack.
            orders: of the schedule, a head each.
            train: bool, on the device that trains.
            offsets: [C+1] rows of each clip; None where a row is a clip.
            epochs: at most.
            ends: [2, P] both clips of each pair; None without pairs.
        """
        self.schedule, self.offsets, self.epochs = schedule, offsets, epochs
        self.device, self.ends = train.device, ends
        self.num_clips = train.shape[1] - (0 if ends is None else ends.shape[1])
        # Which entries count for whom, once for each kind of head: asked at every step.
        usable = train.cpu().numpy()
        self.usable = {(order, usable[h].tobytes()): usable[h] for h, order in enumerate(orders)}

    def epoch(self, number: int) -> list[Batch]:
        """Return the steps of an epoch."""
        drawn = zip(self.schedule.epoch(number), self.schedule.pairs_a_step(), strict=True)
        return [
            Batch(
                torch.from_numpy(np.ascontiguousarray(entries)).to(self.device),
                torch.from_numpy(np.ascontiguousarray(valid)).to(self.device),
                self._everybody(entries, valid),
                pairs=pairs,
            )
            for (entries, valid), pairs in drawn
        ]

    def both(self, batch: Batch) -> Batch:
        """Return a batch with both clips of each pair: all a's behind the clips, then all b's."""
        if not batch.pairs or self.ends is None:
            return batch
        first = batch.clips.shape[1] - batch.pairs
        pairs = (batch.clips[:, first:] - self.num_clips).clamp_min(0).long()
        clips = torch.cat([batch.clips[:, :first], self.ends[0][pairs], self.ends[1][pairs]], 1)
        return batch._replace(clips=clips, compared=pairs)

    def row_cap(self, clips: int, pairs: int = 0) -> int | None:
        """Return the most rows of ``clips`` clips and of ``pairs`` pairs, which may share clips.

        None where a row is a clip.
        """
        if self.offsets is None:
            return None
        rows = self.offsets.diff().sort(descending=True).values
        return int(rows[:clips].sum()) + 2 * pairs * int(rows[0])

    def nobody_starves(self) -> bool:
        """Return whether every head has a valid sample in every step of every epoch."""
        first, orders = self.schedule.epoch(0), len(self.schedule.seeds)
        pools = [self.schedule.entries(order) for order in range(orders)]
        narrowest = [min(int(valid[order].sum()) for _, valid in first) for order in range(orders)]
        # A step wider than all of a head's held-out entries cannot miss its others.
        if all(
            int((~mask[pools[order]]).sum()) < narrowest[order]
            for (order, _), mask in self.usable.items()
        ):
            return True
        epochs = (self.schedule.epoch(number) for number in range(self.epochs))
        return all(self._everybody(*step) for steps in epochs for step in steps)

    def _everybody(self, clips: Indices, valid: Bools) -> bool:
        return all(
            bool((mask[clips[order]] & valid[order]).any())
            for (order, _), mask in self.usable.items()
        )


#: Takes every step of an epoch and judges the heads.
TrainEpoch = Callable[[Sequence[Batch]], None]


class EpochRunner(Protocol):
    """Runs a stack's epochs; ``look_every`` is how many until it is worth looking at the heads."""

    look_every: int

    def run(self, number: int) -> None:
        """Train one epoch."""


class EagerEpochs:
    """Runs epochs step by step."""

    look_every = 1

    def __init__(self, train: TrainEpoch, batches: Batches) -> None:
        self.train, self.batches = train, batches

    def run(self, number: int) -> None:
        """Train one epoch."""
        self.train(self.batches.epoch(number))
