"""The bytes of a file, as the walks and the decoder see them: looked up, searched, cut in parts.

Reads are by offset and not by memory map: a mapped file that shrinks kills the process.
"""

import os
from dataclasses import dataclass

#: Bytes that are read at once.
BLOCK = 1 << 18
#: Bytes of an ID3v1 tag.
_TAG = 128


class FileBytes:
    """Random access to an open file, one block in memory.

    Attributes:
        size: of the file, in bytes.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.size = os.fstat(handle).st_size
        self._first = 0
        self._block = b""

    def at(self, start: int, count: int) -> bytes:
        """Return ``count`` bytes from ``start``; fewer at the end of the file, none before it."""
        offset = start - self._first
        if offset >= 0 and offset + count <= len(self._block):
            return self._block[offset : offset + count]
        if start < 0 or start >= self.size or count <= 0:
            return b""
        if count > BLOCK:
            return self._read(start, count)
        self._first, self._block = start, self._read(start, BLOCK)
        return self._block[:count]

    def find(self, what: bytes, start: int, stop: int) -> int:
        """Return where ``what`` begins first in [start, stop), -1 if nowhere."""
        while start < stop:
            block = self.at(start, min(BLOCK, stop - start))
            place = block.find(what)
            if place >= 0:
                return start + place
            if len(block) < len(what) or start + len(block) >= stop:
                return -1
            start += len(block) - len(what) + 1
        return -1

    def rfind(self, what: bytes, start: int, stop: int) -> int:
        """Return where ``what`` begins last in [start, stop), -1 if nowhere."""
        while stop - start >= len(what):
            # Blocks of fixed places, so that the next search finds this one in memory.
            first = max(start, (stop - len(what)) // BLOCK * BLOCK)
            place = self.at(first, stop - first).rfind(what)
            if place >= 0:
                return first + place
            if first == start:
                return -1
            stop = first + len(what) - 1
        return -1

    def _read(self, start: int, count: int) -> bytes:
        # One call may give less than it could.
        pieces: list[bytes] = []
        while count > 0 and (piece := os.pread(self._handle, min(count, 1 << 24), start)):
            pieces.append(piece)
            start, count = start + len(piece), count - len(piece)
        return b"".join(pieces)


@dataclass(frozen=True)
class Part:
    """A stretch of a file that the decoder can take as a file of its own.

    Attributes:
        start: its first byte.
        stop: the byte after its last.
        frames: samples a channel that it must give; None where only the decoder can tell.
        head: bytes in place of the header that the file lacks, or that is wrong; they come before
            ``start``.
        rate: of its samples, in Hz; 0 where the walk does not know it.
        room: bytes that the decoder is told of behind ``stop``, but cannot read.
    """

    start: int
    stop: int
    frames: int | None = None
    head: bytes = b""
    rate: int = 0
    room: int = 0

    @property
    def as_it_is(self) -> bool:
        """Whether the decoder can be given the bytes of the file as they are."""
        return not self.head and not self.room


class PartFile:
    """A part as the file object that the decoder reads from."""

    def __init__(self, handle: int, part: Part) -> None:
        self._handle, self._part = handle, part
        self._size = len(part.head) + part.stop - part.start
        self._claimed = self._size + part.room
        self._place = 0
        #: What reading came to; an exception may not pass through the decoder.
        self.error: OSError | None = None

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._claimed}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes."""
        if self._place >= self._size and self._place == self._claimed - _TAG:
            # The decoder looks for a tag at the end, and gives the length up if it gets nothing.
            self._place = self._claimed
            return bytes(_TAG)
        left = max(0, self._size - self._place)
        count = left if count < 0 else min(count, left)
        head = self._part.head[self._place : self._place + count]
        offset = self._place + len(head) - len(self._part.head) + self._part.start
        body = b""
        try:
            if len(head) < count:
                body = os.pread(self._handle, count - len(head), offset)
        except OSError as error:
            self.error = error
        self._place += len(head) + len(body)
        return head + body
