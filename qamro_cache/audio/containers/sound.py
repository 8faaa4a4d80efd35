"""The sound within a container of chunks: what its header names, and what the file holds of it."""

from collections.abc import Callable
from dataclasses import dataclass

from qamro_cache.audio.containers.source import FileBytes, Part
from qamro_cache.audio.containers.tags import skip_tags, skip_zeros
from qamro_cache.errors import ClipError

#: Chunks of a container that are looked at; a hostile file could have millions of empty ones.
CHUNKS = 1000
#: Bytes before the sound that are copied to mend a size in them.
_HEAD = 1 << 20


def left_open(size: int, bits: int) -> bool:
    """Whether a size is what programs write that cannot go back to it, as into a pipe.

    These are 0 and the largest number of the field, signed or not, which some round to whole
    frames or pages, or to which they add a header: sox writes 0x7ffff000, arecord 0x80000000,
    ffmpeg 0xffffffff.
    """
    top = 1 << bits
    return size == 0 or abs(size - top // 2) <= 4096 or size >= top - 4096


@dataclass(frozen=True)
class Sound:
    """Where sound lies and how much of it there should be.

    Attributes:
        first: byte of the container.
        start: byte of the sound.
        size: bytes of it that the header names; 0 where it was left open.
        width: bytes of a frame (a sample of every channel); 0 where only the decoder can tell.
        rate: frames a second, 0 if unknown.
    """

    first: int
    start: int
    size: int
    width: int
    rate: int

    def part(self, stop: int, head: bytes = b"", after: int = 0) -> Part:
        """Return the part that ends with the sound at ``stop``, or with other chunks ``after``."""
        frames = (stop - self.start) // self.width if self.width else None
        start = self.start if head else self.first
        return Part(start, stop if head else max(stop, after), frames, head, self.rate)

    def check_held(self, stop: int) -> None:
        """Raise a ClipError if the file ends before the sound does."""
        held = max(0, stop - self.start)
        unit = self.width or 1
        if held // unit < self.size // unit:
            raise ClipError(
                "unreadable",
                f"ends after {self.length(held)} of {self.length(self.size)}; cut short: "
                "copy or make the file again",
            )

    def too_small(self, stop: int) -> ClipError:
        """Return what to say where more follows than the header names, and is no chunk."""
        return ClipError(
            "unreadable",
            f"has a header for {self.length(self.size)}, but {self.length(stop - self.start)} "
            "follow; convert it with a program that mends the header",
        )

    def length(self, size: int) -> str:
        """Return the length of so many bytes for a person, in seconds where they are known."""
        if self.width and self.rate:
            return f"{size / self.width / self.rate:.2f} s"
        return f"{size} bytes"

    def mended(self, data: FileBytes, *fields: tuple[int, bytes]) -> bytes:
        """Return the bytes before the sound with other ``fields`` (offset in the file, bytes)."""
        if self.start - self.first > _HEAD:
            raise ClipError("unreadable", "has no length in its header, and a very long header")
        head = bytearray(data.at(self.first, self.start - self.first))
        for offset, value in fields:
            head[offset - self.first : offset - self.first + len(value)] = value
        return bytes(head)


@dataclass(frozen=True)
class Layout:
    """How a kind of container goes on after its sound.

    Attributes:
        name: what every file of this kind holds at its beginning,
        offset: so many bytes into it.
        is_file: whether a file of this kind begins with some bytes (24).
        chunk_size: bytes of the chunk that begins with some bytes (24), its header and padding
            included, where so many bytes are left; None if they are no chunk.
    """

    name: bytes
    offset: int
    is_file: Callable[[bytes], bool]
    chunk_size: Callable[[bytes, int], int | None]

    def find_end(
        self, data: FileBytes, sound: Sound, stop: int, is_open: bool
    ) -> tuple[int, int, bool]:
        """Return where the sound ends, where the file goes on, and whether it was left open.

        Raises:
            ClipError: the sound is cut short, or longer than the header says.
        """
        if is_open and sound.size == 0:
            head = data.at(sound.start, 24)
            here = self.is_file(head) or self.chunk_size(head, stop - sound.start) is not None
            is_open = sound.start < stop and not here
        if is_open:
            end = self._next_file(data, sound.start, stop)
            return end, end, True
        sound.check_held(stop)
        end = sound.start + sound.size
        after = self._after(data, end, stop)
        if after is None and sound.size & 1:
            after = self._after(data, end + 1, stop)
        if after is None:
            raise sound.too_small(stop)
        return end, after, False

    def _after(self, data: FileBytes, place: int, stop: int) -> int | None:
        """Return where the chunks after the sound end; None if what is there is no chunk."""
        for _ in range(CHUNKS):
            place = skip_padding(data, place, stop)
            head = data.at(place, 24)
            if len(head) < 8:
                return stop
            if self.is_file(head):
                return place
            size = self.chunk_size(head, stop - place)
            if size is None:
                return None
            place += size
        return stop

    def _next_file(self, data: FileBytes, start: int, stop: int) -> int:
        """Return where the next file begins within sound of open length; servers send that."""
        place = start + self.offset
        while (place := data.find(self.name, place, stop)) >= 0:
            if self.is_file(data.at(place - self.offset, 24)):
                return place - self.offset
            place += 1
        return stop


def skip_padding(data: FileBytes, place: int, stop: int) -> int:
    """Return where the tags and zeros that begin at ``place`` end."""
    before = -1
    while before < place:
        before, place = place, skip_zeros(data, skip_tags(data, place, stop), stop)
    return place


def is_name(name: bytes) -> bool:
    """Whether ``name`` can be the name of a chunk: four printable characters."""
    return len(name) == 4 and all(32 <= character < 127 for character in name)
