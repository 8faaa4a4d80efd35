"""The container: named arrays with checksums in one HDF5 file, written once, never appended to.

HDF5 keeps the directory; the bytes of every array are one contiguous extent that is written and
read with plain file calls, so both go at the disk's speed and a full disk is an ordinary OSError.
A file is untrusted: only plain, hard-linked, contiguous arrays of numbers and fixed-length
strings are accepted, and no array may reach beyond the end of the file.
"""

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from qamro_cache.errors import QamroError
from qamro_cache.identity import FORMAT_VERSION, canonical_json

Array = npt.NDArray[Any]

MAGIC = "qamro-cache"
#: Bytes read or written at once; a block is hashed while it is still in the processor's cache.
BLOCK = 4 << 20
#: Longest text attribute accepted from a file, in bytes.
MAX_ATTRIBUTE = 16 << 20
#: Most objects accepted in one group.
MAX_MEMBERS = 4096
CHECKSUMS = "checksums"
#: The first bytes of every HDF5 file without a user block, as a cache is.
SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Blocks:
    """An array to be written: its type, its shape, and its rows in pieces, in order."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: Iterable[Array]


def whole(array: Array) -> Blocks:
    """Return an array as one piece."""
    return Blocks(array.dtype, array.shape, [array])


@dataclass(frozen=True)
class Extent:
    """Where an array lies in its file.

    Attributes:
        dtype: little-endian number or fixed-length bytes.
        shape: of the array.
        start: byte in the file; 0 for an array without elements.
        xxh3: hex xxh3-128 of its bytes, as the file's checksum list has it.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    xxh3: str

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return nbytes_of(self.dtype, self.shape)


def bytes_of(array: Array) -> memoryview:
    """Return the bytes of a contiguous array, without a copy."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def damaged(path: Path, what: str) -> QamroError:
    """Return the error of a file that is not as it was written."""
    return QamroError(f"{path}: {what}; extract it again or take a copy")


def nbytes_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Bytes of an array, in Python's unbounded integers."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    return size


@dataclass(frozen=True)
class Container:
    """The directory of an opened file. It holds no handle: reading opens the file anew.

    Attributes:
        path: of the file.
        attributes: text and numbers at the file's root.
        extents: array name -> where it lies.
        stamp: device, inode, size and time of the file, so that a replaced file is noticed.
    """

    path: Path
    attributes: dict[str, Any]
    extents: dict[str, Extent]
    stamp: tuple[int, int, int, int]

    def load(self, name: str) -> Array:
        """Return an array, checksum verified; its size has been checked against the file's."""
        extent = self.extents[name]
        array = np.empty(extent.shape, extent.dtype)
        self.read_into(name, array)
        return array

    def read_into(self, name: str, out: Array) -> None:
        """Read a whole array into ``out`` (contiguous, same bytes) in one pass, verified."""
        for _ in self.blocks_into(name, out):
            pass

    def blocks_into(self, name: str, out: Array) -> Iterator[int]:
        """As ``read_into``, yielding the bytes read so far after each block."""
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
                    yield done
            self._compare(name, digest.hexdigest())

    def check(self, name: str) -> None:
        """Verify an array's checksum in bounded memory."""
        for _ in self.pieces(name, BLOCK):
            pass

    def pieces(self, name: str, size: int = BLOCK) -> Iterator[Array]:
        """Yield an array's bytes in order, ``size`` at a time; the end of it verifies them."""
        extent = self.extents[name]
        digest = xxhash.xxh3_128()
        with self._open() as handle:
            for start in range(0, extent.nbytes, size):
                block = pread(handle, min(size, extent.nbytes - start), extent.start + start)
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

    def _compare(self, name: str, found: str) -> None:
        if found != self.extents[name].xxh3:
            raise damaged(self.path, f"the checksum of {name} is wrong: the file is damaged")

    @contextmanager
    def _open(self) -> Iterator[int]:
        handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _stamp(os.fstat(handle)) != self.stamp:
                raise QamroError(f"{self.path} was replaced since it was opened; open it again")
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


def attributes_xxh3(attributes: Mapping[str, Any]) -> str:
    """Return the checksum of the attributes at the root."""
    return xxhash.xxh3_128_hexdigest(canonical_json(attributes).encode())


def open_container(path: Path) -> Container:
    """Check a file's directory and return it.

    Raises:
        QamroError: it is not such a file, is damaged, or holds what no such file may hold.
        FileNotFoundError: there is no such file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise QamroError(f"{path} is not a regular file; name a file that qamro-extract wrote")
    try:
        # Published files never change, so no lock is needed; locks fail on some network folders.
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise _not_opened(path, error) from error
    with file:
        try:
            info = os.fstat(file.id.get_vfd_handle())
            attributes = _read_attributes(path, file)
            extents = dict(_walk(path, file.id, "", info.st_size))
        except QamroError:
            raise
        # h5py raises many types on a damaged directory.
        except Exception as error:
            raise damaged(path, "its list of arrays is damaged") from error
    container = Container(path, attributes, extents, _stamp(info))
    return _with_checksums(container)


def _not_opened(path: Path, error: OSError) -> QamroError:
    """Say in our own words why HDF5 does not open a file."""
    if error.errno is not None:
        return QamroError(f"{path} cannot be opened: {os.strerror(error.errno)}")
    with path.open("rb") as file:
        begin = file.read(len(SIGNATURE))
    if not begin:
        return damaged(path, "the file is empty")
    if not SIGNATURE.startswith(begin):
        return QamroError(
            f"{path} is no cache (not an HDF5 file); name a file that qamro-extract wrote"
        )
    cut = re.search(r"\beof = (\d+).*stored_eof = (\d+)", str(error))
    if cut:
        return damaged(path, f"the file is cut short, {cut[1]} of its {cut[2]} bytes are there")
    return damaged(path, "the head of the file is damaged")


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, cut to 200 characters."""
    text = str(error).splitlines()
    return text[0][:200] if text else type(error).__name__


def _read_attributes(path: Path, file: h5py.File) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if len(file.attrs) > MAX_MEMBERS:
        raise QamroError(f"{path} holds too many attributes")
    for name in file.attrs:
        kind = file.attrs.get_id(name)
        if kind.shape != () or kind.get_storage_size() > MAX_ATTRIBUTE:
            raise QamroError(f"{path}: attribute {name!r} is not one value of a fair size")
        if kind.dtype.kind == "S" and not kind.get_type().is_variable_str():
            attributes[name] = bytes(file.attrs[name]).decode("utf-8")
        elif kind.dtype == np.dtype(bool):
            attributes[name] = bool(file.attrs[name])
        elif kind.dtype.kind in "iu":
            attributes[name] = int(file.attrs[name])
        else:
            raise QamroError(f"{path}: attribute {name!r} has a type no cache has")
    if attributes.pop("format", None) != MAGIC:
        raise QamroError(
            f"{path} is an HDF5 file, but no cache of this program; "
            "name a file that qamro-extract wrote"
        )
    version = attributes.get("format_version")
    # Whatever else is new in it would be called damage further on.
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise QamroError(
            f"{path} was made by a newer version of this program (cache format {version}, this "
            f"one reads {FORMAT_VERSION}); update qamro-cache or extract it again"
        )
    return attributes


def _walk(path: Path, group: Any, prefix: str, size: int) -> Iterator[tuple[str, Extent]]:
    """Yield every array of a group and of the groups in it (two levels deep at most)."""
    if group.get_num_objs() > MAX_MEMBERS:
        raise QamroError(f"{path}: /{prefix} holds too many objects")
    for raw in group:
        name = prefix + raw.decode("utf-8")
        if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
            raise QamroError(f"{path}: /{name} is a link to elsewhere, which no cache has")
        kind = h5py.h5o.get_info(group, raw).type
        if kind == h5py.h5o.TYPE_GROUP and prefix.count("/") < 2:
            yield from _walk(path, h5py.h5g.open(group, raw), name + "/", size)
        elif kind == h5py.h5o.TYPE_DATASET:
            yield name, _extent(path, name, h5py.h5d.open(group, raw), size)
        else:
            raise QamroError(f"{path}: /{name} is of a kind no cache has")


def _extent(path: Path, name: str, dataset: Any, size: int) -> Extent:
    settings = dataset.get_create_plist()
    if settings.get_layout() != h5py.h5d.CONTIGUOUS or settings.get_external_count():
        raise QamroError(f"{path}: /{name} is not stored as one piece in this file")
    kind = dataset.get_type()
    if kind.get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING):
        raise QamroError(f"{path}: /{name} has a type no cache has")
    if kind.get_class() == h5py.h5t.STRING and kind.is_variable_str():
        raise QamroError(f"{path}: /{name} has strings of variable length, which no cache has")
    dtype = np.dtype(kind.dtype)
    if dtype.hasobject or dtype.kind not in "iufS" or dtype.byteorder == ">":
        raise QamroError(f"{path}: /{name} has a type no cache has")
    shape = tuple(int(length) for length in dataset.shape)
    nbytes = nbytes_of(dtype, shape)
    start = dataset.get_offset()
    if nbytes and (start is None or start + nbytes > size):
        raise damaged(path, f"/{name} reaches beyond the end of the file; it is cut short")
    return Extent(np.dtype(dtype.str), shape, (start or 0) if nbytes else 0, "")


def _with_checksums(container: Container) -> Container:
    """Read the list of checksums, and see that it lists exactly what is there."""
    path, extents = container.path, dict(container.extents)
    listed = extents.pop(CHECKSUMS, None)
    if listed is None or listed.dtype.kind != "S" or listed.shape != ():
        raise damaged(path, "there is no list of checksums; it is not a whole cache")
    with container._open() as handle:
        text = pread(handle, listed.nbytes, listed.start).tobytes()
    *lines, last = text.splitlines(keepends=True) or [b""]
    if last.split() != [xxhash.xxh3_128_hexdigest(b"".join(lines)).encode(), CHECKSUMS.encode()]:
        raise damaged(path, "its list of checksums is damaged")
    sums: dict[str, str] = {}
    for line in lines:
        digest, _, name = line.decode("utf-8").rstrip("\n").partition("  ")
        sums[name] = digest
    if sums.pop("attributes", None) != attributes_xxh3(container.attributes):
        raise damaged(path, "its description (identity, provenance) is damaged")
    if sums.keys() != extents.keys():
        odd = sorted(sums.keys() ^ extents.keys())[0]
        raise QamroError(f"{path}: /{odd} is listed and not there, or there and not listed")
    extents = {
        name: Extent(extent.dtype, extent.shape, extent.start, sums[name])
        for name, extent in extents.items()
    }
    return Container(path, container.attributes, extents, container.stamp)


def parse_json(path: Path, name: str, text: object) -> dict[str, Any]:
    """Parse a JSON object out of an attribute."""
    try:
        record = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise QamroError(f"{path}: {name} is not JSON ({first_line(error)})") from error
    if not isinstance(record, dict):
        raise QamroError(f"{path}: {name} is not a JSON record")
    return record
