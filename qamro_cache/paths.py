"""Whatever a user names a file by: text, a path, or several of them."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qamro_cache.errors import OptionError, QamroError, quoted

#: What names a file or folder.
PathLike = str | os.PathLike[str]


def as_path(value: PathLike, what: str = "a file") -> Path:
    """Return a path from whatever names a file: every public function comes here.

    Raises:
        OptionError: it is no path, or empty text, which would be the folder one is in.
    """
    if isinstance(value, str) and not value:
        raise OptionError(f"the name of {what} is empty; name {what}")
    if not isinstance(value, str | os.PathLike):
        raise OptionError(f"{what} is named by text or a path, got {quoted(value)}")
    return Path(value)


def refuse_misread(names: Iterable[str]) -> None:
    """Refuse names that are other text where they are kept, as UTF-8, than Python reads here.

    Raises:
        QamroError: Python reads names of files as ASCII (``PYTHONUTF8=0 LC_ALL=C``), and they are
            not.
    """
    how = sys.getfilesystemencoding()
    odd = "" if how == "utf-8" else next((name for name in names if not _is_kept(name)), "")
    if odd:
        raise QamroError(
            f"Python reads names of files as {how} here, and {quoted(odd)} is none; "
            "set PYTHONUTF8=1 in the environment and run it again"
        )


def _is_kept(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == name


def title_of(path: Path) -> str:
    """Return what a set is called after its file: its name without ending, readable anywhere.

    A name that is not UTF-8 keeps a mark for each odd byte: a title is text, and opens no file.
    """
    return os.fsencode(path.stem).decode(errors="replace")


def as_list(named: Any) -> list[Any]:
    """Return several of anything as a list, and one as a list of one; a path or table is one."""
    several = isinstance(named, Iterable) and not isinstance(named, str | bytes | os.PathLike)
    several = several and not hasattr(named, "columns")
    return list(named) if several else [named]
