"""One writer for every output: the old file whole or the new one whole, at any moment.

A new file is made under a temporary name beside the one it replaces (links are followed first),
flushed to disk and renamed.
"""

import errno
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from qamro_cache.errors import QamroError, words_of
from qamro_cache.temporary import (
    exchange,
    followed,
    fsync,
    fsync_folder,
    locked,
    remove_leftovers,
    temporary,
)

if TYPE_CHECKING:
    import pandas as pd


#: Files of this process that have a name: writing to them shares the offset of what is printed.
_OPEN_FILE = re.compile(r"/dev/(?:stdout|stderr)|/(?:dev|proc/self)/fd/\d+")


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file, whole or not at all; pipes, terminals and ``/dev/stdout`` are written to.

    Args:
        path: file to make or replace; missing folders are made.
        write: called with the open file.

    Raises:
        QamroError: it cannot be written; a file of that name is as it was.
    """
    if _target(path) is not None:
        with replacing(path) as new, new.open("wb") as file:
            write(file)
        return
    try:
        with os.fdopen(_open_special(path), "wb") as file:
            write(file)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a text as it is, in UTF-8; names that are not UTF-8 keep their bytes."""
    write_file(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def write_json(path: Path, record: Any) -> None:
    """Write a record as `json_text`."""
    write_text(path, json_text(record) + "\n")


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV without its index; names that are not UTF-8 keep their bytes."""
    write_file(path, lambda file: table.to_csv(file, index=False, errors="surrogateescape"))


def json_text(record: Any, indent: int | None = 2) -> str:
    """JSON of a record, indented; a figure that is undefined (NaN, infinite) becomes null.

    It is UTF-8 whatever is in it: a byte of a file's name that is not becomes its escape.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    text = json.dumps(plain(record), indent=indent, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda odd: f"\\u{ord(odd[0]):04x}", text)


def refuse_other(
    path: Path, what: str, is_ours: Callable[[Path], bool], overwrite: bool = False
) -> None:
    """Refuse an output that would replace somebody else's file; asked before the work, too.

    Args:
        path: of the output. Nothing there, an empty file, a pipe or a terminal lose nothing.
        what: the only kind of file that is replaced, for example ``table of qamro-predict``.
        is_ours: whether the file is of that kind; an error of any kind means no.
        overwrite: replace any file.

    Raises:
        QamroError: another file is there, or nothing can be written under that name.
    """
    target = _target(path)
    if target is None:
        return
    try_place(path)
    if overwrite or not target.exists() or target.stat().st_size == 0:
        return
    # Whatever a stranger's file makes the reader raise, it is not ours.
    with suppress(Exception):
        if is_ours(target):
            return
    raise QamroError(f"{path} is there already, is no {what}, and is kept; choose another name")


def refuse_same(*paths: Path | None) -> None:
    """Refuse two outputs of one name, however it is spelled; None is no output."""
    seen: set[str] = set()
    for path in paths:
        if path is None:
            continue
        name = os.path.realpath(path)
        if name in seen:
            raise QamroError(f"{path} is named for two outputs; give each a name of its own")
        seen.add(name)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path``, which becomes ``path`` when the block is left well.

    For what cannot be written front to back; else use `write_file`.

    Raises:
        QamroError: it cannot be written, or is no plain file; a file of that name is as it was.
    """
    target = _plain_target(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        with temporary(target, folder=False) as (new, handle):
            if target.exists():
                os.fchmod(handle, stat.S_IMODE(target.stat().st_mode))
            yield new
            os.fsync(handle)
            new.replace(target)
            fsync_folder(target.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def replace_folder(out: Path, ours: Collection[str]) -> Iterator[Path]:
    """Give a new folder beside ``out``, exchanged for it in one step when the block is left well.

    Args:
        out: folder to make or to replace.
        ours: names that may be replaced; anything else that lies in ``out`` is moved over.

    Raises:
        QamroError: ``out`` cannot be written, or cannot be exchanged: it is a file, a mount, or the
            folder that the process is in; ``out`` is as it was then.
    """
    target = _replaceable(out)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target, ours)
        with temporary(target, folder=True) as (new, _):
            yield new
            for folder, _, names in os.walk(new):
                for name in names:
                    fsync(Path(folder, name))
                fsync_folder(Path(folder))
            if target.exists():
                shutil.copymode(target, new)
                with locked(target, needed=False):
                    exchange(new, target, ours)
            else:
                new.rename(target)
            fsync_folder(target.parent)
    except OSError as error:
        raise cannot_write(out, error) from error


def replaceable_folder(out: Path) -> Path:
    """Return the folder that is made or replaced, links followed; asked before the work.

    Raises:
        QamroError: it is a file, a mount, or the folder that the process is in, or there can be
            nothing new where it is.
    """
    target = _replaceable(out)
    try_place(out)
    if target.exists():
        try_place(out / "config.json")  # what is to be moved must be let go
    return target


def _replaceable(out: Path) -> Path:
    target = followed(out)
    if target.is_symlink():  # still one, so it is of a loop
        raise cannot_write(out, OSError(errno.ELOOP, ""))
    if target.exists() and not target.is_dir():
        raise QamroError(f"{out} is a file; name a folder")
    here = Path(os.path.realpath("."))
    if target.is_dir() and (target in (here, *here.parents) or target.is_mount()):
        raise QamroError(
            f"{out} is the folder you are in, or a mount, and cannot be replaced as a whole; "
            "name a folder in it"
        )
    return target


def plain_target(path: Path) -> Path:
    """Return the file that an output is written to, links followed; asked before the work.

    Raises:
        QamroError: it is a folder, a pipe, a device or the like, or is not to be written to.
    """
    target = _plain_target(path)
    try_place(path)
    return target


def try_place(path: Path) -> None:
    """Make a temporary file where an output will have its own, and remove it.

    Args:
        path: of the output. Of a missing folder the nearest one that is there is tried.

    Raises:
        QamroError: nothing can be made, or replaced, there; nothing has been changed.
    """
    target = followed(path)
    folder = target.parent
    try:
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise QamroError(f"{folder} is a file, and {path} cannot be in it; name a folder")
        # Of an earlier try that could not remove it.
        remove_leftovers(folder / target.name)
        with temporary(folder / target.name, folder=False):
            pass
        # In a folder like /tmp what is another's can be written to, and not be replaced.
        if target.exists() and folder.stat().st_mode & stat.S_ISVTX:
            owners = (0, target.stat().st_uid, folder.stat().st_uid)
            if os.geteuid() not in owners:
                raise PermissionError(errno.EPERM, "")
    except OSError as error:
        raise cannot_write(path, error) from error


def _plain_target(path: Path) -> Path:
    target = _target(path)
    if target is None:
        raise QamroError(f"{path} is no plain file, which this output needs; name a file")
    if target.exists() and not os.access(target, os.W_OK):
        raise cannot_write(path, PermissionError(errno.EACCES, ""))
    return target


def cannot_write(path: Path, error: BaseException) -> QamroError:
    """Return the error of an output that cannot be written, in the system's words."""
    return QamroError(
        f"{path} cannot be written: {words_of(error)}; mend that and run the same command again"
    )


def _target(path: Path) -> Path | None:
    """Return the file that ``path`` names, links followed; None for a pipe or a terminal."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return followed(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    if stat.S_ISDIR(mode):
        raise QamroError(f"{path} is a folder; name a file in it")
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or _OPEN_FILE.fullmatch(str(path)):
        return None
    if not stat.S_ISREG(mode):
        raise QamroError(f"{path} is no place for a file (a disk or a socket); name a file")
    return followed(path)


def _open_special(path: Path) -> int:
    if _OPEN_FILE.fullmatch(str(path)):
        number = {"stdout": 1, "stderr": 2}.get(path.name)
        return os.dup(int(path.name) if number is None else number)
    # Without a reader a pipe would wait for ever; so it is an error.
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(handle, True)
    return handle
