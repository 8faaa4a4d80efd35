"""Paired differences and the confidence set against naive loops over what is left out."""

import numpy as np
import pytest
import scipy.stats

from qamro_cache.evaluation.choice import DRAWS, Evidence, confidence_set, evidence, gap
from qamro_cache.evaluation.intervals import Figure
from qamro_cache.evaluation.left_out import LeftOut
from qamro_cache.evaluation.metrics import ktau, lcc, mse, srcc
from qamro_cache.evaluation.ways import make_sample

CLIP = Figure("clip", "srcc", srcc, "correlation")
SYSTEM = Figure("system", "srcc", srcc, "correlation")


def equal_cells(cells, systems=12, groups=8, seed=0):
    """Simulated cells that are equally good in expectation, and the sample."""
    generator = np.random.default_rng(seed)
    system = np.repeat(np.arange(systems), groups)
    group = np.tile(np.arange(groups), systems)
    quality = generator.normal(size=systems)[system] + 0.5 * generator.normal(size=groups)[group]
    pred = quality + 0.4 * generator.normal(size=(cells, systems))[:, system]
    pred += 0.4 * generator.normal(size=(cells, len(system)))
    target = quality + 0.3 * generator.normal(size=len(system))
    return pred, make_sample(target, system, ("song", group)), system, group


def jackknife(differences):
    c = len(differences)
    return (c - 1) / c * np.sum((differences - np.mean(differences)) ** 2)


def test_the_gap_of_two_models_is_the_two_way_jackknifes():
    pred, sample, system, group = equal_cells(2)
    block = (system + group) % 12
    r = [scipy.stats.spearmanr(row, sample.target).statistic for row in pred]
    v = []
    for label, count in ((system, 12), (group, 8), (block, 12)):
        each = []
        for c in range(count):
            kept = label != c
            one, two = (
                scipy.stats.spearmanr(row[kept], sample.target[kept]).statistic for row in pred
            )
            each.append(one - two)
        v.append(jackknife(np.array(each)))
    total = max(v[0] + v[1] - v[2], max(v[0], v[1]) / 2)
    h = scipy.stats.t.ppf(0.975, 7) * np.sqrt(total)
    found = gap(evidence(CLIP, pred, sample), 0, 1)
    assert found == pytest.approx((r[0] - r[1], r[0] - r[1] - h, r[0] - r[1] + h))
    back = gap(evidence(CLIP, pred, sample), 1, 0)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def test_the_gap_of_rankings_of_systems_takes_off_the_second_order():
    pred, sample, system, _ = equal_cells(2)
    means = [np.array([x[system == s].mean() for s in range(12)]) for x in (*pred, sample.target)]

    def difference(*without):
        kept = [s for s in range(12) if s not in without]
        one, two, truth = (x[kept] for x in means)
        return (
            scipy.stats.spearmanr(one, truth).statistic
            - scipy.stats.spearmanr(two, truth).statistic
        )

    d = difference()
    single = np.array([difference(i) for i in range(12)])
    q = np.array(
        [
            12 * d - 11 * (single[i] + single[j]) + 10 * difference(i, j)
            for i in range(12)
            for j in range(i + 1, 12)
        ]
    )
    v = jackknife(single)
    second = 11 / 12**3 * np.sum((q - q.mean()) ** 2)
    v = max(v - second, v / 2, (12 / (12 * 143)) ** 2)
    h = scipy.stats.t.ppf(0.975, 11) * np.sqrt(v)
    assert second > 0
    found = gap(evidence(SYSTEM, pred, sample), 0, 1)
    assert found == pytest.approx((d, d - h, d + h))


def test_models_that_rank_alike_have_no_gap():
    pred, sample, *_ = equal_cells(1)
    twice = np.concatenate([pred, pred])
    assert gap(evidence(CLIP, twice, sample), 0, 1) == (0, 0, 0)
    assert confidence_set(evidence(CLIP, twice, sample)).left.all()
    # Half a dozen systems that are ranked alike do not prove that two models are the same.
    alike = gap(evidence(SYSTEM, twice, sample), 0, 1)
    assert alike.low < 0 < alike.high


def test_too_few_systems_give_no_evidence():
    pred, sample, *_ = equal_cells(2, systems=3)
    assert evidence(SYSTEM, pred, sample) is None
    assert evidence(CLIP, pred, sample) is not None


def naive_set(values, parts, freedom):
    """The model confidence set as it is written down: a loop a step over all pairs."""
    count = len(values)
    loadings = np.concatenate(
        [
            np.sqrt((p.shape[1] - 1) / p.shape[1]) * (p - p.mean(1, keepdims=True))
            for p in parts[:2]
        ],
        1,
    )
    noise = np.random.default_rng(0).standard_normal((DRAWS, loadings.shape[1]))
    z = noise @ loadings.T

    def v(i, j):
        each = [jackknife(p[i] - p[j]) for p in parts]
        return max(each[0] + each[1] - each[2], max(each[:2]) / 2)

    def n(i, j):
        t = (values[i] - values[j]) / np.sqrt(v(i, j))
        return scipy.stats.norm.ppf(scipy.stats.t.cdf(t, freedom))

    inside, p, last = list(range(count)), np.ones(count), 0.0
    while len(inside) > 1:
        behind = {i: max(n(j, i) for j in inside if j != i) for i in inside}
        worst = max(behind, key=behind.get)
        largest = np.max(
            [
                np.abs(z[:, i] - z[:, j]) / np.linalg.norm(loadings[i] - loadings[j])
                for i in inside
                for j in inside
                if i < j
            ],
            0,
        )
        last = max(last, np.mean(largest >= behind[worst]))
        p[worst] = last
        inside.remove(worst)
    return p


def test_the_confidence_set_is_that_of_a_naive_step_down():
    pred, sample, *_ = equal_cells(6)
    # Cells 4 and 5 are worse, so that some are put out.
    generator = np.random.default_rng(3)
    pred[4:] += generator.normal(0, [[1.0], [2.5]], (2, pred.shape[1]))
    told = evidence(CLIP, pred, sample)
    found = confidence_set(told)
    want = naive_set(told.drops.value, told.drops.parts, 7)
    np.testing.assert_allclose(found.p, want, atol=2e-4)
    assert 1 <= found.left.sum() < 6
    assert not found.left[5]
    np.testing.assert_array_equal(found.left, found.p > 0.05)
    again = confidence_set(told)
    np.testing.assert_array_equal(found.p, again.p)


def test_the_order_of_the_cells_does_not_matter():
    pred, sample, *_ = equal_cells(5)
    pred[3] += np.random.default_rng(1).normal(0, 2, pred.shape[1])
    order = np.array([3, 0, 4, 1, 2])
    one = confidence_set(evidence(CLIP, pred, sample))
    two = confidence_set(evidence(CLIP, pred[order], sample))
    np.testing.assert_allclose(one.p[order], two.p, atol=0.02)


def test_a_cell_far_above_all_others_is_clearly_best_by_any_figure():
    pred, sample, *_ = equal_cells(4, 16, 12)
    pred[2] = sample.target + 0.05 * np.random.default_rng(0).normal(size=len(sample.target))
    pred[[0, 1, 3]] += np.random.default_rng(1).normal(0, 1, (3, len(sample.target)))
    for name, function in (("srcc", srcc), ("ktau", ktau), ("lcc", lcc), ("mse", mse)):
        figure = Figure("clip", name, function, "error" if name == "mse" else "correlation")
        found = confidence_set(evidence(figure, pred, sample), higher=name != "mse")
        assert int(found.left.sum()) == 1, name
        assert found.left[2], name


def test_a_cell_that_is_no_number_is_out_of_the_race_and_one_alone_is_not_best():
    value, part = np.array([0.5, np.nan]), np.ones((2, 5)) * 0.5
    found = confidence_set(Evidence(LeftOut(value, (part,))))
    assert found.left.tolist() == [True, False]
    assert np.isnan(found.p[1])
    alone = confidence_set(Evidence(LeftOut(value[:1], (part[:1],))))
    assert alone.left.all()


@pytest.mark.slow
def test_equal_cells_are_seldom_put_out():
    out = 0
    for seed in range(60):
        pred, sample, *_ = equal_cells(12, seed=seed)
        out += not confidence_set(evidence(CLIP, pred, sample)).left.all()
    assert out <= 8
