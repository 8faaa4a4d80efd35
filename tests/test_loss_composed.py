"""Composed losses of stacked heads: units, weights, masks, and numbers of each head's own."""

import doctest
import re
from pathlib import Path

import pytest
import torch
from torch.nn.functional import huber_loss

from qamro_cache.losses.composed import LabelStats, composed_loss, value_and_grad
from qamro_cache.losses.loss import parse_loss
from qamro_cache.losses.qamro import qamro_loss
from qamro_cache.losses.terms import TERMS, TermInfo
from qamro_cache.settings import Setting

F64 = torch.float64


def heads(heads=4, size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn(heads, size, generator=generator, dtype=F64) + 3
    target = torch.randint(4, 21, (size,), generator=generator).double() / 4
    mask = torch.rand(heads, size, generator=generator) < 0.7
    return pred, target, mask


def per_head_stats(count=4):
    return LabelStats(
        mean=torch.linspace(2.5, 3, count, dtype=F64),
        std=torch.linspace(0.5, 2, count, dtype=F64),
        low=torch.linspace(1, 1.5, count, dtype=F64),
        high=torch.linspace(5, 6, count, dtype=F64),
    )


def alone(stats, k):
    """The labels of head `k`, as plain numbers."""
    return LabelStats(*(value[k].item() for value in vars(stats).values()))


def per_head_numbers(loss, count=4):
    """Numbers near the loss's own, in every head others."""
    factors = 1 + torch.rand(count, len(loss.numbers), generator=torch.Generator().manual_seed(1))
    return torch.tensor(loss.numbers, dtype=F64) * factors


def with_numbers(loss, numbers):
    """The loss with the numbers of one head, as its text would have them."""
    left, parts = list(numbers.tolist()), []
    for term in loss.terms:
        weight = left.pop(0)
        pairs = [(k, v if isinstance(v, str) else left.pop(0)) for k, v in term.parameters]
        brackets = ",".join(f"{key}={value}" for key, value in pairs if value != "")
        parts.append(f"{weight!r}*{term.name}({brackets})@{term.units}")
    assert not left
    return parse_loss("+".join(parts))


#: Those on labels; tests/test_preferences_training.py has those on given pairs.
NAMES = [name for name, info in TERMS.items() if info.kind != "preference"]
TEXTS = [f"{name}@{units}" for name in NAMES for units in ("raw", "standardized")]
TEXTS += ["qamro(bins=aes-PQ)", "qamro(normalize=batch)@standardized"]
TEXTS += ["0.5*huber(delta=0.5)@standardized+2*qamro(normalize=scale)+0.1*spearman"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_head_of_a_stack_equals_it_alone(text):
    pred, target, mask = heads()
    loss, labels = parse_loss(text), per_head_stats()
    numbers = per_head_numbers(loss)
    value, grad = value_and_grad(loss, pred, target, mask=mask, labels=labels, numbers=numbers)
    for k in range(4):
        mine = mask[k]
        value_k, grad_k = value_and_grad(
            with_numbers(loss, numbers[k]), pred[k, mine], target[mine], labels=alone(labels, k)
        )
        torch.testing.assert_close(value[k], value_k, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(grad[k, mine], grad_k, rtol=1e-12, atol=1e-12)
        assert not grad[k, ~mine].any()


@pytest.mark.parametrize("text", TEXTS)
def test_every_number_matters(text):
    """A number that a term does not read would leave the loss as it is."""
    pred, target, mask = heads(seed=5)
    loss, labels = parse_loss(text), per_head_stats()
    numbers = torch.tensor(loss.numbers, dtype=F64).repeat(4, 1)
    options = {"mask": mask, "labels": labels}
    before, _ = value_and_grad(loss, pred, target, **options)
    torch.testing.assert_close(
        value_and_grad(loss, pred, target, numbers=numbers, **options)[0], before, rtol=0, atol=0
    )
    for place in range(len(loss.numbers)):
        other = numbers.clone()
        other[2, place] *= 0.7
        after, _ = value_and_grad(loss, pred, target, numbers=other, **options)
        assert (after != before).tolist() == [False, False, True, False]


@pytest.mark.parametrize("text", TEXTS)
def test_gradient_is_the_derivative(text):
    pred, target, mask = heads(heads=2, size=7, seed=3)
    loss, labels = parse_loss(text), per_head_stats(2)
    numbers = per_head_numbers(loss, 2)
    pred.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: composed_loss(loss, p, target, mask=mask, labels=labels, numbers=numbers),
        (pred,),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 1, 2])
def test_masked_samples_may_be_nan_and_all_may_be_masked(name, size):
    pred, target = torch.full((2, size), torch.nan), torch.full((size,), torch.nan)
    value, grad = value_and_grad(
        parse_loss(name), pred, target, mask=torch.zeros(2, size, dtype=torch.bool),
        labels=LabelStats(low=1.0, high=5.0),
    )  # fmt: skip
    assert value.tolist() == [0, 0]
    assert not grad.any()


def test_terms_are_weighted_and_units_are_named():
    """Written out by hand, with autograd: value and gradient."""
    pred, target, mask = heads()
    loss = parse_loss(
        "0.5*huber(delta=0.7)@standardized+2*qamro(alpha=0.3)+qamro(beta=3)@standardized"
    )
    labels = LabelStats(mean=3.0, std=2.0, low=1.0, high=5.0)
    value, grad = value_and_grad(loss, pred, target, mask=mask, labels=labels)
    for k, keep in enumerate(mask):
        p, y = pred[k, keep].clone().requires_grad_(), target[keep]
        z, t = (p - 3) / 2, (y - 3) / 2
        train = {"normalize": "train"}
        expected = (
            0.5 * huber_loss(z, t, delta=0.7)
            + 2 * qamro_loss(p, y, alpha=0.3, label_range=(1, 5), **train)
            + qamro_loss(z, t, beta=3.0, label_range=(-1, 1), **train)
        )
        expected.backward()
        torch.testing.assert_close(value[k], expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(grad[k, keep], p.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["aes-PQ", "aes-PC", "aes-CE", "aes-CU"])
def test_bins_are_reached_by_text(name):
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(3, 50, generator=generator, dtype=F64).requires_grad_()
    target = torch.rand(50, generator=generator, dtype=F64) * 9 + 1
    value, grad = value_and_grad(parse_loss(f"qamro(bins={name},alpha=0.4)"), pred, target)
    expected = qamro_loss(pred, target, alpha=0.4, weights=name)
    (slope,) = torch.autograd.grad(expected.sum(), pred)
    assert torch.equal(value, expected)
    assert torch.equal(grad, slope)
    plain = qamro_loss(pred, target, alpha=0.4)
    assert (value - plain).abs().min() > 1e-3


def test_standard_errors_reach_qamro_in_the_units_of_its_term():
    pred, target, _ = heads()
    stderr = torch.linspace(0.1, 1, 12, dtype=F64)
    labels = LabelStats(mean=3.0, std=2.0)
    loss = parse_loss("qamro(normalize=batch)@standardized")
    value, _ = value_and_grad(loss, pred, target, stderr=stderr, labels=labels)
    expected = qamro_loss((pred - 3) / 2, (target - 3) / 2, stderr=stderr / 2)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_types_give_float32(dtype):
    pred, target, _ = heads()
    loss = parse_loss("+".join(NAMES))
    value, grad = value_and_grad(
        loss, pred.to(dtype), target, labels=LabelStats(low=1.0, high=5.0),
        numbers=per_head_numbers(loss).float(),
    )  # fmt: skip
    assert value.dtype == grad.dtype == torch.float32


@pytest.mark.parametrize("normalize", ["train", "scale"])
def test_a_missing_label_range_is_named(normalize):
    pred, target, _ = heads()
    with pytest.raises(ValueError, match=rf"qamro\(normalize={normalize}\) needs labels.low and"):
        value_and_grad(parse_loss(f"qamro(normalize={normalize})"), pred, target)


@pytest.mark.parametrize(
    ("stats", "said"),
    [
        ({"std": 0.0}, "std of the labels is 0.0"),
        ({"low": 1.0}, "labels have low 1.0 and high None: give both"),
        ({"low": 2.0, "high": 2.0}, "high must be above low"),
        ({"low": 2.0, "high": float("nan")}, "high must be above low"),
    ],
)
def test_impossible_labels_are_refused(stats, said):
    with pytest.raises(ValueError, match=said):
        LabelStats(**stats)


def test_numbers_of_another_shape_are_refused():
    pred, target, _ = heads()
    with pytest.raises(ValueError, match=r"numbers has shape \(4, 3\): expected \(4, 2\)"):
        value_and_grad(parse_loss("huber"), pred, target, numbers=torch.ones(4, 3))


MADE_UP = '''"""A loss from outside: mean of |error|^power."""

import torch


def made_up(samples, power, sign):
    error = samples.pred - samples.target
    if samples.mask is not None:
        error = torch.where(samples.mask, error, 0)
    count = error.new_full((1,), error.shape[-1]) if samples.mask is None else samples.mask.sum(-1)
    value = error.abs().pow(power).sum(-1) / count.clamp(min=1)
    grad = power * error.abs().pow(power - 1) * error.sign() / count.clamp(min=1).unsqueeze(-1)
    return (value, grad) if sign == "plus" else (-value, -grad)
'''


def test_a_loss_of_ones_own_is_a_file_and_a_row(tmp_path, monkeypatch):
    from test_train_stack import collect, make_data, make_folds

    from qamro_cache.training.recipe import Job, Recipe

    (tmp_path / "made_up_loss.py").write_text(MADE_UP)
    monkeypatch.syspath_prepend(tmp_path)
    row = TermInfo(
        "regression", "mean of |error|^power", "made_up_loss",
        (
            Setting("power", float, 2.0, "Exponent of the error.", low=1),
            Setting("sign", str, "plus", "Of the loss.", choices=("plus", "minus")),
        ),
    )  # fmt: skip
    monkeypatch.setitem(TERMS, "made_up", row)
    loss = parse_loss("0.5*made_up(power=3)@standardized+huber", {"sign": "minus"})
    assert str(loss) == "0.5*made_up(power=3,sign=minus)@standardized+huber@raw"
    pred, target, mask = heads()
    numbers = torch.tensor([[1, k + 1.5, 1] for k in range(4)], dtype=F64)
    value, _ = value_and_grad(
        parse_loss("made_up"), pred, target, mask=mask, numbers=numbers[:, :2]
    )
    for k in range(4):
        error = (pred[k] - target)[mask[k]].abs()
        torch.testing.assert_close(value[k], error.pow(k + 1.5).mean())
    # A stack trains with it, heads with exponents of their own beside each other.
    features, labels = make_data()
    names = ("made_up@standardized", "made_up(power=3)@standardized", "mse@standardized")
    jobs = [Job(Recipe(loss=parse_loss(name), epochs=2, lr=1e-2)) for name in names]
    assert jobs[0].recipe.bucket == jobs[1].recipe.bucket != jobs[2].recipe.bucket
    squared, cubed, mse = (
        head["predictions"] for head in collect(features, labels, make_folds(), jobs)
    )
    torch.testing.assert_close(squared, mse, rtol=1e-9, atol=1e-9)
    assert (cubed - mse).abs().max() > 1e-6


def test_the_examples_of_the_documentation_hold():
    page = Path(__file__).parents[1] / "docs" / "loss.md"
    blocks = re.findall(r"```pycon\n(.*?)```", page.read_text(), re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.name, str(page), 0)
    outcome = doctest.DocTestRunner().run(test)
    assert outcome.attempted >= 6
    assert outcome.failed == 0
