"""Sound that is in memory already: arrays, tensors and a file's bytes, as files would give them."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qamro_cache.audio.open import RATES
from qamro_cache.audio.sound import Block, Sound
from qamro_cache.audio.tar import file_in_memory
from qamro_cache.audio.windows import Samples
from qamro_cache.errors import ClipError, OptionError, quoted, words_of

#: Most channels of a clip; of more, an array is taken for a batch by mistake.
CHANNELS = 8
#: What one is in samples of whole numbers, as files of these types are read.
_FULL = {"int16": 1 << 15, "int32": 1 << 31}


@dataclass(frozen=True)
class Waveform:
    """One clip's samples [frames, channels] float32, and their rate in Hz."""

    samples: Samples
    rate: int

    def read(self, reader: Sound) -> Iterator[Block]:
        """Yield the blocks, and tell the reader what is known of the sound.

        Raises:
            ClipError: ``not-finite``.
        """
        yield from reader.blocks_in_memory(self.samples, self.rate)


@dataclass(frozen=True)
class FileInMemory:
    """The bytes of one clip's file, read as the file would be."""

    data: bytes

    def read(self, reader: Sound) -> Iterator[Block]:
        """Yield the blocks, and tell the reader what is known of the sound.

        Raises:
            ClipError: as of a file.
        """
        handle = file_in_memory()
        try:
            with open(handle, "wb", closefd=False) as file:
                file.write(self.data)
            yield from reader.blocks_of_open(handle)
        finally:
            os.close(handle)


@dataclass(frozen=True)
class Decoding:
    """A decoder of torchcodec, which newer versions of the datasets library give for sound."""

    decoder: Any

    def read(self, reader: Sound) -> Iterator[Block]:
        """Yield the blocks, and tell the reader what is known of the sound.

        Raises:
            ClipError: ``unreadable``: the decoder fails; ``not-finite``.
        """
        try:
            found = self.decoder.get_all_samples()
        except Exception as error:  # whatever it raises
            raise ClipError("unreadable", f"it cannot be decoded ({words_of(error)})") from error
        yield from as_waveform(found.data, found.sample_rate).read(reader)


def as_sound(clip: Any, sample_rate: int | None) -> "Waveform | FileInMemory | Decoding":
    """Return a clip that is in memory as what can be read.

    Args:
        clip: as `as_waveform` takes it; or what the datasets library gives of a sound: a dictionary
            with the ``bytes`` of its file, or a decoder.
        sample_rate: likewise.

    Raises:
        OptionError: it is none of these, or its rate is not known or implausible.
    """
    if hasattr(clip, "get_all_samples"):
        return Decoding(clip)
    if isinstance(clip, Mapping) and isinstance(clip.get("bytes"), bytes | bytearray):
        return FileInMemory(bytes(clip["bytes"]))
    return as_waveform(clip, sample_rate)


def as_waveform(clip: Any, sample_rate: int | None) -> Waveform:
    """Return a clip that is in memory as a waveform.

    Args:
        clip: a numpy array or torch tensor, as `frames_of` has it; or a dictionary of these as
            ``array`` with its ``sampling_rate``, as the datasets library gives audio.
        sample_rate: in Hz, of a clip that does not say it.

    Raises:
        OptionError: it is none of these, or its rate is not known or implausible.
    """
    if isinstance(clip, Mapping):
        if not {"array", "sampling_rate"} <= clip.keys():
            raise OptionError(
                "a dictionary of the datasets library is a sound by its array and sampling_rate, "
                f"by bytes or by path; got one of {quoted(', '.join(map(str, clip)))}; of a row "
                "give its column of sound, such as row['audio']"
            )
        clip, sample_rate = clip["array"], clip["sampling_rate"]
    if hasattr(clip, "detach"):
        clip = clip.detach().cpu()
        clip = (clip.float() if clip.is_floating_point() else clip).numpy()
    if not isinstance(clip, np.ndarray):
        raise OptionError(
            f"a clip is a file's path, an array or a tensor of samples, got {quoted(clip)}"
        )
    rate, frames = checked_rate(sample_rate), frames_of(clip)
    if frames.dtype.name in _FULL:
        frames = frames / _FULL[frames.dtype.name]
    elif frames.dtype.kind != "f":
        raise OptionError(
            f"samples are floats from -1 to 1, int16 or int32; got {frames.dtype.name}"
        )
    return Waveform(np.ascontiguousarray(frames, np.float32), rate)


def checked_rate(sample_rate: Any) -> int:
    """Return the sample rate of clips in memory.

    Raises:
        OptionError: it is not known, or implausible.
    """
    if sample_rate is None:
        raise OptionError("an array of samples does not say how fast it plays; give sample_rate")
    try:
        rate = int(sample_rate)
        if rate == sample_rate and RATES[0] <= rate <= RATES[1]:
            return rate
    except (TypeError, ValueError, OverflowError):
        pass
    raise OptionError(
        f"sample_rate is a whole number of Hz from {RATES[0]} to {RATES[1]}, "
        f"got {quoted(sample_rate)}"
    )


def frames_of(samples: Any) -> Any:
    """Return one clip's array or tensor as [frames, channels].

    Args:
        samples: [frames]; or, with the channels first or last, two sides of which the shorter one
            is the channels.

    Raises:
        OptionError: it has another number of sides, or too many channels for one clip.
    """
    if samples.ndim not in (1, 2):
        raise OptionError(f"a clip is [frames] or [channels, frames], got {list(samples.shape)}")
    if samples.ndim == 1 or 0 in samples.shape:
        return samples.reshape(-1, 1)
    if min(samples.shape) > CHANNELS:
        raise OptionError(
            f"a clip of {list(samples.shape)} would have {min(samples.shape)} channels; give many "
            "clips as a list or as [clips, channels, frames]"
        )
    return samples.T if samples.shape[0] <= samples.shape[1] else samples
