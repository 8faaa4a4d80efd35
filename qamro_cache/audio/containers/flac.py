"""FLAC: the numbers of its first and last frame say how long it is, whatever its header says.

Frames are decoded by libsndfile alone, which reports damage within them.
"""

from dataclasses import dataclass

from qamro_cache.audio.containers.sound import CHUNKS
from qamro_cache.audio.containers.source import FileBytes, Part
from qamro_cache.errors import ClipError

#: Samples of a frame, by the code in its header (RFC 9639, 9.1.1); 6 and 7 stand at its end.
_BLOCKS = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}}
_BLOCKS |= {code: 256 << code - 8 for code in range(8, 16)}
#: Bytes that a frame's header may have.
_HEADER = 16
#: The name and the STREAMINFO block.
_INFO = 42
#: Places that are tried for the last frame: in real files it is among the first few.
_TRIES = 100_000


def _crc8() -> bytes:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value << 1 ^ 0x07) & 0xFF if value & 0x80 else value << 1
        table.append(value)
    return bytes(table)


_CRC8 = _crc8()


def is_flac(head: bytes) -> bool:
    """Whether a FLAC begins with ``head`` (8 bytes): its name and the first block's header."""
    return head[:4] == b"fLaC" and head[4:8] in (b"\0\0\0\x22", b"\x80\0\0\x22")


@dataclass(frozen=True)
class _Frame:
    place: int
    first: int  # sample
    samples: int


def walk_flac(data: FileBytes, first: int, stop: int) -> tuple[tuple[Part, ...], int]:
    """Return the stream at ``first``, and where the file goes on after it.

    Raises:
        ClipError: frames are missing at the end.
    """
    info = data.at(first, _INFO)
    rate = int.from_bytes(info[18:21], "big") >> 4
    total = int.from_bytes(info[21:26], "big") & 0xFFFFFFFFF
    end = _next_flac(data, first + 4, stop)
    if len(info) < _INFO or not rate:
        return (Part(first, end),), end
    start = _sound_start(data, first, end)
    last = _last_frame(data, start, end, info)
    samples = last.first + last.samples if last else total
    if samples < total:
        raise ClipError(
            "unreadable",
            f"ends after {samples / rate:.2f} of {total / rate:.2f} s; cut short: "
            "copy or make the file again",
        )
    begin = _frame(data.at(start, _HEADER), start, info)
    if last and begin and 0 < begin.first <= last.first:
        raise ClipError(
            "unreadable",
            f"has {(samples - begin.first) / rate:.2f} of {samples / rate:.2f} s and no beginning, "
            "as a piece has that was cut without decoding; convert it with: "
            "ffmpeg -i FILE FILE.wav",
        )
    if last and begin and (lost := _first_lost(data, begin, last, end, info)):
        raise ClipError(
            "unreadable",
            f"lacks frames after {lost / rate:.2f} of {samples / rate:.2f} s, "
            "which would be silent; copy or make the file again",
        )
    if samples == total:
        return (Part(first, end, samples, rate=rate),), end
    # The header names too few, or none as from a pipe: the decoder is told the real number.
    mended = int.from_bytes(info[18:26], "big") >> 36 << 36 | samples & 0xFFFFFFFFF
    head = info[:18] + mended.to_bytes(8, "big") + info[26:]
    return (Part(first + _INFO, end, samples, head, rate),), end


def _next_flac(data: FileBytes, start: int, stop: int) -> int:
    place = start
    while (place := data.find(b"fLaC", place, stop)) >= 0:
        if is_flac(data.at(place, 8)):
            return place
        place += 1
    return stop


def _sound_start(data: FileBytes, first: int, stop: int) -> int:
    """Return where the frames begin, behind the blocks of metadata."""
    place = first + 4
    for _ in range(CHUNKS):
        head = data.at(place, 4)
        if len(head) < 4:
            break
        place += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x80:
            break
    return min(place, stop)


def _last_frame(data: FileBytes, start: int, stop: int, info: bytes) -> _Frame | None:
    """Return the last frame whose predecessor is there as well, or that is the only one."""
    sync = data.at(start, 2)
    later: list[_Frame] = []
    place = stop
    for _ in range(_TRIES):
        place = data.rfind(sync, start, place) if len(sync) == 2 else -1
        frame = _frame(data.at(place, _HEADER), place, info) if place >= 0 else None
        if place < 0:
            break
        if frame is None:
            continue
        if place == start and not later:
            return frame
        for other in later:
            if other.first == frame.first + frame.samples:
                return other
        later.append(frame)
    return None


def _first_lost(data: FileBytes, begin: _Frame, last: _Frame, stop: int, info: bytes) -> int:
    """Return the first sample that no frame from ``begin`` to ``last`` holds; 0: they hold all."""
    sync = data.at(begin.place, 2)
    place, wanted = begin.place, begin.first
    while wanted <= last.first:
        place = data.find(sync, place, stop)
        if place < 0:
            return wanted
        frame = _frame(data.at(place, _HEADER), place, info)
        # Bytes of sound may look like a frame, but hardly like the one that is to come.
        if frame is not None and frame.first == wanted:
            wanted += frame.samples
        place += 1
    return 0


def _frame(head: bytes, place: int, info: bytes) -> _Frame | None:
    """Return what a frame's header says; None where there is none of this stream."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8:
        return None
    code, rate_code, bits_code = head[2] >> 4, head[2] & 15, head[3] >> 1 & 7
    if not code or rate_code == 15 or bits_code == 3 or head[3] & 1 or head[3] >> 4 > 10:
        return None
    number, used = _number(head[4:])
    if used == 0:
        return None
    used += 4
    size = _BLOCKS.get(code, 0)
    if code in (6, 7):
        size = int.from_bytes(head[used : used + code - 5], "big") + 1
        used += code - 5
    used += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    crc = 0
    for value in head[:used]:
        crc = _CRC8[crc ^ value]
    if used >= len(head) or crc != head[used]:
        return None
    # In a stream of frames of one size only the last may be smaller, so they are numbered.
    if not head[1] & 1:
        number *= int.from_bytes(info[8:10], "big")
    return _Frame(place, number, size)


def _number(coded: bytes) -> tuple[int, int]:
    """Return a number coded like UTF-8, up to 36 bits, and its bytes; (0, 0) if it is none."""
    lead = coded[0]
    if lead < 0x80:
        return lead, 1
    count = 8 - (lead ^ 0xFF).bit_length()
    rest = coded[1:count]
    if not 2 <= count <= 7 or len(rest) < count - 1 or any(c & 0xC0 != 0x80 for c in rest):
        return 0, 0
    number = lead & (0x7F >> count)
    for value in rest:
        number = number << 6 | value & 0x3F
    return number, count
