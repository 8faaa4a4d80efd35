"""Every form of the loss against a double loop in Python."""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loss_reference import naive_qamro, naive_rows, problems, tensors

from qamro_cache.losses import pairs
from qamro_cache.losses import sorted as sorted_form
from qamro_cache.losses.qamro import QAMROLoss, qamro_loss, qamro_value_and_grad

FORMS = ["pairs", "sorted", "auto"]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # set by test_loss_fused.py
if INTERPRETED:
    FORMS = ["fused"]
SIZE = 130 if INTERPRETED else 700
EXAMPLES = 10 if INTERPRETED else 60
WITH_STDERR = [form for form in FORMS if form != "sorted"]
RELAXED = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def by_autograd(pred, target, **arguments):
    pred = pred.clone().requires_grad_()
    value = qamro_loss(pred, target, **arguments)
    (grad,) = torch.autograd.grad(value.sum(), pred)
    return value.detach(), grad


@pytest.fixture(params=["as is"] if INTERPRETED else ["as is", "tiny blocks"])
def blocks(request, monkeypatch):
    """Small inputs pass through every level of the forms only when their blocks are tiny."""
    if request.param == "tiny blocks":
        monkeypatch.setattr(sorted_form, "_LEAF", 2)
        monkeypatch.setattr(sorted_form, "_CACHED", 4)
        monkeypatch.setattr(sorted_form, "_RADIX", 3)
        monkeypatch.setitem(pairs._BLOCK, "cpu", 12)


def check(problem, method, **extra):
    expected_value, expected_grad = naive_rows(problem, **extra)
    arguments = tensors(problem)
    if "table" in extra:
        arguments["weights"] = extra["table"]
    if "stderr" in extra:
        arguments["stderr"] = torch.tensor(extra["stderr"]).reshape(arguments["pred"].shape)
    for function in (by_autograd, qamro_value_and_grad):
        value, grad = function(**arguments, method=method)
        torch.testing.assert_close(value, expected_value, **CLOSE)
        torch.testing.assert_close(grad, expected_grad, **CLOSE)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("method", FORMS)
@given(problem=problems())
@settings(max_examples=EXAMPLES, **RELAXED)
def test_equals_the_double_loop(method, problem):
    check(problem, method)


def test_a_huge_beta_that_no_label_feels_disturbs_no_other_row(monkeypatch):
    """Bins of which only the lightest is met: the weights are 1, whatever beta is."""
    monkeypatch.setattr(sorted_form, "_LEAF", 2)
    value = qamro_loss(
        torch.zeros(2, 5).double(),
        torch.tensor([1.0, 1, 1, 1, 1.25]).double(),
        alpha=torch.tensor([0, 1024.0]).double(),
        beta=torch.tensor([0, 1e6]).double(),
        mask=torch.tensor([False, False, False, True, True]),
        weights=((1, 2, 3, 4), (0.5, 2, 1)),
        method="sorted",
    )
    assert value.tolist() == [0, pytest.approx(256, rel=1e-14)]


TABLES = st.sampled_from([((1, 2, 3, 4), (0.5, 2, 1)), ((2, 2.5, 6), (3, 1))])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("method", FORMS)
@given(problem=problems(), table=TABLES)
@settings(max_examples=EXAMPLES, **RELAXED)
def test_bins_equal_the_double_loop(method, problem, table):
    check(problem, method, table=table)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("method", WITH_STDERR)
@given(problem=problems())
@settings(max_examples=EXAMPLES, **RELAXED)
def test_standard_errors_equal_the_double_loop(method, problem):
    check(problem, method, stderr=problem["stderr"])


@pytest.mark.parametrize("method", FORMS)
def test_a_tie_in_label_and_prediction_gives_no_gradient(method):
    value, grad = qamro_value_and_grad(
        torch.ones(3, dtype=torch.float64), torch.tensor([3.0, 3.0, 4.0]), method=method
    )
    torch.testing.assert_close(grad * 2, torch.tensor([7.0, 7.0, -14.0]).double())
    assert value.item() == pytest.approx(1.4)


def test_naive_loop_by_hand():
    # One pair: labels 1 and 2, predictions equal, so hinge .2 and weight 7.
    assert naive_qamro([0, 0], [1, 2]) == (pytest.approx(1.4), [7.0, -7.0])


def test_track_2_tables_by_hand():
    # PQ: a label of 3.5 lies in the bin of 4.5, 6.5 in that of 9.5 (the largest), 10 in that of
    # 0; 10.5 lies in none, so three pairs remain, and the largest weight of a pair is 7.
    pred, target = torch.zeros(4).double(), torch.tensor([3.5, 6.5, 10.0, 10.5])
    value = qamro_loss(pred, target, weights="aes-PQ")
    pairs = [(3.0, 1.0), (6.5, 4.5 / 9.5), (3.5, 1.0)]
    expected = sum(0.2 * d * (1 + 6 * quality) for d, quality in pairs) / 3
    assert value.item() == pytest.approx(expected, abs=1e-12)


def dense(pred, target, alpha, beta, mask):
    """The [N, N] form in float64, for sizes beyond a double loop."""
    pred, y = pred[mask].double(), target[mask].double()
    s = alpha * y - pred
    weight = 1 + (beta - 1) * (y - y.min()) / (y.max() - y.min())
    valid = y[:, None] > y
    active = (valid & (s[:, None] > s)).double()
    value = (weight[:, None] * active * (s[:, None] - s)).sum() / valid.sum()
    slope = weight * active.sum(1) - weight @ active
    grad = torch.zeros(mask.shape, dtype=torch.float64)
    grad[mask] = -slope / valid.sum()
    return value, grad


@pytest.mark.skipif(INTERPRETED, reason="thousands of samples take the interpreter hours")
@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("step", [0.0, 0.25], ids=["continuous", "quantized"])
def test_five_thousand_samples_and_rows_of_their_own(method, step):
    generator = torch.Generator().manual_seed(1)
    shape = (2, 5000)
    target = 1 + 4 * torch.rand(shape, generator=generator, dtype=torch.float64)
    pred = target + torch.randn(shape, generator=generator, dtype=torch.float64)
    if step:
        target, pred = (target / step).round() * step, (pred / step).round() * step
    mask = torch.rand(shape, generator=generator) < 0.9
    alpha, beta = torch.tensor([0.25, 2.0]).double(), torch.tensor([7.0, 0.5]).double()
    value, grad = qamro_value_and_grad(
        pred, target, alpha=alpha, beta=beta, mask=mask, method=method
    )
    for row in range(2):
        expected = dense(pred[row], target[row], alpha[row], beta[row], mask[row])
        torch.testing.assert_close((value[row], grad[row]), expected, **CLOSE)


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_predictions(method, dtype):
    generator = torch.Generator().manual_seed(2)
    target = torch.randint(4, 21, (SIZE,), generator=generator) / 4
    pred = (target + torch.randn(SIZE, generator=generator)).to(dtype)
    value, grad = by_autograd(pred, target, method=method)
    assert value.dtype == torch.float32
    assert grad.dtype == dtype
    expected, expected_grad = dense(pred, target, 0.2, 7.0, torch.ones(SIZE, dtype=torch.bool))
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    # A margin of exactly 0 in float64 may round either way in float32: a pair in thousands.
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    assert (grad.double() - expected_grad).norm() < tolerance * expected_grad.norm()


@pytest.mark.slow
def test_a_million_samples_in_float32():
    """Against the exact merge in plain numpy integers, which shares no code with the form."""
    generator = torch.Generator().manual_seed(3)
    n = 1 << 20
    target = torch.randint(4, 21, (n,), generator=generator) / 4
    pred = target + torch.randn(n, generator=generator)
    value, grad = qamro_value_and_grad(pred, target, method="sorted")
    expected, expected_grad = few_labels(pred.double(), target.double())
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (grad.double() - expected_grad).norm() < 1e-6 * expected_grad.norm()


def few_labels(pred, target, alpha=0.2, beta=7.0):
    """Where labels take few values: a sorted list of scores a value, and binary search."""
    s = alpha * target - pred
    levels = target.unique()
    lists = [s[target == level].sort().values for level in levels]
    weight = 1 + (beta - 1) * (levels - levels[0]) / (levels[-1] - levels[0])
    count = sum(len(a) * len(b) for k, a in enumerate(lists) for b in lists[:k])
    value, grad = torch.zeros((), dtype=torch.float64), torch.zeros_like(s)
    for k, level in enumerate(levels):
        here = target == level
        mine = s[here]
        for other, scores in enumerate(lists):
            if other < k:
                below = torch.searchsorted(scores, mine)
                sums = torch.cat([scores.new_zeros(1), scores.cumsum(0)])
                value += weight[k] * (below * mine - sums[below]).sum()
                grad[here] -= weight[k] * below
            elif other > k:
                above = len(scores) - torch.searchsorted(scores, mine, right=True)
                grad[here] += weight[other] * above
    return value / count, grad / count


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("weights", [None, "aes-CE"])
def test_gradcheck_away_from_kinks(method, weights):
    generator = torch.Generator().manual_seed(4)
    pred = torch.randn(2, 7, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.randint(2, 38, (7,), generator=generator).double() / 4
    assert torch.autograd.gradcheck(
        lambda p: qamro_loss(p, target, weights=weights, method=method), (pred,)
    )


@pytest.mark.parametrize("method", FORMS)
def test_a_prediction_that_is_not_a_number_is_not_hidden(method):
    pred, target = torch.randn(2, 40), torch.rand(40)
    pred[0, 7] = torch.nan
    value, grad = qamro_value_and_grad(pred, target, method=method)
    assert value.isnan().tolist() == [True, False]
    assert grad[0, 7].isnan()
    assert grad[1].isfinite().all()
    keep = torch.arange(40) != 7
    assert qamro_loss(pred, target, mask=keep, method=method).isfinite().all()


@pytest.mark.parametrize("method", FORMS)
def test_any_leading_shape(method):
    generator = torch.Generator().manual_seed(5)
    pred = torch.randn(2, 3, 20, generator=generator)
    target = torch.randint(4, 21, (3, 20), generator=generator) / 4
    alpha, beta = torch.rand(2, 1, generator=generator), 5 * torch.rand(3, generator=generator)
    mask = torch.rand(2, 3, 20, generator=generator) < 0.8
    arguments = {"mask": mask, "alpha": alpha, "beta": beta}
    value, grad = by_autograd(pred, target, **arguments, method=method)
    assert value.shape == (2, 3)
    for a in range(2):
        for b in range(3):
            expected = by_autograd(
                pred[a, b], target[b], mask=mask[a, b], alpha=alpha[a, 0], beta=beta[b],
                method="pairs",
            )  # fmt: skip
            torch.testing.assert_close((value[a, b], grad[a, b]), expected)


def test_only_one_derivative():
    pred = torch.randn(5, requires_grad=True)
    (grad,) = torch.autograd.grad(qamro_loss(pred, torch.rand(5)), pred, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        grad.sum().backward()


def test_module_is_the_mean_over_rows():
    pred, target = torch.randn(3, 8), torch.randint(1, 6, (8,)).float()
    loss = QAMROLoss(alpha=0.5, beta=3.0, normalize="scale", label_range=(1, 5))
    expected = qamro_loss(
        pred, target, alpha=0.5, beta=3.0, normalize="scale", label_range=(1, 5)
    ).mean()
    torch.testing.assert_close(loss(pred, target), expected)


GOOD = {"pred": torch.zeros(2, 3), "target": torch.tensor([1.0, 2.0, 3.0])}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pred": torch.tensor(1.0)}, r"pred .*\(\)"),
        ({"pred": torch.zeros(3, dtype=torch.int64)}, r"pred .*int64"),
        ({"target": torch.zeros(4)}, r"target has shape \(4,\).*\(2, 3\)"),
        ({"target": torch.tensor([1.0, torch.nan, 2.0])}, r"target\[1\] is nan"),
        ({"target": torch.tensor([1.0, torch.inf, 2.0])}, r"target\[1\] is inf"),
        ({"target": torch.ones(2, 1)}, r"target has shape \(2, 1\).*\(2, 3\)"),
        ({"target": torch.tensor(1.0)}, r"target has shape \(\)"),
        ({"mask": torch.ones(2, 1)}, r"mask has shape \(2, 1\)"),
        ({"stderr": torch.zeros(2, 1)}, r"stderr has shape \(2, 1\)"),
        ({"mask": torch.ones(2, 2)}, r"mask has shape \(2, 2\)"),
        ({"alpha": -0.1}, r"alpha is -0.1"),
        ({"alpha": torch.tensor([0.1, -0.5])}, r"alpha\[1\] is -0.5"),
        ({"alpha": torch.ones(3)}, r"alpha has shape \(3,\)"),
        ({"beta": -1}, r"beta is -1"),
        ({"beta": float("nan")}, r"beta is nan"),
        ({"beta": torch.tensor([torch.nan, 1])}, r"beta\[0\] is nan"),
        ({"normalize": "train"}, r"label_range is None.*'train'"),
        ({"normalize": "scale", "label_range": (5, 1)}, r"label_range is \(5, 1\)"),
        ({"normalize": "scale", "label_range": (0, float("inf"))}, r"label_range is \(0, inf\)"),
        (
            {"normalize": "train", "label_range": (torch.ones(2), torch.tensor([2.0, 1.0]))},
            r"label_range.*\[1\] is 0",
        ),
        ({"normalize": "rows"}, r"normalize is 'rows'"),
        ({"method": "best"}, r"method is 'best'"),
        ({"weights": "aes-XX"}, r"weights is 'aes-XX'"),
        ({"weights": ((1, 2, 3), (1,))}, r"3 edges and 1 values"),
        ({"weights": ((1, 3, 2), (1, 2))}, r"\(1.0, 3.0, 2.0\).*increase"),
        ({"weights": ((1, 2, 3), (1, 1))}, r"\(1.0, 1.0\).*equal"),
        ({"weights": ((1, 2, 3), (1, float("inf")))}, r"\(1.0, inf\).*finite"),
        ({"stderr": torch.tensor([0.0, -1.0, 0.0])}, r"stderr\[1\] is -1"),
        ({"stderr": torch.zeros(3), "method": "sorted"}, r"'sorted'.*stderr"),
    ],
)
def test_a_bad_argument_is_named_with_its_value(change, said):
    qamro_loss(**GOOD)
    with pytest.raises(ValueError, match=said):
        qamro_loss(**{**GOOD, **change})


def test_a_masked_label_may_be_nan():
    target, mask = torch.tensor([1.0, torch.nan, 2.0]), torch.tensor([True, False, True])
    for method in FORMS:
        value, grad = qamro_value_and_grad(torch.zeros(3), target, mask=mask, method=method)
        assert value.item() == pytest.approx(1.4)
        assert grad.tolist() == [7, 0, -7]


@pytest.mark.parametrize("method", WITH_STDERR)
def test_masked_labels_and_standard_errors_may_be_nan(method):
    target = torch.tensor([1.0, torch.nan, 2.0, 3.0])
    mask = torch.tensor([True, False, True, False])
    stderr = torch.tensor([0.5, 0.5, 0.5, torch.nan])
    value, grad = qamro_value_and_grad(
        torch.zeros(4), target, mask=mask, stderr=stderr, method=method
    )
    sure = torch.erf(torch.tensor(1.0)).item()  # z is 1 / sqrt(.5), and 2 Phi(z) - 1 is erf(1)
    assert value.item() == pytest.approx(1.4 * sure)
    assert grad.tolist() == pytest.approx([7 * sure, 0, -7 * sure, 0])


@pytest.mark.parametrize("method", FORMS)
def test_a_row_of_huge_weights_leaves_its_neighbors_alone(method):
    generator = torch.Generator().manual_seed(6)
    pred = torch.randn(3, SIZE, generator=generator, dtype=torch.float64)
    target = torch.randint(4, 21, (SIZE,), generator=generator).double() / 4
    beta = torch.tensor([1e20, 7.0, 0.5], dtype=torch.float64)
    value, grad = qamro_value_and_grad(pred, target, beta=beta, method=method)
    for row in (1, 2):
        mine = torch.ones(SIZE, dtype=torch.bool)
        expected = dense(pred[row], target, 0.2, beta[row], mine)
        torch.testing.assert_close((value[row], grad[row]), expected, **CLOSE)


@pytest.mark.parametrize("method", FORMS)
def test_a_label_range_of_one_value_in_a_tensor(method):
    """The training labels of a fold may all be equal: n is then as far as the label is above."""
    low = torch.tensor([2.0, 1.0])
    high = torch.tensor([2.0, 5.0])
    target = torch.tensor([1.0, 2.25, 3.0])
    value, grad = qamro_value_and_grad(
        torch.zeros(2, 3).double(), target, normalize="train", label_range=(low, high),
        method=method,
    )  # fmt: skip
    weight = 1 + 6 * 0.25
    expected = (weight * 0.2 * 1.25 + 7 * 0.2 * 2 + 7 * 0.2 * 0.75) / 3
    assert value[0].item() == pytest.approx(expected)
    assert (3 * grad[0]).tolist() == pytest.approx([weight + 7, 7 - weight, -14])


@pytest.mark.parametrize("settings", [{"normalize": "train"}, {"alpha": -1}, {"method": "best"}])
def test_the_module_refuses_wrong_settings_when_it_is_made(settings):
    with pytest.raises(ValueError, match=next(iter(settings.values())).__str__()):
        QAMROLoss(**settings)


@pytest.mark.parametrize("method", FORMS)
def test_the_worked_example_of_the_documentation(method):
    pred = torch.tensor([2.0, 1.5, 3.0, 2.5, 3.5], dtype=torch.float64)
    value, grad = qamro_value_and_grad(pred, torch.tensor([1, 2, 2, 4, 5]), method=method)
    assert value.item() == pytest.approx(7.95 / 9)
    torch.testing.assert_close(-9 * grad, torch.tensor([-8, 2.5, -12.5, 11, 7]).double())
