"""Heads, many at once: parameters are stacked as [heads, in, out] and never mix heads.

A head sees rows: one row a clip where pooling comes first (``mean``, ``max``), else one row a
window. `prepare_rows` makes them, once, because nothing in it is learned; `score_rows` is the
learned part; `forward` is both, for whoever only wants scores.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qamro_cache.features.pooling import (
    attend,
    beside_prompt,
    clip_of_window,
    max_rows,
    mean_rows,
    sum_scores,
    take_clips,
    window_shares,
)
from qamro_cache.heads.architecture import KEEP_CLIPS
from qamro_cache.heads.architecture import Architecture as Architecture
from qamro_cache.heads.outputs import activate, attention_logits, between, means, mixed
from qamro_cache.heads.point_scores import point_scores

Params = Mapping[str, Tensor]


class Windows(NamedTuple):
    """Whose windows the rows are: [R] int64 clips, [R] weights, and the number of clips."""

    clip: Tensor
    weights: Tensor
    num_clips: int


class Rows(NamedTuple):
    """What heads see.

    Attributes:
        values: [R, D], or [R, L, D] for heads that mix layers.
        windows: of the rows; None where row c is clip c.
    """

    values: Tensor
    windows: Windows | None = None


def take_rows(rows: Rows, offsets: Tensor | None, clips: Tensor, size: int | None = None) -> Rows:
    """Return the rows of ``clips`` [B]; ``offsets`` and ``size`` as for `take_clips`.

    Rows that are left over have no weight. ``offsets`` is None where a row is a clip.
    """
    if rows.windows is None or offsets is None:
        return Rows(rows.values.index_select(0, clips))
    index, clip, _ = take_clips(offsets, clips, size)
    weights = torch.where(clip < len(clips), rows.windows.weights[index], 0)
    return Rows(rows.values.index_select(0, index), Windows(clip, weights, len(clips) + 1))


def input_width(architecture: Architecture, audio: Sequence[int], text: int = 0) -> tuple[int, ...]:
    """Shape of one row, from one window's feature shape and the width of a prompt's embedding."""
    if architecture.mixes:
        if len(audio) != 2:
            raise ValueError(f"a head that mixes layers takes [L, D], got {list(audio)}")
        return tuple(audio)
    width = math.prod(audio)
    if architecture.inputs == "concat":
        return (width + text,)
    if architecture.inputs == "products":
        if text != width:
            raise ValueError(f"products take equal widths, got audio {width} and text {text}")
        return (4 * width,)
    return (width,)


def prepare_rows(
    architecture: Architecture,
    windows: Tensor,
    offsets: Tensor,
    weights: Tensor,
    text: Tensor | None = None,
) -> Rows:
    """Pool and join what needs no learning.

    Args:
        architecture: the head's.
        windows: [W, ...] features.
        offsets: [C+1] int64; every clip has a window.
        weights: [W], the fraction of each window that is audio.
        text: [C, T] each clip's prompt embedding, where ``inputs`` is not ``audio``.
    """
    num_clips = len(offsets) - 1
    clip = clip_of_window(offsets)
    values = windows if architecture.mixes else windows.flatten(1)
    if architecture.pooling == "mean":
        values = mean_rows(values, clip, weights, num_clips)
    elif architecture.pooling == "max":
        values = max_rows(values, clip, num_clips)
    if architecture.takes_prompts:
        if text is None:
            raise ValueError(f"inputs={architecture.inputs!r} needs the prompts' embeddings")
        prompt = text.to(values.dtype)
        if not architecture.rows_are_clips:
            prompt = prompt[clip]
        values = beside_prompt(architecture.inputs, values, prompt)
    if architecture.rows_are_clips:
        return Rows(values)
    return Rows(values, Windows(clip, weights.to(values.dtype), num_clips))


def fold_standardization(params: Params, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """Return parameters that take raw rows where ``params`` take (row - mean) / std.

    Args:
        params: of stacked mlp or linear heads.
        mean: [D] or [heads, D].
        std: [D] or [heads, D], not zero.
    """
    first = "0" if "0.weight" in params else "output"
    weight = params[f"{first}.weight"]
    mean, std = mean.expand(len(weight), -1), std.expand(len(weight), -1)
    folded = dict(params)
    folded[f"{first}.weight"] = raw = weight / std.unsqueeze(-1)
    folded[f"{first}.bias"] = params[f"{first}.bias"] - (mean.unsqueeze(-1) * raw).sum(1)
    if "attention" in params:
        # The constant mean . attention / std is the same for all windows of a clip.
        folded["attention"] = params["attention"] / std
    return folded


class Layers:
    """How `score_rows` computes a layer; networks in training keep what their gradients need."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def product(self, k: int, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Layer k of hidden [heads, R, in], weight [heads, in, out] and bias [heads, 1, out]."""
        return torch.baddbmm(bias, hidden, weight)

    def activation(self, k: int, z: Tensor) -> Tensor:
        """What layer k + 1 sees, from the result of layer k's product."""
        return activate(self.architecture.activation, z)


def score_rows(
    architecture: Architecture,
    params: Params,
    rows: Rows,
    *,
    bounds: Tensor | None = None,
    dropout: Callable[[int, Tensor], Tensor] | None = None,
    layers: Layers | None = None,
) -> Tensor:
    """Return scores [heads, C] in the units of the standardized labels; differentiable.

    Of ``gaussian`` heads [heads, C, 2]: these, and what `losses.gaussian.deviation` takes.

    Args:
        architecture: the heads'.
        params: stacked, as `parameters.init_params` makes them.
        rows: as `prepare_rows` makes them.
        bounds: [heads, 2] label range in standardized units, for the bounded output.
        dropout: in training: (layer, its output [heads, R or C, width]) -> a factor for it.
        layers: in training: what computes products and activations in place of plain torch.
    """
    layers = layers or Layers(architecture)
    heads, (values, windows) = params["output.weight"].shape[0], rows
    hidden = values.expand(heads, *values.shape)
    if architecture.mixes:
        hidden = mixed(params["layers"], values, unit=architecture.kind == "audiobox")
    for k in range(len(architecture.widths) + 1):
        name = "output" if k == len(architecture.widths) else str(k)
        weight, bias = params[f"{name}.weight"], params[f"{name}.bias"].unsqueeze(1)
        if architecture.pooling == "attention" and windows is not None:
            # Pooling commutes with the first product, which makes it narrow.
            logits = attention_logits(params["attention"], values, hidden)
            hidden, windows = attend(torch.bmm(hidden, weight), logits, *windows) + bias, None
        else:
            hidden = layers.product(k, hidden, weight, bias)
        if name == "output":
            break
        if architecture.layer_norm:
            gain, shift = (params[f"{k}.norm.{part}"].unsqueeze(1) for part in ("weight", "bias"))
            hidden = F.layer_norm(hidden, hidden.shape[-1:]) * gain + shift
        hidden = layers.activation(k, hidden)
        if dropout is not None:
            hidden = hidden * dropout(k, hidden)
    scores = hidden if architecture.output == "gaussian" else hidden.squeeze(-1)
    if architecture.output == "bounded":
        if bounds is None:
            raise ValueError("a bounded head needs bounds=[heads, 2]")
        scores = between(bounds, torch.sigmoid(scores))
    if windows is not None:
        scores = sum_scores(scores, windows.clip, window_shares(*windows), windows.num_clips)
    return scores


def forward(
    architecture: Architecture,
    params: Params,
    windows: Tensor,
    offsets: Tensor,
    weights: Tensor,
    *,
    text: Tensor | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    bounds: Tensor | None = None,
) -> Tensor:
    """Score clips from their windows: [heads, C], in units of the standardized labels.

    Args:
        architecture: the heads'.
        params: stacked, of heads trained on rows (row - mean) / std.
        windows: [W, ...] features as the cache has them.
        offsets: [C+1] int64.
        weights: [W].
        text: [C, T] prompt embeddings, where the head takes them.
        mean: [D] or [heads, D] of rows, [L, D] of mixed layers; None for an audiobox head.
        std: as ``mean``.
        bounds: [heads, 2], for the bounded output.
    """
    rows = prepare_rows(architecture, windows, offsets, weights, text)
    if mean is not None and std is not None:
        if architecture.mixes or architecture.kind in KEEP_CLIPS:
            rows = rows._replace(values=(rows.values - mean) / std)
        else:
            params = fold_standardization(params, mean, std)
    if architecture.kind in KEEP_CLIPS:
        return point_scores(architecture.kind, params, rows.values)
    return means(score_rows(architecture, params, rows, bounds=bounds))
