"""The output: one cache file of the rows that all shards hold, written only if it changes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from qamro_cache.cache.assemble import assemble
from qamro_cache.cache.content import NUMBER_COLUMNS, Header, clip_table
from qamro_cache.cache.layout import label_arrays
from qamro_cache.cache.tables import Tables, open_tables
from qamro_cache.datasets.records import Dataset, Labels
from qamro_cache.errors import QamroError

_MEASURED = ("status", "reason", "audio_sha256", "samples_sha256", *NUMBER_COLUMNS)


def publish(dataset: Dataset, out: Path, header: Header, sources: Sequence[Tables]) -> Tables:
    """Make ``out`` of the rows of all files: the dataset's clips, in its order."""
    row_of = {
        clip_id: (index, row)
        for index, source in enumerate(sources)
        for row, clip_id in enumerate(source.clips["clip_id"])
    }
    missing = [clip_id for clip_id in dataset.clips["clip_id"] if clip_id not in row_of]
    if missing:
        raise QamroError(
            f"{len(missing)} clips have no row yet (one is {missing[0]!r}), because a shard was "
            "damaged; run the same command again"
        )
    order = np.array([row_of[clip_id] for clip_id in dataset.clips["clip_id"]], np.int64)
    starts = np.cumsum([0] + [len(source.clips) for source in sources])
    measured = pd.concat([source.clips for source in sources], ignore_index=True)
    measured = measured.iloc[starts[order[:, 0]] + order[:, 1]].reset_index(drop=True)
    clips = dataset.clips.reset_index(drop=True)
    clips = clip_table(clips.assign(**{name: measured[name] for name in _MEASURED}))
    old = sources[0]
    unchanged = (
        old.container.path == out
        and np.array_equal(order, [(0, row) for row in range(len(order))])
        and old.header.dataset == header.dataset
        and old.header.synthetic == header.synthetic
        and old.header.licenses == header.licenses
        and old.clips.equals(clips)
        and _same_labels(clips, old.labels, dataset.labels)
    )
    if not unchanged:
        assemble(out, header, sources, order, clips, dataset.labels)
    return open_tables(out)


def _same_labels(clips: pd.DataFrame, ours: Labels, theirs: Labels) -> bool:
    a, b = label_arrays(clips, ours), label_arrays(clips, theirs)
    return a.keys() == b.keys() and all(
        np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f") for name in a
    )
