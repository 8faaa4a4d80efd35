"""What should be known before predictions are believed: told from their table."""

import logging

import pandas as pd

from qamro_cache.heads.trained import KNOWN, known_words

logger = logging.getLogger("qamro_cache")


def point_out(table: pd.DataFrame) -> None:
    """Log how many predictions say little: of clips trained on, or unlike all that were."""
    scored = table[table["prediction"].notna()]
    clips = len(set(scored["clip_id"]))
    of_known = scored[scored["trained_on"].isin(KNOWN)]
    known = len(set(of_known["clip_id"]))
    near = len(set(of_known[of_known["trained_on"] == "near"]["clip_id"]))
    if known:
        logger.warning(
            "%s: what it says about them is no sign of how good it is; that is in the "
            "predictions.csv of its qamro-train run",
            known_words(known, near, f"these {clips} clips"),
        )
    far = len(set(scored[scored["ood"]]["clip_id"]))
    if 2 * far > clips:
        logger.warning(
            "%d of %d clips are out of distribution, farther from the clips that the head was "
            "trained on than 99 %% of those are from each other: do not rely on their predictions",
            far,
            clips,
        )
