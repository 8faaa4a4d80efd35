"""Means of systems with intervals: what a listening test is summed up to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.tables import factorize, text
from qamro_cache.evaluation.judged import Floats, Judged


def system_means(
    table: pd.DataFrame, values: Sequence[str] = ("prediction",), confidence: float = 0.95
) -> pd.DataFrame:
    """Return the means of each system, with intervals over its clips.

    An interval is Student's t: what other clips of the same system would have come to, taken as
    drawn at random. Of predictions it says nothing about how far they are off the listeners.

    Args:
        table: a row a clip (and axis), with ``axis``, ``system`` and the values; as `predict`
            returns it. Rows without a system or without a number are left out.
        values: columns of numbers.
        confidence: of the intervals.

    Returns:
        One row an axis and system: axis, system, clips, and of each value the mean under its own
        name, ``<value>_low`` and ``<value>_high`` (NaN of a single clip).
    """
    from scipy.stats import t

    names = list(values)
    known = table[table[names].notna().all(axis=1) & (table["system"] != "")]
    codes, systems = factorize(text(known, "system"))
    groups = known.assign(system=codes).groupby(["axis", "system"], sort=False)[names]
    means, std, clips = groups.mean(), groups.std(), groups.size()
    half = std.mul(t.ppf((1 + confidence) / 2, np.maximum(clips - 1, 1)) / np.sqrt(clips), axis=0)
    ends = [(means - half).add_suffix("_low"), (means + half).add_suffix("_high")]
    found = pd.concat([clips.rename("clips"), means, *ends], axis=1).reset_index()
    found["system"] = systems[found["system"].to_numpy(np.intp)]
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    return found[["axis", "system", "clips", *columns]]


def by_system(
    pred: Floats, judged: Judged, systems: npt.NDArray[np.str_] | Sequence[str]
) -> list[dict[Any, Any]]:
    """Hold predictions against ratings system by system, with the intervals of `system_means`.

    Args:
        pred: [C] predictions, the seeds averaged.
        judged: the same clips; those without a prediction or a label are left out.
        systems: [C] names, empty for none.

    Returns:
        A record a system, of the highest rating first: ``system``, ``clips``, ``predicted``,
        ``rated`` and, of predictions in the labels' units, ``error`` (predicted less rated), each
        with ``_low`` and ``_high``. JSON types.
    """
    table = pd.DataFrame({"system": systems, "predicted": pred, "rated": judged.target})
    names = ["predicted", "rated"]
    if judged.same_scale:
        table["error"] = table["predicted"] - table["rated"]
        names.append("error")
    found = system_means(table.assign(axis=""), names).drop(columns="axis")
    return found.sort_values("rated", ascending=False, kind="stable").to_dict("records")
