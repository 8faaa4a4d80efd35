"""Files that several readers ask for, each decoded once: blocks are kept for who comes later."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from qamro_cache.audio.sound import Block, Readable, Sound

#: Bytes of a file's samples that are kept: of a longer one readers that are behind decode it again.
LONGEST = 64 << 20
#: Bytes of all files that wait for a reader; the oldest are forgotten, and decoded again.
MOST = 256 << 20


class SharedSound:
    """A file's blocks, for several readers in several threads.

    Whoever is ahead decodes; nobody waits for a reader that is behind.
    """

    def __init__(self, path: str | Path) -> None:
        self.sound = Sound(path)
        self.size = 0
        self._source = self.sound.blocks()
        self._kept: list[Block] = []
        self._ended = False
        self._error: Exception | None = None
        #: The reader that goes on where too much would have to be kept.
        self._alone: Sound | None = None
        self._lock = threading.Lock()

    def read(self, reader: Sound) -> Iterator[Block]:
        """Yield the blocks, and tell the reader what is known of the sound.

        Raises:
            ClipError: see `Sound.blocks`.
        """
        place = 0
        while True:
            with self._lock:
                if self._alone not in (None, reader):
                    break
                try:
                    block = self._at(place, reader)
                finally:
                    reader.learn(self.sound)
            if block is None:
                return
            place += 1
            yield block
        yield from islice(reader.blocks(), place, None)

    def _at(self, place: int, reader: Sound) -> Block | None:
        """Return a block; None behind the last one."""
        if self._alone is None and place < len(self._kept):
            return self._kept[place]
        if self._error is not None:
            raise self._error
        if self._ended:
            return None
        try:
            block = next(self._source, None)
        except Exception as error:
            self._error = error
            raise
        if block is None:
            self._ended = True
        elif self._alone is None:
            self._kept.append(block)
            self.size += block.samples.nbytes
            if self.size > LONGEST:
                self._alone, self._kept, self.size = reader, [], 0
        return block


class SharedSounds:
    """The files that so many readers ask for, each once.

    Args:
        readers: how many there are.
        held: sound that is in memory, by what it is asked for as.
    """

    def __init__(self, readers: int, held: Mapping[str, Readable] | None = None) -> None:
        self._readers, self._held = readers, held or {}
        self._waiting: OrderedDict[str, tuple[SharedSound, int]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, path: str) -> Readable:
        """Return a file's sound for one more reader; the last one's is forgotten here."""
        if path in self._held:
            return self._held[path]
        with self._lock:
            if path not in self._waiting:
                self._waiting[path] = SharedSound(path), self._readers
            sound, left = self._waiting.pop(path)
            if left > 1:
                self._waiting[path] = sound, left - 1
            while sum(one.size for one, _ in self._waiting.values()) > MOST:
                self._waiting.popitem(last=False)
            return sound
