"""Which clips to keep by their predictions, and how many other thresholds would keep."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.tables import factorize, text
from qamro_cache.errors import OptionError, QamroError, quoted, unknown
from qamro_cache.evaluation.files import name_of, predictions_file, read_predictions
from qamro_cache.files import (
    refuse_other,
    replace_folder,
    replaceable_folder,
    write_table,
    write_text,
)
from qamro_cache.paths import PathLike, as_path

#: In the folder of what was kept.
KEPT_FILE, RETENTION_FILE = "kept.txt", "retention.csv"
#: Of the curve.
_COLUMNS = ["axis", "min", "kept", "share", "mean"]
#: Thresholds of the curve, an axis.
_STEPS = 101

logger = logging.getLogger("qamro_cache")


@dataclass(frozen=True)
class Kept:
    """What was kept.

    Attributes:
        clip_ids: of the kept clips, in the order of the predictions.
        clips: how many there were.
        failed: of these, without a prediction on an axis that is asked for.
        ood: of these, out of distribution on such an axis.
        retention: a row an axis and threshold: ``axis``, ``min``, how many clips are ``kept`` with
            it while the other conditions hold, their ``share`` of all, and the ``mean`` of their
            predictions on the axis.
    """

    clip_ids: tuple[str, ...]
    clips: int
    failed: int
    ood: int
    retention: pd.DataFrame


def parse_minimum(asked: Sequence[str]) -> dict[str, float]:
    """Return axis -> lowest prediction that is kept, of texts such as ``quality:3.5``.

    Raises:
        OptionError: one is not of this form, or an axis is named twice.
    """
    found: dict[str, float] = {}
    for words in asked:
        axis, colon, text = words.rpartition(":")
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not (axis.strip() and colon and np.isfinite(value)):
            raise OptionError(f"--min {quoted(words)} is not AXIS:NUMBER, for example quality:3.5")
        if axis.strip() in found:
            raise OptionError(f"--min names {quoted(axis.strip())} twice; name it once")
        found[axis.strip()] = value
    return found


def keep(
    predictions: PathLike | pd.DataFrame,
    minimum: Mapping[str, float],
    *,
    ood: bool = True,
    out: PathLike | None = None,
) -> Kept:
    """Choose clips by their predictions.

    Args:
        predictions: the table of `predict`, or its file; or a run's folder. Of several seeds the
            mean counts, and a clip that one of them does not predict has none.
        minimum: axis -> lowest prediction that is kept; a clip must reach all of them.
        ood: keep clips that are out of distribution on one of these axes (of any axis, where
            ``minimum`` names none); else only those that
            are said not to be.
        out: folder for ``kept.txt`` (a clip's id a line) and ``retention.csv``; None: none.

    Raises:
        QamroError: an id holds a line break; the folder cannot be written or has other files of
            these names, or the table cannot be read.
        OptionError: there is no such axis.
    """
    if not isinstance(predictions, pd.DataFrame):
        predictions = predictions_file(as_path(predictions))
    table, where = read_predictions(predictions), name_of(predictions)
    folder = None if out is None else as_path(out, "a folder")
    if folder is not None:
        replaceable_folder(folder)
        _refuse_others(folder)
    scores, far = _by_axis(table, where, ood)
    for axis in minimum:
        if axis not in scores.columns:
            raise unknown(f"{where}: no prediction is of the axis", axis, list(scores.columns))
    axes = list(minimum) or list(scores.columns)
    known = scores[axes].notna().all(axis=1).to_numpy()
    odd = far[axes].any(axis=1).to_numpy()
    allowed = known & (ood | ~odd)
    reached = {axis: (scores[axis] >= least).to_numpy() for axis, least in minimum.items()}
    kept = np.logical_and.reduce([allowed, *reached.values()])
    curves = []
    for axis in axes:
        others = [met for name, met in reached.items() if name != axis]
        rest = np.logical_and.reduce([allowed, *others])
        curves.append(_retention(axis, scores[axis].to_numpy(), rest, minimum.get(axis)))
    ids = tuple(scores.index[kept])
    counts = (int((~known).sum()), int((known & odd).sum()))
    found = Kept(ids, len(scores), *counts, pd.concat(curves, ignore_index=True))
    if folder is not None:
        _write(folder, found, where)
    return found


def _by_axis(table: pd.DataFrame, where: Path, ood: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return predictions and whether clips are out of distribution: a row a clip, a column an axis.

    Args:
        table: of `read_predictions`.
        where: its file.
        ood: whether nobody asks about the distribution.
    """
    if "ood" not in table and not ood:
        raise QamroError(
            f"{where}: no column says what is out of distribution (ood); give a table of "
            "qamro-predict, or leave out --max-ood"
        )
    far = pd.Series(False, table.index)
    if "ood" in table:
        words = table["ood"].str.lower()  # TRUE, where a spreadsheet has had the table
        if (odd := ~words.isin(["true", "false", ""])).any():
            raise QamroError(
                f"{where}: ood of clip {table['clip_id'][odd].iloc[0]!r} is "
                f"{quoted(table['ood'][odd].iloc[0])}, neither True nor False"
            )
        far = words == "true"
        unsaid = (words == "") & table["prediction"].notna()
        if not ood and unsaid.any():
            logger.warning(
                "%s: beside %d predictions ood is empty; --max-ood takes their clips out too",
                where,
                int(unsaid.sum()),
            )
            far |= unsaid
    # By number: pandas takes names that are not UTF-8 for one.
    clip, ids = factorize(text(table, "clip_id"))
    column, axes = factorize(text(table, "axis"))
    scores, seeds, apart = (np.zeros((len(ids), len(axes))) for _ in range(3))
    np.add.at(scores, (clip, column), table["prediction"].to_numpy(np.float64))
    np.add.at(seeds, (clip, column), 1.0)
    np.add.at(apart, (clip, column), far.to_numpy(np.float64))
    scores[seeds < seeds.max(0)] = np.nan
    mean, out = scores / np.maximum(seeds, 1), apart > 0
    return pd.DataFrame(mean, list(ids), list(axes)), pd.DataFrame(out, list(ids), list(axes))


def _retention(
    axis: str,
    scores: npt.NDArray[np.float64],
    rest: npt.NDArray[np.bool_],
    asked: float | None,
) -> pd.DataFrame:
    """Return the curve of one axis over the percentiles of its predictions, and what is asked."""
    known = np.sort(scores[rest])
    steps = np.percentile(known, np.linspace(0, 100, _STEPS)) if len(known) else np.zeros(0)
    least = np.unique(np.append(steps, [] if asked is None else [asked]))
    first = np.searchsorted(known, least, side="left")
    count = len(known) - first
    sums = np.append(np.cumsum(known[::-1])[::-1], 0.0)[first]
    mean: Any = np.divide(sums, count, out=np.full(len(count), np.nan), where=count > 0)
    columns = (axis, least, count, count / max(1, len(scores)), mean)
    return pd.DataFrame(dict(zip(_COLUMNS, columns, strict=True)))


def _refuse_others(folder: Path) -> None:
    """Refuse to replace files of these names that tell of no choice that was made here."""
    retention = folder / RETENTION_FILE

    def is_curve(path: Path) -> bool:
        return list(pd.read_csv(path, nrows=1).columns) == _COLUMNS

    def is_kept(path: Path) -> bool:
        count = path.read_bytes().count(b"\n")
        return is_curve(retention) and count in set(pd.read_csv(retention)["kept"])

    refuse_other(retention, "curve of qamro-filter", is_curve)
    refuse_other(folder / KEPT_FILE, f"list that {RETENTION_FILE} beside it tells of", is_kept)


def _write(folder: Path, found: Kept, where: Path) -> None:
    odd = [name for name in found.clip_ids if name.splitlines() != [name]]
    if odd:
        raise QamroError(f"{where}: the id {odd[0]!r} does not fit in a line; rename the clip")
    with replace_folder(folder, (KEPT_FILE, RETENTION_FILE)) as new:
        write_text(new / KEPT_FILE, "".join(f"{name}\n" for name in found.clip_ids))
        write_table(new / RETENTION_FILE, found.retention)
