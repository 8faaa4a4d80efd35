"""A safetensors header: checked before it is parsed, and the same for the same content."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from qamro_cache.identity import strict_json

#: Largest head file and largest header in it, in bytes; most tensors; longest name.
MAX_FILE, MAX_HEADER, MAX_TENSORS, MAX_NAME = 512 << 20, 8 << 20, 1 << 16, 200
#: The types that a head file may have, with their sizes in bytes.
SIZES = {"F32": 4, "F16": 2, "U8": 1}


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself.

    Attributes:
        metadata: text by name.
        tensors: name -> type and shape.
    """

    metadata: Mapping[str, str]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]


def in_order(data: bytes) -> bytes:
    """Return a safetensors file whose metadata stands in the order of its names.

    The library writes it in a random one, so that the same content would be other bytes each time.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # tensors start at whole numbers of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[end:]


def read_header(file: BinaryIO) -> Header:
    """Read and check the header; the tensors fill the rest of the file without a gap.

    Raises:
        ValueError: it is no such file, or is larger than a head can be.
    """
    size = os.fstat(file.fileno()).st_size
    if size > MAX_FILE:
        raise ValueError(f"it has {size} bytes, more than a head can have ({MAX_FILE})")
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or not 2 <= length <= min(MAX_HEADER, size - 8):
        raise ValueError("it is cut short, or its header is of an impossible length")
    record = strict_json(file.read(length).decode("utf-8"))
    if not isinstance(record, dict) or len(record) > MAX_TENSORS:
        raise ValueError("its header is no record, or names too many tensors")
    metadata = record.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata is no text by name")
    spans, tensors = [], {}
    for name, entry in record.items():
        dtype, shape, span = _entry(name, entry)
        tensors[name] = (dtype, shape)
        spans.append(span)
    end = 0
    for first, last in sorted(spans):
        if first != end:
            raise ValueError("its tensors overlap, or there is a gap between them")
        end = last
    if 8 + length + end != size:
        raise ValueError(f"it has {size} bytes of {8 + length + end}")
    return Header(metadata, tensors)


def _entry(name: str, entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    if len(name) > MAX_NAME:
        raise ValueError(f"a tensor's name has {len(name)} characters")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} is not described as a tensor")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise ValueError(f"{name} is {str(dtype)[:20]!r}, which no head has")
    if not (isinstance(shape, list) and isinstance(span, list) and len(span) == 2):
        raise ValueError(f"{name!r} is not described as a tensor")
    if not all(type(number) is int and 0 <= number < 1 << 48 for number in [*shape, *span]):
        raise ValueError(f"{name} has a shape or place that no tensor has")
    size = SIZES[dtype]
    for length in shape:
        size *= length
    if len(shape) > 8 or span[0] + size != span[1]:
        raise ValueError(f"{name} {shape[:8]} does not fill its place")
    return dtype, tuple(shape), (span[0], span[1])
