"""The table of predictions as files: CSV, JSON lines, and a challenge's ``answer.txt``."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from qamro_cache.datasets.answers import TRACK_AXES, answer_rows, write_answer
from qamro_cache.errors import QamroError
from qamro_cache.files import refuse_other, write_file, write_table

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
    """Write a table of predictions, whole or not at all; replace only an older one.

    As JSON lines where the file's name ends in ``.jsonl``, else as CSV.
    """
    refuse_other_table(path)
    if path.suffix.lower() == ".jsonl":
        write_file(path, lambda file: file.writelines(f"{x}\n".encode() for x in json_lines(table)))
    else:
        write_table(path, table)


def json_lines(table: pd.DataFrame) -> Iterator[str]:
    """Yield a table's rows as JSON, every digit of a number kept; null for what is not there."""
    names = list(table.columns)
    for row in zip(*(table[name].tolist() for name in names), strict=True):
        # NaN is the one value that is not itself.
        yield json.dumps({n: v if v == v else None for n, v in zip(names, row, strict=True)})


def refuse_other_table(path: Path) -> None:
    """Refuse to replace anything but a table of `predict`; a command asks before the work, too."""

    def is_ours(path: Path) -> bool:
        with path.open("rb") as file:
            first = file.readline().rstrip()
        # The table of qamro-train, out of fold, has other columns and is not replaced either.
        return first == ",".join(COLUMNS).encode() or list(json.loads(first)) == list(COLUMNS)

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


def refuse_standard(path: Path, axes: Sequence[str]) -> None:
    """Refuse an answer of axes that are in standard units, on no rating scale."""
    if axes:
        raise QamroError(
            f"{path}: {', '.join(axes)} learned from pairs alone and scores in standard units, "
            "where an answer has ratings; train on ratings too, or leave out --answer"
        )


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
