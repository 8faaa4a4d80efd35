"""The figures of models on one axis, all on the same clips: values, intervals, and over seeds.

What is scored is what is delivered: the mean of the seeds' predictions, as qamro-predict writes it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from qamro_cache.evaluation.figures import figures_of
from qamro_cache.evaluation.judged import Floats, Judged
from qamro_cache.evaluation.limits import Interval, intervals_of
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
            **score(pred, other if name in own_units else same),
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


def score(pred: Floats, judged: Judged) -> dict[str, Any]:
    """Score the mean of the predictions of K seeds against the labels.

    Args:
        pred: [K, C] predictions; a clip with a NaN from any seed is left out.
        judged: the same clips, and the kind of interval.

    Returns:
        ``clips``, ``systems``, ``groups`` (those that the figures within groups are averaged over),
        ``groups_left_out`` (fewer than two clips, or equal labels), ``group_word``,
        ``best_of_n`` (how many clips a group has to choose among, on average), ``left_out`` (clips
        with a label but no prediction) and ``seeds`` counted; ``population``, what the intervals
        are over in words; the ``signature`` of what was computed; and ``metrics``: for each of
        `FIGURES` the ``value`` of the averaged prediction, the 95 % interval ``low`` to ``high`` of
        the main ones, and of the seeds' own figures ``by_seed`` [K] the
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
    found = intervals_of(judged).limits(pred.mean(0), judged)
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
    result["population"] = found.population and found.population + _learned(judged)
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
    known = "" if judged.cv in ("split", "source") or not seen else " and ".join(seen)
    words = f", trained on the same {known}: expect worse on new ones"
    return f"; of these heads{words if known else ''}"


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
