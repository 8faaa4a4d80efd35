"""Which clips a head was trained on, told by their audio, whatever the files are called.

A clip is known by two hashes: of its file's bytes, and of its decoded samples, which a copy in
another lossless format has too; and by its fingerprint, which a lossy or a trimmed copy is alike.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:  # `evaluate` asks for a word, before torch is loaded.
    from torch import Tensor

    from qamro_cache.heads.header import Header

#: Two hashes a clip, so many bytes of each: enough that no two sounds have one by chance.
SIGNATURE = (2, 16)
#: The columns of a cache's clips that they are of.
_COLUMNS = ("audio_sha256", "samples_sha256")
#: The tensors of `Trained` in a head file.
_TENSORS = ("audio", "axes", "frames", "sound")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: What ``trained_on`` says of a clip whose label the head knows: the clip itself, or one alike.
KNOWN = ("yes", "near")

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Trained:
    """The clips whose labels some member learned or stopped on.

    Attributes:
        audio: [T, 2, 16] uint8, the first bytes of the sha256 of each clip's file and of its
            decoded samples; all zero where one is not known.
        axes: [T, A] uint8, 1 where the label on an axis was learned or stopped on.
        frames: [T] uint8, frames of each clip in ``sound``, 0 where its fingerprint is not known;
            None where nobody noted them.
        sound: [sum of frames, SHORT_WIDTH] uint8, the clips' fingerprints in their short form, one
            after the other; None with ``frames``.
    """

    audio: "Tensor"
    axes: "Tensor"
    frames: "Tensor | None" = None
    sound: "Tensor | None" = None

    def fingerprints(self) -> list[Bytes]:
        """Return the fingerprint of each clip, empty where it is not known."""
        from qamro_cache.audio.fingerprint import NO_FINGERPRINT, of_short_form

        if self.frames is None or self.sound is None:
            return [NO_FINGERPRINT] * len(self.audio)
        ends = np.cumsum(self.frames.numpy(), dtype=np.int64)
        return [of_short_form(part) for part in np.split(self.sound.numpy(), ends[:-1])]


def trained_clips(
    clips: pd.DataFrame, learned: npt.NDArray[np.bool_], fingerprints: Sequence[Bytes]
) -> Trained:
    """Note the clips that a head was trained on.

    Args:
        clips: C clips of a cache.
        learned: [C, A] whose label on an axis was learned or stopped on.
        fingerprints: of the C clips.
    """
    import torch

    from qamro_cache.audio.fingerprint import short_form

    some = np.flatnonzero(learned.any(1))
    sounds = [short_form(fingerprints[row]) for row in some]
    return Trained(
        torch.from_numpy(_signatures(clips)[some]),
        torch.from_numpy(learned[some].astype(np.uint8)),
        torch.tensor([len(sound) for sound in sounds], dtype=torch.uint8),
        torch.from_numpy(np.concatenate([short_form(np.zeros(0, np.uint8)), *sounds])),
    )


def trained_on(
    trained: Trained | None, axes: int, clips: pd.DataFrame, fingerprints: Sequence[Bytes]
) -> npt.NDArray[np.object_]:
    """Say of each axis and clip [A, C] whether a head knows the label.

    ``yes``: it learned this clip's; ``near``: that of a clip that sounds like this one; ``no``; or
    empty, where nothing is known.

    Args:
        trained: what the head noted; None: nothing is known.
        axes: of the head.
        clips: C clips of a cache; nothing is known of one without hashes.
        fingerprints: of the C clips; one that is not known is near nothing.
    """
    from qamro_cache.audio.alike import find_alike

    said = np.full((axes, len(clips)), "", object)
    if trained is None:
        return said
    ours, prints = _signatures(clips), trained.fingerprints()
    said[:, ours.any((1, 2))] = "no"
    # Most heads learned all axes from the same clips: their sounds are compared once.
    compared: dict[tuple[bytes, bytes], npt.NDArray[np.bool_]] = {}
    for axis in range(axes):
        learned = trained.axes[:, axis].numpy() > 0
        theirs = trained.audio.numpy()[learned]
        for kind in range(len(_COLUMNS)):
            there = {row.tobytes() for row in theirs[:, kind] if row.any()}
            said[axis, [row.tobytes() in there for row in ours[:, kind]]] = "yes"
        others = said[axis] != "yes"
        key = (learned.tobytes(), others.tobytes())
        if key not in compared:
            mine = [fingerprints[row] for row in np.flatnonzero(others)]
            compared[key] = find_alike(mine, [prints[k] for k in np.flatnonzero(learned)]) >= 0
        said[axis, np.flatnonzero(others)[compared[key]]] = "near"
    return said


def tensors_of_trained(trained: Trained | None) -> "dict[str, Tensor]":
    """Return the tensors of what was noted of the clips trained on, by name."""
    parts = {name: getattr(trained, name, None) for name in _TENSORS}
    return {f"trained/{name}": part for name, part in parts.items() if part is not None}


def blank_trained(axes: int, header: "Header") -> Trained:
    """Return what was noted of the clips trained on, as `blank_head` does."""
    import torch

    from qamro_cache.audio.fingerprint import SHORT_WIDTH

    clips, *_ = header.tensors["trained/audio"][1]
    shapes: list[tuple[int, ...]] = [(clips, *SIGNATURE), (clips, axes)]
    if "trained/sound" in header.tensors:
        frames, *_ = header.tensors["trained/sound"][1]
        shapes += [(clips,), (frames, SHORT_WIDTH)]
    return Trained(*(torch.empty(one, dtype=torch.uint8, device="meta") for one in shapes))


def filled_trained(tensors: "Mapping[str, Tensor]") -> Trained:
    """Return what was noted of the clips trained on."""
    known = {n: tensors[f"trained/{n}"] for n in _TENSORS if f"trained/{n}" in tensors}
    trained = Trained(**known)
    frames, sound = trained.frames, trained.sound
    if frames is not None and sound is not None and int(frames.sum()) != len(sound):
        raise ValueError("its fingerprints are not as many as it says")
    return trained


def known_words(known: int, near: int, of: str) -> str:
    """Say how many clips a head knows the labels of.

    Args:
        known: clips that are ``yes`` or ``near``.
        near: those that are ``near`` alone.
        of: the clips among which they are: ``these 8 clips``.
    """
    if known == near:
        return f"{near} of {of} sound like a clip that the head was trained on"
    words = f"the head was trained on {known - near} of {of}"
    return f"{words}, and {near} more sound like one that it was trained on" if near else words


def _signatures(clips: pd.DataFrame) -> Bytes:
    """Return [C, 2, 16] uint8 of a cache's clips."""
    found = np.zeros((len(clips), *SIGNATURE), np.uint8)
    for kind, name in enumerate(_COLUMNS):
        for row, text in enumerate(clips[name]):
            if _SHA256.fullmatch(text):
                found[row, kind] = np.frombuffer(bytes.fromhex(text)[: SIGNATURE[1]], np.uint8)
    return found
