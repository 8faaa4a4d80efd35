"""Baselines and intervals against an independent computation."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from qamro_cache.datasets.registry import group_kind
from qamro_cache.evaluation import jackknife, kinds
from qamro_cache.evaluation.baselines import View, by_fold, train_mean
from qamro_cache.evaluation.bootstrap import (
    draw_clusters,
    interval,
    resampled,
)
from qamro_cache.evaluation.choice import confidence_set, evidence
from qamro_cache.evaluation.compare import best_of
from qamro_cache.evaluation.figures import MAIN_FIGURES, figures
from qamro_cache.evaluation.intervals import figure_of, intervals
from qamro_cache.evaluation.judged import Judged, judged_of
from qamro_cache.evaluation.kinds import JACKKNIFE, Kind
from qamro_cache.evaluation.limits import Gap, Interval, Intervals, Limits, intervals_of
from qamro_cache.evaluation.metrics import METRICS
from qamro_cache.evaluation.score import score, score_models
from qamro_cache.evaluation.verdict import Model, verdicts
from qamro_cache.evaluation.ways import make_sample, sample_of
from qamro_cache.heads.ridge import fit_ridge

#: No intervals.
NONE = Kind("bootstrap", 0)


def drawn(judged: Judged, resamples: int) -> Judged:
    """Return the same clips, their intervals being a bootstrap's."""
    return replace(judged, interval=Kind("bootstrap", resamples))


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
    view = View(x, train, test, (width,), groups)
    got = by_fold(fit_ridge, view, y)
    for fold in range(4):
        used = train[fold] & np.isfinite(y)
        alone = fit_ridge(x[used], y[used], (width,), groups[used])
        np.testing.assert_allclose(got[test[fold]], alone.predict(x[test[fold]]), rtol=1e-12)
    # A fold without any label predicts nothing.
    assert np.isnan(by_fold(fit_ridge, view, np.full(60, np.nan))).all()


def test_ridge_does_not_see_held_out_labels(folds):
    test, train = folds
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=(60, 8)), generator.normal(size=60)
    view = View(x, train[:1], test[:1], (8,))
    first = by_fold(fit_ridge, view, y)
    y[test[0]] = generator.permutation(y[test[0]])
    np.testing.assert_array_equal(first, by_fold(fit_ridge, view, y))


def test_train_mean_skips_clips_without_a_label(folds):
    test, train = folds
    y = np.arange(60.0)
    y[3] = np.nan
    got = train_mean(View(y[:, None], train, test, (1,)), y)
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
        found = resampled(pred, Judged(target, system), resamples=300, only=["clip_lcc"])
        low, high = interval(found["clip_lcc"])
        hits += low <= np.sqrt(2 / 3) <= high
    assert 50 <= hits <= 60


def test_pairing_makes_a_small_constant_difference_certain():
    pred, target, system = simulated(80)
    worse = pred + np.random.default_rng(5).normal(0, 0.5, len(pred))
    judged = Judged(target, system)
    values = [scipy.stats.pearsonr(one, target).statistic for one in (pred, worse)]
    for kind in (JACKKNIFE, Kind("bootstrap", 1000)):
        made = intervals_of(replace(judged, interval=kind))
        alone = made.limits(pred, judged).of_figures["clip_lcc"]
        value, low, high = made.gap(pred, worse, judged, "clip_lcc")
        assert value == pytest.approx(values[0] - values[1])
        assert 0 < low < value < high
        assert high - low < (alone.high - alone.low) / 1.5
        assert made.gap(pred, pred, judged, "clip_lcc") == (0.0, 0.0, 0.0)
    assert intervals_of(drawn(judged, 0)).gap(pred, worse, judged, "clip_lcc") is None


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
    scored = score_models(models, Judged(target, system, interval=NONE))
    assert [scored[name]["clips"] for name in models] == [169, 169, 0]
    assert [scored[name]["left_out"] for name in models] == [30, 30, 30]
    want = scipy.stats.spearmanr(np.delete(pred, 40)[30:], np.delete(target, 40)[30:]).statistic
    for name in ("a", "b"):
        assert scored[name]["metrics"]["clip_srcc"]["value"] == pytest.approx(want)


def test_groups_are_what_was_left_out_else_groups_else_prompts():
    clips = pd.DataFrame(
        {"system": ["a", "Hidden_Reference", ""], "group": "", "prompt": ["p", "q", ""]}
    ).assign(clip_id=["x", "y", "z"], reference="")
    judged = judged_of(clips, np.zeros(3))
    assert (judged.group_word, judged.group.tolist()) == ("prompt", [0, 1, -1])
    assert judged.reference.tolist() == [False, True, False]
    assert judged.system.tolist() == [1, 0, -1]
    clips["group"] = ["", "x", "x"]
    for cv, word, codes in (
        ("", "group", [-1, 0, 0]),
        ("system", "group", [-1, 0, 0]),
        ("5", "group", [-1, 0, 0]),
        ("prompt", "prompt", [0, 1, -1]),
    ):
        judged = judged_of(clips, np.zeros(3), cv=cv)
        assert (judged.group_word, judged.group.tolist()) == (word, codes), cv


def test_the_best_of_a_group_is_chosen_among_clips_that_are_no_reference():
    target = np.array([9.0, 5.0, 3.0, 9.0, 2.0, 4.0])
    pred = np.array([[9.0, 1.0, 2.0, 9.0, 1.0, 2.0]])
    group = np.array([0, 0, 0, 1, 1, 1])
    reference = np.array([True, False, False] * 2)
    judged = Judged(target, np.full(6, -1), group=group, reference=reference)
    scored = score(pred, drawn(judged, 0))
    assert scored["metrics"]["group_best_regret"]["value"] == 1.0
    assert scored["metrics"]["group_best_hit"]["value"] == 0.5
    assert (scored["groups"], scored["groups_left_out"], scored["best_of_n"]) == (2, 0, 2)
    # Ranks within a group are of all its clips.
    assert scored["metrics"]["group_srcc"]["value"] == pytest.approx((0.5 + 1) / 2)


def test_without_systems_there_are_no_system_figures_and_intervals_are_over_clips():
    pred, target, _ = simulated()
    scored = score(pred[None], Judged(target, np.full(len(pred), -1)))
    assert scored["systems"] == 0
    assert "system_srcc" not in scored["metrics"]
    low, value, high = (scored["metrics"]["clip_srcc"][k] for k in ("low", "value", "high"))
    assert low < value < high
    assert scored["population"] == "over clips"


def test_one_system_is_taken_as_it_is():
    pred, target, system = simulated()
    one = score(pred[None], Judged(target, np.zeros_like(system)))
    assert one["population"] == "this system, over clips"
    metric = one["metrics"]["clip_srcc"]
    assert metric["low"] < metric["value"] < metric["high"]
    assert np.isnan(one["metrics"]["system_mse"]["low"])
    # A bootstrap that draws one system again and again says nothing.
    alone = score(pred[None], drawn(Judged(target, np.zeros_like(system)), 50))
    assert np.isnan(alone["metrics"]["clip_srcc"]["low"])
    assert alone["population"] == ""


def test_scores_have_the_intervals_of_their_clips_ways():
    pred, target, system = simulated(9, 7)
    group = np.tile(np.arange(7), 9)
    # Codes with gaps, a clip that is not judged, one without a system, a published score.
    target[5], system = np.nan, np.where(np.arange(63) == 11, -1, system * 3)
    published = np.full(25, np.nan)
    published[6] = 0.5
    judged = Judged(target, system, published, group=group, group_word="prompt")
    scored = score(pred[None], judged)
    kept = np.isfinite(target)
    names = np.where(system >= 0, system // 3, -1)
    truth = np.where(np.arange(9) == 2, 0.5, np.nan)
    sample = make_sample(target[kept], names[kept], ("prompt", group[kept]), truth)
    wanted = [figure_of(name) for name in MAIN_FIGURES]
    for name, one in intervals(pred[None, kept], sample, wanted).items():
        metric = scored["metrics"][name]
        got = (metric["value"], metric["low"], metric["high"])
        assert got == pytest.approx(tuple(float(x[0]) for x in one)), name
        assert metric["low"] < metric["value"] < metric["high"], name
    assert scored["population"] == (
        "over systems and prompts (1 clip without a system: each stands for one)"
    )
    assert "|ci=jackknife:systems+prompts|" in scored["signature"]
    bare = score(pred[None], drawn(judged, 0))
    assert np.isnan(bare["metrics"]["clip_srcc"]["low"])
    assert "|ci=none|" in bare["signature"]


def test_what_heads_have_learned_is_said():
    pred, target, system = simulated(6, 5)
    group = np.tile(np.arange(5), 6)
    for cv, words in (
        ("", ""),
        ("split", "; of these heads"),
        ("group", "; of these heads, trained on the same systems: expect worse on new ones"),
        ("system", "; of these heads, trained on the same groups: expect worse on new ones"),
        ("5", "; of these heads, trained on the same systems and groups: expect worse on new ones"),
    ):
        for kind, over in (
            (JACKKNIFE, "over systems and groups"),
            (Kind("bootstrap", 20), "over systems"),
        ):
            judged = Judged(target, system, group=group, cv=cv, interval=kind)
            assert score(pred[None], judged)["population"] == over + words
    songs = Judged(target, system, group=group, cv="group", interval=Kind(over="group"))
    scored = score(pred[None], songs)
    assert scored["population"] == (
        "these 6 systems, over groups; of these heads, trained on the same systems: expect worse "
        "on new ones"
    )
    assert "|ci=jackknife:groups|" in scored["signature"]
    neither = Judged(target, np.full(30, -1), cv="5")
    assert score(pred[None], neither)["population"] == "over clips; of these heads"


def test_groups_are_called_what_the_set_calls_them():
    pred, target, system = simulated(6, 5)
    judged = Judged(target, system, group=np.tile(np.arange(5), 6), group_kind="song", cv="system")
    scored = score(pred[None], judged)
    words = "over systems and songs; of these heads, trained on the same songs: expect worse on "
    words += "new ones"
    assert scored["population"] == words
    assert (scored["group_word"], "|groups=5|" in scored["signature"]) == ("group", True)
    # Prompts are not that kind of group, and two words have no plural.
    for word, kind, noun in (("prompt", "song", "prompt"), ("group", "song or speaker", "group")):
        judged = replace(judged, group_word=word, group_kind=kind)
        assert judged.group_noun == noun
    assert group_kind("cvssp-separation") == "song"
    assert group_kind("of my own") == ""


def test_an_interval_of_tau_over_many_clips_is_left_out():
    pred, target, system = simulated(20, 51)
    for kind in (JACKKNIFE, Kind("bootstrap", 5)):
        found = score(pred[None], Judged(target, system, interval=kind))["metrics"]
        assert np.isfinite(found["clip_srcc"]["low"])
        assert np.isnan(found["clip_ktau"]["low"])


def test_a_perfect_ranking_of_few_systems_is_no_certainty():
    """Eight systems that happen to be ranked right: about .90 to 1, not 1 to 1."""
    random = np.random.default_rng(3)
    system = np.repeat(np.arange(8), 6)
    target = system + random.normal(0, 0.1, 48)
    pred = target + random.normal(0, 0.1, 48)
    metric = score(pred[None], Judged(target, system))["metrics"]["system_srcc"]
    assert (metric["value"], metric["high"]) == (pytest.approx(1), 1)
    assert metric["low"] == pytest.approx(0.90, abs=0.01)


def grid_of(shifts, systems=12, clips=8):
    """Cells on one test, each with some of the others' error and as much of its own as is said."""
    random = np.random.default_rng(8)
    system = np.repeat(np.arange(systems), clips)
    target = random.normal(size=systems)[system] + random.normal(0, 0.5, len(system))
    common = target + random.normal(0, 0.5, len(system))
    cells = [common + random.normal(0, noise, len(system)) for noise in shifts]
    judged = Judged(target, system, group=np.tile(np.arange(clips), systems))
    return [({"cell": k}, one, score(one[None], judged)) for k, one in enumerate(cells)], judged


def test_cells_are_chosen_by_a_confidence_set():
    cells, judged = grid_of([0.3, 0.3, 0.3, 9.0])
    record, p = best_of(cells, judged)
    values = [scored["metrics"]["clip_srcc"]["value"] for *_, scored in cells]
    best = int(np.argmax(values))
    assert (record["metric"], record["cell"]) == ("clip_srcc", {"cell": best})
    assert (record["cells"], record["mcs_p"], p[best]) == (4, 1.0, 1.0)
    told = evidence(
        figure_of("clip_srcc"), np.stack([one for _, one, _ in cells]), sample_of(judged)
    )
    want = confidence_set(told)
    np.testing.assert_array_equal(p, want.p)
    assert p[3] < 0.05
    alike = {one["cell"]["cell"]: one for one in record["not_told_apart"]}
    assert set(alike) == set(np.flatnonzero(want.left)) - {best} != set()
    for k, one in alike.items():
        _, low, high = intervals_of(judged).gap(cells[best][1], cells[k][1], judged, "clip_srcc")
        assert one["gap_95"] == [low, high]
        assert one["mcs_p"] == p[k] > 0.05
    assert not record["clearly_best"]
    alone, _ = best_of([cells[0], cells[3]], judged)
    assert (alone["clearly_best"], alone["not_told_apart"]) == (True, [])
    assert best_of(cells[:1], judged).record["clearly_best"] is False


def test_cells_that_nothing_can_tell_apart_are_not_told_apart():
    cells, judged = grid_of([0.3, 9.0], systems=1, clips=2)
    record, p = best_of(cells, judged)
    assert np.isnan(p).all()
    assert not record["clearly_best"]
    assert [one["gap_95"] for one in record["not_told_apart"]] == [None]
    # A cell of one prediction for all has no figure: no draw says that it is worse.
    cells, judged = grid_of([0.3, 0.3])
    flat = np.zeros_like(cells[0][1])
    cells.append(({"cell": 2}, flat, score(flat[None], judged)))
    record, p = best_of(cells, judged)
    assert np.isnan(p[2])
    assert {"cell": 2} in [one["cell"] for one in record["not_told_apart"]]


def test_of_very_many_cells_the_highest_are_compared(monkeypatch):
    cells, judged = grid_of([9.0, 0.3, 0.3])
    monkeypatch.setattr(jackknife, "MOST_CELLS", 2)
    record, p = best_of(cells, judged)
    two, q = best_of(cells[1:], judged)
    np.testing.assert_array_equal(p, [np.nan, *q])
    assert record["cell"] == two["cell"]
    # What was not compared was not told apart.
    others = {one["cell"]["cell"]: one for one in record["not_told_apart"]}
    assert others[0]["gap_95"] is None
    assert [one for one in record["not_told_apart"] if one["cell"]["cell"]] == two["not_told_apart"]


def test_a_bootstrap_tells_cells_apart_pair_by_pair():
    cells, judged = grid_of([0.3, 0.3, 9.0])
    judged = drawn(judged, 200)
    record, p = best_of(cells, judged)
    assert np.isnan(p).all()
    (alike,) = record["not_told_apart"]
    best = record["cell"]["cell"]
    theirs = cells[alike["cell"]["cell"]][1]
    gap = intervals_of(judged).gap(cells[best][1], theirs, judged, "clip_srcc")
    assert alike["gap_95"] == [gap.low, gap.high]
    assert gap.low <= 0


class Fixed(Intervals):
    """A kind of interval that nothing else knows of."""

    def limits(self, pred, judged):
        return Limits({"clip_srcc": Interval(-0.5, 0.5)}, "over nothing", "fixed")

    def gap(self, ours, theirs, judged, figure):
        return Gap(0.1, 0.05, 0.15)


def test_a_kind_of_interval_is_a_class_and_a_line_of_the_list(monkeypatch):
    monkeypatch.setitem(kinds.KINDS, "fixed", f"{__name__}:Fixed")
    cells, judged = grid_of([0.3, 0.3, 9.0])
    judged = replace(judged, interval=Kind("fixed"))
    scored = score(cells[0][1][None], judged)
    metric = scored["metrics"]["clip_srcc"]
    assert (metric["low"], metric["high"]) == (-0.5, 0.5)
    assert (scored["population"], "|ci=fixed|" in scored["signature"]) == ("over nothing", True)
    record, _ = best_of(cells, judged)
    assert record["not_told_apart"] == []
    (one,) = verdicts(
        Model("ours", "", cells[0][1], 0.9), [Model("b", "", cells[1][1], 0.8)], {}, judged
    )
    assert (one["low"], one["high"], one["beats"]) == (0.05, 0.15, True)


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
    judged = Judged(target, system, interval=NONE)
    here = score(pred[None], judged)["metrics"]
    there = score(pred[None], replace(judged, same_scale=False))["metrics"]
    units = {name for name in here if METRICS[name.partition("_")[2]].same_scale}
    assert {"clip_mse", "clip_rmse", "clip_ccc", "clip_slope", "system_mae"} <= units
    assert set(here) - set(there) == units


def test_a_metric_is_a_line_of_the_list():
    """A new one becomes a column and a figure: nobody has to remember it elsewhere."""
    code = """
from types import MappingProxyType
from qamro_cache.evaluation import metrics
bias = metrics.Metric(lambda p, t, w=None: (p - t).mean(-1), "mean error", interval="share")
metrics.METRICS = MappingProxyType({**metrics.METRICS, "bias": bias})
import numpy as np
from qamro_cache.evaluation.compare import columns
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.kinds import JACKKNIFE, Kind
from qamro_cache.evaluation.score import score, score_models
from qamro_cache.evaluation.kinds import Kind
kind = Kind("bootstrap", 9)
scored = score(np.ones((1, 4)), Judged(np.zeros(4), np.array([0, 0, 1, 1]), interval=kind))
row = columns(scored, parts=["low"])
print(row["clip_bias"], "system_bias_low" in row)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1.0", "True"], done.stderr
