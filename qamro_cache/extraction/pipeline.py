"""One encoder's pipeline: decoding threads, a batcher and the encoder, all at once.

    unit -> decoding threads -> a bounded queue of windows a clip -> batcher -> batches -> encoder

The batcher takes windows in the manifest's order, so batches do not depend on which thread is
fastest; the bounds on the queues hold the memory, however long a clip is.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from qamro_cache.audio.check import oddity_of
from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.audio.windows import Window
from qamro_cache.cache.content import (
    Array,
    CacheContent,
    clip_table,
    no_labels,
    unique_prompts,
)
from qamro_cache.encoders.runner import Runner
from qamro_cache.errors import ClipError, QamroError
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.units import ClipJob, Unit

if TYPE_CHECKING:
    from torch import Tensor

    from qamro_cache.encoders.protocol import Encoder

#: Bytes of decoded windows that may wait for the batcher, a clip.
CLIP_BYTES = 32 << 20
#: Batches that may wait for the encoder.
BATCHES = 3

Item = TypeVar("Item")


@dataclass
class _Clip:
    """A clip on its way: its windows as they come, then its end."""

    job: ClipJob
    decoder: ClipDecoder
    queue: "queue.Queue[Window | ClipError | QamroError | None]"
    error: ClipError | None = None
    starts: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Batch:
    windows: "Tensor"
    valid: "Tensor"


@dataclass(frozen=True)
class _UnitEnd:
    clips: list[_Clip]


class _Stopped(Exception):  # noqa: N818 - not an error: the consumer has gone
    pass


class Pipeline:
    """Encodes units on one device.

    Args:
        encoder: in eval mode on ``device``.
        device: of the encoder.
        batch_size: most windows a batch.
        workers: decoding threads.
        stored_dtype: ``float32`` or ``float16``.
        check_source: called when a file cannot be read; raises a QamroError if not the file but
            its whole folder is gone, so that a vanished disk is not a thousand failed clips.
    """

    def __init__(
        self,
        encoder: "Encoder",
        device: str,
        batch_size: int,
        workers: int,
        stored_dtype: str,
        check_source: Callable[[], None],
    ) -> None:
        self.encoder, self.device, self.batch_size = encoder, device, batch_size
        self.runner: Runner | None = None
        self.workers, self.stored_dtype = workers, stored_dtype
        self.check_source = check_source
        self._pinned = device.startswith("cuda")

    def run(self, units: Sequence[Unit], stats: Stats, clips: int = 0) -> Iterator[CacheContent]:
        """Yield the content of each unit, in order.

        Args:
            units: the work.
            stats: what has been done so far is added to them.
            clips: that will come in all, where this is the first of several calls.
        """
        import torch

        if self.runner is None:
            # A clip is a window at least, which is enough to tell whether compiling pays.
            clips = clips or sum(len(unit.clips) for unit in units)
            self.runner = Runner(self.encoder, self.device, clips)
        stop = threading.Event()
        batches: queue.Queue[_Batch | _UnitEnd | BaseException | None] = queue.Queue(BATCHES)
        # A worker's resampling stays on its own core; the encoder keeps the threads it has.
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(
            self.workers, "decode", initializer=torch.set_num_threads, initargs=(1,)
        )
        batcher = threading.Thread(
            target=self._batch, args=(units, pool, batches, stop, stats), daemon=True
        )
        batcher.start()
        try:
            yield from self._encode(batches, stop, stats)
        finally:
            stop.set()
            batcher.join()
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)

    # ------------------------------------------------------------------ decoding threads

    def _decode(self, clip: _Clip, stop: threading.Event, stats: Stats) -> None:
        waited = 0.0
        start = time.monotonic()
        end: ClipError | QamroError | None = None
        try:
            for window in clip.decoder.windows():
                before = time.monotonic()
                _put(clip.queue, window, stop)
                waited += time.monotonic() - before
        except _Stopped:
            return
        except ClipError as error:
            end = error
            if error.code in ("missing", "unreadable"):
                try:
                    self.check_source()
                except QamroError as gone:
                    end = gone
        except QamroError as error:
            end = error
        # Whatever a decoder does on a stranger's file, it costs that clip and not the run.
        except Exception as error:
            end = ClipError("failed", f"{type(error).__name__}: {error}")
        stats.add(
            decode_seconds=time.monotonic() - start - waited, audio_seconds=clip.decoder.duration
        )
        try:
            _put(clip.queue, end, stop)
        except _Stopped:
            return

    # ----------------------------------------------------------------------------- batcher

    def _batch(
        self,
        units: Sequence[Unit],
        pool: ThreadPoolExecutor,
        batches: "queue.Queue[Any]",
        stop: threading.Event,
        stats: Stats,
    ) -> None:
        try:
            started = self._started(units, pool, stop, stats)
            for unit in units:
                clips = []
                filling = _Filling(self)
                for _ in unit.clips:
                    clip = next(started)
                    clips.append(clip)
                    while True:
                        item = _get(clip.queue, stop)
                        if not isinstance(item, Window):
                            break
                        clip.starts.append(item.start)
                        clip.weights.append(item.valid / self.encoder.spec.audio.window)
                        if (batch := filling.add(item)) is not None:
                            _put(batches, batch, stop)
                    if isinstance(item, ClipError):
                        clip.error = item
                    elif item is not None:
                        raise item
                if (batch := filling.rest()) is not None:
                    _put(batches, batch, stop)
                _put(batches, _UnitEnd(clips), stop)
            _put(batches, None, stop)
        except _Stopped:
            return
        except BaseException as error:
            try:
                _put(batches, error, stop)
            except _Stopped:
                return

    def _started(
        self, units: Sequence[Unit], pool: ThreadPoolExecutor, stop: threading.Event, stats: Stats
    ) -> Iterator[_Clip]:
        """Yield clips in order, with decoding begun on this and the next few."""
        policy = self.encoder.spec.audio
        depth = max(2, CLIP_BYTES // (4 * policy.window))
        ahead: deque[_Clip] = deque()
        for unit in units:
            for job in unit.clips:
                clip = _Clip(job, ClipDecoder(job.path, policy), queue.Queue(depth))
                pool.submit(self._decode, clip, stop, stats)
                ahead.append(clip)
                if len(ahead) > 2 * self.workers:
                    yield ahead.popleft()
        yield from ahead

    # ----------------------------------------------------------------------------- encoder

    def _encode(
        self, batches: "queue.Queue[Any]", stop: threading.Event, stats: Stats
    ) -> Iterator[CacheContent]:
        features: dict[str, list[Tensor]] = {name: [] for name in self.encoder.spec.features}
        while True:
            before = time.monotonic()
            item = _get(batches, stop)
            stats.add(wait_seconds=time.monotonic() - before)
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            start = time.monotonic()
            if isinstance(item, _Batch):
                for name, values in self._encode_batch(item).items():
                    features[name].append(values)
                stats.add(encode_seconds=time.monotonic() - start, windows=len(item.windows))
                continue
            content = self._unit_content(item, features)
            stats.add(encode_seconds=time.monotonic() - start)
            for clip, status in zip(item.clips, content.clips["status"], strict=True):
                stats.count_clip(status)
                oddity = oddity_of(clip.decoder.peak, clip.decoder.mixed_peak)
                if status == "ok" and oddity:
                    stats.count_odd(oddity, [clip.job.clip_id])
            yield content
            features = {name: [] for name in features}

    def _encode_batch(self, batch: _Batch) -> "dict[str, Tensor]":
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

    def _unit_content(self, end: _UnitEnd, features: "dict[str, list[Tensor]]") -> CacheContent:
        import torch

        if self._pinned:
            torch.cuda.synchronize(self.device)
        spec, clips = self.encoder.spec, end.clips
        counts = np.array([len(clip.starts) for clip in clips], np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        arrays: dict[str, Array] = {
            name: np.concatenate(
                [np.zeros((0, *spec.features[name]), self.stored_dtype)]
                + [part.numpy() for part in parts]
            )
            for name, parts in features.items()
        }
        for index, clip in enumerate(clips):
            span = slice(offsets[index], offsets[index + 1])
            for name, values in arrays.items():
                if clip.error is None and not np.isfinite(values[span]).all():
                    clip.error = ClipError(
                        "failed", f"the encoder gave NaN or infinite values in {name}"
                    )
        good = np.array([clip.error is None for clip in clips])
        keep = np.repeat(good, counts)
        prompts = unique_prompts([clip.job.prompt for clip in clips])
        return CacheContent(
            _clip_rows(clips),
            no_labels(len(clips)),
            np.concatenate([[0], np.cumsum(np.where(good, counts, 0))]).astype(np.int64),
            np.array([w for clip in clips for w in clip.weights], np.float32)[keep],
            np.array([s for clip in clips for s in clip.starts], np.int64)[keep],
            {name: values[keep] for name, values in arrays.items()},
            prompts,
            self._encode_prompts(prompts),
        )

    def _encode_prompts(self, prompts: Sequence[str]) -> dict[str, Array]:
        import torch

        spec = self.encoder.spec
        empty = {
            name: np.zeros((0, *shape), self.stored_dtype)
            for name, shape in spec.text_features.items()
        }
        if not prompts or not empty:
            return empty
        with torch.inference_mode():
            outputs = self.encoder.encode_text(prompts)
        arrays = {
            name: outputs[name].detach().cpu().to(getattr(torch, self.stored_dtype)).numpy()
            for name in empty
        }
        for name, values in arrays.items():
            if values.shape != (len(prompts), *spec.text_features[name]):
                raise QamroError(f"encoder {spec.name} gave {values.shape} as text feature {name}")
            if not np.isfinite(values).all():
                raise QamroError(f"encoder {spec.name} gave NaN or infinite values in {name}")
        return arrays


class _Filling:
    """A batch that is being filled, in memory that a GPU can read directly."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._count = 0
        self._windows: Any = None
        self._valid: Any = None

    def add(self, window: Window) -> _Batch | None:
        """Add a window; return the batch if it is full now."""
        import torch

        size = self._pipeline.batch_size
        if self._count == 0:
            shape = (size, self._pipeline.encoder.spec.audio.window)
            pinned = self._pipeline._pinned
            self._windows = torch.empty(shape, pin_memory=pinned)
            self._valid = torch.empty(size, dtype=torch.int64, pin_memory=pinned)
        self._windows[self._count] = torch.from_numpy(window.samples)
        self._valid[self._count] = window.valid
        self._count += 1
        return self.rest() if self._count == size else None

    def rest(self) -> _Batch | None:
        """Return what there is, if anything."""
        if self._count == 0:
            return None
        batch = _Batch(self._windows[: self._count], self._valid[: self._count])
        self._count = 0
        return batch


def _clip_rows(clips: Sequence[_Clip]) -> pd.DataFrame:
    return clip_table(
        pd.DataFrame(
            {
                "clip_id": [clip.job.clip_id for clip in clips],
                "path": [clip.job.path for clip in clips],
                "prompt": [clip.job.prompt for clip in clips],
                "status": [clip.error.code if clip.error else "ok" for clip in clips],
                "reason": [_one_line(clip.error.reason) if clip.error else "" for clip in clips],
                "audio_sha256": [clip.decoder.sha256 for clip in clips],
                "duration": [clip.decoder.duration for clip in clips],
                "audio_bytes": [clip.decoder.nbytes for clip in clips],
                "audio_mtime_ns": [clip.decoder.mtime_ns for clip in clips],
            }
        )
    )


def _one_line(reason: str) -> str:
    """Make a reason one line of text that can be stored, whatever a library has put into it."""
    text = " ".join(reason.replace("\0", " ").split())
    return text.encode("utf-8", "replace").decode("utf-8")[:300]


def _put(target: "queue.Queue[Item]", item: Item, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            target.put(item, timeout=0.1)
            return
        except queue.Full:
            continue
    raise _Stopped


def _get(source: "queue.Queue[Item]", stop: threading.Event) -> Item:
    while not stop.is_set():
        try:
            return source.get(timeout=0.1)
        except queue.Empty:
            continue
    raise _Stopped
