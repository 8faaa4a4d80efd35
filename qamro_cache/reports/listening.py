"""A look at the sound of a set's files, before anything is computed from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qamro_cache.audio.open import open_regular, opened_parts
from qamro_cache.audio.windows import Samples
from qamro_cache.datasets.headers import MOST
from qamro_cache.errors import ClipError
from qamro_cache.evaluation.judged import Floats

#: Seconds of each file that are listened to.
_SECONDS = 30.0

#: The level of silence, in dB of full scale: -120 and below are alike.
_FLOOR = 1e-6


class Heard(NamedTuple):
    """What was heard of C files, NaN where a file was not heard.

    Attributes:
        seconds: [C] length, as the file promises it.
        level: [C] root mean square in dB of full scale, of all channels, over the first half
            minute.
        peak: [C] largest sample in dB of full scale, likewise.
        rate: [C] sample rate in Hz.
        channels: [C].
    """

    seconds: Floats
    level: Floats
    peak: Floats
    rate: Floats
    channels: Floats


def listen(paths: Sequence[str]) -> Heard:
    """Listen to the beginnings of files; of more than `MOST` to a random sample."""
    heard = Heard(*(np.full(len(paths), np.nan) for _ in Heard._fields))
    rows = np.arange(len(paths))
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST, replace=False))
    for row in rows.tolist():
        try:
            samples, known = _beginning(Path(paths[row]))
        except (ClipError, OSError, RuntimeError, ValueError):
            continue
        if not samples.size or not np.isfinite(samples).all():
            continue
        heard.seconds[row], heard.rate[row], heard.channels[row] = known
        heard.level[row] = _decibels(float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))))
        heard.peak[row] = _decibels(float(np.abs(samples).max()))
    return heard


def _beginning(path: Path) -> tuple[Samples, tuple[float, int, int]]:
    """Return the first samples [frames, channels] of a file; its seconds, rate and channels."""
    samples: Samples = np.zeros((0, 0), np.float32)
    frames, rate, channels = 0, 1, 0
    with open_regular(path) as handle:
        for part, file in opened_parts(handle, path):
            frames += file.frames if part.frames is None else part.frames
            rate, channels = file.samplerate, file.channels
            if not samples.size:
                samples = file.read(int(_SECONDS * rate), "float32", always_2d=True)
    return samples, (frames / rate, rate, channels)


def _decibels(value: float) -> float:
    return 20 * float(np.log10(max(value, _FLOOR)))
