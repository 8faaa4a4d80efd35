"""Sound that is in memory already: arrays and tensors, as files would give them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qamro_cache.audio.open import RATES
from qamro_cache.audio.sound import Block, Sound
from qamro_cache.audio.windows import Samples
from qamro_cache.errors import OptionError, quoted

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


def as_waveform(clip: Any, sample_rate: int | None) -> Waveform:
    """Return a clip that is in memory as a waveform.

    Args:
        clip: a numpy array or torch tensor, as `frames_of` has it; or a dictionary of these as
            ``array`` with its ``sampling_rate``, as the datasets library gives audio.
        sample_rate: in Hz, of a clip that does not say it.

    Raises:
        OptionError: it is none of these, or its rate is not known or implausible.
    """
    if isinstance(clip, Mapping) and {"array", "sampling_rate"} <= clip.keys():
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
