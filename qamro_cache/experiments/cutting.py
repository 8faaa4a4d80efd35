"""Folds, and the copies of clips that they part: put together where that is wanted."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.ids import one_spelling
from qamro_cache.experiments.copies import Copies, find_copies
from qamro_cache.experiments.folds import joined, make_folds
from qamro_cache.training.inputs import Bools, Folds


def folds_and_copies(
    table: pd.DataFrame,
    known: Bools,
    cv: str,
    fingerprints: Sequence[npt.NDArray[np.uint8]] | None,
    *,
    inner: bool,
    together: bool,
) -> tuple[Folds, str, Copies]:
    """Make folds, and find the copies that they part.

    Args:
        table: [C] of the clips.
        known: [C] clips that have a label.
        cv: how clips are held out.
        fingerprints: [C] of the clips; None: copies are exact ones alone.
        inner: see `make_folds`.
        together: whether copies are put into one fold.

    Returns:
        The folds, what they ask of a model in a line, and the copies.
    """
    prompts = np.array(one_spelling(table["prompt"].tolist()), str)
    groups = table["group"].to_numpy(dtype=str)
    content = prompts if cv == "prompt" else groups
    if cv not in ("group", "prompt"):
        content = np.where(groups == "", prompts, groups)
    pairs, kept = np.zeros((0, 2), np.int64), None
    while True:
        folds, question = make_folds(table, cv, known, inner=inner, together=kept)
        copies = find_copies(table, folds, fingerprints, content)
        if not together or not len(copies.all_pairs):
            break
        pairs = np.concatenate([pairs, copies.all_pairs])
        kept = joined(len(table), pairs)
    if kept is not None:
        moved = int((np.bincount(kept)[kept] > 1).sum())
        question += f"; {moved} clips that are copies of one another are kept together"
    return folds, question, copies
