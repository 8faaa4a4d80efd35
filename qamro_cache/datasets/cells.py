"""The cells of a person's table: numbers with decimal commas, clips named by their files, paths."""

import logging
import os
import re
from collections.abc import Container
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.options import as_option
from qamro_cache.datasets.tables import Text, factorize, text
from qamro_cache.errors import QamroError, quoted

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?\s*")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\")

logger = logging.getLogger("qamro_cache")


def all_numbers(values: Text) -> bool:
    """Return whether every cell is a number or empty."""
    cells = [cell for cell in factorize(values)[1] if cell.strip()]
    return all(_NUMBER.fullmatch(cell) for cell in cells)


def stems_of_paths(path: Path, table: pd.DataFrame, column: str) -> Text:
    """Return each row's clip_id: its file's name, without folder and ending.

    Args:
        path: of the table.
        table: with ``path``.
        column: what that is called in the file, for messages.

    Raises:
        QamroError: two files have one stem.
    """
    codes, files = factorize(text(table, "path"))
    stems = [file.strip().replace("\\", "/").rpartition("/")[2] for file in files]
    stems = [stem.rpartition(".")[0] or stem for stem in stems]
    first: dict[str, int] = {}
    for place, stem in enumerate(stems):
        other = first.setdefault(stem, place)
        if files[other].strip() != files[place].strip():
            rows = [table.index[int(np.argmax(codes == one))] for one in (other, place)]
            raise QamroError(
                f"{path}, row {rows[1]}: there is no column 'clip_id', and the files "
                f"{files[place]!r} here and {files[other]!r} in row {rows[0]} would both be the "
                f"clip {stem!r}; add the column, or take the whole path with "
                f"{as_option('clip_id', column)}"
            )
    return np.array(stems, object)[codes]


def decimal_points(path: Path, table: pd.DataFrame, fields: Container[str]) -> pd.DataFrame:
    """Write numbers with decimal commas, as tables without separating commas have them, anew."""
    told = ""
    for name in table.columns:
        codes, cells = factorize(text(table, name))
        odd = np.array([_DECIMAL_COMMA.fullmatch(cell) is not None for cell in cells], np.bool_)
        if name in fields or not odd.any():
            continue
        points = [
            place for place, cell in enumerate(cells) if "." in cell and _NUMBER.fullmatch(cell)
        ]
        if points:
            rows = [
                table.index[int(np.argmax(codes == one))] for one in (np.argmax(odd), points[0])
            ]
            raise QamroError(
                f"{path}, row {rows[1]}: {cells[points[0]]!r} in column {name!r}, but "
                f"{cells[odd][0]!r} in row {rows[0]}; write all with a decimal point"
            )
        told = told or f"{cells[odd][0].strip()!r} in {name!r}"
        cells = np.array([c.replace(",", ".") if o else c for c, o in zip(cells, odd, strict=True)])
        table[name] = cells.astype(object)[codes]
    if told:
        logger.info("%s: commas in numbers are decimal commas, the first is %s", path, told)
    return table


def audio_paths(path: Path, names: Text, rows: npt.NDArray[np.int64], start: str) -> list[str]:
    r"""Return each clip's file, from names as people write them.

    A name is taken as it stands where there is such a file. Else blanks around it are none of it,
    and a relative one with ``\`` for ``/`` is read as Windows does.

    Args:
        path: of the table.
        names: [C] as written.
        rows: [C] their rows in the table.
        start: folder that relative names start from, with its ``/``.

    Raises:
        QamroError: a name that no file of this machine can have.
    """
    made, mended = [], 0
    for name, row in zip(names, rows, strict=True):
        found = name if name.startswith("/") else start + name
        odd = name != name.strip() or "\\" in name or "://" in name or name[1:2] == ":"
        if (odd or name[:2] == "~/") and not os.path.isfile(found):  # noqa: PTH113
            better = name.strip()
            why = _foreign(better)
            if why:
                raise QamroError(f"{path}, row {row}: {quoted(better)} is {why}")
            better = better.replace("\\", "/")
            found = better if better.startswith("/") else start + better
            mended += 1
        # Plain strings, not Path objects: a million of them are made here.
        made.append(found)
    if mended:
        logger.info("%s: %d paths are read without blanks around them, and \\ as /", path, mended)
    return made


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
