"""The cells of a person's table: numbers with decimal commas, clips named by their files."""

import logging
import re
from collections.abc import Container
from pathlib import Path

import numpy as np
import pandas as pd

from qamro_cache.audio.endings import ENDINGS
from qamro_cache.datasets.options import as_option
from qamro_cache.datasets.tables import Text, factorize, text
from qamro_cache.errors import QamroError

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?\s*")

logger = logging.getLogger("qamro_cache")


def is_number(cell: str) -> bool:
    """Return whether a cell is a number with a decimal point, or none."""
    return _NUMBER.fullmatch(cell) is not None


def all_numbers(values: Text) -> bool:
    """Return whether every cell is a number or empty."""
    cells = [cell for cell in factorize(values)[1] if cell.strip()]
    return all(_NUMBER.fullmatch(cell) for cell in cells)


def stems_of_paths(path: Path, table: pd.DataFrame, column: str) -> Text:
    """Return each row's clip_id: its file's name, without folder and ending.

    Where two files of different folders have one name, the ids are the paths without ending.

    Args:
        path: of the table.
        table: with ``path``.
        column: what that is called in the file, for messages.

    Raises:
        QamroError: two files differ by their endings alone.
    """
    codes, files = factorize(text(table, "path"))
    plain = [file.strip().replace("\\", "/") for file in files]
    stems = [_stem(file.rpartition("/")[2]) for file in plain]
    if len(set(stems)) < len(set(plain)):
        stems = [_stem(file) for file in plain]
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


def _stem(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem if dot + ending.lower() in ENDINGS and stem[-1:] not in ("", "/") else name


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
