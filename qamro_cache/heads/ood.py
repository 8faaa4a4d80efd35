"""How far a clip lies from the training set: distance to its nearest training clips.

A head says nothing reliable about audio unlike all it was trained on. The distance to the k-th
nearest neighbor in the embedding is a simple and strong sign of that (Sun et al., ICML 2022,
arXiv 2204.06507); a clip is called out of distribution when it is farther from its neighbors than
99 % of the training clips are from theirs.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qamro_cache.heads.architecture import CONSTANT

#: Which neighbor's distance counts: more than one, so that a duplicate does not hide an outlier.
NEIGHBOR = 3

#: Bytes of training clips that a head file keeps.
_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class Reference:
    """What a new clip is compared with.

    Attributes:
        clips: [R, D] standardized training clips in half precision.
        mean: [D] mean of the training clips.
        std: [D] their standard deviation, positive.
        threshold: distance that only 1 % of the training clips exceed.
    """

    clips: Tensor
    mean: Tensor
    std: Tensor
    threshold: float

    def is_ood(self, rows: Tensor) -> Tensor:
        """Tell which of the clips [C, D] are farther away than that: [C] bool."""
        standard = (rows - self.mean.to(rows.device)) / self.std.to(rows.device)
        return neighbor_distance(standard, self.clips.to(rows.device), NEIGHBOR) > self.threshold


def reference_clips(rows: Tensor) -> Reference:
    """Choose the training clips to compare with: all, or a random subset of at most 4 MiB.

    Args:
        rows: [C, D] the training clips, their windows averaged.
    """
    mean, std = rows.mean(0), rows.std(0, correction=0)
    std = torch.where(std > CONSTANT * mean.abs(), std, 1.0)
    most = max(NEIGHBOR + 1, _MAX_BYTES // (2 * rows.shape[1]))
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:most]
    kept = ((rows - mean) / std)[chosen.sort().values.to(rows.device)].half().cpu()
    threshold = math.inf
    if len(kept) > NEIGHBOR:
        # A clip's nearest is the clip itself; its neighbors start at the second.
        threshold = float(neighbor_distance(kept, kept, NEIGHBOR + 1).quantile(0.99))
    return Reference(kept, mean.cpu(), std.cpu(), threshold)


def neighbor_distance(rows: Tensor, clips: Tensor, neighbor: int) -> Tensor:
    """Distance [C] of rows [C, D] to their ``neighbor``-th nearest (from 1) of clips [R, D]."""
    if len(clips) < neighbor:
        return torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    blocks = torch.split(rows.double(), 1024)
    return torch.cat([torch.cdist(b, clips.double()).kthvalue(neighbor, 1).values for b in blocks])
