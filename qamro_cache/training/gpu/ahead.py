"""Batches of epochs to come, drawn by a thread while the device trains, and sent many at once."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qamro_cache.devices import sent
from qamro_cache.training.batches import Batches

Table = npt.NDArray[np.int32]

#: Epochs that are sent in one copy at most, and their bytes: own batches of a thousand heads are
#: megabytes an epoch.
MOST_AHEAD, AHEAD_BYTES = 64, 64 << 20
#: Epochs that the device waits for.
FIRST = 2
#: That draw: a shuffle lets others run beside it.
THREADS = 8


class Ahead:
    """Hands out epochs' batches, in their order.

    The first ones are drawn while the device waits, so they are few; a later block is as long as
    all before it, and drawn by threads while the one before is trained on.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        size = 4 * epoch_table(batches, 0).size
        self.most, self.drawn = max(1, min(MOST_AHEAD, AHEAD_BYTES // size)), 0
        self.pool = ThreadPoolExecutor(THREADS, "qamro-batches")
        self.block, self.first = torch.empty(0, dtype=torch.int32), 0
        self.coming: tuple[int, list[Future[Table]]] | None = None

    def take(self, epoch: int) -> Tensor:
        """Return an epoch's clips [orders, entries] int32 on the device; waits for nothing."""
        if not self.first <= epoch < self.first + len(self.block):
            if self.coming is None or self.coming[0] != epoch:
                self._begin(epoch)
            assert self.coming is not None
            # From pinned memory a copy is queued like any other work. It is not taken by the
            # thread: whatever thread asks the driver for memory, it would break a capture.
            drawn = np.stack([table.result() for table in self.coming[1]])
            self.block = sent(drawn, self.batches.device)
            self.first = epoch
            self._begin(epoch + len(self.block))
        return self.block[epoch - self.first]

    def _begin(self, epoch: int) -> None:
        last = min(epoch + min(self.most, max(FIRST, self.drawn)), self.batches.epochs)
        if epoch < last:
            self.drawn += last - epoch
            numbers = range(epoch, last)
            self.coming = epoch, [self.pool.submit(epoch_table, self.batches, n) for n in numbers]


def epoch_table(batches: Batches, number: int) -> Table:
    """Return an epoch's clips [orders, entries], the steps side by side."""
    steps = [clips for clips, _ in batches.schedule.epoch(number)]
    return np.concatenate(steps, axis=1).astype(np.int32)
