"""Whom new clips are heard beside, for a head that compares; told, flagged or refused."""

import logging
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.errors import QamroError
from qamro_cache.features.context import Company, company_of
from qamro_cache.heads.head import Head

logger = logging.getLogger("qamro_cache")


def hearing(
    head: Head, clips: pd.DataFrame, rows: npt.NDArray[np.int64] | None, where: str
) -> Company | None:
    """Return whom clips are heard beside; None for a head that looks at a clip alone.

    Args:
        head: loaded.
        clips: the whole table.
        rows: to be scored; None for all.
        where: the file, for messages.

    Raises:
        QamroError: see `company_of`.
    """
    if head.context is None:
        return None
    rows = np.arange(len(clips)) if rows is None else rows
    return company_of(clips, rows, head.context.kind, head.context.by, where)


def company_words(
    head: Head,
    company: Company | None,
    clips: pd.DataFrame,
    scored: npt.NDArray[np.bool_],
    beside: Collection[str],
    *,
    strict: bool,
) -> npt.NDArray[np.object_]:
    """Say how many others each clip is heard beside [N], and where the head never learned that.

    Raises:
        QamroError: there is such a clip, and that is not allowed.
    """
    words = np.full(len(clips), "", object)
    if company is None or head.context is None or not company.of_groups:
        return words
    context, others = head.context, company.others()
    learned = context.learned(others)
    for row, count in enumerate(others):
        word = "alone" if count == 0 else str(count)
        words[row] = word if learned[row] or not count else f"{count}: learned {_range(head)}"
    odd = scored & ~learned & ~clips["clip_id"].isin(list(beside)).to_numpy()
    words[~scored] = ""
    if odd.any():
        names = clips["clip_id"].to_numpy(str)[odd].tolist()
        named = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        said = (
            f"{len(names)} clips are alone in their {context.by} or with another number of others "
            f"than this head learned from, {_range(head)} ({named})"
        )
        if strict:
            raise QamroError(f"{said}; add what they were heard beside with --company")
        logger.warning("%s: their scores say less", said)
    return words


def _range(head: Head) -> str:
    assert head.context is not None
    low, high = max(head.context.low, 1), head.context.high
    return str(low) if low == high else f"{low} to {high}"
