"""What a declarative dataset description (``data/*.toml``) says; docs/datasets.md has the guide."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter

from qamro_cache.datasets.records import Axis, Published
from qamro_cache.datasets.toml import from_toml, read_toml
from qamro_cache.errors import QamroError


@dataclass(frozen=True)
class Extract:
    """A regular expression on a template: new columns from its groups, or the rows to read."""

    source: str
    pattern: str


@dataclass(frozen=True)
class Listing:
    """A file of clips, with or without scores, or of ratings joined to clips by a key.

    Templates such as ``{page}/{sound}`` are filled from the columns of a row.

    Attributes:
        path: where the file may lie in the release, first match wins; ``*`` reads several.
        format: ``csv``, ``tsv``, ``psv`` (bars) or ``jsonl``.
        columns: names, for a file without a header.
        split: constant for the table; otherwise ``fields.split`` or none.
        optional: the release may come without it.
        needs_audio: leave it out when none of its audio is on disk while most of the others' is.
        fields: templates of ``clip_id``, ``system``, ``group``, ``split``, ``reference``,
            ``rater``, ``axis`` and ``key``; a column of the field's own name is the default.
        extract: columns made from others by regular expressions, in order.
        lists: columns whose cells hold lists (JSON) of one length; each entry becomes a row.
        only: read the rows where the pattern is found.
        scores: axis -> column, where each axis has a column (one number, or a list of ratings).
        score: the column of the score, where the row's axis is named by ``fields.axis``.
        counts: axis -> column with the number of ratings behind a mean.
        stds: axis -> column with the standard deviation of the ratings behind a mean.
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
    lists: tuple[str, ...] = ()
    only: Extract | None = None
    scores: Mapping[str, str] = field(default_factory=dict)
    score: str = ""
    counts: Mapping[str, str] = field(default_factory=dict)
    stds: Mapping[str, str] = field(default_factory=dict)
    count: int = 0
    raters: bool = False

    @property
    def single(self) -> bool:
        """Whether a row is one rating."""
        return self.raters or bool({"rater", "axis"} & self.fields.keys())


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
    clips: tuple[Listing, ...]
    audio: tuple[str, ...]
    ratings: tuple[Listing, ...] = ()
    prompts: tuple[Prompts, ...] = ()
    system_scores: SystemScores | None = None
    group_kind: str = ""
    only_present: bool = False
    published: Published = field(default_factory=Published)
    notes: tuple[str, ...] = ()


def read_description(path: Path) -> Description:
    """Read and check a description.

    Raises:
        QamroError: not TOML, an unknown or missing key, a value of the wrong kind, a template or
            pattern that cannot work.
    """
    made = from_toml(Description, read_toml(path), str(path))
    try:
        _check(made)
    except ValueError as error:
        raise QamroError(f"{path}: {error}") from None
    return made


def _check(made: Description) -> None:
    """Refuse what no single value shows."""
    if not made.clips:
        raise ValueError("no [[clips]] table; say which file lists the clips")
    known = [axis.name for axis in made.axes]
    _check_axes(made.axes)
    for name, step in made.published.steps.items():
        if name not in known or not step > 0:
            raise ValueError(f"published step of {name!r}: name an axis, and a step above 0")
    listings = (*made.clips, *made.ratings)
    for listing in listings:
        for name in (*listing.scores, *listing.counts, *listing.stds):
            if name not in known:
                raise ValueError(f"scores for axis {name!r}, which is not among [[axes]]; add it")
        for part in (*listing.extract, *((listing.only,) if listing.only else ())):
            _check_template(part.source)
            try:
                re.compile(part.pattern)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"pattern {part.pattern!r}: {error}; mend it") from None
        for template in listing.fields.values():
            _check_template(template)
    for template in (*made.audio, *(entry.key for entry in made.prompts)):
        _check_template(template)
    scores = (made.system_scores,) if made.system_scores else ()
    for table in (*listings, *scores):
        if len(set(table.columns)) < len(table.columns) or "" in table.columns:
            raise ValueError("columns has a name twice, or one without letters; mend it")
    for entry in (*listings, *made.prompts, *scores):
        if not entry.path:
            raise ValueError("an empty path; say where the file may lie")
        if any(name.startswith("/") for name in entry.path):
            raise ValueError("a path starts with /; write it as it lies below --data-dir")
        if entry.format not in ("csv", "tsv", "psv", "jsonl"):
            raise ValueError(f"format {entry.format!r}; use csv, tsv, psv or jsonl")


def _check_axes(axes: Sequence[Axis]) -> None:
    for axis in axes:
        if not -math.inf < axis.low < axis.high < math.inf:
            raise ValueError(f"axis {axis.name!r}: low is not below high; mend its scale")
    if len({axis.name for axis in axes}) < len(axes):
        raise ValueError("two [[axes]] have one name; remove one")


def _check_template(template: str) -> None:
    try:
        list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}; mend it") from None
