"""A finished unit as rows of a cache: features, what was measured of its clips, its prompts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from qamro_cache.audio.fingerprint import NO_FINGERPRINT
from qamro_cache.cache.content import (
    Array,
    CacheContent,
    Fingerprints,
    clip_table,
    no_labels,
    offsets_of,
    unique_prompts,
)
from qamro_cache.errors import ClipError, QamroError
from qamro_cache.extraction.decoding import Clip

if TYPE_CHECKING:
    from torch import Tensor

    from qamro_cache.encoders.protocol import Encoder


def unit_content(
    encoder: "Encoder",
    clips: Sequence[Clip],
    features: "Mapping[str, Sequence[Tensor]]",
    stored_dtype: str,
) -> CacheContent:
    """Put together what one unit has come to.

    Args:
        encoder: that made the features; it encodes the prompts here.
        clips: of the unit, each with its windows and whether it has failed.
        features: name -> parts [B, ...], in the order of the windows.
        stored_dtype: ``float32`` or ``float16``.
    """
    spec = encoder.spec
    counts = np.array([len(clip.starts) for clip in clips], np.int64)
    offsets = offsets_of(counts)
    arrays: dict[str, Array] = {
        name: np.concatenate(
            [np.zeros((0, *spec.features[name]), stored_dtype)] + [part.numpy() for part in parts]
        )
        for name, parts in features.items()
    }
    for index, clip in enumerate(clips):
        span = slice(offsets[index], offsets[index + 1])
        for name, values in arrays.items():
            if clip.error is None and not np.isfinite(values[span]).all():
                clip.error = ClipError(
                    "failed", f"the encoder gave NaN or infinite values in {name}"
                )
    good = np.array([clip.error is None for clip in clips])
    keep = np.repeat(good, counts)
    prompts = unique_prompts([clip.job.prompt for clip in clips])
    return CacheContent(
        _clip_rows(clips),
        no_labels(len(clips)),
        offsets_of(np.where(good, counts, 0)),
        np.array([w for clip in clips for w in clip.weights], np.float32)[keep],
        np.array([s for clip in clips for s in clip.starts], np.int64)[keep],
        {name: values[keep] for name, values in arrays.items()},
        prompts,
        _encode_prompts(encoder, prompts, stored_dtype),
        _fingerprints(clips),
    )


def _fingerprints(clips: Sequence[Clip]) -> Fingerprints:
    """Join the fingerprints of the clips that can be used."""
    parts = [NO_FINGERPRINT if clip.error else clip.decoder.fingerprint for clip in clips]
    counts = np.array([len(part) for part in parts], np.int64)
    return Fingerprints(np.concatenate([NO_FINGERPRINT, *parts]), offsets_of(counts))


def _encode_prompts(
    encoder: "Encoder", prompts: Sequence[str], stored_dtype: str
) -> dict[str, Array]:
    import torch

    spec = encoder.spec
    empty = {
        name: np.zeros((0, *shape), stored_dtype) for name, shape in spec.text_features.items()
    }
    if not prompts or not empty:
        return empty
    with torch.inference_mode():
        outputs = encoder.encode_text(prompts)
    arrays = {
        name: outputs[name].detach().cpu().to(getattr(torch, stored_dtype)).numpy()
        for name in empty
    }
    for name, values in arrays.items():
        if values.shape != (len(prompts), *spec.text_features[name]):
            raise QamroError(f"encoder {spec.name} gave {values.shape} as text feature {name}")
        if not np.isfinite(values).all():
            raise QamroError(f"encoder {spec.name} gave NaN or infinite values in {name}")
    return arrays


def _clip_rows(clips: Sequence[Clip]) -> pd.DataFrame:
    return clip_table(
        pd.DataFrame(
            {
                "clip_id": [clip.job.clip_id for clip in clips],
                "path": [clip.job.path for clip in clips],
                "prompt": [clip.job.prompt for clip in clips],
                "status": [clip.error.code if clip.error else "ok" for clip in clips],
                "reason": [_one_line(clip.error.reason) if clip.error else "" for clip in clips],
                "audio_sha256": [clip.decoder.sha256 for clip in clips],
                "samples_sha256": [clip.decoder.samples_sha256 for clip in clips],
                "duration": [clip.decoder.duration for clip in clips],
                "peak": [np.nan if clip.error else clip.decoder.peak for clip in clips],
                "audio_bytes": [clip.decoder.nbytes for clip in clips],
                "audio_mtime_ns": [storable_time(clip.decoder.mtime_ns) for clip in clips],
            }
        )
    )


def storable_time(nanoseconds: int) -> int:
    """Return a file's time as the cache can hold it: a date beyond 2262 is the end of 2262."""
    return max(-(2**63), min(nanoseconds, 2**63 - 1))


def _one_line(reason: str) -> str:
    """Make a reason one line of text that can be stored, whatever a library has put into it."""
    text = " ".join(reason.replace("\0", " ").split())
    return text.encode("utf-8", "replace").decode("utf-8")[:300]
