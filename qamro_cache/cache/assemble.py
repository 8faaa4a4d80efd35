"""Put rows of several cache files into a new one, in any order, in bounded memory."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.cache.checks import check_content
from qamro_cache.cache.container import Blocks, whole
from qamro_cache.cache.container_writer import write_container
from qamro_cache.cache.content import (
    Array,
    CacheContent,
    Header,
    offsets_of,
    pick_text,
    unique_prompts,
)
from qamro_cache.cache.index import nbytes_of
from qamro_cache.cache.layout import arrays_of, attributes_of
from qamro_cache.cache.tables import Tables
from qamro_cache.cache.writer import check_file
from qamro_cache.datasets.records import Labels

#: Bytes of features in memory at once.
PIECE = 64 << 20


def assemble(
    out: Path,
    header: Header,
    sources: Sequence[Tables],
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
        QamroError: a source is damaged or was replaced meanwhile, or the disk is full.
    """
    spans = _spans(order, [source.offsets for source in sources])
    prints = _spans(order, [source.fingerprint_offsets for source in sources])
    counts = spans[:, 2] - spans[:, 1]
    prompts = unique_prompts(clips["prompt"].tolist())
    used = [sources[index] for index in np.unique(order[:, 0])] or list(sources)
    text = {
        name: pick_text(
            prompts,
            [(s.prompts, s.container.load(f"text_features/{name}")) for s in used],
        )
        for name in header.identity["text_features"]
    }
    content = CacheContent(
        clips,
        labels,
        offsets_of(counts),
        _gather([source.weights for source in sources], spans, np.float32),
        _gather([source.starts for source in sources], spans, np.int64),
        {},
        prompts,
        text,
    )
    bare = Header({**header.identity, "features": {}})
    check_content(content, bare)
    arrays = arrays_of(content)
    offsets = offsets_of(prints[:, 2] - prints[:, 1])
    arrays["fingerprints/offsets"] = whole(offsets)
    arrays["fingerprints/values"] = Blocks(
        np.dtype(np.uint8),
        (int(offsets[-1]),),
        _pieces(sources, used, prints, "fingerprints/values"),
    )
    dtype = np.dtype(header.identity["stored_dtype"])
    for name, shape in header.identity["features"].items():
        rows = (int(counts.sum()), *shape)
        arrays[f"features/{name}"] = Blocks(
            dtype, rows, _pieces(sources, used, spans, f"features/{name}")
        )
    write_container(out, attributes_of(header), arrays, partial(_verify, sources))


def _verify(sources: Sequence[Tables], new: Path) -> None:
    check_file(new)
    # Else what another command has added to the output meanwhile would be gone without a word.
    for source in sources:
        source.container.refuse_another()


def _spans(
    order: npt.NDArray[np.int64], offsets: Sequence[npt.NDArray[np.int64]]
) -> npt.NDArray[np.int64]:
    """Return [C, 3]: source, first entry, last entry (exclusive) of each new row."""
    spans = np.zeros((len(order), 3), np.int64)
    spans[:, 0] = order[:, 0]
    for index, starts in enumerate(offsets):
        mine = order[:, 0] == index
        rows = order[mine, 1]
        spans[mine, 1] = starts[rows]
        spans[mine, 2] = starts[rows + 1]
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


def _pieces(
    sources: Sequence[Tables],
    used: Sequence[Tables],
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
