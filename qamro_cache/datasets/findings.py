"""What is wrong with a rated set, or should be known before a figure of it is believed."""

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.audio.check import oddity_message
from qamro_cache.audio.endings import AUDIO_ENDINGS
from qamro_cache.datasets.headers import Headers
from qamro_cache.datasets.overview import Mask, count_names
from qamro_cache.datasets.records import Dataset, Labels
from qamro_cache.datasets.tables import factorize
from qamro_cache.errors import few

#: A system with fewer clips than this has a noisy mean.
FEW_CLIPS = 10
#: A rater with at least this many ratings, all equal, did not listen.
MANY_RATINGS = 10

#: What people call columns of numbers that are no ratings, without case and blanks.
_NO_RATINGS = (
    *("std", "sd", "stddev", "stderr", "sem", "ci", "ci95", "var", "variance", "n", "count"),
    *("votes", "numratings", "numvotes", "duration", "length", "seconds", "samplerate", "trial"),
    *("order", "index", "row", "page", "session", "time", "timestamp", "age", "seed", "bitrate"),
)

#: ``code`` and ``message``.
Finding = dict[str, str]


def findings_of(
    dataset: Dataset,
    splits: Mapping[str, Mapping[str, Any]],
    rows_of: Mapping[str, Mask],
    sizes: npt.NDArray[np.int64],
    same_audio: npt.NDArray[np.int64] | None,
    headers: Headers | None,
) -> list[Finding]:
    """Return what should be known about a set, in the order of a person's questions.

    Args:
        dataset: the set.
        splits: what `describe_splits` says of it.
        rows_of: split -> [C] whether a clip is in it.
        sizes: [C] bytes of each file, -1 where there is none.
        same_audio: [C] a number a file, equal where the bytes are; None: not looked at.
        headers: what opening the files came to; None: not opened.
    """
    clips = dataset.clips
    return [
        *_count_findings(dataset, rows_of),
        *_overlap_findings(splits, dataset.group_kind),
        *_file_findings(clips, sizes, same_audio),
        *_header_findings(clips, headers),
        *_label_findings(dataset.labels, clips, dataset.published.steps),
        *_no_rating_findings(dataset.labels, clips),
        *_rater_findings(dataset.labels),
        *_system_findings(clips),
        *_prompt_findings(clips),
    ]


def _count_findings(dataset: Dataset, rows_of: Mapping[str, Mask]) -> Iterable[Finding]:
    published = dataset.published
    for split, number in published.clips.items():
        rows = rows_of.get(split)
        name = split or "the set"
        if rows is None:
            yield _finding("absent-split", f"{name}: no clips here, {number} published")
        elif int(rows.sum()) != number:
            yield _finding("count", f"{name}: {int(rows.sum())} clips, {number} published")
    systems = count_names(dataset.clips["system"])
    if published.systems and set(published.clips) <= set(rows_of) and systems != published.systems:
        yield _finding("count", f"{systems} systems, {published.systems} published")
    labels = dataset.labels
    if published.ratings_a_clip:
        other = np.isfinite(labels.mean) & (labels.count != published.ratings_a_clip)
        number = int(other.any(axis=1).sum())
        if number:
            message = f"{number} clips have not the published {published.ratings_a_clip} ratings"
            yield _finding("count", message)


def _overlap_findings(
    splits: Mapping[str, Mapping[str, Any]], group_kind: str
) -> Iterable[Finding]:
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
                    yield _finding(f"overlap-{what}", message + advice[what])


def _group_noun(group_kind: str) -> str:
    return f"groups ({group_kind})" if group_kind else "groups"


def _file_findings(
    clips: pd.DataFrame, sizes: npt.NDArray[np.int64], same_audio: npt.NDArray[np.int64] | None
) -> Iterable[Finding]:
    missing = np.flatnonzero(sizes < 0)
    if len(missing):
        message = f"{len(missing)} of {len(clips)} audio files are not there, the first is "
        path = Path(clips["path"].iloc[int(missing[0])])
        # Path.exists raises for a name that is too long.
        found = [
            path.stem + end
            for end in AUDIO_ENDINGS
            if path.name and os.path.exists(path.with_suffix(end))  # noqa: PTH110
        ]
        instead = f"; {found[0]} lies there, is the table's ending wrong?" if found else ""
        yield _finding("missing-audio", f"{message}{path}{instead}")
    if same_audio is None:
        return
    there = same_audio[same_audio >= 0]
    rows = np.flatnonzero(same_audio >= 0)
    repeats = rows[there != rows]
    if len(repeats):
        first = int(repeats[0])
        names = clips["clip_id"].iloc[first], clips["clip_id"].iloc[int(same_audio[first])]
        yield _finding(
            "duplicate-audio",
            f"{len(repeats)} clips have the same audio as another, the first are "
            f"{names[1]} and {names[0]}",
        )


def _header_findings(clips: pd.DataFrame, headers: Headers | None) -> Iterable[Finding]:
    if headers is None:
        return
    if headers.errors:
        yield _finding("unreadable-audio", headers.message())
    for oddity, rows in headers.odd.items():
        names = clips["clip_id"].iloc[list(rows[:3])].tolist()
        yield _finding(f"{oddity}-audio", oddity_message(oddity, len(rows), names))


def _label_findings(
    labels: Labels, clips: pd.DataFrame, steps: Mapping[str, float]
) -> Iterable[Finding]:
    for index, axis in enumerate(labels.axes):
        scores = labels.mean[:, index]
        known = np.isfinite(scores)
        if not known.any():
            yield _finding("no-labels", f"{axis.name}: no clip has a score")
            continue
        if not known.all():
            number = int((~known).sum())
            yield _finding("unlabeled", f"{axis.name}: {number} clips have no score")
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
            yield _finding("out-of-range", message + f"is {where[0]}; correct it, or the scale")
        if known.sum() > 1 and np.ptp(scores[known]) == 0:
            yield _finding(
                "constant", f"{axis.name}: all clips have the score {scores[known][0]:g}"
            )
        if axis.name in steps:
            grid = (scores[known] - axis.low) / steps[axis.name]
            off = int((np.abs(grid - np.round(grid)) > 1e-6).sum())
            if off:
                message = f"{axis.name}: {off} scores are off the published grid of "
                yield _finding("off-grid", message + f"{steps[axis.name]:g}")


def _no_rating_findings(labels: Labels, clips: pd.DataFrame) -> Iterable[Finding]:
    """Point out axes that nobody described and whose numbers follow from something else."""
    for index, axis in enumerate(labels.axes):
        scores = labels.mean[:, index]
        known = np.isfinite(scores)
        if not axis.guessed or known.sum() < 2 or np.ptp(scores[known]) == 0:
            continue
        why = _why_no_rating(axis.name, scores[known], clips[known])
        if why:
            yield _finding(
                "no-rating",
                f"{axis.name}: looks like no rating: {why}; leave it out by naming the others "
                "with --axis, or say what it is with --columns, for example "
                f"--columns {shlex.quote(f'system={axis.name}')}",
            )


def _why_no_rating(name: str, scores: npt.NDArray[np.float64], clips: pd.DataFrame) -> str:
    """Return why numbers look like no ratings of clips; empty where they do not."""
    if re.sub(r"[\W_]+", "", name.casefold()) in _NO_RATINGS:
        return "its name is not that of one"
    for column in ("system", "group"):
        of = clips[column].to_numpy(dtype=object)
        of_each = pd.Series(scores).groupby(factorize(of)[0])
        each = of_each.agg(["min", "max", "size"])
        if "" in of or len(each) < 2 or (each["size"] < 2).all():
            continue
        if (each["min"] == each["max"]).all():
            return f"it is the same for all clips of a {column}"
        if (each["size"] > 2).any() and all(_counts(part.to_numpy()) for _, part in of_each):
            return f"it counts the clips of each {column}"
    if len(scores) >= MANY_RATINGS and _counts(scores):
        return "it counts the clips"
    return ""


def _counts(scores: npt.NDArray[np.float64]) -> bool:
    ordered = np.sort(scores)
    return bool(ordered[0] in (0, 1) and (np.diff(ordered) == 1).all())


def _rater_findings(labels: Labels) -> Iterable[Finding]:
    ratings = labels.ratings
    if ratings is None:
        return
    frame = pd.DataFrame({"rater": ratings.rater, "axis": ratings.axis, "score": ratings.score})
    frame = frame[ratings.rater >= 0]
    repeats, _ = ratings.repeats()
    if repeats:
        yield _finding("replicates", f"{repeats} ratings are a rater's second of the same clip")
    if frame.empty:
        return
    given = frame.groupby(["rater", "axis"])["score"].agg(["count", "min", "max"])
    flat = given[(given["count"] >= MANY_RATINGS) & (given["min"] == given["max"])]
    if len(flat):
        rater, axis = flat.index[0]
        yield _finding(
            "constant-rater",
            f"{len(flat)} times a rater gave all clips of an axis the same score, first "
            f"{ratings.raters[int(rater)]} on {labels.axes[int(axis)].name}",
        )


def _system_findings(clips: pd.DataFrame) -> Iterable[Finding]:
    counts = defaultdict(int, clips["system"].value_counts().to_dict())
    counts.pop("", None)
    small = sorted((number, name) for name, number in counts.items() if number < FEW_CLIPS)
    if small:
        shown = few([f"{name} {number}" for number, name in small])
        message = f"{len(small)} of {len(counts)} systems have fewer than {FEW_CLIPS} clips"
        yield _finding("few-clips", f"{message}: {shown}")


def _prompt_findings(clips: pd.DataFrame) -> Iterable[Finding]:
    without = int((clips["prompt"] == "").sum())
    if 0 < without < len(clips):
        yield _finding("no-prompt", f"{without} of {len(clips)} clips have no prompt")


def _finding(code: str, message: str) -> Finding:
    return {"code": code, "message": message}
