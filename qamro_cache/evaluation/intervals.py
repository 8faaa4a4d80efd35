"""95 % intervals that cover: a two-way cluster jackknife, without any resampling.

A figure of the sample is held against what it becomes without one system, one group or one diagonal
block of clips at a time (`left_out`). The variances of the ways add, what they share goes
(Cameron, Gelbach and Miller 2011; MacKinnon, Nielsen and Webb, arXiv 2406.08880), each with the t
quantile of its own labels (Graybill and Wang 1980). Left-out ranks of a few systems jump, so there
the variance is held between what Bonett and Wright (2000; SRCC) or Fieller, Hartley and Pearson
(1957; tau) derive for S independent systems and four times that.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from qamro_cache.evaluation.floors import least_variances
from qamro_cache.evaluation.judged import Floats
from qamro_cache.evaluation.left_out import LeftOut, Metric, left_out
from qamro_cache.evaluation.metrics import METRICS, lcc
from qamro_cache.evaluation.ways import FEWEST_LABELS, Sample, with_systems

#: How a figure's interval is made: on the atanh scale, on the log scale, or as it is, within 0..1.
SCALES = ("correlation", "error", "share")

#: Fewer systems than this tell nothing of systems in general.
FEWEST_SYSTEMS = 4

_TAIL = 0.975
_Z2 = float(norm.ppf(_TAIL)) ** 2

#: A correlation this near to 1 is 1.
_ROUNDING = 1e-12

#: Errors whose square is the one that the floor of the variance was derived for.
_ROOTS = ("rmse",)


class Figure(NamedTuple):
    """What an interval is asked of: ``clip_srcc`` is Figure("clip", "srcc", srcc, "correlation").

    Attributes:
        level: ``clip``, ``group`` or ``system``, see `left_out`.
        metric: its name. ``srcc``, ``ktau``, ``lcc``, ``ccc``, ``mse``, ``rmse``, ``mae`` and
            ``mse_fit`` have rules of their own; any other goes by its scale alone.
        function: of (predictions, targets, weights) as in `metrics`.
        scale: of `SCALES`.
    """

    level: str
    metric: str
    function: Metric
    scale: str

    @property
    def name(self) -> str:
        """As the columns of tables are called."""
        return f"{self.level}_{self.metric}"


def figure_of(name: str) -> Figure:
    """Return one of `figures.MAIN_FIGURES` as an interval is asked of it."""
    level, _, metric = name.partition("_")
    return Figure(level, metric, METRICS[metric].function, METRICS[metric].interval)


class Estimate(NamedTuple):
    """A figure of M models with its 95 % interval, each [M]; NaN where there is none."""

    value: Floats
    low: Floats
    high: Floats


def intervals(pred: Floats, sample: Sample, wanted: Sequence[Figure]) -> dict[str, Estimate]:
    """Figures of M models with their intervals, by name.

    Args:
        pred: [M, N] predictions; where a model has seeds, their mean.
        sample: the same clips; its ways say what population an interval is of.
        wanted: figures. Those of systems are NaN where no clip has a system.
    """
    found = {}
    linear = None
    for figure in wanted:
        if figure.level == "system" and not (sample.system >= 0).any():
            none = np.full(len(pred), np.nan)
            found[figure.name] = Estimate(none, none, none)
            continue
        drops = left_out(figure.level, figure.function, pred, sample)
        if figure.level == "system" and figure.metric in ("srcc", "ktau", "lcc") and linear is None:
            linear = drops if figure.metric == "lcc" else left_out("system", lcc, pred, sample)
        found[figure.name] = interval(figure, drops, pred, sample, linear)
    return found


def too_few(figure: Figure, sample: Sample) -> bool:
    """Whether there are too few clusters, or systems, for any statement beyond the sample.

    Of systems that stay as they are there is none either: without a group their ranks jump.
    """
    over = sample.ways.over
    few = sample.system.max() + 1 < FEWEST_SYSTEMS or over[0].noun != "system"
    if figure.level == "system" and few:
        return True
    return min(way.labels for way in over) < FEWEST_LABELS


def interval(
    figure: Figure, drops: LeftOut, pred: Floats, sample: Sample, linear: LeftOut | None = None
) -> Estimate:
    """Give a figure its interval.

    Args:
        figure: what it is.
        drops: of `left_out`, for the same figure, predictions [M, N] and sample.
        pred: the predictions.
        sample: their clips.
        linear: of a rank correlation of systems: what `left_out` found for their LCC.
    """
    if figure.level == "system":
        pred, sample = with_systems(pred, sample)
    if too_few(figure, sample):
        none = np.full(len(drops.value), np.nan)
        return Estimate(drops.value, none, none)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if figure.scale == "error":
            return _of_error(figure, drops, pred, sample)
        if figure.scale == "share":
            h = np.sqrt(spread(drops.parts, loss=1))
            return _clipped(drops.value, drops.value - h, drops.value + h, 0.0, 1.0)
        if figure.level == "system" and figure.metric in ("srcc", "ktau", "lcc"):
            return _of_systems(figure, drops, sample, linear)
        return _of_correlation(figure, drops, sample)


def _clipped(value: Floats, low: Floats, high: Floats, least: float, most: float) -> Estimate:
    return Estimate(value, np.clip(low, least, most), np.clip(high, least, most))


def variance(part: Floats) -> Floats:
    """The jackknife's variance [...] of left-out values [..., C]."""
    count = part.shape[-1]
    apart = part - part.mean(-1, keepdims=True)
    found: Floats = (count - 1) / count * (apart**2).sum(-1)
    return found


@cache
def t_quantile(freedom: float) -> float:
    """Student's two-sided 95 % quantile."""
    return float(student.ppf(_TAIL, freedom))


def spread(parts: Sequence[Floats], *, loss: int, floors: Sequence[Floats] = ()) -> Floats:
    """The square [M] of an interval's half width, from left-out values on its scale.

    Args:
        parts: as `LeftOut.parts`.
        loss: degrees of freedom that a way of C labels loses.
        floors: the least variance [M] of each way.
    """
    ways = parts[:2]
    each = [variance(way) for way in ways]
    if floors:
        each = [np.maximum(v, floor) for v, floor in zip(each, floors, strict=True)]
    scaled = [t_quantile(w.shape[-1] - loss) ** 2 * v for w, v in zip(ways, each, strict=True)]
    if len(parts) == 1:
        return scaled[0]
    both = scaled[0] + scaled[1] - _Z2 * variance(parts[2])
    return np.maximum(np.maximum(scaled[0], scaled[1]), both)


def _reaching(
    low: Floats, high: Floats, ways: Sequence[Floats], value: Floats
) -> tuple[Floats, Floats]:
    """Let limits reach as far from the value without the jackknife's estimate of its bias."""
    bias = np.zeros_like(value)
    for way in ways:
        bias += (way.shape[-1] - 1) * (way.mean(-1) - value)
    return low - np.maximum(0, bias), high + np.maximum(0, -bias)


def _of_correlation(figure: Figure, drops: LeftOut, sample: Sample) -> Estimate:
    """Correlations of clips and within groups, and the CCC at every level."""
    count, repeats = len(sample.target), 1
    if figure.level == "group":
        sizes = np.bincount(sample.group[sample.group >= 0])
        sizes = sizes[sizes > 1]
        count, repeats = int(np.median(sizes)) if len(sizes) else 0, max(len(sizes), 1)
    if figure.level == "system":
        count = int(sample.system.max()) + 1
    cap = 1 - max(_short_of_one(figure.metric, count) / repeats, _ROUNDING)
    x = _atanh(drops.value, cap)
    parts = [_atanh(part, cap) for part in drops.parts]
    square = spread(parts, loss=2)
    perfect = np.abs(drops.value) > 1 - _ROUNDING
    if figure.metric in ("srcc", "ktau") and perfect.any():
        # No left-out sample differs: what that many independent clips would tell.
        one = 1 - _short_of_one(figure.metric, count)
        square = np.where(perfect, _independent(figure.metric, np.array(one), count), square)
        x = np.where(perfect, np.sign(x) * np.arctanh(one), x)
    h = np.sqrt(square)
    low, high = _reaching(x - h, x + h, parts[:2], x)
    return _touching(drops.value, np.tanh(low), np.tanh(high))


def _of_systems(figure: Figure, drops: LeftOut, sample: Sample, linear: LeftOut | None) -> Estimate:
    """SRCC, tau and LCC of S systems."""
    if linear is None:
        raise ValueError(f"{figure.name} needs what left_out found for the systems' LCC")
    size = int(sample.system.max()) + 1
    smooth = [_atanh(part, 1 - _ROUNDING) for part in linear.parts]
    whole = spread(smooth, loss=1)
    if figure.metric == "lcc":
        x = _atanh(drops.value, 1 - _ROUNDING)
        least = np.full_like(x, _Z2 / (size - 3))
        square = np.clip(0.75 * whole, least, 4 * least)
    else:
        cap = 1 - _short_of_one(figure.metric, size)
        x = _atanh(drops.value, cap)
        least = _independent(figure.metric, np.tanh(x), size)
        mine, theirs = _atanh(drops.parts[0], cap), smooth[0]
        alone = t_quantile(mine.shape[-1] - 1) ** 2 * variance(mine)
        of_lcc = t_quantile(theirs.shape[-1] - 1) ** 2 * variance(theirs)
        # What new groups add is measured on the LCC: ranks without a group jump.
        more = np.where(of_lcc > 0, np.clip(whole / of_lcc, 1, 4), 1.0)
        square = more * np.clip(alone / 2, least, 4 * least)
    h = np.sqrt(square)
    return _touching(drops.value, np.tanh(x - h), np.tanh(x + h))


def _of_error(figure: Figure, drops: LeftOut, pred: Floats, sample: Sample) -> Estimate:
    """Errors: relative to the whole sample's, on the log scale."""
    power = 2 if figure.metric in _ROOTS else 1
    ratio = [np.power(part / drops.value[:, None], power) for part in drops.parts]
    h = (
        np.sqrt(
            spread(ratio, loss=1, floors=least_variances(figure.level, figure.metric, pred, sample))
        )
        / power
    )
    lower, upper = -h, h
    if figure.metric == "mse_fit":
        # A line fits its own sample too well, by 2 / C of the error where C clusters decide.
        ways = ratio[:1] if figure.level == "system" else ratio[:2]
        lower, upper = _reaching(lower, upper, ways, np.ones(len(h)))
    return Estimate(drops.value, drops.value * np.exp(lower), drops.value * np.exp(upper))


def _short_of_one(metric: str, count: int) -> float:
    """How far from 1, where atanh ends, a rank correlation of that many is kept.

    Half of the least change of SRCC and the whole of tau's; 0 for any other figure.
    """
    if count < 2 or metric not in ("srcc", "ktau"):
        return 0.0
    return 6 / (count * (count**2 - 1)) if metric == "srcc" else 4 / (count * (count - 1))


def _independent(metric: str, r: Floats, count: int) -> Floats:
    """The square of the half width, on the atanh scale, of a rank correlation of independent pairs.

    Bonett and Wright (2000) for SRCC; for tau Fieller, Hartley and Pearson (1957) with t for z.
    NaN where there are too few.
    """
    if count <= (3 if metric == "srcc" else 4):
        return np.full_like(r, np.nan)
    if metric == "srcc":
        return _Z2 * (1 + r**2 / 2) / (count - 3)
    return np.full_like(r, t_quantile(count - 1) ** 2 * 0.437 / (count - 4))


def _atanh(r: Floats, cap: float) -> Floats:
    """Atanh of correlations that are held within the cap."""
    found: Floats = np.arctanh(np.clip(r, -cap, cap))
    return found


def _touching(value: Floats, low: Floats, high: Floats) -> Estimate:
    """An interval of a correlation: one that is 1 (or -1) reaches it."""
    low = np.where((value < -1 + _ROUNDING) & np.isfinite(low), -1.0, low)
    return Estimate(value, low, np.where((value > 1 - _ROUNDING) & np.isfinite(high), 1.0, high))
