"""Load a rated set from disk as its description says."""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.assemble import group_rows
from qamro_cache.datasets.description import Description, Listing, Prompts
from qamro_cache.datasets.ids import clean_id, resolved_references
from qamro_cache.datasets.joined import concatenate_labels
from qamro_cache.datasets.records import (
    CLIP_COLUMNS,
    Dataset,
    Labels,
    select_clips,
    select_labels,
)
from qamro_cache.datasets.releases import (
    Rows,
    column,
    find_files,
    labels_of_table,
    read_rows,
    read_system_scores,
    render,
)
from qamro_cache.datasets.tables import Text, refuse_lost
from qamro_cache.errors import QamroError

logger = logging.getLogger("qamro_cache")


@dataclass(frozen=True)
class _Part:
    """The clips of one file: a row a clip.

    ``columns`` has everything that the file says about them, for templates.
    """

    clips: pd.DataFrame
    labels: Labels
    columns: dict[str, Text]
    audio_found: npt.NDArray[np.bool_]
    table: Listing
    file: Path


def load_described(description: Description, data_dir: Path) -> Dataset:
    """Read the release that lies in ``data_dir``.

    Raises:
        QamroError: a file that the description needs is absent or not of the form it says.
    """
    if not data_dir.is_dir():
        raise QamroError(
            f"{data_dir}: no such folder; --data-dir must be where {description.name} lies "
            f"(get it from {description.source})"
        )
    parts = [
        _read_part(description, table, file, data_dir)
        for table in description.clips
        for file in find_files(table.path, data_dir, description, optional=table.optional)
    ]
    if not parts:
        raise QamroError(
            f"{data_dir}: none of the lists of {description.name} is there "
            f"({', '.join(description.clips[0].path)}); get it from {description.source}"
        )
    notes = list(description.notes)
    parts, left_out = _with_audio(_without_repeats(parts))
    notes += left_out
    clips = pd.concat([part.clips for part in parts], ignore_index=True)
    again = clips["clip_id"].duplicated()
    if again.any():
        clip_id = clips["clip_id"][again].iloc[0]
        files = " and ".join(p.file.name for p in parts if (p.clips["clip_id"] == clip_id).any())
        raise QamroError(f"{data_dir}: clip {clip_id!r} is listed in {files}; remove one")
    clips["reference"] = resolved_references(clips, str(data_dir))
    labels = concatenate_labels([part.labels for part in parts])
    labels, found = _join_ratings(description, data_dir, parts, labels)
    notes += found
    if description.prompts and not (clips["prompt"] != "").any():
        names = " or ".join(entry.path[0] for entry in description.prompts)
        notes.append(f"no prompts: {names} is not in {data_dir}")
    dataset = Dataset(
        description.name,
        clips,
        labels,
        license=description.license,
        source=description.source,
        notes=tuple(notes),
        system_scores=read_system_scores(description, data_dir),
        published=description.published,
        group_kind=description.group_kind,
    )
    return _only_present(description, dataset, np.concatenate([p.audio_found for p in parts]))


def _with_audio(parts: list[_Part]) -> tuple[list[_Part], list[str]]:
    """Drop lists that need audio and have none, if most of the other clips have theirs."""
    bare = [part.table.needs_audio and not part.audio_found.any() for part in parts]
    rest = [part.audio_found for part, drop in zip(parts, bare, strict=True) if not drop]
    if not rest or np.concatenate(rest).mean() < 0.5:
        return parts, []
    notes = [
        f"{part.file.name} is left out: none of its audio is on disk"
        for part, drop in zip(parts, bare, strict=True)
        if drop
    ]
    return [part for part, drop in zip(parts, bare, strict=True) if not drop], notes


def _without_repeats(parts: list[_Part]) -> list[_Part]:
    """Drop an optional list whose clips are all in earlier lists.

    A challenge first publishes the names of its evaluation clips, later their scores; a release
    may have single ratings and their means.
    """
    kept: list[_Part] = []
    listed: set[str] = set()
    for part in parts:
        names = set(part.clips["clip_id"])
        if part.table.optional and names <= listed:
            continue
        kept.append(part)
        listed |= names
    return kept


def _read_part(description: Description, table: Listing, file: Path, data_dir: Path) -> _Part:
    rows = read_rows(table, file)
    listed = group_rows(rows.columns, str(file), rows.numbers, raters=table.single)
    labels = labels_of_table(description, table, rows, listed)
    clips = listed.clips
    if table.split:
        clips["split"] = table.split
    columns = {name: values[listed.first] for name, values in rows.columns.items()}
    # Templates name files, which are called as the release has it: names are not clean there.
    columns = {name: clips[name].to_numpy(dtype=object) for name in CLIP_COLUMNS} | columns
    clips["prompt"] = _prompts(description, columns, data_dir)
    clips["path"], found = _audio(description, columns, data_dir, str(file))
    return _Part(clips, labels, columns, found, table, file)


def _audio(
    description: Description, columns: dict[str, Text], data_dir: Path, where: str
) -> tuple[Text, npt.NDArray[np.bool_]]:
    """Find the first existing file of each clip's candidates, or else the first candidate."""
    start = os.path.abspath(data_dir)  # noqa: PTH100 - links stay as they are
    path = np.full(len(columns["clip_id"]), "", object)
    found = np.zeros(len(path), np.bool_)
    for template in description.audio:
        names = render(template, columns, where)
        for row in np.flatnonzero(~found):
            # An absolute name stays as it is: a user may have written his own paths.
            candidate = os.path.join(start, names[row])  # noqa: PTH118
            found[row] = os.path.isfile(candidate)  # noqa: PTH113
            if found[row] or not path[row]:
                path[row] = candidate
    refuse_lost(path, where)
    return path, found


def _prompts(description: Description, columns: dict[str, Text], data_dir: Path) -> Text:
    prompt = columns["prompt"]
    named = {system for entry in description.prompts for system in entry.systems}
    for entry in description.prompts:
        texts = _prompt_texts(description, entry, data_dir)
        if texts is None:
            continue
        keys = render(entry.key, columns, entry.path[0])
        systems = set(entry.systems)
        mine = [
            system in systems if systems else system not in named for system in columns["system"]
        ]
        prompt = np.array(
            [
                texts.get(key.removesuffix(".wav"), old) if use else old
                for key, old, use in zip(keys, prompt, mine, strict=True)
            ],
            object,
        )
    return prompt


def _prompt_texts(
    description: Description, entry: Prompts, data_dir: Path
) -> dict[str, str] | None:
    files = find_files(entry.path, data_dir, description, optional=True)
    if not files:
        return None
    texts: dict[str, str] = {}
    for file in files:
        rows = read_rows(Listing(entry.path, entry.format), file)
        for key, text in zip(
            column(entry.id, rows.columns, str(file)),
            column(entry.text, rows.columns, str(file)),
            strict=True,
        ):
            texts[key.removesuffix(".wav")] = text.strip()
    return texts


def _join_ratings(
    description: Description, data_dir: Path, parts: list[_Part], labels: Labels
) -> tuple[Labels, list[str]]:
    """Put single ratings in the place of means, and say where they do not average to them."""
    read: list[tuple[Rows, Listing]] = [
        (read_rows(table, file), table)
        for table in description.ratings
        for file in find_files(table.path, data_dir, description, optional=table.optional)
    ]
    if not read:
        return labels, []
    keys = np.concatenate([part.columns.get("key", part.columns["clip_id"]) for part in parts])
    row_of = {clean_id(key): row for row, key in enumerate(keys)}
    kept = []
    notes = []
    for rows, table in read:
        key = rows.columns.get("key", rows.columns.get("clip_id"))
        if key is None:
            raise QamroError(f"{rows.file}: the description names no `key` for it; add fields.key")
        at = np.array([row_of.get(clean_id(name), -1) for name in key], np.intp)
        mine = rows.take(np.flatnonzero(at >= 0))
        if not len(mine.numbers):
            notes.append(f"no clip has the single ratings of {rows.file.name}")
            continue
        mine.columns["clip_id"] = key[at >= 0]
        for name in set(CLIP_COLUMNS) - {"clip_id"}:
            mine.columns.pop(name, None)
        listed = group_rows(mine.columns, str(rows.file), mine.numbers, raters=table.single)
        own = labels_of_table(description, table, mine, listed)
        kept.append((own, at[at >= 0][listed.first]))
    for own, at in kept:
        published, ours = labels.mean[at], own.mean
        both = np.isfinite(published) & np.isfinite(ours)
        # Published means are rounded to a decimal or two.
        off = int((both & (np.abs(published - ours) > 0.0501)).any(axis=1).sum())
        if off:
            notes.append(f"{off} clips' single ratings do not average to the published mean")
        labels = _replace_rows(labels, own, at)
    return labels, notes


def _replace_rows(labels: Labels, own: Labels, at: npt.NDArray[np.intp]) -> Labels:
    """``labels`` with the rows ``at`` taken from ``own`` where it has ratings."""
    rest = np.setdiff1d(np.arange(len(labels.mean)), at)
    kept = select_labels(labels, rest)
    joined = concatenate_labels([kept, own])
    return select_labels(joined, np.argsort(np.concatenate([rest, at])))


def _only_present(
    description: Description, dataset: Dataset, found: npt.NDArray[np.bool_]
) -> Dataset:
    """Leave out groups without any audio, if that is the description's wish."""
    groups = dataset.clips["group"].to_numpy(dtype=object)
    present = set(groups[found])
    keep = np.array([group in present for group in groups], np.bool_)
    if not description.only_present or keep.all() or not keep.any():
        return dataset
    gone = len(set(groups[~keep]))
    note = f"{gone} of {gone + len(present)} groups are left out: their audio is not on disk"
    kept = select_clips(dataset, np.flatnonzero(keep).astype(np.int64))
    return replace(kept, notes=(*kept.notes, note))
