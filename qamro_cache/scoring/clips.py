"""What `Scorer` is asked to score: files, arrays and tensors as a table of clips."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from qamro_cache.audio.sound import Readable
from qamro_cache.audio.waveform import as_sound, checked_rate, frames_of
from qamro_cache.errors import OptionError, quoted


@dataclass(frozen=True)
class Clips:
    """N clips to be scored, and R references that some are heard beside, after them.

    Attributes:
        table: N + R rows: clip_id, path, prompt, group, reference, source.
        sounds: of each row, as it was given.
        sample_rate: in Hz, of those in memory; None: not said.
        beside: ids of the references.
    """

    table: pd.DataFrame
    sounds: Sequence[Any]
    sample_rate: int | None
    beside: frozenset[str]

    @property
    def wants_gradient(self) -> bool:
        """Whether a clip is a tensor that requires a gradient."""
        return any(isinstance(one, Tensor) and one.requires_grad for one in self.sounds)

    def held(self) -> dict[str, Readable]:
        """Return the sounds in memory, by the paths that stand for them in the table.

        Raises:
            OptionError: one is no sound, or its sample rate is not known.
        """
        return {
            path: as_sound(sound, self.sample_rate)
            for path, sound in zip(self.table["path"], self.sounds, strict=True)
            if not _is_file(sound)
        }

    def tensors(self) -> tuple[list[Tensor], int]:
        """Return the sounds as tensors [frames, channels] with their gradients, and their rate.

        Raises:
            OptionError: one is a file, no float tensor, or the rate is not known.
        """
        rate, found = checked_rate(self.sample_rate), []
        for sound in self.sounds:
            samples = torch.from_numpy(sound) if isinstance(sound, np.ndarray) else sound
            if not isinstance(samples, Tensor) or not samples.is_floating_point():
                raise OptionError(
                    "where one clip has a gradient, all are tensors or arrays of floats"
                )
            found.append(frames_of(samples))
        return found, rate


def clips_of(
    clips: Any,
    sample_rate: int | None = None,
    prompts: str | Sequence[str] | None = None,
    groups: Sequence[Any] | None = None,
    references: Any = None,
    first: int = 0,
) -> Clips:
    """Take clips as `Scorer.score` is given them.

    Args:
        clips: one or several.
        sample_rate: see there.
        prompts: see there.
        groups: see there.
        references: see there; one for all, too.
        first: place of the first clip, which is its id where it has no path.

    Raises:
        OptionError: there is none, or as many of one thing as there are not clips.
    """
    sounds = [_plain(one) for one in several(clips)]
    if not sounds:
        raise OptionError("there are no clips to score")
    for sound in sounds:
        if _is_file(sound) and "\0" in os.fspath(sound):
            raise OptionError(f"no file can be called {quoted(os.fspath(sound))}")
    ids = _ids(sounds, first)
    named, others = _references(sounds, ids, references)
    size, more = len(sounds), [""] * len(others)
    texts = [prompts] * size if isinstance(prompts, str) else _each(prompts, size, "prompts")
    together = _each(groups, size, "groups")
    beside = list(others)
    sounds += others.values()
    table = pd.DataFrame(
        {
            "clip_id": [*ids, *beside],
            # A file's begins at the root; what stands for a sound in memory does not.
            "path": [
                os.path.realpath(sound) if _is_file(sound) else f"sound {place}"
                for place, sound in enumerate(sounds)
            ],
            "prompt": ["" if one is None else str(one) for one in [*texts, *more]],
            "group": ["" if one is None else str(one) for one in [*together, *more]],
            "reference": [*named, *more],
            "source": "",  # one listening test
        },
        dtype=object,
    )
    return Clips(table, sounds, sample_rate, frozenset(beside))


def several(clips: Any) -> list[Any]:
    """Return clips as a list: one, or several; an array of one side, or [frames, channels], is one.

    Raises:
        OptionError: it is [n, frames], which may be one clip of n channels or n clips.
    """
    if _is_file(clips) or isinstance(clips, Mapping):
        return [clips]
    if is_array(clips):
        if clips.ndim == 2 and 1 < clips.shape[0] <= clips.shape[1]:
            count, shape = clips.shape[0], list(clips.shape)
            raise OptionError(
                f"{shape} may be one clip of {count} channels or {count} clips; give one clip in "
                "a list: [clip], several as list(clips)"
            )
        return [clips] if clips.ndim < 3 else list(clips)
    return list(clips) if isinstance(clips, Iterable) else [clips]


def is_array(clips: Any) -> bool:
    """Return whether it is samples in an array or a tensor, not several things in one."""
    if not (hasattr(clips, "ndim") and hasattr(clips, "dtype")) or isinstance(clips, pd.Series):
        return False
    return getattr(clips.dtype, "kind", "f") not in "OU"


def _plain(clip: Any) -> Any:
    """Return the path of a file that the datasets library gives as a dictionary; else the clip."""
    if not isinstance(clip, Mapping) or "array" in clip or clip.get("bytes") is not None:
        return clip
    return clip["path"] if _is_file(clip.get("path")) else clip


def _is_file(clip: Any) -> bool:
    return isinstance(clip, str | os.PathLike)


def _ids(sounds: Sequence[Any], first: int) -> list[str]:
    """Return the id of each clip: its path as given, or its place; no two are one."""
    ids: dict[str, None] = {}
    for place, sound in enumerate(sounds, first):
        name = os.fspath(sound) if _is_file(sound) else str(place)
        ids[_free(name, ids, place)] = None
    return list(ids)


def _free(name: str, taken: Collection[str], place: int) -> str:
    """Return a name that is not taken, with the place of what it stands for if need be."""
    while name in taken:
        name = f"{name} ({place})"
    return name


def _each(values: Sequence[Any] | None, size: int, what: str) -> list[Any]:
    found = [None] * size if values is None else list(values)
    if len(found) != size:
        raise OptionError(f"there are {size} clips and {len(found)} {what}; give one for each clip")
    return found


def _references(
    sounds: Sequence[Any], ids: Sequence[str], references: Any
) -> tuple[list[str], dict[str, Any]]:
    """Return the id of each clip's reference, and by their ids the references that are no clips."""
    if references is None:
        return [""] * len(sounds), {}
    given = [_plain(one) for one in several(references)]
    given = given * len(sounds) if len(given) == 1 else _each(given, len(sounds), "references")
    known: dict[Any, str] = {}
    for sound, name in zip(sounds, ids, strict=True):
        known.setdefault(_key(sound), name)
    named: list[str] = []
    others: dict[str, Any] = {}
    for one in given:
        if one is not None and _key(one) not in known:
            name = _free(f"reference {len(others)}", ids, len(others))
            known[_key(one)], others[name] = name, one
        named.append("" if one is None else known[_key(one)])
    return named, others


def _key(sound: Any) -> Any:
    """What tells one sound from another without looking at its samples."""
    return os.path.realpath(sound) if _is_file(sound) else id(sound)
