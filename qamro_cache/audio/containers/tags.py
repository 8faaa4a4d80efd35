"""Tags that programs put before, between and after sound: passed over, never taken for rubbish."""

import struct

from qamro_cache.audio.containers.source import BLOCK, FileBytes


def skip_tags(data: FileBytes, place: int, stop: int) -> int:
    """Return where the tags that begin at ``place`` end (ID3v1, ID3v2, APEv2, Lyrics3)."""
    while place < stop and (size := _tag_size(data, place, stop)):
        place += size
    return min(place, stop)


def skip_zeros(data: FileBytes, place: int, stop: int) -> int:
    """Return where the zeros that begin at ``place`` end."""
    while place < stop:
        block = data.at(place, min(BLOCK, stop - place))
        rest = len(block.lstrip(b"\0"))
        place += len(block) - rest
        if rest or not block:
            break
    return place


def _tag_size(data: FileBytes, place: int, stop: int) -> int:
    head = data.at(place, 32)
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + size + (10 if head[5] & 0x10 else 0)
    if head[:4] == b"TAG+":
        return 227
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) == 32:
        # The size counts the items and the footer; the flag says that this is the header.
        size, _, flags = struct.unpack_from("<III", head, 12)
        return 32 + (size if flags & 0x20000000 else 0)
    if head[:11] == b"LYRICSBEGIN":
        end = data.find(b"LYRICS", place + 11, stop)
        return end + 9 - place if end >= 0 else 0
    return 0
