"""Format 1: which arrays a cache file has, and how tables and labels become arrays and back.

    /clips          one row a clip: clip_id, path, status, reason, audio_sha256, duration, ...
    /windows        offsets [C+1], weight [W], start [W]
    /features       NAME [W, ...]
    /prompts        text [P], clip [C] (-1: the clip has no prompt)
    /text_features  NAME [P, ...]
    /labels         system, group, split; axes, low, high; mean, count, stderr [C, A];
                    ratings (clip, axis, rater, score, raters), where single ratings are known
    /checksums      the xxh3-128 of the bytes of each array, one line each, as text

The root's attributes are format, format_version, dataset, synthetic, identity (JSON),
identity_sha256 and provenance (JSON). Text is UTF-8 of fixed length; a column of few different
values is an int32 code beside ``NAME_names``.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache.cache.container import Blocks, Container, damaged, parse_json, whole
from qamro_cache.cache.content import (
    NUMBER_COLUMNS,
    Array,
    CacheContent,
    Header,
    prompt_index,
)
from qamro_cache.datasets.records import Labels
from qamro_cache.errors import QamroError
from qamro_cache.identity import FORMAT_VERSION, canonical_json, identity_sha256

PLAIN = ("clip_id", "path", "audio_sha256")
CODED = ("status", "reason")
LABEL_COLUMNS = ("system", "group", "split")
RATINGS: dict[str, np.dtype[Any]] = {
    "clip": np.dtype("<i4"),
    "axis": np.dtype("<i2"),
    "rater": np.dtype("<i4"),
    "score": np.dtype("<f8"),
}


def attributes_of(header: Header) -> dict[str, Any]:
    """Return the root attributes of a header."""
    return {
        "format_version": FORMAT_VERSION,
        "dataset": header.dataset,
        "synthetic": bool(header.synthetic),
        # In the order of the encoder's own record: its first feature is the default one.
        "identity": json.dumps(header.identity),
        "identity_sha256": identity_sha256(header.identity),
        "provenance": canonical_json(header.provenance),
    }


def header_of(container: Container) -> Header:
    """Read and check the root attributes of a file."""
    path, found = container.path, container.attributes
    version = found.get("format_version")
    if version != FORMAT_VERSION:
        raise damaged(path, f"cache format {version!r}, this program reads {FORMAT_VERSION}")
    identity = parse_json(path, "identity", found.get("identity"))
    provenance = parse_json(path, "provenance", found.get("provenance"))
    header = Header(identity, found.get("dataset"), found.get("synthetic"), provenance)  # type: ignore[arg-type]
    if attributes_of(header) != found:
        raise damaged(path, "its description contradicts itself")
    return header


def arrays_of(content: CacheContent) -> dict[str, Blocks]:
    """Return all arrays of a cache that is in memory."""
    arrays = {name: whole(array) for name, array in _small_arrays(content).items()}
    for which, group in (
        ("features", content.features),
        ("text_features", content.text_features),
    ):
        arrays |= {f"{which}/{name}": whole(array) for name, array in group.items()}
    return arrays


def _small_arrays(content: CacheContent) -> dict[str, Array]:
    clips = content.clips
    arrays: dict[str, Array] = {}
    for name in PLAIN:
        arrays[f"clips/{name}"] = encode_text(clips[name])
    for name in CODED:
        arrays |= _encode_column(f"clips/{name}", clips[name])
    for name, dtype in NUMBER_COLUMNS.items():
        arrays[f"clips/{name}"] = clips[name].to_numpy(dtype)
    arrays["windows/offsets"] = content.offsets
    arrays["windows/weight"] = content.weights
    arrays["windows/start"] = content.starts
    arrays["prompts/text"] = encode_text(content.prompts)
    arrays["prompts/clip"] = prompt_index(content.prompts, clips["prompt"].tolist())
    return arrays | label_arrays(clips, content.labels)


def label_arrays(clips: pd.DataFrame, labels: Labels) -> dict[str, Array]:
    """Return the arrays of the group ``labels``, which can be replaced on its own."""
    arrays: dict[str, Array] = {}
    for name in LABEL_COLUMNS:
        arrays |= _encode_column(f"labels/{name}", clips[name])
    arrays["labels/axes"] = encode_text([axis.name for axis in labels.axes])
    arrays["labels/low"] = np.array([axis.low for axis in labels.axes], np.float64)
    arrays["labels/high"] = np.array([axis.high for axis in labels.axes], np.float64)
    arrays["labels/mean"] = labels.mean.astype(np.float64)
    arrays["labels/count"] = labels.count.astype(np.int32)
    arrays["labels/stderr"] = labels.stderr.astype(np.float64)
    if labels.ratings is not None:
        for name, dtype in RATINGS.items():
            arrays[f"labels/ratings/{name}"] = getattr(labels.ratings, name).astype(dtype)
        arrays["labels/ratings/raters"] = encode_text(labels.ratings.raters)
    return arrays


def encode_text(values: Sequence[str] | pd.Series) -> Array:
    """Return UTF-8 bytes of fixed length; file names that are not UTF-8 keep their bytes."""
    encoded = [str(value).encode("utf-8", "surrogateescape") for value in values]
    if any(b"\0" in value for value in encoded):
        raise QamroError("a name holds a NUL character, which cannot be stored")
    return np.array(encoded, f"S{max(map(len, encoded), default=0) or 1}")


def decode_text(values: Array) -> list[str]:
    """Return the strings of fixed-length UTF-8 bytes."""
    return [value.decode("utf-8", "surrogateescape") for value in values.tolist()]


def _encode_column(name: str, values: pd.Series) -> dict[str, Array]:
    names = list(dict.fromkeys(values.tolist()))
    place = {value: index for index, value in enumerate(names)}
    codes = np.array([place[value] for value in values.tolist()], np.int32)
    return {name: codes, f"{name}_names": encode_text(names)}
