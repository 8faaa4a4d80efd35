"""Audio to embeddings with the encoder that a head was trained on."""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from qamro_cache.audio.endings import AUDIO_ENDINGS, find_audio, others_message
from qamro_cache.cache.reader import Cache, open_cache
from qamro_cache.datasets.records import CLIP_COLUMNS, Dataset, labels_from_means
from qamro_cache.encoders.protocol import WeightsOptions
from qamro_cache.encoders.registry import load_encoder, options_of
from qamro_cache.errors import QamroError
from qamro_cache.extraction.extract import extract
from qamro_cache.heads.file import Head

logger = logging.getLogger("qamro_cache")


def clips_of_folder(audio: Path) -> Dataset:
    """Return the audio files of a folder (searched below), or one file, as clips.

    Raises:
        QamroError: there is none.
    """
    if not audio.exists():
        raise QamroError(f"{audio}: no such file or folder")
    paths, others = ([audio], Counter[str]()) if audio.is_file() else find_audio(audio)
    if others:
        logger.warning("%s: %s", audio, others_message(others))
    if not paths:
        raise QamroError(f"{audio}: no audio file there (looked for {', '.join(AUDIO_ENDINGS)})")
    folder = audio.parent if audio.is_file() else audio
    clips = pd.DataFrame("", index=range(len(paths)), columns=list(CLIP_COLUMNS))
    clips["clip_id"] = [path.relative_to(folder).as_posix() for path in paths]
    clips["path"] = [str(path.resolve()) for path in paths]
    return Dataset("audio", clips, labels_from_means((), np.empty((len(paths), 0))))


def embed(
    head: Head,
    clips: Dataset,
    out: Path,
    weights: WeightsOptions,
    *,
    device: str,
    progress: Callable[..., None] | None,
) -> Cache:
    """Extract clips with a head's encoder into a cache file ``out``, and open it."""
    options = options_of(head.identity, weights)
    encoder = load_encoder(str(head.identity["name"]), options, device)
    dtype = str(head.identity.get("stored_dtype", ""))
    extract(clips, out, encoder, device=device, dtype=dtype, progress=progress)
    return open_cache(out)
