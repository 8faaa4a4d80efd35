"""What comes out of training."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Result(NamedTuple):
    """What became of the heads of a stack, on the CPU.

    Attributes:
        predictions: [H, C] in label units; NaN for a diverged head.
        best_epoch: [H] int64 epochs that the kept weights were trained for.
        epochs: [H] int64 epochs trained.
        diverged: [H] bool.
        history: [E, len(WATCHED), H] float32 on the validation set, NaN where a head had stopped.
        params: the kept weights [H, ...], for standardized rows and labels; empty where they
            were not asked for.
        row_mean, row_std: [H, D] of the rows; None where rows are not standardized.
        label_mean, label_std: [H] of the training labels.
    """

    predictions: Tensor
    best_epoch: Tensor
    epochs: Tensor
    diverged: Tensor
    history: Tensor
    params: dict[str, Tensor]
    row_mean: Tensor | None
    row_std: Tensor | None
    label_mean: Tensor
    label_std: Tensor


def empty_result(
    heads: int, clips: int, params: Mapping[str, Tensor], dtype: torch.dtype, width: int
) -> Result:
    """Make room for what `Stack.retire` writes; ``width`` of standardized rows, else 0."""
    return Result(
        predictions=torch.full((heads, clips), torch.nan, dtype=dtype),
        best_epoch=torch.zeros(heads, dtype=torch.int64),
        epochs=torch.zeros(heads, dtype=torch.int64),
        diverged=torch.zeros(heads, dtype=torch.bool),
        history=torch.empty(0),
        params={name: torch.empty(p.shape, dtype=dtype) for name, p in params.items()},
        row_mean=torch.zeros(heads, width, dtype=dtype) if width else None,
        row_std=torch.ones(heads, width, dtype=dtype) if width else None,
        label_mean=torch.empty(heads, dtype=dtype),
        label_std=torch.empty(heads, dtype=dtype),
    )
