"""Figures with and without the clips that a head was trained on, or that sound like these."""

from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.evaluation.judged import Floats, Judged
from qamro_cache.evaluation.score import score
from qamro_cache.heads.trained import KNOWN


def of_trained(said: npt.NDArray[np.str_] | None, pred: Floats, judged: Judged) -> dict[str, Any]:
    """Count the clips that a head was trained on, and score the others.

    Args:
        said: [C] what ``trained_on`` says of each clip; None where nothing is said.
        pred: [K, C] predictions.
        judged: the same clips.

    Returns:
        ``trained_on``, ``trained_on_near`` and ``without_trained``, as `evaluate` has them.
    """
    if said is None:
        return {"trained_on": None, "trained_on_near": None, "without_trained": None}
    every = np.isfinite(pred).all(0) & judged.known
    known, others = every & np.isin(said, KNOWN), None
    if 0 < known.sum() < every.sum():
        others = score(np.where(known, np.nan, pred), judged)
    near = int((known & (said == "near")).sum())
    return {
        "trained_on": int(known.sum()),
        "trained_on_near": near,
        "without_trained": others,
    }
