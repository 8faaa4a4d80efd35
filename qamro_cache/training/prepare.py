"""What a stack starts from beside its state: rows standardized for each fold, and parameters."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qamro_cache.heads.architecture import CONSTANT, Architecture
from qamro_cache.heads.network import Rows, take_rows
from qamro_cache.training.inputs import Bools, Inputs
from qamro_cache.training.recipe import Job
from qamro_cache.training.state import HeadState


class FoldRows(NamedTuple):
    """One fold's view of the clips.

    Attributes:
        rows: of all clips.
        validation: rows of the validation set; None for a fold without one.
        moments: mean and std [D], or [L, D], of the training clips' rows; None where rows stay as
            they are.
    """

    rows: Rows
    validation: Rows | None
    moments: tuple[Tensor, Tensor] | None


def rows_of_folds(
    inputs: Inputs, seen: Iterable[tuple[int, int]], head: Architecture, dtype: torch.dtype
) -> dict[tuple[int, int], FoldRows]:
    """Standardize a view's rows by a fold's training clips, and cut out its validation set.

    Args:
        inputs: of the stack.
        seen: views and folds.
        head: of the stack.
        dtype: of the stack.
    """

    def part(rows: Rows, mask: Bools) -> Rows:
        clips = torch.from_numpy(np.flatnonzero(mask)).to(rows.values.device)
        return take_rows(rows, inputs.offsets, clips)

    made = {}
    for view, fold in dict.fromkeys(seen):
        rows = inputs.rows[view]
        rows = rows._replace(values=rows.values.to(dtype))
        mine, moments = rows, None
        if head.kind != "audiobox":
            learned = part(rows, inputs.folds.train[fold]).values.double()
            row_mean, row_std = learned.mean(0), learned.std(0, correction=0)
            row_std = torch.where(row_std > CONSTANT * row_mean.abs().clamp_min(1e-12), row_std, 1)
            moments = row_mean.to(dtype), row_std.to(dtype)
            mine = rows._replace(values=(rows.values - moments[0]) / moments[1])
        held = inputs.folds.validation[fold]
        made[view, fold] = FoldRows(mine, part(mine, held) if held.any() else None, moments)
    return made


def start_from(
    params: Mapping[str, Tensor],
    state: HeadState,
    jobs: Sequence[Job],
    initial: Mapping[int, Mapping[str, Tensor]],
) -> None:
    """Replace random parameters by those of a head that scores in label units."""
    for h, job in enumerate(jobs):
        start = dict(initial.get(job.target, {}))
        if start:
            # The stack's heads score in standardized labels.
            mean, std = state.label_mean[h], state.label_std[h]
            like = params["output.bias"]
            bias = start["output.bias"].to(like)
            start["output.bias"] = (bias - mean) / std
            start["output.weight"] = start["output.weight"].to(like) / std
        for name, value in start.items():
            params[name][h] = value.to(params[name])
