"""AU (Sun, NeXT): a header of six numbers, then the sound."""

import struct

from qamro_cache.audio.containers.sound import Layout, Sound, left_open
from qamro_cache.audio.containers.source import FileBytes, Part

#: Bytes of a sample, by the encoding's number: mu-law, PCM, float, double, A-law.
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}


def is_au(head: bytes) -> bool:
    """Whether an AU begins with ``head`` (24 bytes): plausible numbers after the name."""
    if head[:4] not in (b".snd", b"dns.") or len(head) < 24:
        return False
    order = ">" if head[:4] == b".snd" else "<"
    start, _, encoding, rate, channels = struct.unpack_from(f"{order}5I", head, 4)
    plausible = 24 <= start < 1 << 20 and encoding < 64 and 0 < rate < 1 << 24
    return bool(plausible and 0 < channels <= 1024)


def walk_au(data: FileBytes, first: int, stop: int) -> tuple[tuple[Part, ...], int]:
    """Return the sound of the AU at ``first``, and where the file goes on after it.

    Raises:
        ClipError: the sound is cut short, or longer than the header says.
    """
    order = ">" if data.at(first, 4) == b".snd" else "<"
    start, size, encoding, rate, channels = struct.unpack(f"{order}5I", data.at(first + 4, 20))
    width = channels * _WIDTHS.get(encoding, 0)
    sound = Sound(first, first + start, size, width, rate)
    end, after, is_open = _LAYOUT.find_end(data, sound, stop, left_open(size, 32))
    head = b""
    if is_open and size != 0xFFFFFFFF:
        # The decoder would read nothing.
        head = sound.mended(data, (first + 8, b"\xff\xff\xff\xff"))
    return (sound.part(end, head),), after


_LAYOUT = Layout(b".snd", 0, is_au, lambda head, left: None)
