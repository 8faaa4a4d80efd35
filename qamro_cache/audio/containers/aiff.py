"""AIFF and AIFF-C, and Amiga's 8SVX of the same kind of chunks."""

import struct

from qamro_cache.audio.containers.sound import CHUNKS, Layout, Sound, is_name, left_open
from qamro_cache.audio.containers.source import FileBytes, Part
from qamro_cache.errors import ClipError

#: Bytes of a sample, by the codec's name in AIFF-C; those of PCM follow from the bits.
_PCM = (b"NONE", b"none", b"sowt", b"twos", b"in24", b"in32", b"42ni", b"23ni", b"raw ")
_WIDTHS = {b"fl32": 4, b"FL32": 4, b"fl64": 8, b"FL64": 8, b"ulaw": 1, b"ULAW": 1, b"alaw": 1}
_WIDTHS[b"ALAW"] = 1
#: Chunks that stand after the sound and may be cut without harm.
_KNOWN = (b"NAME", b"AUTH", b"ANNO", b"COMT", b"APPL", b"ID3 ", b"MARK", b"INST", b"MIDI", b"PEAK")


def is_aiff(head: bytes) -> bool:
    """Whether an AIFF or an 8SVX begins with ``head`` (12 bytes)."""
    return head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC", b"8SVX", b"16SV")


def walk_aiff(data: FileBytes, first: int, stop: int) -> tuple[tuple[Part, ...], int]:
    """Return the sound of the AIFF at ``first``, and where the file goes on after it.

    Raises:
        ClipError: the sound is cut short, or longer than the header says.
    """
    width = rate = frames = 0
    place = first + 12
    for _ in range(CHUNKS):
        name, number = data.at(place, 4), data.at(place + 4, 4)
        if len(number) < 4 or not is_name(name):
            break
        size = struct.unpack(">I", number)[0]
        if name == b"COMM":
            width, rate, frames = _common(data.at(place + 8, min(size, 22)))
        elif name == b"SSND":
            offset = int.from_bytes(data.at(place + 8, 4), "big")
            named = 0 if left_open(size, 32) else max(0, size - 8 - offset)
            sound = Sound(first, place + 16 + offset, named, width, rate)
            return _sound_part(data, sound, left_open(size, 32), frames, stop)
        elif name == b"BODY":
            sound = Sound(first, place + 8, 0 if left_open(size, 32) else size, 0, 0)
            return _sound_part(data, sound, left_open(size, 32), 0, stop)
        place += 8 + size + (size & 1)
    return (Part(first, stop),), stop


def _common(chunk: bytes) -> tuple[int, int, int]:
    """Return bytes of a frame, rate and frames that a COMM chunk names; 0 for what is unknown."""
    if len(chunk) < 18:
        return 0, 0, 0
    channels, frames, bits, exponent, mantissa = struct.unpack_from(">HIHHQ", chunk)
    shift = 16383 + 63 - (exponent & 0x7FFF)
    rate = mantissa >> shift if 0 <= shift < 64 else 0
    codec = chunk[18:22] or b"NONE"
    width = (bits + 7) // 8 if codec in _PCM else _WIDTHS.get(codec, 0)
    return channels * width, rate, frames


def _sound_part(
    data: FileBytes, sound: Sound, is_open: bool, frames: int, stop: int
) -> tuple[tuple[Part, ...], int]:
    end, after, _ = _LAYOUT.find_end(data, sound, stop, is_open)
    held = (end - sound.start) // sound.width if sound.width else 0
    if held < frames and sound.width and not left_open(frames, 32):
        raise ClipError(
            "unreadable",
            f"ends after {sound.length(held * sound.width)} of "
            f"{sound.length(frames * sound.width)}; cut short: copy or make the file again",
        )
    return (sound.part(end, after=after),), after


def _chunk_size(head: bytes, left: int) -> int | None:
    size = int.from_bytes(head[4:8], "big")
    if len(head) < 8 or not is_name(head[:4]) or (size > left - 8 and head[:4] not in _KNOWN):
        return None
    return min(8 + size + (size & 1), left)


_LAYOUT = Layout(b"FORM", 0, is_aiff, _chunk_size)
