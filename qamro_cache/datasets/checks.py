"""Describe and check a rated set before anything is computed from it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.audio.open import file_state, open_regular
from qamro_cache.datasets.findings import findings_of
from qamro_cache.datasets.headers import open_headers
from qamro_cache.datasets.overview import (
    count_names,
    describe_axes,
    describe_raters,
    describe_splits,
    describe_systems,
    prompt_keys,
)
from qamro_cache.datasets.raters import with_raters_apart
from qamro_cache.datasets.records import Dataset
from qamro_cache.errors import ClipError, QamroError


def check_dataset(dataset: Dataset, *, read_audio: bool = True) -> dict[str, Any]:
    """Describe and check a rated set; needs neither an encoder nor a GPU.

    Args:
        dataset: what to check.
        read_audio: open the files' headers, all or a sample, and find equal files
            by hash; only files of equal size are read in full.

    Returns:
        JSON types only. ``splits`` (by name: clips, labeled, systems, groups, prompts, missing
        audio, and what each shares with the splits before it), ``systems`` (by name: clips and
        mean scores), ``axes`` (by name: scale, mean, std, ratings), ``prompts``, ``raters``,
        ``audio`` (files that are there, how many headers were opened, how many could not be read),
        ``problems`` (a list of ``code`` and ``message``), and ``dataset``, ``clips``,
        ``synthetic``, ``license``, ``source``, ``notes``.
    """
    dataset = with_raters_apart(dataset)
    clips = dataset.clips
    labeled = np.isfinite(dataset.labels.mean).any(axis=1)
    paths = list(clips["path"])
    sizes = file_sizes(paths)
    same_audio = equal_files(paths, sizes) if read_audio else None
    headers = open_headers(paths, sizes >= 0) if read_audio else None
    rows_of = {
        str(name): (clips["split"] == name).to_numpy(dtype=bool)
        for name in pd.unique(clips["split"])
    }
    splits = describe_splits(dataset, rows_of, labeled, sizes < 0, same_audio)
    return {
        "dataset": dataset.name,
        "synthetic": dataset.synthetic,
        "license": dataset.license,
        "source": dataset.source,
        "clips": len(clips),
        "notes": list(dataset.notes),
        "splits": splits,
        "systems": describe_systems(dataset),
        "axes": describe_axes(dataset.labels),
        "prompts": {
            "unique": count_names(prompt_keys(dataset)),
            "clips_with_text": int((clips["prompt"] != "").sum()),
        },
        "groups": {"unique": count_names(clips["group"]), "kind": dataset.group_kind},
        "raters": describe_raters(dataset.labels),
        "audio": None if headers is None else headers.record(),
        "problems": findings_of(dataset, splits, rows_of, sizes, same_audio, headers),
    }


def file_sizes(paths: Sequence[str]) -> npt.NDArray[np.int64]:
    """Bytes of every file, -1 where there is none."""
    sizes = np.full(len(paths), -1, np.int64)
    for row, path in enumerate(paths):
        try:
            sizes[row], _ = file_state(path)
        except (OSError, QamroError):
            continue
    return sizes


def equal_files(paths: Sequence[str], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A number a file; equal content has equal numbers, and -1 is a file that is not there."""
    number = np.arange(len(sizes), dtype=np.int64)
    number[sizes < 0] = -1
    by_size = pd.Series(np.arange(len(sizes))).groupby(sizes).indices
    for size, rows in by_size.items():
        if int(size) < 0 or len(rows) < 2:  # type: ignore[call-overload]
            continue
        seen: dict[bytes, int] = {}
        for row in rows:
            try:
                with (
                    open_regular(Path(paths[row])) as handle,
                    open(handle, "rb", closefd=False) as file,
                ):
                    digest = hashlib.file_digest(file, "sha256").digest()
            except ClipError:
                continue
            number[row] = seen.setdefault(digest, int(row))
    return number
