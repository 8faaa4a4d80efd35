"""Baselines and intervals against an independent computation."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from qamro_cache.evaluation.baselines import ridge, train_mean
from qamro_cache.evaluation.bootstrap import (
    draw_clusters,
    interval,
    resampled,
)
from qamro_cache.evaluation.compare import paired_gap
from qamro_cache.evaluation.figures import figures
from qamro_cache.evaluation.judged import Judged, ways_of
from qamro_cache.evaluation.metrics import METRICS
from qamro_cache.evaluation.score import score, score_models
from qamro_cache.heads.ridge import fit_ridge


@pytest.fixture
def folds():
    generator = np.random.default_rng(0)
    group = generator.integers(0, 4, 60)
    test = np.stack([group == g for g in range(4)])
    return test, ~test


@pytest.mark.parametrize("width", [5, 200])
def test_the_ridge_baseline_is_each_folds_ridge(folds, width):
    test, train = folds
    generator = np.random.default_rng(1)
    x, y = generator.normal(3, 2, (60, width)), generator.normal(50, 10, 60)
    y[7] = np.nan
    groups = generator.integers(0, 6, 60)
    got = ridge(x, y, train, test, (width,), groups)
    for fold in range(4):
        used = train[fold] & np.isfinite(y)
        alone = fit_ridge(x[used], y[used], (width,), groups[used])
        np.testing.assert_allclose(got[test[fold]], alone.predict(x[test[fold]]), rtol=1e-12)
    # A fold without any label predicts nothing.
    assert np.isnan(ridge(x, np.full(60, np.nan), train, test, (width,))).all()


def test_ridge_does_not_see_held_out_labels(folds):
    test, train = folds
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=(60, 8)), generator.normal(size=60)
    first = ridge(x, y, train[:1], test[:1], (8,))
    y[test[0]] = generator.permutation(y[test[0]])
    np.testing.assert_array_equal(first, ridge(x, y, train[:1], test[:1], (8,)))


def test_train_mean_skips_clips_without_a_label(folds):
    test, train = folds
    y = np.arange(60.0)
    y[3] = np.nan
    got = train_mean(y, train, test)
    for fold in range(4):
        assert (got[test[fold]] == np.nanmean(y[train[fold]])).all()


def simulated(num_systems=20, clips=10, seed=0):
    generator = np.random.default_rng(seed)
    system = np.repeat(np.arange(num_systems), clips)
    target = generator.normal(size=num_systems)[system] + generator.normal(size=len(system))
    return target + generator.normal(size=len(system)), target, system


def test_a_resample_is_the_metric_of_the_clips_drawn():
    import torch

    pred, target, system = simulated()
    counts = draw_clusters(20, 3)
    weights = {"clip": torch.as_tensor(counts[:, system]), "system": torch.as_tensor(counts)}
    got = figures(*map(torch.as_tensor, (pred[None], target, system)), weights=weights)
    for row in range(3):
        rows = np.concatenate(
            [np.flatnonzero(system == s) for s in np.repeat(range(20), counts[row])]
        )
        want = scipy.stats.spearmanr(pred[rows], target[rows]).statistic
        assert got["clip_srcc"][0, row].item() == pytest.approx(want)
        drawn = np.repeat(np.arange(20), counts[row])
        means = [np.array([v[system == s].mean() for s in drawn]) for v in (pred, target)]
        assert got["system_lcc"][0, row].item() == pytest.approx(
            scipy.stats.pearsonr(*means).statistic
        )


def test_intervals_hold_the_true_correlation_about_as_often_as_they_say():
    # True LCC of target and pred: both share variance 2, pred adds 1: sqrt(2 / 3).
    hits = 0
    for seed in range(60):
        pred, target, system = simulated(60, 4, seed)
        drawn = resampled(pred, Judged(target, system), resamples=300, only=["clip_lcc"])
        low, high = interval(drawn["clip_lcc"])
        hits += low <= np.sqrt(2 / 3) <= high
    assert 50 <= hits <= 60


def test_pairing_makes_a_small_constant_difference_certain():
    pred, target, system = simulated()
    worse = pred + np.random.default_rng(5).normal(0, 0.5, len(pred))
    judged = Judged(target, system)
    alone = interval(resampled(pred, judged)["clip_lcc"])
    low, high = paired_gap(pred, worse, judged, "clip_lcc", 1000)
    assert low > 0
    assert high - low < (alone.high - alone.low) / 1.5
    assert paired_gap(pred, pred, judged, "clip_lcc", 1000) == (0.0, 0.0)
    assert paired_gap(pred, worse, judged, "clip_lcc", 0) is None


def test_a_models_figure_is_that_of_its_averaged_prediction():
    pred, target, system = simulated()
    seeds = np.stack([pred, pred + np.random.default_rng(6).normal(0, 2, len(pred))])
    scored = score(seeds, Judged(target, system))
    alone = score(seeds.mean(0, keepdims=True), Judged(target, system))
    got, mean = scored["metrics"]["clip_srcc"], alone["metrics"]["clip_srcc"]
    want = scipy.stats.spearmanr(seeds.mean(0), target).statistic
    assert got["value"] == pytest.approx(want)
    assert (got["low"], got["high"]) == (mean["low"], mean["high"])
    of_seeds = [scipy.stats.spearmanr(row, target).statistic for row in seeds]
    assert got["seeds_mean"] == pytest.approx(np.mean(of_seeds))
    assert got["seeds_std"] == pytest.approx(np.std(of_seeds, ddof=1))
    assert got["by_seed"] == pytest.approx(of_seeds)
    assert np.isnan(mean["seeds_std"])
    assert (scored["clips"], scored["systems"], scored["seeds"]) == (200, 20, 2)


def test_all_models_of_a_table_are_scored_on_the_same_clips():
    pred, target, system = simulated()
    lacking = np.stack([pred, pred])
    lacking[1, :30] = np.nan
    target[40] = np.nan
    models = {"a": pred[None], "b": lacking, "none": np.full((1, 200), np.nan)}
    scored = score_models(models, Judged(target, system), resamples=0)
    assert [scored[name]["clips"] for name in models] == [169, 169, 0]
    assert [scored[name]["left_out"] for name in models] == [30, 30, 30]
    want = scipy.stats.spearmanr(np.delete(pred, 40)[30:], np.delete(target, 40)[30:]).statistic
    for name in ("a", "b"):
        assert scored[name]["metrics"]["clip_srcc"]["value"] == pytest.approx(want)


def test_groups_are_what_was_left_out_else_groups_else_prompts():
    clips = pd.DataFrame(
        {"system": ["a", "Hidden_Reference", ""], "group": "", "prompt": ["p", "q", ""]}
    )
    ways = ways_of(clips)
    assert (ways["group_word"], ways["group"].tolist()) == ("prompt", [0, 1, -1])
    assert ways["reference"].tolist() == [False, True, False]
    clips["group"] = ["", "x", "x"]
    for cv, word, codes in (
        ("", "group", [-1, 0, 0]),
        ("system", "group", [-1, 0, 0]),
        ("5", "group", [-1, 0, 0]),
        ("prompt", "prompt", [0, 1, -1]),
    ):
        ways = ways_of(clips, cv)
        assert (ways["group_word"], ways["group"].tolist()) == (word, codes), cv


def test_the_best_of_a_group_is_chosen_among_clips_that_are_no_reference():
    target = np.array([9.0, 5.0, 3.0, 9.0, 2.0, 4.0])
    pred = np.array([[9.0, 1.0, 2.0, 9.0, 1.0, 2.0]])
    group = np.array([0, 0, 0, 1, 1, 1])
    reference = np.array([True, False, False] * 2)
    judged = Judged(target, np.full(6, -1), group=group, reference=reference)
    scored = score(pred, judged, resamples=0)
    assert scored["metrics"]["group_best_regret"]["value"] == 1.0
    assert scored["metrics"]["group_best_hit"]["value"] == 0.5
    assert (scored["groups"], scored["groups_left_out"], scored["best_of_n"]) == (2, 0, 2)
    # Ranks within a group are of all its clips.
    assert scored["metrics"]["group_srcc"]["value"] == pytest.approx((0.5 + 1) / 2)


def test_without_systems_there_are_no_system_figures_and_clips_are_resampled():
    pred, target, _ = simulated()
    scored = score(pred[None], Judged(target, np.full(len(pred), -1)))
    assert scored["systems"] == 0
    assert "system_srcc" not in scored["metrics"]
    low, value, high = (scored["metrics"]["clip_srcc"][k] for k in ("low", "value", "high"))
    assert low < value < high


def test_one_system_has_no_interval():
    pred, target, system = simulated()
    one = score(pred[None], Judged(target, np.zeros_like(system)))
    assert np.isnan(one["metrics"]["clip_srcc"]["low"])


def test_clips_that_were_not_predicted_or_not_rated_are_not_counted():
    pred, target, system = simulated()
    pred[3], target[7] = np.nan, np.nan
    scored = score(pred[None], Judged(target, system))
    assert scored["clips"] == 198
    kept = ~(np.isnan(pred) | np.isnan(target))
    want = scipy.stats.kendalltau(pred[kept], target[kept]).statistic
    assert scored["metrics"]["clip_ktau"]["value"] == pytest.approx(want)


def test_linear_fit_metrics_ignore_the_scale_of_the_predictions():
    pred, target, system = simulated()
    slope, cut = np.polyfit(pred, target, 1)
    scored = score(pred[None] * 20 + 50, Judged(target, system, same_scale=False))
    assert "clip_mse" not in scored["metrics"]
    want = np.mean((slope * pred + cut - target) ** 2)
    assert scored["metrics"]["clip_mse_fit"]["value"] == pytest.approx(want)


def test_a_metric_in_label_units_is_not_given_on_another_scale():
    pred, target, system = simulated()
    here = score(pred[None], Judged(target, system), resamples=0)["metrics"]
    there = score(pred[None], Judged(target, system, same_scale=False), resamples=0)["metrics"]
    units = {name for name in here if METRICS[name.partition("_")[2]].same_scale}
    assert {"clip_mse", "clip_rmse", "clip_ccc", "clip_slope", "system_mae"} <= units
    assert set(here) - set(there) == units


def test_a_metric_is_a_line_of_the_list():
    """A new one becomes a column and a figure: nobody has to remember it elsewhere."""
    code = """
from types import MappingProxyType
from qamro_cache.evaluation import metrics
bias = metrics.Metric(lambda p, t, w=None: (p - t).mean(-1), "mean error", main=True)
metrics.METRICS = MappingProxyType({**metrics.METRICS, "bias": bias})
import numpy as np
from qamro_cache.evaluation.compare import columns
from qamro_cache.evaluation.judged import Judged, ways_of
from qamro_cache.evaluation.score import score, score_models
scored = score(np.ones((1, 4)), Judged(np.zeros(4), np.array([0, 0, 1, 1])), resamples=9)
row = columns(scored, parts=["low"])
print(row["clip_bias"], "system_bias_low" in row)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1.0", "True"], done.stderr
