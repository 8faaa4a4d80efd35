"""Metrics against scipy, one row and one resample at a time."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference_metrics import REFERENCES, reference, within_groups

from qamro_cache.evaluation.metrics import METRICS, ktau, lcc, srcc
from qamro_cache.evaluation.weighted import average_ranks, system_means
from qamro_cache.evaluation.within import (
    blocks_of,
    group_sizes,
    mean_over_groups,
)


def test_every_metric_has_a_reference():
    assert set(REFERENCES) == set(METRICS)


# Few distinct values make ties on both sides the rule.
coarse = st.integers(-3, 3).map(float)
fine = st.floats(-100, 100, allow_subnormal=False).map(lambda x: round(x, 3))


@settings(deadline=None, max_examples=120)
@given(data=st.data(), n=st.integers(1, 20), rows=st.integers(1, 3), values=st.sampled_from([0, 1]))
def test_metrics_of_a_resample_equal_scipys_on_the_repeated_sample(data, n, rows, values):
    elements = (coarse, fine)[values]
    pred = data.draw(hnp.arrays(float, (rows, n), elements=elements))
    target = data.draw(hnp.arrays(float, n, elements=elements))
    weights = data.draw(hnp.arrays(int, (rows, n), elements=st.integers(0, 3)))
    for name, metric in METRICS.items():
        got = metric.function(torch.tensor(pred), torch.tensor(target), torch.tensor(weights))
        for row in range(rows):
            repeated = np.repeat(np.arange(n), weights[row])
            want = reference(name, pred[row, repeated], target[repeated])
            np.testing.assert_allclose(got[row], want, rtol=1e-12, atol=1e-12, err_msg=name)


@settings(deadline=None, max_examples=50)
@given(data=st.data(), n=st.integers(1, 30), values=st.sampled_from([0, 1]))
def test_figures_within_groups_are_the_mean_over_those_that_can_be_ranked(data, n, values):
    elements = (coarse, fine)[values]
    pred = data.draw(hnp.arrays(float, (2, n), elements=elements))
    target = data.draw(hnp.arrays(float, n, elements=elements))
    group = data.draw(hnp.arrays(np.int64, n, elements=st.integers(-1, 6)))
    masks = data.draw(hnp.arrays(np.int64, (3, n), elements=st.integers(0, 1)))
    blocks = blocks_of(torch.tensor(group))
    names = [name for name, metric in METRICS.items() if "group" in metric.levels]
    assert {"srcc", "best_regret", "best_hit"} <= set(names)
    for name in names:
        function = METRICS[name].function
        whole = mean_over_groups(function, torch.tensor(pred), torch.tensor(target), None, blocks)
        for row in range(2):
            want = within_groups(name, pred[row], target, group)
            np.testing.assert_allclose(whole[row], want, atol=1e-12, err_msg=name)
            got = mean_over_groups(function, *map(torch.tensor, (pred[row], target, masks)), blocks)
            for mask, value in zip(masks == 1, got, strict=True):
                want = within_groups(name, pred[row, mask], target[mask], group[mask])
                np.testing.assert_allclose(value, want, atol=1e-12, err_msg=name)


def test_groups_of_whom_nothing_is_left_out_are_computed_once():
    rng = np.random.default_rng(5)
    group, cluster = rng.integers(-1, 12, 150), rng.integers(0, 30, 150)
    pred, target = rng.integers(0, 9, 150).astype(float), rng.integers(0, 5, 150).astype(float)
    pred[3] = np.nan
    masks = cluster != np.arange(-1, 30)[:, None]
    blocks = blocks_of(torch.tensor(group))
    rows = []

    def counted(p, t, w):
        rows.append(torch.broadcast_shapes(p.shape, w.shape)[:-1].numel())
        return METRICS["srcc"].function(p, t, w)

    given = torch.tensor(pred), torch.tensor(target)
    found = mean_over_groups(counted, *given, torch.tensor(masks).double(), blocks)
    assert sum(rows) < 0.5 * len(masks) * 12
    for mask, value in zip(masks, found, strict=True):
        kept = blocks_of(torch.tensor(group[mask]))
        alone = mean_over_groups(srcc, *(one[mask] for one in given), None, kept)
        np.testing.assert_allclose(value, alone, atol=1e-12)
    assert found.isfinite().any()
    assert found.isnan().any()


def test_groups_that_say_nothing_are_left_out_by_their_labels_alone():
    group = torch.tensor([0, 0, 1, 1, 1, 2, -1, -1, 3, 3])
    target = torch.tensor([1.0, 1.0, 1.0, 2.0, 3.0, 5.0, 1.0, 2.0, 1.0, 2.0])
    blocks = blocks_of(group)
    assert group_sizes(target, blocks).tolist() == [2, 3]
    assert group_sizes(target, blocks, torch.tensor([1.0] * 8 + [1, 0])).tolist() == [3]
    pred = torch.tensor([2.0, 1.0, 3.0, 2.0, 1.0, 0.0, 1.0, 2.0, 7.0, 7.0])
    # -1 in one group, and no preference in another.
    assert mean_over_groups(srcc, pred, target, None, blocks).item() == pytest.approx(-0.5)
    pred[8] = torch.nan
    assert mean_over_groups(srcc, pred, target, None, blocks).isnan()


def test_blocks_hold_every_clip_of_a_group_once_whatever_their_sizes():
    generator = np.random.default_rng(0)
    sizes = [1, 2, 3, 4, 5, 8, 9, 33, 200]
    group = torch.as_tensor(generator.permutation(np.repeat(np.arange(9), sizes)))
    blocks = blocks_of(group)
    found = [place[row][filled[row]] for place, filled in blocks for row in range(len(place))]
    for places in found:
        (mine,) = set(group[places].tolist())
        assert sorted(places.tolist()) == (group == mine).nonzero()[:, 0].tolist()
    assert sorted(len(places) for places in found) == sizes[1:]
    assert sum(place.numel() for place, _ in blocks) < 2 * sum(sizes)


def test_the_choice_among_clips_of_equal_predictions_counts_in_part():
    pred, target = torch.tensor([3.0, 3.0, 1.0, 3.0]), torch.tensor([4.0, 2.0, 5.0, 5.0])
    regret, hit = (
        METRICS[name].function(pred, target).item() for name in ("best_regret", "best_hit")
    )
    assert (regret, hit) == (pytest.approx(5 - 11 / 3), pytest.approx(1 / 3))


def test_unweighted_metrics_equal_scipys_at_the_size_of_an_evaluation_set():
    generator = np.random.default_rng(0)
    target = generator.integers(0, 41, 3060) / 4.0
    pred = target + generator.normal(0, 2, 3060).astype(np.float32)
    for name, metric in METRICS.items():
        if "clip" in metric.levels and "pair" not in name:
            got = metric.function(torch.tensor(pred), torch.tensor(target)).item()
            assert got == pytest.approx(reference(name, pred, target), rel=1e-12, abs=1e-12), name


def test_masked_samples_may_hold_anything():
    pred = torch.tensor([1.0, 2.0, torch.nan, 4.0])
    target = torch.tensor([1.0, 3.0, 2.0, torch.inf])
    mask = torch.tensor([1, 1, 0, 0])
    for name, metric in METRICS.items():
        assert metric.function(pred, target, mask).item() == pytest.approx(
            reference(name, np.array([1.0, 2.0]), np.array([1.0, 3.0])), nan_ok=True
        ), name


def test_a_prediction_that_is_not_a_number_gives_no_number():
    pred = torch.tensor([[1.0, torch.nan, 3.0], [1.0, 2.0, 3.0]])
    target = torch.tensor([1.0, 2.0, 3.0])
    for name, metric in METRICS.items():
        bad, good = metric.function(pred, target).tolist()
        assert np.isnan(bad) or name in ("rmse_low", "rmse_high"), name
        want = reference(name, np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
        assert good == pytest.approx(want, abs=1e-12), name
        # A label that is none likewise.
        assert metric.function(target, pred[0]).isnan(), name


def test_constant_predictions_have_no_correlation_even_when_the_mean_rounds():
    pred = torch.full((7,), 0.1, dtype=torch.float64)
    target = torch.arange(7.0)
    for metric in (lcc, srcc, ktau):
        assert metric(pred, target).isnan()


def test_average_ranks_are_scipys():
    values = torch.tensor([3.0, 1.0, 3.0, 2.0, 3.0])
    expected = scipy.stats.rankdata(values.numpy())
    np.testing.assert_array_equal(average_ranks(values, torch.ones(5)), expected)


def test_system_means_leave_out_clips_without_a_system():
    values = torch.tensor([[1.0, 3.0, 10.0, 100.0], [2.0, 4.0, 20.0, torch.nan]])
    means = system_means(values, torch.tensor([0, 0, 2, -1]), 3)
    assert means.tolist() == [[2.0, 0.0, 10.0], [3.0, 0.0, 20.0]]


def test_pairs_in_blocks_count_each_once(monkeypatch):
    monkeypatch.setattr("qamro_cache.evaluation.pairs._BLOCK", 100)
    generator = np.random.default_rng(1)
    pred, target = generator.integers(0, 9, (2, 57)).astype(float)
    weights = generator.integers(0, 3, (2, 57))
    for name in ("ktau", "pair_accuracy", "far_pair_accuracy"):
        function = METRICS[name].function
        got = function(torch.tensor(pred), torch.tensor(target)).item()
        assert got == pytest.approx(reference(name, pred, target), abs=1e-14)
        got = function(*map(torch.tensor, (pred, target, weights)))
        for row in range(2):
            repeated = np.repeat(np.arange(57), weights[row])
            want = reference(name, pred[repeated], target[repeated])
            assert got[row].item() == pytest.approx(want, abs=1e-14), name


@settings(deadline=None, max_examples=60)
@given(data=st.data(), n=st.integers(1, 40), of_labels=st.sampled_from([(40,), (2, 40)]))
def test_pairs_by_order_are_those_of_the_pair_matrix_to_the_last_bit(data, n, of_labels):
    # Labels of steps of 0.1 differ by their std exactly, but for rounding.
    steps = st.integers(-3, 3).map(lambda k: k / 10)
    hostile = st.sampled_from([np.inf, -np.inf, np.nan, 1e308, 5e-324, -0.0])
    pred = data.draw(hnp.arrays(float, (2, 40), elements=st.one_of(fine, coarse, hostile)))[:, :n]
    target = data.draw(hnp.arrays(float, of_labels, elements=st.one_of(steps, fine)))[..., :n]
    for name in ("ktau", "pair_accuracy", "far_pair_accuracy"):
        function, found = METRICS[name].function, []
        for dense in (0, 40):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("qamro_cache.evaluation.pairs._DENSE", dense)
                found.append(function(torch.tensor(pred), torch.tensor(target)))
        np.testing.assert_array_equal(*found, err_msg=name)


def test_left_out_samples_of_their_own_values_are_counted_without_pair_matrices(monkeypatch):
    generator = np.random.default_rng(3)
    pred, target = generator.integers(0, 9, (2, 4, 500)) / 10
    weights = generator.integers(0, 2, (4, 500))
    functions = [METRICS[name].function for name in ("ktau", "pair_accuracy", "far_pair_accuracy")]
    sides = [torch.tensor(side) for side in (pred, target, weights)]
    with monkeypatch.context() as patch:
        patch.setattr("qamro_cache.evaluation.pairs._DENSE", 500)
        wanted = [function(*sides) for function in functions]
    monkeypatch.delattr("qamro_cache.evaluation.pairs._blocks")
    for function, want in zip(functions, wanted, strict=True):
        np.testing.assert_array_equal(function(*sides), want)


def test_pairs_of_many_samples_are_counted_without_their_matrix(monkeypatch):
    monkeypatch.delattr("qamro_cache.evaluation.pairs._blocks")
    generator = np.random.default_rng(2)
    target = generator.integers(0, 400, 100_000) / 4
    pred = np.round(target + generator.normal(0, 30, 100_000), 1)
    got = METRICS["ktau"].function(torch.tensor(pred), torch.tensor(target)).item()
    assert got == pytest.approx(scipy.stats.kendalltau(pred, target).statistic, abs=1e-12)
    few = [METRICS[f"{far}pair_accuracy"].function for far in ("", "far_")]
    assert all(0.5 < f(torch.tensor(pred), torch.tensor(target)) < 1 for f in few)


def test_systems_of_equal_means_stay_tied_whatever_the_order_of_the_sum():
    # 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating point.
    values = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.2, 0.1], dtype=torch.float64)
    assert values[0] + values[1] + values[2] != values[3] + values[4] + values[5]
    mean = system_means(values, torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    assert mean[0] == mean[1]
