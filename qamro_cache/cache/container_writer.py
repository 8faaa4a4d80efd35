"""Write a container: room for its arrays by HDF5, the bytes by plain file calls, then its index."""

import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from qamro_cache.cache.container import BLOCK, Blocks, bytes_of, rest_xxh3
from qamro_cache.cache.index import Extent, Index, block_size, nbytes_of, render
from qamro_cache.errors import QamroError, words_of
from qamro_cache.files import replacing
from qamro_cache.memory import refuse_disk


def write_container(
    path: Path,
    attributes: Mapping[str, Any],
    arrays: Mapping[str, Blocks],
    verify: Callable[[Path], object],
) -> None:
    """Write a file beside ``path``, flush it to disk, verify it, and give it its name.

    Args:
        path: final name; an existing file is replaced in one step.
        attributes: text, integers or truth values that are true of the whole file.
        arrays: name (``group/name``) -> rows.
        verify: called with the temporary file once it is on disk; raises if it is not right.

    Raises:
        QamroError: the disk is full, or the folder cannot be written to; ``path`` is as it was.
    """
    with replacing(path) as temporary:
        try:
            block = block_size(attributes, {name: blocks.shape for name, blocks in arrays.items()})
        except ValueError as error:
            raise QamroError(f"{path} cannot be written: {words_of(error)}") from error
        refuse_disk(sum(nbytes_of(b.dtype, b.shape) for b in arrays.values()), path)
        starts = _lay_out(temporary, attributes, arrays, block)
        handle = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
        try:
            size = os.fstat(handle).st_size
            extents = {}
            for name, blocks in arrays.items():
                xxh3 = _write_blocks(handle, starts[name], name, blocks)
                extents[name] = Extent(blocks.dtype, blocks.shape, starts[name], xxh3)
            index = Index(block, size, attributes, extents, "")
            index = Index(block, size, attributes, extents, rest_xxh3(handle, index))
            _pwrite(handle, memoryview(render(index)), 0)
            os.fsync(handle)
        finally:
            os.close(handle)
        verify(temporary)


def _lay_out(
    path: Path, attributes: Mapping[str, Any], arrays: Mapping[str, Blocks], block: int
) -> dict[str, int]:
    """Make the HDF5 file with room for every array and return where each starts."""
    starts: dict[str, int] = {}
    try:
        # The v110 format has checksums on its own metadata; text of fixed length stays out of the
        # global heap, which has none.
        with h5py.File(
            path, "w", libver=("v110", "v110"), locking=False, userblock_size=block
        ) as file:
            for name, value in attributes.items():
                file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
            for name, blocks in arrays.items():
                starts[name] = _make_array(file, name, blocks)
        # HDF5 may leave the room of the last array to whoever writes it.
        ends = [starts[name] + nbytes_of(b.dtype, b.shape) for name, b in arrays.items()]
        if path.stat().st_size < max(ends, default=0):
            os.truncate(path, max(ends))
    # HDF5 raises an OSError or a RuntimeError that has the number in its text alone.
    except (OSError, RuntimeError) as error:
        found = re.search(r"errno = (\d+)", str(error))
        number = error.errno if isinstance(error, OSError) and error.errno else None
        number = number or (int(found[1]) if found else errno.EIO)
        raise OSError(number, os.strerror(number)) from error
    return starts


def _make_array(file: h5py.File, name: str, blocks: Blocks) -> int:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    settings.set_obj_track_times(False)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    dataset = h5py.h5d.create(
        file.id,
        name.encode(),
        h5py.h5t.py_create(blocks.dtype, logical=True),
        h5py.h5s.create_simple(blocks.shape),
        settings,
        links,
    )
    return dataset.get_offset() or 0 if nbytes_of(blocks.dtype, blocks.shape) else 0


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
