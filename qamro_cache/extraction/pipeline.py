"""One encoder's pipeline: decoding threads, a batcher and the encoder, all at once.

    unit -> decoding threads -> a bounded queue of windows a clip -> batcher -> batches -> encoder

The bounds on the queues hold the memory, however long a clip is. A GPU is never waited for at the
end of a unit: while it works on what it was given, the host puts earlier units together.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qamro_cache.audio.check import oddity_of
from qamro_cache.audio.shared import SharedSounds
from qamro_cache.cache.content import CacheContent
from qamro_cache.encoders.runner import Runner
from qamro_cache.errors import QamroError
from qamro_cache.extraction.batches import Batcher, UnitEnd, WindowBatch
from qamro_cache.extraction.compiling import Compiling
from qamro_cache.extraction.contents import unit_content
from qamro_cache.extraction.decoding import Clip, Decoding
from qamro_cache.extraction.source import SourceFolder
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.transfer import CudaTransfer, Transfer
from qamro_cache.extraction.units import Unit

if TYPE_CHECKING:
    from torch import Tensor

    from qamro_cache.encoders.protocol import Encoder


@dataclass(frozen=True)
class Flying:
    """A unit whose features are on their way to the host.

    Attributes:
        clips: of the unit.
        features: name -> parts [B, ...].
        arrive: waits until they are there.
    """

    clips: list[Clip]
    features: "dict[str, list[Tensor]]"
    arrive: Callable[[], None]


class Pipeline:
    """Encodes units on one device.

    Args:
        encoder: in eval mode on ``device``.
        device: of the encoder.
        batch_size: most windows a batch.
        workers: decoding threads.
        stored_dtype: ``float32`` or ``float16``.
        paths: of all clips.
        sounds: see `Decoding`.
    """

    def __init__(
        self,
        encoder: "Encoder",
        device: str,
        batch_size: int,
        workers: int,
        stored_dtype: str,
        paths: Sequence[str],
        sounds: SharedSounds | None = None,
    ) -> None:
        self.encoder, self.device, self.batch_size = encoder, device, batch_size
        self.runner = Runner(encoder, device)
        self.compiling: Compiling | None = None
        self.workers, self.stored_dtype = workers, stored_dtype
        self.source, self.sounds = SourceFolder(paths), sounds
        self.transfer = (CudaTransfer if device.startswith("cuda") else Transfer)(device)
        # Other encoders that read the same files are not left behind, or they decode them again.
        self.ahead = self.transfer.ahead if sounds is None else 0

    def run(self, units: Sequence[Unit], stats: Stats, clips: int = 0) -> Iterator[CacheContent]:
        """Yield the content of each unit, in order.

        Args:
            units: the work.
            stats: what has been done so far is added to them.
            clips: that will come in all, where this is the first of several calls.
        """
        if self.compiling is None:
            clips = clips or sum(map(len, units))
            self.compiling = Compiling(self.runner, self.batch_size, clips)
        stop = threading.Event()
        heard = self.source, stop, stats, self.sounds
        decoding = Decoding(self.encoder.spec.audio, self.workers, *heard)
        batcher = Batcher(decoding, self.batch_size, self.device.startswith("cuda"), stop)
        batcher.start(units)
        try:
            yield from self._encode(batcher, stats)
        finally:
            stop.set()
            batcher.join()
            decoding.close()

    def _encode(self, batcher: Batcher, stats: Stats) -> Iterator[CacheContent]:
        flying: deque[Flying] = deque()
        features = self._no_features()
        failed: Exception | None = None
        try:
            while (item := self._next(batcher, stats)) is not None:
                start = time.monotonic()
                begun = sum(len(unit.clips) for unit in flying)
                if isinstance(item, WindowBatch):
                    for name, values in self._encode_batch(item).items():
                        features[name].append(values)
                    stats.add(encode_seconds=time.monotonic() - start, windows=len(item.windows))
                    stats.move(begun + item.clips_begun)
                    continue
                flying.append(Flying(item.clips, features, self.transfer.mark()))
                features = self._no_features()
                stats.clips_begun = begun + len(item.clips)
                if len(flying) > self.ahead:
                    yield self._landed(flying.popleft(), stats)
        except Exception as error:
            failed = error
        while flying:  # also where the encoder has failed at a later unit
            yield self._landed(flying.popleft(), stats)
        if failed is not None:
            raise failed

    def _next(self, batcher: Batcher, stats: Stats) -> WindowBatch | UnitEnd | None:
        before = time.monotonic()
        item = batcher.next()
        stats.add(wait_seconds=time.monotonic() - before)
        return item

    def _no_features(self) -> "dict[str, list[Tensor]]":
        return {name: [] for name in self.encoder.spec.features}

    def _landed(self, unit: Flying, stats: Stats) -> CacheContent:
        """Wait for a unit's features, and put its content together."""
        start = time.monotonic()
        unit.arrive()
        with self.transfer.beside():  # for the prompts
            content = unit_content(self.encoder, unit.clips, unit.features, self.stored_dtype)
        stats.add(encode_seconds=time.monotonic() - start)
        stats.clips_begun = max(0.0, stats.clips_begun - len(unit.clips))
        for clip, status in zip(unit.clips, content.clips["status"], strict=True):
            stats.add(clips_done=1, failed=status != "ok")
            oddity = oddity_of(clip.decoder.peak, clip.decoder.mixed_peak)
            if status == "ok" and oddity:
                stats.count_odd(oddity, [clip.job.clip_id])
        assert self.compiling is not None
        self.compiling.note(len(unit.clips), stats)
        return content

    def _encode_batch(self, batch: WindowBatch) -> "dict[str, Tensor]":
        """Encode, and start the copy back; on a GPU neither waits for the other."""
        import torch

        spec = self.encoder.spec
        dtype = getattr(torch, self.stored_dtype)
        with torch.inference_mode():
            outputs = self.runner.encode(*self.transfer.there(batch.windows, batch.valid))
            for name, shape in spec.features.items():
                found = tuple(outputs[name].shape) if name in outputs else "nothing"
                if found != (len(batch.windows), *shape):
                    raise QamroError(
                        f"encoder {spec.name} gave {found} as feature {name}, "
                        f"not {(len(batch.windows), *shape)}"
                    )
            return {name: self.transfer.back(outputs[name].to(dtype)) for name in spec.features}
