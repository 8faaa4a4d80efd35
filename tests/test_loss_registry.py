"""Composition: weights, units and masks of stacked heads."""

import pytest
import torch

from qamro_cache.losses.qamro import qamro_loss
from qamro_cache.losses.registry import TERMS, LossSettings, parse_loss


def heads(heads=4, size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn(heads, size, generator=generator, dtype=torch.float64) + 3
    target = torch.randint(4, 21, (size,), generator=generator).double() / 4
    mask = torch.rand(heads, size, generator=generator) < 0.7
    return pred, target, mask


def per_head_settings(count=4):
    return LossSettings(
        alpha=torch.linspace(0.1, 0.5, count),
        beta=torch.linspace(1, 9, count),
        normalize="train",
        label_range=(torch.linspace(1, 1.5, count), torch.linspace(5, 6, count)),
        huber_delta=0.5,
        label_mean=torch.linspace(2.5, 3, count),
        label_std=torch.linspace(0.5, 2, count),
    )


def head(settings, k):
    """The settings of head `k` alone, as plain numbers."""
    numbers = {
        name: value[k].item() if isinstance(value, torch.Tensor) else value
        for name, value in vars(settings).items()
        if name != "label_range"
    }
    low, high = settings.label_range
    return LossSettings(**numbers, label_range=(low[k].item(), high[k].item()))


@pytest.mark.parametrize("units", ["raw", "standardized"])
@pytest.mark.parametrize("name", TERMS)
def test_a_head_of_a_stack_equals_it_alone(name, units):
    pred, target, mask = heads()
    loss, settings = parse_loss(f"{name}@{units}"), per_head_settings()
    value, grad = loss.value_and_grad(pred, target, mask=mask, settings=settings)
    for k in range(4):
        alone = mask[k]
        value_k, grad_k = loss.value_and_grad(
            pred[k, alone], target[alone], settings=head(settings, k)
        )
        torch.testing.assert_close(value[k], value_k, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(grad[k, alone], grad_k, rtol=1e-6, atol=1e-9)
        assert not grad[k, ~alone].any()


@pytest.mark.parametrize("units", ["raw", "standardized"])
@pytest.mark.parametrize("name", TERMS)
def test_gradient_is_the_derivative(name, units):
    pred, target, mask = heads(heads=2, size=7, seed=3)
    loss, settings = parse_loss(f"0.5*{name}@{units}"), per_head_settings(2)
    pred.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: loss(p, target, mask=mask, settings=settings), (pred,)
    )


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("size", [0, 1, 2])
def test_masked_samples_may_be_nan_and_all_may_be_masked(name, size):
    pred, target = torch.full((2, size), torch.nan), torch.full((size,), torch.nan)
    value, grad = parse_loss(name).value_and_grad(
        pred, target, mask=torch.zeros(2, size, dtype=torch.bool)
    )
    assert value.tolist() == [0, 0]
    assert not grad.any()


def test_terms_are_weighted_and_units_are_named():
    pred, target, mask = heads()
    loss = parse_loss("0.5*huber@standardized + 2*qamro")
    assert str(loss) == "0.5*huber@standardized+2*qamro@raw"
    settings = LossSettings(label_mean=3.0, label_std=2.0)
    value = loss(pred, target, mask=mask, settings=settings)
    for k, keep in enumerate(mask):
        huber = torch.nn.functional.huber_loss((pred[k, keep] - 3) / 2, (target[keep] - 3) / 2)
        expected = 0.5 * huber + 2 * qamro_loss(pred[k, keep], target[keep])
        torch.testing.assert_close(value[k], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_types_give_float32(dtype):
    pred, target, _ = heads()
    value, grad = parse_loss("huber+qamro").value_and_grad(pred.to(dtype), target)
    assert value.dtype == grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hubert", "'hubert'"),
        ("huber+", "''"),
        ("x*huber", "'x'"),
        ("-1*huber", "-1"),
        ("huber@meters", "'meters'"),
    ],
)
def test_bad_names_are_named(text, said):
    with pytest.raises(ValueError, match=said):
        parse_loss(text)
