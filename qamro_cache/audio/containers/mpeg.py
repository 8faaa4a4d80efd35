"""MPEG audio (MP1, MP2, MP3): a walk from frame to frame.

The stream has no header of its own, so libsndfile guesses a length from the first frame's bitrate
and stops there. mutagen, which knows the tags, guesses likewise; neither looks at every frame.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from qamro_cache.audio.containers.source import FileBytes, Part
from qamro_cache.audio.containers.tags import skip_tags, skip_zeros
from qamro_cache.errors import ClipError

_RATES = (44100, 48000, 32000)
#: kbit/s by (version 1, layer): ISO 11172-3, 2.4.2.3 and ISO 13818-3, 2.4.2.3.
_BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
#: Places that are tried for a frame behind the last one.
_TRIES = 100_000
#: Samples that a decoder may cut off: delay and padding are fields of 12 bits in LAME's tag.
_DELAYS = 2 * 4095 + 529
#: Bytes that a frame has at most; free format (no fixed bitrate) could have more.
_LARGEST = 8192


@dataclass(frozen=True)
class _Kind:
    """What the first bytes of a frame's header say."""

    version1: bool
    layer: int
    rate: int
    size: int  # bytes of the frame; 0 in free format

    @property
    def frames(self) -> int:
        """Samples a channel."""
        return 384 if self.layer == 1 else 1152 if self.layer == 2 or self.version1 else 576


def _kinds() -> Iterator[tuple[int, _Kind]]:
    """Yield every valid second and third byte of a header, as one number, and what they mean."""
    for key in range(0xE000, 0x10000):
        high, low = 0xFF & (key >> 8), 0xFF & key
        version, layer, index = (high >> 3) & 3, 4 - ((high >> 1) & 3), low >> 4
        if version == 1 or layer == 4 or index == 15 or (low >> 2) & 3 == 3:
            continue
        version1 = version == 3
        rate = _RATES[(low >> 2) & 3] >> {3: 0, 2: 1, 0: 2}[version]
        size = 0
        if index:
            bits = 1000 * _BITRATES[version1, layer][index - 1]
            padding = (low >> 1) & 1
            if layer == 1:
                size = 4 * (12 * bits // rate + padding)
            else:
                size = (72 if layer == 3 and not version1 else 144) * bits // rate + padding
        yield key, _Kind(version1, layer, rate, size)


_KINDS = dict(_kinds())
#: Version, layer and rate: what may not change within a stream.
_SAME = 0x1E0C


def is_mpeg(head: bytes) -> bool:
    """Whether ``head`` begins with the header of a frame."""
    return len(head) >= 4 and head[0] == 0xFF and (head[1] << 8 | head[2]) in _KINDS


@dataclass
class _Stream:
    """Frames that follow one another, up to the next header frame.

    Attributes:
        start: byte of the first frame, the header frame (Xing, Info, VBRI) included.
        head: bytes of that header frame; empty without one.
        sound: byte of the first frame with sound.
        frames: so many with sound.
        nbytes: of all frames.
        stop: the byte after the last.
    """

    start: int
    head: bytes
    sound: int
    kind: _Kind
    frames: int = 0
    nbytes: int = 0
    stop: int = 0


def walk_mpeg(data: FileBytes, start: int, stop: int) -> tuple[tuple[Part, ...], int]:
    """Return the streams from ``start`` to ``stop``, each with the samples that it must give.

    A stream begins anew at every header frame (Xing, Info, VBRI), as in files glued together.

    Raises:
        ClipError: frames are missing, or something else lies between them.
    """
    streams: list[_Stream] = []
    key = free = 0
    place = skip_tags(data, start, stop)
    while place < stop:
        head = data.at(place, 4)
        kind = _KINDS.get(head[1] << 8 | head[2]) if len(head) == 4 and head[0] == 0xFF else None
        after = skip_zeros(data, skip_tags(data, place, stop), stop) if kind is None else place
        if after > place:
            place = after
            continue
        if kind is None:
            break
        if streams and (head[1] << 8 | head[2]) & _SAME != key:
            break
        key = (head[1] << 8 | head[2]) & _SAME
        size = kind.size
        if not size:
            free = free or _free_size(data, place, stop)
            size = free + ((head[2] >> 1) & 1 if free else 0)
        if not size or place + size > stop:
            break
        tag = _header_frame(data, place, size, kind, head)
        if tag or not streams:
            streams.append(_Stream(place, tag, place + size if tag else place, kind))
        stream = streams[-1]
        stream.frames += not tag
        stream.nbytes += size
        place += size
        stream.stop = place
    if not streams:
        raise ClipError("unreadable", "has no whole MPEG frame")
    rest = stop - place
    parts = tuple(_part(stream, rest if stream is streams[-1] else 0) for stream in streams)
    if rest and find_frames(data, place, stop) >= 0:
        raise ClipError(
            "unreadable",
            f"changes its rate or layer, or has something else between its frames, {rest} bytes "
            "before its end; make the file again",
        )
    return parts, stop


def find_frames(data: FileBytes, place: int, stop: int) -> int:
    """Return where three frames of one kind follow one another first, -1 if nowhere.

    Raises:
        ClipError: there are too many places that look like it.
    """
    for _ in range(_TRIES):
        place = data.find(b"\xff", place, stop)
        if place < 0:
            return -1
        after = place
        keys: list[int] = []
        while len(keys) < 3 and is_mpeg(head := data.at(after, 4)):
            kind = _KINDS[head[1] << 8 | head[2]]
            keys.append((head[1] << 8 | head[2]) & _SAME)
            after += kind.size or stop
        if len(keys) == 3 and len(set(keys)) == 1 and after <= stop:
            return place
        place += 1
    raise ClipError("unreadable", "has something else between its MPEG frames; make it again")


def _header_frame(data: FileBytes, place: int, size: int, kind: _Kind, head: bytes) -> bytes:
    """Return the frame at ``place`` if it holds numbers about the stream instead of sound."""
    if kind.layer != 3:
        return b""
    mono = head[3] >> 6 == 3
    side = (17 if mono else 32) if kind.version1 else (9 if mono else 17)
    look = data.at(place + 4, 38)
    if look[side : side + 4] in (b"Xing", b"Info") or look[32:36] == b"VBRI":
        return data.at(place, size)
    # With a checksum the side information begins two bytes later.
    if not head[1] & 1 and look[side + 2 : side + 6] in (b"Xing", b"Info"):
        return data.at(place, size)
    return b""


def _free_size(data: FileBytes, place: int, stop: int) -> int:
    """Return the bytes of a free-format frame without its padding, from where the next begins."""
    first = data.at(place, 4)
    block = data.at(place, min(_LARGEST, stop - place))
    found = 24
    while (found := block.find(first[:2], found)) >= 0:
        same = block[found + 2 : found + 3]
        if same and same[0] & 0xFC == first[2] & 0xFC:
            return found - ((first[2] >> 1) & 1)
        found += 1
    return 0


def _promised(tag: bytes) -> tuple[int, int]:
    """Return the frames and bytes that a header frame names; 0 for what it does not name."""
    place = max(tag.find(b"Xing", 0, 60), tag.find(b"Info", 0, 60))
    try:
        if place < 0:
            nbytes, frames = struct.unpack_from(">II", tag, 36 + 10)
            return frames, nbytes
        flags = struct.unpack_from(">I", tag, place + 4)[0]
        named = iter(struct.unpack_from(">II", tag, place + 8))
    except struct.error:
        return 0, 0
    frames = next(named) if flags & 1 else 0
    return frames, next(named) if flags & 2 else 0


def _part(stream: _Stream, rest: int) -> Part:
    """Hold what a stream has against its header frame, or against its own end."""
    kind, has = stream.kind, stream.frames
    frames, nbytes = _promised(stream.head)
    seconds = kind.frames / kind.rate
    # Some writers count the header frame as well: then the bytes, if named, are all there.
    if has < frames and (stream.nbytes < nbytes or has + 1 < frames or not nbytes):
        raise ClipError(
            "unreadable",
            f"ends after {has * seconds:.2f} of {frames * seconds:.2f} s, or has something else "
            "between its frames; copy or make the file again",
        )
    if not frames and (rest or stream.nbytes < nbytes):
        raise ClipError(
            "unreadable",
            f"has {has * seconds:.2f} s of MPEG frames, then {rest} bytes that are none or are "
            "part of one; cut short or damaged: copy or make the file again",
        )
    part = Part(stream.start, stream.stop, rate=kind.rate)
    # Without a count that it knows the decoder guesses a length from the first frame and the
    # number of bytes, and never goes beyond it.
    room = (has + 2) * _LARGEST
    if stream.head[36:40] == b"VBRI":
        # The decoder takes this frame for sound.
        return replace(part, frames=(has + 1) * kind.frames, room=room)
    if not frames:
        return replace(part, start=stream.sound, frames=has * kind.frames, room=room)
    if has < frames:
        # The decoder believes the count, so it may lack a frame and what it cuts off the ends.
        return replace(part, frames=max(0, has * kind.frames - _DELAYS))
    if has > frames:
        place = max(stream.head.find(b"Xing", 0, 60), stream.head.find(b"Info", 0, 60)) + 8
        head = stream.head[:place] + struct.pack(">I", has) + stream.head[place + 4 :]
        return replace(part, start=stream.sound, head=head)
    # The decoder takes the length from the count, less the encoder's delay.
    return part
