"""What heads, and what they must beat, are worth on held-out pairs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qamro_cache.datasets.preferences import Pairs
from qamro_cache.evaluation.judged import Bools, Floats
from qamro_cache.evaluation.preferences import (
    FIGURES,
    HeldPairs,
    Said,
    held_pairs,
    known_rows,
    pair_difference,
    pair_figures,
    pair_record,
)
from qamro_cache.experiments.fitting import Fitted
from qamro_cache.training.inputs import Folds

#: What a model without tau is judged by.
_DECIDES = "accuracy"


class Heads(NamedTuple):
    """J heads of one axis, as pairs are told by them.

    Attributes:
        fold: [J] that each is of.
        predictions: [J, C], NaN where a head was not asked.
        preference: [J, 2] tau and the tie parameter.
        diverged: [J].
    """

    fold: npt.NDArray[np.int64]
    predictions: Floats
    preference: Floats
    diverged: Bools


class Asked(NamedTuple):
    """The held-out pairs of one axis.

    Attributes:
        pairs: of the axis.
        rows: those that some fold holds out, by each of these folds.
        counts: of all, and of those that folds train on.
    """

    pairs: Pairs
    rows: HeldPairs
    counts: Mapping[str, int]

    def of_heads(self, heads: Heads) -> Said:
        """Return what the heads of each row's fold say of it: their mean score, tau and tie.

        Tau and the tie parameter are geometric means over the seeds that did not diverge.
        """
        gap = np.full(len(self.rows.pair), np.nan)
        tau, tie = gap.copy(), gap.copy()
        a, b = self.pairs.clips[self.rows.pair].T
        for fold in np.unique(self.rows.fold):
            mine, here = heads.fold == fold, self.rows.fold == fold
            if not mine.any():
                continue
            mean = heads.predictions[mine].mean(0)
            gap[here] = mean[a[here]] - mean[b[here]]
            if (able := mine & ~heads.diverged).any():
                tau[here], tie[here] = geometric(heads.preference[able])
        return Said(gap, tau, tie)

    def of_scores(self, scores: Floats) -> Said:
        """Return what scores say that know no tau: [C], or [F, C] of each fold's own model."""
        a, b = self.pairs.clips[self.rows.pair].T
        if scores.ndim == 1:
            gap = scores[a] - scores[b]
        else:
            gap = scores[self.rows.fold, a] - scores[self.rows.fold, b]
        unknown = np.full(len(gap), np.nan)
        return Said(gap, unknown, unknown)

    def record(self, said: Said) -> dict[str, Any]:
        """Return what a model is worth (`pair_record`), on the pairs that it can tell of."""
        record = pair_record(*known_rows(self.rows, said, np.isfinite(said.gap)))
        record["counts"] |= self.counts
        return record

    def judge(self, heads: Heads, others: Mapping[str, Floats]) -> dict[str, Any]:
        """Return what heads are worth, and as ``baselines`` what they must beat (`beside`)."""
        said = self.of_heads(heads)
        return {**self.record(said), "baselines": self.beside(said, others)}

    def beside(self, ours: Said, others: Mapping[str, Floats]) -> dict[str, Any]:
        """Hold models without tau against the heads, on the pairs that both can tell of.

        Returns:
            Of each its ``accuracy``, and the ``difference`` of the heads' to it, with their 95 %
            intervals; and the ``words``.
        """
        found = {}
        for name, scores in others.items():
            theirs = self.of_scores(scores)
            known = np.isfinite(ours.gap) & np.isfinite(theirs.gap)
            if not known.any():
                continue
            rows, mine = known_rows(self.rows, ours, known)
            _, other = known_rows(self.rows, theirs, known)
            one = pair_figures(rows, other)[_DECIDES]
            gap = pair_difference(_DECIDES, rows, mine, other)
            words = f"{name} {_with_limits(one)}, the heads less it {_with_limits(gap)}"
            found[name] = {_DECIDES: one, "difference": gap, "words": words}
        return found


def asked(pairs: Pairs | None, axis: int, folds: Folds) -> Asked | None:
    """Return the held-out pairs of an axis; None where it has no pair."""
    if pairs is None or not (pairs.axis == axis).any():
        return None
    mine = pairs.on([axis])
    training = mine.within(folds.train).sum(1)
    counts = {
        "pairs": len(mine),
        "training_least": int(training.min()),
        "training_most": int(training.max()),
    }
    return Asked(mine, held_pairs(mine, folds.test), counts)


def heads_of(fitted: Fitted, target: int) -> Heads:
    """Return the heads of an axis."""
    mine = fitted.of_target(target)
    fold = np.array([fitted.jobs[k].fold for k in mine], np.int64)
    return Heads(fold, fitted.predictions[mine], fitted.preference[mine], fitted.diverged[mine])


def geometric(preference: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return tau and the tie parameter of heads [H, 2], geometric means; no ties stay none."""
    with np.errstate(divide="ignore"):
        tau, tie = np.exp(np.log(preference).mean(0))
    return float(tau), float(tie)


def pair_columns(record: Mapping[str, Any] | None) -> dict[str, float]:
    """Return what `Asked.record` found as columns of a table, NaN where a figure is not there."""
    counts, figures = (record or {}).get("counts", {}), (record or {}).get("figures", {})
    found = {"pairs": float(counts.get("held_out", np.nan))}
    for name in FIGURES:
        one = figures.get(name, {})
        found[f"pairs_{name}"] = one.get("value", np.nan)
        found |= {f"pairs_{name}_{end}": one.get(end, np.nan) for end in ("low", "high")}
    return found


def _with_limits(one: Mapping[str, float]) -> str:
    between = f" [{one['low']:.3f}, {one['high']:.3f}]" if np.isfinite(one["low"]) else ""
    return f"{one['value']:.3f}{between}"
