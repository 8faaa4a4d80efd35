"""Change the sample rate of a stream, by the resampler that the identity names.

Both give, block by block, what their library gives for the whole clip at once.
"""

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

from qamro_cache.audio.windows import Samples
from qamro_cache.errors import ClipError, QamroError

if TYPE_CHECKING:
    from torch import Tensor

#: Largest filter bank that torchaudio may build, in numbers: odd pairs of rates need huge ones.
MAX_KERNEL = 50_000_000

_QUALITIES = ("QQ", "LQ", "MQ", "HQ", "VHQ")


class Resampler(Protocol):
    """Takes mono samples at one rate in blocks, returns them at another."""

    def push(self, samples: Samples, last: bool = False) -> Samples:
        """Return what can be said so far; after ``last``, everything."""
        ...


class SameRate:
    """Leaves samples as they are."""

    def push(self, samples: Samples, last: bool = False) -> Samples:
        """Return ``samples``."""
        return samples


class SoxrResampler:
    """The SoX resampler library, as a stream."""

    def __init__(self, quality: str, rate: int, to: int) -> None:
        import soxr

        self._stream: soxr.ResampleStream = soxr.ResampleStream(
            rate, to, 1, dtype="float32", quality=quality
        )

    def push(self, samples: Samples, last: bool = False) -> Samples:
        """Return the samples that left the filter."""
        return np.asarray(self._stream.resample_chunk(samples, last=last), np.float32)


class LibrosaResampler:
    """``librosa.load``'s resampling: soxr, then zeros up to the length that librosa reckons.

    librosa rounds the length up in floating point, where soxr rounds to the nearest, so a clip
    often gets one zero more.
    """

    def __init__(self, quality: str, rate: int, to: int) -> None:
        self._soxr = SoxrResampler(quality, rate, to)
        self._ratio = float(to) / rate
        self._taken = self._given = 0

    def push(self, samples: Samples, last: bool = False) -> Samples:
        """Return the samples that left the filter, and at the end what is lacking."""
        self._taken += len(samples)
        out = self._soxr.push(samples, last)
        self._given += len(out)
        if last:
            lacking = math.ceil(self._taken * self._ratio) - self._given
            out = np.pad(out, (0, max(0, lacking)))
        return out


class TorchaudioResampler:
    """``torchaudio.functional.resample`` (windowed sinc), block by block with overlap.

    A block is a whole number of the filter's periods, with enough context on both sides, so that
    every output sample comes from the same products as in one call.
    """

    def __init__(self, width: int, rate: int, to: int) -> None:
        reach = _reach(width, rate, to)
        common = math.gcd(rate, to)
        self._rate, self._to = rate // common, to // common
        self._width = width
        self._context = math.ceil(reach / self._rate) + 1  # periods on either side
        self._held: Samples = np.zeros(0, np.float32)
        self._before = 0  # periods of left context at the head of what is held

    def push(self, samples: Samples, last: bool = False) -> Samples:
        """Return the samples whose whole filter span has arrived."""
        self._held = np.concatenate([self._held, samples])
        ready = len(self._held) // self._rate - self._before - self._context
        if not last and ready < 1:
            return np.zeros(0, np.float32)
        if len(self._held) == 0:
            return self._held
        skip = self._before * self._to
        if last:
            return self._resample(self._held)[skip:]
        out = self._resample(self._held[: (self._before + ready + self._context) * self._rate])
        drop = max(0, self._before + ready - self._context)
        self._held = self._held[drop * self._rate :]
        self._before += ready - drop
        return out[skip : skip + ready * self._to]

    def _resample(self, samples: Samples) -> Samples:
        import torch

        with torch.inference_mode():
            out = torchaudio_resampled(torch.from_numpy(samples), self._rate, self._to, self._width)
        return np.asarray(out.numpy(), np.float32)


def _reach(width: int, rate: int, to: int) -> int:
    """Return half the length of torchaudio's filter, in samples at ``rate``.

    Raises:
        ClipError: ``unreadable``: its filters for all places would take too much memory.
    """
    common = math.gcd(rate, to)
    every, made = rate // common, to // common
    reach = math.ceil(width * every / (min(every, made) * 0.99))  # its default rolloff
    if made * (2 * reach + every) > MAX_KERNEL:
        raise ClipError(
            "unreadable", f"its rate of {rate} Hz cannot be changed to {to} Hz in fair memory"
        )
    return reach


def torchaudio_resampled(samples: "Tensor", rate: int, to: int, width: int) -> "Tensor":
    """Return samples [T] at another rate, all at once; differentiable.

    Raises:
        ClipError: ``unreadable``: that would take too much memory.
    """
    import torchaudio

    _reach(width, rate, to)
    found: Tensor = torchaudio.functional.resample(
        samples, rate, to, lowpass_filter_width=width, resampling_method="sinc_interp_hann"
    )
    return found


def torchaudio_width(name: str) -> int | None:
    """Return the width of torchaudio's filter that a resampler's name says; None for another."""
    width = name.removeprefix("torchaudio-sinc-hann-")
    return int(width) if width != name and width.isdecimal() else None


def make_resampler(name: str, rate: int, to: int) -> Resampler:
    """Return a resampler from ``rate`` to ``to`` Hz.

    Args:
        name: ``soxr-HQ`` (or QQ, LQ, MQ, VHQ), ``librosa-soxr-HQ`` (the same with librosa's
            length) or ``torchaudio-sinc-hann-6`` (6: zero crossings on either side of the
            filter's center).
        rate: of the file.
        to: wanted.
    """
    library, _, quality = name.partition("-")
    if library == "soxr" and quality in _QUALITIES:
        return SameRate() if rate == to else SoxrResampler(quality, rate, to)
    if library == "librosa" and quality.removeprefix("soxr-") in _QUALITIES:
        return SameRate() if rate == to else LibrosaResampler(quality[5:], rate, to)
    width = torchaudio_width(name)
    if width is not None:
        return SameRate() if rate == to else TorchaudioResampler(width, rate, to)
    raise QamroError(
        f"no resampler {name!r}; there are soxr-HQ, librosa-soxr-HQ and torchaudio-sinc-hann-6"
    )
