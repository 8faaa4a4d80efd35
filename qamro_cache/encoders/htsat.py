"""HTS-AT, CLAP's audio network, for inference: fewer steps than upstream, the same numbers.

Chen et al. 2022 (arXiv 2202.00874); a Swin transformer (arXiv 2103.14030) over a log-mel picture.
Parameter names are those of the published checkpoints, so that one loads strictly. Against
laion_clap's module: the spectrum is an FFT and not a convolution with a DFT matrix, attention is
one fused call with the position bias and the shift mask worked out once, and the classifier
branch that an embedding never uses is not computed.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

FRAME = 1_024
HOP = 480
BANDS = 64
POWER_FLOOR = 1e-10  # -100 dB
PICTURE = 256  # the spectrogram is folded into a square of so many pixels
FOLDS = PICTURE // BANDS
FRAMES = PICTURE * FOLDS  # time is stretched from 1,001 to 1,024 frames
PATCH = 4
SIDE = 8  # tokens a side of an attention window


@dataclass(frozen=True)
class HtsatSize:
    """A published size: width of the first stage, blocks and attention heads of each stage."""

    name: str
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...] = (4, 8, 16, 32)

    @property
    def features(self) -> int:
        """Width of the embedding, which is that of the last stage."""
        return int(self.width * 2 ** (len(self.depths) - 1))


SIZES = (
    HtsatSize("HTSAT-tiny", 96, (2, 2, 6, 2)),
    HtsatSize("HTSAT-base", 128, (2, 2, 12, 2)),
    HtsatSize("HTSAT-large", 256, (2, 2, 12, 2)),
)


class LogMel(nn.Module):
    """Log-mel spectrogram in dB, always in float32; the filters come from the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.melW = nn.Parameter(torch.zeros(FRAME // 2 + 1, BANDS), requires_grad=False)
        self.register_buffer("taper", torch.hann_window(FRAME), persistent=False)
        self.taper: Tensor

    def forward(self, windows: Tensor) -> Tensor:
        """Waveforms [B, T] -> [B, T // 480 + 1, 64] in dB, floored at -100."""
        with torch.autocast(windows.device.type, enabled=False):
            spectrum = torch.stft(
                windows.float(), FRAME, HOP, window=self.taper, pad_mode="reflect",
                return_complex=True,
            )  # fmt: skip
            power = spectrum.real.square() + spectrum.imag.square()  # [B, bins, T]
            return 10 * torch.log10((power.mT @ self.melW).clamp(min=POWER_FLOOR))


class PatchEmbedding(nn.Module):
    """Non-overlapping patches of the picture become tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, picture: Tensor) -> Tensor:
        """[B, 1, 256, 256] -> [B, 64, 64, width]."""
        tokens: Tensor = self.norm(self.proj(picture).permute(0, 2, 3, 1))
        return tokens


class WindowAttention(nn.Module):
    """Self-attention inside squares of 8 x 8 tokens, with a learned bias by relative position.

    Args:
        width: channels.
        heads: attention heads.
        grid: tokens a side of the picture at this stage.
        shift: tokens by which the squares are moved.
    """

    def __init__(self, width: int, heads: int, grid: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift, self.squares = heads, shift, grid // SIDE
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * SIDE - 1) ** 2, heads))
        self.register_buffer("bias", torch.zeros(0), persistent=False)
        self.bias: Tensor
        self.register_buffer("position", relative_positions(), persistent=False)
        self.position: Tensor
        self.register_buffer("mask", shift_mask(grid, shift) if shift else None, persistent=False)
        self.mask: Tensor | None

    def fold(self) -> None:
        """Work out the additive bias [squares ** 2 * heads, 64, 64] from the loaded table."""
        tokens = SIDE * SIDE
        bias = self.relative_position_bias_table.detach()[self.position.flatten()]
        bias = bias.view(1, tokens, tokens, self.heads).permute(0, 3, 1, 2)
        bias = bias.expand(self.squares**2, -1, -1, -1)
        if self.mask is not None:
            bias = bias + self.mask[:, None]
        self.bias = bias.reshape(-1, tokens, tokens).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """[B, grid, grid, width] -> the same shape."""
        B, grid, _, width = x.shape
        n, head = self.squares, width // self.heads
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        qkv = self.qkv(x).view(B, n, SIDE, n, SIDE, 3, self.heads, head)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, B, -1, SIDE * SIDE, head)
        # Squares and heads share one dimension, over which the bias differs.
        attended = F.scaled_dot_product_attention(
            qkv[0], qkv[1], qkv[2], attn_mask=self.bias.to(qkv.dtype)[None]
        )
        attended = attended.view(B, n, n, self.heads, SIDE, SIDE, head)
        attended = attended.permute(0, 1, 4, 2, 5, 3, 6).reshape(B, grid, grid, width)
        out: Tensor = self.proj(attended)
        return out.roll((self.shift, self.shift), (1, 2)) if self.shift else out


def attention_kernels(device: torch.device) -> AbstractContextManager[Any]:
    """Let a GPU take the kernel that is fastest at squares of 64 tokens.

    PyTorch would take cuDNN's, which takes 1.8 times as long (H100, float16;
    benchmarks/results/attention-cuda.json).
    """
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def relative_positions() -> Tensor:
    """Return the table row of each pair of tokens in a square, [64, 64] int64."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    y, x = y.flatten(), x.flatten()
    row, column = y[:, None] - y + SIDE - 1, x[:, None] - x + SIDE - 1
    return row * (2 * SIDE - 1) + column


def shift_mask(grid: int, shift: int) -> Tensor:
    """Return [squares ** 2, 64, 64]: -100 between tokens that the shift brought together."""
    edge = torch.arange(grid)
    region = (edge >= grid - SIDE).long() + (edge >= grid - shift).long()
    region = region[:, None] * 3 + region
    n = grid // SIDE
    region = region.view(n, SIDE, n, SIDE).permute(0, 2, 1, 3).reshape(n * n, SIDE * SIDE)
    return torch.where(region[:, :, None] != region[:, None], -100.0, 0.0)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention in squares, then an MLP, each on the normalized input and added to it."""

    def __init__(self, width: int, heads: int, grid: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, grid, shift)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, grid, grid, width] -> the same shape."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Merging(nn.Module):
    """Four neighboring tokens become one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, grid, grid, width] -> [B, grid / 2, grid / 2, 2 * width]."""
        B, grid, _, width = x.shape
        x = x.view(B, grid // 2, 2, grid // 2, 2, width).permute(0, 1, 3, 4, 2, 5)
        out: Tensor = self.reduction(self.norm(x.reshape(B, grid // 2, grid // 2, 4 * width)))
        return out


class Stage(nn.Module):
    """Blocks of one width, every second one shifted by half a square, then a merging."""

    def __init__(self, width: int, heads: int, grid: int, depth: int, last: bool) -> None:
        super().__init__()
        shift = SIDE // 2 if grid > SIDE else 0
        self.blocks = nn.ModuleList(
            Block(width, heads, grid, shift * (index % 2)) for index in range(depth)
        )
        self.downsample = None if last else Merging(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, grid, grid, width] -> [B, grid / 2, grid / 2, 2 * width], or unchanged shape."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Htsat(nn.Module):
    """Waveforms to embeddings; call ``fold`` after loading weights."""

    def __init__(self, size: HtsatSize) -> None:
        super().__init__()
        self.logmel_extractor = LogMel()
        self.bn0 = nn.BatchNorm2d(BANDS)
        self.patch_embed = PatchEmbedding(size.width)
        grid = PICTURE // PATCH
        self.layers = nn.ModuleList(
            Stage(size.width << i, heads, grid >> i, depth, i == len(size.depths) - 1)
            for i, (depth, heads) in enumerate(zip(size.depths, size.heads, strict=True))
        )
        self.norm = nn.LayerNorm(size.features)

    def fold(self) -> None:
        """Work out every attention bias from the loaded tables."""
        for module in self.modules():
            if isinstance(module, WindowAttention):
                module.fold()

    def picture(self, decibels: Tensor) -> Tensor:
        """Log-mel [B, T, 64] -> normalized and folded picture [B, 1, 256, 256], in float32.

        Time is stretched to 1,024 frames and cut in four, one strip under the other.
        """
        with torch.autocast(decibels.device.type, enabled=False):
            x = self.bn0(decibels.transpose(1, 2)[..., None]).squeeze(3)  # [B, 64, T]
            if x.shape[2] < FRAMES:
                x = F.interpolate(
                    x[:, None], (BANDS, FRAMES), mode="bicubic", align_corners=True
                ).squeeze(1)
            strips: Tensor = x.view(-1, BANDS, FOLDS, PICTURE).transpose(1, 2)
            return strips.reshape(-1, 1, PICTURE, PICTURE)

    def tokens(self, picture: Tensor) -> Tensor:
        """Picture [B, 1, 256, 256] -> embedding [B, features]: the tokens' mean, normalized."""
        x = self.patch_embed(picture)
        for stage in self.layers:
            x = stage(x)
        out: Tensor = self.norm(x).flatten(1, 2).mean(1)
        return out

    def forward(self, windows: Tensor) -> Tensor:
        """Waveforms [B, 480000] at 48 kHz -> embedding [B, features]."""
        return self.tokens(self.picture(self.logmel_extractor(windows)))


def dft_filters() -> tuple[Tensor, Tensor]:
    """Return the real and imaginary filters [513, 1, 1024] that checkpoints carry for a DFT.

    We take an FFT instead; a checkpoint whose filters are others would mean something else.
    """
    time = torch.arange(FRAME, dtype=torch.float64)
    angle = 2 * math.pi * torch.outer(torch.arange(FRAME // 2 + 1, dtype=torch.float64), time)
    angle = torch.remainder(angle / FRAME, 2 * math.pi)
    taper = torch.hann_window(FRAME, dtype=torch.float64)
    return (
        (torch.cos(angle) * taper)[:, None].float(),
        (-torch.sin(angle) * taper)[:, None].float(),
    )
