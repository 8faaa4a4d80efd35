"""Which clips a head was trained on, told by their audio, whatever the files are called.

A clip is known by two hashes: of its file's bytes, and of its decoded samples, which a copy in
another lossless format has too.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:  # `evaluate` asks for a word, before torch is loaded.
    from torch import Tensor

#: Two hashes a clip, so many bytes of each: enough that no two sounds have one by chance.
SIGNATURE = (2, 16)
#: The columns of a cache's clips that they are of.
_COLUMNS = ("audio_sha256", "samples_sha256")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: What ``trained_on`` says of a clip whose label the head knows.
KNOWN = ("yes", "near")


@dataclass(frozen=True)
class Trained:
    """The clips whose labels some member learned or stopped on.

    Attributes:
        audio: [T, 2, 16] uint8, the first bytes of the sha256 of each clip's file and of its
            decoded samples; all zero where one is not known.
        axes: [T, A] uint8, 1 where the label on an axis was learned or stopped on.
    """

    audio: "Tensor"
    axes: "Tensor"


def trained_clips(clips: pd.DataFrame, learned: npt.NDArray[np.bool_]) -> Trained:
    """Note the clips that a head was trained on.

    Args:
        clips: C clips of a cache.
        learned: [C, A] whose label on an axis was learned or stopped on.
    """
    import torch

    some = learned.any(1)
    audio = torch.from_numpy(_signatures(clips)[some])
    return Trained(audio, torch.from_numpy(learned[some].astype(np.uint8)))


def trained_on(trained: Trained | None, axes: int, clips: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Say of each axis and clip [A, C] whether a head knows the label: ``yes``, ``no``, or empty.

    Args:
        trained: what the head noted; None: nothing is known.
        axes: of the head.
        clips: C clips of a cache; nothing is known of one without hashes.
    """
    said = np.full((axes, len(clips)), "", object)
    if trained is None:
        return said
    ours = _signatures(clips)
    said[:, ours.any((1, 2))] = "no"
    # A match by closeness of the sound ("near") belongs here: equal hashes below overrule it.
    for axis in range(axes):
        theirs = trained.audio[trained.axes[:, axis] > 0].numpy()
        for kind in range(len(_COLUMNS)):
            there = {row.tobytes() for row in theirs[:, kind] if row.any()}
            said[axis, [row.tobytes() in there for row in ours[:, kind]]] = "yes"
    return said


def _signatures(clips: pd.DataFrame) -> npt.NDArray[np.uint8]:
    """Return [C, 2, 16] uint8 of a cache's clips."""
    found = np.zeros((len(clips), *SIGNATURE), np.uint8)
    for kind, name in enumerate(_COLUMNS):
        for row, text in enumerate(clips[name]):
            if _SHA256.fullmatch(text):
                found[row, kind] = np.frombuffer(bytes.fromhex(text)[: SIGNATURE[1]], np.uint8)
    return found
