"""Tables of pairs from what there is: listeners' ratings, and described files of battles."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.description import Extract
from qamro_cache.datasets.json_lines import json_objects
from qamro_cache.datasets.patterns import searcher
from qamro_cache.datasets.preferences import PAIR_COLUMNS, WINNERS
from qamro_cache.datasets.records import Labels
from qamro_cache.datasets.releases import files_like, render
from qamro_cache.datasets.tables import Text, read_table, text
from qamro_cache.datasets.toml import from_toml, read_toml
from qamro_cache.errors import QamroError, at_rows, quoted
from qamro_cache.paths import PathLike, as_path

logger = logging.getLogger("qamro_cache")

_SEPARATORS = {"csv": ",", "tsv": "\t", "psv": "|"}
#: What a verdict may be that says nothing.
_SKIP = "skip"


def pairs_of_ratings(clips: pd.DataFrame, labels: Labels, source: str = "") -> pd.DataFrame:
    """Return what listeners preferred within each trial: one listener, one group, one axis.

    Listeners and groups of one name in two listening tests are two.
    Of each two clips of a trial the one with the higher rating won; equal ratings are a tie. A
    listener's ratings of one clip on one axis count as their mean.

    Args:
        clips: [C] with ``clip_id`` and ``group``; where ``status`` is there, those that are ok.
        labels: of the same rows.
        source: of the pairs of clips that name no ``source``.

    Returns:
        `PAIR_COLUMNS`, a row a pair.

    Raises:
        QamroError: there are no single ratings by known raters of clips in groups.
    """
    rated = labels.ratings
    if rated is None:
        raise QamroError("only means are known of these clips; pairs take each rater's ratings")
    group = clips["group"].to_numpy(dtype=str)
    usable, test = group != "", np.full(len(group), source, object)
    if "source" in clips:
        test = np.where(clips["source"] == "", test, clips["source"].to_numpy(dtype=object))
    if "status" in clips:
        usable &= (clips["status"] == "ok").to_numpy(dtype=bool)
    names = {"axis": rated.axis, "rater": rated.rater, "clip": rated.clip, "score": rated.score}
    frame = pd.DataFrame(names)[usable[rated.clip] & (rated.rater >= 0)]
    if frame.empty:
        raise QamroError("no known rater has rated a clip that has a group; pairs take trials")
    left = len(rated.clip) - len(frame)
    if left:
        logger.info("%d of %d ratings are of no trial: without rater, group or features", left,
                    len(rated.clip))  # fmt: skip
    frame = frame.groupby(["axis", "rater", "clip"], as_index=False)["score"].mean()
    frame["group"], frame["source"] = group[frame["clip"]], test[frame["clip"]]
    trial = frame.groupby(["axis", "rater", "group", "source"], sort=True).ngroup().to_numpy()
    order = np.argsort(trial, kind="stable")
    clip, score, axis, rater = (
        frame[name].to_numpy()[order] for name in ("clip", "score", "axis", "rater")
    )
    # Each rating with those of its trial that come after it.
    after = np.bincount(trial).cumsum()[trial[order]] - np.arange(len(order)) - 1
    a = np.repeat(np.arange(len(order)), after)
    b = a + 1 + np.arange(len(a)) - np.repeat(after.cumsum() - after, after)
    won = np.sign(score[a] - score[b]).astype(np.int64)
    first, second = clip[a], clip[b]
    ids = clips["clip_id"].to_numpy(dtype=object)
    words = {number: word for word, number in WINNERS.items()}
    table = {
        "clip_a": ids[first],
        "clip_b": ids[second],
        "winner": [words[number] for number in won.tolist()],
        "rater": np.array(rated.raters, object)[rater[a]],
        "axis": np.array([one.name for one in labels.axes], object)[axis[a]],
        "source": test[first],
        "weight": 1,
    }
    return pd.DataFrame(table, columns=list(PAIR_COLUMNS))


@dataclass(frozen=True)
class Battles:
    """Described files of verdicts on two clips each.

    Templates such as ``{system_a}/{prompt}`` are filled from the columns of a row; of JSON, what
    lies deeper is named with dots: ``{vote.preference}``.

    Attributes:
        path: files below the folder, the first that is there; ``*`` reads several.
        fields: templates of `PAIR_COLUMNS`; ``clip_a``, ``clip_b`` and ``winner`` must be there.
        winners: ``a``, ``b``, ``tie`` and ``skip`` (no verdict: the row is left out) -> what the
            winner's field says then, in either case; a template, such as ``{model_a}``, too.
        format: ``csv``, ``tsv``, ``psv`` (bars), or ``jsonl``: an object a line.
        columns: names, for a file without a header.
        only: read the rows where the pattern is found.
        title, license, source: what it is, under which it may be used, and where it is.
    """

    path: tuple[str, ...]
    fields: Mapping[str, str]
    winners: Mapping[str, tuple[str, ...]]
    format: str = "csv"
    columns: tuple[str, ...] = field(default_factory=tuple)
    only: Extract | None = None
    title: str = ""
    license: str = ""
    source: str = ""


def pairs_of_battles(description: PathLike, data_dir: PathLike | None = None) -> pd.DataFrame:
    """Return the pairs of files that a description (TOML) describes; see `Battles`.

    Args:
        description: the file, or the name of one that comes along (``music-arena``).
        data_dir: the folder that paths are in; None: that of the description.

    Raises:
        QamroError: a description, a file, a column or a verdict that means nothing.
    """
    path = _found(description)
    made = from_toml(Battles, read_toml(path), str(path))
    _check(made, path)
    folder = path.parent if data_dir is None else as_path(data_dir, "a folder")
    tables = [_of_file(made, file) for file in _files(made, folder)]
    return pd.concat(tables, ignore_index=True)


def shipped_battles() -> dict[str, Path]:
    """Return the descriptions that come along: name -> file."""
    from importlib.resources import files

    folder = Path(str(files("qamro_cache_data"))) / "pairs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _found(description: PathLike) -> Path:
    path = as_path(description, "a description of pairs")
    shipped = shipped_battles()
    if path.exists() or str(description) not in shipped:
        return path
    return shipped[str(description)]


def _check(made: Battles, path: Path) -> None:
    for name in PAIR_COLUMNS[:3]:
        if name not in made.fields:
            raise QamroError(f"{path}: fields has no {name!r}; add a template for it")
    for name in made.fields:
        if name not in PAIR_COLUMNS:
            raise QamroError(f"{path}: fields has {name!r}; known: {', '.join(PAIR_COLUMNS)}")
    for name in made.winners:
        if name not in (*WINNERS, _SKIP):
            raise QamroError(f"{path}: winners has {name!r}; known: {', '.join(WINNERS)}, {_SKIP}")
    if made.format not in (*_SEPARATORS, "jsonl"):
        raise QamroError(f"{path}: format {made.format!r}; use {', '.join(_SEPARATORS)} or jsonl")
    for template in (*made.fields.values(), *(t for part in made.winners.values() for t in part)):
        try:
            list(Formatter().parse(template))
        except ValueError as error:
            raise QamroError(f"{path}: template {template!r}: {error}; mend it") from None


def _files(made: Battles, folder: Path) -> list[Path]:
    for candidate in made.path:
        if files := files_like(folder, candidate):
            return files
    raise QamroError(
        f"{folder}: {' or '.join(made.path)} is not there; name the folder that has it"
    )


def _of_file(made: Battles, file: Path) -> pd.DataFrame:
    if made.format == "jsonl":
        frame = _json_lines(file)
    else:
        separator = _SEPARATORS[made.format]
        frame = read_table(file, separator=separator, columns=made.columns or None)
    if made.only is not None:
        search = searcher(made.only.pattern, file)
        cells = render(made.only.source, _columns(frame), str(file))
        frame = frame[np.array([search(cell) is not None for cell in cells], np.bool_)]
    columns = _columns(frame)
    table = {name: render(made.fields[name], columns, str(file)) for name in made.fields}
    table["winner"] = _winners(made, table["winner"], columns, file, frame.index.to_numpy())
    found = pd.DataFrame(table, columns=list(PAIR_COLUMNS)).fillna("")
    same = (found["winner"] != _SKIP) & (found["clip_a"] == found["clip_b"])
    if same.any():
        name = quoted(found["clip_a"][same].iloc[0])
        raise QamroError(
            f"{at_rows(file, frame.index.to_numpy()[same])}clip {name} is paired with itself; "
            "mend the row, or leave it out by `only` of the description"
        )
    return found[found["winner"] != _SKIP]


def _columns(frame: pd.DataFrame) -> dict[str, Text]:
    return {str(name): text(frame, str(name)) for name in frame.columns}


def _winners(
    made: Battles,
    said: Text,
    columns: Mapping[str, Text],
    file: Path,
    rows: npt.NDArray[np.int64],
) -> Text:
    """Return ``a``, ``b``, ``tie`` or ``skip`` of each row."""
    plain = [cell.strip().casefold() for cell in said]
    found = np.full(len(said), "", object)
    for outcome, words in made.winners.items():
        for word in words:
            wanted = np.full(len(said), word, object)
            if "{" in word:
                wanted = render(word, columns, str(file))
            pairs = zip(plain, wanted, strict=True)
            same = np.array([p == w.strip().casefold() for p, w in pairs], np.bool_)
            both = np.flatnonzero(same & (found != "") & (found != outcome))
            if len(both):
                raise QamroError(
                    f"{at_rows(file, rows[both])}the verdict {quoted(said[both[0]])} is "
                    f"{found[both[0]]} and {outcome} by [winners] of the description; mend it, "
                    "or the row"
                )
            found[same] = outcome
    odd = np.flatnonzero(found == "")
    if len(odd):
        known = ", ".join(word for words in made.winners.values() for word in words)
        raise QamroError(
            f"{at_rows(file, rows[odd])}the verdict {quoted(said[odd[0]])} is none of {known}; "
            "add it to [winners] of the description, or correct the row"
        )
    return found


def _json_lines(file: Path) -> pd.DataFrame:
    """Read an object a line as text; what lies deeper has names with dots, null is empty."""
    records: list[dict[str, str]] = []
    rows: list[int] = []
    for number, record in json_objects(file):
        flat = _flat(record)
        if odd := [one for one in flat.values() if not one.isprintable() and not _utf8(one)]:
            raise QamroError(f"{file}, row {number}: {quoted(odd[0])} is not UTF-8; mend it")
        records.append(flat)
        rows.append(number)
    if not records:
        raise QamroError(f"{file}: is empty; every line must be a JSON object")
    return pd.DataFrame(records, index=rows, dtype=object).fillna("")


def _utf8(value: str) -> bool:
    """Tell whether a text can be written: JSON may escape half of a character."""
    return not any("\ud800" <= one <= "\udfff" for one in value)


def _flat(record: Mapping[str, Any], before: Sequence[str] = ()) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in record.items():
        path = (*before, name)
        if isinstance(value, dict):
            found |= _flat(value, path)
        else:
            plain = "" if value is None else value
            found[".".join(path)] = plain if isinstance(plain, str) else json.dumps(plain)
    return found
