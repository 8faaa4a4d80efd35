"""Formats of few files whose headers hold a length: NIST SPHERE, AVR, MPC2000, VOC, WVE, MATLAB.

The others that libsndfile reads (IRCAM, PAF, PVF, XI) hold none that could be held against the
file; Midi's SDS is read block by block.
"""

import re
import struct
from collections.abc import Callable

from qamro_cache.audio.containers.sound import CHUNKS, Sound, skip_padding
from qamro_cache.audio.containers.source import FileBytes, Part
from qamro_cache.errors import ClipError

#: Bytes of a sample, by the tens of a MATLAB 4 type.
_MATLAB = (8, 4, 4, 2, 2, 1)


def is_rare(head: bytes) -> bool:
    """Whether one of these formats begins with ``head`` (24 bytes)."""
    return any(head.startswith(name) for name in _READERS)


def walk_rare(data: FileBytes, first: int, stop: int) -> tuple[tuple[Part, ...], int]:
    """Hold the length in the header against the file.

    Raises:
        ClipError: the sound is cut short, or longer than the header says.
    """
    head = data.at(first, 4096).ljust(4096, b"\0")
    reader = next(read for name, read in _READERS.items() if head.startswith(name))
    sound = reader(data, first, stop, head)
    if sound is not None:
        sound.check_held(stop)
        if skip_padding(data, sound.start + sound.size, stop) < stop:
            raise sound.too_small(stop)
    return (Part(first, stop),), stop


def _nist(data: FileBytes, first: int, stop: int, head: bytes) -> Sound | None:
    lines = re.findall(rb"^(\w+) -i (\d{1,12})\s*$", head, re.MULTILINE)
    numbers = {name: int(value) for name, value in lines}
    start = re.match(rb"NIST_1A\s+(\d{1,6})\s", head)
    # A compressed file ("shorten") says so in its coding, and libsndfile refuses it.
    width = numbers.get(b"channel_count", 1) * numbers.get(b"sample_n_bytes", 1)
    if start is None or not width or b"sample_count" not in numbers:
        return None
    size = numbers[b"sample_count"] * width
    return Sound(first, first + int(start[1]), size, width, numbers.get(b"sample_rate", 0))


def _avr(data: FileBytes, first: int, stop: int, head: bytes) -> Sound | None:
    stereo, bits = struct.unpack_from(">HH", head, 12)
    rate, frames = struct.unpack_from(">II", head, 22)
    width = (2 if stereo else 1) * (bits // 8)
    return Sound(first, first + 128, frames * width, width, rate & 0xFFFFFF)


def _mpc2000(data: FileBytes, first: int, stop: int, head: bytes) -> Sound | None:
    width = 4 if head[21] else 2
    frames = struct.unpack_from("<I", head, 30)[0]
    return Sound(first, first + 42, frames * width, width, 0)


def _wve(data: FileBytes, first: int, stop: int, head: bytes) -> Sound | None:
    return Sound(first, first + 32, struct.unpack_from(">I", head, 18)[0], 1, 8000)


def _voc(data: FileBytes, first: int, stop: int, head: bytes) -> Sound | None:
    place = start = first + struct.unpack_from("<H", head, 20)[0]
    blocks = 0
    for _ in range(CHUNKS):
        block = data.at(place, 4)
        if block[:1] in (b"", b"\0"):
            break
        if len(block) < 4:
            return Sound(first, start, place + 4 - start, 0, 0)
        blocks += block[0] in (1, 2, 9)
        place += 4 + int.from_bytes(block[1:], "little")
    if blocks > 1:
        # libsndfile takes the headers of the blocks for samples.
        raise ClipError("unreadable", "holds several blocks of sound; convert it to WAV")
    return Sound(first, start, place - start, 0, 0)


def _matlab4(data: FileBytes, first: int, stop: int, head: bytes) -> Sound | None:
    name = head.find(b"wavedata\0")
    if name < 20:
        return None
    kind, rows, columns = struct.unpack_from("<3I", head, name - 20)
    if kind > 9999:
        kind, rows, columns = struct.unpack_from(">3I", head, name - 20)
    width = rows * _MATLAB[min(kind // 10 % 10, 5)]
    return Sound(first, first + name + 9, columns * width, width, 0)


def _matlab5(data: FileBytes, first: int, stop: int, head: bytes) -> Sound | None:
    name = head.find(b"wavedata")
    if name < 0:
        return None
    order = "<" if head[126:128] == b"IM" else ">"
    size = struct.unpack_from(f"{order}I", head, name + 12)[0]
    return Sound(first, first + name + 16, size, 0, 0)


_READERS: dict[bytes, Callable[[FileBytes, int, int, bytes], Sound | None]] = {
    b"NIST_1A": _nist,
    b"2BIT": _avr,
    b"\x01\x04": _mpc2000,
    b"ALawSoundFile**": _wve,
    b"Creative Voice File": _voc,
    b"\0\0\0\0\x01\0\0\0\x01\0\0\0": _matlab4,
    b"\0\0\x03\xe8\0\0\0\x01\0\0\0\x01": _matlab4,
    b"MATLAB 5.0 MAT-file": _matlab5,
}
