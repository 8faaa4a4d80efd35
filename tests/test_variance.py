"""Variance components against simulated truth and the textbook's analysis of variance."""

from dataclasses import replace

import numpy as np
import pytest

from qamro_cache.evaluation.judged import Judged, Rated
from qamro_cache.evaluation.variance import components, error_sources, variance_table
from qamro_cache.evaluation.ways import make_ways

TRUTH = {"system": 0.25, "song": 0.09, "clip": 0.16, "rater": 0.12, "rating": 0.49, "seed": 0.04}


def simulated(seed, systems=31, groups=60, raters=40, each=8, seeds=5, holes=0.0):
    """Predictions [K, N] of clips whose labels are all 0, the ways, and their ratings."""
    generator = np.random.default_rng(seed)
    system = np.repeat(np.arange(systems), groups)
    group = np.tile(np.arange(groups), systems)
    kept = generator.random(len(system)) >= holes
    system, group = system[kept], group[kept]
    n = len(system)
    std = {name: np.sqrt(value) for name, value in TRUTH.items()}
    pred = std["system"] * generator.normal(size=systems)[system]
    pred += std["song"] * generator.normal(size=groups)[group]
    pred += std["clip"] * generator.normal(size=n)
    pred = pred + std["seed"] * generator.normal(size=(seeds, n))
    clip = np.repeat(np.arange(n), each)
    rater = generator.random((n, raters)).argsort(1)[:, :each].ravel()
    score = std["rater"] * generator.normal(size=raters)[rater]
    score += std["rating"] * generator.normal(size=n * each)
    ways = make_ways(n, ("system", system), ("song", group))
    return pred, ways, Rated(clip, rater, score)


@pytest.mark.parametrize("holes", [0.0, pytest.param(0.4, marks=pytest.mark.slow)])
def test_known_components_are_recovered_within_a_tenth(holes):
    # One test of 31 systems tells their variance to a quarter (sqrt(2 / 30)): the mean of many.
    found = []
    for seed in range(150):
        pred, ways, ratings = simulated(seed, each=4, seeds=2, holes=holes)
        table = variance_table(pred, np.zeros(pred.shape[1]), ways, ratings)
        found.append([table.components[name].variance for name in TRUTH])
    np.testing.assert_allclose(np.mean(found, 0), list(TRUTH.values()), rtol=0.1)


def test_a_full_design_gives_the_two_way_analysis_of_variance():
    generator = np.random.default_rng(0)
    y = generator.normal(size=(6, 1)) + generator.normal(size=9) + generator.normal(size=(6, 9))
    system, group = np.indices(y.shape).reshape(2, -1)
    found = components(y.ravel(), {"system": system, "song": group})
    rows, columns = y.mean(1), y.mean(0)
    rest = ((y - rows[:, None] - columns + y.mean()) ** 2).sum() / 40
    assert found["rest"].variance == pytest.approx(rest)
    assert found["system"].variance == pytest.approx((9 * rows.var(ddof=1) - rest) / 9)
    assert found["song"].variance == pytest.approx((6 * columns.var(ddof=1) - rest) / 6)
    assert (found["system"].labels, found["song"].labels, found["rest"].labels) == (6, 9, 54)


def test_what_cannot_be_told_apart_is_not_there():
    system = np.repeat(np.arange(5), 4)
    y = np.random.default_rng(0).normal(size=20)
    one = components(y, {"system": system, "song": system[::-1], "all": system * 0})
    assert set(one) == {"system", "rest"}
    assert set(components(y, {"clip": np.arange(20)})) == {"rest"}


def test_what_one_more_buys():
    pred, ways, ratings = simulated(0)
    table = variance_table(pred, np.zeros(pred.shape[1]), ways, ratings)
    v = {name: max(one.variance, 0) for name, one in table.components.items()}

    def std(systems, groups, raters, each, seeds):
        clips = systems * groups
        return np.sqrt(
            v["system"] / systems
            + v["song"] / groups
            + v["clip"] / clips
            + v["rater"] / raters
            + v["rating"] / (clips * each)
            + v["seed"] / (clips * seeds)
        )

    assert table.std == pytest.approx(std(31, 60, 40, 8, 5), rel=1e-3)
    assert table.one_more == pytest.approx(
        {
            "system": std(32, 60, 40, 8, 5),
            "song": std(31, 61, 40, 8, 5),
            "rater": std(31, 60, 41, 9, 5),
            "seed": std(31, 60, 40, 8, 6),
        },
        rel=1e-3,
    )
    noise = v["rater"] + v["rating"]
    assert table.label_noise == pytest.approx((noise / 8, noise / 9))


def test_without_single_ratings_the_clips_hold_their_noise():
    pred, ways, ratings = simulated(0)
    label = np.bincount(ratings.clip, weights=ratings.score) / 8
    table = variance_table(pred, label, ways)
    assert set(table.components) == {"system", "song", "clip", "seed"}
    assert table.components["clip"].variance == pytest.approx(0.16 + 0.61 / 8, rel=0.1)
    assert np.isnan(table.label_noise).all()
    assert set(table.one_more) == {"system", "song", "seed"}
    alone = variance_table(pred[:1], label, make_ways(len(label)))
    assert set(alone.components) == {"clip"}


def test_error_sources_are_those_of_the_clips_judged():
    pred, _, ratings = simulated(0, systems=8, groups=9)
    system, group = np.indices((8, 9)).reshape(2, -1)
    label = np.bincount(ratings.clip, ratings.score) / 8
    kept = np.arange(72) % 5 > 0
    judged = Judged(label, system, group=group, group_kind="song", ratings=ratings).only(kept)
    # What is not judged has no say, and need not be predicted.
    found = error_sources(np.where(kept, pred, np.nan), judged)
    mine = ratings.only(kept[ratings.clip])
    mine = mine._replace(clip=np.unique(mine.clip, return_inverse=True)[1])
    ways = make_ways(int(kept.sum()), ("system", system[kept]), ("song", group[kept]))
    table = variance_table(pred[:, kept], label[kept], ways, mine)
    assert {k: one["variance"] for k, one in found["components"].items()} == pytest.approx(
        {k: one.variance for k, one in table.components.items()}
    )
    assert sum(one["share"] for one in found["components"].values()) == pytest.approx(1)
    assert found["one_more"] == pytest.approx(dict(table.one_more))
    assert found["label_noise"] == pytest.approx(table.label_noise[0])
    first, second = found["words"]
    share = 100 * found["components"]["rating"]["share"]
    assert first.startswith("squared error of one seed against one rating: ")
    assert f"ratings {share:.0f} %" in first
    assert f"with one more rating {table.label_noise[1]:.3g}" in second
    # One rating a clip is that of no single rater; other units have no error.
    alone = replace(judged, ratings=ratings.only(np.arange(len(ratings.clip)) % 8 == 0))
    found = error_sources(pred, alone)
    assert set(found["components"]) == {"system", "song", "clip", "seed"}
    assert "against the labels" in found["words"][0]
    assert np.isnan(found["label_noise"])
    assert error_sources(pred, replace(judged, same_scale=False)) is None
    assert error_sources(pred[:1], Judged(label, np.full(72, -1))) is None
