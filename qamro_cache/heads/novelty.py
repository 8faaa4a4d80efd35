"""How far a clip lies from the training set: distance to its nearest training clips.

A head says nothing reliable about audio unlike all it was trained on. The distance to the k-th
nearest neighbour in the embedding is a simple and strong sign of that (Sun et al., ICML 2022,
arXiv 2204.06507); a clip is called far when it is farther from its neighbours than 99 % of the
training clips are from theirs.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Which neighbour's distance counts: more than one, so that a duplicate does not hide an outlier.
NEIGHBOUR = 3

#: Bytes of training clips that a head file keeps.
_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class Reference:
    """What a new clip is compared with.

    Attributes:
        clips: [R, D] standardised training clips in half precision.
        centre: [D] mean of the training clips.
        scale: [D] their deviation, positive.
        far: distance that only 1 % of the training clips exceed.
    """

    clips: Tensor
    centre: Tensor
    scale: Tensor
    far: float

    def is_far(self, rows: Tensor) -> Tensor:
        """Tell which of the clips [C, D] are farther away than that: [C] bool."""
        standard = (rows - self.centre.to(rows.device)) / self.scale.to(rows.device)
        return neighbour_distance(standard, self.clips.to(rows.device), NEIGHBOUR) > self.far


def reference_clips(rows: Tensor, seed: int = 0) -> Reference:
    """Choose the training clips to compare with: all, or a random subset of at most 4 MiB.

    Args:
        rows: [C, D] the training clips, their windows averaged.
        seed: of the subset.
    """
    centre, scale = rows.mean(0), rows.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    most = max(NEIGHBOUR + 1, _MAX_BYTES // (2 * rows.shape[1]))
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most]
    kept = ((rows - centre) / scale)[chosen.sort().values.to(rows.device)].half().cpu()
    far = math.inf
    if len(kept) > NEIGHBOUR:
        # A clip's nearest is the clip itself; its neighbours start at the second.
        far = float(neighbour_distance(kept, kept, NEIGHBOUR + 1).quantile(0.99))
    return Reference(kept, centre.cpu(), scale.cpu(), far)


def neighbour_distance(rows: Tensor, clips: Tensor, neighbour: int) -> Tensor:
    """Distance [C] of rows [C, D] to their ``neighbour``-th nearest (from 1) of clips [R, D]."""
    if len(clips) < neighbour:
        return torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    blocks = torch.split(rows.double(), 1024)
    return torch.cat([torch.cdist(b, clips.double()).kthvalue(neighbour, 1).values for b in blocks])
