"""A small fingerprint of a clip's sound, made while it is decoded: tells a copy from another clip.

It follows the sound and not the bytes: another codec, another sample rate or level and a trimmed
start leave it nearly as it was (`qamro_cache.audio.alike` compares). docs/cache.md has the format.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from qamro_cache.audio.windows import Samples

#: Name of what the bytes mean, and the byte that every fingerprint begins with. Whoever changes a
#: constant of this file gives both new values: fingerprints of two kinds are never compared.
FINGERPRINT, VERSION = "log-mel-1", 1
RATE = 8_000
#: Samples of a frame and between two: 64 and 20 ms, so that no start is more than 10 ms off.
FRAME, HOP = 512, 160
BANDS = 24
LOWEST, HIGHEST = 100.0, 3_800.0  # Hz
#: Frames at most: the first 8 s of a clip.
FRAMES = 400
#: A byte is a half of a decibel above the floor (full scale is 0 dB).
STEPS, FLOOR = 2, -120
#: Of a short form: the first 2.6 s, two bands a byte, in 15 levels of 4 dB below the loudest.
SHORT_FRAMES, SHORT_WIDTH = 128, BANDS // 2
_LEVELS, _LEVEL = 15, 4 * STEPS
#: Samples beyond are taken for it.
_LOUDEST = np.float32(1e6)

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

NO_FINGERPRINT: Bytes = np.zeros(0, np.uint8)


class Fingerprinter:
    """Takes the mean of a clip's channels in blocks, and makes its fingerprint at the end."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        #: Samples of the file that are still wanted.
        self._wanted = -(-((FRAMES - 1) * HOP + FRAME) * rate // RATE)
        self._parts: list[Samples] = []

    def push(self, samples: Samples) -> None:
        """Take the next samples, which must stay; those beyond the last frame are passed over."""
        if self._wanted > 0 and len(samples):
            samples = samples[: self._wanted]
            self._wanted -= len(samples)
            self._parts.append(samples)

    def finish(self) -> Bytes:
        """Return the fingerprint [1 + frames * BANDS]; empty for less than one frame."""
        import soxr
        from scipy.fft import rfft

        if not self._parts:
            return NO_FINGERPRINT
        whole = self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)
        # Hostile samples would overflow in the resampler, or as they are squared.
        if whole.max() > _LOUDEST or whole.min() < -_LOUDEST:
            whole = np.clip(whole, -_LOUDEST, _LOUDEST)
        # A steep filter is not needed: the highest band ends below what a gentle one passes.
        sound = soxr.resample(whole, self._rate, RATE, "LQ")
        frames = min(FRAMES, (len(sound) - FRAME) // HOP + 1)
        if frames < 1:
            return NO_FINGERPRINT
        taper, filters = _analysis()
        framed = np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::HOP][:frames]
        parts = rfft(framed * taper, overwrite_x=True).view(np.float32)
        np.square(parts, out=parts)
        power = (parts[:, ::2] + parts[:, 1::2]) @ filters
        decibels = 10 * np.log10(np.maximum(power, 10 ** (FLOOR / 10)))
        steps = np.clip(np.rint(STEPS * (decibels - FLOOR)), 0, 255).astype(np.uint8)
        return np.concatenate([np.array([VERSION], np.uint8), steps.reshape(-1)])


@cache
def _analysis() -> tuple[Floats, Floats]:
    """Return the taper [FRAME] and triangular mel filters [bins, BANDS] of unit sum."""
    taper = np.hanning(FRAME + 1)[:-1]
    taper /= taper.sum() / 2  # a sine of full scale is 0 dB
    top, bottom = (2595 * np.log10(1 + edge / 700) for edge in (HIGHEST, LOWEST))
    edges = 700 * (10 ** (np.linspace(bottom, top, BANDS + 2) / 2595) - 1)
    bins = np.arange(FRAME // 2 + 1)[:, None] * RATE / FRAME
    low, center, high = edges[:-2], edges[1:-1], edges[2:]
    filters = np.minimum((bins - low) / (center - low), (high - bins) / (high - center)).clip(0)
    return taper.astype(np.float32), (filters / filters.sum(0)).astype(np.float32)


def frames_of(fingerprint: Bytes) -> Floats | None:
    """Return the frames [T, BANDS] of a fingerprint, in steps of half a decibel.

    None where it is not known, is of another kind, or is no fingerprint at all.
    """
    if len(fingerprint) < 1 + BANDS or fingerprint[0] != VERSION:
        return None
    if (len(fingerprint) - 1) % BANDS:
        return None
    return fingerprint[1:].reshape(-1, BANDS).astype(np.float32)


def short_form(fingerprint: Bytes) -> Bytes:
    """Return what is kept of a fingerprint where many must be small: [T, SHORT_WIDTH].

    1.5 kB a clip for 9.6. A copy is found by it too (test_copies), since what lies 60 dB below the
    loudest band is passed over as clips are compared.
    """
    frames = frames_of(fingerprint)
    if frames is None:
        return np.zeros((0, SHORT_WIDTH), np.uint8)
    frames = frames[:SHORT_FRAMES]
    below = np.rint((frames.max() - frames) / _LEVEL)
    levels = (_LEVELS - np.minimum(below, _LEVELS)).astype(np.uint8)
    short: Bytes = levels[:, ::2] << 4 | levels[:, 1::2]
    return short


def of_short_form(short: Bytes) -> Bytes:
    """Return the fingerprint that a short form [T, SHORT_WIDTH] stands for: with it alone alike."""
    if not len(short):
        return NO_FINGERPRINT
    levels = np.stack([short >> 4, short & _LEVELS], 2)
    return np.concatenate([np.array([VERSION], np.uint8), levels.reshape(-1) * np.uint8(_LEVEL)])
