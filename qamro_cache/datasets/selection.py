"""Which clips count: ``--only`` and ``--without``, on any column of the clips."""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.ids import clean_id
from qamro_cache.datasets.records import CLIP_COLUMNS, Labels
from qamro_cache.datasets.tables import factorize
from qamro_cache.errors import OptionError, QamroError, few, nearest, unknown

logger = logging.getLogger("qamro_cache")

#: What listening tests call the clip that hides the original among the others, and the ones that
#: hold the lower end of the scale.
_REFERENCES = ("reference", "hidden reference", "ref", "original", "ground truth", "natural", "gt")
_ANCHORS = ("anchor", "low anchor", "mid anchor", "anchor35", "anchor70", "lp35", "lp70")
#: A system whose mean lies in this part of the scale's end looks like one, whatever its name.
_END = 0.05


def select_rows(
    clips: pd.DataFrame, only: Sequence[str], without: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Return which clips are left [C].

    Args:
        clips: with the columns of a cache.
        only: ``column=value``, several values of a column as several entries; a clip must have one
            of them in every column named.
        without: likewise; a clip that has one of them is taken out.

    Raises:
        OptionError: no such column, or a value that no clip has.
        QamroError: no clip is left.
    """
    kept = np.ones(len(clips), np.bool_)
    by_column: dict[str, npt.NDArray[np.bool_]] = {}
    for text in only:
        column, mask = _matches(clips, text)
        by_column[column] = by_column.get(column, np.zeros(len(clips), np.bool_)) | mask
    for mask in by_column.values():
        kept &= mask
    for text in without:
        kept &= ~_matches(clips, text)[1]
    if len(clips) and not kept.any():
        raise QamroError(f"no clip is left of {len(clips)} by {describe(only, without)}")
    return kept


def describe(only: Sequence[str], without: Sequence[str]) -> str:
    """Return the choice in words; empty for all clips."""
    parts = [f"only {text}" for text in only] + [f"without {text}" for text in without]
    return ", ".join(parts)


def _matches(clips: pd.DataFrame, text: str) -> tuple[str, npt.NDArray[np.bool_]]:
    column, sign, value = text.partition("=")
    columns = [name for name in clips.columns if name in CLIP_COLUMNS]
    if not sign:
        raise OptionError(f"{text!r} is not COLUMN=VALUE, for example system=Reference")
    if column not in columns:
        raise unknown("the clips have no column", column, columns)
    codes, names = factorize(clips[column].to_numpy(dtype=object))
    # As names are compared everywhere: without blanks around them, in one Unicode form.
    hits = np.array([clean_id(name) == clean_id(value) for name in names], np.bool_)
    mask: npt.NDArray[np.bool_] = hits[codes]
    if not mask.any():
        known = sorted(set(names) - {""})
        few = f"; there are: {', '.join(known)}" if len(known) <= 12 else ""
        raise OptionError(f"no clip has {column} {value!r}{nearest(value, known) or few}")
    return column, mask


def reference_like(clips: pd.DataFrame, labels: Labels) -> dict[str, str]:
    """Return the systems that look like a reference or an anchor, by name or by their ratings.

    Args:
        clips: of which labels are known.
        labels: of the same rows.

    Returns:
        System -> why, in words.
    """
    found: dict[str, str] = {}
    for system, rows in clips.groupby("system", sort=True).indices.items():
        name = _plain(str(system))
        if not name:
            continue
        if named_reference(name) or name in _ANCHORS:
            found[str(system)] = "by its name"
            continue
        for index, axis in enumerate(labels.axes):
            mean = _mean(labels.mean[rows, index])
            share = (mean - axis.low) / (axis.high - axis.low)
            if share >= 1 - _END or share <= _END:
                found[str(system)] = f"its mean on {axis.name} is {mean:.3g}"
    return found


def named_reference(system: str) -> bool:
    """Return whether a system's name says that it is the original, hidden among the others."""
    return _plain(system) in _REFERENCES


def is_reference(clips: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Tell which clips [C] are the original, by their system's name or their own reference."""
    named = [named_reference(name) for name in clips["system"]]
    found: npt.NDArray[np.bool_] = np.array(named, np.bool_)
    return found | (clips["reference"] == clips["clip_id"]).to_numpy(np.bool_)


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _mean(scores: npt.NDArray[np.float64]) -> float:
    known = scores[np.isfinite(scores)]
    return float(known.mean()) if len(known) else float("nan")


def point_out_sources(sources: Sequence[str]) -> None:
    """Warn of labels of several listening tests: between them a scale is told, and no quality."""
    named = list(dict.fromkeys(name for name in sources if name))
    if len(named) > 1:
        logger.warning(
            "the labels are of %d sources (%s), and all figures pool their scales; take one with "
            "--only source=%s",
            len(named),
            few(named),
            named[0],
        )
