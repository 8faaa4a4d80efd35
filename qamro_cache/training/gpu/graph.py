"""An epoch as one CUDA graph: captured once, replayed with other batches."""

import logging

import numpy as np
import torch
from torch import Tensor

from qamro_cache.training.stack import Batch, Stack

logger = logging.getLogger("qamro_cache")

#: Epochs whose batches are sent to the GPU in one copy.
_AHEAD = 64


class EpochGraph:
    """Runs epochs of a stack on a GPU.

    The first epoch runs eagerly, on the stream that captures: it sets up cuBLAS' workspaces and
    compiles kernels, neither of which a capture may do. The second is captured (which runs
    nothing) and replayed, as all later ones are. The batches stand in one buffer that is
    overwritten on the device before each replay; everything else that changes lives in the
    stack's tensors.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.graph: torch.cuda.CUDAGraph | None = None
        self.eager = False
        self.warm = False
        self.stream = torch.cuda.Stream(stack.device)
        first = stack.schedule.epoch(0)
        clips = np.concatenate([step for step, _ in first], axis=1)
        self.buffer = torch.from_numpy(clips).to(stack.device)
        # Shapes and code paths must be those of every epoch: a step that leaves some head
        # without a sample takes the general path, so all do if any may.
        everybody = stack.nobody_starves()
        self.batches, start = [], 0
        for step, valid in first:
            part = self.buffer[:, start : start + step.shape[1]]
            counted = torch.from_numpy(np.ascontiguousarray(valid)).to(stack.device)
            self.batches.append(Batch(part, counted, everybody))
            start += step.shape[1]
        self.caps = [stack.row_cap(batch.clips.shape[1]) for batch in self.batches]
        self.ahead = self.buffer.new_empty(0)
        self.first_ahead = -_AHEAD

    def run(self, epoch: int) -> None:
        """Train one epoch, without waiting for it."""
        clips = self._clips(epoch)
        self.stream.wait_stream(torch.cuda.current_stream(self.stack.device))
        with torch.cuda.stream(self.stream):
            self.buffer.copy_(clips)
            if self.warm and not self.eager and self.graph is None:
                self.graph = self._capture()
                self.eager = self.graph is None
            if self.graph is not None:
                self.graph.replay()
            else:
                self.stack.train_epoch(self.batches, self.caps)
                self.warm = True
        torch.cuda.current_stream(self.stack.device).wait_stream(self.stream)

    def _clips(self, epoch: int) -> Tensor:
        """Return an epoch's batches [orders, entries], from the GPU's memory."""
        if not self.first_ahead <= epoch < self.first_ahead + len(self.ahead):
            last = min(epoch + _AHEAD, self.stack.max_epochs)
            epochs = (self.stack.schedule.epoch(number) for number in range(epoch, last))
            table = [np.concatenate([step for step, _ in steps], axis=1) for steps in epochs]
            host = torch.from_numpy(np.stack(table).astype(np.int32)).pin_memory()
            self.ahead = host.to(self.stack.device)
            self.first_ahead = epoch
        return self.ahead[epoch - self.first_ahead]

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.stack.train_epoch(self.batches, self.caps)
        except RuntimeError as error:
            logger.warning("training without a CUDA graph, which is slower: %s", error)
            return None
        return graph
