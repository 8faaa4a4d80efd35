"""Text tables from people and releases, with errors that name the file, the row and the mend.

Rows are counted as a spreadsheet shows them: the first line of the file is row 1.
"""

import codecs
import csv
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.errors import QamroError

#: Objects of Python strings: the one string storage that every supported pandas has.
Text = npt.NDArray[np.object_]

_WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}

logger = logging.getLogger("qamro_cache")


def read_table(
    path: Path,
    *,
    separator: str = ",",
    columns: Sequence[str] | None = None,
    file_names: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a delimited UTF-8 file as text.

    Args:
        path: the file.
        separator: one character. Quotes are CSV's with a comma; with another separator they are
            text, unless they enclose a whole cell.
        columns: names for a file without a header; None reads them from its first row.
        file_names: columns that may name files. In these, bytes that are not UTF-8 are kept as
            Python keeps them in names of files (PEP 383); anywhere else they are an error.

    Returns:
        A frame of str columns (missing cells are ""), indexed by the row number in the file;
        blank rows are left out.

    Raises:
        QamroError: the file is absent, not UTF-8, separated otherwise or ragged.
    """
    _check_bytes(path)
    skipped, errors = 0, "surrogateescape" if file_names else "strict"
    if separator == "," and columns is None and (named := _named_separator(path)):
        separator, skipped = named, 1
    quoted = separator in (",", ";")
    header = _check_form(path, separator, columns, skipped, errors)
    frame = pd.read_csv(
        path,
        sep=separator,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        names=header,
        header=None,
        skiprows=skipped + (0 if columns else 1),
        dtype=object,
        encoding="utf-8-sig",
        encoding_errors=errors,
        keep_default_na=False,
        na_filter=False,
        skip_blank_lines=False,
        index_col=False,
    )
    if not quoted:
        frame = frame.map(_unquote)
    frame.index = pd.RangeIndex(1, len(frame) + 1) + (0 if columns else 1)
    if file_names:
        _check_names(path, frame, file_names)
    first = frame[header[0]].to_numpy()
    blank = first == ""
    for name in header[1:]:
        if not blank.any():
            break
        blank &= frame[name].to_numpy() == ""
    return frame[~blank] if blank.any() else frame


def without_doubles(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Leave out rows of a known rater that are in a table twice, in every cell, with a notice.

    An export that was sent twice holds each rating twice; counted twice, its mean would seem
    surer than it is.
    """
    if "rater" not in frame.columns:
        return frame
    doubled = repeated(frame) & (frame["rater"].str.strip() != "").to_numpy()
    if not doubled.any():
        return frame
    logger.warning(
        "%s: %d rows are in it twice, the first is row %d; each rating is counted once",
        path,
        int(doubled.sum()),
        frame.index[int(np.argmax(doubled))],
    )
    return frame[~doubled]


def _named_separator(path: Path) -> str:
    """Return the separator that a first line ``sep=;`` of Excel's names; empty without one."""
    with path.open("rb") as file:
        line = file.readline(32).removeprefix(codecs.BOM_UTF8).strip(b"\r\n ")
    found = re.fullmatch(rb'"?sep=([,;\t|])"?', line, re.IGNORECASE)
    return found[1].decode() if found else ""


def _check_bytes(path: Path) -> None:
    """Refuse what is no text in UTF-8 from the start."""
    if not path.is_file():
        raise QamroError(f"{path}: no such file; give the path of a CSV file")
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(_WIDE_BOMS):
        raise QamroError(f"{path}, row 1: is UTF-16 or UTF-32; save the file as UTF-8")
    # pandas would end a cell there without a word.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if b"\0" in line:
                raise QamroError(f"{path}, row {number}: holds a NUL; save the file as UTF-8 text")
    if start.startswith(codecs.BOM_UTF8):
        logger.info(
            "%s, row 1: starts with a byte-order mark, which is skipped; save as UTF-8 without BOM "
            "to be rid of this notice",
            path,
        )


def _check_form(
    path: Path, separator: str, columns: Sequence[str] | None, skipped: int, errors: str
) -> list[str]:
    """Check encoding, separator and the number of cells of every row; return the column names.

    The first ``skipped`` lines are none of its rows.
    """
    try:
        with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
            for _ in range(skipped):
                file.readline()
            rows = (
                csv.reader(file, delimiter=separator, strict=True)
                if separator in (",", ";")
                else csv.reader(file, delimiter=separator, quoting=csv.QUOTE_NONE)
            )
            header: list[str] = []
            number = 0
            for number, row in enumerate(rows, 1):
                if number == 1:
                    header = list(columns) if columns else _header(path, row, separator)
                    if not columns:
                        continue
                if len(row) != len(header) and row:
                    raise QamroError(_ragged(path, number, row, header, separator))
    except UnicodeDecodeError:
        raise QamroError(_bad_encoding(path)) from None
    except csv.Error as error:
        raise QamroError(f"{path}, row {number + 1}: {error}; mend the quotes there") from None
    if not header:
        raise QamroError(f"{path}: is empty; its first row must name the columns")
    return header


def _unquote(cell: str) -> str:
    inner = cell[1:-1]
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _header(path: Path, row: list[str], separator: str) -> list[str]:
    names = [name.strip() for name in row]
    if len(names) == 1:
        for other, word in _SEPARATORS.items():
            if other not in (separator, " ") and other in names[0]:
                raise QamroError(
                    f"{path}, row 1: is separated by {word}; "
                    f"save it with {_SEPARATORS.get(separator, repr(separator))} instead"
                )
    for name in names:
        if (byte := _escaped(name)) is not None:
            raise QamroError(_not_utf8(path, 1, byte))
        if not name:
            raise QamroError(f"{path}, row 1: a column has no name; name it or remove it")
        if names.count(name) > 1:
            raise QamroError(f"{path}, row 1: column {name!r} is there twice; remove one")
    return names


def _ragged(path: Path, number: int, row: list[str], header: list[str], separator: str) -> str:
    hint = f"put quotes around a cell that holds {_SEPARATORS.get(separator, repr(separator))}"
    if len(row) < len(header):
        hint = "complete the row"
        for other, word in _SEPARATORS.items():
            if other != separator and len(row) == 1 and row[0].count(other) == len(header) - 1:
                hint = f"it is separated by {word}: use {_SEPARATORS.get(separator, separator)}"
    return f"{path}, row {number}: {len(row)} cells where there are {len(header)} columns; {hint}"


def _check_names(path: Path, frame: pd.DataFrame, file_names: Sequence[str]) -> None:
    """Point out bytes that are not UTF-8 in names of files, and refuse them anywhere else."""
    kept = 0
    for name in frame.columns:
        codes, cells = factorize(text(frame, name))
        found = [(row, _escaped(cell)) for row, cell in enumerate(cells) if not cell.isascii()]
        odd = [(codes == row, byte) for row, byte in found if byte is not None]
        if name in file_names:
            kept += sum(int(rows.sum()) for rows, _ in odd)
        elif odd:
            rows, byte = odd[0]
            raise QamroError(_not_utf8(path, frame.index[int(np.argmax(rows))], byte))
    if kept:
        logger.info("%s: %d names are not UTF-8; they are kept byte for byte", path, kept)


def _escaped(cell: str) -> int | None:
    """Return the first byte that is not UTF-8; None without one."""
    odd = re.search("[\udc80-\udcff]", cell)
    return ord(odd[0]) - 0xDC00 if odd else None


def _bad_encoding(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return _not_utf8(path, number, line[error.start])
    return f"{path}: is not UTF-8; save the file as UTF-8"


def _not_utf8(path: Path, row: int, byte: int) -> str:
    return f"{path}, row {row}: byte 0x{byte:02x} is not UTF-8; save it as UTF-8"


def factorize(values: Text) -> tuple[npt.NDArray[np.intp], Text]:
    """Return each name's number [R] and the names in the order of first appearance.

    As ``pandas.factorize``, which takes all names that are not UTF-8 for one, as do ``unique``,
    ``nunique``, ``is_unique``, ``groupby`` and ``duplicated`` of several columns.
    """
    number: dict[str, int] = {}
    each = (number.setdefault(value, len(number)) for value in values)
    codes = np.fromiter(each, np.intp, len(values))
    return codes, np.array(list(number), object)


def repeated(frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Mark the rows [R] that are the same in every cell as one before."""
    codes = {name: factorize(text(frame, name))[0] for name in frame.columns}
    return pd.DataFrame(codes).duplicated().to_numpy()


def text(frame: pd.DataFrame, column: str) -> Text:
    """Return a column as an object array of str."""
    values: Text = frame[column].to_numpy(dtype=object)
    return values


def numbers(frame: pd.DataFrame, column: str, path: Path) -> npt.NDArray[np.float64]:
    """Return a text column of ``read_table`` as float64, NaN for an empty cell.

    Raises:
        QamroError: a cell is neither empty nor a finite number.
    """
    cells = text(frame, column)
    # Most columns repeat few values: convert each once.
    codes, values = factorize(cells)
    table = np.full(len(values), np.nan)
    for index, cell in enumerate(values):
        try:
            number = float(cell) if cell.strip() else np.nan
            # Python reads 4_5 as 45.
            bad = bool(cell.strip()) and ("_" in cell or not np.isfinite(number))
        except ValueError:
            bad = True
        if bad:
            row = frame.index[int(np.argmax(codes == index))]
            raise QamroError(
                f"{path}, row {row}: {cell!r} in column {column!r} is not a finite number; "
                "correct it, leave it empty, or remove the column if it holds no scores"
            )
        table[index] = number
    return table[codes]
