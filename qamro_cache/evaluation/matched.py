"""Predictions beside the clips of the labels that they are of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.ids import match_ids
from qamro_cache.datasets.records import Dataset
from qamro_cache.datasets.selection import select_rows
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.judged import codes_of
from qamro_cache.evaluation.options import EvaluateOptions


@dataclass(frozen=True)
class Found:
    """Predictions beside the clips of the truth that they are of.

    Attributes:
        table: rows of predictions whose clip has labels.
        rows: [C] the clips of the truth that are scored.
        system: [C] of these, -1 for none.
        position: clip id as predicted -> place among ``rows``.
        unlabeled: predicted clips that the truth does not have.
    """

    table: pd.DataFrame
    rows: npt.NDArray[np.int64]
    system: npt.NDArray[np.int64]
    position: Mapping[str, int]
    unlabeled: int

    def places(self, part: pd.DataFrame) -> npt.NDArray[np.int64]:
        """Return the place among ``rows`` of each row of ``part``."""
        return np.asarray(part["clip_id"].map(self.position), np.int64)

    def by_seed(self, part: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Return the predictions [seeds, C] of some rows, NaN where a clip has none."""
        seeds = {seed: row for row, seed in enumerate(dict.fromkeys(part["seed"]))}
        out = np.full((len(seeds), len(self.rows)), np.nan)
        out[part["seed"].map(seeds).to_numpy(np.int64), self.places(part)] = part["prediction"]
        return out

    def said(self, part: pd.DataFrame) -> npt.NDArray[np.str_] | None:
        """Return what rows say of each clip's training [C]; None where they say nothing."""
        if "trained_on" not in part:
            return None
        said = np.full(len(self.rows), "", "U4")
        said[self.places(part)] = part["trained_on"]
        return said


def match(table: pd.DataFrame, truth: Dataset, options: EvaluateOptions, path: Path) -> Found:
    """Find the clips of the truth that were predicted."""
    clips = truth.clips
    splits = [f"split={options.split}"] if options.split else []
    rows = np.flatnonzero(select_rows(clips, [*options.only, *splits], options.without))
    table = table[table["prediction"].notna()]
    predicted = list(dict.fromkeys(table["clip_id"]))
    if not predicted:
        raise QamroError(f"{path}: no row has a prediction; see its column reason")
    at = match_ids(predicted, list(clips["clip_id"]))
    if (at < 0).all():
        raise QamroError(
            f"{path}: none of its clips is in the labels: it has {predicted[0]!r}, they "
            f"have {clips['clip_id'].iloc[0]!r}; are these the labels of the same clips?"
        )
    position = {predicted[at[row]]: k for k, row in enumerate(rows) if at[row] >= 0}
    if not position:
        raise QamroError(f"{path}: none of its clips is among the {len(rows)} that were chosen")
    system = codes_of(clips["system"].to_numpy(dtype=str))[rows]
    known = table[table["clip_id"].isin(position.keys())]
    return Found(known, rows, system, position, len(predicted) - int((at >= 0).sum()))
