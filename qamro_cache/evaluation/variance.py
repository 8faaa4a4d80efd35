"""Where errors come from: systems, groups, clips, raters and seeds, and what one more would buy.

Crossed random effects of the error, by the method of moments: Henderson's method 1 ("Estimation of
variance and covariance components", Biometrics 1953), which is unbiased for designs with holes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from qamro_cache.evaluation.judged import Floats, Ints, Judged, Rated
from qamro_cache.evaluation.ways import Ways, sample_of


class Component(NamedTuple):
    """A part of the error of one prediction against one rating.

    Attributes:
        variance: in squared label units; an estimate that can be below 0 where there is none.
        labels: how many even labels the mean over this test stands on, 1 / sum of squared shares.
    """

    variance: float
    labels: float


class Table(NamedTuple):
    """The variance of the error by component, and what more would buy.

    Attributes:
        components: by name: each way (``system``, ``song``), ``clip``, ``rater``, ``rating`` and
            ``seed``. Without single ratings ``clip`` holds the ratings' noise. What cannot be told
            apart is not there.
        std: standard error of the mean error over this test.
        one_more: the same with one more system (on every group), group (by every system), rater
            (of every clip) or seed.
        label_noise: part of a clip's MSE that is the ratings' own noise, and the same with one more
            rating a clip; NaN without single ratings.
    """

    components: Mapping[str, Component]
    std: float
    one_more: Mapping[str, float]
    label_noise: tuple[float, float]


def variance_table(pred: Floats, target: Floats, ways: Ways, ratings: Rated | None = None) -> Table:
    """Part the variance of the error of predictions.

    Args:
        pred: [K, N] predictions of K seeds, whose mean is what is used.
        target: [N] labels; looked at only without single ratings.
        ways: labels of the systems and groups.
        ratings: single ratings of these clips, of one axis.
    """
    seeds, clips = pred.shape
    named = {way.noun: way.label for way in (*ways.fixed, *ways.over) if way.noun != "clip"}
    mean = pred.mean(0)
    if ratings is None:
        found = components(mean - target, named)
        rest = "clip"
    else:
        factors = {name: label[ratings.clip] for name, label in named.items()}
        factors["clip"] = ratings.clip
        if (ratings.rater >= 0).all():
            factors["rater"] = ratings.rater
        found = components(mean[ratings.clip] - ratings.score, factors)
        rest = "rating" if "clip" in found else "clip"
    found[rest] = found.pop("rest")
    if seeds > 1:
        of_seed = float(pred.var(0, ddof=1).mean())
        # What is left of the seeds in their mean looks like the clips' own.
        clip = found["clip"]
        found["clip"] = clip._replace(variance=clip.variance - of_seed / seeds)
        found["seed"] = Component(of_seed, float(clips * seeds))
    each = 0.0 if ratings is None else len(ratings.clip) / len(np.unique(ratings.clip))
    one_more = {
        name: _std(found, _grown(found, name, each, seeds))
        for name in (*named, "rater", "seed")
        if name in found or (name == "rater" and "rating" in found)
    }
    now = _std(found, {name: one.labels for name, one in found.items()})
    return Table(found, now, one_more, _label_noise(found, each))


def error_sources(pred: Floats, judged: Judged) -> dict[str, Any] | None:
    """Say where the error of a model comes from, and what one more of each kind would buy.

    Args:
        pred: [K, C] predictions, a row a seed, finite where a clip is judged.
        judged: the clips.

    Returns:
        ``components``: by name as in `Table` the ``variance`` in squared label units, its ``share``
        of the sum (below 0 counts as none) and the even ``labels`` behind it; ``mean_error_std``
        and ``one_more`` of it (`Table.std`); ``label_noise`` and ``label_noise_one_more`` of the
        clip MSE (NaN without single ratings); and the ``words``, two lines. None where predictions
        are in other units, or no source but the clips can be told.
    """
    known, rated = judged.known, judged.ratings
    if not judged.same_scale or known.sum() < 2:
        return None
    if rated is not None:
        rated = rated.only(known[rated.clip])
        rated = rated._replace(clip=(known.cumsum() - 1)[rated.clip])
        # One rating a clip tells no clip from its rating.
        rated = rated if len(rated.clip) > len(np.unique(rated.clip)) else None
    sample = sample_of(judged)
    table = variance_table(pred[:, known], sample.target, sample.ways, rated)
    positive = {name: max(one.variance, 0.0) for name, one in table.components.items()}
    whole = sum(positive.values())
    if len(positive) < 2 or not 0 < whole < np.inf:
        return None
    found = {
        name: {**one._asdict(), "share": positive[name] / whole}
        for name, one in table.components.items()
    }
    record = {
        "components": found,
        "mean_error_std": table.std,
        "one_more": dict(table.one_more),
        "label_noise": table.label_noise[0],
        "label_noise_one_more": table.label_noise[1],
    }
    return {**record, "words": _in_words(record, rated is not None)}


def _in_words(record: Mapping[str, Any], single: bool) -> list[str]:
    shares = sorted(record["components"].items(), key=lambda one: -one[1]["share"])
    parts = ", ".join(f"{name}s {100 * one['share']:.0f} %" for name, one in shares)
    against = "one rating" if single else "the labels"
    more = ", ".join(f"{name} {std:.3g}" for name, std in record["one_more"].items())
    buys = f"std of the mean error {record['mean_error_std']:.3g}; with one more {more}"
    if single:
        now, then = record["label_noise"], record["label_noise_one_more"]
        buys += (
            f"; the labels' own noise in a clip's MSE {now:.3g}, with one more rating {then:.3g}"
        )
    return [f"squared error of one seed against {against}: {parts}", buys]


def components(values: Floats, factors: Mapping[str, Ints]) -> dict[str, Component]:
    """Variances of crossed (or nested) random effects: by factor, and ``rest``.

    Args:
        values: [J] observations.
        factors: [J] each one's label by factor. One that parts the observations as another before
            it does, or each from all, or not at all, is left out.
    """
    labels: dict[str, Ints] = {}
    for name, given in factors.items():
        label = np.unique(given, return_inverse=True)[1]
        levels = int(label.max()) + 1
        same = any(
            len(np.unique(label * (int(other.max()) + 1) + other)) == levels == other.max() + 1
            for other in labels.values()
        )
        if 1 < levels < len(values) and not same:
            labels[name] = label
    # Sums of squares of each factor's totals, less that of the grand total, and what they expect.
    whole = np.zeros(len(values), np.int64)
    rows = [*labels.values(), np.arange(len(values))]
    centered = values - values.mean()
    squares = np.array([_sum_of_squares(centered, row) for row in rows])
    expected = np.array(
        [[_expected(row, of) - _expected(whole, of) for of in rows] for row in rows], np.float64
    )
    if np.linalg.cond(expected) > 1e10:
        solution = np.full(len(rows), np.nan)
    else:
        solution = np.linalg.solve(expected, squares)
    names = [*labels, "rest"]
    return {
        name: Component(float(value), _even_labels(row))
        for name, value, row in zip(names, solution, rows, strict=True)
    }


def _sum_of_squares(centered: Floats, label: Ints) -> float:
    total = np.bincount(label, weights=centered)
    return float((total**2 / np.bincount(label)).sum())


def _expected(of: Ints, effect: Ints) -> float:
    """The coefficient of an effect's variance in a factor's sum of squares."""
    size = int(effect.max()) + 1
    cells, count = np.unique(of * size + effect, return_counts=True)
    return float((count**2 / np.bincount(of)[cells // size]).sum())


def _even_labels(label: Ints) -> float:
    count = np.bincount(label)
    return float(count.sum() ** 2 / (count.astype(np.float64) ** 2).sum())


def _grown(found: Mapping[str, Component], name: str, each: float, seeds: int) -> dict[str, float]:
    """How many labels of each component there are with one more of one kind."""
    labels = {key: one.labels for key, one in found.items()}
    if name == "seed":
        more = {"seed": (seeds + 1) / seeds}
    elif name == "rater":
        more = {"rating": (each + 1) / each, "rater": 1 + 1 / labels.get("rater", 1.0)}
    else:
        # As many clips more as is its share, each with as many ratings and seeds.
        more = dict.fromkeys((name, "clip", "rating", "seed"), 1 + 1 / labels[name])
    return {key: count * more.get(key, 1.0) for key, count in labels.items()}


def _std(found: Mapping[str, Component], labels: Mapping[str, float]) -> float:
    """Standard error of the mean error; a variance below 0 counts as none."""
    return float(np.sqrt(sum(max(one.variance, 0.0) / labels[k] for k, one in found.items())))


def _label_noise(found: Mapping[str, Component], each: float) -> tuple[float, float]:
    if "rating" not in found:
        return (float("nan"), float("nan"))
    noise = sum(max(found[name].variance, 0.0) for name in ("rater", "rating") if name in found)
    return noise / each, noise / (each + 1)
