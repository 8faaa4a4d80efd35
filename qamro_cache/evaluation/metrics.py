"""Agreement of predicted and given scores, batched on any device; the list of every metric.

Every function takes predictions [..., N], targets and weights broadcastable to them, and returns
[...] in float64. A weight is a frequency: the result is that of the sample in which clip i stands
``weights[i]`` times, so 0 and 1 make a mask and the counts of a resample make a bootstrap.
Correlations are NaN where they are undefined: fewer than two samples, or a constant side.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from qamro_cache.evaluation.pairs import far_pair_accuracy, ktau, pair_accuracy
from qamro_cache.evaluation.weighted import average_ranks, constant, prepare
from qamro_cache.evaluation.within import best_hit, best_regret


def mse(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error, in squared label units; NaN without a sample."""
    pred, target, weights = prepare(pred, target, weights)
    return (weights * (pred - target) ** 2).sum(-1) / weights.sum(-1)


def rmse(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Root of the mean squared error, in label units."""
    return mse(pred, target, weights).sqrt()


def mae(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean absolute error, in label units."""
    pred, target, weights = prepare(pred, target, weights)
    return (weights * (pred - target).abs()).sum(-1) / weights.sum(-1)


def rmse_of_third(
    pred: Tensor, target: Tensor, weights: Tensor | None = None, *, third: int
) -> Tensor:
    """RMSE of the clips in the lowest (0), middle (1) or highest (2) third of the labels.

    A clip belongs where its label's average rank lies, so equal labels stay together; NaN where a
    third has no clip.
    """
    missing = prepare(pred, target, weights)[1].isnan().any(-1)
    pred, target, weights = prepare(pred, target.nan_to_num(), weights)
    # The middle of a clip's ranks as a share of all: in (0, 1), by whole numbers.
    at = 3 * (2 * average_ranks(target, weights) - 1)
    total = 2 * weights.sum(-1, keepdim=True)
    inside = ((at < total), (at >= total) & (at <= 2 * total), (at > 2 * total))[third]
    return rmse(pred, target, weights * inside).masked_fill(missing, torch.nan)


def ccc(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Lin's concordance correlation coefficient (1989): LCC, lowered by a wrong mean or spread.

    2 cov / (var + var + squared difference of the means), with the variances over N; NaN where
    both sides are constant.
    """
    p, t, w = prepare(pred, target, weights)
    total = w.sum(-1, keepdim=True)
    mean_p, mean_t = ((w * x).sum(-1, keepdim=True) / total for x in (p, t))
    # E (p - t)^2 is the denominator less 2 cov, without the loss of digits.
    error = (w * (p - t) ** 2).sum(-1)
    twice = 2 * (w * (p - mean_p) * (t - mean_t)).sum(-1)
    still_p, still_t = constant(p, w), constant(t, w)
    value = torch.where(still_p | still_t, 0.0, twice / (error + twice))
    defined = ~(still_p & still_t) & ~(error + twice).isnan()
    return torch.where(defined, value, torch.nan)


def lcc(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Pearson's linear correlation coefficient."""
    p, t, weights = prepare(pred, target, weights)
    # A constant has no correlation. Its rounding error has, so ask for equality, not for zero.
    defined = ~(constant(p, weights) | constant(t, weights))
    (p, _, _), (t, _, _) = _centered(p, weights), _centered(t, weights)
    norm = (weights * p * p).sum(-1).sqrt() * (weights * t * t).sum(-1).sqrt()
    r = ((weights * p * t).sum(-1) / norm).clamp(-1, 1)
    return torch.where(defined, r, torch.nan)


def srcc(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Spearman's rank correlation: Pearson's over ranks, ties at their average rank."""
    if weights is None:
        weights = torch.ones(pred.shape[-1:], device=pred.device)
    # As they are, not yet of the weights' shape: each is then sorted once for all resamples.
    r = lcc(average_ranks(pred, weights), average_ranks(target, weights), weights)
    undefined = ((weights > 0) & (pred.isnan() | target.isnan())).any(-1)
    return r.masked_fill(undefined, torch.nan)


def mse_fit(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """MSE after the best straight line: the variance that predictions on any scale leave over."""
    slope, line, target, weights = _line(pred, target, weights)
    line = torch.where(slope.isnan()[..., None], 0.0, line)
    left = (weights * (target - line) ** 2).sum(-1) / weights.sum(-1)
    missing = prepare(pred, pred, weights)[0].isnan().any(-1)
    return left.masked_fill(missing, torch.nan)


def slope(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Calibration slope: of the labels over the predictions, least squares; 1 is calibrated.

    Below 1 the predictions are spread too widely, above 1 too narrowly. NaN where they are
    constant.
    """
    return _line(pred, target, weights)[0]


def intercept(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Calibration intercept, in label units: the label at a prediction of 0 by the same line."""
    p, t, w = prepare(pred, target, weights)
    mean_p, mean_t = ((w * x).sum(-1) / w.sum(-1) for x in (p, t))
    return mean_t - slope(pred, target, weights) * mean_p


def _centered(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values less their mean over the largest deviation, the mean, and that deviation.

    Scaled so, the squares of tiny and huge values stay in range.
    """
    mean = (weights * values).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)
    centered = values - mean
    largest = torch.where(weights > 0, centered, 0).abs().amax(-1, keepdim=True)
    return centered / largest, mean, largest


def _line(
    pred: Tensor, target: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit the labels by a line: its slope [...], its values less the mean, centered labels, w."""
    p, t, w = prepare(pred, target, weights)
    moving = ~constant(p, w)
    p, _, largest = _centered(p, w)
    t = t - (w * t).sum(-1, keepdim=True) / w.sum(-1, keepdim=True)
    scaled = (w * p * t).sum(-1) / (w * p * p).sum(-1)
    steep = torch.where(moving, scaled / largest.squeeze(-1), torch.nan)
    return steep, scaled[..., None] * p, t, w


class Metric(NamedTuple):
    """What columns of every table are computed by.

    Attributes:
        function: of predictions, targets and weights.
        about: what it is, for the documents.
        levels: where it is given: over clips, over systems, and within groups as the mean over
            them.
        same_scale: whether the predictions must be in the labels' units.
        interval: how its 95 % interval is made, of `intervals.SCALES`; empty for none. What has one
            has a place in the terminal's tables.
        choice: whether it judges a choice among a group's clips, where no reference stands.
    """

    function: Callable[..., Tensor]
    about: str
    levels: tuple[str, ...] = ("clip", "system")
    same_scale: bool = False
    interval: str = ""
    choice: bool = False

    @property
    def main(self) -> bool:
        """Whether it has an interval."""
        return bool(self.interval)


def _errors_by_quality() -> dict[str, Metric]:
    about = "RMSE of the third of the clips with the {} labels"
    return {
        f"rmse_{name}": Metric(
            partial(rmse_of_third, third=third), about.format(word), _CLIP, same_scale=True
        )
        for third, (name, word) in enumerate(
            (("low", "lowest"), ("mid", "middle"), ("high", "highest"))
        )
    }


_CLIP, _ALL, _GROUP = ("clip",), ("clip", "system", "group"), ("group",)
_RIGHT = "pairs of clips whose order is predicted right, equal predictions counting half"

#: Every metric by name, in the order of the tables' columns.
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "mse": Metric(mse, "mean squared error", same_scale=True, interval="error"),
        "rmse": Metric(rmse, "root of the MSE, in label units", same_scale=True),
        "mae": Metric(mae, "mean absolute error", same_scale=True),
        "mse_fit": Metric(mse_fit, "MSE after the best straight line", interval="error"),
        "ccc": Metric(ccc, "Lin's concordance correlation coefficient", same_scale=True),
        "lcc": Metric(lcc, "Pearson's linear correlation", _ALL, interval="correlation"),
        "srcc": Metric(srcc, "Spearman's rank correlation", _ALL, interval="correlation"),
        "ktau": Metric(ktau, "Kendall's tau-b", _ALL, interval="correlation"),
        "pair_accuracy": Metric(pair_accuracy, f"share of the {_RIGHT}", _ALL),
        "far_pair_accuracy": Metric(
            far_pair_accuracy,
            "the same, of pairs whose labels differ by more than a std",
            _CLIP,
        ),
        "slope": Metric(
            slope, "calibration: slope of the labels over the predictions", _CLIP, same_scale=True
        ),
        "intercept": Metric(intercept, "calibration: its value at 0", _CLIP, same_scale=True),
        **_errors_by_quality(),
        "best_regret": Metric(
            best_regret,
            "how far the clip of the highest prediction lies below the best one, in label units",
            _GROUP,
            choice=True,
        ),
        "best_hit": Metric(
            best_hit,
            "how often the clip of the highest prediction is a best",
            _GROUP,
            choice=True,
        ),
    }
)
