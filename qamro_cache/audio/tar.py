"""Sound in tar files, as WebDataset has it: members are read where they lie, nothing is unpacked.

The path of a member is that of the tar, a ``/``, and its name: ``shards/0001.tar/000012.flac``.
"""

import os
import posixpath
import tarfile
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from qamro_cache.errors import QamroError, words_of
from qamro_cache.memory import refuse_memory

TAR_ENDING = ".tar"
#: Bytes of a tar's block, and those that are copied at once.
_BLOCK, _PIECE = 512, 1 << 20


class Member(NamedTuple):
    """A stretch of a tar: its first byte, and how many there are."""

    start: int
    size: int


def split_member(path: str | Path) -> tuple[Path, str] | None:
    """Return the tar that a path lies in and the name of its member; None for any other path."""
    path = Path(path)
    for parent in path.parents:
        if parent.suffix.lower() == TAR_ENDING and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def members(path: Path) -> Mapping[str, Member]:
    """Return the files in a tar by name, in its order; its headers are read once.

    Raises:
        QamroError: it cannot be read, is no tar or a compressed one, is cut short or damaged, or
            has a member twice.
    """
    try:
        info = path.stat()
    except OSError as error:
        raise QamroError(f"{path} cannot be read: {words_of(error)}") from error
    return _members(str(path), info.st_size, info.st_mtime_ns)


@lru_cache(maxsize=4096)
def _members(path: str, size: int, mtime_ns: int) -> Mapping[str, Member]:
    found: dict[str, Member] = {}

    class Info(tarfile.TarInfo):
        # A size below 0, or beyond the file, sends the library back to where it was, for ever, or
        # after all memory.
        def _block(self, count: int) -> int:
            if not 0 <= count <= size:
                raise tarfile.HeaderError(f"a member of {count} bytes")
            return -(-count // _BLOCK) * _BLOCK

    try:
        with tarfile.open(path, "r:", tarinfo=Info) as tar:
            for info in tar:
                _add(path, info, found)
        with open(path, "rb") as file:  # noqa: PTH123 - a name of any bytes
            file.seek(tar.offset)
            # The reader stops without a word at a header that is none.
            if file.read(_BLOCK).strip(b"\0"):
                raise QamroError(f"{path} is damaged at byte {tar.offset}; copy or make it again")
    except QamroError:
        raise
    except OSError as error:
        raise QamroError(f"{path} cannot be read: {words_of(error)}") from error
    # Whatever a stranger's file makes the library raise.
    except Exception as error:
        raise QamroError(
            f"{path} is no tar, is cut short, or is compressed ({words_of(error)}); copy it again, "
            "or gunzip it"
        ) from error
    return MappingProxyType(found)


def _add(path: str, info: tarfile.TarInfo, found: dict[str, Member]) -> None:
    """Add a member that is a file; folders are passed over, anything else is refused."""
    if info.isdir():
        return
    name = posixpath.normpath(info.name)
    odd = name.startswith(("/", "..")) or "\0" in name
    if not info.isreg() or info.issparse() or odd:
        raise QamroError(f"{path}: {info.name!r} is no plain file; make the tar again")
    if name in found:
        raise QamroError(f"{path}: {info.name!r} is in it twice; make the tar again")
    found[name] = Member(info.offset_data, info.size)


def member_state(path: str | Path) -> tuple[int, int] | None:
    """Return a member's size, and when its tar was modified, in ns; None for none."""
    inside = split_member(path)
    if inside is None:
        return None
    found = members(inside[0]).get(inside[1])
    return None if found is None else (found.size, inside[0].stat().st_mtime_ns)


def open_member(path: Path) -> int | None:
    """Return a handle on a copy of a member in memory, as old as its tar; None for none.

    Raises:
        OSError: the tar ends before it does, or cannot be read.
        QamroError: see `members`; and the member is larger than what memory is free.
    """
    inside = split_member(path)
    found = None if inside is None else members(inside[0]).get(inside[1])
    if inside is None or found is None:
        return None
    # A hole takes no disk, and as much memory as anything else.
    refuse_memory(found.size, str(path), "unpack its tar, or leave it out")
    with inside[0].open("rb", buffering=0) as tar:
        modified = os.fstat(tar.fileno()).st_mtime_ns
        handle = file_in_memory()
        try:
            place, end = found.start, found.start + found.size
            while place < end:
                piece = os.pread(tar.fileno(), min(_PIECE, end - place), place)
                if not piece:
                    raise OSError(f"its tar ends {end - place} bytes too early")
                place += os.write(handle, piece)
            os.lseek(handle, 0, os.SEEK_SET)
            os.utime(handle, ns=(modified, modified))
        except BaseException:
            os.close(handle)
            raise
    return handle


def file_in_memory() -> int:
    """Open a new file without a name: in memory where the system has such, else on disk."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("member")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
