"""What every kind of interval tells: the limits of figures, and of differences of two models."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import NamedTuple

import numpy as np

from qamro_cache.evaluation.judged import Bools, Floats, Ints, Judged
from qamro_cache.evaluation.kinds import KINDS


class Interval(NamedTuple):
    """The limits of a figure; NaN where there are none."""

    low: float
    high: float


class Limits(NamedTuple):
    """Intervals by figure, what they are over in words, and ``ci=`` of a signature."""

    of_figures: Mapping[str, Interval]
    population: str
    signature: str


class Gap(NamedTuple):
    """A difference of two models' figures with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


class Against(NamedTuple):
    """What M models are beside the highest of them.

    Attributes:
        p: [M] the share of null draws that reach what a model falls behind by, see
            `choice.Choice`; NaN for a kind that draws none.
        told: [M] whether it is clearly below.
        gaps: the highest's figure less its own.
    """

    p: Floats
    told: Bools
    gaps: list[Gap | None]


class Intervals(ABC):
    """A kind of interval. Predictions [C] are averaged over seeds, and finite where judged."""

    def __init__(self, draws: int = 0) -> None:
        """Take the number of draws, 0 for a kind that draws nothing."""
        self.draws = draws

    @abstractmethod
    def limits(self, pred: Floats, judged: Judged) -> Limits:
        """Return the intervals of one prediction's main figures."""

    @abstractmethod
    def gap(self, ours: Floats, theirs: Floats, judged: Judged, figure: str) -> Gap | None:
        """Return a main figure's difference, ours less theirs; None where nothing can be told."""

    def against(
        self, order: Ints, predictions: Sequence[Floats], judged: Judged, figure: str
    ) -> Against:
        """Compare all models with the first in ``order`` [M], the highest: one at a time."""
        p, told = np.full(len(order), np.nan), np.zeros(len(order), np.bool_)
        gaps: list[Gap | None] = [None] * len(order)
        for k in order:
            one = self.gap(predictions[order[0]], predictions[k], judged, figure)
            gaps[k], told[k] = one, one is not None and one.low > 0
        return Against(p, told, gaps)


def intervals_of(judged: Judged) -> Intervals:
    """Return what computes the intervals of these clips; torch is loaded here."""
    made: Intervals = resolve_name(KINDS[judged.interval.name])(judged.interval.draws)
    return made
