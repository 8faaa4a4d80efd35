"""The page of a rated set, before anything is computed from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qamro_cache.datasets.checks import check_dataset, equal_files, file_sizes
from qamro_cache.datasets.raters import with_raters_apart
from qamro_cache.datasets.records import Dataset
from qamro_cache.datasets.report import report_tables
from qamro_cache.evaluation.judged import Floats
from qamro_cache.reports.listening import Heard, listen
from qamro_cache.reports.numbers import number, ticks
from qamro_cache.reports.page import (
    Bars,
    Block,
    Facts,
    Page,
    Section,
    Sound,
    Table,
    Value,
    Words,
    sentences,
)
from qamro_cache.reports.raters import rater_blocks

#: Clips of a table of the odd ones, and copies that are named, at most.
ODD, COPIES = 5, 20


def dataset_page(dataset: Dataset, report: Mapping[str, Any] | None = None) -> Page:
    """Return the page of a set.

    Args:
        dataset: the set.
        report: of `check_dataset`, where it is known.
    """
    dataset = with_raters_apart(dataset)
    report = check_dataset(dataset) if report is None else report
    clips, audio = dataset.clips, report["audio"] or {"files": 0, "opened": 0, "unreadable": 0}
    problems = [f"{one['code']}: {one['message']}" for one in report["problems"]]
    ratings = report["raters"]["single_ratings"]
    lead = [
        f"{len(clips)} clips of {len(report['systems'])} systems and "
        f"{report['groups']['unique']} {report['groups']['kind'] or 'group'}s; "
        f"{ratings} single ratings by {report['raters']['known']} raters.",
        f"{audio['files']} audio files are there; {audio['opened']} were opened, "
        f"{audio['unreadable']} of them cannot be read.",
        f"{len(problems)} things should be known before a figure is believed."
        if problems
        else "No problem was found.",
    ]
    heard = listen(list(clips["path"]))
    sections = [
        Section("What should be known", [
            Words(problems, "warning") if problems else Words(["No problem was found."], "good"),
            *([sentences(report["notes"])] if report["notes"] else []),
        ]),
        *(
            Section(axis.name, _ratings(dataset, index, report["axes"][axis.name]))
            for index, axis in enumerate(dataset.labels.axes)
        ),
        Section("Sound", _sound(dataset, heard)),
        Section("Splits and systems", [*_splits(report), *_systems(report)]),
    ]  # fmt: skip
    return Page(dataset.name, lead, sections, dataset.synthetic, "data set, before extraction")


def histogram(
    title: str, about: str, label: str, values: Floats, unit: str = "clips", bins: int = 20
) -> list[Block]:
    """Return a histogram of the finite values, with round edges; nothing without any."""
    known = values[np.isfinite(values)]
    if not len(known):
        return []
    low, high = float(known.min()), float(known.max())
    if low == high:
        return [Words([f"{title}: all are {number(low)} ({label})."])]
    marks = ticks(low, high, bins)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    start = np.floor(low / step + 1e-9) * step
    edges = start + step * np.arange(max(1, np.ceil((high - start) / step - 1e-9)) + 1)
    counts, edges = np.histogram(np.clip(known, edges[0], edges[-1]), edges)
    return [Bars(title, about, label, unit, edges.tolist(), counts.tolist())]


def _ratings(dataset: Dataset, index: int, record: Mapping[str, Any]) -> list[Block]:
    labels = dataset.labels
    axis, blocks = labels.axes[index], []
    if labels.ratings is not None:
        single = labels.ratings.score[labels.ratings.axis == index]
        blocks += histogram(
            f"{axis.name}: single ratings",
            f"{len(single)} ratings on a scale from {axis.low:g} to {axis.high:g}.",
            "rating",
            single.astype(np.float64),
            "ratings",
        )
    words = [f"mean {number(record['mean'])}", f"std {number(record['std'])}"]
    words += [f"standard error {number(record['stderr'])} on average"] * (
        record["stderr"] is not None
    )
    blocks += histogram(
        f"{axis.name}: means of clips",
        f"{record['clips']} clips: {', '.join(words)}.",
        "mean rating",
        labels.mean[:, index],
    )
    blocks += rater_blocks(dataset, index)
    stderr = labels.stderr[:, index]
    rows: list[list[Value]] = [
        [_clip(dataset, k), str(dataset.clips["system"].iloc[k]), float(labels.mean[k, index]),
         float(stderr[k]), str(int(labels.count[k, index]))]
        for k in _largest(stderr)
    ]  # fmt: skip
    if rows:
        columns = ["clip", "system", "mean rating", "standard error", "ratings"]
        title = f"{axis.name}: clips that raters disagree about most"
        blocks.append(Table(title, columns, rows, left=2))
    return blocks


def _clip(dataset: Dataset, row: int) -> Sound:
    return Sound(str(dataset.clips["clip_id"].iloc[row]), str(dataset.clips["path"].iloc[row]))


def _largest(values: Floats, most: int = ODD) -> list[int]:
    known = np.flatnonzero(np.isfinite(values))
    return [int(k) for k in known[np.argsort(-values[known], kind="stable")][:most]]


def _sound(dataset: Dataset, heard: Heard) -> list[Block]:
    known = int(np.isfinite(heard.seconds).sum())
    if not known:
        return [Words(["No audio file could be listened to."], "warning")]
    total = float(np.nansum(heard.seconds))
    rates = ", ".join(f"{int(rate)} Hz" for rate in np.unique(heard.rate[heard.rate > 0]))
    channels = ", ".join(str(int(n)) for n in np.unique(heard.channels[heard.channels > 0]))
    blocks: list[Block] = [
        Facts([
            ("listened to", f"{known} of {len(heard.seconds)} files"),
            ("length", f"{total / 60:.1f} minutes in all"),
            ("sample rates", rates),
            ("channels", channels),
        ]),
        *histogram("Lengths", f"{known} files, by their headers.", "seconds", heard.seconds),
        *histogram("Levels", "Root mean square of the first half minute of each file.",
                   "dB of full scale", heard.level),
    ]  # fmt: skip
    odd = {
        "shortest": -heard.seconds,
        "longest": heard.seconds,
        "quietest": -heard.level,
        "loudest": heard.level,
        "highest peak": heard.peak,
    }
    rows: list[list[Value]] = [
        [what, _clip(dataset, k), float(heard.seconds[k]), float(heard.level[k]),
         float(heard.peak[k])]
        for what, values in odd.items()
        if np.nanmin(values) < np.nanmax(values)
        for k in _largest(values, 3)
    ]  # fmt: skip
    columns = ["odd", "clip", "seconds", "level, dB", "peak, dB"]
    blocks.append(Table("The odd ones", columns, rows, left=2))
    return blocks + _copies(dataset)


def _copies(dataset: Dataset) -> list[Block]:
    """Return the files that are equal, byte by byte, each beside the first of its kind."""
    paths = list(dataset.clips["path"])
    first = equal_files(paths, file_sizes(paths))
    copies = [row for row, one in enumerate(first) if 0 <= one != row]
    if not copies:
        return [Words(["No two files are equal."], "good")]
    labels = dataset.labels
    mean = labels.mean[:, 0] if labels.axes else np.full(len(paths), np.nan)
    rows: list[list[Value]] = [
        [_clip(dataset, int(first[k])), _clip(dataset, k), float(mean[first[k]]), float(mean[k])]
        for k in copies[:COPIES]
    ]
    rated = labels.axes[0].name if labels.axes else "rated"
    columns = ["clip", "its copy", rated, f"{rated} of the copy"]
    title = f"{len(copies)} files are copies of another, byte by byte"
    return [Table(title, columns, rows, left=2)]


def _splits(report: Mapping[str, Any]) -> list[Block]:
    tables = report_tables(report)[:-1]
    return [Table(one.title, one.columns, one.rows, left=one.left) for one in tables]


def _systems(report: Mapping[str, Any]) -> list[Block]:
    systems: Mapping[str, Any] = report["systems"]
    axes: Sequence[str] = list(report["axes"])
    if not systems:
        return []
    rows: list[list[Value]] = [
        [name, str(one["clips"]), *(one["mean"][axis] for axis in axes)]
        for name, one in systems.items()
    ]
    return [Table("Means by system", ["system", "clips", *axes], rows)]
