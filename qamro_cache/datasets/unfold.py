"""Cells that hold lists, such as all ratings of a clip, as a row an entry."""

import json
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.cells import is_number
from qamro_cache.datasets.tables import Text, factorize, text
from qamro_cache.errors import QamroError, Together, at_rows, quoted

logger = logging.getLogger("qamro_cache")

Entries = Callable[[str], list[str] | None]
#: What stands in a list where somebody did not rate.
_NOTHING = ("", "null", "none", "nan", "na")


def unfolded(
    names: Sequence[str],
    columns: Mapping[str, Text],
    file: Path,
    row_numbers: npt.NDArray[np.int64],
    entries: Entries | None = None,
) -> tuple[npt.NDArray[np.int64], dict[str, Text]]:
    """Make a row of each entry of the lists in a row's cells; the other cells are repeated.

    Args:
        names: columns of lists, written as JSON: ``[41.0, 32.0]``.
        columns: [R] texts each.
        file: where they were read, for errors.
        row_numbers: [R].
        entries: of a cell, where lists are written otherwise; None for a cell that is no list.

    Returns:
        Row numbers and columns of the new rows.

    Raises:
        QamroError: a column is missing, a cell holds no list of numbers or texts, or the lists of
            a row have different lengths.
    """
    for name in names:
        if name not in columns:
            raise QamroError(f"{file}, row 1: there is no column {name!r} of lists; add it")
    mistakes = Together()
    lists = {}
    for name in names:
        with mistakes:
            lists[name] = _lists(name, columns[name], file, row_numbers, entries or _json)
    mistakes.tell()
    lengths = np.array([len(cell) for cell in lists[names[0]]], np.int64)
    for cells in lists.values():
        for row, length in enumerate(lengths):
            # An empty cell beside a list: nothing is known of any of its entries.
            if cells[row] == [""]:
                cells[row] = [""] * int(length)
    for name, cells in lists.items():
        mine = np.array([len(cell) for cell in cells], np.int64)
        odd = np.flatnonzero(mine != lengths)
        with mistakes:
            if len(odd):
                raise QamroError(
                    f"{at_rows(file, row_numbers[odd])}{name} has {mine[odd[0]]} entries and "
                    f"{names[0]} has {lengths[odd[0]]}; mend the row"
                )
    mistakes.tell()
    found = {name: np.repeat(values, lengths) for name, values in columns.items()}
    for name, cells in lists.items():
        found[name] = np.array([entry for cell in cells for entry in cell], object)
    return np.repeat(row_numbers, lengths), found


def _lists(
    name: str, cells: Text, file: Path, row_numbers: npt.NDArray[np.int64], entries: Entries
) -> list[list[str]]:
    found = [entries(cell) for cell in cells]
    odd = [row for row, cell in enumerate(found) if cell is None]
    if odd:
        raise QamroError(
            f"{at_rows(file, row_numbers[odd])}{quoted(cells[odd[0]])} in {name} is no list such "
            "as [41, 32.5]; mend the cell"
        )
    return [cell for cell in found if cell is not None]


def _json(cell: str) -> list[str] | None:
    try:
        entries: Any = json.loads(cell)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not all(
        isinstance(entry, str | int | float) and not isinstance(entry, bool) for entry in entries
    ):
        return None
    return [str(entry) for entry in entries]


def unfold_people(
    path: Path, frame: pd.DataFrame, fields: Collection[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Make a row of each rating, where a person's table has all of a clip's in one cell.

    They stand as ``[3, 4, 5]``, ``3;4;5`` or ``3|4|5``, and who gave them in another cell of as
    many entries.

    Args:
        path: the file.
        frame: as of `read_table`.
        fields: columns that are called so hold no lists.

    Returns:
        The table, and the columns that held lists.

    Raises:
        QamroError: the lists of a row have different lengths.
    """
    names = _columns_of_lists(frame, fields)
    if not names:
        return frame, names
    columns = {str(name): text(frame, str(name)) for name in frame.columns}
    numbers = frame.index.to_numpy(np.int64)
    rows, made = unfolded(names, columns, path, numbers, people_entries)
    logger.info(
        "%s: %s hold%s lists, a rating an entry: %d rows become %d ratings",
        path,
        " and ".join(map(repr, names)),
        "" if len(names) > 1 else "s",
        len(frame),
        len(rows),
    )
    return pd.DataFrame(made, index=rows, columns=list(columns)), names


def _columns_of_lists(frame: pd.DataFrame, fields: Collection[str]) -> list[str]:
    """Return the columns that hold lists, those of numbers first."""
    others = [str(name) for name in frame.columns if name not in fields]
    found = [name for name in others if _is_lists(text(frame, name), numbers=True)]
    if not found:
        return []
    lengths = _lengths(text(frame, found[0]))
    for name in others:
        if name in found or not _is_lists(text(frame, name), numbers=False):
            continue
        # Where most rows fit, one that does not is a mistake.
        if (_lengths(text(frame, name)) == lengths)[lengths > 1].mean() > 0.5:
            found.append(name)
    return found


def _lengths(cells: Text) -> npt.NDArray[np.int64]:
    codes, values = factorize(cells)
    return np.array([len(people_entries(cell)) for cell in values], np.int64)[codes]


def _is_lists(cells: Text, *, numbers: bool) -> bool:
    """Return whether every cell that is not empty is a list, or one number; and some are lists."""
    several = False
    for cell in factorize(cells)[1]:
        if is_number(cell):
            continue
        entries = people_entries(cell)
        if numbers and not all(is_number(entry) or not entry for entry in entries):
            return False
        several = several or len(entries) > 1
    return several


def people_entries(cell: str) -> list[str]:
    """Return the entries of a list as people write it; a cell that is no list is its only one."""
    inner = cell.strip()
    bracketed = inner[:1] + inner[-1:] in ("[]", "()")
    if bracketed and (entries := _json(inner.replace("(", "[").replace(")", "]"))) is not None:
        return entries or [""]
    if bracketed:
        inner = inner[1:-1].strip()
    parts = [inner]
    if re.search(r"[;|]", inner):
        parts = re.split(r"\s*[;|]\s*", inner.strip(";| "))
    elif (bracketed and "," in inner) or inner.count(",") > 1 or ", " in inner:
        parts = re.split(r"\s*,\s*", inner.strip(", "))  # one comma may be a decimal one
    elif bracketed and all(map(is_number, inner.split())):
        parts = inner.split()
    plain = [part.strip("'\" ") for part in parts]
    return ["" if part.casefold() in _NOTHING else part for part in plain]
