"""Decode one audio file into fixed windows, as a stream of bounded memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qamro_cache.audio.resample import Resampler, make_resampler
from qamro_cache.audio.sound import Readable, Sound
from qamro_cache.audio.windows import Samples, Window, WindowCutter
from qamro_cache.identity import AudioPolicy


class ClipDecoder(Sound):
    """The windows of one file; what is known of its sound is whatever the policy.

    Args:
        path: of the file.
        policy: how it becomes windows.
        shared: with others that read the file; None: it is decoded for this reader alone.
    """

    def __init__(
        self, path: str | Path, policy: AudioPolicy, shared: Readable | None = None
    ) -> None:
        super().__init__(path)
        self.policy, self._shared = policy, shared

    def windows(self) -> Iterator[Window]:
        """Yield the windows in order.

        Raises:
            ClipError: the clip cannot be used; windows that came before must be thrown away.
        """
        to, as_is = self.policy.sample_rate, self.policy.rate_policy == "as-is"
        resampler: Resampler | None = None
        cutter = WindowCutter(self.policy)
        blocks = self.blocks() if self._shared is None else self._shared.read(self)
        for samples, rate in blocks:
            if resampler is None:
                resampler = make_resampler(self.policy.resampler, to if as_is else rate, to)
            yield from cutter.push(self._quantized(resampler.push(samples)))
        if resampler is not None:
            rest = resampler.push(np.zeros(0, np.float32), last=True)
            yield from cutter.push(self._quantized(rest))
        yield from cutter.finish()

    def _quantized(self, samples: Samples) -> Samples:
        """Truncate to 16 bits and back where the policy says so, as laion_clap does."""
        if not self.policy.int16:
            return samples
        whole = (np.clip(samples, -1, 1) * np.float32(32767)).astype(np.int16)
        return whole.astype(np.float32) / np.float32(32767)
