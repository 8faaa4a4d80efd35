"""The figures of models on one axis, all on the same clips: values, intervals, and over seeds.

What is scored is what is delivered: the mean of the seeds' predictions, as qamro-predict writes it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from qamro_cache.evaluation.bootstrap import Interval, interval, resampled
from qamro_cache.evaluation.figures import FIGURES, figures, with_interval
from qamro_cache.evaluation.intervals import figure_of, intervals
from qamro_cache.evaluation.judged import Floats, Judged
from qamro_cache.evaluation.metrics import METRICS
from qamro_cache.evaluation.ways import sample_of
from qamro_cache.evaluation.within import blocks_of, group_sizes
from qamro_cache.version import __version__

_Name = TypeVar("_Name", str, int)

_NONE = float("nan")

#: The figure that a table's signature is written for, and that decides which model is best.
DECIDES = "clip_srcc"


def score_models(
    models: Mapping[_Name, Floats],
    judged: Judged,
    *,
    resamples: int | None = None,
    own_units: Collection[_Name] = (),
) -> dict[_Name, dict[str, Any]]:
    """Score models [K, C], each as `score` does, on the clips that all of them predict.

    Those of ``own_units`` have no figure that needs the labels' units.
    """
    same = common(models.values(), judged)
    other = replace(same, same_scale=False)
    left = int(judged.known.sum() - same.known.sum())
    return {
        name: {
            **score(pred, other if name in own_units else same, resamples=resamples),
            "left_out": left,
        }
        for name, pred in models.items()
    }


def common(models: Iterable[Floats], judged: Judged) -> Judged:
    """Return ``judged`` without the clips that some seed of some model has no number for.

    A model without any number takes no clip from the others.
    """
    kept = judged.known
    for pred in models:
        usable = np.isfinite(pred).all(0)
        if usable.any():
            kept = kept & usable
    return judged.only(kept)


def score(pred: Floats, judged: Judged, *, resamples: int | None = None) -> dict[str, Any]:
    """Score the mean of the predictions of K seeds against the labels.

    Args:
        pred: [K, C] predictions; a clip with a NaN from any seed is left out.
        judged: the same clips.
        resamples: of `limits`.

    Returns:
        ``clips``, ``systems``, ``groups`` (those that the figures within groups are averaged over),
        ``groups_left_out`` (fewer than two clips, or equal labels), ``group_word``,
        ``best_of_n`` (how many clips a group has to choose among, on average), ``left_out`` (clips
        with a label but no prediction) and ``seeds`` counted; ``population``, what the intervals
        are over in words; the ``signature`` of what was computed; and ``metrics``: for each of
        `FIGURES` the ``value`` of the averaged prediction, the 95 % interval ``low`` to ``high`` of
        the main ones (see `limits`), and of the seeds' own figures ``by_seed`` [K] the
        ``seeds_mean`` and ``seeds_std`` (NaN for one seed). JSON types, NaN where a figure is
        undefined.
    """
    known = np.isfinite(pred).all(0) & judged.known
    left = int(judged.known.sum() - known.sum())
    judged = judged.only(known)
    target, systems = judged.target[known], np.unique(judged.system[known])
    result: dict[str, Any] = {
        "clips": len(target),
        "systems": int((systems >= 0).sum()),
        **_group_counts(judged),
        "left_out": left,
        "seeds": len(pred),
        "population": "",
        "signature": "",
        "metrics": {},
    }
    if len(target) == 0:
        return result
    # The averaged prediction stands first, the seeds' own behind it.
    rows = figures_of(np.concatenate([pred.mean(0, keepdims=True), pred]), judged)
    found = limits(pred.mean(0), judged, resamples)
    for name, (value, *by_seed) in rows.items():
        between = found.of_figures.get(name, Interval(_NONE, _NONE))
        result["metrics"][name] = {
            "value": value,
            "low": between.low,
            "high": between.high,
            "seeds_mean": float(np.mean(by_seed)),
            "seeds_std": float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else _NONE,
            "by_seed": by_seed,
        }
    result["population"] = found.population
    result["signature"] = _signature(result, judged, found.signature)
    return result


def _group_counts(judged: Judged) -> dict[str, Any]:
    """Count the groups that figures within groups are averaged over, and those left out."""
    known, word = judged.known, judged.group_word
    if judged.group is None:
        return {"groups": 0, "groups_left_out": 0, "group_word": word, "best_of_n": _NONE}
    group, target = judged.group[known], torch.as_tensor(judged.target[known])
    blocks = blocks_of(torch.as_tensor(group))
    counted = len(group_sizes(target, blocks))
    reference = np.zeros_like(known) if judged.reference is None else judged.reference
    choices = group_sizes(target, blocks, torch.as_tensor(~reference[known]))
    return {
        "groups": counted,
        "groups_left_out": len(np.unique(group[group >= 0])) - counted,
        "group_word": word,
        "best_of_n": float(choices.mean()),
    }


class Limits(NamedTuple):
    """Intervals by figure, what they are over in words, and ``ci=`` of a signature."""

    of_figures: Mapping[str, Interval]
    population: str
    signature: str


def limits(pred: Floats, judged: Judged, resamples: int | None = None) -> Limits:
    """Return the 95 % intervals of one prediction's main figures.

    Args:
        pred: [C] predictions, finite where a clip is judged.
        judged: the same clips, with their systems and groups.
        resamples: None for the jackknife over systems and groups; draws of a bootstrap over systems
            (clips where no clip has a system) instead; 0 for no interval.
    """
    known = judged.known
    if resamples is None:
        sample = sample_of(judged)
        wanted = [
            figure
            for figure in map(figure_of, with_interval(len(sample.target)))
            if judged.same_scale or not METRICS[figure.metric].same_scale
        ]
        found = intervals(pred[None, known], sample, wanted)
        over = "+".join(f"{way.noun}s" for way in sample.ways.over)
        return Limits(
            {name: Interval(float(one.low[0]), float(one.high[0])) for name, one in found.items()},
            sample.ways.population + _learned(judged),
            f"jackknife:{over}",
        )
    drawn = resampled(pred, judged, resamples=resamples)
    if not drawn:
        return Limits({}, "", "none")
    way = "systems" if (judged.system[known] >= 0).any() else "clips"
    between = {name: interval(values) for name, values in drawn.items()}
    return Limits(between, f"over {way}{_learned(judged)}", f"bootstrap:{way}:{resamples}")


def _learned(judged: Judged) -> str:
    """Say what the heads knew of what was held out, where it is known how that was done.

    An interval holds what these heads reach, and on what they have learned: on systems that no head
    has seen it is wrong more often than it says (docs/evaluation.md).
    """
    if not judged.cv:
        return ""
    named = (("system", "system", judged.system),
             (judged.group_word, judged.group_noun, judged.group))  # fmt: skip
    seen = [
        f"{noun}s"
        for word, noun, of in named
        if word != judged.cv and of is not None and (of >= 0).any()
    ]
    # What a fixed split shares stands in the line that says what it asks.
    known = "" if judged.cv == "split" or not seen else " and ".join(seen)
    return "; of these heads" + (f", which have learned from the same {known}" if known else "")


def _signature(scored: Mapping[str, Any], judged: Judged, interval: str) -> str:
    """Say what was computed in one word, as sacreBLEU does (Post 2018, arXiv 1804.08771)."""
    parts = {
        "n": scored["clips"],
        "systems": scored["systems"],
        f"{judged.group_word}s": scored["groups"],
        "cv": judged.cv,
        "seeds": scored["seeds"],
        "ci": interval,
        "version": __version__,
    }
    return "|".join([DECIDES, *(f"{name}={value}" for name, value in parts.items() if value != "")])


def figures_of(
    pred: Floats, judged: Judged, *, only: Collection[str] = FIGURES
) -> dict[str, list[float]]:
    """Return each figure of each prediction [K, C], on another scale without those in its units."""
    known, sample = judged.known, sample_of(judged)
    found = figures(
        torch.as_tensor(pred[:, known]),
        torch.as_tensor(sample.target),
        torch.as_tensor(sample.system),
        None if sample.truth is None else torch.as_tensor(sample.truth),
        group=torch.as_tensor(sample.group),
        candidates=None if judged.reference is None else torch.as_tensor(~judged.reference[known]),
        only=only,
    )
    return {
        name: values.tolist()
        for name, values in found.items()
        if judged.same_scale or not METRICS[name.partition("_")[2]].same_scale
    }
