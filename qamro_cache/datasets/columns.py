"""Which column of a person's table is what: by its name, by what people call it, or as told.

A table whose columns are called as `FIELDS` are is read as it stands.
"""

import logging
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qamro_cache.audio.endings import ENDINGS
from qamro_cache.datasets.cells import all_numbers, decimal_points, stems_of_paths
from qamro_cache.datasets.form import NAMELESS, Form, find_form
from qamro_cache.datasets.options import as_option, parse_columns
from qamro_cache.datasets.other_tables import read_other
from qamro_cache.datasets.records import CLIP_COLUMNS
from qamro_cache.datasets.tables import (
    factorize,
    read_table,
    repeated,
    text,
    without_doubles,
    without_files,
)
from qamro_cache.datasets.unfold import unfold_people
from qamro_cache.errors import QamroError, Together, nearest, quoted

_WORDS = ("path", "prompt", "axis")  # fields that are never numbers

logger = logging.getLogger("qamro_cache")

#: What a column may be, beside an axis; ``axis`` names the axis of a row's score.
FIELDS = (*CLIP_COLUMNS, "rater", "axis")
#: What people call these columns, without case, blanks, dashes and underscores.
CALLED: Mapping[str, tuple[str, ...]] = {
    "clip_id": ("clip", "clipname", "id", "sample", "sampleid", "uttid", "utteranceid"),
    "path": (
        *("file", "filename", "filepath", "wav", "wavfile", "wavpath"),
        *("audio", "audiofile", "audiopath", "sound", "soundfile", "recording", "stimulus"),
    ),
    "system": ("systemid", "systemname", "sys", "method", "condition", "model", "algorithm"),
    "group": (
        *("groupid", "song", "songid", "sentence", "sentenceid", "signal", "signalid"),
        *("item", "itemid", "track", "content"),
    ),
    "prompt": ("text", "caption"),
    "split": ("set", "subset", "partition"),
    "reference": ("referenceid", "referenceclip"),
    "source": ("listeningtest", "listeningtestid"),
    "rater": (
        *("raterid", "listener", "listenerid", "subject", "subjectid", "participant"),
        *("participantid", "assessor", "annotator", "worker", "workerid", "judge", "user"),
    ),
    "axis": ("question", "attribute", "dimension", "criterion"),
}
#: What the column of scores is called where another names the axis.
SCORES = ("score", "rating", "mos", "value")


@dataclass(frozen=True)
class PeopleTable:
    """A person's table, its columns called as `FIELDS` are.

    Attributes:
        path: of the file.
        frame: as of `read_table`; what is no field is an axis, or nothing that is known.
        long: whether a row is a score of the axis that its column ``axis`` names.
        lists: columns whose cells held lists: there is a row an entry.
        files_by_id: whether no column names the files, which may be called as the clips.
    """

    path: Path
    frame: pd.DataFrame
    long: bool
    lists: tuple[str, ...] = ()
    files_by_id: bool = False


def key(name: str) -> str:
    """Return a column's name without case, blanks, dashes and underscores."""
    return re.sub(r"[\W_]+", "", name.casefold())


def read_people(path: Path, need: Sequence[str], asked: Sequence[str] = ()) -> PeopleTable:
    """Read a table as people have it, with one notice that says how its columns were read.

    Args:
        path: the file, separated by commas, semicolons, tabs or bars; or as of `read_other`.
        need: fields that must be there; ``clip_id`` may come from the stems of ``path``.
        asked: what columns are, as `parse_columns` takes it.

    Raises:
        QamroError: as `read_table`; a needed column is not there, or two may be it.
    """
    told = parse_columns(asked)
    spoken = {key(name) for field in FIELDS for name in (field, *CALLED.get(field, ()))}
    spoken |= {key(column) for column in told.values()}
    own = {key(name) for name in (*FIELDS, *told.values())}
    other = read_other(path, lambda name: key(name) in own)
    form = Form() if other is not None else find_form(path, lambda name: key(name) in spoken)
    names = list(form.names if other is None else other.columns)
    is_what: dict[str, str] = {}
    mistakes = Together()
    # What is told, and turns out unclear, is not missed once more.
    spoken_of = set(told)
    for field, column in told.items():
        with mistakes:
            is_what[field] = _told(path, names, column)
    spoken = {key(name) for field in ("clip_id", "path") for name in (field, *CALLED[field])}
    files = [name for name in names if key(name) in spoken]
    files += [is_what[field] for field in ("clip_id", "path") if field in is_what]
    if (frame := other) is None:
        frame = _without_nameless(path, read_table(path, form=form, file_names=files))
    frame, lists = unfold_people(path, frame, CLIP_COLUMNS)
    right = all(field in names and field not in told for field in need)
    repeats = right and bool(repeated(frame[["clip_id"]]).any())
    for field in FIELDS:
        if field not in is_what:
            # Where the needed columns are called right, a column of numbers is an axis whatever it
            # is called, but for the raters whom several rows of a clip need.
            words = right and not (field == "rater" and repeats)
            words = words or field in _WORDS
            with mistakes:
                spoken_of.add(field)
                _understand(path, frame, field, is_what, words=words, lists=lists)
                spoken_of.remove(field)
    absent = "path" in need and not {"path"} & {*is_what, *spoken_of}
    by_id = absent and "clip_id" in is_what and not _audio_column(frame)
    if by_id:
        is_what["path"] = is_what["clip_id"]
    with mistakes:
        _refuse_missing(path, frame, is_what, need, spoken_of)
    mistakes.tell()
    made = _renamed(path, frame, is_what, "path" in need)
    _notice(path, frame, is_what, told)
    if form.separator != ",":
        made = decimal_points(path, made, FIELDS)
    made = without_doubles(made, path)
    return PeopleTable(path, made, "axis" in is_what, tuple(lists), by_id)


def _told(path: Path, names: Sequence[str], column: str) -> str:
    """Return the column that a user means."""
    found = [name for name in names if name == column] or [
        name for name in names if key(name) == key(column)
    ]
    if len(found) != 1:
        raise QamroError(
            f"{path}, row 1: there is no column {quoted(column)} (columns: {', '.join(names)})"
            f"{nearest(column, names)}"
        )
    return found[0]


def _understand(
    path: Path,
    frame: pd.DataFrame,
    field: str,
    is_what: dict[str, str],
    *,
    words: bool,
    lists: Sequence[str],
) -> None:
    """Add the column that is a field, if one is; with ``words`` none that holds numbers alone.

    A column that is called as the field is it, whatever it holds, unless it is ``axis``. Of
    ``lists`` the plural is understood too: ``participant_ids``.
    """
    # A file may name its clip, too.
    taken = [column for other, column in is_what.items() if {other, field} != {"clip_id", "path"}]
    free = [str(name) for name in frame.columns if name not in taken]
    if field in free and field != "axis":
        is_what[field] = field
        return
    ours = [name for name in free if key(name) == key(field)]
    called = {name: key(name).removesuffix("s" if name in lists else "") for name in free}
    theirs = [name for name in free if called[name] in (*CALLED[field], key(field))]
    theirs = [name for name in theirs if name not in ours]
    for found in (ours, theirs):
        if words:
            found = [name for name in found if not all_numbers(text(frame, name))]
        if len(found) > 1:
            listed = " and ".join(repr(name) for name in found[:2])
            raise QamroError(
                f"{path}, row 1: {listed} may both be the {field}; "
                f"say which with {as_option(field, found[0])}"
            )
        if found:
            is_what[field] = found[0]
            return


def _without_nameless(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out columns without a name that hold nothing, or (the first) the number of the row."""
    for place, name in enumerate(frame.columns):
        if not str(name).startswith(NAMELESS):
            continue
        cells = [cell.strip() for cell in text(frame, name)]
        counts = [str(number) for number in range(len(cells))]
        if any(cells) and (place or cells != counts):
            raise QamroError(f"{path}, row 1: a column has no name; name it or remove it")
        frame = frame.drop(columns=name)
    return frame


def _refuse_missing(
    path: Path,
    frame: pd.DataFrame,
    is_what: Mapping[str, str],
    need: Sequence[str],
    unclear: Container[str],
) -> None:
    """Refuse a table without a field that is needed; a clip may be called after its file."""
    there = {*is_what, *frame.columns.difference(list(is_what.values()))}
    named = "path" in there or "path" in need
    for field in need:
        if field in there or field in unclear or (field == "clip_id" and named):
            continue
        free = frame.drop(columns=list(is_what.values()))
        raise QamroError(
            f"{path}, row 1: there is no column {field!r} (columns: "
            f"{', '.join(map(str, frame.columns))}); add it, or say which it is with "
            f"{as_option(field, _audio_column(free) or 'COLUMN')}"
        )


def _renamed(
    path: Path, frame: pd.DataFrame, is_what: Mapping[str, str], files: bool
) -> pd.DataFrame:
    """Return the table with its fields under their own names, and a clip_id.

    Rows without a file are left out, if a row needs one (``files``) or is called after it.
    """
    made: dict[str, pd.Series[Any]] = {}
    for name in map(str, frame.columns):
        fields = [field for field, column in is_what.items() if column == name]
        # A column whose name another took is not used.
        fields = fields or ([] if name in is_what else [name])
        made |= dict.fromkeys(fields, frame[name])
    table = frame if list(made) == list(frame.columns) else pd.DataFrame(made)
    if files or is_what.get("clip_id", is_what.get("path")) == is_what.get("path"):
        table = without_files(path, table)
    if "clip_id" not in made:
        table["clip_id"] = stems_of_paths(path, table, is_what["path"])
    elif key(is_what["clip_id"]) in CALLED["clip_id"] and "path" in made:
        _refuse_row_numbers(path, table, is_what)
    return table


def _audio_column(frame: pd.DataFrame) -> str:
    """Return the first column that seems to hold names of audio files."""
    first = {} if frame.empty else frame.iloc[0].to_dict()
    return next((str(n) for n, c in first.items() if c.strip().lower().endswith(ENDINGS)), "")


def _refuse_row_numbers(path: Path, table: pd.DataFrame, is_what: Mapping[str, str]) -> None:
    """Refuse a clip_id of another name where one file has several: it may number the rows."""
    clips, files = (len(factorize(text(table, name))[1]) for name in ("clip_id", "path"))
    if clips > files:
        raise QamroError(
            f"{path}, row 1: {is_what['clip_id']!r} has {clips} names for {files} files; say what "
            f"names a clip with {as_option('clip_id', is_what['path'])}"
        )


def _notice(
    path: Path, frame: pd.DataFrame, is_what: Mapping[str, str], told: Mapping[str, str]
) -> None:
    """Say in one line how columns were read that are not called as they are here."""
    read = [
        f"{field} from {column!r}"
        for field, column in is_what.items()
        if field != column and field not in told
    ]
    if "clip_id" not in is_what and "path" in is_what:
        read.append("clip_id from the names of the files")
    if read:
        logger.info("%s: read as: %s; --columns NAME=COLUMN says otherwise", path, ", ".join(read))
    for field in told:
        column = is_what[field]
        if field in frame.columns and column != field:
            logger.warning(
                "%s: the column %r is not used: %r stands in its place", path, field, column
            )
