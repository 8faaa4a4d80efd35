"""What a user should be told about a run: findings with their evidence and what to try.

Few, and each only beyond a threshold whose reason stands beside it. All are read from what
`qamro_cache.evaluation.score.score` found on the same clips, and from the predictions themselves.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from qamro_cache.evaluation.figures import figures_of
from qamro_cache.evaluation.judged import Floats, Judged
from qamro_cache.evaluation.verdict import bare

#: An MSE this many times a baseline's: its RMSE is then 5 % above, which a user of scores can see.
_WORSE = 1.1

#: Single seeds' SRCC differ by this std: one time in three, two of them then lie more than .07
#: apart, and a comparison of settings by one seed each tells the seeds.
_UNSTEADY = 0.05

#: Predictions spread over less than this share of the labels' std say next to nothing about a clip.
_FLAT = 0.1

#: The lowest third of the labels has an RMSE this many times the highest's, or the other way: equal
#: errors come to that less than one time in 30 where a third has 10 clips or more (F test). The
#: middle third is no measure: predictions drawn to the mean are always best there.
_UNEVEN, _CLIPS = 2.0, 30

#: Within groups and pooled, SRCC differ by more than this, and by more than two standard deviations
#: from what the same clips give when they are dealt to groups of these sizes at random, so often.
_POOLED, _DEALT = 0.1, 100


class Finding(NamedTuple):
    """One finding about a model on an axis.

    Attributes:
        code: a word for programs.
        evidence: what was seen, in numbers.
        suggestion: what to try.
    """

    code: str
    evidence: str
    suggestion: str


def diagnose(
    scored: Mapping[str, Any],
    baselines: Mapping[str, Mapping[str, Any]],
    pred: Floats,
    judged: Judged,
) -> list[Finding]:
    """Return what stands out about a model, the gravest first; empty where nothing does.

    Args:
        scored: what `score` found of the model.
        baselines: of the baselines on the same clips, by name.
        pred: [K, C] the model's predictions, a row a seed.
        judged: the clips judged.
    """
    flat = constant(pred, judged)
    if flat:
        # Whatever else stands out follows from that.
        return [flat]
    found = [
        error_above_baseline(scored, baselines),
        seeds(scored),
        quality_ranges(scored),
        pooled(scored, pred.mean(0), judged),
    ]
    return [one for one in found if one is not None]


def constant(pred: Floats, judged: Judged) -> Finding | None:
    """Find predictions that are nearly one number."""
    known = judged.known & np.isfinite(pred).all(0)
    if known.sum() < 2:
        return None
    labels, mean = float(judged.target[known].std()), pred.mean(0)[known]
    # In other units nothing but one number is flat.
    least = _FLAT * labels if judged.same_scale else 1e-12
    if labels == 0 or mean.std() >= least:
        return None
    return Finding(
        "constant",
        f"predictions spread over a std of {mean.std():.3g}, the labels over {labels:.3g}",
        "train for more --epochs, try another --lr, or look whether the "
        "feature tells these clips apart at all (the row ridge)",
    )


def error_above_baseline(
    scored: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]
) -> Finding | None:
    """Find an MSE clearly above a baseline's, whether or not the clips are ranked."""
    mse, srcc = _value(scored, "clip_mse"), _value(scored, "clip_srcc")
    others = {name: _value(one, "clip_mse") for name, one in baselines.items()}
    others = {name: value for name, value in others.items() if np.isfinite(value)}
    name = min(others, key=others.__getitem__, default="")
    # Without any error: all clips have one rating, which is told elsewhere.
    if not name or others[name] == 0 or not mse > _WORSE * others[name]:
        return None
    above, slope = _value(scored, "clip_srcc", "low"), _value(scored, "clip_slope")
    if (above if np.isfinite(above) else srcc) > 0:
        advice = "use the scores for ranking only, or rescale them on labeled clips"
    else:
        # With its interval it ranks no better than chance, so its scores are good for nothing.
        advice = "use ridge instead (--head ridge)" if name == "ridge" else f"prefer {name}"
    if slope < 0.8:
        advice += "; its scores spread too widely: more weight decay or dropout"
    elif slope > 1.25:
        advice += "; its scores spread too narrowly: train for longer"
    return Finding(
        "error_above_baseline",
        f"clip MSE {mse:.4g} is {100 * (mse / others[name] - 1):.0f} % above that of {name} "
        f"({others[name]:.4g}), while it ranks clips at an SRCC of {bare(srcc)}; calibration slope "
        f"{slope:.2f} (1 is right)",
        advice,
    )


def seeds(scored: Mapping[str, Any]) -> Finding | None:
    """Find single seeds that differ much in clip SRCC."""
    one = scored["metrics"].get("clip_srcc", {})
    std = one.get("seeds_std", float("nan"))
    if not std > _UNSTEADY:
        return None
    low, high = np.nanmin(one["by_seed"]), np.nanmax(one["by_seed"])
    return Finding(
        "seeds_differ",
        f"clip SRCC of {len(one['by_seed'])} single seeds: std {std:.3f}, {low:.3f} to {high:.3f}",
        "compare nothing by one seed; more --seeds are averaged by qamro-predict, a lower --lr or "
        "a smaller head differs less",
    )


def quality_ranges(scored: Mapping[str, Any]) -> Finding | None:
    """Find one end of the labels where the error is much larger than at the other."""
    thirds = {"lowest": "rmse_low", "middle": "rmse_mid", "highest": "rmse_high"}
    errors = {word: _value(scored, f"clip_{name}") for word, name in thirds.items()}
    if scored["clips"] < _CLIPS:
        return None
    worst, best = sorted(("lowest", "highest"), key=errors.__getitem__, reverse=True)
    if not errors[worst] > _UNEVEN * errors[best]:
        return None
    every = ", ".join(f"{word} {value:.3g}" for word, value in errors.items())
    return Finding(
        "error_by_quality",
        f"RMSE by thirds of the labels: {every}",
        f"do not rely on absolute scores of the {worst} third; more rated clips of that quality "
        "help most",
    )


def pooled(scored: Mapping[str, Any], pred: Floats, judged: Judged) -> Finding | None:
    """Find groups that decide the pooled correlation (Simpson's paradox)."""
    clips, groups = _value(scored, "clip_srcc"), _value(scored, "group_srcc")
    if not abs(groups - clips) > _POOLED:
        return None
    chance = _dealt(pred, judged)
    if not abs(groups - np.mean(chance)) > 2 * np.std(chance):
        return None
    word, evidence = (
        scored["group_word"],
        f"SRCC over all clips {bare(clips)}, within {scored['groups']} {scored['group_word']}s "
        f"{bare(groups)} on average",
    )
    within = f"compare clips of one {word} with each other, as figures in {word}s do"
    if groups > clips:
        why = f"the model misses the levels of {word}s, so scores across them are not comparable"
    else:
        why = f"part of the pooled figure is the levels of {word}s"
    return Finding("groups_decide", evidence, f"{within}: {why}")


def _dealt(pred: Floats, judged: Judged) -> list[float]:
    """Return the SRCC within groups of clips that are dealt to the groups at random."""
    random, judged = np.random.default_rng(0), judged.only(np.isfinite(pred))
    known, found = judged.known, []
    given = np.full(len(known), -1) if judged.group is None else judged.group
    for _ in range(_DEALT):
        group = given.copy()
        group[known] = random.permutation(given[known])
        one = figures_of(pred[None], replace(judged, group=group), only=["group_srcc"])
        found += one.get("group_srcc", [np.nan])
    return found


def _value(scored: Mapping[str, Any], figure: str, part: str = "value") -> float:
    """Return a figure or an end of its interval, NaN where it is not there."""
    return float(scored["metrics"].get(figure, {}).get(part, float("nan")))
