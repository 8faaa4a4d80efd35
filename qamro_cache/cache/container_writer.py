"""Write a container: room for every array by HDF5, the bytes by plain file calls, then its name."""

import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from qamro_cache.cache.container import (
    BLOCK,
    CHECKSUMS,
    MAGIC,
    Blocks,
    attributes_xxh3,
    bytes_of,
    first_line,
    nbytes_of,
)
from qamro_cache.errors import QamroError


def write_container(
    path: Path,
    attributes: Mapping[str, Any],
    arrays: Mapping[str, Blocks],
    verify: Callable[[Path], object],
) -> None:
    """Write a file under a temporary name, flush it to disk, verify it, and give it its name.

    A crash at any moment leaves either no file of that name (or the former one) or the whole
    new one; at worst a ``.NAME.*.tmp`` stays beside it.

    Args:
        path: final name; an existing file is replaced in one step.
        attributes: text, integers or truth values at the root.
        arrays: name (``group/name``) -> rows.
        verify: called with the temporary file once it is on disk; raises if it is not right.

    Raises:
        QamroError: the disk is full, or the folder is gone or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        starts = _make_directory(temporary, attributes, arrays)
        handle = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
        try:
            lines = [f"{attributes_xxh3(attributes)}  attributes\n"]
            for name, blocks in arrays.items():
                lines.append(f"{_write_blocks(handle, starts[name], name, blocks)}  {name}\n")
            text = "".join(lines).encode()
            text += f"{xxhash.xxh3_128_hexdigest(text)}  {CHECKSUMS}\n".encode()
            _pwrite(handle, memoryview(text), starts[CHECKSUMS])
            os.fsync(handle)
        finally:
            os.close(handle)
        verify(temporary)
        temporary.replace(path)
        fsync_folder(path.parent)
    # HDF5 raises an OSError or a RuntimeError without a number when it cannot write.
    except (OSError, RuntimeError) as error:
        size = sum(nbytes_of(blocks.dtype, blocks.shape) for blocks in arrays.values())
        raise QamroError(
            f"{path} ({size / 1e6:.1f} MB) cannot be written: {_why(error)}; mend that and run the "
            "same command again, what is finished is kept"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems cannot fsync a folder; the rename is then as safe as they are.
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _make_directory(
    path: Path, attributes: Mapping[str, Any], arrays: Mapping[str, Blocks]
) -> dict[str, int]:
    """Make the file with room for every array and return where each starts."""
    length = sum(32 + 2 + len(name.encode()) + 1 for name in ["attributes", *arrays, CHECKSUMS])
    shapes = {name: (blocks.dtype, blocks.shape) for name, blocks in arrays.items()}
    shapes[CHECKSUMS] = (np.dtype(f"S{length}"), ())
    starts: dict[str, int] = {}
    # The v110 format has checksums on its own metadata; text of fixed length stays out of the
    # global heap, which has none.
    with h5py.File(path, "w", libver=("v110", "v110"), locking=False) as file:
        file.attrs["format"] = np.bytes_(MAGIC)
        for name, value in attributes.items():
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
        for name, (dtype, shape) in shapes.items():
            settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            settings.set_layout(h5py.h5d.CONTIGUOUS)
            settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
            links.set_create_intermediate_group(True)
            dataset = h5py.h5d.create(
                file.id,
                name.encode(),
                h5py.h5t.py_create(dtype, logical=True),
                h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR),
                settings,
                links,
            )
            starts[name] = dataset.get_offset() or 0
    return starts


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    found = re.search(r"errno = (\d+)", str(error))
    return os.strerror(int(found[1])) if found else first_line(error)


def _write_blocks(handle: int, start: int, name: str, blocks: Blocks) -> str:
    digest = xxhash.xxh3_128()
    done, size = 0, nbytes_of(blocks.dtype, blocks.shape)
    for piece in blocks.pieces:
        if piece.dtype != blocks.dtype or piece.shape[1:] != blocks.shape[1:]:
            raise ValueError(
                f"{name}: rows {piece.dtype} {piece.shape}, not {blocks.dtype} {blocks.shape}"
            )
        data = bytes_of(np.ascontiguousarray(piece))
        for first in range(0, len(data), BLOCK):
            block = data[first : first + BLOCK]
            if done + len(block) > size:
                raise ValueError(f"{name}: more rows than its shape {blocks.shape} has")
            digest.update(block)
            _pwrite(handle, block, start + done)
            done += len(block)
    if done != size:
        raise ValueError(f"{name}: {done} bytes, its shape {blocks.shape} needs {size}")
    return digest.hexdigest()


def _pwrite(handle: int, data: memoryview, start: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(handle, data[done:], start + done)
