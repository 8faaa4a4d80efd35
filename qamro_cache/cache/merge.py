"""Put the rows of several cache files into one, in any order, in bounded memory."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.cache.container import (
    Blocks,
    Container,
    nbytes_of,
    open_container,
)
from qamro_cache.cache.container_writer import write_container
from qamro_cache.cache.content import (
    Array,
    CacheContent,
    Header,
    check_content,
    pick_text,
    unique_prompts,
)
from qamro_cache.cache.layout import arrays_of, attributes_of
from qamro_cache.cache.reader import refuse_mixture
from qamro_cache.cache.tables import Tables
from qamro_cache.cache.writer import check_file
from qamro_cache.datasets.records import Labels, concatenate_labels, select_labels
from qamro_cache.errors import QamroError

logger = logging.getLogger("qamro_cache")

#: Bytes of features in memory at once.
PIECE = 64 << 20
#: Two extractions of one clip are the same if they differ by less than this, relative to the
#: feature's largest value: another batch size or another GPU moves the last digits.
SAME = 1e-3


@dataclass(frozen=True)
class Source:
    """An opened file: its directory, its header and its tables."""

    container: Container
    header: Header
    content: CacheContent


def open_source(path: Path) -> Source:
    """Open a file for merging."""
    if not path.exists():
        raise QamroError(f"there is no cache {path}; qamro-extract makes one")
    container = open_container(path)
    tables = Tables(container)
    return Source(container, tables.header, tables.content())


def assemble(
    out: Path,
    header: Header,
    sources: Sequence[Source],
    order: npt.NDArray[np.int64],
    clips: pd.DataFrame,
    labels: Labels,
) -> None:
    """Write rows of several files into a new file.

    Args:
        out: file to make; it may be one of the sources, and is replaced at the end.
        header: of the new file.
        sources: files of the header's identity.
        order: [C, 2] int64, for each row of the new file its source and its row in there.
        clips: [C] the new clip table.
        labels: of the same rows.

    Raises:
        QamroError: a source is damaged, or the disk is full.
    """
    spans = _window_spans(sources, order)
    counts = spans[:, 2] - spans[:, 1]
    prompts = unique_prompts(clips["prompt"].tolist())
    used = [sources[index] for index in np.unique(order[:, 0])] or list(sources)
    text = {
        name: pick_text(
            prompts,
            [(s.content.prompts, s.container.load(f"text_features/{name}")) for s in used],
        )
        for name in header.identity["text_features"]
    }
    content = CacheContent(
        clips,
        labels,
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        _gather([source.content.weights for source in sources], spans, np.float32),
        _gather([source.content.starts for source in sources], spans, np.int64),
        {},
        prompts,
        text,
    )
    bare = Header({**header.identity, "features": {}})
    check_content(content, bare)
    arrays = arrays_of(content)
    dtype = np.dtype(header.identity["stored_dtype"])
    for name, shape in header.identity["features"].items():
        rows = (int(counts.sum()), *shape)
        arrays[f"features/{name}"] = Blocks(
            dtype, rows, _feature_pieces(sources, used, spans, f"features/{name}")
        )
    write_container(out, attributes_of(header), arrays, check_file)


def _window_spans(sources: Sequence[Source], order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return [C, 3]: source, first window, last window (exclusive) of each new row."""
    spans = np.zeros((len(order), 3), np.int64)
    spans[:, 0] = order[:, 0]
    for index, source in enumerate(sources):
        mine = order[:, 0] == index
        rows = order[mine, 1]
        spans[mine, 1] = source.content.offsets[rows]
        spans[mine, 2] = source.content.offsets[rows + 1]
    return spans


def _runs(spans: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Join spans that follow one another in one source."""
    run: tuple[int, int, int] | None = None
    for source, first, last in spans.tolist():
        if first == last:
            continue
        if run is not None and run[0] == source and run[2] == first:
            run = (source, run[1], last)
            continue
        if run is not None:
            yield run
        run = (source, first, last)
    if run is not None:
        yield run


def _gather(arrays: Sequence[Array], spans: npt.NDArray[np.int64], dtype: Any) -> Array:
    pieces = [arrays[source][first:last] for source, first, last in _runs(spans)]
    return np.concatenate([np.zeros(0, dtype), *pieces])


def _feature_pieces(
    sources: Sequence[Source],
    used: Sequence[Source],
    spans: npt.NDArray[np.int64],
    name: str,
) -> Iterator[Array]:
    for source in used:
        source.container.check(name)
    for index, first, last in _runs(spans):
        container = sources[index].container
        extent = container.extents[name]
        step = max(1, PIECE // max(1, nbytes_of(extent.dtype, extent.shape[1:])))
        for start in range(first, last, step):
            yield container.rows(name, start, min(start + step, last))


def refuse_loss(out: Path, identity: Mapping[str, Any], clip_ids: Iterable[str]) -> None:
    """Refuse to replace a file that is no cache, or a cache of which something would be lost.

    Args:
        out: file that is to be made.
        identity: of what will be in it.
        clip_ids: likewise.
    """
    if not out.exists():
        return
    there = open_source(out)
    refuse_mixture(Path("the new file"), identity, out, there.header.identity)
    lost = set(there.content.clips["clip_id"]) - set(clip_ids)
    if lost:
        raise QamroError(
            f"{out} is there already and holds {len(lost)} clips that would be lost "
            f"(one is {min(lost)!r}); give another --out, or move the file away"
        )


def merge_caches(paths: Sequence[Path], out: Path) -> int:
    """Join caches of one identity, in the order given; the shards of one run by their numbers.

    A clip that several files have is kept once if it is the same in all of them.

    Returns:
        The number of clips in ``out``.

    Raises:
        QamroError: identities, axes or the two versions of a clip differ; a file is damaged;
            ``out`` exists and is no cache, or would lose clips.
    """
    if not paths:
        raise QamroError("no cache file was given")
    sources = _by_shard([open_source(path) for path in paths])
    first = sources[0]
    ids = (clip_id for source in sources for clip_id in source.content.clips["clip_id"])
    refuse_loss(out, first.header.identity, ids)
    for source in sources[1:]:
        refuse_mixture(
            first.container.path,
            first.header.identity,
            source.container.path,
            source.header.identity,
        )
    seen: dict[str, tuple[int, int]] = {}
    order: list[tuple[int, int]] = []
    for index, source in enumerate(sources):
        for row, clip_id in enumerate(source.content.clips["clip_id"]):
            if clip_id in seen:
                kept, kept_row = seen[clip_id]
                _refuse_difference(clip_id, sources[kept], kept_row, source, row)
            else:
                seen[clip_id] = (index, row)
                order.append((index, row))
    picked = np.array(order, np.int64).reshape(-1, 2)
    starts = np.cumsum([0] + [len(source.content.clips) for source in sources])
    rows = starts[picked[:, 0]] + picked[:, 1]
    clips = pd.concat([source.content.clips for source in sources], ignore_index=True)
    labels = concatenate_labels([source.content.labels for source in sources])
    names = dict.fromkeys(source.header.dataset for source in sources)
    provenance = {key: v for key, v in first.header.provenance.items() if key != "shard"}
    header = Header(
        first.header.identity,
        "+".join(names),
        any(source.header.synthetic for source in sources),
        {**provenance, "merged_files": len(sources)},
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


def _by_shard(sources: list[Source]) -> list[Source]:
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


def _refuse_difference(clip_id: str, a: Source, row: int, b: Source, other: int) -> None:
    ours, theirs = a.content, b.content
    mine, yours = ours.clips.iloc[row], theirs.clips.iloc[other]
    columns = ["audio_sha256", "status", "prompt", "system", "group", "split"]
    odd = [name for name in columns if mine[name] != yours[name]]
    one, two = (
        select_labels(content.labels, np.array([index]))
        for content, index in ((ours, row), (theirs, other))
    )
    if not np.array_equal(one.mean, two.mean, equal_nan=True):
        odd.append("ratings")
    span, other_span = (
        slice(content.offsets[index], content.offsets[index + 1])
        for content, index in ((ours, row), (theirs, other))
    )
    if not odd and not np.array_equal(ours.starts[span], theirs.starts[other_span]):
        odd.append("windows")
    if not odd:
        for name in a.header.identity["features"]:
            left = a.container.rows(f"features/{name}", span.start, span.stop)
            right = b.container.rows(f"features/{name}", other_span.start, other_span.stop)
            scale = float(np.abs(left).max(initial=0))
            if not np.allclose(left, right, rtol=0, atol=SAME * scale):
                odd.append(f"feature {name}")
    if odd:
        raise QamroError(
            f"clip {clip_id!r} is in {a.container.path} and in {b.container.path} with another "
            f"{', another '.join(odd)}; leave one of the files out"
        )
