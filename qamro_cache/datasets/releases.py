"""Read the files of a release as the tables of its description say."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.assemble import ClipRows, labels_of_rows, rater_codes
from qamro_cache.datasets.description import Description, Listing
from qamro_cache.datasets.json_lines import json_objects
from qamro_cache.datasets.patterns import searcher
from qamro_cache.datasets.records import CLIP_COLUMNS, Labels, Ratings, labels_from_ratings
from qamro_cache.datasets.tables import Text, numbers, read_table, text
from qamro_cache.datasets.unfold import unfolded
from qamro_cache.errors import QamroError, words_of

_SEPARATORS = {"csv": ",", "tsv": "\t", "psv": "|"}
_FIELDS = (*CLIP_COLUMNS, "rater", "axis", "key")


@dataclass(frozen=True)
class Rows:
    """A table's rows.

    Attributes:
        file: where they were read.
        numbers: [R] row numbers in the file.
        columns: text columns [R], those of the file and those made from them.
        lists: columns of lists or numbers (JSON), one Python value a row.
    """

    file: Path
    numbers: npt.NDArray[np.int64]
    columns: dict[str, Text]
    lists: dict[str, list[Any]]

    def take(self, at: npt.NDArray[np.intp]) -> "Rows":
        """Return the rows ``at``."""
        return Rows(
            self.file,
            self.numbers[at],
            {name: values[at] for name, values in self.columns.items()},
            {name: [values[i] for i in at] for name, values in self.lists.items()},
        )


def find_files(
    candidates: tuple[str, ...], data_dir: Path, description: Description, *, optional: bool
) -> list[Path]:
    """Find the files that the first matching candidate (a path or a glob) names.

    Raises:
        QamroError: none is there and the table is not optional.
    """
    for candidate in candidates:
        if files := files_like(data_dir, candidate):
            return files
    if optional:
        return []
    raise QamroError(
        f"{data_dir}: {' or '.join(candidates)} is not there; --data-dir must be where "
        f"{description.name} lies (get it from {description.source})"
    )


def files_like(folder: Path, candidate: str) -> list[Path]:
    """Return the files that a path or a glob names, from a folder on; none where there is none.

    Raises:
        QamroError: it is no glob.
    """
    if "*" not in candidate:
        return [file] if (file := folder / candidate).is_file() else []
    try:
        return sorted(path for path in folder.glob(candidate) if path.is_file())
    except (NotImplementedError, ValueError) as error:
        raise QamroError(
            f"path {candidate!r} is no pattern of files in a folder ({words_of(error)}); write it "
            f"from {folder} on, or name another folder with --data-dir"
        ) from error


def read_rows(table: Listing, file: Path) -> Rows:
    """Read a table and make the columns and fields that its description asks for."""
    lists: dict[str, list[Any]] = {}
    if table.format == "jsonl":
        row_numbers, columns, lists = _read_json_lines(file)
    else:
        frame = read_table(file, separator=_SEPARATORS[table.format], columns=table.columns or None)
        row_numbers = frame.index.to_numpy(dtype=np.int64)
        columns = {str(name): text(frame, str(name)) for name in frame.columns}
        if table.lists:
            row_numbers, columns = unfolded(table.lists, columns, file, row_numbers)
    if table.only is not None:
        search = searcher(table.only.pattern, file)
        cells = render(table.only.source, columns, str(file))
        keep = np.array([search(cell) is not None for cell in cells], np.bool_)
        rows = Rows(file, row_numbers, columns, lists).take(np.flatnonzero(keep))
        row_numbers, columns, lists = rows.numbers, rows.columns, rows.lists
    for extract in table.extract:
        columns |= _extracted(extract.source, extract.pattern, columns, file, row_numbers)
    named = [name for name in _FIELDS if name in table.fields]
    columns |= {name: render(table.fields[name], columns, str(file)) for name in named}
    return Rows(file, row_numbers, columns, lists)


def render(template: str, columns: Mapping[str, Text], where: str) -> Text:
    """Fill a template such as ``{page}/{sound}`` for every row."""
    size = len(next(iter(columns.values()))) if columns else 0
    result = np.full(size, "", object)
    for literal, name, _, _ in Formatter().parse(template):
        if literal:
            result = result + literal
        if name is not None:
            result = result + column(name, columns, where)
    return result


def column(name: str, columns: Mapping[str, Text], where: str) -> Text:
    """Return a column that the description names."""
    if name not in columns:
        raise QamroError(
            f"{where}, row 1: there is no column {name!r} "
            f"(columns: {', '.join(columns)}); add it or mend the description"
        )
    return columns[name]


def _extracted(
    source: str,
    pattern: str,
    columns: Mapping[str, Text],
    file: Path,
    row_numbers: npt.NDArray[np.int64],
) -> dict[str, Text]:
    """Columns from the named groups of ``pattern``."""
    codes, values = pd.factorize(render(source, columns, str(file)))
    search = searcher(pattern, file)
    matches = [search(value) for value in values]
    for index, match in enumerate(matches):
        if match is None:
            row = row_numbers[int(np.argmax(codes == index))]
            raise QamroError(
                f"{file}, row {row}: {values[index]!r} is not of the form {pattern!r}; mend the row"
            )
    return {
        name: np.array([match[name] or "" for match in matches if match], object)[codes]
        for name in re.compile(pattern).groupindex
    }


def labels_of_table(
    description: Description, table: Listing, rows: Rows, listed: ClipRows
) -> Labels:
    """Make the labels of the clips that ``listed`` found in ``rows``."""
    if table.score:
        return _long_labels(description, table, rows, listed)
    names = [table.scores.get(axis.name, "") for axis in description.axes]
    if any(name in rows.lists for name in names):
        return _list_labels(description, names, rows, listed)
    nothing = np.full(len(rows.numbers), np.nan)
    scores = [_numbers(rows, name) if name else nothing for name in names]
    nobody = np.full(len(nothing), "", object)
    who = rows.columns.get("rater", nobody) if table.single else None
    labels = labels_of_rows(listed, description.axes, scores, who, table.count)
    if table.single or not (table.counts or table.stds):
        return labels
    counts, stderr = labels.count.copy(), labels.stderr.copy()
    for index, axis in enumerate(description.axes):
        if axis.name in table.counts:
            count = _numbers(rows, table.counts[axis.name])
            counts[listed.code, index] = np.nan_to_num(count).astype(np.int32)
        if axis.name in table.stds:
            std = _numbers(rows, table.stds[axis.name])
            with np.errstate(divide="ignore", invalid="ignore"):
                own = std / np.sqrt(counts[listed.code, index])
            stderr[listed.code, index] = np.where(counts[listed.code, index] > 1, own, np.nan)
    return Labels(labels.axes, labels.mean, counts, stderr)


def _numbers(rows: Rows, name: str) -> npt.NDArray[np.float64]:
    values = column(name, rows.columns, str(rows.file))
    frame = pd.DataFrame({name: pd.Series(values, index=rows.numbers, dtype=object)})
    return numbers(frame, name, rows.file)


def _long_labels(description: Description, table: Listing, rows: Rows, listed: ClipRows) -> Labels:
    """Labels of rows that each hold one rating of one axis."""
    score = _numbers(rows, table.score)
    names = {axis.name: index for index, axis in enumerate(description.axes)}
    axis_names = rows.columns.get("axis", np.full(len(score), description.axes[0].name, object))
    axis = np.array([names.get(name, -1) for name in axis_names], np.int16)
    if (axis < 0).any():
        row = int(np.argmax(axis < 0))
        raise QamroError(
            f"{rows.file}, row {rows.numbers[row]}: {axis_names[row]!r} is no axis of "
            f"{description.name} ({', '.join(names)}); mend the row"
        )
    rater, who = rater_codes(
        rows.columns.get("rater", np.full(len(score), "", object)), str(rows.file)
    )
    kept = np.isfinite(score)
    ratings = Ratings(listed.code[kept].astype(np.int32), axis[kept], rater[kept], score[kept], who)
    return labels_from_ratings(description.axes, len(listed.clips), ratings)


def _list_labels(
    description: Description, names: list[str], rows: Rows, listed: ClipRows
) -> Labels:
    """Labels of rows that hold a list of ratings an axis; their order is nobody's identity."""
    clip, axis, score = [], [], []
    for index, name in enumerate(names):
        if not name:
            continue
        if name not in rows.lists:
            raise QamroError(f"{rows.file}: there is no list {name!r}; mend the description")
        for row, values in enumerate(rows.lists[name]):
            for value in values if isinstance(values, list) else [values]:
                if not _is_finite(value):
                    raise QamroError(
                        f"{rows.file}, row {rows.numbers[row]}: {value!r} in {name!r} is not a "
                        "finite number; correct or remove it"
                    )
                clip.append(listed.code[row])
                axis.append(index)
                score.append(float(value))
    ratings = Ratings(
        np.array(clip, np.int32),
        np.array(axis, np.int16),
        np.full(len(clip), -1, np.int32),
        np.array(score, np.float64),
    )
    return labels_from_ratings(description.axes, len(listed.clips), ratings)


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _read_json_lines(
    file: Path,
) -> tuple[npt.NDArray[np.int64], dict[str, Text], dict[str, list[Any]]]:
    """Read an object a line: strings become text columns, numbers and lists stay."""
    records: list[dict[str, Any]] = []
    row_numbers: list[int] = []
    for number, record in json_objects(file):
        if records and record.keys() != records[0].keys():
            raise QamroError(
                f"{file}, row {number}: has other keys than the first; "
                "every line must be an object of the same keys"
            )
        records.append(record)
        row_numbers.append(number)
    if not records:
        raise QamroError(f"{file}: is empty; every line must be a JSON object")
    columns: dict[str, Text] = {}
    lists: dict[str, list[Any]] = {}
    for name, value in records[0].items():
        values = [record[name] for record in records]
        if isinstance(value, str):
            columns[name] = np.array([str(item) for item in values], object)
        else:
            lists[name] = values
    return np.array(row_numbers, np.int64), columns, lists


def read_system_scores(description: Description, data_dir: Path) -> dict[str, tuple[float, ...]]:
    """Read the system-level truth, an entry an axis (NaN where not published); {} if absent."""
    entry = description.system_scores
    if entry is None:
        return {}
    scores: dict[str, tuple[float, ...]] = {}
    for file in find_files(entry.path, data_dir, description, optional=True):
        rows = read_rows(Listing(entry.path, entry.format, columns=entry.columns), file)
        nothing = np.full(len(rows.numbers), np.nan)
        values = [
            _numbers(rows, entry.scores[axis.name]) if axis.name in entry.scores else nothing
            for axis in description.axes
        ]
        for row, system in enumerate(column(entry.system, rows.columns, str(file))):
            scores[system] = tuple(float(value[row]) for value in values)
    return scores
