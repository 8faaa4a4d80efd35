"""Whether a file is a table of text at all: its bytes, its separator, its header and its rows."""

import codecs
import csv
import io
import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qamro_cache.errors import QamroError, at_rows

_WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}

#: What people name in a table's place, by its first bytes.
_BINARY = {
    b"PK\3\4": "an Excel workbook or a zip",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"qamro-cache ": "a cache",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "compressed by gzip",
    b"PAR1": "a parquet file",
}
PARQUET_ENDINGS = (".parquet", ".pq")

logger = logging.getLogger("qamro_cache")


#: What stands for the name of a column that has none, before its number.
NAMELESS = "\0"


@dataclass(frozen=True)
class Form:
    """How a table is written.

    Attributes:
        separator: one character.
        skipped: lines before the header, of which Excel writes one.
        blanks: whether separators have a blank after them, which belongs to no cell.
        nameless: whether a column may have no name; it is called `NAMELESS` and its number.
        names: of the columns, where they have been looked at; empty for none.
    """

    separator: str = ","
    skipped: int = 0
    blanks: bool = False
    nameless: bool = False
    names: tuple[str, ...] = ()

    @property
    def quoted(self) -> bool:
        """Whether quotes are CSV's."""
        return self.separator in (",", ";")

    @property
    def dialect(self) -> dict[str, Any]:
        """What the csv module calls it."""
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return {
            "delimiter": self.separator,
            "skipinitialspace": self.blanks,
            "quoting": quoting,
            "strict": self.quoted,
        }


def find_form(path: Path, known: Callable[[str], bool]) -> Form:
    """Find out how a person's table is written, by its header.

    The separator is the one that gives the most names that are known, of these the most names; a
    comma before others. Excel's line ``sep=;`` decides.

    Args:
        path: the file.
        known: whether a column is called so.
    """
    check_bytes(path)
    named = named_separator(path)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if named:
            file.readline()
        start = file.read(1 << 16)
    forms = []
    for separator in named or ",;\t|":
        form = Form(separator, 1 if named else 0, nameless=True)
        apart = _cells(start, form)[1:]
        blanks = bool(apart) and all(cell.startswith(" ") for cell in apart)
        form = replace(form, blanks=blanks)
        names = tuple(map(_plain, _cells(start, form)))
        form = replace(form, names=names)
        forms.append(((sum(map(known, names)), len(names)), form))
    return max(forms, key=lambda one: one[0])[1]


def _plain(name: str) -> str:
    """Return a column's name without blanks around it, in Unicode's composed form."""
    return unicodedata.normalize("NFC", name.strip())


def _cells(start: str, form: Form) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(start, newline=""), **form.dialect), [])
    except csv.Error:
        return []


def named_separator(path: Path) -> str:
    """Return the separator that a first line ``sep=;`` of Excel's names; empty without one."""
    with path.open("rb") as file:
        line = file.readline(32).removeprefix(codecs.BOM_UTF8).strip(b"\r\n ")
    found = re.fullmatch(rb'"?sep=([,;\t|])"?', line, re.IGNORECASE)
    return found[1].decode() if found else ""


def check_bytes(path: Path) -> None:
    """Refuse what is no text in UTF-8 from the start."""
    if not path.is_file():
        raise QamroError(f"{path}: no such file; give the path of a CSV file")
    with path.open("rb") as file:
        start = file.read(max(map(len, _BINARY)))
    for magic, what in _BINARY.items():
        if start.startswith(magic):
            if magic == b"PAR1" and path.suffix.lower() not in PARQUET_ENDINGS:
                what += " without the ending .parquet"
            raise QamroError(f"{path}: is {what}, no table; save or name the table as CSV UTF-8")
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


def check_form(path: Path, form: Form, columns: Sequence[str] | None, errors: str) -> list[str]:
    """Check encoding, separator and the number of cells of every row; return the column names.

    Args:
        path: the file.
        form: how it is written.
        columns: names for a file without a header.
        errors: what to do with bytes that are not UTF-8.

    Raises:
        QamroError: with the row that is not of that form.
    """
    try:
        with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
            for _ in range(form.skipped):
                file.readline()
            header: list[str] = []
            ragged: list[int] = []
            first: list[str] = []
            number = 0
            for number, row in enumerate(csv.reader(file, **form.dialect), 1):
                if number == 1:
                    header = list(columns) if columns else _header(path, row, form)
                    if not columns:
                        continue
                if len(row) != len(header) and row:
                    ragged.append(number)
                    first = first or row
    except UnicodeDecodeError:
        raise QamroError(_bad_encoding(path)) from None
    except csv.Error as error:
        raise QamroError(f"{path}, row {number + 1}: {error}; mend the quotes there") from None
    if ragged:
        raise QamroError(_ragged(path, ragged, first, header, form.separator))
    if not header:
        raise QamroError(f"{path}: is empty; its first row must name the columns")
    return header


def _header(path: Path, row: list[str], form: Form) -> list[str]:
    separator = form.separator
    names = list(map(_plain, row))
    if len(names) == 1:
        for other, word in _SEPARATORS.items():
            if other not in (separator, " ") and other in names[0]:
                raise QamroError(
                    f"{path}, row 1: is separated by {word}; "
                    f"save it with {_SEPARATORS.get(separator, repr(separator))} instead"
                )
    if form.nameless:
        names = [name or f"{NAMELESS}{number}" for number, name in enumerate(names, 1)]
    for name in names:
        if (byte := escaped(name)) is not None:
            raise QamroError(not_utf8(path, 1, byte))
        if not name:
            raise QamroError(f"{path}, row 1: a column has no name; name it or remove it")
        if names.count(name) > 1:
            raise QamroError(f"{path}, row 1: column {name!r} is there twice; remove one")
    return names


def _ragged(
    path: Path, numbers: Sequence[int], row: list[str], header: list[str], separator: str
) -> str:
    hint = f"put quotes around a cell that holds {_SEPARATORS.get(separator, repr(separator))}"
    if len(row) < len(header):
        hint = "complete the row"
        for other, word in _SEPARATORS.items():
            if other != separator and len(row) == 1 and row[0].count(other) == len(header) - 1:
                hint = f"it is separated by {word}: use {_SEPARATORS.get(separator, separator)}"
    there = f"{len(row)} cells where there are {len(header)} columns"
    return f"{at_rows(path, numbers)}{there}; {hint}"


def escaped(cell: str) -> int | None:
    """Return the first byte that is not UTF-8; None without one."""
    odd = re.search("[\udc80-\udcff]", cell)
    return ord(odd[0]) - 0xDC00 if odd else None


def _bad_encoding(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return not_utf8(path, number, line[error.start])
    return f"{path}: is not UTF-8; save the file as UTF-8"


def not_utf8(path: Path, row: int, byte: int) -> str:
    """Return the line for a byte that is not UTF-8."""
    return f"{path}, row {row}: byte 0x{byte:02x} is not UTF-8; save it as UTF-8"
