"""The alternative ranking losses against their definitions, written as loops over numbers."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from qamro_cache.losses import listwise, samples
from qamro_cache.losses.samples import Samples

PRED = [0.3, -1.2, 2.0, 0.7, 0.7]
TARGET = [3.0, 1.0, 4.5, 3.0, 2.25]
MASKED = torch.tensor([[True] * 5 + [False] * 2])


def column(number):
    return torch.full((1, 1), number, dtype=torch.float64)


def value(loss, pred=PRED, target=TARGET, **parameters):
    """The loss, whether or not it is given two masked samples besides."""
    rows = torch.tensor([pred], dtype=torch.float64), torch.tensor([target], dtype=torch.float64)
    parameters = {name: column(number) for name, number in parameters.items()}
    (plain,) = loss(Samples(*rows), **parameters)[0].tolist()
    padded = [torch.nn.functional.pad(row, (0, 2), value=torch.nan) for row in rows]
    mask = torch.tensor([[True] * len(pred) + [False] * 2])
    padded[1] = torch.where(mask, padded[1], 0)  # as a composed loss hands labels over
    (masked,) = loss(Samples(*padded, mask), **parameters)[0].tolist()
    assert masked == pytest.approx(plain, abs=1e-12)
    return plain


def softmax(values):
    powers = [math.exp(v) for v in values]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_listnet(temperature):
    wanted, given = (softmax([v / temperature for v in row]) for row in (TARGET, PRED))
    expected = sum(w * math.log(w / g) for w, g in zip(wanted, given, strict=True))
    assert value(listwise.listnet, temperature=temperature) == pytest.approx(expected)
    assert value(listwise.listnet, pred=TARGET, temperature=1.0) == pytest.approx(0)


def test_listmle_is_the_likelihood_of_the_order():
    target = [3.0, 1.0, 4.5, 3.5, 2.25]
    order = sorted(range(5), key=lambda i: -target[i])
    likelihood = 1.0
    for k, i in enumerate(order):
        likelihood *= math.exp(PRED[i]) / sum(math.exp(PRED[j]) for j in order[k:])
    expected = -math.log(likelihood) / 5
    assert value(listwise.listmle, target=target) == pytest.approx(expected)


def test_listmle_does_not_depend_on_the_order_of_the_batch():
    first = value(listwise.listmle)
    other = value(listwise.listmle, PRED[::-1], TARGET[::-1])
    assert other == pytest.approx(first, abs=1e-12)


def ndcg(order):
    gains = [2 ** (TARGET[i] - min(TARGET)) - 1 for i in order]
    return sum(gain / math.log2(2 + k) for k, gain in enumerate(gains))


def test_approx_ndcg_becomes_ndcg():
    pred = [0.3, -1.2, 0.5, 0.7, 0.9]
    found = ndcg(sorted(range(5), key=lambda i: -pred[i]))
    expected = 1 - found / ndcg(sorted(range(5), key=lambda i: -TARGET[i]))
    assert expected > 0.05
    assert value(listwise.approx_ndcg, pred, temperature=1e-3) == pytest.approx(expected)


def test_spearman_becomes_spearman():
    pred = [0.3, -1.2, 0.5, 0.7, 0.9]
    expected = 1 - spearmanr(pred, TARGET).statistic
    assert value(listwise.spearman, pred, temperature=1e-3) == pytest.approx(expected)
    # Ties share their rank on both sides.
    expected = 1 - spearmanr(PRED, TARGET).statistic
    assert value(listwise.spearman, temperature=1e-3) == pytest.approx(expected)


def pairs():
    return [PRED[i] - PRED[j] for i in range(5) for j in range(5) if TARGET[i] > TARGET[j]]


def test_margin_ranking():
    expected = torch.nn.functional.margin_ranking_loss(
        torch.tensor(pairs()), torch.zeros(len(pairs())), torch.ones(len(pairs())), margin=0.6
    )
    assert value(listwise.margin, width=0.6) == pytest.approx(expected.item())


def test_ranknet():
    expected = sum(math.log(1 + math.exp(-gap / 2)) for gap in pairs()) / len(pairs())
    assert value(listwise.ranknet, temperature=2.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "parameters"),
    [
        (listwise.listmle, {}),
        (listwise.approx_ndcg, {"temperature": 0.1}),
        (listwise.spearman, {"temperature": 0.1}),
        (listwise.margin, {"width": 0.1}),
        (listwise.ranknet, {"temperature": 1.0}),
    ],
)
def test_equal_labels_and_equal_predictions(loss, parameters):
    pred, target = torch.zeros(2, 4), torch.tensor([[2.0] * 4, [1.0, 2.0, 3.0, 4.0]])
    parameters = {name: column(number) for name, number in parameters.items()}
    value, grad = loss(Samples(pred, target), **parameters)
    assert value[0] == 0
    assert not grad[0].any()
    assert value[1] > 0
    assert grad.isfinite().all()


def test_heads_in_blocks_equal_heads_at_once(monkeypatch):
    pred, target = torch.randn(5, 6), torch.rand(5, 6)
    some, temperature = Samples(pred, target, torch.rand(5, 6) < 0.7), torch.rand(5, 1) + 0.1
    whole = listwise.spearman(some, temperature=temperature)
    monkeypatch.setattr(samples, "_BLOCK", 72)
    torch.testing.assert_close(listwise.spearman(some, temperature=temperature), whole)
