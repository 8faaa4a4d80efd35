"""Ogg (Vorbis, Opus, FLAC, Speex): a walk over its pages, each with a number and a checksum.

libsndfile reads the first stream of a file alone and passes over lost pages. mutagen reads the
first and the last page.
"""

import struct
import zlib
from dataclasses import dataclass, field

from qamro_cache.audio.containers.source import FileBytes, Part
from qamro_cache.audio.containers.vorbis import samples_before
from qamro_cache.errors import ClipError

_MIRRORED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_CODECS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")
_BEGINS, _ENDS = 2, 4
#: Places that look like a page and are none; each may cost a checksum of 64 kB.
_WRONG = 1000
#: Longest Vorbis header, in bytes, that is read: the comments may hold a picture.
_LONGEST_PACKET = 1 << 24


def is_ogg(head: bytes) -> bool:
    """Whether an Ogg begins with ``head`` (4 bytes)."""
    return head[:4] == b"OggS"


@dataclass(frozen=True)
class _Page:
    place: int
    size: int
    flags: int
    granule: int
    serial: int
    number: int
    body: int  # its first byte


@dataclass
class _Link:
    """One of the streams that a file is a chain of, with what is known of its sound."""

    start: int
    serial: int = -1
    rate: int = 0
    number: int = -1
    granule: int = 0
    ended: bool = False
    begun: bool = False  # its first pages are over
    serials: set[int] = field(default_factory=set)
    packets: list[bytes] = field(default_factory=list)  # of a Vorbis stream's first pages
    packet: bytearray = field(default_factory=bytearray)  # that has begun

    @property
    def length(self) -> str:
        return f"{self.granule / self.rate:.2f} s" if self.rate else f"{self.granule} samples"


def walk_ogg(data: FileBytes, first: int, stop: int) -> tuple[tuple[Part, ...], int]:
    """Return the streams that follow one another from ``first``.

    Raises:
        ClipError: a page is missing or damaged, or the last one has not come.
    """
    links: list[_Link] = []
    place, wrong = first, 0
    while place >= 0:
        page = _page(data, place, stop)
        if page is None:
            wrong += 1
            if wrong > _WRONG:
                raise ClipError("unreadable", "has damaged Ogg pages; copy or make it again")
            place = data.find(b"OggS", place + 1, stop)
            continue
        place += page.size
        if page.flags & _BEGINS:
            if not links or links[-1].begun:
                if links:
                    _check_end(links[-1])
                links.append(_Link(page.place if links else first))
            _begin(data, page, links[-1])
        elif links:
            links[-1].begun = True
            _go_on(page, links[-1])
            if links[-1].packets and page.serial == links[-1].serial:
                _check_beginning(data, page, links[-1])
    if not links:
        raise ClipError("unreadable", "has no whole Ogg page at its beginning; copy it again")
    _check_end(links[-1])
    ends = [link.start for link in links[1:]] + [stop]
    parts = (Part(link.start, end, rate=link.rate) for link, end in zip(links, ends, strict=True))
    return tuple(parts), stop


def _page(data: FileBytes, place: int, stop: int) -> _Page | None:
    """Return the page at ``place``; None where there is no whole one with a right checksum."""
    head = data.at(place, 27)
    if len(head) < 27 or head[:5] != b"OggS\0":
        return None
    lengths = data.at(place + 27, head[26])
    size = 27 + len(lengths) + sum(lengths)
    if place + size > stop:
        return None
    flags, granule, serial, number, checksum = struct.unpack_from("<BqIII", head, 5)
    # The checksum is not mirrored and starts at 0; zlib's is mirrored and starts at its inverse.
    whole = data.at(place, size)
    mirrored = (whole[:22] + bytes(4) + whole[26:]).translate(_MIRRORED)
    crc = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    if int(f"{crc:032b}"[::-1], 2) != checksum:
        return None
    return _Page(place, size, flags, granule, serial, number, place + 27 + len(lengths))


def _begin(data: FileBytes, page: _Page, link: _Link) -> None:
    """Take a first page: the first stream of sound is the one that is decoded."""
    link.serials.add(page.serial)
    packet = data.at(page.body, 48)
    if link.serial >= 0 or not packet.startswith(_CODECS):
        return
    link.serial, link.number = page.serial, page.number
    if packet.startswith(b"OpusHead"):
        link.rate = 48000
    elif packet.startswith(b"\x01vorbis") and len(packet) >= 16:
        link.rate, link.packets = int.from_bytes(packet[12:16], "little"), [packet]
    elif packet.startswith(b"\x7fFLAC") and len(packet) >= 30:
        link.rate = int.from_bytes(packet[27:30], "big") >> 4


def _go_on(page: _Page, link: _Link) -> None:
    """Take a later page; those of other streams, as of a video, do not count."""
    if page.serial != link.serial and page.serial in link.serials:
        return
    if page.serial != link.serial or link.ended or page.number != (link.number + 1) & 0xFFFFFFFF:
        raise ClipError(
            "unreadable",
            f"lacks Ogg pages after {link.length}, or they are damaged; copy or make it again",
        )
    link.number = page.number
    link.granule = max(link.granule, page.granule)
    link.ended = bool(page.flags & _ENDS)


def _check_beginning(data: FileBytes, page: _Page, link: _Link) -> None:
    """Hold the first page of a Vorbis stream's sound to the samples that its packets are."""
    place = page.body
    for length in data.at(page.place + 27, page.body - page.place - 27):
        link.packet += data.at(place, length)
        place += length
        if length < 255:
            link.packets.append(bytes(link.packet))
            link.packet.clear()
    if len(link.packets) <= 3 and len(link.packet) < _LONGEST_PACKET:
        return
    # The last page of a stream may have fewer samples than its packets: its end is cut off.
    before = (
        0
        if page.flags & _ENDS
        else samples_before(link.packets[:3], link.packets[3:], page.granule)
    )
    link.packets = []
    if before:
        raise ClipError(
            "unreadable",
            f"has {before / link.rate:.2f} s before its beginning, as a piece has that was cut "
            "without decoding; convert it with: ffmpeg -i FILE FILE.wav",
        )


def _check_end(link: _Link) -> None:
    if link.serial >= 0 and not link.ended:
        raise ClipError(
            "unreadable",
            f"ends after {link.length} without its last Ogg page; cut short: "
            "copy or make the file again",
        )
