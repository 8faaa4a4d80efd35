"""Vectors a clip from windows: what an expression comes to, with the projections of a fold."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qamro_cache.errors import OptionError, QamroError
from qamro_cache.features.expression import Call, Expression, Join, Read, projections
from qamro_cache.features.pooling import clip_of_window, mean_rows
from qamro_cache.features.sources import Sources
from qamro_cache.memory import refuse_memory

logger = logging.getLogger("qamro_cache")


#: The least std of a component, over the first one's, that is more than rounding in float32.
_SMALLEST = 1e-6


class Projection(NamedTuple):
    """Principal components: (vector - mean) @ basis.

    Attributes:
        mean: [D] float32.
        basis: [D, K] float32, its columns of length 1, or 0 where the clips do not vary.
    """

    mean: Tensor
    basis: Tensor


#: The projections of an expression, by what they are called there.
Projections = Mapping[Call, Projection]


@dataclass(frozen=True)
class ClipVectors:
    """An expression's vectors of N clips, but for its projections.

    Attributes:
        expression: with every feature named in full.
        leaves: what stands in it below joins and projections -> [N, D] float32. A clip without
            windows has zeros.
    """

    expression: Expression
    leaves: Mapping[Expression, Tensor]

    @property
    def shared(self) -> bool:
        """Whether all folds have the same vectors: nothing is fitted to any clips."""
        return not projections(self.expression)

    def values(self, fitted: Projections) -> Tensor:
        """Return the vectors [N, D]."""
        return self._value(self.expression, fitted)

    def fit(self, train: Tensor) -> dict[Call, Projection]:
        """Fit every projection to the clips ``train`` [T] int64.

        Raises:
            OptionError: it keeps as many numbers as there are clips or numbers, or more.
        """
        fitted: dict[Call, Projection] = {}
        for one in projections(self.expression):
            fitted[one] = principal_components(self._value(one.of, fitted)[train], one)
        return fitted

    def _value(self, expression: Expression, fitted: Projections) -> Tensor:
        if expression in self.leaves:
            return self.leaves[expression]
        if isinstance(expression, Join):
            return torch.cat([self._value(part, fitted) for part in expression.parts], 1)
        assert isinstance(expression, Call)
        mean, basis = (part.to(self.device) for part in fitted[expression])
        return (self._value(expression.of, fitted) - mean) @ basis

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return next(iter(self.leaves.values())).device


def clip_vectors(expression: Expression, sources: Sources, device: str = "cpu") -> ClipVectors:
    """Read what an expression names and pool it over each clip's windows.

    Args:
        expression: with every feature named in full.
        sources: that it is read from.
        device: where to.

    Raises:
        QamroError: a value is not finite.
    """
    leaves = {leaf: _pooled(leaf, sources, device) for leaf in leaves_of(expression)}
    return ClipVectors(expression, leaves)


def refuse_values(windows: Tensor, read: Read, sources: Sources) -> None:
    """Refuse a feature with values that are not finite."""
    if not bool(windows.isfinite().all()):
        cache = sources.only(read).caches[0]
        raise QamroError(
            f"{cache.paths[0]}: feature {read.feature!r} has values that are not finite; "
            "run qamro-cache verify and extract it again"
        )


def std_rows(rows: Tensor, clip: Tensor, weights: Tensor, num_clips: int) -> Tensor:
    """Weighted standard deviation of each clip's windows: [W, ...] -> [C, ...]; 0 of one."""
    mean = mean_rows(rows, clip, weights, num_clips)
    return mean_rows((rows - mean[clip]) ** 2, clip, weights, num_clips).sqrt()


def principal_components(vectors: Tensor, one: Call) -> Projection:
    """Return the first ``one.size`` principal components of vectors [T, D], largest first.

    Computed in float64; of each component the entry of the largest size is positive. One along
    which these clips do not vary (fewer of them differ, say) is 0: what is rounding among them
    would be enormous, in their units, of another clip.
    """
    clips, width = vectors.shape
    if not one.size < min(clips, width + 1):
        raise OptionError(
            f"{one}: {one.size} numbers need more training clips than that and no fewer numbers "
            f"to begin with; there are {clips} clips of {width} numbers"
        )
    small = min(clips, width)
    refuse_memory(8 * (2 * clips * width + 4 * small**2), str(one), "project fewer numbers")
    mean = vectors.double().mean(0)
    rows = vectors.double() - mean
    sizes, basis = torch.linalg.eigh(rows.T @ rows if clips >= width else rows @ rows.T)
    sizes, basis = sizes.flip(0)[: one.size], basis.flip(1)[:, : one.size]
    varies = sizes > _SMALLEST**2 * sizes[0]
    if clips < width:
        basis = rows.T @ basis / torch.where(varies, sizes, 1.0).sqrt()
    basis = basis * varies
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    basis = basis * torch.where(largest < 0, -1.0, 1.0)
    return Projection(mean.float(), basis.float())


def leaves_of(expression: Expression) -> list[Expression]:
    """Return what stands in an expression below joins and projections, in its order."""
    match expression:
        case Join(parts=parts):
            return [leaf for part in parts for leaf in leaves_of(part)]
        case Call(function="project", of=of):
            return leaves_of(of)
    return [expression]


def _pooled(leaf: Expression, sources: Sources, device: str) -> Tensor:
    read = leaf.of if isinstance(leaf, Call) else leaf
    assert isinstance(read, Read)
    windows, offsets, weights = sources.read(read, device)
    windows = windows.float().flatten(1)
    refuse_values(windows, read, sources)
    seen = clip_of_window(offsets), weights, len(offsets) - 1
    if not isinstance(leaf, Call) or leaf.function == "mean":
        return mean_rows(windows, *seen)
    single = int((offsets.diff() == 1).sum())
    if single:
        clips = int((offsets.diff() > 0).sum())
        logger.info("%s is 0 for %d of %d clips: they have one window", leaf, single, clips)
    return std_rows(windows, *seen)
