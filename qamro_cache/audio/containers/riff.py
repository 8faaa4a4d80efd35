"""WAV: RIFF, RIFX, RF64 and BW64, with MPEG audio inside too."""

import struct
from dataclasses import dataclass

from qamro_cache.audio.containers.mpeg import walk_mpeg
from qamro_cache.audio.containers.sound import CHUNKS, Layout, Sound, is_name, left_open
from qamro_cache.audio.containers.source import FileBytes, Part
from qamro_cache.errors import ClipError

#: Chunks that stand after the sound and may be cut without harm.
_KNOWN = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"smpl", b"fact", b"PEAK", b"iXML", b"JUNK")
#: Codecs whose frames have all the same size: PCM, float, A-law and mu-law.
PCM = 1
PLAIN = (PCM, 3, 6, 7)
_MPEG = (0x50, 0x55)
_EXTENSIBLE = 0xFFFE


@dataclass
class WaveFormat:
    """What a ``fmt`` chunk says.

    Attributes:
        codec: its number.
        rate: frames a second.
        width: bytes of a frame, 0 for a codec whose frames are not all alike.
    """

    codec: int = 0
    rate: int = 0
    width: int = 0

    def read(self, chunk: bytes, order: str) -> None:
        """Take a ``fmt`` chunk.

        Raises:
            ClipError: samples are shorter than their place, which the decoder reads 48 dB too
                quiet, or as samples of 3 bytes.
        """
        if len(chunk) < 16:
            return
        codec, channels, self.rate, _, align, bits = struct.unpack_from(f"{order}HHIIHH", chunk)
        if codec == _EXTENSIBLE and len(chunk) >= 26:
            codec = struct.unpack_from(f"{order}H", chunk, 24)[0]
        if codec == PCM and channels and (bits + 7) // 8 == 3 and align == 4 * channels:
            raise ClipError(
                "unreadable",
                f"has samples of {bits} bits in 4 bytes, which programs read in different ways; "
                "write it again with 16, 24 or 32 bits",
            )
        self.codec = codec
        plain = codec in PLAIN and channels and align == channels * ((bits + 7) // 8)
        self.width = align if plain else 0


def walk_riff(data: FileBytes, first: int, stop: int) -> tuple[tuple[Part, ...], int]:
    """Return the sound of the WAV at ``first``, and where the file goes on after it.

    Raises:
        ClipError: the sound is cut short, or longer than the header says.
    """
    order = ">" if data.at(first, 4) == b"RIFX" else "<"
    wave, large, place = WaveFormat(), (0, 0), first + 12
    for _ in range(CHUNKS):
        name, number = data.at(place, 4), data.at(place + 4, 4)
        if len(number) < 4 or not is_name(name):
            break
        size = struct.unpack(f"{order}I", number)[0]
        if name == b"fmt ":
            wave.read(data.at(place + 8, min(size, 40)), order)
        elif name == b"ds64" and len(data.at(place + 16, 8)) == 8:
            large = place + 16, struct.unpack("<Q", data.at(place + 16, 8))[0]
        elif name == b"data" and size == 0xFFFFFFFF and large[0]:
            sound = Sound(first, place + 8, large[1], wave.width, wave.rate)
            return _wave_parts(data, sound, stop, wave, large[0], "<Q")
        elif name == b"data":
            sound = Sound(first, place + 8, size, wave.width, wave.rate)
            return _wave_parts(data, sound, stop, wave, place + 4, f"{order}I")
        place += 8 + size + (size & 1)
    return (Part(first, stop),), stop


def _wave_parts(
    data: FileBytes, sound: Sound, stop: int, wave: WaveFormat, size_at: int, size_type: str
) -> tuple[tuple[Part, ...], int]:
    """Find the end of a WAV's sound; its size is a ``size_type`` at ``size_at``."""
    bits = 8 * struct.calcsize(size_type)
    end, after, is_open = _LAYOUT.find_end(data, sound, stop, left_open(sound.size, bits))
    if wave.codec in _MPEG:
        return walk_mpeg(data, sound.start, end)[0], after
    head = b""
    if is_open and (sound.size == 0 or bits == 64):
        # The decoder would read nothing.
        size = min(end - sound.start, (1 << bits) - 2)
        head = sound.mended(data, (size_at, struct.pack(size_type, size)))
    return (sound.part(end, head, after),), after


def is_riff(head: bytes) -> bool:
    """Whether a WAV begins with ``head`` (12 bytes)."""
    return head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE"


def _chunk_size(head: bytes, left: int) -> int | None:
    if len(head) < 8 or not is_name(head[:4]):
        return None
    size = min(int.from_bytes(head[4:8], "little"), int.from_bytes(head[4:8], "big"))
    if size > left - 8 and head[:4] not in _KNOWN:
        return None
    return min(8 + size + (size & 1), left)


_LAYOUT = Layout(b"WAVE", 8, is_riff, _chunk_size)
