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

from qamro_cache.memory import refuse_memory

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: What the penalty is chosen among; of equally good ones the largest, which comes first.
PENALTIES = tuple(10.0 ** (k / 2) for k in range(8, -9, -1))

#: Parts of the clips that are held out in turn where no groups are known.
_PARTS = 5


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


def fit_ridge(
    features: Floats,
    target: Floats,
    blocks: Sequence[int],
    groups: Ints | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> Ridge:
    """Fit labels by ridge regression with a free intercept.

    The penalty is the one of the least squared error of clips whose group is held out. One
    eigendecomposition serves all penalties and groups: with S the matrix that takes labels to
    fitted ones, the errors of a held-out group g are (I - S_gg)^-1 of its residuals (Golub, Heath
    and Wahba 1979, for one clip). Standardization stays that of all the clips, so no label of the
    group is looked at.

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
        8 * (3 * clips * width + 4 * small * small),
        f"ridge regression of {clips:,} clips on {width:,} features",
        "use a --feature of fewer numbers",
    )
    mean, std = features.mean(0), features.std(0)
    # A feature that is constant but for rounding carries nothing.
    std = np.where(std > 1e-7 * np.maximum(np.abs(mean), 1e-12), std, 1.0)
    scale = np.repeat(np.sqrt(np.asarray(blocks, np.float64)), blocks)
    rows = (features - mean) / (std * scale)
    centered = target - target.mean()
    # Of the smaller product; rows @ rows.T = scores @ scores.T either way.
    if clips > width:
        values, basis = np.linalg.eigh(rows.T @ rows)
        scores = rows @ basis
    else:
        values, basis = np.linalg.eigh(rows @ rows.T)
        scores = basis * np.sqrt(values.clip(min=0))
    values = values.clip(min=0)
    parts = _parts(clips, groups)
    errors = [_held_out_error(scores, values, centered, parts, one) for one in penalties]
    penalty = penalties[int(np.argmin(errors))]
    if clips > width:
        weights = basis @ (scores.T @ centered / (values + penalty))
    else:
        weights = rows.T @ (basis @ (basis.T @ centered / (values + penalty)))
    return Ridge(mean, std, weights / scale, float(target.mean()), penalty)


def _parts(clips: int, groups: Ints | None) -> list[Ints]:
    """Return the clips of each part that is held out in turn; none where only one could be."""
    if groups is None or len(np.unique(groups)) < 2:
        groups = np.argsort(np.random.default_rng(0).permutation(clips)) % min(_PARTS, clips)
    names = np.unique(groups)
    return [np.flatnonzero(groups == name) for name in names] if len(names) > 1 else []


def _held_out_error(
    scores: Floats, values: Floats, centered: Floats, parts: Sequence[Ints], penalty: float
) -> float:
    """Return the sum of the squared errors of each part as it is held out."""
    shrunk = scores / (values + penalty)
    residuals = centered - shrunk @ (scores.T @ centered)
    total = 0.0
    for part in parts:
        # The intercept's share of S is 1/N everywhere.
        own = shrunk[part] @ scores[part].T + 1 / len(centered)
        errors = np.linalg.solve(np.eye(len(part)) - own, residuals[part])
        total += float(errors @ errors)
    return total
