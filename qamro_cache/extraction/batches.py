"""Windows to batches: in the manifest's order, in memory that a GPU can read directly.

Batches never cross a unit, so they do not depend on which decoding thread is fastest.
"""

import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qamro_cache.audio.windows import Window
from qamro_cache.devices import pinned
from qamro_cache.extraction.decoding import Clip, Decoding, Stopped, get, put
from qamro_cache.extraction.units import Unit
from qamro_cache.memory import refuse_memory

if TYPE_CHECKING:
    from torch import Tensor

#: Batches that may wait for the encoder.
WAITING = 3


@dataclass(frozen=True)
class WindowBatch:
    """Windows of one unit.

    Attributes:
        windows: [B, window] float32.
        valid: [B] int64, the samples of each that are audio.
        clips_begun: what of the unit's clips is in batches by now; 1.5 is a clip and a half.
    """

    windows: "Tensor"
    valid: "Tensor"
    clips_begun: float = 0.0


@dataclass(frozen=True)
class UnitEnd:
    """All batches of a unit are out; its clips say what became of them."""

    clips: list[Clip]


class Batcher:
    """Makes batches in a thread of its own, ahead of the encoder.

    Args:
        decoding: gives the clips.
        size: most windows a batch.
        pinned: whether the batches are for a GPU.
        stop: set when nobody wants more.
    """

    def __init__(self, decoding: Decoding, size: int, pinned: bool, stop: threading.Event) -> None:
        self._decoding, self._size, self._pinned, self._stop = decoding, size, pinned, stop
        self._queue: queue.Queue[WindowBatch | UnitEnd | BaseException | None]
        self._queue = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    def start(self, units: Sequence[Unit]) -> None:
        """Begin with the first of ``units``."""
        self._thread = threading.Thread(target=self._run, args=(units,), daemon=True)
        self._thread.start()

    def next(self) -> WindowBatch | UnitEnd | None:
        """Wait for what comes next; None: there is no more. What went wrong is raised here."""
        item = get(self._queue, self._stop)
        if isinstance(item, BaseException):
            raise item
        return item

    def join(self) -> None:
        """Wait for the thread's end, once ``stop`` is set."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, units: Sequence[Unit]) -> None:
        try:
            # A clip is a window at least; one batch is filled while another is encoded.
            held = min((WAITING + 2) * self._size, sum(len(unit) for unit in units))
            refuse_memory(
                4 * held * self._decoding.policy.window,
                f"batches of {self._size:,} windows",
                "ask for a smaller --batch-size",
            )
            clips = self._decoding.clips(units)
            for unit in units:
                mine: list[Clip] = []
                filling = _Filling(self._size, self._pinned)
                for _ in unit:
                    clip = next(clips)
                    mine.append(clip)
                    for window in clip.windows(self._stop):
                        if (batch := filling.add(window)) is not None:
                            self._put(replace(batch, clips_begun=len(mine) - 1 + clip.share()))
                if (batch := filling.rest()) is not None:
                    self._put(replace(batch, clips_begun=len(mine)))
                self._put(UnitEnd(mine))
            self._put(None)
        except Stopped:
            return
        except BaseException as error:
            with suppress(Stopped):
                self._put(error)

    def _put(self, item: WindowBatch | UnitEnd | BaseException | None) -> None:
        put(self._queue, item, self._stop)


class _Filling:
    """A batch that is being filled."""

    def __init__(self, size: int, pinned: bool) -> None:
        self._size, self._pinned = size, pinned
        self._windows: list[Window] = []

    def add(self, window: Window) -> WindowBatch | None:
        """Add a window; return the batch if it is full now."""
        self._windows.append(window)
        return self.rest() if len(self._windows) == self._size else None

    def rest(self) -> WindowBatch | None:
        """Return what there is, if anything."""
        import torch

        if not self._windows:
            return None
        # No larger than what there is: a batch size that is never reached takes no memory.
        shape = (len(self._windows), len(self._windows[0].samples))
        room = pinned if self._pinned else torch.empty
        samples = room(shape, dtype=torch.float32)
        for row, window in zip(samples, self._windows, strict=True):
            row.copy_(torch.from_numpy(window.samples))
        valid = torch.tensor([window.valid for window in self._windows])
        self._windows = []
        return WindowBatch(samples, room(valid.shape, dtype=valid.dtype).copy_(valid))
