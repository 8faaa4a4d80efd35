"""Whether a model beats its baselines, in words: paired differences of the figure that decides."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qamro_cache.evaluation.figures import figures_of
from qamro_cache.evaluation.judged import Floats, Judged
from qamro_cache.evaluation.limits import intervals_of
from qamro_cache.evaluation.score import DECIDES

#: The figure as a person reads it.
_IN_WORDS = "clip SRCC"

#: What choosing among clips of one group takes, beside it.
_WITHIN = "group_srcc"


class Model(NamedTuple):
    """What a verdict is on, or against.

    Attributes:
        name: in the verdict's words.
        kind: baselines of one kind read other features, or hold other clips out.
        pred: [C] predictions, the seeds averaged.
        value: its figure that decides, NaN where that is undefined.
    """

    name: str
    kind: str
    pred: Floats
    value: float


def verdicts(
    ours: Model,
    baselines: Sequence[Model],
    always: Collection[str],
    judged: Judged,
) -> list[dict[str, Any]]:
    """Hold a model against the highest baseline, and against the highest of some kinds.

    Args:
        ours: the model.
        baselines: what it should beat, in the order of the verdicts.
        always: kinds that have a verdict whether one of them is the highest or not.
        judged: the clips that all of them predict; see `common`. Without an interval there is no
            verdict.

    Returns:
        A record each: ``baseline`` (its name), ``metric``, its ``value``, the ``difference`` (ours
        less the baseline's) with the 95 % interval ``low`` to ``high``, ``beats`` (whether that is
        above 0; None without an interval), ``within`` (the same of the mean SRCC within groups;
        None where that cannot be told), ``highest`` (whether it is the highest baseline) and
        the ``words``. JSON types. What intervals are over is said by the figures they stand by.
    """
    found = [one for one in baselines if math.isfinite(one.value)]
    top = max(found, key=lambda one: one.value, default=None)
    best: dict[str, Model] = {}
    for one in found:
        if one.kind not in best or one.value > best[one.kind].value:
            best[one.kind] = one
    chosen = [one for one in best.values() if one is top or one.kind in always]
    return [{**_verdict(ours, one, judged), "highest": one is top} for one in chosen]


def _verdict(ours: Model, baseline: Model, judged: Judged) -> dict[str, Any]:
    found = _difference(ours, baseline, judged, DECIDES, ours.value - baseline.value)
    difference = found["difference"]
    if math.isnan(difference):
        words = f"not known, its {_IN_WORDS} is undefined"
    elif found["beats"] is None:
        words = f"not known, without an interval ({_IN_WORDS} difference {bare(difference)})"
    else:
        words = _answer(found, f"{_IN_WORDS} difference ")
    within = _within(ours, baseline, judged)
    if within:
        words += f"; within {judged.group_noun}s: {_answer(within)}"
    return {
        "baseline": baseline.name,
        "metric": DECIDES,
        "value": baseline.value,
        **found,
        "within": within,
        "words": f"beats {baseline.name}: {words}",
    }


def _within(ours: Model, baseline: Model, judged: Judged) -> dict[str, Any] | None:
    """Hold a model against a baseline within groups; None where nothing can be told there."""
    both = figures_of(np.stack([ours.pred, baseline.pred]), judged, only=[_WITHIN])
    if _WITHIN not in both:
        return None
    mine, theirs = both[_WITHIN]
    found = _difference(ours, baseline, judged, _WITHIN, mine - theirs)
    return {"metric": _WITHIN, "value": theirs, **found} if found["beats"] is not None else None


def _difference(
    ours: Model, baseline: Model, judged: Judged, figure: str, difference: float
) -> dict[str, Any]:
    gap = intervals_of(judged).gap(ours.pred, baseline.pred, judged, figure)
    low, high = (math.nan, math.nan) if gap is None else (gap.low, gap.high)
    beats = low > 0 if math.isfinite(low) else None
    return {"difference": difference, "low": low, "high": high, "beats": beats}


def _answer(found: Mapping[str, Any], what: str = "") -> str:
    """Answer in words, with the difference: ``no (clip SRCC difference .012, -.134 to .158)``."""
    answer = "yes" if found["beats"] else "no, it is clearly lower" if found["high"] < 0 else "no"
    numbers = (bare(found[name]) for name in ("difference", "low", "high"))
    return "{} ({}{}, {} to {})".format(answer, what, *numbers)


def bare(value: float) -> str:
    """A difference of correlations without the 0 before its point."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"
