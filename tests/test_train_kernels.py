"""The Triton kernels of training: by Triton's interpreter here, compiled for an H100, on a GPU."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_stack import collect, make_data, make_folds, varied_jobs

from qamro_cache.heads.architectures import HeadSettings
from qamro_cache.training.recipe import Job, Recipe

pytest.importorskip("triton")
from qamro_cache.training import kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by the test below, interpreted")
if INTERPRETED:
    # Triton 3.6's interpreter multiplies the bits of bfloat16 operands as if they were integers.
    import triton.language as tl
    from triton.runtime import interpreter

    class _Builder(interpreter.InterpreterBuilder):
        def create_dot(self, a, b, *rest):
            a, b = (self.cast_impl(x, tl.float32) if x.dtype.is_bf16() else x for x in (a, b))
            return super().create_dot(a, b, *rest)

    interpreter.interpreter_builder.__class__ = _Builder

F32, BF16 = torch.float32, torch.bfloat16
#: Relative to the norm of what is expected. The interpreter's TF32 is float32; it cuts bfloat16.
LIMITS = {F32: 1e-6, BF16: 2e-2}


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="is that run")
def test_the_kernels_when_interpreted():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted",
         __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
    assert "passed" in run.stdout


def near(ours, expected, dtype=F32):
    return (ours.double() - expected).norm() <= LIMITS[dtype] * expected.norm().clamp_min(1e-3)


def derivative(activation, y):
    return {"none": torch.ones_like(y), "relu": (y > 0).double(), "tanh": 1 - y * y}[activation]


shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 150), st.integers(1, 80), st.integers(1, 140)
)  # heads, rows, inputs, outputs: over and under every block


class Drawn:
    """Random factors of a product, and groups of heads."""

    def __init__(self, shape, dtype, shared, seed=0):
        self.shape = heads, rows, inner, width = shape
        g = torch.Generator().manual_seed(seed)
        self.group = torch.randint(2, (heads,), generator=g) if shared else None
        self.x = torch.randn(2 if shared else heads, rows, inner, generator=g).to(dtype)
        self.weight = torch.randn(heads, inner, width, generator=g)
        self.bias = torch.randn(heads, width, generator=g)
        self.dz = torch.randn(heads, rows, width, generator=g).to(dtype)
        self.generator = g

    @property
    def each(self):
        """Every head's own rows in float64."""
        x = self.x.double()
        return x if self.group is None else x[self.group]


@interpreted
@given(shapes, st.sampled_from([F32, BF16]), st.booleans(), st.sampled_from(kernels.ACTIVATIONS))
@settings(max_examples=8, deadline=None)
def test_products_interpreted(shape, dtype, shared, activation):
    heads, rows, inner, width = shape
    d = Drawn(shape, dtype, shared)
    out = torch.full((heads, rows, width), torch.nan, dtype=dtype)
    kernels.forward(d.x, d.group, d.weight, d.bias, out, activation)
    z = d.each @ d.weight.to(dtype).double() + d.bias.double().unsqueeze(1)
    expected = {"none": z, "relu": z.relu(), "tanh": z.tanh()}[activation]
    assert near(out, expected, dtype)
    kept = torch.randn(heads, rows, inner, generator=d.generator).to(dtype)
    back = torch.full_like(kept, torch.nan)
    kernels.backward(d.dz, d.weight, kept, back, activation)
    dh = d.dz.double() @ d.weight.to(dtype).double().transpose(1, 2)
    assert near(back, dh * derivative(activation, kept.double()), dtype)


def reference_step(adam, p, first, second, grad, rates):
    """The step in float64, as optimiser.py has it."""
    r = [rates.double()[:, k].reshape(-1, *[1] * (p.ndim - 1)) for k in range(4)]
    p, first, second = p.double(), first.double(), second.double()
    if adam:
        first = first + 0.1 * r[0] * (grad - first)
        second = second + 0.001 * r[0] * (grad * grad - second)
        return p * r[1] - first * r[2] / (second.sqrt() * r[3] + 1e-8), first, second
    first = r[0] * first + grad + r[1] * p
    return p - r[2] * first, first, second


def make_layer(d, adam):
    weight, bias = d.weight.clone(), d.bias.clone()
    first, second = (
        tuple(torch.rand(p.shape, generator=d.generator) for p in (weight, bias)) for _ in range(2)
    )
    return kernels.Layer(weight, bias, first, second if adam else None), second


def check_step(layer, unused, adam, before, grads, rates, dtype):
    for k, (p, grad) in enumerate(zip((layer.weight, layer.bias), grads, strict=True)):
        got = p, layer.first[k], unused[k]
        for ours, expected in zip(got, reference_step(adam, *before[k], grad, rates), strict=True):
            assert near(ours, expected, dtype)


def copies(layer, second):
    return [
        (p.clone(), layer.first[k].clone(), second[k].clone())
        for k, p in enumerate((layer.weight, layer.bias))
    ]


@interpreted
@given(shapes, st.sampled_from([F32, BF16]), st.booleans(), st.booleans())
@settings(max_examples=8, deadline=None)
def test_steps_interpreted(shape, dtype, shared, adam):
    d = Drawn(shape, dtype, shared)
    rates = torch.rand(shape[0], 4, generator=d.generator)
    layer, second = make_layer(d, adam)
    before = copies(layer, second)
    kernels.update(d.x, d.group, d.dz, layer, rates)
    grads = d.each.transpose(1, 2) @ d.dz.double(), d.dz.double().sum(1)
    check_step(layer, second, adam, before, grads, rates, F32)


@interpreted
@given(shapes, st.sampled_from([F32, BF16]), st.booleans(), st.sampled_from(kernels.ACTIVATIONS))
@settings(max_examples=8, deadline=None)
def test_output_layer_interpreted(shape, dtype, adam, activation):
    heads, rows, inner, _ = shape
    d = Drawn((heads, rows, inner, 1), dtype, shared=False)
    rates = torch.rand(heads, 4, generator=d.generator)
    scores = torch.full((heads, rows), torch.nan)
    kernels.score(d.x, d.weight, d.bias, scores)
    assert near(scores, (d.each @ d.weight.double()).squeeze(2) + d.bias.double())
    layer, second = make_layer(d, adam)
    before = copies(layer, second)
    grad, dz = torch.randn(heads, rows, generator=d.generator), torch.empty_like(d.x)
    kernels.score_update(d.x, grad, dz, layer, rates, activation)
    g = grad.double().unsqueeze(2)
    check_step(layer, second, adam, before, (d.each.transpose(1, 2) @ g, g.sum(1)), rates, F32)
    expected = g * d.weight.double().transpose(1, 2) * derivative(activation, d.x.double())
    assert near(dz, expected, dtype)


RECIPES = {
    "sgd": Recipe(head=HeadSettings(widths=(9, 5)), batch_size=3),
    "adamw, own": Recipe(
        head=HeadSettings(widths=(9, 6, 5), activation="tanh", output="bounded"),
        batch_size=13, optimiser="adamw", batches="own",
    ),
}  # fmt: skip


def short_jobs(name):
    """Unequal in everything; two leave the stack early; in some tiny batches a head rests."""
    return [
        dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, epochs=epochs))
        for job, epochs in zip(varied_jobs(RECIPES[name], 3), (2, 1, 1), strict=True)
    ]


@interpreted
@pytest.mark.parametrize("name", RECIPES)
def test_a_stack_interpreted(name):
    """Equals the torch path to 1e-5 of the labels' deviation, alone or with neighbours."""
    features, labels = make_data()
    jobs = short_jobs(name)
    options = {"dtype": F32, "chunk": len(jobs)}
    ours = collect(features, labels, make_folds(), jobs, precision="tf32", **options)
    theirs = collect(features, labels, make_folds(), jobs, **options)
    for job, a, b in zip(jobs, ours, theirs, strict=True):
        assert (a["best_epoch"], a["epochs"]) == (b["best_epoch"], b["epochs"])
        deviation = labels.targets[job.target].nan_to_num(50).std()
        assert (a["predictions"] - b["predictions"]).abs().max() < 1e-5 * deviation
    alone = collect(features, labels, make_folds(), jobs[:1], precision="tf32", dtype=F32)[0]
    for key, p in alone["params"].items():
        assert torch.allclose(p, ours[0]["params"][key], rtol=1e-5, atol=1e-6)


@interpreted
def test_bfloat16_interpreted():
    """Near the float32 path: to 3 % of the labels' deviation after an epoch."""
    features, labels = make_data()
    recipe = dataclasses.replace(RECIPES["sgd"], epochs=1, lr=3e-3, batch_size=16)
    jobs = [Job(recipe, 0, 0)]
    ours = collect(features, labels, make_folds(), jobs, precision="bf16", dtype=F32)
    theirs = collect(features, labels, make_folds(), jobs, dtype=F32)
    for a, b in zip(ours, theirs, strict=True):
        difference = (a["predictions"] - b["predictions"]).abs().max()
        assert 0 < difference < 3e-2 * labels.targets[0].std()
