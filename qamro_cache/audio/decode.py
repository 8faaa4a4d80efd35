"""Decode one audio file into fixed windows, as a stream of bounded memory.

A file is untrusted: what its header promises is never allocated, and everything that can be
wrong with it is a ``ClipError``. The bytes are hashed first, and the file must not change between
the hash and the last sample, so that the features are of the bytes that the hash names.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qamro_cache.audio.resample import make_resampler
from qamro_cache.audio.windows import Samples, Window, WindowCutter
from qamro_cache.errors import ClipError
from qamro_cache.identity import AudioPolicy

#: Samples of all channels that are decoded at once.
BLOCK = 1 << 20
#: Sample rates that are taken for true, in Hz.
RATES = (1_000, 1_000_000)


class ClipDecoder:
    """The windows of one file.

    Attributes:
        path: of the file.
        sha256: of its bytes; known once the first window is out, or the clip has failed.
        nbytes: size of the file; -1 where it could not be opened.
        mtime_ns: its modification time; -1 likewise.
        duration: seconds of audio decoded so far.
    """

    def __init__(self, path: str | Path, policy: AudioPolicy) -> None:
        self.path = Path(path)
        self.policy = policy
        self.sha256 = ""
        self.nbytes = -1
        self.mtime_ns = -1
        self.duration = 0.0

    def windows(self) -> Iterator[Window]:
        """Yield the windows in order.

        Raises:
            ClipError: the clip cannot be used; windows that came before must be thrown away.
        """
        try:
            # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise ClipError("missing", f"there is no file {self.path}") from error
        except (OSError, ValueError) as error:
            raise ClipError("unreadable", f"{self.path} cannot be opened ({error})") from error
        try:
            yield from self._windows(handle)
        except OSError as error:
            raise ClipError("unreadable", f"{self.path} cannot be read ({error})") from error
        finally:
            os.close(handle)

    def _windows(self, handle: int) -> Iterator[Window]:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise ClipError("unreadable", f"{self.path} is not a regular file")
        self.nbytes, self.mtime_ns = info.st_size, info.st_mtime_ns
        if info.st_size == 0:
            raise ClipError("empty", f"{self.path} has no bytes")
        with open(handle, "rb", buffering=0, closefd=False) as raw:
            self.sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
            raw.seek(0)
        yield from self._cut(handle)
        after = os.fstat(handle)
        if (after.st_size, after.st_mtime_ns) != (info.st_size, info.st_mtime_ns):
            raise ClipError("changed", f"{self.path} changed while it was read")

    def _cut(self, handle: int) -> Iterator[Window]:
        import soundfile

        try:
            file = soundfile.SoundFile(handle, closefd=False)
        except soundfile.LibsndfileError as error:
            raise ClipError("unreadable", f"{self._kind()}: {error.error_string}") from error
        with file:
            rate, to = file.samplerate, self.policy.sample_rate
            if not RATES[0] <= rate <= RATES[1]:
                raise ClipError("unreadable", f"{self.path} claims a rate of {rate} Hz")
            if self.policy.rate_policy == "as-is":
                rate = to
            resampler = make_resampler(self.policy.resampler, rate, to)
            cutter = WindowCutter(self.policy)
            for samples in self._samples(file):
                yield from cutter.push(self._quantized(resampler.push(samples)))
            rest = resampler.push(np.zeros(0, np.float32), last=True)
            yield from cutter.push(self._quantized(rest))
            yield from cutter.finish()

    def _samples(self, file: Any) -> Iterator[Samples]:
        """Yield the mean of the channels, block by block."""
        import soundfile

        frames = max(1, BLOCK // file.channels)
        done = 0
        while True:
            try:
                block = file.read(frames, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise ClipError(
                    "unreadable",
                    f"{self._kind()}: damaged after {done / file.samplerate:.1f} s "
                    f"({error.error_string})",
                ) from error
            if len(block) == 0:
                break
            done += len(block)
            self.duration = done / file.samplerate
            samples = block[:, 0] if file.channels == 1 else block.mean(axis=1, dtype=np.float32)
            if not np.isfinite(samples).all():
                raise ClipError("not-finite", f"{self.path} holds NaN or infinite samples")
            yield np.ascontiguousarray(samples)
        # A FLAC that ends early is read up to there without an error.
        if file.format == "FLAC" and done < file.frames:
            raise ClipError(
                "unreadable",
                f"{self.path} ends after {done / file.samplerate:.1f} of "
                f"{file.frames / file.samplerate:.1f} s",
            )

    def _quantized(self, samples: Samples) -> Samples:
        """Truncate to 16 bits and back where the policy says so, as laion_clap does."""
        if not self.policy.int16:
            return samples
        whole = (np.clip(samples, -1, 1) * np.float32(32767)).astype(np.int16)
        return whole.astype(np.float32) / np.float32(32767)

    def _kind(self) -> str:
        suffix = self.path.suffix.lstrip(".").lower() or "no extension"
        return f"{self.path} ({suffix}) is not audio that can be read here (WAV, FLAC, OGG, MP3)"
