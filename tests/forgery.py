"""Caches and heads with other content and right checksums, as a forger would make them.

Written from docs/cache.md and the head's page alone, so that it stays independent of the library.
"""

import hashlib
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import xxhash

HEAD = 58


def canonical(record: Any) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def index_of(raw: bytes) -> tuple[int, Any]:
    """Size of the user block, and the index in it."""
    size = int(raw[14:24])
    return size, json.loads(raw[HEAD:size].rstrip(b"\n"))


def forged_cache(raw: bytes, change: Callable[[Any, bytearray], object]) -> bytes:
    """Change index and bytes of a cache, and make every checksum right again where it can be."""
    size, index = index_of(raw)
    data = bytearray(raw)
    change(index, data)
    seal_arrays(index, data, size)
    return sealed(index, data, size)


def seal_arrays(index: Any, data: bytearray, block: int) -> None:
    """Compute the checksums of all arrays that lie within the file, and of the rest."""
    try:
        done, rest = block, xxhash.xxh3_128()
        spans = []
        for entry in index["arrays"].values():
            dtype, shape, start, _ = entry
            length = np.dtype(dtype).itemsize
            for side in shape:
                length *= side
            entry[3] = xxhash.xxh3_128_hexdigest(bytes(data[start : start + length]))
            if length:
                spans.append((start, start + length))
        for start, end in [*sorted(spans), (len(data), len(data))]:
            rest.update(bytes(data[done:start]))
            done = max(done, end)
        index["rest"] = rest.hexdigest()
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, SyntaxError):
        return  # what was forged has no such checksums


def sealed(index: Any, data: bytearray, block: int) -> bytes:
    text = index if isinstance(index, bytes) else canonical(index)
    size = block
    while HEAD + len(text) > size:
        size *= 2
    first = b"qamro-cache 2 %010d\n" % size
    rest = text.ljust(size - HEAD, b"\n")
    digest = xxhash.xxh3_128_hexdigest(first + rest).encode() + b"\n"
    return first + digest + rest + bytes(data[block:])


def set_attribute(index: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON attribute, and the identity's hash with it."""
    record = change(json.loads(index["attributes"][name]))
    index["attributes"][name] = json.dumps(record)
    if name == "identity":
        digest = hashlib.sha256(canonical(record)).hexdigest()
        index["attributes"]["identity_sha256"] = digest
    else:
        index["attributes"][name] = canonical(record).decode()


def patch(index: Any, data: bytearray, name: str, values: Any) -> None:
    """Replace the first bytes of an array."""
    start = index["arrays"][name][2]
    raw = np.asarray(values).tobytes()
    data[start : start + len(raw)] = raw


def head_parts(raw: bytes) -> tuple[Any, bytearray]:
    """Header and tensors of a head file."""
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size]), bytearray(raw[8 + size :])


def digest_of_head(header: Any, record: str, data: bytes) -> str:
    """The checksum of a head: of its record, then of each tensor with its type and shape."""
    types = {"F32": "torch.float32", "F16": "torch.float16", "F64": "torch.float64"}
    types["U8"] = "torch.uint8"
    digest = hashlib.sha256(record.encode())
    for name in sorted(header.keys() - {"__metadata__"}):
        entry = header[name]
        dtype, (start, end) = types.get(entry["dtype"], entry["dtype"]), entry["data_offsets"]
        digest.update(f"{name} {dtype} {entry['shape']}".encode())
        digest.update(bytes(data[start:end]))
    return digest.hexdigest()
