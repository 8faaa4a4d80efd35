"""Which rows the heads of a stack see, and how a batch of them is taken."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qamro_cache.devices import sent
from qamro_cache.heads.network import Rows, take_rows
from qamro_cache.training.batches import Batch

#: Heads of a group for which a GPU gets a product of their own. On an H100 in TF32 copied rows took
#: .76 of the time with 12 heads a group and .90 with 36 (`benchmarks/results/grid-cuda.json`).
FEW_HEADS = 40


class Group(NamedTuple):
    """Consecutive heads that see the same rows."""

    rows: Rows
    heads: slice


class View(NamedTuple):
    """Consecutive heads that see the same rows of all clips, in one order of batches."""

    rows: Rows
    offsets: Tensor | None
    order: int
    heads: slice

    def take(self, batch: Batch) -> Group:
        """Return the rows of the batch's clips."""
        rows = take_rows(self.rows, self.offsets, batch.clips[self.order], batch.row_cap)
        return Group(rows, self.heads)


def stand_in_small_groups(views: Sequence[View]) -> bool:
    """Whether heads on a GPU see rows of so many kinds that a product each would leave it idle."""
    on_gpu = views[0].rows.values.is_cuda
    return on_gpu and len(views) > 1 and views[-1].heads.stop < FEW_HEADS * len(views)


class RowTable:
    """The rows of all views one after another, where a row is a clip: a batch is taken at once.

    Attributes:
        group: [H] the view of each head.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        """Keep rows as ``dtype``; None: as they are."""
        self.dtype = dtype
        self.seen: Sequence[View] = ()
        self.laid: list[int] = []

    def take(self, views: Sequence[View], batch: Batch) -> Tensor:
        """Return the rows [views, B, D] of a batch's clips."""
        if self.seen is not views:
            self._look(views)
        clips = batch.clips[views[0].order]
        if len(views) > 1:
            clips = batch.clips.index_select(0, self.orders) + self.first
        taken = self.rows.index_select(0, clips.flatten())
        return taken.reshape(len(views), -1, taken.shape[1])

    def _look(self, views: Sequence[View]) -> None:
        """Lay out the rows of every view's clips, once."""
        self.seen = views
        tables = {id(view.rows.values): view.rows.values for view in views}
        starts, start = {}, 0
        for key, values in tables.items():
            starts[key] = start
            start += len(values)
        first = views[0].rows.values
        if list(starts) != self.laid:
            # A fold's rows one after another: never twice what they take.
            self.rows = torch.empty(0)
            self.rows = first.new_empty(start, first.shape[1], dtype=self.dtype or first.dtype)
            for key, values in tables.items():
                self.rows[starts[key] :][: len(values)] = values
            self.laid = list(starts)

        heads = [view.heads.stop - view.heads.start for view in views]
        self.orders = sent([view.order for view in views], first.device)
        self.first = sent([starts[id(view.rows.values)] for view in views], first.device)[:, None]
        self.group = sent(np.repeat(np.arange(len(views)), heads), first.device)
