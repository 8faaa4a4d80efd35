"""Scores of heads that keep training clips (`heads.points`), from their tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor


def point_shapes(kind: str, width: int, points: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one head's parameters.

    Args:
        kind: ``knn`` or ``svr``.
        width: D of a row.
        points: N training clips, and of how many a kNN head takes the mean.
    """
    kept, near = points
    own = {"shares": (near,)} if kind == "knn" else {"gamma": (1,), "bias": (1,)}
    return {"points": (kept, width), "labels": (kept,), **own}


def point_scores(kind: str, params: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """Return the scores [H, C] of heads that keep training clips, of standardized rows [C, D].

    Args:
        kind: ``knn``: ``points`` [H, N, D], ``labels`` [H, N] and ``shares`` [H, k] of the nearest;
            ``svr``: ``points`` [H, N, D], their coefficients ``labels`` [H, N], ``gamma`` [H, 1]
            and ``bias`` [H, 1].
        params: these.
        rows: of the clips.
    """
    found = []
    for k, points in enumerate(params["points"].double()):
        apart = torch.cdist(rows.double(), points, compute_mode="donot_use_mm_for_euclid_dist")
        labels = params["labels"][k].double()
        if kind == "knn":
            shares = params["shares"][k].double()
            # Of clips that are equally near, the first.
            near = apart.sort(dim=1, stable=True).indices[:, : len(shares)]
            found.append((labels[near] * shares).sum(1))
        else:
            like = torch.exp(-params["gamma"][k].double() * apart.square())
            found.append(like @ labels + params["bias"][k].double())
    return torch.stack(found).to(rows.dtype)
