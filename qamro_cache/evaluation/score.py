"""The figures of one model on one axis: every metric with its counts, std and interval."""

from typing import Any

import numpy as np
import torch

from qamro_cache.evaluation.bootstrap import interval, resampled
from qamro_cache.evaluation.figures import by_level, figures
from qamro_cache.evaluation.judged import Floats, Ints, Judged
from qamro_cache.evaluation.metrics import METRICS

_NONE = float("nan")


def score(pred: Floats, judged: Judged, *, resamples: int = 1000) -> dict[str, Any]:
    """Score the predictions of K seeds against the labels, clip and system level.

    Args:
        pred: [K, C] predictions; a clip with a NaN from any seed is left out of all.
        judged: the same clips.
        resamples: bootstrap draws of the intervals (0: none).

    Returns:
        ``clips``, ``systems`` and ``seeds`` counted, and ``metrics``: for each of `FIGURES` the
        ``value`` (mean over the seeds), its ``std`` (over seeds, NaN for one), the 95 % interval
        ``low`` to ``high`` over resampled systems (over clips where no clip has a system) and the
        figure of the seeds' mean prediction, ``ensemble``. Clips without a system are left out of
        the interval only when others have one. JSON types, NaN where a figure is undefined.
    """
    known = np.isfinite(judged.target) & np.isfinite(pred).all(0)
    pred, target, system = pred[:, known], judged.target[known], judged.system[known]
    systems = np.unique(system[system >= 0])
    result: dict[str, Any] = {
        "clips": len(target),
        "systems": len(systems),
        "seeds": len(pred),
        "metrics": {},
    }
    if len(target) == 0:
        return result
    system = np.where(system >= 0, np.searchsorted(systems, system), -1)
    truth = None if judged.system_truth is None else torch.as_tensor(judged.system_truth[systems])
    values = _figures(pred, target, system, truth, judged.same_scale)
    ensemble = _figures(pred.mean(0, keepdims=True), target, system, truth, judged.same_scale)
    drawn = resampled(pred, target, system, truth, resamples=resamples)
    for name, of_seeds in values.items():
        between = interval(drawn[name]) if name in drawn else None
        result["metrics"][name] = {
            "value": float(of_seeds.mean()),
            "std": float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else _NONE,
            "low": between.low if between else _NONE,
            "high": between.high if between else _NONE,
            "ensemble": float(ensemble[name][0]),
        }
    return result


def _figures(
    pred: Floats, target: Floats, system: Ints, truth: torch.Tensor | None, same_scale: bool
) -> dict[str, Floats]:
    """Each figure of each seed: name -> [K].

    On another scale, metrics in the labels' units give way to ``mse_fit``, the squared error left
    after the best straight line: the variance that it does not explain.
    """
    p, t, s = (torch.as_tensor(x) for x in (pred, target, system))
    found = figures(p, t, s, truth)
    if not same_scale:
        for level, (_, labels) in by_level(p, t, s, truth).items():
            units = [f"{level}_{name}" for name, m in METRICS.items() if m.in_label_units]
            unexplained = labels.var(correction=0) * (1 - found[f"{level}_lcc"] ** 2)
            rest = {name: value for name, value in found.items() if name not in units}
            found = {f"{level}_mse_fit": unexplained, **rest}
    return {name: value.numpy() for name, value in found.items()}
