"""The index of a container: what lies where with which checksum, in the file's first bytes.

It stands in the HDF5 file's user block, which HDF5 itself never reads or writes, and holds all that
a reader needs; docs/cache.md describes it. It is untrusted: every number is checked against the
file's size before anything is allocated, and HDF5 never parses a file that is read.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from qamro_cache.identity import canonical_json, strict_json

FORMAT_VERSION = 2
MAGIC = b"qamro-cache "
#: Smallest and largest user block, in bytes; a power of two, as HDF5 wants it.
SMALLEST, LARGEST = 512, 4 << 20
#: ``qamro-cache 2 0000016384\n``, and then the checksum of the rest of the block in a line.
_FIRST = re.compile(rb"qamro-cache 2 (\d{10})\n")
_FIRST_LENGTH = len(MAGIC) + 13
HEAD = _FIRST_LENGTH + 33
#: Most arrays in a file, and dimensions of one.
MAX_ARRAYS, MAX_DIMENSIONS = 4096, 8
#: Most bytes that lie outside of arrays: HDF5's own directory takes about 300 an array.
MAX_REST = 16 << 20
#: Longest text in a table, in bytes.
MAX_TEXT = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9_.+/-]{1,120}")
_NUMBERS = {"<f2", "<f4", "<f8", "<i2", "<i4", "<i8", "|u1"}
_TEXT = re.compile(r"\|S([1-9]\d{0,4})")


@dataclass(frozen=True)
class Extent:
    """Where an array lies in its file.

    Attributes:
        dtype: little-endian number or fixed-length bytes.
        shape: of the array.
        start: byte in the file; 0 for an array without elements.
        xxh3: hex xxh3-128 of its bytes.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    xxh3: str

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return nbytes_of(self.dtype, self.shape)


@dataclass(frozen=True)
class Index:
    """What the user block says.

    Attributes:
        block: size of the user block in bytes.
        size: of the whole file in bytes.
        attributes: text and numbers that are true of the whole file.
        extents: array name -> where it lies.
        rest: hex xxh3-128 of all bytes after the block that are in no array.
    """

    block: int
    size: int
    attributes: Mapping[str, Any]
    extents: Mapping[str, Extent]
    rest: str


def nbytes_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Bytes of an array, in Python's unbounded integers."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    return size


def block_size(attributes: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the size of the user block for these arrays: known before they are written.

    Raises:
        ValueError: it would be larger than a reader accepts.
    """
    longest = Extent(np.dtype("S99999"), (), 10**18, "0" * 32)
    extents = {n: Extent(longest.dtype, s, longest.start, longest.xxh3) for n, s in shapes.items()}
    needed = HEAD + len(_text(Index(LARGEST, 10**18, attributes, extents, longest.xxh3)))
    if needed > LARGEST:
        raise ValueError(f"its description takes {needed} bytes, more than {LARGEST}")
    return max(SMALLEST, 1 << (needed - 1).bit_length())


def render(index: Index) -> bytes:
    """Return the user block."""
    first = MAGIC + b"%d %010d\n" % (FORMAT_VERSION, index.block)
    rest = _text(index).ljust(index.block - HEAD, b"\n")
    return first + _digest(first, rest) + rest


def block_of(head: bytes) -> int:
    """Return the size of the user block from the file's first ``HEAD`` bytes; 0 for no cache's."""
    found = _FIRST.match(head)
    size = int(found[1]) if found else 0
    return size if SMALLEST <= size <= LARGEST and size & (size - 1) == 0 else 0


def parse(block: bytes) -> Index:
    """Parse a user block.

    Raises:
        ValueError: its checksum is wrong, or it says what no cache says.
    """
    first, rest = block[:_FIRST_LENGTH], block[HEAD:]
    if block[_FIRST_LENGTH:HEAD] != _digest(first, rest):
        raise ValueError("its list of arrays is damaged")
    text = rest.rstrip(b"\n").decode("ascii")
    record = strict_json(text)
    # One spelling alone: no key twice, no other number that reads the same.
    if not isinstance(record, dict) or canonical_json(record) != text:
        raise ValueError("its list of arrays is not in its canonical form")
    if record.keys() != {"arrays", "attributes", "bytes", "rest"}:
        raise ValueError("its list of arrays has other parts than this format's")
    arrays, attributes, size = record["arrays"], record["attributes"], record["bytes"]
    if not (isinstance(arrays, dict) and isinstance(attributes, dict) and type(size) is int):
        raise ValueError("its list of arrays has parts of another type")
    if len(arrays) > MAX_ARRAYS or not isinstance(record["rest"], str):
        raise ValueError(f"it lists more than {MAX_ARRAYS} arrays, or no checksum")
    extents = {name: _extent(name, entry) for name, entry in arrays.items()}
    index = Index(len(block), size, attributes, extents, record["rest"])
    if sum(length for _, length in gaps(index)) > MAX_REST:
        raise ValueError("too much of the file is in none of its arrays")
    return index


def gaps(index: Index) -> Iterator[tuple[int, int]]:
    """Yield start and length of what lies after the block and in no array, in order.

    Raises:
        ValueError: two arrays overlap, or one reaches beyond the file.
    """
    done = index.block
    filled = [(e.start, e.nbytes, name) for name, e in index.extents.items() if e.nbytes]
    for start, size, name in [*sorted(filled), (index.size, 0, "the end of the file")]:
        if start < done:
            raise ValueError(f"/{name} overlaps what lies before it")
        if start > done:
            yield done, start - done
        done = start + size


def _extent(name: str, entry: object) -> Extent:
    if not (isinstance(entry, list) and len(entry) == 4):
        raise ValueError(f"/{name[:60]} is not described by four values")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:60]!r} cannot name an array")
    dtype, shape, start, xxh3 = entry
    text = _TEXT.fullmatch(str(dtype))
    if not (text and int(text[1]) <= MAX_TEXT) and str(dtype) not in _NUMBERS:
        raise ValueError(f"/{name} has a type no cache has")
    numbers = [*shape, start] if isinstance(shape, list) else [None]
    if not all(type(number) is int and 0 <= number < 1 << 60 for number in numbers):
        raise ValueError(f"/{name} has a shape or place no cache has")
    if len(shape) > MAX_DIMENSIONS or not isinstance(xxh3, str):
        raise ValueError(f"/{name} has too many dimensions, or no checksum")
    return Extent(np.dtype(dtype), tuple(shape), start, xxh3)


def _text(index: Index) -> bytes:
    arrays = {
        name: [extent.dtype.str, list(extent.shape), extent.start, extent.xxh3]
        for name, extent in index.extents.items()
    }
    parts = (arrays, index.attributes, index.size, index.rest)
    record = dict(zip(("arrays", "attributes", "bytes", "rest"), parts, strict=True))
    return canonical_json(record).encode("ascii")


def _digest(*parts: bytes) -> bytes:
    return xxhash.xxh3_128_hexdigest(b"".join(parts)).encode() + b"\n"
