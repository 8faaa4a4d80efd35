"""Format 2: which arrays a cache file has, and how tables and labels become arrays and back.

docs/cache.md is the format's page. Text is UTF-8 of fixed length; a column of few different values
is an int32 code beside ``NAME_names``.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache.cache.container import Blocks, Container, damaged, whole
from qamro_cache.cache.content import (
    NUMBER_COLUMNS,
    Array,
    CacheContent,
    Header,
    no_fingerprints,
    prompt_index,
)
from qamro_cache.cache.index import FORMAT_VERSION, MAX_TEXT, Extent
from qamro_cache.datasets.records import Labels
from qamro_cache.errors import QamroError, words_of
from qamro_cache.identity import canonical_json, check_identity, identity_sha256, strict_json

FORMAT = "qamro-cache"
PLAIN = ("clip_id", "path", "audio_sha256", "samples_sha256")
CODED = ("status", "reason")
LABEL_COLUMNS = ("system", "group", "split", "reference", "source")
RATINGS: dict[str, np.dtype[Any]] = {
    "clip": np.dtype("<i4"),
    "axis": np.dtype("<i2"),
    "rater": np.dtype("<i4"),
    "score": np.dtype("<f8"),
}


#: Every array but the features, with its type (S: text) and its shape in C clips, W windows,
#: P prompts, A axes, F bytes of fingerprints; * is any number.
ARRAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{f"clips/{name}": ("S", ("C",)) for name in PLAIN},
    **{f"clips/{name}": (dtype.str, ("C",)) for name, dtype in NUMBER_COLUMNS.items()},
    **{f"clips/{name}": ("<i4", ("C",)) for name in CODED},
    **{f"clips/{name}_names": ("S", ("*",)) for name in CODED},
    "windows/offsets": ("<i8", ("C+1",)),
    "windows/weight": ("<f4", ("W",)),
    "windows/start": ("<i8", ("W",)),
    "prompts/text": ("S", ("P",)),
    "prompts/clip": ("<i8", ("C",)),
    "fingerprints/offsets": ("<i8", ("C+1",)),
    "fingerprints/values": ("|u1", ("F",)),
    **{f"labels/{name}": ("<i4", ("C",)) for name in LABEL_COLUMNS},
    **{f"labels/{name}_names": ("S", ("*",)) for name in LABEL_COLUMNS},
    "labels/axes": ("S", ("A",)),
    "labels/low": ("<f8", ("A",)),
    "labels/high": ("<f8", ("A",)),
    "labels/guessed": ("|u1", ("A",)),
    "labels/mean": ("<f8", ("C", "A")),
    "labels/count": ("<i4", ("C", "A")),
    "labels/stderr": ("<f8", ("C", "A")),
}
#: Where single ratings are known: R of them.
RATING_ARRAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{f"labels/ratings/{name}": (dtype.str, ("R",)) for name, dtype in RATINGS.items()},
    "labels/ratings/raters": ("S", ("*",)),
}


def check_arrays(extents: Mapping[str, Extent]) -> None:
    """See that a file has the arrays of the format and no others, and that their shapes agree.

    Features are left to the identity, which names them.
    """
    there = {n for n in extents if not n.startswith(("features/", "text_features/"))}
    expected = ARRAYS | (RATING_ARRAYS if there & RATING_ARRAYS.keys() else {})
    if there != expected.keys():
        raise QamroError(f"/{min(there ^ expected.keys())} is missing or does not belong there")
    sizes: dict[str, int] = {}
    for name, (kind, dimensions) in expected.items():
        dtype, shape = extents[name].dtype, extents[name].shape
        fits = dtype.kind == "S" if kind == "S" else dtype.str == kind
        fits = fits and len(shape) == len(dimensions)
        for letter, length in zip(dimensions, shape, strict=False):
            length -= letter.endswith("+1")
            fits = fits and (letter == "*" or sizes.setdefault(letter[0], length) == length)
        if not fits:
            raise QamroError(f"/{name} is {dtype} {shape}, which does not fit the rest")


def attributes_of(header: Header) -> dict[str, Any]:
    """Return a file's attributes of a header."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "dataset": header.dataset,
        "synthetic": bool(header.synthetic),
        # In the order of the encoder's own record: its first feature is the default one.
        "identity": json.dumps(header.identity),
        "identity_sha256": identity_sha256(header.identity),
        "provenance": canonical_json(header.provenance),
        "licenses": canonical_json(header.licenses),
    }


def header_of(container: Container) -> Header:
    """Read and check a file's attributes."""
    found = container.attributes
    records = []
    try:
        for name in ("identity", "provenance", "licenses"):
            record = strict_json(str(found.get(name)))
            if not isinstance(record, dict):
                raise ValueError(f"its {name} is no record")
            records.append(record)
        identity, provenance, licenses = records
        check_identity(identity)
        if not all(isinstance(value, str) for value in licenses.values()):
            raise ValueError("a license is no text")
        header = Header(identity, str(found.get("dataset")), found.get("synthetic") is True,
                        provenance, licenses)  # fmt: skip
        if attributes_of(header) != found:
            raise ValueError("its description contradicts itself")
    except ValueError as error:
        raise damaged(container.path, words_of(error)) from error
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
    fingerprints = content.fingerprints or no_fingerprints(len(clips))
    arrays["fingerprints/offsets"] = fingerprints.offsets
    arrays["fingerprints/values"] = fingerprints.values
    return arrays | label_arrays(clips, content.labels)


def label_arrays(clips: pd.DataFrame, labels: Labels) -> dict[str, Array]:
    """Return the arrays of the group ``labels``, which can be replaced on its own."""
    arrays: dict[str, Array] = {}
    for name in LABEL_COLUMNS:
        arrays |= _encode_column(f"labels/{name}", clips[name])
    arrays["labels/axes"] = encode_text([axis.name for axis in labels.axes])
    arrays["labels/low"] = np.array([axis.low for axis in labels.axes], np.float64)
    arrays["labels/high"] = np.array([axis.high for axis in labels.axes], np.float64)
    arrays["labels/guessed"] = np.array([axis.guessed for axis in labels.axes], np.uint8)
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
    longest = max(encoded, key=len, default=b"")
    if len(longest) > MAX_TEXT:
        begin = longest[:60].decode("utf-8", "replace")
        raise QamroError(
            f"the text {begin!r} ... has {len(longest)} bytes; a cache holds at most {MAX_TEXT}"
        )
    return np.array(encoded, f"S{len(longest) or 1}")


def decode_text(values: Array) -> list[str]:
    """Return the strings of fixed-length UTF-8 bytes."""
    return [value.decode("utf-8", "surrogateescape") for value in values.tolist()]


def _encode_column(name: str, values: pd.Series) -> dict[str, Array]:
    names = list(dict.fromkeys(values.tolist()))
    place = {value: index for index, value in enumerate(names)}
    codes = np.array([place[value] for value in values.tolist()], np.int32)
    return {name: codes, f"{name}_names": encode_text(names)}
