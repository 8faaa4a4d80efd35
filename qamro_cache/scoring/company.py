"""Whom new clips are heard beside, for a head that compares; told, flagged or refused."""

import logging

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.errors import QamroError, few
from qamro_cache.features.context import Company, company_of
from qamro_cache.heads.head import Head

logger = logging.getLogger("qamro_cache")


def hearing(
    head: Head, clips: pd.DataFrame, scored: npt.NDArray[np.bool_], where: str
) -> Company | None:
    """Return whom clips are heard beside; None for a head that looks at a clip alone.

    A head that compared the clips of a prompt compares those of a group where no prompt is known.

    Args:
        head: loaded.
        clips: the whole table.
        scored: [N] to be scored, and not but company.
        where: the file, for messages.

    Raises:
        QamroError: see `company_of`.
    """
    if head.context is None:
        return None
    by = head.context.by if (clips[head.context.by] != "").any() else "group"
    return company_of(clips, np.flatnonzero(scored), head.context.kind, by, where)


def lacks_reference(head: Head, clips: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Tell which clips [N] a head cannot hear beside their reference: that one has no features."""
    if head.context is None or head.context.kind == "group":
        return np.zeros(len(clips), np.bool_)
    lost: npt.NDArray[np.bool_] = (
        clips["reference"].isin(clips["clip_id"][clips["status"] != "ok"]).to_numpy(bool)
    )
    return lost


def company_words(
    head: Head,
    company: Company | None,
    clips: pd.DataFrame,
    scored: npt.NDArray[np.bool_],
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
    odd = scored & ~learned
    words[~scored] = ""
    if odd.any():
        names = clips["clip_id"].to_numpy(str)[odd].tolist()
        said = (
            f"{len(names)} clips are alone in their {company.by} or with another number of others "
            f"than this head learned from, {_range(head)} ({few(names)})"
        )
        if strict:
            raise QamroError(f"{said}; add what they were heard beside with --company")
        logger.warning("%s: their scores say less", said)
    return words


def _range(head: Head) -> str:
    assert head.context is not None
    low, high = max(head.context.low, 1), head.context.high
    return str(low) if low == high else f"{low} to {high}"
