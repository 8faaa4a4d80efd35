"""The table of predictions as files: ``predictions.csv``, and a challenge's ``answer.txt``."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from qamro_cache.datasets.answers import TRACK_AXES, write_answer
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


def track_of(axes: Collection[str], path: Path) -> int:
    """Return the challenge's track whose axes are among these.

    Raises:
        QamroError: there is none, so ``path`` cannot be written.
    """
    tracks = [track for track, names in TRACK_AXES.items() if set(names) <= set(axes)]
    if not tracks:
        wanted = " or ".join(", ".join(names) for names in TRACK_AXES.values())
        raise QamroError(
            f"{path}: an answer has the axes {wanted}; this head predicts {', '.join(axes)}"
        )
    return tracks[0]


def write_answer_file(table: pd.DataFrame, path: Path, listed: list[str] | None = None) -> None:
    """Write predictions as a challenge's ``answer.txt``; the track is told by the axes.

    Args:
        table: of `predict`.
        path: the file to write.
        listed: ids of the challenge's list of clips: its order is kept, and each must be there.
    """
    axes = list(dict.fromkeys(table["axis"]))
    track = track_of(axes, path)
    parts = {str(a): p["prediction"].to_numpy(np.float64) for a, p in table.groupby("axis")}
    clip_ids = list(table[table["axis"] == axes[0]]["clip_id"])
    write_answer(path, clip_ids, parts, track, listed)
