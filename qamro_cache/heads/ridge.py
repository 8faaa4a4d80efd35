"""Ridge regression in closed form, its penalty chosen by clips that are held out in turn.

What every head must beat, and a kind of head itself (Hoerl and Kennard 1970). A feature is
standardized by the clips that it is fitted to and divided by the square root of its block's width,
so that a block of 1,000 numbers weighs as much as one of 10, and a penalty means the same for
both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qamro_cache.heads.architecture import CONSTANT
from qamro_cache.memory import refuse_memory

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: What the penalty is chosen among; of equally good ones the largest, which comes first.
PENALTIES = tuple(10.0 ** (k / 2) for k in range(8, -9, -1))

#: Parts of the clips that are held out in turn: where no groups are known, and at most.
_PARTS, _MOST_PARTS = 5, 100


class Ridge(NamedTuple):
    """A fitted ridge regression of D features.

    Attributes:
        mean: [D] of the clips it was fitted to.
        std: [D] theirs, 1 for a feature that is constant.
        weights: [D] of the standardized features, in label units.
        intercept: mean label.
        penalty: on the squared weights of the features divided by the square root of their
            block's width.
    """

    mean: Floats
    std: Floats
    weights: Floats
    intercept: float
    penalty: float

    def predict(self, features: Floats) -> Floats:
        """Predict clips [C, D] in label units: [C]."""
        slopes = self.weights / self.std
        predictions: Floats = features @ slopes + (self.intercept - self.mean @ slopes)
        return predictions

    def params(self, label_std: float) -> dict[str, npt.NDArray[np.float32]]:
        """Return what a head keeps, for standardized labels."""
        weights = self.weights.astype(np.float32) / np.float32(label_std)
        return {"output.weight": weights[:, None], "output.bias": np.zeros(1, np.float32)}


def fit_ridge(
    features: Floats,
    target: Floats,
    blocks: Sequence[int],
    groups: Ints | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> Ridge:
    """Fit labels by ridge regression with a free intercept.

    The penalty is the one of the least squared error of clips whose group is held out (of more
    than 100 groups, some at a time). One eigendecomposition serves all penalties and groups: with
    S the matrix that takes labels to fitted ones, the errors of a held-out group g are
    (I - S_gg)^-1 of its residuals (Golub, Heath and Wahba 1979, for one clip). Standardization
    stays that of all the clips, for which no label is looked at.

    Args:
        features: [N, D] one vector a clip.
        target: [N] labels, all known; at least one.
        blocks: widths that add to D.
        groups: [N] clips that are held out together; None, or a single group: five random parts.
        penalties: to choose among, the largest first.

    Raises:
        QamroError: it would not fit in memory.
    """
    clips, width = features.shape
    small = min(clips, width)
    refuse_memory(
        8 * (4 * clips * width + 5 * small * small),
        f"ridge regression of {clips:,} clips on {width:,} features",
        "use a --feature of fewer numbers",
    )
    mean, std, scale = scaling(features, blocks)
    rows = (features - mean) / (std * scale)
    # Of the smaller product; scores @ scores.T = rows @ rows.T either way.
    tall = clips > width
    values, basis = np.linalg.eigh(rows.T @ rows if tall else rows @ rows.T)
    values = values.clip(min=0)
    scores = rows @ basis if tall else basis * np.sqrt(values)
    centered = target - target.mean()
    penalty = _choose(scores, values, centered, held_out_parts(clips, groups), penalties)
    if tall:
        weights = basis @ (scores.T @ centered / (values + penalty))
    else:
        weights = rows.T @ (basis @ (basis.T @ centered / (values + penalty)))
    return Ridge(mean, std, weights / scale, float(target.mean()), penalty)


def scaling(features: Floats, blocks: Sequence[int]) -> tuple[Floats, Floats, Floats]:
    """Return the mean and std of each of D features, and the square root of its block's width.

    Args:
        features: [N, D] one vector a clip.
        blocks: widths that add to D.
    """
    mean, std = features.mean(0), features.std(0)
    std = np.where(std > CONSTANT * np.maximum(np.abs(mean), 1e-12), std, 1.0)
    return mean, std, np.repeat(np.sqrt(np.asarray(blocks, np.float64)), blocks)


def held_out_parts(clips: int, groups: Ints | None) -> list[Ints]:
    """Return the clips of each part that is held out in turn; none where only one could be.

    Args:
        clips: N of them.
        groups: see `fit_ridge`.
    """
    if groups is None or (groups == groups[0]).all():
        part = np.argsort(np.random.default_rng(0).permutation(clips)) % _PARTS
    else:
        part = np.unique(groups, return_inverse=True)[1] % _MOST_PARTS
    order = np.argsort(part, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(part[order])) + 1)
    return parts if len(parts) > 1 else []


def _choose(
    scores: Floats,
    values: Floats,
    centered: Floats,
    parts: Sequence[Ints],
    penalties: Sequence[float],
) -> float:
    """Return the penalty of the least squared error of the parts, each held out in its turn."""
    # The intercept is one more column, without a penalty: S = scores / divisors @ scores.T.
    scores = np.column_stack([scores, np.ones(len(centered))])
    # Parts of one size are solved side by side.
    sizes = np.array([len(part) for part in parts])
    stacks = [np.stack([part for part in parts if len(part) == size]) for size in np.unique(sizes)]
    # Of parts that are longer than a row is wide, the smaller system is that of the columns.
    rows = [scores[stack] for stack in stacks]
    grams = [own.swapaxes(1, 2) @ own if own.shape[1] > own.shape[2] else None for own in rows]
    errors = []
    for penalty in penalties:
        divisors = np.append(values + penalty, len(centered))
        residuals = centered - (scores / divisors) @ (scores.T @ centered)
        total = 0.0
        for stack, own, gram in zip(stacks, rows, grams, strict=True):
            left = residuals[stack][..., None]
            shrunk, across = own / divisors, own.swapaxes(1, 2)
            if gram is None:
                error = np.linalg.solve(np.eye(own.shape[1]) - own @ shrunk.swapaxes(1, 2), left)
            else:
                inner = np.linalg.solve(np.eye(own.shape[2]) - gram / divisors, across @ left)
                error = left + shrunk @ inner
            total += float((error**2).sum())
        errors.append(total)
    return penalties[int(np.argmin(errors))]
