"""Stacked heads against torch.nn modules, one head and one clip at a time."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from qamro_cache.features.pooling import max_rows, mean_rows, take_clips, window_shares
from qamro_cache.heads.network import Architecture, Rows, forward, input_width, score_rows
from qamro_cache.heads.parameters import init_params, parameter_shapes

SEEDS = [3, 11, 3, 7]
OFFSETS = torch.tensor([0, 2, 3, 7, 8])
CLIPS = [slice(a, b) for a, b in pairwise(OFFSETS.tolist())]


@pytest.fixture
def windows():
    g = torch.Generator().manual_seed(0)
    weights = torch.tensor([1.0, 0.25, 1, 1, 1, 0.5, 0.125, 1], dtype=torch.float64)
    return torch.randn(8, 6, generator=g, dtype=torch.float64), OFFSETS, weights


def params_of(settings, shape, seeds=SEEDS, dtype=torch.float64):
    params = init_params(settings, shape, seeds, dtype=dtype)
    if "attention" in params:
        g = torch.Generator().manual_seed(9)
        params["attention"] = torch.randn(params["attention"].shape, generator=g).to(dtype)
    return params


def module_of(settings, params, k):
    """The same head as an nn.Sequential, from its slice of the stack."""
    activations = {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
    layers = []
    for name in [*map(str, range(len(settings.widths))), "output"]:
        weight, bias = params[f"{name}.weight"][k], params[f"{name}.bias"][k]
        linear = nn.Linear(*weight.shape, dtype=weight.dtype)
        linear.weight.data, linear.bias.data = weight.T.contiguous(), bias.clone()
        layers.append(linear)
        if name == "output":
            break
        if settings.layer_norm:
            norm = nn.LayerNorm(weight.shape[1], dtype=weight.dtype)
            norm.weight.data = params[f"{name}.norm.weight"][k]
            norm.bias.data = params[f"{name}.norm.bias"][k]
            layers.append(norm)
        layers.append(activations[settings.activation]())
    return nn.Sequential(*layers)


@pytest.mark.parametrize("pooling", ["mean", "max", "attention", "scores"])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "tanh"])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("standardized", [False, True])
def test_stack_equals_a_module_per_head_and_clip(
    windows, pooling, activation, layer_norm, standardized
):
    values, offsets, weights = windows
    settings = Architecture(
        widths=(5, 3), activation=activation, layer_norm=layer_norm, pooling=pooling
    )
    params = params_of(settings, (6,))
    if layer_norm:
        params["0.norm.weight"] = params["0.norm.weight"] + torch.arange(5.0) / 10
        params["1.norm.bias"] = params["1.norm.bias"] - 0.3
    g = torch.Generator().manual_seed(4)
    mean = torch.randn(4, 6, generator=g, dtype=torch.float64) if standardized else None
    std = torch.rand(4, 6, generator=g, dtype=torch.float64) + 0.5 if standardized else None
    scores = forward(settings, params, values, offsets, weights, mean=mean, std=std)
    for k in range(len(SEEDS)):
        head = module_of(settings, params, k)
        for c, clip in enumerate(CLIPS):
            x, w = values[clip], weights[clip] / weights[clip].sum()
            if pooling == "mean":
                x = (x * w[:, None]).sum(0, keepdim=True)
            elif pooling == "max":
                x = x.max(0, keepdim=True).values
            if standardized:
                x = (x - mean[k]) / std[k]
            if pooling == "attention":
                share = weights[clip] * torch.exp(x @ params["attention"][k])
                x = (x * (share / share.sum())[:, None]).sum(0, keepdim=True)
            expected = head(x).squeeze(-1)
            expected = (expected * w).sum() if pooling == "scores" else expected.squeeze()
            assert scores[k, c].item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("pooling", ["mean", "scores"])
def test_two_inputs(windows, pooling):
    values, offsets, weights = windows
    text = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for inputs in ("concat", "products"):
        settings = Architecture(widths=(5,), pooling=pooling, inputs=inputs)
        params = params_of(settings, input_width(settings, (6,), 6))
        scores = forward(settings, params, values, offsets, weights, text=text)
        for k, (c, clip) in ((0, (0, CLIPS[0])), (3, (2, CLIPS[2]))):
            w = weights[clip] / weights[clip].sum()
            x = values[clip] if pooling == "scores" else (values[clip] * w[:, None]).sum(0)[None]
            t = text[c].expand_as(x)
            joined = [x, t] if inputs == "concat" else [x, t, x * t, (x - t).abs()]
            out = module_of(settings, params, k)(torch.cat(joined, 1)).squeeze(-1)
            expected = (out * w).sum() if pooling == "scores" else out.squeeze()
            assert scores[k, c].item() == pytest.approx(expected.item(), abs=1e-12)


def test_audiobox_head_is_the_published_equation():
    g = torch.Generator().manual_seed(2)
    layers = torch.randn(8, 3, 6, generator=g, dtype=torch.float64)
    weights = torch.rand(8, generator=g, dtype=torch.float64)
    settings = Architecture(
        kind="audiobox", widths=(6, 6), activation="gelu", layer_norm=True, pooling="scores"
    )
    params = params_of(settings, (3, 6))
    params["layers"] = torch.randn(4, 3, generator=g, dtype=torch.float64)
    scores = forward(settings, params, layers, OFFSETS, weights)
    for k in range(4):
        head = module_of(settings, params, k)
        embed = torch.einsum("bcl,l->bc", layers.movedim(1, -1), params["layers"][k].softmax(-1))
        out = head(torch.nn.functional.normalize(embed, dim=-1)).squeeze(-1)
        for c, clip in enumerate(CLIPS):
            expected = (out[clip] * weights[clip]).sum() / weights[clip].sum()
            assert scores[k, c].item() == pytest.approx(expected.item(), abs=1e-12)


def test_bounded_output_stays_in_its_range(windows):
    settings = Architecture(output="bounded")
    params = params_of(settings, (6,))
    params["output.bias"] += torch.tensor([[50.0], [-50], [0], [0]], dtype=torch.float64)
    bounds = torch.tensor([[-1.0, 2]] * 4, dtype=torch.float64)
    scores = forward(settings, params, *windows, bounds=bounds)
    assert torch.allclose(scores[0], torch.full((4,), 2.0, dtype=torch.float64))
    assert torch.allclose(scores[1], torch.full((4,), -1.0, dtype=torch.float64))
    assert ((scores >= -1) & (scores <= 2)).all()
    with pytest.raises(ValueError, match="bounds"):
        forward(settings, params, *windows)


def test_initialisation_does_not_depend_on_the_neighbors():
    settings = Architecture(widths=(7, 3), layer_norm=True)
    stack = init_params(settings, (6,), SEEDS)
    for k, seed in enumerate(SEEDS):
        alone = init_params(settings, (6,), [seed])
        assert all(torch.equal(stack[name][k], alone[name][0]) for name in stack)
    assert not torch.equal(stack["0.weight"][0], stack["0.weight"][1])
    # The same distribution as torch.nn.Linear: uniform within 1/sqrt(in).
    wide = init_params(Architecture(widths=(400,)), (100,), [0])["0.weight"]
    assert 0.0995 < wide.abs().max() <= 0.1
    assert wide.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert {n: t.shape[1:] for n, t in stack.items()} == parameter_shapes(settings, (6,))


def test_heads_of_a_cpu_leave_a_gpu_alone(monkeypatch):
    """It may be full, or of a process that this one was forked from."""

    def in_use():
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", in_use)
    assert init_params(Architecture(widths=(3,)), (6,), [0])["0.weight"].any()


def test_pooling_against_a_loop(windows):
    values, offsets, weights = windows
    clip = torch.arange(4).repeat_interleave(offsets.diff())
    shares = window_shares(clip, weights, 4)
    means, peaks = mean_rows(values, clip, weights, 4), max_rows(values, clip, 4)
    for c, rows in enumerate(CLIPS):
        w = weights[rows] / weights[rows].sum()
        assert torch.allclose(shares[rows], w)
        assert torch.allclose(means[c], (values[rows] * w[:, None]).sum(0))
        assert torch.equal(peaks[c], values[rows].max(0).values)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.data(), st.integers(0, 3))
def test_windows_of_some_clips_against_a_loop(counts, data, spare):
    """In any order, more than once, and with room to spare."""
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, max_size=9))
    offsets = torch.tensor([0, *counts]).cumsum(0)
    expected = [
        (int(offsets[clip]) + k, place)
        for place, clip in enumerate(chosen)
        for k in range(counts[clip])
    ]
    taken = take_clips(offsets, torch.tensor(chosen))
    assert list(zip(taken.windows.tolist(), taken.clip.tolist(), strict=True)) == expected
    assert taken.offsets.diff().tolist() == [counts[clip] for clip in chosen]
    roomy = take_clips(offsets, torch.tensor(chosen), len(expected) + spare)
    padded = expected + [(0, len(chosen))] * spare
    assert list(zip(roomy.windows.tolist(), roomy.clip.tolist(), strict=True)) == padded
    assert torch.equal(roomy.offsets, taken.offsets)


def test_a_broken_head_leaves_its_neighbors_alone(windows):
    settings = Architecture(pooling="attention")
    params = params_of(settings, (6,))
    clean = forward(settings, params, *windows)
    for name in params:
        params[name][1] = float("nan")
    scores = forward(settings, params, *windows)
    assert scores[1].isnan().all()
    keep = [0, 2, 3]
    assert torch.equal(scores[keep], clean[keep])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"kind": "cnn"}, "head must be one of"),
        ({"activation": "swish"}, "activation"),
        ({"widths": (0,)}, "widths"),
        ({"kind": "linear"}, "linear"),
        ({"pooling": "median"}, "pooling"),
        ({"kind": "audiobox", "inputs": "concat"}, "audiobox"),
    ],
)
def test_settings_that_make_no_head(change, name):
    with pytest.raises(ValueError, match=name):
        Architecture(**change)


def test_gradient_of_every_pooling(windows):
    values, offsets, weights = windows
    for pooling in ("attention", "scores"):
        settings = Architecture(widths=(3,), activation="tanh", layer_norm=True, pooling=pooling)
        params = params_of(settings, (6,), seeds=[1, 2])
        names = list(params)
        from qamro_cache.heads.network import prepare_rows

        rows = prepare_rows(settings, values, offsets, weights)
        assert isinstance(rows, Rows)
        leaves = [params[name].requires_grad_() for name in names]
        assert torch.autograd.gradcheck(
            lambda *p, n=names, s=settings, r=rows: score_rows(s, dict(zip(n, p, strict=True)), r),
            leaves,
        )


class Seen(TorchDispatchMode):
    """The names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("pooling", ["mean", "attention", "scores"])
def test_a_gpu_adds_windows_in_their_order(windows, monkeypatch, pooling):
    """The form for a GPU, on the CPU: the same numbers, and no sum whose order is chance's."""
    settings = Architecture(widths=(3,), pooling=pooling)
    found, seen = [], []
    for gpu in (False, True):
        monkeypatch.setattr(torch.Tensor, "is_cuda", gpu)
        params = params_of(settings, (6,))
        leaves = [tensor.requires_grad_() for tensor in params.values()]
        with Seen() as operations:
            scores = forward(settings, params, *windows)
            grads = torch.autograd.grad(scores.square().sum(), leaves)
        found.append([scores, *grads])
        seen.append({n for n in operations.names if "index_add" in n or "scatter_add" in n})
    assert seen == [{"index_add_"}, set()]
    for plain, ordered in zip(*found, strict=True):
        torch.testing.assert_close(ordered, plain, atol=0, rtol=0)
