"""Intervals over systems and groups by the jackknife, and a confidence set of the best models."""

from collections.abc import Sequence

import numpy as np

from qamro_cache.evaluation.choice import Evidence, confidence_set, evidence, gap
from qamro_cache.evaluation.figures import with_interval
from qamro_cache.evaluation.intervals import figure_of, intervals
from qamro_cache.evaluation.judged import Floats, Ints, Judged
from qamro_cache.evaluation.limits import Against, Gap, Interval, Intervals, Limits
from qamro_cache.evaluation.metrics import METRICS
from qamro_cache.evaluation.ways import sample_of

#: So many cells take seven seconds to compare, ten times as many would take hours.
MOST_CELLS = 1000


class Jackknife(Intervals):
    """The kind where none is named; see `qamro_cache.evaluation.intervals`."""

    def limits(self, pred: Floats, judged: Judged) -> Limits:
        """Return the intervals of one prediction's main figures."""
        sample = sample_of(judged)
        wanted = [
            figure
            for figure in map(figure_of, with_interval(len(sample.target)))
            if judged.same_scale or not METRICS[figure.metric].same_scale
        ]
        found = intervals(pred[None, judged.known], sample, wanted)
        over = "+".join(f"{way.noun}s" for way in sample.ways.over)
        return Limits(
            {name: Interval(float(one.low[0]), float(one.high[0])) for name, one in found.items()},
            sample.ways.population,
            f"jackknife:{over}",
        )

    def gap(self, ours: Floats, theirs: Floats, judged: Judged, figure: str) -> Gap | None:
        """Return a main figure's difference, ours less theirs; None where nothing can be told."""
        return _gap(_evidence([ours, theirs], judged, figure), 1)

    def against(
        self, order: Ints, predictions: Sequence[Floats], judged: Judged, figure: str
    ) -> Against:
        """Compare all at once by a model confidence set: among many the highest flatters itself.

        Nothing is told of those beyond the `MOST_CELLS` highest.
        """
        p, told = np.full(len(order), np.nan), np.zeros(len(order), np.bool_)
        gaps: list[Gap | None] = [None] * len(order)
        compared = order[:MOST_CELLS]
        found = _evidence([predictions[k] for k in compared], judged, figure)
        for row, k in enumerate(compared):
            gaps[k] = _gap(found, row)
        if found is not None:
            p[compared], left = confidence_set(found)
            told[compared] = ~left & np.isfinite(p[compared])
        return Against(p, told, gaps)


def _evidence(predictions: Sequence[Floats], judged: Judged, figure: str) -> Evidence | None:
    known = np.stack(predictions)[:, judged.known]
    return evidence(figure_of(figure), known, sample_of(judged))


def _gap(found: Evidence | None, theirs: int) -> Gap | None:
    """Return the first model's figure less another's; None where nothing can be told."""
    between = None if found is None else gap(found, 0, theirs)
    return None if between is None or np.isnan(between.low) else between
