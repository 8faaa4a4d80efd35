"""What a GPU wants, tried on the CPU: WavLM's position bias, and networks to test it with."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from clap_reference import sound
from random_networks import make_audiobox, make_clap
from torch.utils._python_dispatch import TorchDispatchMode

from qamro_cache.encoders.wavlm import (
    ALIGNED,
    CHANNELS,
    HEADS,
    WIDTH,
    Attention,
    WavLM,
    convolve_normalized,
)

T = 99


@pytest.fixture
def case():
    """A layer's attention, x, distances and padding with columns beyond T, two of ours masked."""
    torch.manual_seed(0)
    attention = Attention(first=False)
    attention.grep_a.data.normal_(1, 0.5)
    padding = torch.zeros(2, 1, 1, T + -T % ALIGNED)
    padding[1, ..., T - 2 : T] = -math.inf
    distances = torch.randn(HEADS, T, padding.shape[-1])
    return attention.requires_grad_(False), torch.randn(2, T, WIDTH), distances, padding


def test_the_bias_is_that_of_the_equation(case):
    """Gated by query and head (WavLM, section 3.1), in float64 and without anything fused."""
    attention, x, distances, padding = case
    got = attention(x, distances, padding)
    attention, x = attention.double(), x.double()
    heads = x.view(2, T, HEADS, -1).transpose(1, 2)
    gates = attention.grep_linear(heads).unflatten(-1, (2, 4)).sum(-1).sigmoid()
    update, reset = gates[..., :1], gates[..., 1:]
    bias = distances[..., :T] * (2 + update * (reset * attention.grep_a - 1)) + padding[..., :T]
    q, k, v = (
        layer(x).view(2, T, HEADS, -1).transpose(1, 2)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    shares = (q @ k.mT / math.sqrt(WIDTH // HEADS) + bias).softmax(-1)
    expected = attention.out_proj((shares @ v).transpose(1, 2).reshape(2, T, WIDTH))
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["noise", "smooth", "offset", "silence", "half"])
def test_the_first_convolution_is_normalized_without_being_read(kind):
    """Against a convolution and a group norm in float64; a channel can be far below its input."""
    torch.manual_seed(0)
    windows, weight = 0.1 * torch.randn(2, 16_000), 0.3 * torch.randn(CHANNELS, 10)
    if kind == "smooth":
        windows = torch.sin(0.01 * windows.cumsum(1))
        weight[0] = torch.tensor([30, -30, *[0.0] * 8])  # differences of neighbors
    elif kind == "offset":
        windows = 0.01 * windows + 0.5
    elif kind == "silence":
        windows = torch.zeros_like(windows)
    elif kind == "half":
        windows[:, 8_000:] = 0
    norm = torch.nn.GroupNorm(CHANNELS, CHANNELS).requires_grad_(False)
    norm.weight.normal_()
    norm.bias.normal_()
    got = convolve_normalized(windows, weight, norm)
    expected = norm.double()(
        F.conv1d(windows.double()[:, None], weight.double()[:, None], stride=5)
    )
    torch.testing.assert_close(got.double(), expected, atol=5e-4, rtol=1e-4)


def test_what_is_beyond_the_last_frame_is_not_read(case):
    attention, x, distances, padding = case
    expected = attention(x, distances[..., :T].contiguous(), padding[..., :T].contiguous())
    distances[..., T:] = padding[..., T:] = torch.nan
    torch.testing.assert_close(attention(x, distances, padding), expected, atol=1e-6, rtol=1e-6)


class Made(TorchDispatchMode):
    """Keeps the type and size of every tensor that is made."""

    def __init__(self):
        super().__init__()
        self.tensors = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.tensors += [(t.dtype, t.numel()) for t in _tensors(result)]
        return result


def _tensors(result):
    return [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_no_bias_is_in_float32_where_the_network_is_not(case, monkeypatch, half):
    masks = []
    real = F.scaled_dot_product_attention

    def seen(*args, attn_mask):
        masks.append(attn_mask)
        return real(*args, attn_mask=attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", seen)
    attention, x, distances, padding = case
    with torch.inference_mode(), torch.autocast("cpu", half), Made() as made:
        attention(x, distances, padding)
    (mask,) = masks
    assert mask.dtype == half
    assert mask.shape == (2, HEADS, T, T)
    assert mask.stride(-1) == 1
    assert all(stride % ALIGNED == 0 for stride in mask.stride()[:-1])
    large = {dtype for dtype, numbers in made.tensors if numbers >= mask.numel()}
    assert large == {half}


def test_the_table_of_distances_has_aligned_rows():
    network = WavLM()
    network.encoder.layers[0].self_attn.relative_attention_bias.weight.data.normal_()
    network.fold(16_000)
    assert network.distances.shape == (HEADS, 49, 56)
    assert network.distances.is_contiguous()
    assert not network.distances[..., 49:].any()


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_clap, make_audiobox])
def test_the_networks_that_a_gpu_is_tried_with(tmp_path, make):
    """They encode, tell sounds apart, and keep to float32 what they would lose in half of it."""
    if make is make_clap:
        pytest.importorskip("transformers")
    encoder = make(tmp_path)
    size = encoder.spec.audio.window
    windows = torch.stack([torch.from_numpy(sound(seed, size)) for seed in range(2)])
    found = []
    for precision in ("float32", "float16"):
        encoder.spec = replace(encoder.spec, precision=precision)
        found.append(encoder.encode(windows, torch.tensor([size, size // 2])))
    for feature, value in found[0].items():
        distance = (value[0] - value[1]).norm()
        assert distance > 0.03 * value[0].norm()
        assert 0 < (found[1][feature] - value).flatten(1).norm(dim=1).max() < 0.01 * distance
