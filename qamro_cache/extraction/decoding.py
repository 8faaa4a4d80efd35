"""Clips on their way to the encoder: decoded in threads, in order, in bounded memory."""

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.audio.shared import SharedSounds
from qamro_cache.audio.windows import Window
from qamro_cache.errors import ClipError, QamroError
from qamro_cache.extraction.estimate import promised_windows
from qamro_cache.extraction.source import SourceFolder
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.units import ClipJob, Unit
from qamro_cache.identity import AudioPolicy
from qamro_cache.memory import keep_freed_memory

#: Bytes of decoded windows that may wait for the batcher, a clip.
CLIP_BYTES = 32 << 20
#: Windows from which a clip is long enough to show how far it is.
LONG_CLIP = 16

Item = TypeVar("Item")


class Stopped(Exception):  # noqa: N818 - not an error: the consumer has gone
    """Nobody wants more."""


@dataclass
class Clip:
    """A clip on its way: its windows as they come, then its end.

    Attributes:
        job: what is to be encoded.
        decoder: of its file.
        queue: windows, then None or why there are no more.
        error: why the clip cannot be used.
        starts: of the windows that were taken, in samples.
        weights: of those, the share that is audio.
        expected: windows that its header promises; None: not asked yet.
    """

    job: ClipJob
    decoder: ClipDecoder
    queue: "queue.Queue[Window | ClipError | QamroError | None]"
    error: ClipError | None = None
    starts: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    expected: int | None = None

    def share(self) -> float:
        """How much of the clip its windows so far are, 0 to 1, by what its header promises.

        For a short clip, which is done soon, the header is not asked: 0.
        """
        if len(self.starts) < LONG_CLIP:
            return 0.0
        if self.expected is None:
            self.expected = promised_windows(self.job.path, self.decoder.policy)
        return min(1.0, len(self.starts) / self.expected) if self.expected else 0.0

    def windows(self, stop: threading.Event) -> Iterator[Window]:
        """Yield the clip's windows as they are decoded; at the end ``error`` says if it failed.

        Raises:
            QamroError: the folder of all clips is gone.
        """
        while isinstance(item := get(self.queue, stop), Window):
            self.starts.append(item.start)
            self.weights.append(item.valid / len(item.samples))
            yield item
        if isinstance(item, ClipError):
            self.error = item
        elif item is not None:
            raise item


class Decoding:
    """Decodes clips ahead of the batcher.

    Args:
        policy: how files become windows.
        workers: threads.
        source: looked at when a file cannot be read: a vanished disk is not a thousand failed
            clips.
        stop: set when nobody wants more.
        stats: the decoding is added to them.
        sounds: of the clips, where other encoders read the same; None: this one is alone.
    """

    def __init__(
        self,
        policy: AudioPolicy,
        workers: int,
        source: SourceFolder,
        stop: threading.Event,
        stats: Stats,
        sounds: SharedSounds | None = None,
    ) -> None:
        import torch

        self.policy, self._workers, self._source = policy, workers, source
        self._stop, self._stats, self._sounds = stop, stats, sounds
        keep_freed_memory()
        # A worker's resampling stays on its own core; the encoder keeps the threads it has.
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(
            workers, "decode", initializer=torch.set_num_threads, initargs=(1,)
        )

    def clips(self, units: Sequence[Unit]) -> Iterator[Clip]:
        """Yield clips in order, with decoding begun on this and the next few."""
        depth = max(2, CLIP_BYTES // (4 * self.policy.window))
        ahead: deque[Clip] = deque()
        for unit in units:
            for job in unit:
                shared = None if self._sounds is None else self._sounds.take(job.path)
                clip = Clip(job, ClipDecoder(job.path, self.policy, shared), queue.Queue(depth))
                self._pool.submit(self._decode, clip)
                ahead.append(clip)
                if len(ahead) > 2 * self._workers:
                    yield ahead.popleft()
        yield from ahead

    def close(self) -> None:
        """End the threads, once ``stop`` is set."""
        import torch

        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._threads)

    def _decode(self, clip: Clip) -> None:
        waited = 0.0
        start = time.monotonic()
        end: ClipError | QamroError | None = None
        try:
            for window in clip.decoder.windows():
                before = time.monotonic()
                put(clip.queue, window, self._stop)
                waited += time.monotonic() - before
        except Stopped:
            return
        except ClipError as error:
            end = error
            if error.code in ("missing", "unreadable"):
                try:
                    self._source.check()
                except QamroError as gone:
                    end = gone
        except QamroError as error:
            end = error
        # Whatever a decoder does on a stranger's file, it costs that clip and not the run.
        except Exception as error:
            end = ClipError("failed", f"{type(error).__name__}: {error}")
        self._stats.add(
            decode_seconds=time.monotonic() - start - waited, audio_seconds=clip.decoder.duration
        )
        with suppress(Stopped):
            put(clip.queue, end, self._stop)


def put(target: "queue.Queue[Item]", item: Item, stop: threading.Event) -> None:
    """Put an item into a bounded queue; raise `Stopped` instead of waiting for ever."""
    while not stop.is_set():
        try:
            target.put(item, timeout=0.1)
            return
        except queue.Full:
            continue
    raise Stopped


def get(source: "queue.Queue[Item]", stop: threading.Event) -> Item:
    """Take the next item of a queue; raise `Stopped` instead of waiting for ever."""
    while not stop.is_set():
        try:
            return source.get(timeout=0.1)
        except queue.Empty:
            continue
    raise Stopped
