"""A folder of audio as clips to be scored."""

import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd

from qamro_cache.audio.endings import AUDIO_ENDINGS, find_audio, others_message
from qamro_cache.datasets.records import CLIP_COLUMNS, Dataset, labels_from_means
from qamro_cache.errors import QamroError

logger = logging.getLogger("qamro_cache")


def clips_of_folder(audio: Path) -> Dataset:
    """Return the audio files of a folder (searched below), or one file, as clips.

    A clip's system is the folder that it lies in, the first below ``audio``.

    Raises:
        QamroError: there is none.
    """
    if not audio.exists():
        raise QamroError(f"{audio}: no such file or folder")
    paths, others = ([audio], []) if audio.is_file() else find_audio(audio)
    if others:
        logger.warning("%s: %s", audio, others_message(audio, others))
    if not paths:
        raise QamroError(f"{audio}: no audio file there (looked for {', '.join(AUDIO_ENDINGS)})")
    folder = audio.parent if audio.is_file() else audio
    clips = pd.DataFrame("", index=range(len(paths)), columns=list(CLIP_COLUMNS))
    names = [path.relative_to(folder) for path in paths]
    clips["clip_id"] = [name.as_posix() for name in names]
    clips["system"] = ["" if len(name.parts) == 1 else name.parts[0] for name in names]
    clips["path"] = [os.path.realpath(path) for path in paths]
    return Dataset("audio", clips, labels_from_means((), np.empty((len(paths), 0))))
