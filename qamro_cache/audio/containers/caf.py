"""Core Audio Format: chunks with 64-bit sizes, the sound's size -1 where it was left open."""

import struct

from qamro_cache.audio.containers.sound import CHUNKS, Layout, Sound, is_name
from qamro_cache.audio.containers.source import FileBytes, Part

_CAFF = b"caff\0\1\0\0"
#: A size that no file has.
_ENDLESS = 1 << 60


def is_caf(head: bytes) -> bool:
    """Whether a CAF begins with ``head`` (8 bytes)."""
    return head[:8] == _CAFF


def walk_caf(data: FileBytes, first: int, stop: int) -> tuple[tuple[Part, ...], int]:
    """Return the sound of the CAF at ``first``, and where the file goes on after it.

    Raises:
        ClipError: the sound is cut short, or longer than the header says.
    """
    width = rate = 0
    place = first + 8
    for _ in range(CHUNKS):
        name, number = data.at(place, 4), data.at(place + 4, 8)
        if len(number) < 8 or not is_name(name):
            break
        size = struct.unpack(">q", number)[0]
        if name == b"desc":
            width, rate = _description(data.at(place + 12, 32))
        elif name == b"data":
            # The sound begins after a count of edits.
            is_open = size <= 4
            sound = Sound(first, place + 16, 0 if is_open else max(0, size - 4), width, rate)
            return _sound_part(data, sound, is_open, stop)
        if not 0 <= size < _ENDLESS:
            break
        place += 12 + size
    return (Part(first, stop),), stop


def _description(chunk: bytes) -> tuple[int, int]:
    """Return bytes of a frame and rate; 0 for what is unknown."""
    if len(chunk) < 32:
        return 0, 0
    rate, codec, _, packet, frames = struct.unpack_from(">d4sIII", chunk)
    plain = codec in (b"lpcm", b"ulaw", b"alaw") and frames == 1
    return packet if plain else 0, int(rate) if 0 < rate < 1 << 24 else 0


def _sound_part(
    data: FileBytes, sound: Sound, is_open: bool, stop: int
) -> tuple[tuple[Part, ...], int]:
    end, after, is_open = _LAYOUT.find_end(data, sound, stop, is_open)
    if not is_open:
        return (sound.part(end, after=after),), after
    size = struct.pack(">q", end - sound.start + 4)
    return (sound.part(end, sound.mended(data, (sound.start - 12, size))),), after


def _chunk_size(head: bytes, left: int) -> int | None:
    size = int.from_bytes(head[4:12], "big", signed=True)
    if len(head) < 12 or not is_name(head[:4]) or not 0 <= size <= left - 12:
        return None
    return 12 + size


_LAYOUT = Layout(_CAFF, 0, is_caf, _chunk_size)
