"""Write finished units to shards, in a thread of its own."""

import queue
import threading
import time

from qamro_cache.cache.content import CacheContent, Header, concatenate
from qamro_cache.extraction.folder import WorkFolder
from qamro_cache.extraction.stats import Stats

#: A shard is closed at this many bytes of features, or this many seconds after its first unit.
SHARD_BYTES = 64 << 20
SHARD_SECONDS = 10.0


class ShardWriter:
    """Collects units and publishes a shard of them by size or age.

    Leaving the ``with`` block publishes what is there, on errors and Ctrl-C too: finished units
    are never thrown away. An error of the disk is raised in the thread that adds the next unit.
    """

    def __init__(self, folder: WorkFolder, header: Header, stats: Stats) -> None:
        self._folder, self._header, self._stats = folder, header, stats
        self._queue: queue.Queue[CacheContent | None] = queue.Queue(maxsize=4)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="shard-writer", daemon=True)

    def __enter__(self) -> "ShardWriter":
        self._thread.start()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def add(self, content: CacheContent) -> None:
        """Hand over a finished unit."""
        self._put(content)
        if self._error is not None:
            raise self._error

    def _put(self, item: CacheContent | None) -> None:
        while self._error is None:
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def _run(self) -> None:
        try:
            while self._one_shard():
                pass
        except BaseException as error:
            self._error = error

    def _one_shard(self) -> bool:
        """Collect units and publish them; False when there are no more."""
        first = self._queue.get()
        if first is None:
            return False
        units, size, more = [first], _bytes(first), True
        deadline = time.monotonic() + SHARD_SECONDS
        while size < SHARD_BYTES:
            try:
                unit = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if unit is None:
                more = False
                break
            units.append(unit)
            size += _bytes(unit)
            if time.monotonic() >= deadline:
                break
        start = time.monotonic()
        self._folder.write(concatenate(units), self._header)
        self._stats.add(write_seconds=time.monotonic() - start)
        return more


def _bytes(content: CacheContent) -> int:
    return sum(array.nbytes for array in content.features.values())
