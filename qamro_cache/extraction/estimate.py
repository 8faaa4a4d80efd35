"""How much an extraction will have to do: from the lengths that the files' headers name."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from qamro_cache.audio.open import open_regular
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
    """Return how many windows a file has by its header; 0 where it cannot be read."""
    import soundfile

    # What is wrong with a file is found, and told, when it is decoded.
    with (
        suppress(ClipError, OSError, RuntimeError, TypeError, ValueError),
        open_regular(Path(path)) as handle,
        soundfile.SoundFile(handle, closefd=False) as sound,
    ):
        scale = policy.sample_rate / sound.samplerate if policy.rate_policy == "resample" else 1
        return len(plan_windows(round(sound.frames * scale), policy))
    return 0
