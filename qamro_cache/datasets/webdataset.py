"""Tars of WebDataset: samples, their sound, and what their JSON and text say of them.

A sample is the files of one key: a member's name up to the first dot of its last part.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from qamro_cache.audio.endings import AUDIO_ENDINGS, CONVERT, OTHER_ENDINGS
from qamro_cache.audio.tar import TAR_ENDING, Member, members
from qamro_cache.errors import QamroError, words_of

_KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)")
#: Bytes of what is said of a sample, at most.
_MOST = 1 << 20
#: Endings of what is said of a sample.
_SAID = ("json", "txt")
#: What a prompt is called in JSON, beside which a sample's ``.txt`` is none.
_PROMPTS = ("prompt", "text", "caption")

logger = logging.getLogger("qamro_cache")


def is_tar(path: Path) -> bool:
    """Return whether a path is a tar's, by its name."""
    return path.suffix.lower() == TAR_ENDING and path.is_file()


def tars_of(path: Path) -> list[Path]:
    """Return a tar, or those in a folder in the order of their names; none for any other path."""
    if path.is_dir():
        return sorted(one for one in path.iterdir() if is_tar(one) and one.name[0] != ".")
    return [path] if is_tar(path) else []


def sounds_of(tar: Path) -> dict[str, str]:
    """Return the sounds of a tar in its order: name of the clip within it -> member.

    That is the sample's key, or, where a sample has several sounds, the member's name.

    Raises:
        QamroError: see `members`; two sounds of a sample have one name, but for its case.
    """
    return {name: member for name, member, _ in _sounds(tar, members(tar))}


def tar_table(tars: Sequence[Path]) -> pd.DataFrame:
    """Return a row a clip: ``clip_id`` (tar and key), ``path``, and what its sample says of it.

    Values of a sample's ``.json`` are columns, a list as JSON; its ``.txt`` is the prompt where
    the JSON has none.

    Raises:
        QamroError: see `members`; no sample has sound; or a sample's JSON or text is none.
    """
    rows: list[dict[str, Any]] = []
    for tar in tars:
        index = members(tar)
        with tar.open("rb", buffering=0) as file:
            for name, member, sample in _sounds(tar, index):
                about = _about(tar, file.fileno(), sample, index)
                path = os.path.join(os.path.realpath(tar), member)  # noqa: PTH118
                rows.append({**about, "clip_id": f"{tar.name}/{name}", "path": path})
    if not rows:
        named = ", ".join(map(str, tars[:3]))
        raise QamroError(f"{named}: no sample has sound (looked for {', '.join(AUDIO_ENDINGS)})")
    columns = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({c: [row.get(c) for row in rows] for c in columns}, dtype=object)


def _sounds(tar: Path, index: Mapping[str, Member]) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Yield each sound: its name, its member, and the members of its sample by ending."""
    samples: dict[str, dict[str, str]] = {}
    for name in index:
        if (found := _KEY.fullmatch(name)) is not None:
            sample, ending = samples.setdefault(found[1], {}), found[2].lower()
            if (other := sample.setdefault(ending, name)) != name and _is_read(ending):
                raise QamroError(
                    f"{tar}: members {other!r} and {name!r} are one by their endings, which differ "
                    "in case alone; rename one"
                )
    silent = foreign = 0
    for key, sample in samples.items():
        sounds = [n for ending, n in sample.items() if _last(ending) in AUDIO_ENDINGS]
        foreign += any(_last(ending) in OTHER_ENDINGS for ending in sample)
        silent += not sounds
        for member in sounds:
            yield (key if len(sounds) == 1 else member), member, sample
    if silent:
        odd = f", {foreign} of them as files that cannot be read here; {CONVERT}" if foreign else ""
        logger.warning("%s: %d samples hold no sound and are left out%s", tar, silent, odd)


def _is_read(ending: str) -> bool:
    return _last(ending) in AUDIO_ENDINGS or ending in _SAID


def _last(ending: str) -> str:
    return f".{ending.rpartition('.')[2]}"


def _about(
    tar: Path, handle: int, sample: Mapping[str, str], index: Mapping[str, Member]
) -> dict[str, Any]:
    """Return what a sample's JSON and text say of it."""
    about: dict[str, Any] = {}
    for ending in _SAID:
        if ending not in sample:
            continue
        name = sample[ending]
        start, size = index[name]
        try:
            if size > _MOST:
                raise ValueError(f"it has {size} bytes")
            text = os.pread(handle, size, start).decode("utf-8-sig")
            if ending == "json":
                about = json.loads(text)
                if not isinstance(about, dict):
                    raise ValueError("it is no record")
            elif not any(word in about for word in _PROMPTS):
                about["prompt"] = text.strip()
        except (OSError, ValueError, RecursionError) as error:
            raise QamroError(
                f"{tar}: member {name!r} is no {ending} of a sample ({words_of(error)}); mend it"
            ) from error
    return about
