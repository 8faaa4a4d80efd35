"""Pairs of one sample counted by order, in O(N log N) time and O(N) memory: exact for any N."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Order(NamedTuple):
    """How many pairs (i, j) have a target of i above that of j.

    Attributes:
        above: all of them.
        right: those with a prediction of i above that of j.
        not_wrong: those with one of i that is not below.
    """

    above: int
    right: int
    not_wrong: int


def order(pred: Floats, target: Floats, margin: float = 0.0) -> Order:
    """Count the pairs of N samples whose targets differ by more than ``margin``.

    Args:
        pred: [N], finite.
        target: [N], finite.
        margin: at least 0, in the target's units.
    """
    values, code, size = np.unique(target, return_inverse=True, return_counts=True)
    # Of the samples by target, those that lie more than the margin below a sample come first.
    first = np.concatenate([[0], size.cumsum()])[_below(values, margin)][code]
    ranks = np.unique(pred, return_inverse=True)[1]
    of_targets = ranks[np.argsort(code, kind="stable")]
    right = _count(of_targets, first, ranks)
    not_wrong = _count(of_targets, first, ranks + 1)
    return Order(int(first.sum()), int(right.sum()), int(not_wrong.sum()))


def equal_pairs(values: Floats) -> int:
    """Count the pairs (i, j) of equal values [N], i = j included."""
    return int((np.unique(values, return_counts=True)[1].astype(np.int64) ** 2).sum())


def _below(values: Floats, margin: float) -> Ints:
    """Return how many of the rising values [U] lie more than ``margin`` below each."""
    below = np.searchsorted(values, values - margin)
    # What the sum rounds differently from the difference is put right.
    while (over := (below > 0) & ~(values - values[below - 1] > margin)).any():
        below = below - over
    while (short := values - values[below] > margin).any():
        below = below + short
    return below


def _count(values: Ints, first: Ints, limit: Ints) -> Ints:
    """Count which of the ``first`` q values lie below a limit, for each of Q questions: [Q].

    A wavelet matrix (Claude, Navarro and Ordóñez, 2015): values are parted by their bits from the
    highest on, and each question follows its limit's bits.

    Args:
        values: [N] from 0, below N.
        first: [Q] of them, at most N.
        limit: [Q] at least 0, at most N.
    """
    start, stop = np.zeros_like(first), first
    found = np.zeros_like(first)
    for bit in reversed(range(len(values).bit_length())):
        ones = (values >> bit & 1).astype(bool)
        zeros = np.concatenate([[0], np.cumsum(~ones)])
        low, high = zeros[start], zeros[stop]
        up = (limit >> bit & 1).astype(bool)
        found += np.where(up, high - low, 0)
        start = np.where(up, zeros[-1] + start - low, low)
        stop = np.where(up, zeros[-1] + stop - high, high)
        values = np.concatenate([values[~ones], values[ones]])
    return found
