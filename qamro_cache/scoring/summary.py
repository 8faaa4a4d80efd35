"""Predictions by system: what a listening test would be summed up to."""

import numpy as np
import pandas as pd


def system_means(table: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return the mean prediction of each system, with an interval over its clips.

    The interval is Student's t: what other clips of the same system would have come to, taken as
    drawn at random. It says nothing about how far the head is off the listeners.

    Args:
        table: of `predict`.
        confidence: of the interval.

    Returns:
        One row an axis and system: axis, system, clips, mean, low, high (NaN of a single clip).
    """
    from scipy.stats import t

    known = table[table["prediction"].notna() & (table["system"] != "")]
    groups = known.groupby(["axis", "system"], sort=False)["prediction"]
    found = groups.agg(clips="count", mean="mean", std="std").reset_index()
    free = np.maximum(found["clips"] - 1, 1)
    half = t.ppf((1 + confidence) / 2, free) * found["std"] / np.sqrt(found["clips"])
    found["low"], found["high"] = found["mean"] - half, found["mean"] + half
    return found.drop(columns="std")
