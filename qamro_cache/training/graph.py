"""An epoch as one CUDA graph: captured once, replayed with other batches."""

import logging

import torch

from qamro_cache.training.stack import Batch, Stack

logger = logging.getLogger("qamro_cache")


class EpochGraph:
    """Runs epochs of a stack on a GPU.

    The first epoch runs eagerly, on the stream that captures: it sets up cuBLAS' workspaces and
    compiles kernels, neither of which a capture may do. The second is captured (which runs
    nothing) and replayed, as all later ones are. The batches stand in fixed buffers that are
    overwritten before each replay; everything else that changes lives in the stack's tensors.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream(stack.device)
        self.eager_epochs = 1
        self.buffers: list[Batch] = []
        first = stack.batches(0)
        self.caps = [stack.row_cap(batch.clips.shape[1]) for batch in first]
        # Shapes and code paths must be those of every epoch: a step that leaves some head
        # without a sample takes the general path, so all do if any may.
        self.everybody = stack.nobody_starves()

    def run(self, epoch: int) -> None:
        """Train one epoch, without waiting for it."""
        stack = self.stack
        batches = [batch._replace(everybody=self.everybody) for batch in stack.batches(epoch)]
        if not self.buffers:
            self.buffers = [
                Batch(batch.clips.clone(), batch.valid.clone(), self.everybody) for batch in batches
            ]
        for buffer, batch in zip(self.buffers, batches, strict=True):
            buffer.clips.copy_(batch.clips, non_blocking=True)
            buffer.valid.copy_(batch.valid, non_blocking=True)
        self.stream.wait_stream(torch.cuda.current_stream(stack.device))
        with torch.cuda.stream(self.stream):
            if self.eager_epochs:
                stack.train_epoch(self.buffers, self.caps)
                self.eager_epochs -= 1
            else:
                if self.graph is None:
                    self.graph = self._capture()
                if self.graph is None:
                    stack.train_epoch(self.buffers, self.caps)
                else:
                    self.graph.replay()
        torch.cuda.current_stream(stack.device).wait_stream(self.stream)

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.stack.train_epoch(self.buffers, self.caps)
        except RuntimeError as error:
            logger.warning("training without a CUDA graph, which is slower: %s", error)
            self.eager_epochs = 1 << 30
            return None
        return graph
