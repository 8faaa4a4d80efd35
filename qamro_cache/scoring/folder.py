"""A folder of audio as clips to be scored."""

import codecs
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import regex

from qamro_cache.audio.endings import AUDIO_ENDINGS, find_audio, others_message
from qamro_cache.audio.tar import TAR_ENDING
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.patterns import searcher
from qamro_cache.datasets.records import CLIP_COLUMNS, Dataset, labels_from_means
from qamro_cache.datasets.tables import refuse_lost
from qamro_cache.datasets.webdataset import is_tar, sounds_of
from qamro_cache.errors import OptionError, QamroError, quoted

logger = logging.getLogger("qamro_cache")

#: Systems that a notice names.
_NAMED = 5


def clips_of_folder(audio: Path) -> Dataset:
    """Return the audio files of a folder (searched below), or one file, as clips.

    A clip's system is the folder that it lies in, the first below ``audio``. A tar of WebDataset
    is as a folder: its clips are called by its name and their keys, and are of the tar's system.

    A tar that cannot be read is left out with a notice, where it is not the one file that is named.

    Raises:
        QamroError: there is none.
    """
    if not audio.exists():
        raise QamroError(f"{audio}: no such file or folder")
    paths, others = ([audio], []) if audio.is_file() else find_audio(audio, TAR_ENDING)
    if others:
        logger.warning("%s: %s", audio, others_message(audio, others))
    if not paths:
        raise QamroError(f"{audio}: no audio file there (looked for {', '.join(AUDIO_ENDINGS)})")
    folder = audio.parent if audio.is_file() else audio
    ids, systems, files = [], [], []
    for path in paths:
        name, real = path.relative_to(folder), os.path.realpath(path)
        try:
            sounds = sounds_of(path) if is_tar(path) else {"": ""}
        except QamroError as error:
            if audio.is_file():
                raise
            logger.warning("%s; it is left out", error)  # among others, it is nobody's wish
            continue
        ids += [(name / sound).as_posix() for sound in sounds]
        systems += ["" if len(name.parts) == 1 else name.parts[0]] * len(sounds)
        files += [f"{real}/{member}" if member else real for member in sounds.values()]
    if not ids:
        raise QamroError(f"{audio}: no sample of its tars has sound")
    if names := [name for name in dict.fromkeys(systems) if name]:
        shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        logger.info("%s: folders are taken for systems, which --manifest names: %s", audio, shown)
    return _dataset("audio", ids, systems, files)


def _dataset(
    name: str, ids: Sequence[str], systems: Sequence[str], paths: Sequence[str]
) -> Dataset:
    refuse_lost([*ids, *systems, *paths], name)
    clips = pd.DataFrame("", range(len(ids)), list(CLIP_COLUMNS), dtype=object)
    for column, values in {"clip_id": ids, "system": systems, "path": paths}.items():
        clips[column] = pd.Series(values, dtype=object)
    return Dataset(name, clips, labels_from_means((), np.empty((len(ids), 0))))


def clips_of_list(data: bytes) -> Dataset:
    """Return the files that a list names, a line each (or, of ``find -print0``, a NUL after each).

    A clip is called as its line is; blank lines are none, and a file that is named twice is one.

    Raises:
        QamroError: it names none.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()
    names = [os.fsdecode(line) for line in lines if line.strip()]
    once = list(dict.fromkeys(names))
    if not once:
        raise QamroError("--audio -: stdin names no file; give a path a line, as find prints them")
    if len(once) < len(names):
        logger.warning("--audio -: %d files are named twice", len(names) - len(once))
    return _dataset("stdin", once, [""] * len(once), [os.path.realpath(name) for name in once])


def grouped(clips: Dataset, by: str) -> Dataset:
    """Return clips with groups: by the folder that each lies in, or by a regular expression.

    Args:
        clips: of `clips_of_folder`.
        by: ``folder``; a pattern, whose first group (or whole match) in a clip's name is its group,
            empty where it does not match; or nothing.

    Raises:
        OptionError: it is no pattern, or matches no clip.
    """
    if not by:
        return clips
    names = clips.clips["clip_id"]
    if by == "folder":
        groups = [PurePosixPath(name).parent.as_posix() for name in names]
    else:
        try:
            search = searcher(by, Path("--group-by"))
        except regex.error as error:
            raise OptionError(
                f"--group-by {quoted(by)} is no regular expression: {error}"
            ) from error
        found = [search(name) for name in names]
        groups = ["" if one is None else one[1 if one.re.groups else 0] or "" for one in found]
        if not any(groups):
            raise OptionError(f"--group-by {quoted(by)} matches no clip, such as {names.iloc[0]!r}")
    return replace(clips, clips=clips.clips.assign(group=groups))


def with_company(clips: Dataset, others: Sequence[Path], by: str) -> tuple[Dataset, frozenset[str]]:
    """Add the clips of manifests or folders, and return their ids, which are new ones."""
    added: list[str] = []
    for number, path in enumerate(others):
        more = (grouped(clips_of_folder(path), by) if path.is_dir() else load_manifest(path)).clips
        ids = {str(name): f"company{number}:{name}" for name in more["clip_id"]}
        # Their references are among them.
        named = [ids.get(name, name) for name in more["reference"]]
        more = more.assign(clip_id=list(ids.values()), reference=named)
        table = pd.concat([clips.clips, more], ignore_index=True).fillna("")
        clips = replace(clips, clips=table, labels=labels_from_means((), np.empty((len(table), 0))))
        added += ids.values()
    return clips, frozenset(added)
