"""What a head must beat: the mean training label; ridge and nearest clips on the same vectors."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qamro_cache.heads.points import fit_neighbors, fit_vectors
from qamro_cache.heads.ridge import fit_ridge
from qamro_cache.memory import refuse_memory

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Fit(Protocol):
    """Fits clips as `fit_ridge` does; what it returns predicts others."""

    def __call__(
        self, features: Floats, target: Floats, blocks: Sequence[int], groups: Ints | None = None
    ) -> "Fitted":
        """Fit."""


class Fitted(Protocol):
    """Predicts clips [C, D] in label units."""

    def predict(self, features: Floats) -> Floats:
        """Predict: [C]."""


def train_mean(target: Floats, train: Bools, test: Bools) -> Floats:
    """Predict each held-out clip by its fold's mean training label.

    Args:
        target: [C] labels, NaN where a clip has none.
        train: [F, C] the clips each fold trains on.
        test: [F, C] the clips each fold predicts; a clip in two folds gets the later one's.

    Returns:
        [C] predictions, NaN where no fold predicts a clip. Out of a leave-one-out split these
        correlate negatively with the truth: taking a good group out lowers the mean.
    """
    predictions = np.full(len(target), np.nan)
    for fold_train, fold_test in zip(train, test, strict=True):
        used = fold_train & np.isfinite(target)
        predictions[fold_test] = target[used].mean() if used.any() else np.nan
    return predictions


def ridge(
    features: Floats,
    target: Floats,
    train: Bools,
    test: Bools,
    blocks: Sequence[int],
    groups: Ints | None = None,
) -> Floats:
    """Predict each held-out clip by ridge regression (`fit_ridge`) on its fold's training clips.

    Args:
        features: [C, D] one vector a clip.
        target: [C] labels, NaN where a clip has none.
        train: [F, C] the clips each fold trains on, and chooses its penalty by.
        test: [F, C] the clips each fold predicts.
        blocks: widths of the features' blocks.
        groups: [C] clips that stay together as the penalty is chosen; see `fit_ridge`.

    Returns:
        [C] predictions, NaN where no fold predicts a clip.
    """
    return _by_fold(fit_ridge, features, target, train, test, blocks, groups)


def nearest(
    features: Floats,
    target: Floats,
    train: Bools,
    test: Bools,
    blocks: Sequence[int],
    groups: Ints | None = None,
) -> Floats:
    """Predict each held-out clip by the mean label of the k nearest of its fold's training clips.

    See `fit_neighbors`. Arguments and result are those of `ridge`.

    Raises:
        QamroError: it would not fit in memory.
    """
    known, asked = (int(masks.sum(1).max(initial=0)) for masks in (train, test))
    width = features.shape[1]
    refuse_memory(
        8 * (3 * (known + asked) * width + 4 * known * max(known, asked)),
        f"distances of {known:,} clips with {width:,} features",
        "use a --feature of fewer numbers",
    )
    return _by_fold(fit_neighbors, features, target, train, test, blocks, groups)


def support_vectors(
    features: Floats,
    target: Floats,
    train: Bools,
    test: Bools,
    blocks: Sequence[int],
    groups: Ints | None = None,
) -> Floats:
    """Predict each held-out clip by support vector regression on its fold's training clips.

    See `fit_vectors`. Arguments and result are those of `ridge`.
    """
    return _by_fold(fit_vectors, features, target, train, test, blocks, groups)


def _by_fold(
    fit: Fit,
    features: Floats,
    target: Floats,
    train: Bools,
    test: Bools,
    blocks: Sequence[int],
    groups: Ints | None,
) -> Floats:
    """Predict each fold's clips by what its training clips are fitted by."""
    predictions = np.full(len(target), np.nan)
    for fold_train, fold_test in zip(train, test, strict=True):
        used = fold_train & np.isfinite(target)
        if used.any() and fold_test.any():
            mine = None if groups is None else groups[used]
            fitted = fit(features[used], target[used], blocks, mine)
            predictions[fold_test] = fitted.predict(features[fold_test])
    return predictions
