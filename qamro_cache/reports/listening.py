"""A look at the sound of a set's files, before anything is computed from it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qamro_cache.datasets.headers import MOST
from qamro_cache.evaluation.judged import Floats

#: Seconds of each file that are listened to.
_SECONDS = 30.0

#: The level of silence, in dB of full scale: -120 and below are alike.
_FLOOR = 1e-6


class Heard(NamedTuple):
    """What was heard of C files, NaN where a file was not heard.

    Attributes:
        seconds: [C] length, by the file's header.
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
    import soundfile

    heard = Heard(*(np.full(len(paths), np.nan) for _ in Heard._fields))
    rows = np.arange(len(paths))
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST, replace=False))
    for row in rows.tolist():
        try:
            with soundfile.SoundFile(paths[row]) as file:
                rate = file.samplerate
                samples = file.read(int(_SECONDS * rate), "float32", always_2d=True)
                known = (file.frames / rate, rate, file.channels)
        except (OSError, RuntimeError, ValueError):
            continue
        if not samples.size or not np.isfinite(samples).all():
            continue
        heard.seconds[row], heard.rate[row], heard.channels[row] = known
        heard.level[row] = _decibels(float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))))
        heard.peak[row] = _decibels(float(np.abs(samples).max()))
    return heard


def _decibels(value: float) -> float:
    return 20 * float(np.log10(max(value, _FLOOR)))
