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
        clips: [orders, b].
        valid: [orders, b] bool, which of them count.
        everybody: every head has a sample among them.
        row_cap: rows to make room for, see `take_rows`.
    """

    clips: Tensor
    valid: Tensor
    everybody: bool
    row_cap: int | None = None


class Batches:
    """The batches of a stack's heads, whether or not they still run."""

    def __init__(
        self,
        schedule: Schedule,
        orders: Sequence[int],
        train: Tensor,
        offsets: Tensor | None,
        epochs: int,
    ) -> None:
        """Take the order [H] and the training clips [H, C] of each head.

        Args:
            schedule: of the stack.
            orders: of the schedule, a head each.
            train: bool, on the device that trains.
            offsets: [C+1] rows of each clip; None where a row is a clip.
            epochs: at most.
        """
        self.schedule, self.offsets, self.epochs = schedule, offsets, epochs
        self.device = train.device
        # Which clips count for whom, once for each kind of head: asked at every step.
        usable = train.cpu().numpy()
        self.usable = {(order, usable[h].tobytes()): usable[h] for h, order in enumerate(orders)}

    def epoch(self, number: int) -> list[Batch]:
        """Return the steps of an epoch."""
        return [
            Batch(
                torch.from_numpy(np.ascontiguousarray(clips)).to(self.device),
                torch.from_numpy(np.ascontiguousarray(valid)).to(self.device),
                self._everybody(clips, valid),
            )
            for clips, valid in self.schedule.epoch(number)
        ]

    def row_cap(self, clips: int) -> int | None:
        """Return the most rows that ``clips`` clips can have; None where a row is a clip."""
        if self.offsets is None:
            return None
        return int(self.offsets.diff().sort(descending=True).values[:clips].sum())

    def nobody_starves(self) -> bool:
        """Return whether every head has a valid sample in every step of every epoch."""
        pools, first = self.schedule.pools, self.schedule.epoch(0)
        narrowest = [
            min(int(valid[order].sum()) for _, valid in first) for order in range(len(pools))
        ]
        # A step wider than all of a head's held-out clips cannot miss its others.
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
