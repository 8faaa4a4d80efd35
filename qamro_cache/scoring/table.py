"""The table of predictions as files: ``predictions.csv``, and a challenge's ``answer.txt``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from qamro_cache.datasets.answers import TRACK_AXES, answer_rows, write_answer
from qamro_cache.errors import QamroError
from qamro_cache.files import refuse_other, write_table

#: Of the table of predictions.
COLUMNS = (
    "clip_id",
    "system",
    "group",
    "axis",
    "seed",
    "fold",
    "prediction",
    "target",
    "scale",
    "std",
    "ood",
    "trained_on",
    "company",
    "reason",
)


def write_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write a table of predictions as CSV, whole or not at all; replace only an older one."""
    refuse_other_table(path)
    write_table(path, table)


def refuse_other_table(path: Path) -> None:
    """Refuse to replace anything but a table of `predict`; a command asks before the work, too."""

    def is_ours(path: Path) -> bool:
        with path.open("rb") as file:
            # The table of qamro-train, out of fold, has other columns and is not replaced either.
            return file.readline().rstrip() == ",".join(COLUMNS).encode()

    refuse_other(path, "table of qamro-predict", is_ours)


def refuse_answer(
    path: Path, axes: Sequence[str], clip_ids: Sequence[str], listed: Sequence[str] | None
) -> None:
    """Refuse an answer that cannot be written, before the clips are embedded.

    Args:
        path: the file to write.
        axes: that the head predicts.
        clip_ids: of the clips that there will be predictions for.
        listed: ids that the challenge asks for, or None.

    Raises:
        QamroError: the head lacks an axis of both tracks; and as `answer_rows`.
    """
    _track(path, axes)
    answer_rows(path, clip_ids, listed)


def write_answer_file(table: pd.DataFrame, path: Path, listed: Sequence[str] | None = None) -> None:
    """Write predictions as a challenge's ``answer.txt``; the track is told by the axes.

    Args:
        table: of `predict`.
        path: the file to write.
        listed: ids that the challenge asks for: their order is kept, and each must be there.
    """
    axes = list(dict.fromkeys(table["axis"]))
    track = _track(path, axes)
    parts = {str(a): p["prediction"].to_numpy(np.float64) for a, p in table.groupby("axis")}
    clip_ids = list(table[table["axis"] == axes[0]]["clip_id"])
    write_answer(path, clip_ids, parts, track, listed)


def _track(path: Path, axes: Sequence[str]) -> int:
    """Return the challenge's track whose axes are all there."""
    for track, names in TRACK_AXES.items():
        if set(names) <= set(axes):
            return track
    wanted = " or ".join(", ".join(names) for names in TRACK_AXES.values())
    raise QamroError(
        f"{path}: an answer has the axes {wanted}; this head predicts {', '.join(axes)}"
    )
