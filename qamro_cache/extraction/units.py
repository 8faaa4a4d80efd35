"""Units of work: as many clips of the manifest, in its order, as a batch or some have windows.

A slow machine has small units, so that little is lost when it is stopped. Batches never cross a
unit and a shard is a whole number of units, so what a clip is batched with does not depend on
where an earlier run was stopped.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from qamro_cache.errors import QamroError

#: Windows a batch where none are named.
CPU_BATCH, GPU_BATCH = 8, 64
#: Clips a unit on a GPU, in batches: a unit's last batch is not full.
GPU_UNIT = 4


class ClipJob(NamedTuple):
    """A clip to be encoded."""

    clip_id: str
    path: str
    prompt: str


#: Clips whose windows share batches.
Unit = tuple[ClipJob, ...]


def default_batch(device: str) -> int:
    """Return the batch size for a device."""
    return CPU_BATCH if device.startswith("cpu") else GPU_BATCH


def unit_size(batch_size: int, device: str) -> int:
    """Return the clips of a unit on a device."""
    return batch_size if device.startswith("cpu") else GPU_UNIT * batch_size


def available_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def plan_units(clips: pd.DataFrame, done: Collection[str], size: int) -> list[Unit]:
    """Cut a clip table into units and leave out the clips that are done."""
    jobs = jobs_of(clips)
    cut = (jobs[first : first + size] for first in range(0, len(jobs), size))
    todo = (tuple(job for job in unit if job.clip_id not in done) for unit in cut)
    return [unit for unit in todo if unit]


def jobs_of(clips: pd.DataFrame) -> Unit:
    """Return the rows of a clip table as jobs, all in one unit."""
    columns = (clips[name].tolist() for name in ClipJob._fields)
    return tuple(ClipJob(*row) for row in zip(*columns, strict=True))


def shard_rows(num_clips: int, shard: tuple[int, int], size: int) -> tuple[int, int]:
    """Return the first and last (exclusive) row of shard i of n: whole units, in order.

    Raises:
        QamroError: there are more parts than units, and none is left for this one.
    """
    index, count = shard
    units = -(-num_clips // size)
    first, last = units * (index - 1) // count, units * index // count
    if first == last:
        raise QamroError(
            f"part {index}/{count} holds no clips: there are {num_clips}, in {units} units of "
            f"{size}; use at most {units} parts, or a smaller --batch-size"
        )
    return min(first * size, num_clips), min(last * size, num_clips)


def shard_path(out: Path, shard: tuple[int, int]) -> Path:
    """Return the file of shard i of n, for example ``emb-00002-of-00008.h5``."""
    return out.with_name(f"{out.stem}-{shard[0]:05d}-of-{shard[1]:05d}{out.suffix}")
