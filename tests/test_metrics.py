"""Metrics against scipy, one row and one resample at a time."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference_metrics import REFERENCES

from qamro_cache.evaluation.metrics import METRICS, average_ranks, ktau, lcc, srcc, system_means


def scipy_metric(name: str, pred: np.ndarray, target: np.ndarray) -> float:
    if METRICS[name].in_label_units:
        return float(REFERENCES[name](pred, target)) if len(pred) else np.nan
    if len(pred) < 2 or np.ptp(pred) == 0 or np.ptp(target) == 0:
        return np.nan
    return float(REFERENCES[name](pred, target))


def test_every_metric_has_a_reference():
    assert set(REFERENCES) == set(METRICS)


# Few distinct values make ties on both sides the rule.
coarse = st.integers(-3, 3).map(float)
fine = st.floats(-100, 100, allow_subnormal=False).map(lambda x: round(x, 3))


@settings(deadline=None, max_examples=200)
@given(data=st.data(), n=st.integers(1, 30), rows=st.integers(1, 3), values=st.sampled_from([0, 1]))
def test_metrics_of_a_resample_equal_scipys_on_the_repeated_sample(data, n, rows, values):
    elements = (coarse, fine)[values]
    pred = data.draw(hnp.arrays(float, (rows, n), elements=elements))
    target = data.draw(hnp.arrays(float, n, elements=elements))
    weights = data.draw(hnp.arrays(int, (rows, n), elements=st.integers(0, 3)))
    for name, (metric, _) in METRICS.items():
        got = metric(torch.tensor(pred), torch.tensor(target), torch.tensor(weights))
        for row in range(rows):
            repeated = np.repeat(np.arange(n), weights[row])
            want = scipy_metric(name, pred[row, repeated], target[repeated])
            np.testing.assert_allclose(got[row], want, atol=1e-10, err_msg=name)


def test_unweighted_metrics_equal_scipys_at_the_size_of_an_evaluation_set():
    generator = np.random.default_rng(0)
    target = generator.integers(0, 41, 3060) / 4.0
    pred = target + generator.normal(0, 2, 3060).astype(np.float32)
    for name, (metric, _) in METRICS.items():
        got = metric(torch.tensor(pred), torch.tensor(target)).item()
        assert got == pytest.approx(scipy_metric(name, pred, target), abs=1e-12)


def test_masked_samples_may_hold_anything():
    pred = torch.tensor([1.0, 2.0, torch.nan, 4.0])
    target = torch.tensor([1.0, 3.0, 2.0, torch.inf])
    mask = torch.tensor([1, 1, 0, 0])
    for name, (metric, _) in METRICS.items():
        assert metric(pred, target, mask).item() == pytest.approx(
            scipy_metric(name, np.array([1.0, 2.0]), np.array([1.0, 3.0]))
        )


def test_a_prediction_that_is_not_a_number_gives_no_number():
    pred = torch.tensor([[1.0, torch.nan, 3.0], [1.0, 2.0, 3.0]])
    target = torch.tensor([1.0, 2.0, 3.0])
    for name, (metric, _) in METRICS.items():
        bad, good = metric(pred, target).tolist()
        assert np.isnan(bad), name
        assert good == pytest.approx(0.0 if METRICS[name].in_label_units else 1.0)


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
    assert means.mean.tolist() == [[2.0, 0.0, 10.0], [3.0, 0.0, 20.0]]
    assert means.clips.tolist() == [[2.0, 0.0, 1.0]] * 2


def test_system_means_of_a_resample_count_a_clip_as_often_as_it_was_drawn():
    values = torch.tensor([1.0, 4.0, 9.0])
    means = system_means(values, torch.tensor([0, 0, 1]), 2, torch.tensor([2, 1, 0]))
    assert means.mean.tolist() == [2.0, 0.0]
    assert means.clips.tolist() == [3.0, 0.0]


def test_tau_in_blocks_equals_scipys(monkeypatch):
    monkeypatch.setattr("qamro_cache.evaluation.metrics._BLOCK", 100)
    generator = np.random.default_rng(1)
    pred, target = generator.integers(0, 9, (2, 57)).astype(float)
    want = scipy.stats.kendalltau(pred, target).statistic
    assert ktau(torch.tensor(pred), torch.tensor(target)).item() == pytest.approx(want, abs=1e-14)


def test_systems_of_equal_means_stay_tied_whatever_the_order_of_the_sum():
    # 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating point.
    values = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.2, 0.1], dtype=torch.float64)
    assert values[0] + values[1] + values[2] != values[3] + values[4] + values[5]
    mean = system_means(values, torch.tensor([0, 0, 0, 1, 1, 1]), 2).mean
    assert mean[0] == mean[1]
