"""The container: named arrays with checksums in one HDF5 file, written once, never appended to.

HDF5 lays the file out, for other programs; the bytes of every array are one contiguous extent that
is written and read with plain file calls. So both go at the disk's speed, a full disk is an
ordinary OSError, and HDF5 never parses a file that may come from a stranger.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from qamro_cache.cache.index import (
    FORMAT_VERSION,
    HEAD,
    MAGIC,
    Extent,
    Index,
    block_of,
    gaps,
    nbytes_of,
    parse,
)
from qamro_cache.errors import QamroError, words_of

Array = npt.NDArray[Any]

#: Bytes read or written at once; a block is hashed while it is still in the processor's cache.
BLOCK = 4 << 20
#: The first bytes of every HDF5 superblock; one of a cache follows its user block.
SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Where in a superblock its version and its flags stand, and the flag of an open writer.
_VERSION, _FLAGS, _WRITING = 8, 11, 1


@dataclass(frozen=True)
class Blocks:
    """An array to be written: its type, its shape, and its rows in pieces, in order."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: Iterable[Array]


def whole(array: Array) -> Blocks:
    """Return an array as one piece."""
    return Blocks(array.dtype, array.shape, [array])


def bytes_of(array: Array) -> memoryview:
    """Return the bytes of a contiguous array, without a copy."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def damaged(path: Path, what: str) -> QamroError:
    """Return the error of a file that is not as it was written."""
    return QamroError(f"{path}: {what}; extract it again or take a copy")


@dataclass(frozen=True)
class Container:
    """The directory of an opened file. It holds no handle: reading opens the file anew.

    Attributes:
        path: of the file.
        attributes: text and numbers that are true of the whole file.
        extents: array name -> where it lies.
        stamp: device, inode, size and time of the file, so that a replaced file is noticed.
    """

    path: Path
    attributes: Mapping[str, Any]
    extents: Mapping[str, Extent]
    stamp: tuple[int, int, int, int]

    def load(self, name: str) -> Array:
        """Return an array, checksum verified; its size has been checked against the file's."""
        extent = self.extents[name]
        array = np.empty(extent.shape, extent.dtype)
        self.read_into(name, array)
        return array

    def read_into(self, name: str, out: Array) -> None:
        """Read a whole array into ``out`` (contiguous, same bytes) in one pass, verified."""
        extent = self.extents[name]
        if out.nbytes != extent.nbytes or not out.flags.c_contiguous:
            raise ValueError(f"out has {out.nbytes} bytes, {name} has {extent.nbytes}")
        if extent.nbytes:
            view = bytes_of(out)
            digest = xxhash.xxh3_128()
            done = 0
            with self._open() as handle:
                while done < extent.nbytes:
                    block = view[done : done + BLOCK]
                    count = os.preadv(handle, [block], extent.start + done)
                    if count == 0:
                        raise damaged(self.path, f"{name} ends early; the file is damaged")
                    digest.update(block[:count])
                    done += count
            self._compare(name, digest.hexdigest())

    def check(self, name: str) -> None:
        """Verify an array's checksum in bounded memory."""
        for _ in self.pieces(name):
            pass

    def pieces(self, name: str) -> Iterator[Array]:
        """Yield an array's bytes in order, block by block; the end of it verifies them."""
        extent = self.extents[name]
        digest = xxhash.xxh3_128()
        with self._open() as handle:
            for start in range(0, extent.nbytes, BLOCK):
                block = pread(handle, min(BLOCK, extent.nbytes - start), extent.start + start)
                if block.size == 0:
                    raise damaged(self.path, f"{name} ends early; the file is damaged")
                digest.update(bytes_of(block))
                yield block
        if extent.nbytes:
            self._compare(name, digest.hexdigest())

    def rows(self, name: str, first: int, last: int) -> Array:
        """Return rows ``first`` to ``last`` (exclusive) of an array, not verified."""
        extent = self.extents[name]
        shape = (last - first, *extent.shape[1:])
        if not 0 <= first <= last <= extent.shape[0]:
            raise ValueError(f"rows {first} to {last} of {extent.shape[0]}")
        step = nbytes_of(extent.dtype, extent.shape[1:])
        with self._open() as handle:
            block = pread(handle, step * (last - first), extent.start + first * step)
        return block.view(extent.dtype).reshape(shape)

    def refuse_another(self) -> None:
        """Raise a QamroError where another file has the name of the one that was opened."""
        with suppress(FileNotFoundError), self._open():
            pass

    def _compare(self, name: str, found: str) -> None:
        if found != self.extents[name].xxh3:
            raise damaged(self.path, f"the checksum of {name} is wrong: the file is damaged")

    @contextmanager
    def _open(self) -> Iterator[int]:
        handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _stamp(os.fstat(handle)) != self.stamp:
                raise QamroError(
                    f"{self.path} was replaced since it was opened; open it again, or run the same "
                    "command again"
                )
            yield handle
        finally:
            os.close(handle)


def pread(handle: int, size: int, start: int) -> npt.NDArray[np.uint8]:
    """Read ``size`` bytes at ``start``; fewer at the end of the file."""
    out = np.empty(size, np.uint8)
    view, done = bytes_of(out), 0
    while done < size:
        count = os.preadv(handle, [view[done:]], start + done)
        if count == 0:
            break
        done += count
    return out[:done]


def _stamp(info: os.stat_result) -> tuple[int, int, int, int]:
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


def open_container(path: Path) -> Container:
    """Check a file's first bytes and all that is in no array, and return its directory.

    Raises:
        QamroError: it is not such a file, is damaged, or holds what no such file may hold.
    """
    try:
        # A pipe must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise QamroError(f"there is no cache {path}; qamro-extract makes one") from None
    except OSError as error:
        raise QamroError(f"{path} cannot be opened: {words_of(error)}") from error
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise QamroError(f"{path} is not a regular file; name a file that qamro-extract wrote")
        index = _read_index(path, handle, info.st_size)
    except OSError as error:
        raise QamroError(f"{path} cannot be read: {words_of(error)}") from error
    finally:
        os.close(handle)
    return Container(path, index.attributes, index.extents, _stamp(info))


def _read_index(path: Path, handle: int, size: int) -> Index:
    head = pread(handle, HEAD, 0).tobytes()
    block = block_of(head)
    if not block:
        raise _no_cache(path, head)
    whole = pread(handle, block, 0).tobytes()
    try:
        index = parse(whole)
        if index.size == size and rest_xxh3(handle, index) == index.rest:
            return index
        problem = "its directory, or what lies between its arrays, is damaged"
        if index.size != size:
            way = "cut short" if index.size > size else "too long"
            problem = f"the file is {way}: it has {size} bytes of {index.size}"
    except ValueError as error:
        problem = words_of(error)
        if len(whole) < block:
            problem = f"the file is cut short: it has {size} bytes, its list of arrays {block}"
    if _is_open_for_writing(handle, block):
        raise QamroError(
            f"{path} is open for writing in another program, or was left so by one that was "
            "stopped; close it there (h5clear -s mends what was left), or extract it again"
        )
    raise damaged(path, problem)


def rest_xxh3(handle: int, index: Index) -> str:
    """Return the checksum of all that lies after the user block and in no array."""
    digest = xxhash.xxh3_128()
    for start, length in gaps(index):
        digest.update(bytes_of(pread(handle, length, start)))
    return digest.hexdigest()


def _is_open_for_writing(handle: int, block: int) -> bool:
    begin = pread(handle, _FLAGS + 1, block).tobytes()
    whole = len(begin) > _FLAGS and begin.startswith(SIGNATURE) and begin[_VERSION] == 3
    return whole and bool(begin[_FLAGS] & _WRITING)


def _no_cache(path: Path, head: bytes) -> QamroError:
    """Say what a file is that does not begin as a cache does."""
    if not head:
        return damaged(path, "the file is empty")
    version = head.removeprefix(MAGIC).partition(b" ")[0]
    if head.startswith(MAGIC) and version.isdigit() and int(version) > FORMAT_VERSION:
        return QamroError(
            f"{path} was made by a newer version of this program (cache format {int(version)}, "
            f"this one reads {FORMAT_VERSION}); update qamro-cache or extract it again"
        )
    if head.startswith(MAGIC) or MAGIC.startswith(head):
        return damaged(path, "the head of the file is damaged")
    if head.startswith(SIGNATURE):
        return QamroError(
            f"{path} is an HDF5 file, but no cache of format {FORMAT_VERSION} (another program's, "
            "or of an older format); extract it again"
        )
    return QamroError(f"{path} is no cache; name a file that qamro-extract wrote")
