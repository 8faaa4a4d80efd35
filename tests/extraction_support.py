"""What the tests of the extraction share: small sets of clips, and equality of caches."""

import itertools
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import soundfile
from fake_encoder import FakeEncoder

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


def run_child(
    dataset: Dataset,
    out: Path,
    *,
    pause: float = 0.0,
    unit: int = 4,
    die_at: int = 0,
    largest_file: int = 0,
    log: Path | None = None,
) -> None:
    """Extract in a process of its own, in small units and shards; for use with ``processes``.

    Args:
        dataset: what to extract.
        out: cache file.
        pause: seconds that the encoder takes longer for a batch.
        unit: clips a unit.
        die_at: SIGKILL itself at this call that changes or syncs a file; 0: never.
        largest_file: bytes beyond which writing fails, as on a full disk; 0: no limit.
        log: file for the error message, if any.
    """
    from qamro_cache.errors import QamroError
    from qamro_cache.extraction import extract, shards

    shards.SHARD_SECONDS = 0.02
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if die_at:
        _die_at_call(die_at)
    try:
        extract.extract(dataset, out, FakeEncoder(pause=pause), workers=2, batch_size=unit)
    except QamroError as error:
        if log is not None:
            log.write_text(str(error))
        sys.exit(1)


def _die_at_call(number: int) -> None:
    left = itertools.count(number - 1, -1)

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **keywords)

        return wrapped

    for name in ("pwrite", "fsync", "open", "close"):
        setattr(os, name, deadly(getattr(os, name)))
    for method in ("replace", "unlink", "mkdir"):
        setattr(Path, method, deadly(getattr(Path, method)))
    h5py.File.close = deadly(h5py.File.close)  # type: ignore[method-assign]


def processes() -> Any:
    """Return a context whose processes start at once, with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "soxr", "extraction_support", "qamro_cache.extraction.pipeline"]
    )
    return context
