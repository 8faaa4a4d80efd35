"""What the tests of the extraction share: small sets of clips, and equality of caches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from qamro_cache.cache.container import open_container
from qamro_cache.datasets.records import Axis, Dataset, Labels, Ratings, labels_from_ratings


def make_clips(folder: Path, size: int, *, seconds: Sequence[float] = (0.3, 0.7, 1.3)) -> Dataset:
    """Write noises as WAV files of several lengths and rates, with prompts and raters."""
    rng = np.random.default_rng(size)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(size):
        rate = (16000, 22050)[index % 2]
        length = int(seconds[index % len(seconds)] * rate)
        path = folder / f"clip{index:04d}.wav"
        soundfile.write(path, rng.standard_normal(length).astype(np.float32) * 0.1, rate)
        rows.append(
            {
                "clip_id": f"clip{index:04d}",
                "path": str(path),
                "system": f"S{index % 5}",
                "group": f"G{index % 7}",
                "prompt": f"prompt {index % 11}" if index % 4 else "",
                "split": "train" if index % 3 else "dev",
            }
        )
    clip = np.repeat(np.arange(size, dtype=np.int32), 3)
    ratings = Ratings(
        clip,
        np.zeros(3 * size, np.int16),
        np.tile(np.arange(3, dtype=np.int32), size),
        rng.integers(1, 6, 3 * size).astype(np.float64),
        ("a", "b", "c"),
    )
    labels: Labels = labels_from_ratings((Axis("quality", 1.0, 5.0),), size, ratings)
    return Dataset("noises", pd.DataFrame(rows), labels, synthetic=True)


def digests(path: Path) -> dict[str, str]:
    """The checksum of every array of a cache and its identity: equal if the content is equal."""
    container = open_container(path)
    found = {name: f"{e.shape}{e.dtype}{e.xxh3}" for name, e in container.extents.items()}
    for name in container.extents:
        container.check(name)
    return found | {"identity": container.attributes["identity_sha256"]}
