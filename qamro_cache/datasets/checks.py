"""What a rated set holds and what is wrong with it, before anything is computed from it."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.audio.check import oddity_message
from qamro_cache.datasets.headers import Headers, open_headers
from qamro_cache.datasets.records import Dataset, Labels

#: A system with fewer clips than this has a noisy mean.
FEW_CLIPS = 10
#: A rater with at least this many ratings, all equal, did not listen.
MANY_RATINGS = 10

Problem = dict[str, str]
Mask = npt.NDArray[np.bool_]


def check_dataset(dataset: Dataset, *, read_audio: bool = True) -> dict[str, Any]:
    """Describe and check a rated set; needs neither an encoder nor a GPU.

    Args:
        dataset: what to check.
        read_audio: open the files' headers, all or a sample, and find equal files
            by hash; only files of equal size are read in full.

    Returns:
        JSON types only. ``splits`` (by name: clips, labeled, systems, groups, prompts, missing
        audio, and what each shares with the splits before it), ``systems`` (by name: clips and
        mean scores), ``axes`` (by name: scale, spread, ratings), ``prompts``, ``raters``,
        ``audio`` (files that are there, how many headers were opened, how many could not be read),
        ``problems`` (a list of ``code`` and ``message``), and ``dataset``, ``clips``,
        ``synthetic``, ``license``, ``source``, ``notes``.
    """
    clips = dataset.clips
    labeled = np.isfinite(dataset.labels.mean).any(axis=1)
    paths = list(clips["path"])
    sizes = _file_sizes(paths)
    same_audio = _equal_files(paths, sizes) if read_audio else None
    headers = open_headers(paths, sizes >= 0) if read_audio else None
    rows_of = {
        str(name): (clips["split"] == name).to_numpy(dtype=bool)
        for name in pd.unique(clips["split"])
    }
    splits = _splits(dataset, rows_of, labeled, sizes < 0, same_audio)
    problems = [
        *_count_problems(dataset, rows_of),
        *_overlap_problems(splits, dataset.group_kind),
        *_file_problems(clips, sizes, same_audio),
        *_header_problems(clips, headers),
        *_label_problems(dataset.labels, clips, dataset.published.steps),
        *_rater_problems(dataset.labels),
        *_system_problems(clips),
        *_prompt_problems(clips),
    ]
    return {
        "dataset": dataset.name,
        "synthetic": dataset.synthetic,
        "license": dataset.license,
        "source": dataset.source,
        "clips": len(clips),
        "notes": list(dataset.notes),
        "splits": splits,
        "systems": _systems(dataset),
        "axes": _axes(dataset.labels),
        "prompts": {
            "unique": _unique(_prompt_keys(dataset)),
            "clips_with_text": int((clips["prompt"] != "").sum()),
        },
        "groups": {"unique": _unique(clips["group"]), "kind": dataset.group_kind},
        "raters": _raters(dataset.labels),
        "audio": None if headers is None else headers.record(),
        "problems": problems,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _prompt_keys(dataset: Dataset) -> "pd.Series[Any]":
    """Return what tells prompts apart: their text, or the group where that is their number.

    A release may be here without its prompt files.
    """
    text = dataset.clips["prompt"]
    if dataset.group_kind == "prompt" and (text == "").any():
        return dataset.clips["group"]
    return text


def _unique(values: "pd.Series[Any]") -> int:
    return len(_names(values))


def _names(values: Iterable[str]) -> set[str]:
    return {value for value in pd.unique(pd.Series(values, dtype=object)) if value != ""}


def _file_sizes(paths: Sequence[str]) -> npt.NDArray[np.int64]:
    """Bytes of every file, -1 where there is none."""
    sizes = np.full(len(paths), -1, np.int64)
    for row, path in enumerate(paths):
        try:
            sizes[row] = os.stat(path).st_size  # noqa: PTH116 - a million of them
        except OSError:
            continue
    return sizes


def _equal_files(paths: Sequence[str], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A number a file; equal content has equal numbers, and -1 is a file that is not there."""
    number = np.arange(len(sizes), dtype=np.int64)
    number[sizes < 0] = -1
    by_size = pd.Series(np.arange(len(sizes))).groupby(sizes).indices
    for size, rows in by_size.items():
        if int(size) < 0 or len(rows) < 2:  # type: ignore[call-overload]
            continue
        seen: dict[bytes, int] = {}
        for row in rows:
            # Opening a pipe would wait for a writer.
            if not os.path.isfile(paths[row]):  # noqa: PTH113
                continue
            try:
                with open(paths[row], "rb") as file:  # noqa: PTH123
                    digest = hashlib.file_digest(file, "sha256").digest()
            except OSError:
                continue
            number[row] = seen.setdefault(digest, int(row))
    return number


def _splits(
    dataset: Dataset,
    rows_of: Mapping[str, Mask],
    labeled: Mask,
    missing: Mask,
    same_audio: npt.NDArray[np.int64] | None,
) -> dict[str, dict[str, Any]]:
    clips, prompts = dataset.clips, _prompt_keys(dataset)
    sets: dict[str, dict[str, set[Any]]] = {}
    records: dict[str, dict[str, Any]] = {}
    for split, rows in rows_of.items():
        own: dict[str, set[Any]] = {
            "systems": _names(clips["system"][rows]),
            "groups": _names(clips["group"][rows]),
            "prompts": _names(prompts[rows]),
        }
        if same_audio is not None:
            own["audio"] = set(same_audio[rows].tolist()) - {-1}
        records[split] = {
            "clips": int(rows.sum()),
            "labeled": int((rows & labeled).sum()),
            "missing_audio": int((rows & missing).sum()),
            **{what: len(own[what]) for what in ("systems", "groups", "prompts")},
            "shared": {
                other: {what: len(own[what] & theirs[what]) for what in own}
                for other, theirs in sets.items()
            },
        }
        sets[split] = own
    return records


def _systems(dataset: Dataset) -> dict[str, dict[str, Any]]:
    labels = dataset.labels
    records: dict[str, dict[str, Any]] = {}
    for system, rows in dataset.clips.groupby("system", sort=True).indices.items():
        if system == "":
            continue
        means = {}
        for index, axis in enumerate(labels.axes):
            scores = labels.mean[rows, index]
            known = scores[np.isfinite(scores)]
            means[axis.name] = _number(known.mean()) if len(known) else None
        published = dataset.system_scores.get(str(system))
        records[str(system)] = {"clips": len(rows), "mean": means}
        if published is not None:
            names = [axis.name for axis in labels.axes]
            values = [_number(value) for value in published]
            records[str(system)]["published"] = dict(zip(names, values, strict=True))
    return records


def _axes(labels: Labels) -> dict[str, dict[str, Any]]:
    records = {}
    for index, axis in enumerate(labels.axes):
        scores = labels.mean[:, index]
        known = scores[np.isfinite(scores)]
        counts = labels.count[np.isfinite(scores), index]
        errors = labels.stderr[np.isfinite(labels.stderr[:, index]), index]
        records[axis.name] = {
            "low": axis.low,
            "high": axis.high,
            "clips": len(known),
            "mean": _number(known.mean()) if len(known) else None,
            "deviation": _number(known.std(ddof=1)) if len(known) > 1 else None,
            "min": _number(known.min()) if len(known) else None,
            "max": _number(known.max()) if len(known) else None,
            "ratings": int(counts.sum()),
            "ratings_a_clip": _number(counts.mean()) if counts.any() else None,
            "stderr": _number(errors.mean()) if len(errors) else None,
        }
    return records


def _raters(labels: Labels) -> dict[str, Any]:
    ratings = labels.ratings
    if ratings is None:
        return {"known": 0, "single_ratings": 0, "by_rater": {}}
    number = len(ratings.raters)
    who = ratings.rater[ratings.rater >= 0]
    score = ratings.score[ratings.rater >= 0]
    count = np.bincount(who, minlength=number)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(who, weights=score, minlength=number) / count
    return {
        "known": number,
        "single_ratings": len(ratings.score),
        "by_rater": {
            name: {"ratings": int(count[i]), "mean": _number(mean[i])}
            for i, name in enumerate(ratings.raters)
        },
    }


def _count_problems(dataset: Dataset, rows_of: Mapping[str, Mask]) -> Iterable[Problem]:
    published = dataset.published
    for split, number in published.clips.items():
        rows = rows_of.get(split)
        name = split or "the set"
        if rows is None:
            yield _problem("absent-split", f"{name}: no clips here, {number} published")
        elif int(rows.sum()) != number:
            yield _problem("count", f"{name}: {int(rows.sum())} clips, {number} published")
    systems = _unique(dataset.clips["system"])
    if published.systems and set(published.clips) <= set(rows_of) and systems != published.systems:
        yield _problem("count", f"{systems} systems, {published.systems} published")
    labels = dataset.labels
    if published.ratings_a_clip:
        other = np.isfinite(labels.mean) & (labels.count != published.ratings_a_clip)
        number = int(other.any(axis=1).sum())
        if number:
            message = f"{number} clips have not the published {published.ratings_a_clip} ratings"
            yield _problem("count", message)


def _overlap_problems(
    splits: Mapping[str, Mapping[str, Any]], group_kind: str
) -> Iterable[Problem]:
    advice = {
        "systems": "; figures on it are for seen systems, --cv system asks about unseen ones",
        "prompts": "; figures on it are for seen prompts, --cv prompt asks about unseen ones"
        + (" (or --cv group)" if group_kind == "prompt" else ""),
        "groups": "; --cv group keeps each on one side",
        "audio": "; the same audio is on both sides: remove it from one",
    }
    for split, record in splits.items():
        for other, counts in record["shared"].items():
            for what, number in counts.items():
                if number and not (what == "groups" and group_kind == "prompt"):
                    of = f" of {record[what]}" if what in record else ""
                    noun = {"audio": "audio files", "groups": _group_noun(group_kind)}.get(
                        what, what
                    )
                    message = f"{split or '(none)'} shares {number}{of} {noun} with {other}"
                    yield _problem(f"overlap-{what}", message + advice[what])


def _group_noun(group_kind: str) -> str:
    return f"groups ({group_kind})" if group_kind else "groups"


def _file_problems(
    clips: pd.DataFrame, sizes: npt.NDArray[np.int64], same_audio: npt.NDArray[np.int64] | None
) -> Iterable[Problem]:
    missing = np.flatnonzero(sizes < 0)
    if len(missing):
        message = f"{len(missing)} of {len(clips)} audio files are not there, the first is "
        yield _problem("missing-audio", message + clips["path"].iloc[int(missing[0])])
    if same_audio is None:
        return
    there = same_audio[same_audio >= 0]
    rows = np.flatnonzero(same_audio >= 0)
    repeats = rows[there != rows]
    if len(repeats):
        first = int(repeats[0])
        names = clips["clip_id"].iloc[first], clips["clip_id"].iloc[int(same_audio[first])]
        yield _problem(
            "duplicate-audio",
            f"{len(repeats)} clips have the same audio as another, the first are "
            f"{names[1]} and {names[0]}",
        )


def _header_problems(clips: pd.DataFrame, headers: Headers | None) -> Iterable[Problem]:
    if headers is None:
        return
    if headers.errors:
        yield _problem("unreadable-audio", headers.message())
    for oddity, rows in headers.odd.items():
        names = clips["clip_id"].iloc[list(rows[:3])].tolist()
        yield _problem(f"{oddity}-audio", oddity_message(oddity, len(rows), names))


def _label_problems(
    labels: Labels, clips: pd.DataFrame, steps: Mapping[str, float]
) -> Iterable[Problem]:
    for index, axis in enumerate(labels.axes):
        scores = labels.mean[:, index]
        known = np.isfinite(scores)
        if not known.any():
            yield _problem("no-labels", f"{axis.name}: no clip has a score")
            continue
        if not known.all():
            number = int((~known).sum())
            yield _problem("unlabeled", f"{axis.name}: {number} clips have no score")
        outside = np.flatnonzero(known & ((scores < axis.low) | (scores > axis.high)))
        where = [clips["clip_id"].iloc[int(row)] for row in outside[:1]]
        if labels.ratings is not None:
            mine = labels.ratings.axis == index
            single = labels.ratings.score[mine]
            bad = (single < axis.low) | (single > axis.high)
            rows = np.unique(labels.ratings.clip[mine][bad])
            outside = np.union1d(outside, rows)
            where += [clips["clip_id"].iloc[int(row)] for row in rows[:1]]
        if len(outside):
            scale = f"{axis.low:g} to {axis.high:g}"
            message = f"{axis.name}: {len(outside)} clips have a score outside {scale}, the first "
            yield _problem("out-of-range", message + f"is {where[0]}; correct it, or the scale")
        if known.sum() > 1 and np.ptp(scores[known]) == 0:
            yield _problem(
                "constant", f"{axis.name}: all clips have the score {scores[known][0]:g}"
            )
        if axis.name in steps:
            grid = (scores[known] - axis.low) / steps[axis.name]
            off = int((np.abs(grid - np.round(grid)) > 1e-6).sum())
            if off:
                message = f"{axis.name}: {off} scores are off the published grid of "
                yield _problem("off-grid", message + f"{steps[axis.name]:g}")


def _rater_problems(labels: Labels) -> Iterable[Problem]:
    ratings = labels.ratings
    if ratings is None:
        return
    known = ratings.rater >= 0
    columns = {"rater": ratings.rater, "axis": ratings.axis, "clip": ratings.clip}
    frame = pd.DataFrame({**columns, "score": ratings.score})[known]
    repeats = int(frame.duplicated(["rater", "axis", "clip"]).sum())
    if repeats:
        yield _problem("replicates", f"{repeats} ratings are a rater's second of the same clip")
    if frame.empty:
        return
    spread = frame.groupby(["rater", "axis"])["score"].agg(["count", "min", "max"])
    flat = spread[(spread["count"] >= MANY_RATINGS) & (spread["min"] == spread["max"])]
    if len(flat):
        rater, axis = flat.index[0]
        yield _problem(
            "constant-rater",
            f"{len(flat)} times a rater gave all clips of an axis the same score, first "
            f"{ratings.raters[int(rater)]} on {labels.axes[int(axis)].name}",
        )


def _system_problems(clips: pd.DataFrame) -> Iterable[Problem]:
    counts = defaultdict(int, clips["system"].value_counts().to_dict())
    counts.pop("", None)
    few = sorted((number, name) for name, number in counts.items() if number < FEW_CLIPS)
    if few:
        shown = ", ".join(f"{name} {number}" for number, name in few[:5])
        message = f"{len(few)} of {len(counts)} systems have fewer than {FEW_CLIPS} clips: {shown}"
        yield _problem("few-clips", message + (", ..." if len(few) > 5 else ""))


def _prompt_problems(clips: pd.DataFrame) -> Iterable[Problem]:
    without = int((clips["prompt"] == "").sum())
    if 0 < without < len(clips):
        yield _problem("no-prompt", f"{without} of {len(clips)} clips have no prompt")


def _problem(code: str, message: str) -> Problem:
    return {"code": code, "message": message}
