"""Where a Vorbis stream begins: told by the sizes of its first packets, which no header sums up.

A stream that was cut without decoding (``ffmpeg -ss 1 -c copy``) begins before its first sample.
libsndfile takes the samples that are to be left out from its middle and its end instead. Source:
the Vorbis I specification, sections 1.3.2, 4.2 and A.2.
"""

import itertools
from collections.abc import Sequence

#: Bits of a mode: its block size, two types that are 0, its mapping.
_MODE = 41


def samples_before(headers: Sequence[bytes], packets: Sequence[bytes], granule: int) -> int:
    """Return how many samples of a stream's first page are to be left out, but are not.

    Args:
        headers: the three header packets.
        packets: of sound, that end on the first page of them.
        granule: of that page: the samples that there are up to its end.
    """
    # Of two packets the decoder leaves out the right samples itself.
    if len(headers) < 3 or len(headers[0]) < 29 or len(packets) < 3:
        return 0
    first, _, setup = headers
    long_blocks = _long_blocks(setup)
    sizes = 1 << (first[28] & 15), 1 << (first[28] >> 4)
    bits = (len(long_blocks) - 1).bit_length()
    modes = [packet[0] >> 1 & ((1 << bits) - 1) for packet in packets if packet]
    if max(modes, default=0) >= len(long_blocks):
        return 0
    blocks = [sizes[long_blocks[mode]] for mode in modes]
    held = sum((one + other) // 4 for one, other in itertools.pairwise(blocks))
    return max(0, held - granule)


def _long_blocks(setup: bytes) -> list[bool]:
    """Return whether each mode has long blocks; empty where this cannot be told.

    The modes are a setup header's last part, and what stands before them is long to parse: they
    are read from the end, where their number must stand before the first.
    """
    bits = int.from_bytes(setup, "little")
    start = bits.bit_length() - 1  # of the bit that ends the header
    flags: list[bool] = []
    found: list[bool] = []
    for count in range(1, 65):
        start -= _MODE
        if start < 6:
            break
        mode = bits >> start
        if mode >> 1 & 0xFFFFFFFF or mode >> 33 & 0xFF > 63:
            break
        flags.insert(0, bool(mode & 1))
        if bits >> (start - 6) & 63 == count - 1:
            found = flags.copy()
    return found
