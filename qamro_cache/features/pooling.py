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


def sum_windows(values: Tensor, clip: Tensor, num_clips: int, dim: int = 0) -> Tensor:
    """Sum each clip's windows along ``dim``, which becomes as long as there are clips.

    Always in the windows' order: a GPU's index_add takes whichever comes first, and rounds
    otherwise each time.

    Args:
        values: [..., W, ...].
        clip: [W] int64, ascending.
        num_clips: of them.
        dim: of the windows.
    """
    if not values.is_cuda:
        shape = (*values.shape[:dim], num_clips, *values.shape[dim + 1 :])
        return values.new_zeros(shape).index_add_(dim, clip, values)
    offsets = torch.searchsorted(clip, torch.arange(num_clips + 1, device=clip.device))
    rows = values.movedim(dim, 0).contiguous()
    # The check of the offsets, which are right, would wait for the device.
    return torch.segment_reduce(rows, "sum", offsets=offsets, initial=0, unsafe=True).movedim(
        0, dim
    )


def window_shares(clip: Tensor, weights: Tensor, num_clips: int) -> Tensor:
    """Return the windows' weights divided by their clip's sum [W]; each clip's shares add to 1."""
    total = sum_windows(weights, clip, num_clips)
    return weights / total.clamp_min(torch.finfo(weights.dtype).tiny)[clip]


def mean_rows(rows: Tensor, clip: Tensor, weights: Tensor, num_clips: int) -> Tensor:
    """Weighted mean of each clip's windows: [W, ...] -> [C, ...]."""
    shares = window_shares(clip, weights.to(rows.dtype), num_clips)
    return sum_windows(rows * shares.reshape(-1, *[1] * (rows.ndim - 1)), clip, num_clips)


def max_rows(rows: Tensor, clip: Tensor, num_clips: int) -> Tensor:
    """Largest value of each feature over a clip's windows: [W, ...] -> [C, ...]."""
    index = clip.reshape(-1, *[1] * (rows.ndim - 1)).expand_as(rows)
    start = rows.new_full((num_clips, *rows.shape[1:]), -torch.inf)
    return start.scatter_reduce(0, index, rows, "amax")


def sum_scores(scores: Tensor, clip: Tensor, shares: Tensor, num_clips: int) -> Tensor:
    """Weighted sum of window values [H, W, ...] over each clip: [H, C, ...]."""
    scaled = scores * shares.reshape(*shares.shape, *[1] * (scores.ndim - 2))
    return sum_windows(scaled, clip, num_clips, dim=1)


def attend(values: Tensor, logits: Tensor, clip: Tensor, weights: Tensor, num_clips: int) -> Tensor:
    """Mean of window values [H, W, D] over each clip, by the softmax of logits [H, W]: [H, C, D].

    The softmax is times the windows' weights: equal logits give the weighted mean, and a window
    of weight 0 (padding) counts nothing.
    """
    index = clip.expand(logits.shape)
    lowest = logits.detach().new_full((logits.shape[0], num_clips), -torch.inf)
    highest = lowest.scatter_reduce(1, index, logits.detach(), "amax")
    powers = (logits - highest.gather(1, index)).exp() * weights
    total = sum_windows(powers, clip, num_clips, dim=1)
    # Divided at last: the gradient of a division by each window's total is a sum over windows.
    sums = sum_scores(values, clip, powers, num_clips)
    return sums / total.clamp_min(torch.finfo(logits.dtype).tiny)[..., None]


def beside_prompt(inputs: str, values: Tensor, prompt: Tensor) -> Tensor:
    """Return rows [R, D] with their prompts' embeddings [R, T]; ``inputs`` is not ``audio``."""
    parts = [values, prompt]
    if inputs == "products":
        parts += [values * prompt, (values - prompt).abs()]
    return torch.cat(parts, 1)
