"""Where the files of a person's table are: names as people write them, and files near them."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from qamro_cache.audio.endings import AUDIO_ENDINGS, ENDINGS
from qamro_cache.audio.open import is_there
from qamro_cache.datasets.tables import Text, refuse_lost
from qamro_cache.errors import QamroError, Together, at_rows, quoted

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\")

logger = logging.getLogger("qamro_cache")


def refuse_foreign(path: Path, names: Text, rows: Iterable[int], start: str) -> None:
    """Refuse names that no file of this machine can have.

    Args:
        path: of the table.
        names: [R] as written.
        rows: [R] their rows in the table.
        start: folder that relative names start from, with its ``/``.
    """
    found: dict[str, list[tuple[int, str]]] = {}
    for name, row in zip(names, rows, strict=True):
        better = name.strip()
        if _odd(name) and (why := _foreign(better)) and not os.path.isfile(_below(start, name)):  # noqa: PTH113
            found.setdefault(why, []).append((row, better))
    mistakes = Together()
    for why, where in found.items():
        with mistakes:
            begin = at_rows(path, [row for row, _ in where])
            raise QamroError(f"{begin}{quoted(where[0][1])} is {why}")
    mistakes.tell()


def audio_paths(path: Path, names: Text, start: str, *, search: bool) -> list[str]:
    r"""Return each clip's file, from names as people write them.

    A name is taken as it stands where there is such a file. Else blanks around it are none of it,
    and a relative one with ``\`` for ``/`` is read as Windows does; and where it has another ending
    than the only audio file of its name, or none, that one is taken, unless another row names it.
    Notices say so.

    Args:
        path: of the table.
        names: [C] as written, none of them foreign.
        start: folder that relative names start from, with its ``/``.
        search: whether ``start`` is a guess: where none of the files is in it, and some are in one
            folder in it, that is taken.
    """
    made, mended = [], 0
    for name in names:
        found = _below(start, name)
        if _odd(name) and not os.path.isfile(found):  # noqa: PTH113
            found = _below(start, name.strip().replace("\\", "/"))
            mended += 1
        # Plain strings, not Path objects: a million of them are made here.
        made.append(found)
    if mended:
        logger.info("%s: %d paths are read without blanks around them, and \\ as /", path, mended)
    made, others = _with_endings(made)
    if search and made and not any(map(is_there, made)):
        folders = sorted(one.path for one in os.scandir(start) if one.is_dir())
        tries = [(folder, *_with_endings([_moved(one, start, folder) for one in made]))
                 for folder in folders if not os.path.basename(folder).startswith(".")]  # noqa: PTH119  # fmt: skip
        hits = [one for one in tries if any(map(os.path.isfile, one[1]))]
        if len(hits) == 1:
            folder, made, others = hits[0]
            logger.info("%s: its files are in %s; --data-dir says otherwise", path, folder)
    if others:
        was, found = others[0]
        logger.info(
            "%s: %d files have another ending than it says and are taken: the first, %s, is %s",
            path,
            len(others),
            os.path.basename(was),  # noqa: PTH119
            os.path.basename(found),  # noqa: PTH119
        )
    refuse_lost(made, path)
    return made


def _with_endings(paths: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Take the only audio file of a missing one's name, whatever its ending; say which.

    One that another row names is that row's: ``s.mp3`` may be what a codec made of ``s.wav``.
    """

    @cache
    def beside(folder: str) -> dict[str, list[str]]:
        there: dict[str, list[str]] = {}
        try:
            names = os.listdir(folder)  # noqa: PTH208 - a million of them
        except OSError:
            return there
        for name in names:
            stem, ending = os.path.splitext(name)  # noqa: PTH122
            if ending.lower() in AUDIO_ENDINGS:
                there.setdefault(stem, []).append(name)
        return there

    instead: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        folder, name = os.path.split(path)
        stem, ending = os.path.splitext(name)  # noqa: PTH122
        stem = stem if ending.lower() in ENDINGS else name
        hits = [] if os.path.isfile(path) else beside(folder).get(stem, [])  # noqa: PTH113
        if len(hits) == 1:
            instead[path] = os.path.join(folder, hits[0])  # noqa: PTH118
    asked = Counter([*dict.fromkeys(paths), *instead.values()])
    instead = {path: other for path, other in instead.items() if asked[other] == 1}
    others = [(path, instead[path]) for path in paths if path in instead]
    return [instead.get(path, path) for path in paths], others


def _below(start: str, name: str) -> str:
    return name if name.startswith("/") else start + name


def _moved(path: str, start: str, folder: str) -> str:
    return f"{folder}/{path.removeprefix(start)}" if path.startswith(start) else path


def _odd(name: str) -> bool:
    return (
        name != name.strip() or "\\" in name or "://" in name or name[1:2] == ":"
        or name[:2] == "~/"
    )  # fmt: skip


def _foreign(name: str) -> str:
    if _WINDOWS.match(name):
        return (
            "a path of a Windows machine; write it as it is on this machine, or from the folder "
            "that --data-dir names, with / between"
        )
    if "://" in name:
        return "an address and no file; download it and write its path"
    if name.startswith("~/"):
        return "no whole path; write it out from /, or from the folder that --data-dir names"
    return ""
