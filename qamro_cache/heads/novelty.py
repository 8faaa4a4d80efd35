"""How far a clip lies from the training set: distance to its nearest training clips.

A head says nothing reliable about audio unlike all it was trained on. The distance to the k-th
nearest neighbour in the embedding is a simple and strong sign of that (Sun et al., ICML 2022,
arXiv 2204.06507); a clip is called far when it is farther from its neighbours than 99 % of the
training clips are from theirs.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: Which neighbour's distance counts: more than one, so that a duplicate does not hide an outlier.
NEIGHBOUR = 3

#: Bytes of training clips that a head file keeps.
_MAX_BYTES = 4 << 20


class Reference(NamedTuple):
    """Training clips [R, D] in half precision, and the distance that only 1 % of them exceed."""

    clips: Tensor
    far: float


def reference_clips(rows: Tensor, seed: int = 0) -> Reference:
    """Choose the training clips to compare with: all, or a random subset of at most 4 MiB.

    Args:
        rows: [C, D] standardised training clips.
        seed: of the subset.
    """
    most = max(NEIGHBOUR + 1, _MAX_BYTES // (2 * rows.shape[1]))
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most]
    kept = rows[chosen.sort().values].half()
    if len(kept) <= NEIGHBOUR:
        return Reference(kept, math.inf)
    # Each clip's nearest neighbour is itself; leave it out.
    among = neighbour_distance(kept, kept, NEIGHBOUR + 1)
    return Reference(kept, float(among.quantile(0.99)))


def neighbour_distance(rows: Tensor, reference: Tensor, neighbour: int = NEIGHBOUR) -> Tensor:
    """Distance [C] of rows [C, D] to their ``neighbour``-th nearest of reference [R, D].

    Per square root of D, so that it is about the same for embeddings of any width.
    """
    if len(reference) < neighbour:
        return torch.zeros(len(rows))
    distances = torch.cat(
        [
            torch.cdist(block.double(), reference.double()).kthvalue(neighbour, 1).values
            for block in rows.split(1024)  # type: ignore[no-untyped-call]
        ]
    )
    return distances / math.sqrt(rows.shape[1])
