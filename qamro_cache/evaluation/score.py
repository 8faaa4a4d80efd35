"""The figures of one model on one axis: every metric with its counts, std and interval."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qamro_cache.evaluation.bootstrap import bootstrap_intervals, true_system_scores
from qamro_cache.evaluation.metrics import METRICS, system_means

logger = logging.getLogger("qamro_cache")

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

LEVELS = ("clip", "system")

#: The figures of a table, in the order of its columns: ``clip_mse`` ... ``system_ktau``.
FIGURES = tuple(f"{level}_{name}" for level in LEVELS for name in METRICS)

#: Fewer clips or systems than this are worth a warning. Two unrelated rankings of ten have an SRCC
#: beyond 0.65 one time in twenty (the critical value of Spearman's test, two-sided); of five, 1.0
#: one time in sixty.
FEW = 10


@dataclass(frozen=True)
class Judged:
    """The clips that models are judged by, on one axis.

    Attributes:
        target: [C] labels; NaN for a clip that is not judged.
        system: [C] each clip's system, -1 for none.
        system_truth: [S] published scores of the systems; where NaN (or not given) a system's truth
            is the mean of its clips' labels, over the same clips as its prediction.
        same_scale: whether predictions are in the labels' units. Otherwise no MSE is given but
            ``mse_fit``, the error left after the best straight line (least squares).
    """

    target: Floats
    system: Ints
    system_truth: Floats | None = None
    same_scale: bool = True


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
    truth = None if judged.system_truth is None else torch.as_tensor(judged.system_truth[systems])
    values = _figures(pred, target, system, truth, judged.same_scale)
    ensemble = _figures(pred.mean(0, keepdims=True), target, system, truth, judged.same_scale)
    intervals = {}
    cluster, inside = clusters(system)
    # Drawing one system again and again says nothing about chance.
    if resamples and len(np.unique(cluster[inside])) > 1:
        intervals = bootstrap_intervals(
            pred[:, inside],
            target[inside],
            cluster[inside],
            system_truth=truth,
            resamples=resamples,
        )
    for name, of_seeds in values.items():
        between = intervals.get(name)
        result["metrics"][name] = {
            "value": float(of_seeds.mean()),
            "std": float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else float("nan"),
            "low": between.low if between else float("nan"),
            "high": between.high if between else float("nan"),
            "ensemble": float(ensemble[name][0]),
        }
    return result


def clusters(system: Ints) -> tuple[Ints, Bools]:
    """Return what is drawn with replacement: each clip's system, or the clip, and which count."""
    systems = np.unique(system[system >= 0])
    if len(systems):
        return np.searchsorted(systems, system), system >= 0
    return np.arange(len(system)), np.ones(len(system), np.bool_)


def _figures(
    pred: Floats, target: Floats, system: Ints, truth: torch.Tensor | None, same_scale: bool
) -> dict[str, Floats]:
    """Each metric of each seed: name -> [K]."""
    p, t = torch.as_tensor(pred), torch.as_tensor(target)
    figures = _of_level("clip", p, t, same_scale)
    inside = system >= 0
    if inside.any():
        names, index = np.unique(system[inside], return_inverse=True)
        place = torch.as_tensor(index)
        of_p = system_means(p[:, inside], place, len(names)).mean
        of_t = true_system_scores(system_means(t[inside], place, len(names)).mean, truth)
        figures |= _of_level("system", of_p, of_t, same_scale)
    return {name: value.numpy() for name, value in figures.items()}


def _of_level(
    level: str, pred: torch.Tensor, target: torch.Tensor, same_scale: bool
) -> dict[str, torch.Tensor]:
    figures = {f"{level}_{name}": metric(pred, target) for name, metric in METRICS.items()}
    if not same_scale:
        del figures[f"{level}_mse"]
        variance = target.var(correction=0)
        # The squared error of the least-squares line is the variance that it does not explain.
        figures[f"{level}_mse_fit"] = variance * (1 - figures[f"{level}_lcc"] ** 2)
    return figures


def warn_of_small_numbers(axis: str, judged: Judged) -> None:
    """Log a line where the figures of an axis say nothing, or next to nothing."""
    known = np.isfinite(judged.target)
    target, system = judged.target[known], judged.system[known]
    if len(target) and np.ptp(target) == 0:
        logger.warning(
            "%s: all %d clips have the rating %g: there is no ranking to learn or to judge, and "
            "correlations are undefined (-)",
            axis,
            len(target),
            target[0],
        )
        return
    counts = [(len(target), "clip"), (len(np.unique(system[system >= 0])), "system")]
    few = [f"{n} {noun}{'s' if n > 1 else ''}" for n, noun in counts if 0 < n < FEW]
    if few:
        logger.warning(
            "%s: only %s: correlations and intervals over so few mean little (even of ten "
            "unrelated ones, one SRCC in twenty is beyond 0.65)",
            axis,
            " and ".join(few),
        )
