"""How much an extraction will have to do: from the lengths that the files promise."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from qamro_cache.audio.open import open_regular, opened_parts
from qamro_cache.audio.windows import plan_windows
from qamro_cache.errors import ClipError
from qamro_cache.extraction.units import Unit
from qamro_cache.identity import AudioPolicy, EncoderSpec

#: Files whose headers are read; of more, so many in even steps.
MOST = 200


def feature_bytes(units: Sequence[Unit], spec: EncoderSpec, dtype: str) -> float:
    """Return about how many bytes the features of all windows of these units are.

    Args:
        units: to be encoded.
        spec: of the encoder.
        dtype: that features are stored in.
    """
    paths = [clip.path for unit in units for clip in unit]
    step = max(1, len(paths) // MOST)
    looked = paths[::step]
    windows = sum(promised_windows(path, spec.audio) for path in looked) / max(1, len(looked))
    numbers = sum(float(np.prod(shape)) for shape in spec.features.values())
    return len(paths) * windows * numbers * np.dtype(dtype).itemsize


def promised_windows(path: str, policy: AudioPolicy) -> int:
    """Return how many windows a file promises; 0 where it cannot be read."""
    frames, scale = 0, 1.0
    # What is wrong with a file is found, and told, when it is decoded.
    with (
        suppress(ClipError, OSError, RuntimeError, TypeError, ValueError),
        open_regular(Path(path)) as handle,
    ):
        # By its parts: a header may name no length (a FLAC from a pipe), or that of its first part.
        for part, sound in opened_parts(handle, Path(path)):
            frames += sound.frames if part.frames is None else part.frames
            if policy.rate_policy == "resample":
                scale = policy.sample_rate / sound.samplerate
        return len(plan_windows(round(frames * scale), policy))
    return 0
