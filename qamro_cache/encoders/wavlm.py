"""WavLM-base for inference: every layer's mean over time.

Chen et al. 2022 (arXiv 2110.13900), as Audiobox-Aesthetics uses it; parameter names are those of
its checkpoints. Against the published module: the first convolution comes with its norm already in
its weights, the positional convolution goes by FFT, which GPUs otherwise run without their tensor
cores, the feature extractor's convolutions are two-dimensional ones with the channels last, for the
same reason, and the table of relative positions is looked up once. Its rows are so long that the
fused attention reads them as they are, and in half precision they are gated in it: a bias
[B, 12, 499, 499] a layer is most of what attention reads and writes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 768
LAYERS = 12
HEADS = 12
INNER = 3_072
BUCKETS = 320
MAX_DISTANCE = 800
CHANNELS = 512
CONVOLUTIONS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))  # kernel, stride
POSITION_KERNEL = 128
POSITION_GROUPS = 16
ALIGNED = 8  # attention's kernels want the rows of a bias this many numbers apart, or copy it all
PART = 1_000  # frames whose products are summed at once


class FeatureExtractor(nn.Module):
    """Seven convolutions, 400 samples to a frame, 320 apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList()
        for index, (kernel, stride) in enumerate(CONVOLUTIONS):
            layer = nn.Module()
            inputs = CHANNELS if index else 1
            layer.add_module("0", nn.Conv1d(inputs, CHANNELS, kernel, stride, bias=False))
            if index == 0:
                layer.add_module("2", nn.GroupNorm(CHANNELS, CHANNELS))
            self.conv_layers.append(layer)

    def forward(self, windows: Tensor) -> Tensor:
        """Waveforms [B, samples] -> [B, frames, 512]."""
        first, norm = self.conv_layers[0], self.conv_layers[0].get_submodule("2")
        assert isinstance(norm, nn.GroupNorm)
        x = F.gelu(convolve_normalized(windows, first.get_parameter("0.weight")[:, 0], norm))
        for layer, (_, stride) in zip(self.conv_layers[1:], CONVOLUTIONS[1:], strict=True):
            x = F.gelu(convolve(x, layer.get_parameter("0.weight"), stride))
        return x.transpose(1, 2)


def convolve_normalized(windows: Tensor, weight: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Return the first convolution [B, 512, T] of [B, samples], normalized by channel over time.

    A channel is weight . frame, so that its mean and variance over time follow from the frames':
    weight . mean and weight . covariance . weight. The result is never read to normalize it: with
    32,000 frames a window it is the largest that there is. In float64, for a channel that takes
    differences of neighbors is far smaller than they are.

    Args:
        windows: waveforms.
        weight: [512, 10].
        norm: with a group a channel.
    """
    kernel, stride = CONVOLUTIONS[0]
    with torch.autocast(windows.device.type, enabled=False):
        frames = windows.float().unfold(1, kernel, stride)  # [B, T, 10]
        mean = frames.mean(1, dtype=torch.float64, keepdim=True)
        apart = frames - mean
        # Parts of the time side by side: a long sum for each of a hundred products is slow.
        parts = F.pad(apart, (0, 0, 0, -frames.shape[1] % PART)).unflatten(1, (-1, PART))
        covariance = (parts.mT @ parts).sum(1) / frames.shape[1]  # [B, 10, 10]
        w = weight.double()
        variance = ((w @ covariance) * w).sum(2)  # [B, 512]
        scale = norm.weight * (variance + norm.eps).rsqrt()
        shift = norm.bias - scale * (mean @ w.T)[:, 0]
        # A column of ones takes the shift, and zeros fill up to what a GPU loads at once.
        maps = torch.cat([scale[:, :, None] * w, shift[:, :, None]], 2).float()
        maps = F.pad(maps, (0, ALIGNED * 2 - maps.shape[2]))  # [B, 512, 16]
        frames = F.pad(F.pad(frames, (0, 1), value=1.0), (0, ALIGNED * 2 - kernel - 1))
    if windows.is_cuda:  # with the channels last, as `convolve` wants them
        return (frames @ maps.mT).transpose(1, 2)
    return maps @ frames.mT


def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve [B, C, T] in the form that the device is fastest at."""
    if not x.is_cuda:
        return F.conv1d(x, weight, stride=stride)
    weight = weight[:, :, None].contiguous(memory_format=torch.channels_last)
    x = x[:, :, None].contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, stride=(1, stride)).squeeze(2)


class PositionConvolution(nn.Module):
    """A grouped convolution of 128 frames with weight normalization, by FFT in float32."""

    def __init__(self) -> None:
        super().__init__()
        shape = (WIDTH, WIDTH // POSITION_GROUPS, POSITION_KERNEL)
        self.weight_g = nn.Parameter(torch.ones(1, 1, POSITION_KERNEL))
        self.weight_v = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(WIDTH))
        self.register_buffer("spectrum", torch.zeros(0), persistent=False)
        self.spectrum: Tensor
        self.size = 0

    def fold(self, frames: int) -> None:
        """Transform the normalized weight for inputs of ``frames`` frames."""
        v = self.weight_v.detach()
        weight = self.weight_g.detach() * v / v.norm(dim=(0, 1), keepdim=True)
        self.size = fast_size(frames + POSITION_KERNEL - 1)
        # A convolution layer correlates, so that the kernel runs backwards.
        spectrum = torch.fft.rfft(weight.flip(2), self.size)  # [768, 48, F]
        spectrum = spectrum.view(POSITION_GROUPS, -1, WIDTH // POSITION_GROUPS, self.size // 2 + 1)
        self.spectrum = spectrum.permute(3, 0, 2, 1).contiguous()  # [F, groups, in, out]

    def forward(self, x: Tensor) -> Tensor:
        """[B, frames, 768] -> the same shape, float32."""
        B, frames, _ = x.shape
        with torch.autocast(x.device.type, enabled=False):
            f = torch.fft.rfft(x.float(), self.size, dim=1)  # [B, F, 768]
            f = f.view(B, -1, POSITION_GROUPS, WIDTH // POSITION_GROUPS).permute(1, 2, 0, 3)
            f = torch.matmul(f, self.spectrum).permute(2, 0, 1, 3).reshape(B, -1, WIDTH)
            start = POSITION_KERNEL - 1 - POSITION_KERNEL // 2
            y = torch.fft.irfft(f, self.size, dim=1)[:, start : start + frames]
            return F.gelu(y + self.bias)


def fast_size(size: int) -> int:
    """Return the least even number from ``size`` on with no prime factor over 5."""
    while size % 2 or _largest_factor(size) > 5:
        size += 1
    return size


def _largest_factor(n: int) -> int:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n if n > 1 else 1


class Attention(nn.Module):
    """Self-attention whose bias by distance is gated by the query (gated relative positions)."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.v_proj, self.out_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        if first:
            self.relative_attention_bias = nn.Embedding(BUCKETS, HEADS)
        self.grep_linear = nn.Linear(WIDTH // HEADS, 8)
        self.grep_a = nn.Parameter(torch.ones(1, HEADS, 1, 1))

    def forward(self, x: Tensor, distances: Tensor, padding: Tensor) -> Tensor:
        """Attend from and to every frame.

        Args:
            x: [B, T, 768].
            distances: bias [heads, T, T'], T' being T or more, so that rows are aligned.
            padding: [B, 1, 1, T'], 0 or -inf, added to the bias.

        Returns:
            [B, T, 768]; what is in columns from T on is not read.
        """
        B, T, _ = x.shape
        heads = x.view(B, T, HEADS, -1).transpose(1, 2)  # [B, heads, T, 64]
        gates = self.grep_linear(heads).view(B, HEADS, T, 2, 4).sum(-1).sigmoid()
        gate = gates[..., :1] * (gates[..., 1:] * self.grep_a - 1) + 2
        q, k, v = (
            projection(x).view(B, T, HEADS, -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = torch.addcmul(padding.to(q.dtype), gate.to(q.dtype), distances.to(q.dtype))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[..., :T])
        result: Tensor = self.out_proj(out.transpose(1, 2).reshape(B, T, WIDTH))
        return result


class Layer(nn.Module):
    """Attention and two linear layers, each added and then normalized."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.self_attn = Attention(first)
        self.self_attn_layer_norm = nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.final_layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, distances: Tensor, padding: Tensor) -> Tensor:
        """As ``Attention.forward``."""
        x = self.self_attn_layer_norm(x + self.self_attn(x, distances, padding))
        out: Tensor = self.final_layer_norm(x + self.fc2(F.gelu(self.fc1(x))))
        return out


class Encoder(nn.Module):
    """Positions and layers."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_conv = nn.ModuleList([PositionConvolution()])
        self.layers = nn.ModuleList(Layer(index == 0) for index in range(LAYERS))
        self.layer_norm = nn.LayerNorm(WIDTH)


class WavLM(nn.Module):
    """Waveforms to the mean over time of each layer; call ``fold`` after loading weights."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_emb = nn.Parameter(torch.zeros(WIDTH))  # for training; checkpoints carry it
        self.feature_extractor = FeatureExtractor()
        self.layer_norm = nn.LayerNorm(CHANNELS)
        self.post_extract_proj = nn.Linear(CHANNELS, WIDTH)
        self.encoder = Encoder()
        self.register_buffer("distances", torch.zeros(0), persistent=False)
        self.distances: Tensor

    def fold(self, samples: int) -> None:
        """Work out what depends on weights and window length alone."""
        frames = frames_of(samples)
        positions = self.encoder.pos_conv[0]
        assert isinstance(positions, PositionConvolution)
        positions.fold(frames)
        table = self.encoder.get_parameter("layers.0.self_attn.relative_attention_bias.weight")
        buckets = distance_buckets(frames).to(table.device)
        distances = table.detach()[buckets].permute(2, 0, 1)  # [heads, T, T]
        self.distances = F.pad(distances, (0, -frames % ALIGNED))

    def forward(self, windows: Tensor, valid: Tensor) -> Tensor:
        """Mean of each layer over the frames that are audio.

        Args:
            windows: [B, samples] at 16 kHz, of the length that ``fold`` was given.
            valid: [B] samples that are audio.

        Returns:
            [B, 13, 768] float32: the transformer's input, then its 12 layers.
        """
        features = self.feature_extractor(windows)
        x = self.post_extract_proj(self.layer_norm(features)).float()
        inside = valid_frames(valid, windows.shape[1], x.shape[1])  # [B, T]
        padding = torch.zeros(inside.shape, device=x.device).masked_fill(~inside, -math.inf)
        padding = F.pad(padding, (0, self.distances.shape[2] - x.shape[1]))[:, None, None]
        share = (inside / inside.sum(1, keepdim=True).clamp(min=1)).float()[:, None]  # [B, 1, T]
        x = x * inside[..., None]
        x = self.encoder.layer_norm(x + self.encoder.pos_conv[0](x))
        means = [mean_over_time(x, share)]
        for layer in self.encoder.layers:
            x = layer(x, self.distances, padding)
            means.append(mean_over_time(x, share))
        return torch.stack(means, 1)


def mean_over_time(x: Tensor, share: Tensor) -> Tensor:
    """[B, T, C] by shares [B, 1, T] -> [B, C], in float32."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.bmm(share, x.float()).squeeze(1)


def frames_of(samples: int) -> int:
    """Return the number of frames of ``samples`` samples."""
    for kernel, stride in CONVOLUTIONS:
        samples = (samples - kernel) // stride + 1
    return samples


def valid_frames(valid: Tensor, samples: int, frames: int) -> Tensor:
    """Return [B, T]: whether any sample of a frame's share of the window is audio.

    The shares are equal and the window's last ``samples % frames`` samples belong to none, as
    upstream has it; so a frame counts from its first sample of audio on.
    """
    share = (samples - samples % frames) // frames
    starts = torch.arange(frames, device=valid.device) * share
    return starts < valid[:, None]


def distance_buckets(frames: int) -> Tensor:
    """Return the bucket [T, T] of each distance: exact when near, logarithmic when far.

    T5's scheme (Raffel et al. 2020), half of the buckets for keys that come later.
    """
    distance = torch.arange(frames)[None, :] - torch.arange(frames)[:, None]
    half = BUCKETS // 2
    near = half // 2
    steps = torch.log(distance.abs().float() / near) / math.log(MAX_DISTANCE / near) * (half - near)
    far = (near + steps.clamp(min=0).long()).clamp(max=half - 1)
    return half * (distance > 0) + torch.where(distance.abs() < near, distance.abs(), far)
