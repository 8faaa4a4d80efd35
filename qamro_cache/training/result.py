"""What comes out of training."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Result(NamedTuple):
    """What became of the heads of a stack, on the CPU.

    Attributes:
        predictions: [H, C] in label units; NaN for a diverged head.
        best_epoch: [H] int64 epochs that the kept weights were trained for; 0 of a ridge head.
        diverged: [H] bool.
        validation_loss: [E, H] float32 of each epoch, NaN where a head had stopped.
        stability: [E, H] float32 SRCC of an epoch's validation predictions with those of the
            epoch before; NaN likewise, and in the first.
        params: the kept weights [H, ...], for standardized rows and labels; empty where they
            were not asked for.
        row_mean, row_std: [H, D], or [H, L, D], of the rows; None where they are not standardized.
        label_mean, label_std: [H] of the training labels.
        penalty: [H] float64 that ridge heads chose; None for heads that are trained in epochs.
        preference: [H, 2] float64 of heads that learned from pairs: tau in the units of the
            predictions, and Davidson's tie parameter (0: no ties); None for others.
    """

    predictions: Tensor
    best_epoch: Tensor
    diverged: Tensor
    validation_loss: Tensor
    stability: Tensor
    params: dict[str, Tensor]
    row_mean: Tensor | None
    row_std: Tensor | None
    label_mean: Tensor
    label_std: Tensor
    penalty: Tensor | None = None
    preference: Tensor | None = None


def empty_result(
    heads: int,
    clips: int,
    params: Mapping[str, Tensor],
    dtype: torch.dtype,
    row: tuple[int, ...],
    *,
    pairs: bool = False,
) -> Result:
    """Make room for what `Stack.retire` writes; ``row`` is a standardized one's shape, else ()."""
    return Result(
        predictions=torch.full((heads, clips), torch.nan, dtype=dtype),
        best_epoch=torch.zeros(heads, dtype=torch.int64),
        diverged=torch.zeros(heads, dtype=torch.bool),
        validation_loss=torch.empty(0),
        stability=torch.empty(0),
        params={name: torch.empty(p.shape, dtype=dtype) for name, p in params.items()},
        row_mean=torch.zeros(heads, *row, dtype=dtype) if row else None,
        row_std=torch.ones(heads, *row, dtype=dtype) if row else None,
        label_mean=torch.empty(heads, dtype=dtype),
        label_std=torch.empty(heads, dtype=dtype),
        preference=torch.full((heads, 2), torch.nan, dtype=torch.float64) if pairs else None,
    )
