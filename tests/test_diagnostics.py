"""Findings about a run: each appears where it is true, and not beside it."""

import numpy as np
import pytest

from qamro_cache.evaluation.diagnostics import diagnose
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.kinds import Kind
from qamro_cache.evaluation.score import score


@pytest.fixture
def truth():
    return 50 + 10 * np.random.default_rng(0).normal(size=120)


def codes(pred, truth, baselines=(), **ways):
    judged = Judged(truth, np.arange(len(truth)) % 12, interval=Kind("bootstrap", 0), **ways)
    scored = score(pred, judged)
    found = {k: score(one[None], judged) for k, one in dict(baselines).items()}
    return {one.code: one for one in diagnose(scored, found, pred, judged)}


def noise(seed, seeds, size, scale):
    return scale * np.random.default_rng(seed).normal(size=(seeds, size))


def test_a_good_run_has_nothing_to_tell(truth):
    pred = truth + noise(1, 3, 120, 4)
    mean = np.full(120, truth.mean())
    group = np.arange(120) // 10
    assert codes(pred, truth, {"train mean": mean}, group=group) == {}


def test_ranking_with_a_wrong_level_is_told(truth):
    pred = truth + 25 + noise(1, 3, 120, 4)
    found = codes(pred, truth, {"train mean": np.full(120, truth.mean()), "ridge": truth + 5})
    assert set(found) == {"error_above_baseline"}
    assert "above that of ridge (25)" in found["error_above_baseline"].evidence
    for spread, word in ((0.4, "narrowly"), (2.5, "widely")):
        off = truth.mean() + spread * (truth - truth.mean()) + noise(1, 3, 120, 0.5)
        advice = codes(off, truth, {"ridge": truth + 3})["error_above_baseline"].suggestion
        assert f"too {word}" in advice
    # Not where the error is no larger than a baseline's; where nothing is ranked, another model.
    assert codes(pred, truth, {"train mean": np.full(120, 200.0)}) == {}
    for name, advice in (("ridge", "--head ridge"), ("train mean", "prefer train mean")):
        found = codes(100 - pred, truth, {name: truth + 5})["error_above_baseline"]
        assert advice in found.suggestion


def test_a_constant_head_is_told(truth):
    flat = truth.mean() + 0.02 * (truth - truth.mean())
    assert "constant" in codes(flat[None], truth)
    assert "constant" not in codes(truth.mean() + 0.3 * (truth[None] - truth.mean()), truth)


def test_seeds_that_differ_are_told(truth):
    good, bad = truth + noise(1, 2, 120, 3), truth.mean() + noise(2, 1, 120, 9)
    found = codes(np.concatenate([good, bad]), truth)
    assert "std 0." in found["seeds_differ"].evidence
    assert "seeds_differ" not in codes(good, truth)


def test_an_error_of_one_range_is_told(truth):
    high = truth > np.quantile(truth, 2 / 3)
    pred = truth + noise(1, 2, 120, 2) - 12 * high
    assert "highest third" in codes(pred, truth)["error_by_quality"].suggestion


def test_groups_that_decide_a_pooled_figure_are_told_with_their_direction(truth):
    rng, group = np.random.default_rng(3), np.arange(120) // 10
    levels = rng.normal(0, 20, 12)[group]
    # Right within each group, wrong between them; and the other way round.
    missed = codes((truth + levels)[None], truth, group=group, group_word="prompt")
    assert "not comparable" in missed["groups_decide"].suggestion
    assert "12 prompts" in missed["groups_decide"].evidence
    only = codes(levels[None] + noise(4, 1, 120, 1), truth + levels, group=group)
    assert "part of the pooled" in only["groups_decide"].suggestion


def test_chance_is_what_the_same_clips_give_in_any_groups():
    # About as on `codec-mushra`: SRCC .38 over all clips, .52 within signals of eight clips.
    rng, group = np.random.default_rng(1), np.repeat(np.arange(12), 8)
    truth = rng.normal(size=96)
    pred = 0.75 * truth + rng.normal(size=96)
    moved = pred + rng.normal(size=12)[group]
    found = codes(moved[None], truth, group=group)["groups_decide"]
    assert "SRCC over all clips ." in found.evidence
    # Groups that mean nothing: in small ones SRCC is lower and differs by chance.
    told = 0
    for seed in range(20):
        rng, group = np.random.default_rng(seed), np.repeat(np.arange(20), 5)
        truth = rng.normal(size=100)
        pred = 0.75 * truth + rng.normal(size=100)
        told += "groups_decide" in codes(pred[None], truth, group=group)
    assert told <= 3
