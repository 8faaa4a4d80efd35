"""The sound of one file, block by block, before anything is made of it.

A file is untrusted: what its header promises is never allocated, and everything that can be
wrong with it is a ``ClipError``. The bytes are hashed first, and the file must not change between
the hash and the last sample, so that the features are of the bytes that the hash names.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from qamro_cache.audio.containers.source import Part
from qamro_cache.audio.fingerprint import NO_FINGERPRINT, Fingerprinter
from qamro_cache.audio.open import blocks_of, mixed, open_regular, opened_parts
from qamro_cache.audio.windows import Samples
from qamro_cache.errors import ClipError

#: Samples of all channels that are decoded at once.
BLOCK = 1 << 20


class Block(NamedTuple):
    """The mean of a file's channels [frames] float32, and the rate that the file says it has."""

    samples: Samples
    rate: int


class Sound:
    """The sound of a file.

    Attributes:
        path: of the file.
        sha256: of its bytes; known once the first block is out, or the clip has failed.
        nbytes: size of the file; -1 where it could not be opened.
        mtime_ns: its modification time; -1 likewise.
        duration: seconds of audio decoded so far.
        peak: largest absolute sample so far, over all channels.
        mixed_peak: likewise, of the mean of the channels.
        samples_sha256: of the decoded samples, before they are mixed and resampled: float32,
            little-endian, the channels of a frame side by side. Equal sound in another container
            has the same. Known once the last block is out, else empty.
        fingerprint: of the mean of the channels at the file's own rate. Known once the last block
            is out, else empty.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.sha256 = self.samples_sha256 = ""
        self.nbytes = self.mtime_ns = -1
        self.duration = self.peak = self.mixed_peak = 0.0
        self.fingerprint = NO_FINGERPRINT
        self._hash = hashlib.sha256()

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks in order.

        Raises:
            ClipError: the clip cannot be used; blocks that came before must be thrown away.
        """
        Sound.__init__(self, self.path)
        with open_regular(self.path) as handle:
            yield from self.blocks_of_open(handle)

    def blocks_of_open(self, handle: int) -> Iterator[Block]:
        """Yield the blocks of a file that is open, as if it were at ``path``.

        Raises:
            ClipError: see `blocks`.
        """
        Sound.__init__(self, self.path)
        info = os.fstat(handle)
        self.nbytes, self.mtime_ns = info.st_size, info.st_mtime_ns
        with open(handle, "rb", buffering=0, closefd=False) as raw:
            self.sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
        fingerprinter: Fingerprinter | None = None
        for part, file in opened_parts(handle, self.path):
            fingerprinter = fingerprinter or Fingerprinter(file.samplerate)
            for samples in self._samples(file, part):
                fingerprinter.push(samples)
                yield Block(samples, file.samplerate)
        assert fingerprinter is not None
        after = os.fstat(handle)
        if (after.st_size, after.st_mtime_ns) != (info.st_size, info.st_mtime_ns):
            raise ClipError("changed", f"{self.path} changed while it was read")
        self.samples_sha256 = self._hash.hexdigest()
        self.fingerprint = fingerprinter.finish()

    def blocks_in_memory(self, samples: Samples, rate: int) -> Iterator[Block]:
        """Yield the blocks of sound [frames, channels] that no file holds, as if one did.

        Raises:
            ClipError: ``not-finite``.
        """
        Sound.__init__(self, self.path)
        fingerprinter = Fingerprinter(rate)
        step = max(1, BLOCK // samples.shape[1])
        for first in range(0, len(samples), step):
            block = samples[first : first + step]
            mean = np.ascontiguousarray(mixed(block, "the clip"))
            self.duration = (first + len(block)) / rate
            self._measure(block, mean)
            fingerprinter.push(mean)
            yield Block(mean, rate)
        self.samples_sha256 = self._hash.hexdigest()
        self.fingerprint = fingerprinter.finish()

    def learn(self, other: "Sound") -> None:
        """Take over what another reader of the same file knows of it by now."""
        for name, value in vars(other).items():
            if not name.startswith("_"):
                setattr(self, name, value)

    def _samples(self, file: Any, part: Part) -> Iterator[Samples]:
        """Yield the mean of the channels, block by block."""
        before, done = self.duration, 0
        for block, samples in blocks_of(file, self.path, BLOCK, before):
            done += len(block)
            self.duration = before + done / file.samplerate
            self._measure(block, samples)
            yield np.ascontiguousarray(samples)
        wanted = file.frames if part.frames is None else part.frames
        if file.format == "OGG":
            # All its pages are there. Where the stream was copied from a container that counts in
            # milliseconds, what they say of its length is rounded.
            wanted -= file.samplerate // 100
        if done < wanted:
            raise ClipError(
                "unreadable",
                f"{self.path} ends after {before + done / file.samplerate:.2f} of "
                f"{before + wanted / file.samplerate:.2f} s; cut short or damaged: "
                "copy or make the file again",
            )

    def _measure(self, block: Samples, mixed: Samples) -> None:
        """Take a block [frames, channels] into the peaks and the hash."""
        self._hash.update(np.ascontiguousarray(block, "<f4").data)
        self.peak = max(self.peak, float(block.max()), -float(block.min()))
        if block.shape[1] == 1:
            self.mixed_peak = self.peak
        else:
            self.mixed_peak = max(self.mixed_peak, float(mixed.max()), -float(mixed.min()))


class Readable(Protocol):
    """Sound that several readers may ask for: a shared file, or samples in memory."""

    def read(self, reader: Sound) -> Iterator[Block]:
        """Yield the blocks, and tell the reader what is known of the sound."""
        ...
