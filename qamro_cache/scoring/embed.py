"""Audio to embeddings with the encoder that a head was trained on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from qamro_cache.cache.reader import Cache, open_cache
from qamro_cache.datasets.records import CLIP_COLUMNS, Dataset, labels_from_means
from qamro_cache.encoders.protocol import WeightsOptions
from qamro_cache.encoders.registry import load_encoder, options_of
from qamro_cache.errors import QamroError
from qamro_cache.extraction.extract import extract
from qamro_cache.heads.file import Head

#: What libsndfile reads, by the file's ending.
AUDIO_ENDINGS = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif")


def clips_of_folder(audio: Path) -> Dataset:
    """Return the audio files of a folder (searched below), or one file, as clips.

    Raises:
        QamroError: there is none.
    """
    if not audio.exists():
        raise QamroError(f"{audio}: no such file or folder")
    found = [audio] if audio.is_file() else sorted(p for p in audio.rglob("*") if p.is_file())
    paths = [p for p in found if p.suffix.lower() in AUDIO_ENDINGS]
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
