"""Temporary files and folders beside an output: made, locked, and removed after killed writers.

The name is ``.NAME.XXXXXXXX.tmp`` (``.old`` for a folder that is about to change places with
NAME). It is locked by the process that writes it, and the kernel lets the lock go however that
process ends: the next writer of NAME removes what killed ones have left, and never what another
one is writing.
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qamro_cache.errors import QamroError

_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
#: Network folders may have no locks; some have none for what cannot be opened for writing.
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}


def followed(out: Path) -> Path:
    """Return where an output lies, links followed.

    Raises:
        QamroError: it is called ``-``, by which other programs print: it would be a file.
    """
    if str(out) == "-":
        raise QamroError("- is no name for an output; name a file (/dev/stdout is printed)")
    return Path(os.path.realpath(out))


@contextmanager
def temporary(target: Path, folder: bool) -> Iterator[tuple[Path, int]]:
    """Make a locked temporary file or folder beside ``target``; it is gone afterwards."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        if folder:
            path.mkdir()
        else:
            path.touch(exist_ok=False)
        handle = _open(path)
        try:
            _lock(handle, path, needed=False)
        except (BlockingIOError, FileNotFoundError):
            os.close(handle)  # another writer has just taken it for a leftover
            continue
        break
    try:
        yield path, handle
    finally:
        with suppress(OSError):
            if folder:
                shutil.rmtree(path)
            else:
                path.unlink()
        os.close(handle)


def remove_leftovers(target: Path, ours: Collection[str] = ()) -> None:
    """Remove the temporary files and folders of killed writers of ``target``.

    Args:
        target: file or folder, links followed.
        ours: as in `dissolve`.
    """
    mine = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.(tmp|old)")
    there = target.parent.iterdir() if target.parent.is_dir() else ()
    for path in [path for path in there if mine.fullmatch(path.name)]:
        # What is locked is being written; where no lock can be had nobody knows, and it stays.
        with suppress(OSError), locked(path):
            if not path.is_dir():
                path.unlink()
            elif path.suffix == ".tmp":
                shutil.rmtree(path)
            elif target.exists():
                dissolve(path, target, ours)
            else:
                path.rename(target)  # its writer was killed between two renames


def dissolve(old: Path, new: Path, ours: Collection[str]) -> None:
    """Remove a replaced folder ``old``; what is in it and not of our names moves to ``new``."""
    move_others(old, new, ours)
    for path in list(old.iterdir()):
        if path.name in ours:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    old.rmdir()


def move_others(old: Path, new: Path, ours: Collection[str]) -> None:
    """Move what is in folder ``old`` and not of our names to ``new``, unless ``new`` has it."""
    for path in list(old.iterdir()):
        if path.name not in ours and not (new / path.name).exists():
            path.rename(new / path.name)


def exchange(new: Path, target: Path, ours: Collection[str]) -> None:
    """Let two folders change names, at once where the system can, and remove the old one."""
    # What is new is ours as well: an exchange that fails leaves none of it behind.
    ours = {*ours, *(path.name for path in new.iterdir())}
    old = new.with_suffix(".old")
    new.rename(old)
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = _AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(target)
    try:
        move_others(target, old, ours)
        if rename is None or rename(*names, _RENAME_EXCHANGE) != 0:
            number = ctypes.get_errno()
            if rename is not None and number not in _NO_EXCHANGE:
                raise OSError(number, os.strerror(number))
            second = old.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
            target.rename(second)
            try:
                old.rename(target)
            except OSError:
                second.rename(target)
                raise
            old = second
    except OSError:
        with suppress(OSError):
            dissolve(old, target, ours)
        raise
    # What cannot be removed now is a leftover, and goes with the next run.
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(path: Path, needed: bool = True) -> Iterator[None]:
    """Hold the lock of a file or folder.

    Args:
        path: an OSError is raised if another process has its lock or it is gone.
        needed: else go on without a lock where none can be had.
    """
    handle = _open(path)
    try:
        _lock(handle, path, needed)
        yield
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    return os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_CLOEXEC)


def _lock(handle: int, path: Path, needed: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if needed or error.errno not in NO_LOCKS:
            raise
    if not os.path.samestat(os.fstat(handle), path.stat()):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in a folder survive a power cut."""
    # Some network file systems cannot fsync a folder; the rename is then as safe as they are.
    with suppress(OSError):
        fsync(folder)


def fsync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
