"""What can be said of a file before it is extracted, and of sound that no listener rated."""

from pathlib import Path
from typing import Literal

import numpy as np

from qamro_cache.audio.open import blocks_of, open_regular, opened_parts
from qamro_cache.errors import ClipError

#: Half of a 16-bit file's smallest step: sound that stays below is digital silence.
SILENCE = 2.0**-16
#: A mean of the channels that is weaker than this share of them (-60 dB) has cancelled out.
CANCELED = 1e-3
#: A peak beyond this is no loud clip (full scale is 1): the samples are in other units.
BEYOND = 100.0
#: Samples of all channels that are listened to at once.
_BLOCK = 1 << 16

Oddity = Literal["silent", "canceled", "beyond-full-scale"]
#: What to say of clips with each oddity.
ODDITIES: dict[Oddity, str] = {
    "silent": "are digital silence",
    "canceled": "have channels in opposite phase, which cancel out in their mean",
    "beyond-full-scale": f"have a peak beyond {BEYOND:g}, where full scale is 1; divide float "
    "samples in 16-bit units by 32768",
}


def oddity_of(peak: float, mixed_peak: float) -> Oddity | None:
    """Return what is odd about a clip's level, None if nothing is.

    Args:
        peak: largest absolute sample of all channels.
        mixed_peak: likewise, of the mean of the channels.
    """
    if peak < SILENCE:
        return "silent"
    if mixed_peak < max(SILENCE, CANCELED * peak):
        return "canceled"
    return "beyond-full-scale" if peak > BEYOND else None


def oddity_message(oddity: Oddity, count: int, names: list[str]) -> str:
    """Say in one line how many clips have an oddity, and which are the first."""
    more = ", ..." if count > len(names) else ""
    return f"{count} clips {ODDITIES[oddity]}: {', '.join(names)}{more}"


def look_at(path: Path) -> Oddity | None:
    """Read a file's headers, and its sound up to where there is some.

    Returns:
        What is odd about its level.

    Raises:
        ClipError: as the extraction would, in as far as it needs no decoding.
    """
    peak = mixed_peak = 0.0
    frames = 0
    with open_regular(path) as handle:
        for _, file in opened_parts(handle, path):
            frames += file.frames
            blocks = blocks_of(file, path, _BLOCK)
            while mixed_peak < max(SILENCE, CANCELED * peak) or peak == 0:
                if (found := next(blocks, None)) is None:
                    break
                block, mixed = found
                peak = max(peak, float(np.abs(block).max()))
                mixed_peak = max(mixed_peak, float(np.abs(mixed).max()))
    if frames == 0:
        raise ClipError("empty", f"{path} holds no audio")
    return oddity_of(peak, mixed_peak)
