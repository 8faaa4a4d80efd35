"""The raters' ceiling against simulated truth, and its variances against other computations."""

import numpy as np
import pytest
import torch

from qamro_cache.datasets.records import Axis, Ratings, labels_from_means, labels_from_ratings
from qamro_cache.evaluation.ceiling import ceiling, components
from qamro_cache.evaluation.figures import figures
from qamro_cache.evaluation.judged import Judged, Rated, rated


def simulated(seed, clips=200, raters=8, offsets=1.0, panel=8, same=True):
    """Truth, and what a listening test makes of it: 20 systems x groups, synthetic."""
    rng = np.random.default_rng(seed)
    system, group = np.arange(clips) % 20, np.arange(clips) // 20
    truth = rng.normal(0, 0.7, 20)[system] + rng.normal(0, 0.6, clips)
    panels = [
        np.arange(panel) if same else rng.choice(raters, panel, replace=False) for _ in range(clips)
    ]
    rater, clip = np.concatenate(panels), np.repeat(np.arange(clips), panel)
    score = truth[clip] + rng.normal(0, offsets, raters)[rater] + rng.normal(0, 1, len(clip))
    labels = np.bincount(clip, score) / panel
    return truth, Judged(labels, system, group=group, ratings=Rated(clip, rater, score))


def reached(truth, judged):
    """What the truth itself is given by the figures that judge predictions."""
    found = figures(
        torch.as_tensor(truth)[None],
        torch.as_tensor(judged.target),
        torch.as_tensor(judged.system),
        group=torch.as_tensor(judged.group),
    )
    return {name: values.item() for name, values in found.items()}


def biases(repeats, **how):
    """Mean and standard error of ceiling less what the truth reached, by figure."""
    gaps = []
    for seed in range(repeats):
        truth, judged = simulated(seed, **how)
        got, want = ceiling(judged)["figures"], reached(truth, judged)
        gaps.append({name: value - want[name] for name, value in got.items()})
    names = gaps[0]
    table = np.array([[gap[name] for name in names] for gap in gaps])
    error = table.std(0, ddof=1) / np.sqrt(repeats)
    return dict(zip(names, zip(table.mean(0), error, strict=True), strict=True))


@pytest.mark.parametrize("offsets", [0.0, 1.0])
def test_the_ceiling_is_what_the_truth_reaches(offsets):
    found = biases(12, offsets=offsets)
    assert len(found) == 11
    for name in ("clip_lcc", "clip_srcc", "clip_ktau", "group_lcc", "group_srcc", "system_srcc"):
        bias, error = found[name]
        assert abs(bias) < 0.01 + 2 * error, (name, bias)
        assert error < 0.006


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"offsets": 0.0}, {}, {"raters": 30, "same": False}])
def test_the_bias_of_every_figure_is_small(how):
    for name, (bias, error) in biases(80, **how).items():
        # Squared offsets of eight raters differ from test to test.
        chance = 2 * error if name.endswith("mse") else 0
        assert abs(bias) < 0.01 + chance, (name, bias, error)


def test_offsets_that_all_clips_share_move_no_correlation():
    # Without rater names their variance would count as noise, as a split of the ratings has it.
    _, judged = simulated(0, offsets=3.0)
    _, plain = simulated(0, offsets=0.0)
    got, want = ceiling(judged), ceiling(plain)
    assert got["panels"] == pytest.approx(0, abs=1e-9)
    for name in ("clip_lcc", "clip_srcc", "system_ktau", "group_lcc"):
        assert got["figures"][name] == pytest.approx(want["figures"][name], abs=1e-9)
    assert got["figures"]["clip_mse"] > want["figures"]["clip_mse"] + 0.3
    unnamed = judged.ratings._replace(rater=np.full(len(judged.ratings.clip), -1))
    lower = ceiling(Judged(judged.target, judged.system, ratings=unnamed))
    assert lower["lower_bound"]
    assert lower["raters"] == 0
    assert lower["figures"]["clip_lcc"] < got["figures"]["clip_lcc"] - 0.1


def test_panels_that_differ_are_reported_and_cost():
    _, judged = simulated(0, raters=30, same=False, offsets=1.5)
    got = ceiling(judged)
    assert got["raters"] == 30
    # 30 raters' offsets of which 8 are averaged: 2.25 / 8 (1 - 8 / 30) of the labels' variance.
    assert got["panels"] * judged.target.var() == pytest.approx(2.25 / 8 * 22 / 30, rel=0.5)
    assert got["figures"]["clip_lcc"] < ceiling(simulated(0)[1])["figures"]["clip_lcc"] - 0.04


def test_balanced_variances_are_those_of_two_way_analysis():
    _, judged = simulated(3, offsets=0.8)
    table = judged.ratings.score.reshape(200, 8)
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    rest = (rest**2).sum() / (199 * 7)
    raters = table.mean(0).var(ddof=1) - rest / 200
    got = components(judged.ratings)
    assert got.rest == pytest.approx(rest, rel=1e-8)
    assert got.raters == pytest.approx(raters, rel=1e-8)


def test_unbalanced_variances_are_those_of_dense_projections():
    rng = np.random.default_rng(5)
    clip, rater = rng.integers(0, 12, 70), rng.integers(0, 6, 70)
    score = rng.normal(size=12)[clip] + rng.normal(size=6)[rater] + rng.normal(size=70)
    of_clip, of_rater = np.eye(12)[clip], np.eye(6)[rater]
    of_clip = of_clip[:, of_clip.any(0)]
    both = np.hstack([of_clip, of_rater])
    out_clip, out_both = (np.eye(70) - x @ np.linalg.pinv(x) for x in (of_clip, both))
    rest = score @ out_both @ score / np.trace(out_both)
    spread = np.trace(of_rater.T @ out_clip @ of_rater)
    raters = (score @ out_clip @ score - rest * np.trace(out_clip)) / spread
    got = components(Rated(clip, rater, score))
    assert got == pytest.approx((max(raters, 0), rest), rel=1e-7)


def test_only_clips_judged_count():
    _, judged = simulated(1)
    judged.ratings.score[judged.ratings.clip >= 100] += np.random.default_rng(0).normal(0, 9, 800)
    half = judged.only(np.arange(200) < 100)
    got = ceiling(half)
    assert got["clips"] == 100
    assert got["figures"]["clip_lcc"] > ceiling(judged)["figures"]["clip_lcc"] + 0.1
    first = Rated(*(part[judged.ratings.clip < 100] for part in judged.ratings))
    alone = Judged(
        judged.target[:100], judged.system[:100], group=judged.group[:100], ratings=first
    )
    assert got == ceiling(alone)


def test_raters_of_one_clip_each_are_told_by_its_spread():
    _, judged = simulated(2)
    own = judged.ratings._replace(rater=np.arange(1600))
    got = components(own)
    assert got.raters == 0
    table = own.score.reshape(200, 8)
    assert got.rest == pytest.approx(table.var(1, ddof=1).mean())


def test_without_ratings_systems_or_spread_less_is_given():
    _, judged = simulated(1)
    assert ceiling(Judged(judged.target, judged.system)) is None
    published = Judged(judged.target, judged.system, np.zeros(20), ratings=judged.ratings)
    assert not any(name.startswith(("system", "group")) for name in ceiling(published)["figures"])
    single = Rated(*(part[::8] for part in judged.ratings))
    assert ceiling(Judged(judged.target, judged.system, ratings=single)) is None
    # Nothing but noise: a perfect predictor has nothing to predict.
    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, 8))
    table -= table.mean(1, keepdims=True)
    clip, rater = (index.ravel() for index in np.indices(table.shape))
    level = Judged(
        1e-6 * np.arange(50.0),
        np.zeros(50, np.int64),
        ratings=Rated(clip, rater, (table + 1e-6 * np.arange(50.0)[:, None]).ravel()),
    )
    assert ceiling(level)["figures"]["clip_srcc"] == 0


def test_ratings_are_those_of_the_axis():
    scores = Ratings(
        np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int16), np.zeros(3, np.int32),
        np.array([1.0, 2.0, 3.0]), ("ann",),
    )  # fmt: skip
    axes = (Axis("quality", 1, 5), Axis("match", 1, 5))
    got = rated(labels_from_ratings(axes, 2, scores), 1)
    assert (got.clip.tolist(), got.score.tolist()) == ([0, 1], [2.0, 3.0])
    assert rated(labels_from_means(axes, np.ones((2, 2))), 0) is None
