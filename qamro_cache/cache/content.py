"""What a cache holds, in memory: clips, windows, features, prompts and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.joined import concatenate_labels
from qamro_cache.datasets.records import Labels

if TYPE_CHECKING:
    from torch import Tensor

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
    "samples_sha256",
    "reference",
    "source",
)
#: Seconds of audio as decoded; its largest absolute sample; size and time of the audio file when
#: it was read.
NUMBER_COLUMNS: dict[str, np.dtype[Any]] = {
    "duration": np.dtype("<f8"),
    "peak": np.dtype("<f4"),
    "audio_bytes": np.dtype("<i8"),
    "audio_mtime_ns": np.dtype("<i8"),
}

_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(TEXT_COLUMNS, ""),
    "status": "ok",
    **{name: np.nan if dtype.kind == "f" else -1 for name, dtype in NUMBER_COLUMNS.items()},
}


@dataclass(frozen=True)
class Header:
    """What is true of a whole cache.

    Attributes:
        identity: what made the features; see ``qamro_cache.identity``.
        dataset: name of the clips' dataset.
        synthetic: the clips or ratings were made by a program.
        provenance: versions, device, host, times: recorded, never compared.
        licenses: of the ``encoder``'s weights and of the ``data``, as far as they are known.
    """

    identity: Mapping[str, Any]
    dataset: str = ""
    synthetic: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    licenses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fingerprints:
    """What tells two files of one sound, C clips; docs/cache.md says what the bytes mean.

    Attributes:
        values: [F] uint8.
        offsets: [C+1] int64; clip c has the values ``offsets[c]`` to ``offsets[c+1]``, none where
            its fingerprint is not known.
    """

    values: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]


def no_fingerprints(num_clips: int) -> Fingerprints:
    """Return fingerprints none of which is known."""
    return Fingerprints(np.zeros(0, np.uint8), np.zeros(num_clips + 1, np.int64))


class WindowFeatures(NamedTuple):
    """One feature of all windows of all clips.

    Attributes:
        windows: [W, ...] in the stored dtype.
        offsets: [C+1] int64; clip c has the windows ``offsets[c]`` to ``offsets[c+1]``, none if
            its status is not ``ok``.
        weights: [W] float32, the fraction of each window that is audio.
    """

    windows: "Tensor"
    offsets: "Tensor"
    weights: "Tensor"


class TextFeatures(NamedTuple):
    """One feature of all prompts.

    Attributes:
        embeddings: [P, ...] in the stored dtype.
        index: [C] int64, the row of each clip's prompt; -1 for a clip without one.
    """

    embeddings: "Tensor"
    index: "Tensor"  # type: ignore[assignment]  # a tuple has a method of that name


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
        fingerprints: of the clips; None where none is known.
    """

    clips: pd.DataFrame
    labels: Labels
    offsets: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]
    features: Mapping[str, Array]
    prompts: tuple[str, ...] = ()
    text_features: Mapping[str, Array] = field(default_factory=dict)
    fingerprints: Fingerprints | None = None


def clip_table(clips: pd.DataFrame) -> pd.DataFrame:
    """Return a clip table with every column of a cache, in order; missing ones by default."""
    columns = {}
    for name, default in _DEFAULTS.items():
        given = clips[name].to_numpy() if name in clips else np.full(len(clips), default)
        columns[name] = given.astype(NUMBER_COLUMNS.get(name, object))
    return pd.DataFrame(columns)


def offsets_of(counts: Array) -> npt.NDArray[np.int64]:
    """Return where the windows (or bytes) of each clip begin and end [C+1], from their counts."""
    return np.concatenate([[0], counts]).cumsum(dtype=np.int64)


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


def concatenate(contents: Sequence[CacheContent]) -> CacheContent:
    """Put caches of one identity after one another; a prompt's first features are kept."""
    prompts = unique_prompts([prompt for content in contents for prompt in content.prompts])
    first = contents[0]
    text = {
        name: pick_text(prompts, [(c.prompts, c.text_features[name]) for c in contents])
        for name in first.text_features
    }
    return CacheContent(
        pd.concat([content.clips for content in contents], ignore_index=True),
        concatenate_labels(
            [content.labels for content in contents],
            [content.clips["source"].to_numpy(object) for content in contents],
        ),
        offsets_of(np.concatenate([np.diff(content.offsets) for content in contents])),
        np.concatenate([content.weights for content in contents]),
        np.concatenate([content.starts for content in contents]),
        {
            name: np.concatenate([content.features[name] for content in contents])
            for name in first.features
        },
        prompts,
        text,
        concatenate_fingerprints(
            [c.fingerprints or no_fingerprints(len(c.clips)) for c in contents]
        ),
    )


def concatenate_fingerprints(parts: Sequence[Fingerprints]) -> Fingerprints:
    """Join the fingerprints of several sets of clips, one after the other."""
    return Fingerprints(
        np.concatenate([part.values for part in parts]),
        offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])),
    )


def pick_text(prompts: Sequence[str], sources: Sequence[tuple[Sequence[str], Array]]) -> Array:
    """Gather one text feature: row p is that of ``prompts[p]`` in the first source that has it."""
    row: dict[str, Array] = {}
    for theirs, values in reversed(sources):
        row.update(zip(theirs, values, strict=True))
    first = sources[0][1]
    return np.array([row[p] for p in prompts], first.dtype).reshape(-1, *first.shape[1:])
