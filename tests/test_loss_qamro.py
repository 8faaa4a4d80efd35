"""Every form of the loss against a double loop in Python."""

import pytest
import torch
from hypothesis import given, settings
from loss_reference import naive_qamro, naive_rows, problems, tensors

from qamro_cache.losses.qamro import QAMROLoss, qamro_loss, qamro_value_and_grad

FORMS = ["pairs", "sorted", "auto"]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def by_autograd(pred, target, **arguments):
    pred = pred.clone().requires_grad_()
    value = qamro_loss(pred, target, **arguments)
    (grad,) = torch.autograd.grad(value.sum(), pred)
    return value.detach(), grad


@pytest.mark.parametrize("method", FORMS)
@given(problem=problems())
@settings(max_examples=150, deadline=None)
def test_equals_the_double_loop(method, problem):
    expected_value, expected_grad = naive_rows(problem)
    arguments = tensors(problem)
    for function in (by_autograd, qamro_value_and_grad):
        value, grad = function(**arguments, method=method)
        torch.testing.assert_close(value, expected_value, **CLOSE)
        torch.testing.assert_close(grad, expected_grad, **CLOSE)


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


def test_module_is_the_mean_over_rows():
    pred, target = torch.randn(3, 8), torch.randint(1, 6, (8,)).float()
    loss = QAMROLoss(alpha=0.5, beta=3.0, normalize="scale", label_range=(1, 5))
    expected = qamro_loss(
        pred, target, alpha=0.5, beta=3.0, normalize="scale", label_range=(1, 5)
    ).mean()
    torch.testing.assert_close(loss(pred, target), expected)
