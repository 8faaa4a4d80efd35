"""Join the files of one identity into one, each clip once."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache.cache.assemble import assemble
from qamro_cache.cache.checks import join_datasets, join_licenses, refuse_mixture
from qamro_cache.cache.content import Header
from qamro_cache.cache.layout import LABEL_COLUMNS
from qamro_cache.cache.reader import CacheLike, cache_files
from qamro_cache.cache.tables import Tables, open_tables
from qamro_cache.datasets.joined import concatenate_labels
from qamro_cache.datasets.records import select_labels
from qamro_cache.errors import QamroError
from qamro_cache.files import plain_target
from qamro_cache.paths import PathLike, as_list, as_path

logger = logging.getLogger("qamro_cache")

#: Two extractions of one clip are the same if they differ by less than this, relative to the
#: feature's largest value: another batch size or another GPU moves the last digits.
SAME = 1e-3


def refuse_loss(out: Path, identity: Mapping[str, Any], clip_ids: Iterable[str]) -> None:
    """Refuse to replace a file that is no cache, or a cache of which something would be lost.

    Args:
        out: file that is to be made.
        identity: of what will be in it.
        clip_ids: likewise.
    """
    if not plain_target(out).exists():
        return
    there = open_tables(out)
    refuse_mixture(Path("the new file"), identity, out, there.header.identity)
    lost = set(there.clips["clip_id"]) - set(clip_ids)
    if lost:
        raise QamroError(
            f"{out} is there already and holds {len(lost)} clips that would be lost "
            f"(one is {min(lost)!r}); give another --out, or move the file away"
        )


def merge_caches(caches: Sequence[CacheLike], out: PathLike) -> int:
    """Join caches (files, or open) of one identity into the file ``out``, in the order given.

    Shards of one run are ordered by their numbers. A clip that several files have is kept once if
    it is the same in all of them.

    Returns:
        The number of clips in ``out``.

    Raises:
        QamroError: identities, axes or the two versions of a clip differ; a file is damaged;
            ``out`` exists and is no cache, or would lose clips.
    """
    out = as_path(out)
    paths = [path for cache in as_list(caches) for path in cache_files(cache)]
    if not paths:
        raise QamroError("no cache file was given")
    sources = _by_shard([open_tables(path) for path in paths])
    first = sources[0]
    ids = (clip_id for source in sources for clip_id in source.clips["clip_id"])
    refuse_loss(out, first.header.identity, ids)
    for source in sources[1:]:
        where, theirs = source.container.path, source.header.identity
        refuse_mixture(first.container.path, first.header.identity, where, theirs)
    seen: dict[str, tuple[int, int]] = {}
    order: list[tuple[int, int]] = []
    for index, source in enumerate(sources):
        for row, clip_id in enumerate(source.clips["clip_id"]):
            if clip_id in seen:
                kept, kept_row = seen[clip_id]
                _refuse_difference(clip_id, sources[kept], kept_row, source, row)
            else:
                seen[clip_id] = (index, row)
                order.append((index, row))
    picked = np.array(order, np.int64).reshape(-1, 2)
    starts = np.cumsum([0] + [len(source.clips) for source in sources])
    rows = starts[picked[:, 0]] + picked[:, 1]
    clips = pd.concat([source.clips for source in sources], ignore_index=True)
    tests = [source.clips["source"].to_numpy(object) for source in sources]
    labels = concatenate_labels([source.labels for source in sources], tests)
    provenance = {key: v for key, v in first.header.provenance.items() if key != "shard"}
    header = Header(
        first.header.identity,
        join_datasets(source.header.dataset for source in sources),
        any(source.header.synthetic for source in sources),
        {**provenance, "merged_files": len(sources)},
        join_licenses([source.header.licenses for source in sources]),
    )
    assemble(
        out,
        header,
        sources,
        picked,
        clips.iloc[rows].reset_index(drop=True),
        select_labels(labels, rows),
    )
    return len(order)


def _by_shard(sources: list[Tables]) -> list[Tables]:
    """Order the shards of one run by their numbers, and say which are missing."""
    numbers = [str(source.header.provenance.get("shard", "")).partition("/") for source in sources]
    totals = {total for _, _, total in numbers}
    if len(totals) != 1 or not all(a.isdecimal() and b.isdecimal() for a, _, b in numbers):
        return sources
    mine = [int(number) for number, _, _ in numbers]
    missing = sorted(set(range(1, min(int(totals.pop()), 1_000_000) + 1)) - set(mine))
    if missing:
        logger.warning(
            "of the run's shards, %d are not among these files: %s",
            len(missing),
            ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else ""),
        )
    return [sources[index] for index in np.argsort(mine, kind="stable")]


def _refuse_difference(clip_id: str, a: Tables, row: int, b: Tables, other: int) -> None:
    mine, yours = a.clips.iloc[row], b.clips.iloc[other]
    columns = ["audio_sha256", "status", "prompt", *LABEL_COLUMNS]
    odd = [name for name in columns if mine[name] != yours[name]]
    rows = (a, row), (b, other)
    one, two = (select_labels(source.labels, np.array([index])) for source, index in rows)
    if not np.array_equal(one.mean, two.mean, equal_nan=True):
        odd.append("ratings")
    span, other_span = (slice(*source.offsets[index : index + 2]) for source, index in rows)
    if not odd and not np.array_equal(a.starts[span], b.starts[other_span]):
        odd.append("windows")
    if not odd:
        for name in a.header.identity["features"]:
            left = a.container.rows(f"features/{name}", span.start, span.stop)
            right = b.container.rows(f"features/{name}", other_span.start, other_span.stop)
            largest = float(np.abs(left).max(initial=0))
            if not np.allclose(left, right, rtol=0, atol=SAME * largest):
                odd.append(f"feature {name}")
    if odd:
        raise QamroError(
            f"clip {clip_id!r} is in {a.container.path} and in {b.container.path} with another "
            f"{', another '.join(odd)}; leave one of the files out"
        )
