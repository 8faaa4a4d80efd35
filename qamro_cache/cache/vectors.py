"""A vector a clip, for scikit-learn and the like: windows pooled as heads pool them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.records import Labels

Floats = npt.NDArray[np.float32]
Names = npt.NDArray[np.object_]

#: What the table of clip vectors says of a clip, before its labels.
_COLUMNS = ("system", "group", "split", "prompt")


class ClipArrays(NamedTuple):
    """The rated clips of a cache, N of them.

    Attributes:
        X: [N, D] float32, a vector a clip.
        y: [N] float64, the mean rating on one axis.
        groups: [N] str, empty for a clip of no group.
        systems: [N] str, likewise.
        clip_ids: [N] str.
    """

    X: Floats
    y: npt.NDArray[np.float64]
    groups: Names
    systems: Names
    clip_ids: Names


def pool_windows(
    windows: npt.NDArray[np.generic], offsets: npt.NDArray[np.int64], weights: Floats
) -> Floats:
    """Return each clip's mean over its windows [C, D], weighted; NaN for a clip without any.

    Args:
        windows: [W, ...], flattened here.
        offsets: [C+1], clip c has the windows ``offsets[c]`` to ``offsets[c+1]``.
        weights: [W], the fraction of each window that is audio.
    """
    flat = windows.reshape(len(windows), -1)
    out = np.full((len(offsets) - 1, flat.shape[1]), np.nan, np.float32)
    # A clip at a time: no second copy of all windows.
    for clip in np.flatnonzero(np.diff(offsets)):
        part = slice(offsets[clip], offsets[clip + 1])
        share = weights[part].astype(np.float64)
        out[clip] = (share / share.sum()) @ flat[part].astype(np.float64)
    return out


def vector_table(
    clips: pd.DataFrame, labels: Labels, name: str, shape: tuple[int, ...], vectors: Floats
) -> pd.DataFrame:
    """Return the clips that have a vector as one table; see `Cache.table`."""
    rows = np.flatnonzero((clips["status"] == "ok").to_numpy())
    about = clips.loc[rows, list(_COLUMNS)]
    scores = pd.DataFrame(labels.mean[rows], rows, [axis.name for axis in labels.axes])
    names = ["_".join([name, *map(str, place)]) for place in np.ndindex(*shape)]
    table = pd.concat([about, scores, pd.DataFrame(vectors[rows], rows, names)], axis=1)
    return table.set_axis(pd.Index(clips["clip_id"].iloc[rows], name="clip_id"))


def rated_arrays(
    clips: pd.DataFrame, score: npt.NDArray[np.float64], vectors: Floats
) -> ClipArrays:
    """Return the clips that have a vector and a score [C]; see `Cache.arrays`."""
    rows = np.flatnonzero((clips["status"] == "ok").to_numpy() & np.isfinite(score))
    groups, systems, ids = (
        clips[name].iloc[rows].to_numpy(object) for name in ("group", "system", "clip_id")
    )
    return ClipArrays(vectors[rows], score[rows], groups, systems, ids)
