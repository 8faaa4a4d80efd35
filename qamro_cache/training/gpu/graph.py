"""An epoch as one CUDA graph: captured once, replayed with other batches."""

import logging

import numpy as np
import torch

from qamro_cache.losses.qamro import static_shapes
from qamro_cache.training.batches import Batch, Batches, TrainEpoch
from qamro_cache.training.gpu.ahead import Ahead, epoch_table

logger = logging.getLogger("qamro_cache")


class GraphEpochs:
    """Runs epochs of a stack on a GPU, without waiting for them.

    The first epoch runs eagerly, on the stream that captures: it sets up cuBLAS' workspaces and
    compiles kernels, neither of which a capture may do. The second is captured (which runs
    nothing) and replayed, as all later ones are. The batches stand in one buffer that is
    overwritten on the device before each replay; everything else that changes lives in the
    stack's tensors.
    """

    look_every = 10

    def __init__(self, train: TrainEpoch, batches: Batches) -> None:
        self.train, self.source, device = train, batches, batches.device
        self.graph: torch.cuda.CUDAGraph | None = None
        self.eager = False
        self.warm = False
        self.stream = torch.cuda.Stream(device)
        first = batches.schedule.epoch(0)
        self.ahead = Ahead(batches)
        self.buffer = torch.from_numpy(epoch_table(batches, 0)).to(device)
        # Shapes and code paths must be those of every epoch: a step that leaves some head
        # without a sample takes the general path, so all do if any may.
        everybody = batches.nobody_starves()
        self.batches, start = [], 0
        for (clips, valid), pairs in zip(first, batches.schedule.pairs_a_step(), strict=True):
            stop = start + clips.shape[1]
            counted = torch.from_numpy(np.ascontiguousarray(valid)).to(device)
            cap = batches.row_cap(clips.shape[1] - pairs, pairs)
            taken = self.buffer[:, start:stop]
            self.batches.append(Batch(taken, counted, everybody, cap, pairs))
            start = stop

    def run(self, number: int) -> None:
        """Train one epoch."""
        clips = self.ahead.take(number)
        outside = torch.cuda.current_stream(self.source.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            self.buffer.copy_(clips)
            if self.warm and not self.eager and self.graph is None:
                self.graph = self._capture()
                self.eager = self.graph is None
            if self.graph is not None:
                self.graph.replay()
            else:
                with static_shapes():
                    self.train(self.batches)
                self.warm = True
        outside.wait_stream(self.stream)

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        # A graph's memory is its own: what is only cached is given back where little else is free.
        # `torch.cuda.graph` always does, which takes longer than a small grid's epochs.
        device = self.source.device
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        if cached > torch.cuda.mem_get_info(device)[0] / 4:
            torch.cuda.empty_cache()
        try:
            with static_shapes():
                graph.capture_begin()
                try:
                    self.train(self.batches)
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            if any(isinstance(e, torch.OutOfMemoryError) for e in (error, error.__context__)):
                raise torch.OutOfMemoryError(str(error)) from None
            logger.warning("training without a CUDA graph, which is slower: %s", error)
            return None
        return graph
