"""Tables that are no text: parquet files and tars of WebDataset, read as text tables are."""

import json
import logging
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache.datasets.form import PARQUET_ENDINGS
from qamro_cache.datasets.tables import refuse_lost
from qamro_cache.datasets.webdataset import tar_table, tars_of
from qamro_cache.errors import QamroError, quoted, words_of
from qamro_cache.memory import refuse_memory

#: Bytes of a value in a list of Python's, at least; rows of a parquet file that are read at once.
_CELL, _ROWS = 8, 1024

logger = logging.getLogger("qamro_cache")


def read_other(path: Path, used: Callable[[str], bool]) -> pd.DataFrame | None:
    """Read a parquet file, a tar or a folder of tars, as `read_table` returns a table of text.

    A cell without a value is empty, one of several is a list as JSON. The first row is row 1.
    A column with a cell that is neither is left out with a notice.

    Args:
        path: of the file or folder.
        used: whether a column, by its name, is one that is asked for.

    Returns:
        The table; None for any other file.

    Raises:
        QamroError: it cannot be read; a column that is used holds something else, or one sound.
    """
    if tars := tars_of(path):
        frame = tar_table(tars)
    elif path.suffix.lower() in PARQUET_ENDINGS and path.is_file():
        frame = _parquet(path)
    else:
        return None
    names = [str(name).strip() for name in frame.columns]
    if "" in names or len(set(names)) < len(names):
        raise QamroError(f"{path}: two columns have one name, or one has none; rename them")
    found, odd = {}, []
    for name, column in zip(names, frame.columns, strict=True):
        cells = frame[column].tolist()
        texts = [_text(cell) for cell in cells]
        if None in texts:
            row = texts.index(None)
            # Beside the JSON of a tar there is the sound itself, as a member.
            is_sound = _is_sound(cells[row]) and not tars
            if used(name) or is_sound:
                raise QamroError(_no_cell(path, name, row + 1, cells[row], is_sound))
            odd.append(f"{name} ({type(cells[row]).__name__})")
            continue
        _check_text(path, name, texts)
        found[name] = np.array(texts, object)
    if odd:
        logger.warning(
            "%s: columns with cells that are no text, number or list of them are left out: %s",
            path,
            ", ".join(odd),
        )
    return pd.DataFrame(found, dtype=object, index=pd.RangeIndex(1, len(frame) + 1))


def _check_text(path: Path, name: str, texts: Sequence[str | None]) -> None:
    """Refuse what is no text: bytes that are not UTF-8 may stand in names of files alone."""
    errors = "surrogateescape" if name in ("clip_id", "path") else "strict"
    for row, text in enumerate(texts):
        try:
            str(text).encode("utf-8", errors)
        except UnicodeEncodeError:
            raise QamroError(
                f"{path}, row {row + 1}: {quoted(text)} in column {name!r} is not UTF-8; mend it"
            ) from None
    refuse_lost(map(str, texts), path)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise QamroError(
            f"{path}: parquet is read with pyarrow, which is not to be had ({words_of(error)}); "
            "run: pip install pyarrow, or with NumPy 1.26: pip install 'pyarrow<23'"
        ) from error
    try:
        columns = _columns(pyarrow.parquet.ParquetFile(path), path)
        return pd.DataFrame(columns, dtype=object)
    except QamroError:
        raise
    # What a stranger's file makes the library raise.
    except Exception as error:
        raise QamroError(
            f"{path} is no parquet file that can be read ({words_of(error)})"
        ) from error


def _columns(file: Any, path: Path) -> dict[str, list[Any]]:
    """Read a parquet file, some rows at a time: what is small on disk may be large in memory.

    Raises:
        QamroError: it would not fit.
    """
    groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
    cells = sum(one.column(k).num_values for one in groups for k in range(one.num_columns))
    mend = "write the columns that are needed into a file of their own"
    refuse_memory(_CELL * cells, f"{cells:,} values of {path}", mend)
    found: dict[str, list[Any]] = {name: [] for name in file.schema_arrow.names}
    for batch in file.iter_batches(batch_size=_ROWS):
        refuse_memory(2 * batch.nbytes, f"rows of {path}", mend)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            found[name] += column.to_pylist()
    return found


def _text(cell: Any) -> str | None:
    """Return a cell as text; None where it is no value, no list of values, and not nothing."""
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool | int | float):
        return repr(cell)
    if isinstance(cell, Decimal):
        return "" if cell.is_nan() else str(cell)
    if isinstance(cell, list) and all(isinstance(one, str | int | float | None) for one in cell):
        return json.dumps([None if one != one else one for one in cell])
    return None


def _is_sound(cell: Any) -> bool:
    return isinstance(cell, dict) and cell.keys() >= {"bytes", "path"}


def _no_cell(path: Path, name: str, row: int, cell: Any, is_sound: bool) -> str:
    there = f"{path}, row {row}: column {name!r} holds "
    if is_sound:
        return (
            f"{there}sound and not a file's name; make files and a manifest of it, in Python: "
            f"write_rows(pyarrow.parquet.read_table({str(path)!r}).to_pylist(), FOLDER, "
            f"audio={name!r}) of qamro_cache.integrations.rows (docs/datasets.md)"
        )
    return f"{there}{type(cell).__name__}, which is no text, number or list of them; leave it out"
