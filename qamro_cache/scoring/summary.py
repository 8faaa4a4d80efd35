"""What predictions come to: counts, means and percentiles of an axis."""

from typing import Any

import numpy as np
import pandas as pd


def summarize(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Sum up predictions.

    Args:
        table: of `predict`.

    Returns:
        axis -> ``count`` of the clips with a prediction, ``failed`` without one, ``ood`` out of
        distribution, and of the predictions ``mean``, ``p5`` and ``p95`` (percentiles, linear
        between two clips), NaN without any. In the axis' units; JSON types.
    """
    found = {}
    for axis, part in table.groupby("axis", sort=False):
        known = part["prediction"].dropna().to_numpy(np.float64)
        p5, mean, p95 = (
            (*np.percentile(known, [5]), known.mean(), *np.percentile(known, [95]))
            if len(known)
            else (np.nan,) * 3
        )
        found[str(axis)] = {
            "count": len(known),
            "failed": len(part) - len(known),
            "ood": int(part["ood"].sum()),
            "mean": float(mean),
            "p5": float(p5),
            "p95": float(p95),
        }
    return found
