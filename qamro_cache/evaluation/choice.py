"""Which of several models is better: paired differences, and the cells that may be the best.

Both look at the same left-out samples as the intervals (`left_out`): what two models share cancels
in the difference. Cells are chosen among by a model confidence set (Hansen, Lunde and Nason,
"The model confidence set", Econometrica 2011) with the range statistic, whose null draws come from
the left-out figures.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from qamro_cache.evaluation.intervals import Figure, t_quantile, too_few, variance
from qamro_cache.evaluation.judged import Bools, Floats
from qamro_cache.evaluation.left_out import LeftOut, left_out, system_pairs
from qamro_cache.evaluation.limits import Gap
from qamro_cache.evaluation.ways import Sample, with_systems

#: Null draws of the confidence set.
DRAWS = 10_000

#: A cell is put out when fewer null draws than this reach what it falls behind by.
_ERROR = 0.05

#: Null draws looked at together.
_BLOCK = 500


class Evidence(NamedTuple):
    """What tells models apart by one figure.

    Attributes:
        drops: the figure in the sample and in the left-out samples.
        pairs: [M, S(S-1)/2] of a rank correlation of systems: without two systems each.
        least: the smallest std that a difference is taken to have.
        alone: only systems count: of a rank correlation of systems, what groups add is left out.
    """

    drops: LeftOut
    pairs: Floats | None = None
    least: float = 0.0
    alone: bool = False

    @property
    def ways(self) -> Sequence[Floats]:
        """The left-out figures of each way that counts."""
        return self.drops.parts[: 1 if self.alone else 2]

    @property
    def freedom(self) -> int:
        """Degrees of freedom of a difference: labels of the smallest way, less one."""
        return min(part.shape[-1] for part in self.ways) - 1

    def variances(self, model: int) -> Floats:
        """The variance [M] of each model's figure less that of one of them."""
        parts = [part - part[model] for part in self.drops.parts]
        each = [variance(part) for part in parts]
        if not self.alone:
            if len(each) == 1:
                return each[0]
            return np.maximum(each[0] + each[1] - each[2], np.maximum(each[0], each[1]) / 2)
        found = each[0]
        if self.pairs is not None:
            value = self.drops.value - self.drops.value[model]
            pairs = self.pairs - self.pairs[model]
            found = np.maximum(found - second_order(value, parts[0], pairs), found / 2)
        return np.maximum(found, self.least**2)


class Choice(NamedTuple):
    """Which of M cells may be the best.

    Attributes:
        p: [M] the share of null draws that reach what put a cell out (or would put it out next),
            never below that of a cell put out before; not a chance of being best. NaN for a cell
            whose figure is not a number.
        left: [M] whether a cell is not told apart from the best at 95 %.
    """

    p: Floats
    left: Bools


def evidence(figure: Figure, pred: Floats, sample: Sample) -> Evidence | None:
    """Compute what tells M models apart; None where there are too few systems or clips to tell.

    Args:
        figure: what decides.
        pred: [M, N] predictions; where a model has seeds, their mean.
        sample: the same clips.
    """
    if figure.level == "system":
        pred, sample = with_systems(pred, sample)
    if too_few(figure, sample):
        return None
    drops = left_out(figure.level, figure.function, pred, sample)
    if figure.level != "system" or figure.metric not in ("srcc", "ktau"):
        return Evidence(drops)
    size = int(sample.system.max()) + 1
    step = 12 / (size * (size**2 - 1)) if figure.metric == "srcc" else 4 / (size * (size - 1))
    return Evidence(drops, system_pairs(figure.function, pred, sample), step, alone=True)


def second_order(value: Floats, without: Floats, pairs: Floats) -> Floats:
    """The second-order term that a jackknife's variance counts too often (Efron and Stein 1981).

    Without it the variance of a difference of two models on one backbone, which differ in second
    order only, is 1.3 to 1.9 times too large.

    Args:
        value: [M] figures of S systems.
        without: [M, S] without each system.
        pairs: [M, S(S-1)/2] without two systems each, in the order of ``numpy.triu_indices``.
    """
    size = without.shape[-1]
    i, j = np.triu_indices(size, 1)
    q = size * value[:, None] - (size - 1) * (without[:, i] + without[:, j])
    q = q + (size - 2) * pairs
    apart = q - q.mean(-1, keepdims=True)
    found: Floats = (size - 1) / size**3 * (apart**2).sum(-1)
    return found


def gap(found: Evidence, ours: int, theirs: int) -> Gap:
    """Return the figure of one model less that of another, on the raw scale."""
    values = found.drops.value
    difference = float(values[ours] - values[theirs])
    h = t_quantile(found.freedom) * float(np.sqrt(found.variances(theirs)[ours]))
    return Gap(difference, difference - h, difference + h)


def confidence_set(found: Evidence, *, higher: bool = True) -> Choice:
    """Put out cells that are worse than others until what is left cannot be told apart.

    Args:
        found: of `evidence`, a model a cell.
        higher: whether the figure is better the higher it is.
    """
    values = found.drops.value if higher else -found.drops.value
    usable = np.isfinite(values)
    for part in found.ways:
        usable &= np.isfinite(part).all(-1)
    place = np.flatnonzero(usable)
    p = np.full(len(values), np.nan)
    left = np.zeros(len(values), np.bool_)
    if len(place) < 2:
        p[place], left[place] = 1.0, True
        return Choice(p, left)
    kept = found._replace(
        drops=found.drops.of(place), pairs=None if found.pairs is None else found.pairs[place]
    )
    p[place], left[place] = _step_down(_behind(kept, values[place]), _null(kept))
    return Choice(p, left)


def _behind(found: Evidence, values: Floats) -> Floats:
    """[M, M] how far each cell is ahead of each other, as a normal deviate."""
    deviates = np.zeros((len(values), len(values)))
    for j in range(len(values)):
        difference = values - values[j]
        std = np.sqrt(found.variances(j))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(difference == 0, 0.0, difference / std)
        # In the tail that keeps its digits.
        size = norm.isf(student.sf(np.abs(ratio), found.freedom))
        deviates[:, j] = np.sign(difference) * np.minimum(size, 1e6)
    return deviates


def _null(found: Evidence) -> tuple[Floats, Floats]:
    """Null draws [DRAWS, M] of the cells, and the std [M, M] of each difference."""
    apart = []
    for part in found.ways:
        count = part.shape[-1]
        apart.append(np.sqrt((count - 1) / count) * (part - part.mean(-1, keepdims=True)))
    loadings = np.concatenate(apart, -1)
    noise = np.random.default_rng(0).standard_normal((DRAWS, loadings.shape[-1]))
    std = np.stack([np.sqrt(((loadings - one) ** 2).sum(-1)) for one in loadings])
    return noise @ loadings.T, std


def _step_down(ahead: Floats, null: tuple[Floats, Floats]) -> tuple[Floats, Bools]:
    """Put out the cell that falls behind most, again and again."""
    draws, std = null
    count = len(ahead)
    inside = list(range(count))
    order, reached = [], []
    while len(inside) > 1:
        now = np.asarray(inside)
        behind = ahead[np.ix_(now, now)].max(0)
        worst = int(np.argmax(behind))
        order.append(inside.pop(worst))
        reached.append(float(behind[worst]))
    # Backwards, each cell adds its differences to the largest among those left. In blocks of draws
    # that stay in a processor's cache, and in float32: a share of draws needs no more.
    share = np.zeros(count - 1)
    members = [inside[0], *reversed(order)]
    z = draws[:, members].T.astype(np.float32)
    with np.errstate(divide="ignore"):
        inverse = np.where(std > 0, 1 / std, 0)[np.ix_(members, members)].astype(np.float32)
    for start in range(0, z.shape[1], _BLOCK):
        block = np.ascontiguousarray(z[:, start : start + _BLOCK])
        buffer = np.empty_like(block)
        largest = np.zeros(block.shape[1], np.float32)
        for k, value in enumerate(reversed(reached), 1):
            apart = np.subtract(block[:k], block[k], out=buffer[:k])
            apart *= inverse[:k, k, None]
            np.maximum(largest, np.abs(apart, out=apart).max(0), out=largest)
            share[k - 1] += (largest >= value).sum() / z.shape[1]
    p = np.ones(count)
    running = 0.0
    for cell, one in zip(order, share[::-1], strict=True):
        running = max(running, float(one))
        p[cell] = running
    return p, p > _ERROR
