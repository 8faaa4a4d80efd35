"""Cells that hold lists, such as all ratings of a clip, as a row an entry."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.datasets.tables import Text
from qamro_cache.errors import QamroError, quoted


def unfolded(
    names: Sequence[str],
    columns: Mapping[str, Text],
    file: Path,
    row_numbers: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], dict[str, Text]]:
    """Make a row of each entry of the lists in a row's cells; the other cells are repeated.

    Args:
        names: columns of lists, written as JSON: ``[41.0, 32.0]``.
        columns: [R] texts each.
        file: where they were read, for errors.
        row_numbers: [R].

    Returns:
        Row numbers and columns of the new rows.

    Raises:
        QamroError: a column is missing, a cell holds no list of numbers or texts, or the lists of
            a row have different lengths.
    """
    for name in names:
        if name not in columns:
            raise QamroError(f"{file}, row 1: there is no column {name!r} of lists; add it")
    where = [f"{file}, row {number}" for number in row_numbers]
    lists = {
        name: [_entries(*one, name) for one in zip(columns[name], where, strict=True)]
        for name in names
    }
    lengths = [len(cell) for cell in lists[names[0]]]
    for name, cells in lists.items():
        for row, cell, length in zip(where, cells, lengths, strict=True):
            if len(cell) != length:
                raise QamroError(
                    f"{row}: {name} has {len(cell)} entries and {names[0]} has "
                    f"{length}; mend the row"
                )
    found = {name: np.repeat(values, lengths) for name, values in columns.items()}
    for name, cells in lists.items():
        found[name] = np.array([entry for cell in cells for entry in cell], object)
    return np.repeat(row_numbers, lengths), found


def _entries(cell: str, where: str, name: str) -> list[str]:
    try:
        entries: Any = json.loads(cell)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not all(
        isinstance(entry, str | int | float) and not isinstance(entry, bool) for entry in entries
    ):
        raise QamroError(
            f"{where}: {quoted(cell)} in {name} is no list such as [41, 32.5]; mend the cell"
        )
    return [str(entry) for entry in entries]
