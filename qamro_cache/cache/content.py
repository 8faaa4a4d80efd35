"""What a cache holds, in memory: clips, windows, features, prompts and labels."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.records import Labels, concatenate_labels
from qamro_cache.errors import QamroError

Array = npt.NDArray[Any]

#: Text columns of ``.clips``; numbers follow in ``NUMBER_COLUMNS``.
TEXT_COLUMNS = (
    "clip_id",
    "path",
    "system",
    "group",
    "split",
    "prompt",
    "status",
    "reason",
    "audio_sha256",
)
#: Seconds of audio as decoded; size and time of the audio file when it was read.
NUMBER_COLUMNS: dict[str, np.dtype[Any]] = {
    "duration": np.dtype("<f8"),
    "audio_bytes": np.dtype("<i8"),
    "audio_mtime_ns": np.dtype("<i8"),
}

_DEFAULTS: dict[str, Any] = {
    "clip_id": "",
    "path": "",
    "system": "",
    "group": "",
    "split": "",
    "prompt": "",
    "status": "ok",
    "reason": "",
    "audio_sha256": "",
    "duration": np.nan,
    "audio_bytes": -1,
    "audio_mtime_ns": -1,
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


@dataclass(frozen=True)
class Header:
    """What is true of a whole cache.

    Attributes:
        identity: what made the features; see ``qamro_cache.identity``.
        dataset: name of the clips' dataset.
        synthetic: the clips or ratings were made by a program.
        provenance: versions, device, host, times: recorded, never compared.
    """

    identity: Mapping[str, Any]
    dataset: str = ""
    synthetic: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CacheContent:
    """C clips, W windows, P prompts.

    Attributes:
        clips: one row a clip, columns ``TEXT_COLUMNS`` and ``NUMBER_COLUMNS``; ``status`` is
            ``ok`` or a ``ClipError`` code, and a clip that is not ok has no window.
        labels: of the same rows.
        offsets: [C+1] int64; clip c has the windows ``offsets[c]`` to ``offsets[c+1]``.
        weights: [W] float32, the fraction of a window that is audio, in (0, 1].
        starts: [W] int64, the window's first sample at the encoder's rate.
        features: name -> [W, ...].
        prompts: the P different prompts of the clips, in the order of their first clip.
        text_features: name -> [P, ...].
    """

    clips: pd.DataFrame
    labels: Labels
    offsets: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]
    features: Mapping[str, Array]
    prompts: tuple[str, ...] = ()
    text_features: Mapping[str, Array] = field(default_factory=dict)


def clip_table(clips: pd.DataFrame) -> pd.DataFrame:
    """Return a clip table with every column of a cache, in order; missing ones by default."""
    columns = {}
    for name, default in _DEFAULTS.items():
        given = clips[name].to_numpy() if name in clips else np.full(len(clips), default)
        columns[name] = given.astype(NUMBER_COLUMNS.get(name, object))
    return pd.DataFrame(columns)


def no_labels(num_clips: int) -> Labels:
    """Return labels without any axis."""
    none = np.zeros((num_clips, 0))
    return Labels((), none, none.astype(np.int32), none.copy())


def unique_prompts(prompts: Sequence[str]) -> tuple[str, ...]:
    """Return the different prompts, in order of first use, less the empty one."""
    return tuple(dict.fromkeys(prompt for prompt in prompts if prompt))


def prompt_index(prompts: Sequence[str], of: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return for each prompt of ``of`` its place in ``prompts``; -1 for the empty prompt."""
    place = {prompt: index for index, prompt in enumerate(prompts)}
    return np.array([place[prompt] if prompt else -1 for prompt in of], np.int64)


def check_content(content: CacheContent, header: Header) -> None:
    """Raise a QamroError if the parts do not fit each other."""
    clips = content.clips
    size, windows = len(clips), len(content.weights)
    ok = (clips["status"] == "ok").to_numpy()
    check_windows(ok, content.offsets, content.weights, content.starts)
    if not clips["clip_id"].is_unique or (clips["clip_id"] == "").any():
        raise QamroError("clip ids are not all different, or one is empty")
    if set(content.prompts) != set(clips["prompt"].unique()) - {""}:
        raise QamroError("the prompts are not those of the clips")
    if len(set(content.prompts)) != len(content.prompts):
        raise QamroError("a prompt is listed twice")
    _check_features("features", content.features, header, windows)
    _check_features("text_features", content.text_features, header, len(content.prompts))
    check_labels(content.labels, size)


def check_windows(
    ok: npt.NDArray[np.bool_],
    offsets: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
    starts: npt.NDArray[np.int64],
) -> None:
    """Raise a QamroError unless the windows fit clips of which ``ok`` [C] are usable."""
    size, windows = len(ok), len(weights)
    if offsets.shape != (size + 1,) or offsets[0] != 0 or offsets[-1] != windows:
        raise QamroError(f"window offsets do not span {size} clips and {windows} windows")
    counts = np.diff(offsets)
    if (counts < 0).any() or (counts[ok] == 0).any() or (counts[~ok] != 0).any():
        raise QamroError("a clip without windows is called ok, or one with windows is not")
    if starts.shape != (windows,) or (starts < 0).any():
        raise QamroError("window starts do not fit the windows")
    if not ((weights > 0) & (weights <= 1)).all():
        raise QamroError("a window's weight is not in (0, 1]")


def _check_features(which: str, features: Mapping[str, Array], header: Header, rows: int) -> None:
    check_feature_shapes(
        which, {name: (value.dtype, value.shape) for name, value in features.items()}, header, rows
    )


def check_feature_shapes(
    which: str,
    features: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    header: Header,
    rows: int,
) -> None:
    """See that arrays are those which the identity promises, with ``rows`` rows each."""
    promised = header.identity.get(which)
    if not isinstance(promised, Mapping) or set(promised) != set(features):
        raise QamroError(f"the {which} are {sorted(features)}; the identity names others")
    for name, (dtype, shape) in features.items():
        if not _NAME.fullmatch(name):
            raise QamroError(f"{name!r} cannot name a feature: use letters, digits and _ . + -")
        if str(dtype) != header.identity.get("stored_dtype"):
            raise QamroError(f"feature {name} is {dtype}, which is not what the identity says")
        if not isinstance(promised[name], Sequence) or shape != (rows, *promised[name]):
            raise QamroError(f"feature {name} has the shape {shape}, not that of the identity")


def check_labels(labels: Labels, num_clips: int) -> None:
    """Raise a QamroError if labels do not fit the number of clips or themselves."""
    shape = (num_clips, len(labels.axes))
    if any(value.shape != shape for value in (labels.mean, labels.count, labels.stderr)):
        raise QamroError(f"labels have the shape {labels.mean.shape}, not {shape}")
    if len({axis.name for axis in labels.axes}) != len(labels.axes):
        raise QamroError("two axes have one name")
    if not all(axis.low < axis.high for axis in labels.axes):
        raise QamroError("an axis' lowest rating is not below its highest")
    ratings = labels.ratings
    if ratings is not None:
        sizes = {len(value) for value in (ratings.clip, ratings.axis, ratings.rater, ratings.score)}
        limits = (
            (ratings.clip, 0, num_clips),
            (ratings.axis, 0, len(labels.axes)),
            (ratings.rater, -1, len(ratings.raters)),
        )
        if len(sizes) != 1 or any(
            len(value) and (value.min() < low or value.max() >= high) for value, low, high in limits
        ):
            raise QamroError("a rating names a clip, axis or rater that is not there")


def concatenate(contents: Sequence[CacheContent]) -> CacheContent:
    """Put caches of one identity after one another; a prompt's first features are kept."""
    starts = np.cumsum([0] + [len(content.weights) for content in contents])
    prompts = unique_prompts([prompt for content in contents for prompt in content.prompts])
    first = contents[0]
    text = {
        name: pick_text(prompts, [(c.prompts, c.text_features[name]) for c in contents])
        for name in first.text_features
    }
    return CacheContent(
        pd.concat([content.clips for content in contents], ignore_index=True),
        concatenate_labels([content.labels for content in contents]),
        np.concatenate(
            [[0], *(c.offsets[1:] + start for c, start in zip(contents, starts, strict=False))]
        ).astype(np.int64),
        np.concatenate([content.weights for content in contents]),
        np.concatenate([content.starts for content in contents]),
        {
            name: np.concatenate([content.features[name] for content in contents])
            for name in first.features
        },
        prompts,
        text,
    )


def pick_text(prompts: Sequence[str], sources: Sequence[tuple[Sequence[str], Array]]) -> Array:
    """Gather one text feature: row p is that of ``prompts[p]`` in the first source that has it."""
    row: dict[str, tuple[int, int]] = {}
    for source, (theirs, values) in enumerate(sources):
        for index, prompt in enumerate(theirs):
            row.setdefault(prompt, (source, index))
        shape, dtype = values.shape[1:], values.dtype
    out = np.empty((len(prompts), *shape), dtype)
    for index, prompt in enumerate(prompts):
        source, theirs_index = row[prompt]
        out[index] = sources[source][1][theirs_index]
    return out
