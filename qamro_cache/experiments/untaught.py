"""Axes that no fold can teach a head, and folds that can teach none."""

import logging

import pandas as pd

from qamro_cache.datasets.preferences import Pairs
from qamro_cache.errors import QamroError, few
from qamro_cache.training.inputs import Bools, Folds

logger = logging.getLogger("qamro_cache")


def point_out_untaught(
    axis: str, clip_ids: pd.Series, known: Bools, pairs: Pairs | None, folds: Folds
) -> None:
    """Name the clips that no head of an axis will predict; refuse an axis without any head.

    Args:
        axis: its name.
        clip_ids: [C].
        known: [C] the clips that have a label on it.
        pairs: on it alone; None where none were given.
        folds: over the clips.

    Raises:
        QamroError: no fold has something to learn from and a clip to be judged by.
    """
    taught, told, enough = folds.teach(known), known, "two training labels"
    if pairs is not None:
        taught = taught | pairs.within(folds.train).any(1)
        told, enough = known | pairs.named(len(known)), "two training labels, or a pair,"
    judged = (folds.test & told).any(1)
    if not (taught & judged).any():
        raise QamroError(
            f"no fold has {enough} and a held-out one "
            f"({int(known.sum())} of the clips are rated on it); use another --cv, or leave the "
            "axis out: --axis names those to train"
        )
    lost = clip_ids[folds.test[~taught].any(0) & told].tolist()
    if not taught.all():
        logger.warning(
            "axis %s: %d of %d folds have fewer than two training labels and train no head; "
            "their held-out clips are left out of all figures: %d%s",
            axis,
            int((~taught).sum()),
            len(taught),
            len(lost),
            f" ({few(lost)})" if lost else "",
        )
