"""The track-2 variant: a pair is weighted by the bins of its labels, not by its quality.

The tables are those of the QAMRO authors' released code for the four Audiobox-Aesthetics
axes: a bin's value follows how often its labels occur.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qamro_cache.losses.terms import BINS

_AES_EDGES = tuple(float(edge) for edge in range(1, 11))


@dataclass(frozen=True)
class Bins:
    """Bins ``[edges[k], edges[k + 1])`` of the labels, the last one closed.

    Attributes:
        edges: K + 1 increasing label values.
        values: K raw values; they are min-max normalized to [0, 1] before use.
    """

    edges: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.values) + 1 or len(self.values) < 1:
            raise ValueError(
                f"weights has {len(self.edges)} edges and {len(self.values)} values: "
                "K bins need K + 1 edges"
            )
        if not all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"weights has the edges {self.edges}: they must increase")
        if not 0 < max(self.values) - min(self.values) < math.inf:
            raise ValueError(
                f"weights has the values {self.values}: they must be finite and not all equal"
            )

    def contain(self, y: Tensor) -> Tensor:
        """Which labels lie in a bin."""
        return (y >= self.edges[0]) & (y <= self.edges[-1])

    def index(self, y: Tensor) -> Tensor:
        """The number of each label's bin; 0 below the first and the last one above it."""
        number = torch.zeros_like(y, dtype=torch.int32)
        # Compared with plain numbers: a tensor of edges would have to come from the host.
        for edge in self.edges[1:-1]:
            number += y >= edge
        return number

    def quality(self, y: Tensor) -> Tensor:
        """The normalized value of each label's bin, in float64."""
        values = self.normalized()
        quality = torch.full_like(y, values[0], dtype=torch.float64)
        for edge, before, value in zip(self.edges[1:], values, values[1:], strict=False):
            quality += (y >= edge).double() * (value - before)
        return quality

    def normalized(self) -> tuple[float, ...]:
        """The values scaled to [0, 1] over the table."""
        low, high = min(self.values), max(self.values)
        return tuple((value - low) / (high - low) for value in self.values)


def resolve_bins(weights: str | tuple[object, object] | None) -> Bins | None:
    """Bins by name (``aes-PQ``, ``aes-PC``, ``aes-CE``, ``aes-CU``) or from (edges, values).

    Raises:
        ValueError: an unknown name, or edges and values that make no bins.
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        if weights not in BINS:
            raise ValueError(f"weights is {weights!r}: use one of {', '.join(BINS)}")
        return Bins(_AES_EDGES, BINS[weights])
    if not isinstance(weights, tuple) or len(weights) != 2:
        raise ValueError(f"weights is {weights!r}: give a name or (edges, values)")
    edges, values = (_numbers(part) for part in weights)
    return Bins(edges, values)


def _numbers(part: object) -> tuple[float, ...]:
    if isinstance(part, Tensor):
        part = part.tolist()
    if not isinstance(part, Sequence):
        raise ValueError(f"weights has {part!r}: edges and values are sequences of numbers")
    return tuple(float(value) for value in part)
