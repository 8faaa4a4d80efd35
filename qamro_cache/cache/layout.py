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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.cache.container import Blocks, Container, parse_json, whole
from qamro_cache.cache.content import (
    NUMBER_COLUMNS,
    Array,
    CacheContent,
    Header,
    check_content,
    check_feature_shapes,
    clip_table,
    prompt_index,
)
from qamro_cache.datasets.records import Axis, Labels, Ratings
from qamro_cache.errors import QamroError
from qamro_cache.identity import FORMAT_VERSION, canonical_json, identity_sha256

_PLAIN = ("clip_id", "path", "audio_sha256")
_CODED = ("status", "reason")
_LABEL_COLUMNS = ("system", "group", "split")
_RATINGS: dict[str, np.dtype[Any]] = {
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
        raise QamroError(
            f"{path} has format {version!r}; this program reads format {FORMAT_VERSION}"
        )
    identity = parse_json(path, "identity", found.get("identity"))
    provenance = parse_json(path, "provenance", found.get("provenance"))
    header = Header(identity, found.get("dataset"), found.get("synthetic"), provenance)  # type: ignore[arg-type]
    if attributes_of(header) != found:
        raise QamroError(f"{path}: its description contradicts itself; the file is damaged")
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
    for name in _PLAIN:
        arrays[f"clips/{name}"] = encode_text(clips[name])
    for name in _CODED:
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
    for name in _LABEL_COLUMNS:
        arrays |= _encode_column(f"labels/{name}", clips[name])
    arrays["labels/axes"] = encode_text([axis.name for axis in labels.axes])
    arrays["labels/low"] = np.array([axis.low for axis in labels.axes], np.float64)
    arrays["labels/high"] = np.array([axis.high for axis in labels.axes], np.float64)
    arrays["labels/mean"] = labels.mean.astype(np.float64)
    arrays["labels/count"] = labels.count.astype(np.int32)
    arrays["labels/stderr"] = labels.stderr.astype(np.float64)
    if labels.ratings is not None:
        for name, dtype in _RATINGS.items():
            arrays[f"labels/ratings/{name}"] = getattr(labels.ratings, name).astype(dtype)
        arrays["labels/ratings/raters"] = encode_text(labels.ratings.raters)
    return arrays


def content_of(container: Container) -> CacheContent:
    """Read and check everything but the features, whose arrays stay empty dictionaries.

    Raises:
        QamroError: a part is missing, damaged, or does not fit the others.
    """
    path = container.path
    try:
        return _content_of(container)
    except QamroError as error:
        message = str(error)
        raise QamroError(message if str(path) in message else f"{path}: {message}") from error
    except KeyError as error:
        raise QamroError(f"{path} has no /{error.args[0]}; it is not a whole cache") from error
    except (ValueError, TypeError, OverflowError, IndexError) as error:
        raise QamroError(f"{path} is damaged ({error})") from error


def _content_of(container: Container) -> CacheContent:
    header = header_of(container)
    small = {
        name: container.load(name)
        for name in container.extents
        if not name.startswith(("features/", "text_features/"))
    }
    size = len(_array(small, "clips/clip_id", "S", 1))
    prompts = decode_text(_array(small, "prompts/text", "S", 1))
    clip_prompts = _array(small, "prompts/clip", "i", 1, (size,))
    if ((clip_prompts < -1) | (clip_prompts >= len(prompts))).any():
        raise QamroError("a clip names a prompt that is not there")
    columns: dict[str, Any] = {
        name: decode_text(_array(small, f"clips/{name}", "S", 1, (size,))) for name in _PLAIN
    }
    for name in _CODED:
        columns[name] = _decode_column(small, f"clips/{name}", size)
    for name in _LABEL_COLUMNS:
        columns[name] = _decode_column(small, f"labels/{name}", size)
    for name, dtype in NUMBER_COLUMNS.items():
        columns[name] = _array(small, f"clips/{name}", dtype.kind, 1, (size,))
    columns["prompt"] = np.array([*prompts, ""], object)[clip_prompts]
    content = CacheContent(
        clip_table(pd.DataFrame(columns)),
        _labels_of(small, size),
        _array(small, "windows/offsets", "i", 1, (size + 1,)),
        _array(small, "windows/weight", "f", 1),
        _array(small, "windows/start", "i", 1),
        {},
        tuple(prompts),
    )
    rows = {"features": len(content.weights), "text_features": len(prompts)}
    for which, count in rows.items():
        shapes = {
            name.removeprefix(f"{which}/"): (extent.dtype, extent.shape)
            for name, extent in container.extents.items()
            if name.startswith(f"{which}/")
        }
        check_feature_shapes(which, shapes, header, count)
    bare = Header({**header.identity, "features": {}, "text_features": {}})
    check_content(content, bare)
    expected = set(_small_arrays(content))
    if expected != set(small):
        odd = sorted(expected ^ set(small))[0]
        raise QamroError(f"/{odd} is missing or does not belong there")
    return content


def _labels_of(small: Mapping[str, Array], size: int) -> Labels:
    names = decode_text(_array(small, "labels/axes", "S", 1))
    shape = (size, len(names))
    low = _array(small, "labels/low", "f", 1, (len(names),))
    high = _array(small, "labels/high", "f", 1, (len(names),))
    ratings = None
    if "labels/ratings/clip" in small:
        parts = {
            name: _array(small, f"labels/ratings/{name}", dtype.kind, 1)
            for name, dtype in _RATINGS.items()
        }
        raters = decode_text(_array(small, "labels/ratings/raters", "S", 1))
        ratings = Ratings(**parts, raters=tuple(raters))
    return Labels(
        tuple(Axis(name, float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)),
        _array(small, "labels/mean", "f", 2, shape),
        _array(small, "labels/count", "i", 2, shape),
        _array(small, "labels/stderr", "f", 2, shape),
        ratings,
    )


def _array(
    small: Mapping[str, Array],
    name: str,
    kind: str,
    ndim: int,
    shape: tuple[int, ...] | None = None,
) -> Array:
    array = small[name]
    if array.dtype.kind != kind or array.ndim != ndim or shape not in (None, array.shape):
        raise QamroError(f"/{name} is {array.dtype} {array.shape}, which does not fit the rest")
    return array


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


def _decode_column(small: Mapping[str, Array], name: str, size: int) -> npt.NDArray[np.object_]:
    codes = _array(small, name, "i", 1, (size,))
    names = decode_text(_array(small, f"{name}_names", "S", 1))
    if size and (codes.min() < 0 or codes.max() >= len(names)):
        raise QamroError(f"/{name} names a value that is not there")
    return np.array(names, object)[codes]
