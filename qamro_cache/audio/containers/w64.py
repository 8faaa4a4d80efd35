"""Sony's W64: a WAV with 64-bit sizes.

libsndfile reads on to the end of the file, chunks and glued files after the sound included, so the
sound is always cut out for it where something follows. It takes whatever an extensible format holds
for plain integers, so that such a file is given to it with the format that it holds.
"""

import struct

from qamro_cache.audio.containers.riff import PCM, PLAIN, WaveFormat
from qamro_cache.audio.containers.sound import CHUNKS, Layout, Sound
from qamro_cache.audio.containers.source import FileBytes, Part
from qamro_cache.audio.endings import CONVERT
from qamro_cache.errors import ClipError

#: What the 16-byte names of most chunks end with; their sizes count name and size as well.
_NAME = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_LIST = bytes.fromhex("2f91cf11a5d628db04c10000")
#: A size that no file has; ffmpeg writes 2 ** 63 - 1 into a pipe.
_ENDLESS = 1 << 60
_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")


def is_w64(head: bytes) -> bool:
    """Whether a W64 begins with ``head`` (16 bytes)."""
    return head[:16] == _RIFF


def walk_w64(data: FileBytes, first: int, stop: int) -> tuple[tuple[Part, ...], int]:
    """Return the sound of the W64 at ``first``, and where the file goes on after it.

    Raises:
        ClipError: the sound is cut short, or longer than the header says.
    """
    wave, place, format_at = WaveFormat(), first + 40, 0
    for _ in range(CHUNKS):
        name, number = data.at(place, 16), data.at(place + 16, 8)
        if len(number) < 8:
            break
        size = struct.unpack("<Q", number)[0]
        if name[:4] == b"fmt ":
            format_at = place + 24
            wave.read(data.at(format_at, min(size, 64)), "<")
        elif name[:4] == b"data":
            named = max(0, size - 24)
            sound = Sound(first, place + 24, named, wave.width, wave.rate)
            named_codec = data.at(format_at, 2) if format_at else b""
            codec = struct.pack("<H", wave.codec)
            if named_codec in (b"", codec) or wave.codec == PCM:
                return _sound_part(data, sound, stop)
            if wave.codec not in PLAIN:
                raise ClipError(
                    "unreadable",
                    f"is a W64 whose sound is coded in a way ({wave.codec}) that cannot be read "
                    f"here; {CONVERT}",
                )
            return _sound_part(data, sound, stop, (format_at, codec))
        if not 24 <= size < _ENDLESS:
            break
        place += size + -size % 8
    return (Part(first, stop),), stop


def _sound_part(
    data: FileBytes, sound: Sound, stop: int, *fields: tuple[int, bytes]
) -> tuple[tuple[Part, ...], int]:
    """Return the sound with ``fields`` of its header (offset in the file, bytes) mended."""
    is_open = sound.size == 0 or sound.size >= _ENDLESS
    end, after, is_open = _LAYOUT.find_end(data, sound, stop, is_open)
    if is_open:
        fields = (*fields, (sound.start - 8, struct.pack("<Q", end - sound.start + 24)))
    head = sound.mended(data, *fields) if fields else b""
    return (sound.part(end, head),), after


def _chunk_size(head: bytes, left: int) -> int | None:
    size = int.from_bytes(head[16:24], "little")
    if len(head) < 24 or head[4:16] not in (_NAME, _LIST) or size < 24:
        return None
    return min(size + -size % 8, left)


_LAYOUT = Layout(_RIFF, 0, is_w64, _chunk_size)
