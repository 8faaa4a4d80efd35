"""Whether predictions are on the labels' rating scale, so that their MSE means something."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.records import Axis

_GUESSED = " (guessed)"
#: Of predictions that are on no rating scale: of heads that learned from pairs alone.
STANDARD = "standard"


def scale_name(axis: Axis) -> str:
    """Return a scale as predictions name it: ``1..5``, or ``1..5 (guessed)``."""
    return f"{axis.low:g}..{axis.high:g}{_GUESSED if axis.guessed else ''}"


def why_other_scale(part: pd.DataFrame, axis: Axis, labels: npt.NDArray[np.float64]) -> str:
    """Return why predictions are not on the labels' scale; empty where they are.

    Predictions of qamro-predict name their scale. One that was guessed from the scores seen, on
    either side, says nothing by itself, and qamro-train names none: then values decide.
    Opinions of the same clips do not lie a quarter of a scale apart, units do. Predictions that
    tell nothing are taken to be on the labels' scale, unless their own values cannot be.

    Args:
        part: rows of predictions of one axis, with ``prediction``, optionally ``scale``, ``target``
            (the labels that they were held against).
        axis: of the labels.
        labels: [R] the label of each row, NaN where there is none.
    """
    named = sorted(set(part["scale"]) - {""}) if "scale" in part else []
    if STANDARD in named:
        return "the predictions are in standard units, of a head that learned from pairs alone"
    ours = scale_name(axis).removesuffix(_GUESSED)
    others = [name for name in named if name.removesuffix(_GUESSED) != ours]
    sure = [name for name in others if not name.endswith(_GUESSED)]
    if sure and not axis.guessed:
        return f"the predictions are on the scale {sure[0]}, the labels on {ours}"
    if named and not others:
        return ""
    # The targets of qamro-predict are those of the cache, in whatever units.
    column = "prediction" if others else "target"
    if column not in part:
        return _why_other_units(part["prediction"].to_numpy(np.float64), axis, labels)
    values = pd.to_numeric(part[column], errors="coerce").to_numpy(np.float64)
    width = min([axis.high - axis.low, *map(_width, others)])
    apart = np.abs(values - labels)
    known = apart[np.isfinite(apart)]
    if len(known) == 0 or np.median(known) <= width / 4:
        return ""
    return f"their {column}s lie {np.median(known):.3g} from the labels, more than opinions do"


def _why_other_units(
    predictions: npt.NDArray[np.float64], axis: Axis, labels: npt.NDArray[np.float64]
) -> str:
    """Return why bare numbers cannot be in the labels' units; empty where they may be.

    A bad predictor errs by a quarter of the scale, too. Most of its numbers are within the
    scale, though, and they do not lie together in a tenth of it (1 to 5 on a scale of 0 to 100).
    """
    known = np.isfinite(predictions) & np.isfinite(labels)
    if not known.any():
        return ""
    found, width = predictions[known], axis.high - axis.low
    low, high = float(found.min()), float(found.max())
    apart = np.median(np.abs(found - labels[known]))
    outside = ((found < axis.low) | (found > axis.high)).mean()
    if apart <= width / 4 or (outside <= 0.5 and high - low >= width / 10):
        return ""
    return (
        f"the predictions ({low:.4g} to {high:.4g}) cannot be in the units of the labels' scale, "
        f"{scale_name(axis)}"
    )


def _width(name: str) -> float:
    """Return the width of a scale by its name, infinite where it is no scale's."""
    low, _, high = name.removesuffix(_GUESSED).partition("..")
    try:
        return float(high) - float(low)
    except ValueError:
        return float("inf")
