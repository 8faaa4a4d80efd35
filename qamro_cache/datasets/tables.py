"""Text tables from people and releases, with errors that name the file, the row and the mend.

Rows are counted as a spreadsheet shows them: the first line of the file is row 1.
"""

import logging
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.form import (
    Form,
    check_bytes,
    check_form,
    escaped,
    named_separator,
    not_utf8,
)
from qamro_cache.errors import QamroError, at_rows, listed_rows, quoted
from qamro_cache.paths import refuse_misread

#: Objects of Python strings: the one string storage that every supported pandas has.
Text = npt.NDArray[np.object_]

#: What rows without a file may have in common: all anchors, or all of a test set.
_ALIKE = ("system", "split", "group", "source")

_MEND = "correct it, leave it empty, or remove the column if it holds no scores"

#: The largest number that is read: the squares of larger ones fit no float in the end.
LARGEST = 1e30

logger = logging.getLogger("qamro_cache")


def read_table(
    path: Path,
    *,
    separator: str = ",",
    columns: Sequence[str] | None = None,
    file_names: Sequence[str] = (),
    form: Form | None = None,
) -> pd.DataFrame:
    """Read a delimited UTF-8 file as text.

    Args:
        path: the file.
        separator: one character. Quotes are CSV's with a comma; with another separator they are
            text, unless they enclose a whole cell.
        columns: names for a file without a header; None reads them from its first row.
        file_names: columns that may name files. In these, bytes that are not UTF-8 are kept as
            Python keeps them in names of files (PEP 383); anywhere else they are an error.
        form: how the file is written, as `find_form` found; stands in place of ``separator``.

    Returns:
        A frame of str columns (missing cells are ""), indexed by the row number in the file;
        blank rows are left out.

    Raises:
        QamroError: the file is absent, not UTF-8, separated otherwise or ragged.
    """
    if form is None:
        check_bytes(path)
        named = separator == "," and columns is None and named_separator(path)
        form = Form(named or separator, 1 if named else 0)
    errors = "surrogateescape" if file_names else "strict"
    header = check_form(path, form, columns, errors)
    frame = pd.read_csv(
        path,
        sep=form.separator,
        quoting=form.dialect["quoting"],
        skipinitialspace=form.blanks,
        names=header,
        header=None,
        skiprows=form.skipped + (0 if columns else 1),
        dtype=object,
        encoding="utf-8-sig",
        encoding_errors=errors,
        keep_default_na=False,
        na_filter=False,
        skip_blank_lines=False,
        index_col=False,
    )
    if not form.quoted:
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

    An export that was sent twice holds each rating or verdict twice; counted twice, they would
    seem surer than they are.
    """
    if "rater" not in frame.columns:
        return frame
    doubled = repeated(frame) & (frame["rater"].str.strip() != "").to_numpy()
    if not doubled.any():
        return frame
    logger.warning(
        "%s: %d rows are in it twice, the first is row %d; each counts once",
        path,
        int(doubled.sum()),
        frame.index[int(np.argmax(doubled))],
    )
    return frame[~doubled]


def _unquote(cell: str) -> str:
    inner = cell[1:-1]
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _check_names(path: Path, frame: pd.DataFrame, file_names: Sequence[str]) -> None:
    """Point out bytes that are not UTF-8 in names of files, and refuse them anywhere else."""
    kept = 0
    for name in frame.columns:
        codes, cells = factorize(text(frame, name))
        found = [(row, escaped(cell)) for row, cell in enumerate(cells) if not cell.isascii()]
        odd = [(codes == row, byte) for row, byte in found if byte is not None]
        if name in file_names:
            refuse_lost(cells, path)
            kept += sum(int(rows.sum()) for rows, _ in odd)
        elif odd:
            rows, byte = odd[0]
            raise QamroError(not_utf8(path, frame.index[int(np.argmax(rows))], byte))
    if kept:
        logger.info("%s: %d names are not UTF-8; they are kept byte for byte", path, kept)


def refuse_lost(names: Iterable[str], where: Path | str) -> None:
    """Refuse names that are not UTF-8 where pandas cannot hold them: its text is Arrow's.

    Args:
        names: of files, or made of them.
        where: they are from, for the message.
    """
    refuse_misread(names := list(names))
    odd = next((name for name in names if not name.isascii() and escaped(name) is not None), None)
    try:
        pd.Series([odd])
    except UnicodeEncodeError:
        raise QamroError(
            f"{where}: {odd!r} is not UTF-8, and beside pyarrow pandas cannot hold such a name; "
            "first run: pandas.set_option('mode.string_storage', 'python')"
        ) from None


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
    """Mark the rows [R] that are the same in every cell as one before, but for blanks around it."""
    same = {}
    for name in frame.columns:
        codes, cells = factorize(text(frame, name))
        plain = np.array([unicodedata.normalize("NFC", cell.strip()) for cell in cells], object)
        same[name] = factorize(plain)[0][codes]
    return pd.DataFrame(same).duplicated().to_numpy()


def text(frame: pd.DataFrame, column: str) -> Text:
    """Return a column as an object array of str."""
    values: Text = frame[column].to_numpy(dtype=object)
    return values


def numbers(
    frame: pd.DataFrame, column: str, path: Path, *, mend: str = _MEND
) -> npt.NDArray[np.float64]:
    """Return a text column of ``read_table`` as float64, NaN for an empty cell.

    ``mend`` says what to do about a cell that is no number.

    Raises:
        QamroError: a cell is neither empty nor a finite number, or is beyond `LARGEST`.
    """
    cells = text(frame, column)
    # Most columns repeat few values: convert each once.
    codes, values = factorize(cells)
    table = np.full(len(values), np.nan)
    wrong = []
    for index, cell in enumerate(values):
        try:
            number = float(cell) if cell.strip() else np.nan
            # Python reads 4_5 as 45.
            bad = bool(cell.strip()) and ("_" in cell or not abs(number) <= LARGEST)
        except ValueError:
            bad = True
        if bad:
            wrong.append(index)
        else:
            table[index] = number
    if wrong:
        rows = np.flatnonzero(np.isin(codes, wrong))
        raise QamroError(
            f"{at_rows(path, frame.index[rows])}{quoted(cells[rows[0]])} in column {column!r} is "
            f"{_why_no_score(cells[rows[0]])}; {mend}"
        )
    return table[codes]


def _why_no_score(cell: str) -> str:
    try:
        beyond = "_" not in cell and LARGEST < abs(float(cell)) < np.inf
    except ValueError:
        beyond = False
    return f"beyond {LARGEST:g}, where no score is" if beyond else "not a finite number"


def without_files(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Leave out the clips that name no file, with a notice."""
    if "path" not in table:
        return table
    bare = np.array([not cell.strip() for cell in text(table, "path")], np.bool_)
    if "clip_id" in table:  # another row may name it
        ids = text(table, "clip_id")
        named = set(ids[~bare])
        bare &= np.array([clip_id not in named for clip_id in ids], np.bool_)
    if not bare.any():
        return table
    if bare.all():
        raise QamroError(f"{path}: no row names a file; write each clip's path")
    rows = listed_rows(table.index[bare])
    verb = "names no file and is" if rows.startswith("row ") else "name no file and are"
    logger.warning("%s: %s %s left out%s", path, rows, verb, _in_common(table, bare))
    return table[~bare]


def _in_common(table: pd.DataFrame, some: npt.NDArray[np.bool_]) -> str:
    """Say what some rows alone have, where that is all rows of one value: of a system, say."""
    for name in (name for name in _ALIKE if name in table):
        values = text(table, name)
        value = values[some][0]
        if value.strip() and ((values == value) == some).all():
            return f"; these are all rows whose {name} is {value!r}"
    return ""
