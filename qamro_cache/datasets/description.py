"""What a declarative dataset description (``data/*.toml``) says; docs/datasets.md has the guide."""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from string import Formatter
from typing import Any, TypeVar, get_origin, get_type_hints

from qamro_cache.datasets.records import Axis, Published
from qamro_cache.errors import QamroError

Record = TypeVar("Record")

_KINDS: dict[type, str] = {
    str: "text in quotes",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "a list [...]",
    Mapping: "a table {...}",
}


@dataclass(frozen=True)
class Extract:
    """A regular expression on a template: new columns from its groups, or the rows to read."""

    source: str
    pattern: str


@dataclass(frozen=True)
class Table:
    """A file of clips, with or without scores, or of ratings joined to clips by a key.

    Templates such as ``{page}/{sound}`` are filled from the columns of a row.

    Attributes:
        path: where the file may lie in the release, first match wins; ``*`` reads several.
        format: ``csv``, ``tsv``, ``psv`` (bars) or ``jsonl``.
        columns: names, for a file without a header.
        split: constant for the table; otherwise ``fields.split`` or none.
        optional: the release may come without it.
        needs_audio: leave it out when none of its audio is on disk while most of the others' is.
        fields: templates of ``clip_id``, ``system``, ``group``, ``split``, ``rater``, ``axis``
            and ``key``; a column of the field's own name is the default.
        extract: columns made from others by regular expressions, in order.
        only: read the rows where the pattern is found.
        scores: axis -> column, where each axis has a column (one number, or a list of ratings).
        score: the column of the score, where the row's axis is named by ``fields.axis``.
        counts: axis -> column with the number of ratings behind a mean.
        deviations: axis -> column with the deviation of the ratings behind a mean.
        count: ratings behind every mean, where the release says so and has no column for it.
        raters: a row is one rating (known by a ``rater`` field, or by this).
    """

    path: tuple[str, ...]
    format: str = "csv"
    columns: tuple[str, ...] = ()
    split: str = ""
    optional: bool = False
    needs_audio: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
    extract: tuple[Extract, ...] = ()
    only: Extract | None = None
    scores: Mapping[str, str] = field(default_factory=dict)
    score: str = ""
    counts: Mapping[str, str] = field(default_factory=dict)
    deviations: Mapping[str, str] = field(default_factory=dict)
    count: int = 0
    raters: bool = False


@dataclass(frozen=True)
class Prompts:
    """Texts looked up by a key; a system uses the last entry that names it, or none named.

    Attributes:
        path: where the file may lie; absent files leave prompts empty.
        id: column of the key.
        text: column of the text.
        key: template over the clip's columns that gives its key.
        format: as of a table.
        systems: only clips of these systems; empty: all that no other entry names.
    """

    path: tuple[str, ...]
    id: str
    text: str
    key: str
    format: str = "tsv"
    systems: tuple[str, ...] = ()


@dataclass(frozen=True)
class SystemScores:
    """Published system-level truth: a file with a system a row."""

    path: tuple[str, ...]
    system: str
    scores: Mapping[str, str]
    format: str = "csv"
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """A rated set on disk.

    Attributes:
        name: as on the command line.
        title: what it is, in a line.
        license: under which it may be used.
        source: where to get it.
        axes: the questions, with their scales.
        clips: tables that list the clips.
        audio: templates of the audio file over a clip's columns, first existing one wins.
        ratings: tables of single ratings for clips listed elsewhere (joined by ``fields.key``).
        prompts: where prompts come from.
        system_scores: published system-level means.
        group_kind: what a group is, in a word.
        only_present: leave out groups (a value of ``fields.group``) without any audio on disk.
        published: counts and steps of the scores, to be checked.
        notes: facts every table must carry.
    """

    name: str
    title: str
    license: str
    source: str
    axes: tuple[Axis, ...]
    clips: tuple[Table, ...]
    audio: tuple[str, ...]
    ratings: tuple[Table, ...] = ()
    prompts: tuple[Prompts, ...] = ()
    system_scores: SystemScores | None = None
    group_kind: str = ""
    only_present: bool = False
    published: Published = field(default_factory=Published)
    notes: tuple[str, ...] = ()


def read_description(path: Path) -> Description:
    """Read and check a description.

    Raises:
        QamroError: not TOML, an unknown or missing key, a template or pattern that cannot work.
    """
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise QamroError(f"{path}: not a TOML file: {error}; mend it there") from None
    try:
        return parse_description(record)
    except QamroError as error:
        raise QamroError(f"{path}: {error}") from None
    except (TypeError, ValueError) as error:  # a number where a table should be, for example
        raise QamroError(f"{path}: a value is of the wrong kind ({error}); mend it") from None


def parse_description(record: Mapping[str, Any]) -> Description:
    """Make a description of the tables and lists of its TOML text."""
    record = dict(record)
    axes: list[Axis] = []
    steps: dict[str, float] = {}
    for entry in record.pop("axes", ()):
        entry = dict(entry)
        if "step" in entry:
            steps[str(entry.get("name"))] = float(entry.pop("step"))
        axis = _record(Axis, entry, "axes")
        axes.append(Axis(axis.name, float(axis.low), float(axis.high)))
    for key, kind in (("clips", Table), ("ratings", Table), ("prompts", Prompts)):
        record[key] = tuple(_table(kind, entry, key) for entry in record.get(key, ()))
    if "system_scores" in record:
        entry = record["system_scores"]
        record["system_scores"] = _table(SystemScores, entry, "system_scores")
    published = {**record.get("published", {}), "steps": steps}
    record["published"] = _record(Published, published, "published")
    made = _record(Description, {**record, "axes": tuple(axes)}, "the file")
    if not made.clips:
        raise QamroError("no [[clips]] table; say which file lists the clips")
    for template in [
        *made.audio,
        *(entry.key for entry in made.prompts),
        *(value for table in (*made.clips, *made.ratings) for value in table.fields.values()),
        *(part.source for table in (*made.clips, *made.ratings) for part in table.extract),
    ]:
        try:
            list(Formatter().parse(template))
        except ValueError as error:
            raise QamroError(f"template {template!r}: {error}; mend it") from None
    _check_axes(made.axes, steps)
    known = {axis.name for axis in axes}
    for table in (*made.clips, *made.ratings):
        for name in (*table.scores, *table.counts, *table.deviations):
            if name not in known:
                raise QamroError(f"scores for axis {name!r}, which is not among [[axes]]; add it")
    return made


def _check_axes(axes: Sequence[Axis], steps: Mapping[str, float]) -> None:
    for axis in axes:
        if not -math.inf < axis.low < axis.high < math.inf:
            raise QamroError(f"axis {axis.name!r}: low is not below high; mend its scale")
        if not steps.get(axis.name, 1.0) > 0:
            raise QamroError(f"axis {axis.name!r}: step is not above 0; mend or remove it")
    if len({axis.name for axis in axes}) < len(axes):
        raise QamroError("two [[axes]] have one name; remove one")


def _table(kind: type[Record], entry: Mapping[str, Any], where: str) -> Record:
    entry = dict(entry)
    if isinstance(entry.get("path"), str):
        entry["path"] = (entry["path"],)
    if "extract" in entry:
        entry["extract"] = tuple(_extract(part, "extract") for part in entry["extract"])
    if "only" in entry:
        entry["only"] = _extract(entry["only"], "only")
    paths = entry.get("path")
    if isinstance(paths, list | tuple) and any(str(name).startswith("/") for name in paths):
        raise QamroError(f"{where}: a path starts with /; write it as it lies below --data-dir")
    if entry.get("format", "csv") not in ("csv", "tsv", "psv", "jsonl"):
        raise QamroError(f"{where}: format {entry['format']!r}; use csv, tsv, psv or jsonl")
    return _record(kind, entry, where)


def _extract(entry: Mapping[str, Any], where: str) -> Extract:
    made = _record(Extract, entry, where)
    try:
        re.compile(made.pattern)
    except re.error as error:
        raise QamroError(f"{where} pattern {made.pattern!r}: {error}; mend it") from None
    return made


def _record(kind: type[Record], entry: Mapping[str, Any], where: str) -> Record:
    """Make a dataclass of a TOML table; lists become tuples."""
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    unknown = [name for name in entry if name not in known]
    if unknown:
        raise QamroError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    missing = [
        name
        for name, item in known.items()
        if name not in entry and item.default is MISSING and item.default_factory is MISSING
    ]
    if missing:
        raise QamroError(f"{where}: no {missing[0]!r}; add it")
    made = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    hints = get_type_hints(kind)
    for name, value in made.items():
        wanted = get_origin(hints[name]) or hints[name]
        if wanted not in _KINDS:
            continue
        if not isinstance(value, (int, float) if wanted is float else wanted):
            raise QamroError(f"{where}: {name} is {value!r}; write {_KINDS[wanted]} there")
    return kind(**made)
