"""What makes two embeddings comparable: everything that decides their values.

The identity of a cache is the sha256 of a canonical JSON of these records. Package versions,
device and host are recorded beside it (provenance) but never compared.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from qamro_cache.errors import quoted

#: Deepest nesting of JSON that is read from a file, and most numbers in one window's feature.
MAX_DEPTH, MAX_NUMBERS = 12, 1 << 24


@dataclass(frozen=True)
class AudioPolicy:
    """How an audio file becomes fixed windows: every step before the encoder.

    Attributes:
        sample_rate: Hz that the encoder expects.
        window: samples a window, at ``sample_rate``.
        hop: samples between the starts of two windows.
        tail: ``shift`` moves the last window back so that it is full of audio; ``pad`` leaves it
            where it is and pads it.
        min_tail: a tail of fewer samples is dropped when the clip has another window.
        min_clip: a clip of fewer samples is a failure (``too-short``).
        padding: ``repeat`` tiles the audio whole times and fills with zeros (laion_clap's
            ``repeatpad``), ``zero`` fills with zeros, ``reflect`` mirrors.
        rate_policy: ``resample`` to ``sample_rate``, or ``as-is``: feed the file's samples as if
            they had that rate, as some published code does.
        resampler: library and quality, for example ``soxr-HQ`` or ``torchaudio-sinc-hann-6``.
        downmix: ``mean`` over the channels.
        int16: whether samples are clipped to [-1, 1], truncated to 16 bits and scaled back.
    """

    sample_rate: int
    window: int
    hop: int
    tail: Literal["shift", "pad"] = "shift"
    min_tail: int = 0
    min_clip: int = 1
    padding: Literal["repeat", "zero", "reflect"] = "zero"
    rate_policy: str = "resample"
    resampler: str = "soxr-HQ"
    downmix: Literal["mean"] = "mean"
    int16: bool = False


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder is and what it writes; with the stored dtype, the identity of a cache.

    Attributes:
        name: the registry's name, for example ``mel`` or ``hf:facebook/hubert-base-ls960``.
        version: changes whenever the encoder's code changes its output.
        audio: how files become windows.
        features: name -> shape of one window's feature, without the window dimension. The first
            is the one that stage 2 uses when none is named.
        text_features: name -> shape of one prompt's feature; empty without a text tower.
        checkpoint_sha256: of the weights; empty for an encoder without weights.
        tokenizer_sha256: of the vocabulary; empty without a text tower.
        text_length: tokens at which a prompt is cut; 0 without a text tower.
        precision: what the encoder computes in, for example ``float32`` or ``float16-autocast``.
        options: whatever else decides the output, by name.
    """

    name: str
    version: str
    audio: AudioPolicy
    features: Mapping[str, tuple[int, ...]]
    text_features: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    checkpoint_sha256: str = ""
    tokenizer_sha256: str = ""
    text_length: int = 0
    precision: str = "float32"
    options: Mapping[str, str] = field(default_factory=dict)


def identity_of(spec: EncoderSpec, stored_dtype: str = "float32") -> dict[str, Any]:
    """Return the identity record of a cache that ``spec`` fills: JSON types only."""
    record = asdict(spec)
    record["features"] = {name: list(shape) for name, shape in spec.features.items()}
    record["text_features"] = {name: list(shape) for name, shape in spec.text_features.items()}
    record["options"] = dict(spec.options)
    record["stored_dtype"] = stored_dtype
    return record


def canonical_json(record: Mapping[str, Any]) -> str:
    """Return the one JSON text of a record: sorted keys, no spaces, ASCII."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def strict_json(text: str) -> Any:
    """Parse a stranger's JSON: at most ``MAX_DEPTH`` levels, no NaN, no infinity.

    Raises:
        ValueError: it is not that.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        record = json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level = [record]
    for _ in range(MAX_DEPTH):
        items = (list(v.values()) if isinstance(v, dict) else v for v in level)
        level = [child for v in items if isinstance(v, list) for child in v]
    if level:
        raise ValueError("it is nested too deep")
    return record


def check_identity(record: Mapping[str, Any]) -> None:
    """See that a stranger's record is one that `identity_of` could have returned.

    Raises:
        ValueError: a field is missing, is not known or has another type.
    """
    blank = identity_of(EncoderSpec("", "", AudioPolicy(1, 1, 1), {}))
    for ours, theirs in ((blank, record), (blank["audio"], record.get("audio"))):
        if not isinstance(theirs, Mapping) or ours.keys() != theirs.keys():
            raise ValueError("the identity has other fields than this format's")
        for name, value in ours.items():
            if type(theirs[name]) is not type(value):
                raise ValueError(f"the identity's {name} is of another type")
    if not all(isinstance(value, str) for value in record["options"].values()):
        raise ValueError("an option of the identity is no text")
    for which in ("features", "text_features"):
        for name, shape in record[which].items():
            sizes = shape if isinstance(shape, list) else [None]
            if not all(type(size) is int and size > 0 for size in sizes):
                raise ValueError(f"the shape of {name!r} in the identity is none")
            if math.prod(sizes) > MAX_NUMBERS:
                raise ValueError(f"feature {name!r} has more than {MAX_NUMBERS} numbers")


def identity_sha256(record: Mapping[str, Any]) -> str:
    """Return the hex sha256 of a record's canonical JSON."""
    return hashlib.sha256(canonical_json(record).encode("ascii")).hexdigest()


def identity_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return one line a field in which two identities differ, nested fields by dotted names."""
    lines: list[str] = []
    for key in sorted(set(ours) | set(theirs)):
        a, b = ours.get(key, "(absent)"), theirs.get(key, "(absent)")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += [f"{key}.{line}" for line in identity_differences(a, b)]
        elif a != b:
            lines.append(f"{key}: {quoted(a)} here, {quoted(b)} there")
    return lines
