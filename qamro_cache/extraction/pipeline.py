"""One encoder's pipeline: decoding threads, a batcher and the encoder, all at once.

    unit -> decoding threads -> a bounded queue of windows a clip -> batcher -> batches -> encoder

The bounds on the queues hold the memory, however long a clip is.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from qamro_cache.audio.check import oddity_of
from qamro_cache.cache.content import CacheContent
from qamro_cache.encoders.runner import Runner
from qamro_cache.errors import QamroError
from qamro_cache.extraction.batches import Batcher, WindowBatch
from qamro_cache.extraction.contents import unit_content
from qamro_cache.extraction.decoding import Decoding
from qamro_cache.extraction.source import SourceFolder
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.units import Unit

if TYPE_CHECKING:
    from torch import Tensor

    from qamro_cache.encoders.protocol import Encoder


class Pipeline:
    """Encodes units on one device.

    Args:
        encoder: in eval mode on ``device``.
        device: of the encoder.
        batch_size: most windows a batch.
        workers: decoding threads.
        stored_dtype: ``float32`` or ``float16``.
        paths: of all clips.
    """

    def __init__(
        self,
        encoder: "Encoder",
        device: str,
        batch_size: int,
        workers: int,
        stored_dtype: str,
        paths: Sequence[str],
    ) -> None:
        self.encoder, self.device, self.batch_size = encoder, device, batch_size
        self.runner: Runner | None = None
        self.workers, self.stored_dtype = workers, stored_dtype
        self.source = SourceFolder(paths)
        self._pinned = device.startswith("cuda")

    def run(self, units: Sequence[Unit], stats: Stats, clips: int = 0) -> Iterator[CacheContent]:
        """Yield the content of each unit, in order.

        Args:
            units: the work.
            stats: what has been done so far is added to them.
            clips: that will come in all, where this is the first of several calls.
        """
        if self.runner is None:
            # A clip is a window at least, which is enough to tell whether compiling pays.
            clips = clips or sum(map(len, units))
            self.runner = Runner(self.encoder, self.device, clips)
        stop = threading.Event()
        decoding = Decoding(self.encoder.spec.audio, self.workers, self.source, stop, stats)
        batcher = Batcher(decoding, self.batch_size, self._pinned, stop)
        batcher.start(units)
        try:
            yield from self._encode(batcher, stats)
        finally:
            stop.set()
            batcher.join()
            decoding.close()

    def _encode(self, batcher: Batcher, stats: Stats) -> Iterator[CacheContent]:
        import torch

        features: dict[str, list[Tensor]] = {name: [] for name in self.encoder.spec.features}
        while True:
            before = time.monotonic()
            item = batcher.next()
            stats.add(wait_seconds=time.monotonic() - before)
            if item is None:
                return
            start = time.monotonic()
            if isinstance(item, WindowBatch):
                for name, values in self._encode_batch(item).items():
                    features[name].append(values)
                stats.add(encode_seconds=time.monotonic() - start, windows=len(item.windows))
                stats.move(item.clips_begun)
                continue
            if self._pinned:
                torch.cuda.synchronize(self.device)
            content = unit_content(self.encoder, item.clips, features, self.stored_dtype)
            stats.add(encode_seconds=time.monotonic() - start)
            stats.clips_begun = 0.0
            for clip, status in zip(item.clips, content.clips["status"], strict=True):
                stats.add(clips_done=1, failed=status != "ok")
                oddity = oddity_of(clip.decoder.peak, clip.decoder.mixed_peak)
                if status == "ok" and oddity:
                    stats.count_odd(oddity, [clip.job.clip_id])
            yield content
            features = {name: [] for name in features}

    def _encode_batch(self, batch: WindowBatch) -> "dict[str, Tensor]":
        """Encode, and start the copy back; on a GPU neither waits for the other."""
        import torch

        spec = self.encoder.spec
        dtype = getattr(torch, self.stored_dtype)
        with torch.inference_mode():
            assert self.runner is not None
            outputs = self.runner.encode(
                batch.windows.to(self.device, non_blocking=True),
                batch.valid.to(self.device, non_blocking=True),
            )
            for name, shape in spec.features.items():
                found = tuple(outputs[name].shape) if name in outputs else "nothing"
                if found != (len(batch.windows), *shape):
                    raise QamroError(
                        f"encoder {spec.name} gave {found} as feature {name}, "
                        f"not {(len(batch.windows), *shape)}"
                    )
            return {
                name: outputs[name].detach().to(dtype).to("cpu", non_blocking=True)
                for name in spec.features
            }
