"""What several heads say of the same clips: their mean, and how far they are apart."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qamro_cache.datasets.records import Axis
from qamro_cache.heads.calibration import Calibration, calibration_of
from qamro_cache.heads.head import AnyHead, axes_of, standard_axes

Floats = npt.NDArray[np.float64]


def calibrated(
    head: AnyHead, axis: Axis, members: Tensor, shares: Tensor | None
) -> tuple[Axis, Floats, Floats]:
    """Return an axis' scores [C] and their std, on the scale that the head is calibrated to.

    Args:
        head: loaded.
        axis: one of its own.
        members: [M, C] their scores.
        shares: [M] of the members, or None.

    Returns:
        The axis with the calibrated scale, else its own; the scores and their std.
    """
    parts = None if shares is None else shares.cpu().numpy()
    mean, std = mean_and_std(members.cpu().numpy(), parts)
    found = calibration_of(head.calibration, axis.name)
    if found is None:
        return axis, mean, std
    return replace(found.axis, name=axis.name), found.apply(mean), found.spread(mean, std)


def calibrated_mean(head: AnyHead, axis: str, members: Tensor, shares: Tensor | None) -> Tensor:
    """Return the scores [C] of `calibrated`, differentiable."""
    mean = members.mean(0)
    if shares is not None:
        mean = _weighted(members, shares)
    found = calibration_of(head.calibration, axis)
    return mean if found is None else _applied(found, mean)


def calibrated_tensors(
    calibration: Mapping[str, Any] | None, axis: str, members: Tensor, shares: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return the scores [C] and the std of `calibrated` in operations that can be exported.

    Args:
        calibration: of the head.
        axis: whose.
        members: [M, C] their scores.
        shares: M of them, which add to 1.
    """
    part = torch.tensor(shares, dtype=members.dtype)
    mean = _weighted(members, part)
    std = torch.full_like(mean, torch.nan)
    if len(shares) > 1:
        squares = (part[:, None] * (members - mean) ** 2).sum(0)
        std = torch.sqrt(squares / (1 - sum(share**2 for share in shares)))
    found = calibration_of(calibration, axis)
    if found is None:
        return mean, std
    if found.steps is None:
        return _applied(found, mean), found.slope * std
    mean, std = mean.double(), std.double()
    spread = (_applied(found, mean + std) - _applied(found, mean - std)) / 2
    return _applied(found, mean), torch.maximum(found.slope * std, spread)


def _weighted(members: Tensor, shares: Tensor) -> Tensor:
    """Return the mean [C] of members [M, C] by shares [M]: of equal ones exactly that."""
    return members[0] + (shares[:, None] * (members - members[0])).sum(0)


def scale_of(head: AnyHead, axis: str) -> Axis | None:
    """Return an axis with the scale of its scores; None where they are in standard units."""
    if axis in standard_axes(head):
        return None
    found = calibration_of(head.calibration, axis)
    own = next(one for one in axes_of(head) if one.name == axis)
    return own if found is None else replace(found.axis, name=axis)


def _applied(found: Calibration, mean: Tensor) -> Tensor:
    if found.steps is None:
        return found.offset + found.slope * mean
    scores, labels = (
        torch.tensor(part, dtype=mean.dtype, device=mean.device) for part in found.steps
    )
    inside = mean.clamp(scores[0], scores[-1])
    at = torch.searchsorted(scores, inside.detach()).clamp(1, len(scores) - 1)
    part = (inside - scores[at - 1]) / (scores[at] - scores[at - 1])
    return labels[at - 1] + part * (labels[at] - labels[at - 1])


def mean_and_std(scores: Floats, shares: Floats | None) -> tuple[Floats, Floats]:
    """Return the mean [C] of members' scores and their standard deviation, NaN of a single one.

    Args:
        scores: [M, C].
        shares: [M] that add to 1; None: equal ones. The variance is divided by 1 - the sum of the
            squared shares: by M - 1 of M where all are equal, so that it is unbiased.
    """
    if len(scores) == 1:
        return scores.mean(0), np.full(scores.shape[1], np.nan)
    if shares is None:
        return scores.mean(0), scores.std(0, ddof=1)
    part = shares[:, None]
    # Around the first: of equal ones the mean is exactly that.
    mean = scores[0] + (part * (scores - scores[0])).sum(0)
    squares = (part * (scores - mean) ** 2).sum(0)
    return mean, np.sqrt(squares / (1 - (shares**2).sum()))


def first_words(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.object_]:
    """Return of each clip the first words that are not empty."""
    words = np.asarray(parts[0], object)
    for other in parts[1:]:
        words = np.where(words == "", other, words)
    return words
