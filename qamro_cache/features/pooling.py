"""From windows to clips: a clip's windows are rows [W, ...] with offsets [C+1] and weights [W]."""

from typing import NamedTuple

import torch
from torch import Tensor


class Taken(NamedTuple):
    """Some clips' windows [R], the clip of each among them [R], and their offsets [B+1]."""

    windows: Tensor
    clip: Tensor
    offsets: Tensor


def take_clips(offsets: Tensor, clips: Tensor, size: int | None = None) -> Taken:
    """Say where the windows of ``clips`` [B] are, in the clips' order.

    Args:
        offsets: [C+1] int64, the windows of all clips.
        clips: int64, any of them, in any order.
        size: windows to make room for, so that shapes do not depend on the clips and nothing
            waits for the device; what is left over is window 0, of a clip B that is none.
            None: as many as there are.
    """
    counts = offsets.diff().index_select(0, clips)
    through = counts.cumsum(0)
    taken = torch.cat([through.new_zeros(1), through])
    place = torch.arange(int(through[-1]) if size is None else size, device=clips.device)
    clip = torch.searchsorted(through, place, right=True)
    real = clip.clamp_max(len(clips) - 1)
    windows = offsets[clips[real]] + place - taken[real]
    return Taken(torch.where(clip < len(clips), windows, 0), clip, taken)


def clip_of_window(offsets: Tensor) -> Tensor:
    """Return [W] int64, the clip of each window; clip c has windows offsets[c]:offsets[c+1]."""
    clips = torch.arange(len(offsets) - 1, device=offsets.device)
    return clips.repeat_interleave(offsets.diff())


def window_shares(clip: Tensor, weights: Tensor, num_clips: int) -> Tensor:
    """Return the windows' weights divided by their clip's sum [W]; each clip's shares add to 1."""
    total = weights.new_zeros(num_clips).index_add_(0, clip, weights)
    return weights / total.clamp_min(torch.finfo(weights.dtype).tiny)[clip]


def mean_rows(rows: Tensor, clip: Tensor, weights: Tensor, num_clips: int) -> Tensor:
    """Weighted mean of each clip's windows: [W, ...] -> [C, ...]."""
    shares = window_shares(clip, weights.to(rows.dtype), num_clips)
    scaled = rows * shares.reshape(-1, *[1] * (rows.ndim - 1))
    return rows.new_zeros((num_clips, *rows.shape[1:])).index_add_(0, clip, scaled)


def max_rows(rows: Tensor, clip: Tensor, num_clips: int) -> Tensor:
    """Largest value of each feature over a clip's windows: [W, ...] -> [C, ...]."""
    index = clip.reshape(-1, *[1] * (rows.ndim - 1)).expand_as(rows)
    start = rows.new_full((num_clips, *rows.shape[1:]), -torch.inf)
    return start.scatter_reduce(0, index, rows, "amax")


def sum_scores(scores: Tensor, clip: Tensor, shares: Tensor, num_clips: int) -> Tensor:
    """Weighted sum of window values [H, W, ...] over each clip: [H, C, ...]."""
    scaled = scores * shares.reshape(*shares.shape, *[1] * (scores.ndim - 2))
    zeros = scores.new_zeros((scores.shape[0], num_clips, *scores.shape[2:]))
    return zeros.index_add(1, clip, scaled)


def attention_shares(logits: Tensor, clip: Tensor, weights: Tensor, num_clips: int) -> Tensor:
    """Softmax of logits [H, W] over each clip's windows, times their weights: shares [H, W].

    Equal logits give the weighted mean; a window of weight 0 (padding) gets no share.
    """
    index = clip.expand(logits.shape)
    lowest = logits.detach().new_full((logits.shape[0], num_clips), -torch.inf)
    highest = lowest.scatter_reduce(1, index, logits.detach(), "amax")
    powers = (logits - highest.gather(1, index)).exp() * weights
    total = powers.new_zeros((logits.shape[0], num_clips)).index_add(1, clip, powers)
    return powers / total.clamp_min(torch.finfo(logits.dtype).tiny).gather(1, index)
