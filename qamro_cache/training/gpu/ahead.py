"""Batches of epochs to come, drawn by a thread while the device trains, and sent many at once."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from qamro_cache.devices import pinned
from qamro_cache.training.batches import Batches
from qamro_cache.training.schedule import Indices

#: Epochs that are sent in one copy at most, and their bytes: own batches of a thousand heads are
#: megabytes an epoch.
MOST_AHEAD, AHEAD_BYTES = 64, 64 << 20


class Ahead:
    """Hands out epochs' batches, in their order; the first ones are drawn as they are asked for."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        size = 4 * epoch_table(batches, 0).size
        self.many = max(1, min(MOST_AHEAD, AHEAD_BYTES // size))
        self.pool = ThreadPoolExecutor(1, "qamro-batches")
        self.block, self.first = torch.empty(0, dtype=torch.int32), 0
        self.coming: tuple[int, Future[Tensor]] | None = None

    def take(self, epoch: int) -> Tensor:
        """Return an epoch's clips [orders, entries] int32 on the device; waits for nothing."""
        if not self.first <= epoch < self.first + len(self.block):
            if self.coming is None or self.coming[0] != epoch:
                self._begin(epoch)
            assert self.coming is not None
            # From pinned memory a copy is queued like any other work. It is not taken by the
            # thread: whatever thread asks the driver for memory, it would break a capture.
            drawn = self.coming[1].result()
            host = pinned(drawn.shape, drawn.dtype).copy_(drawn)
            self.block = host.to(self.batches.device, non_blocking=True)
            self.first = epoch
            self._begin(epoch + len(self.block))
        return self.block[epoch - self.first]

    def _begin(self, epoch: int) -> None:
        last = min(epoch + self.many, self.batches.epochs)
        if epoch < last:
            self.coming = epoch, self.pool.submit(self._draw, epoch, last)

    def _draw(self, first: int, last: int) -> Tensor:
        tables = [epoch_table(self.batches, number) for number in range(first, last)]
        return torch.from_numpy(np.stack(tables).astype(np.int32))


def epoch_table(batches: Batches, number: int) -> Indices:
    """Return an epoch's clips [orders, entries], the steps side by side."""
    return np.concatenate([clips for clips, _ in batches.schedule.epoch(number)], axis=1)
