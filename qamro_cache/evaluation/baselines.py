"""What a head must beat: the mean of the training labels, and ridge on the same embeddings."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qamro_cache.heads.ridge import fit_ridge

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


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
    predictions = np.full(len(target), np.nan)
    for fold_train, fold_test in zip(train, test, strict=True):
        used = fold_train & np.isfinite(target)
        if used.any():
            mine = None if groups is None else groups[used]
            fitted = fit_ridge(features[used], target[used], blocks, mine)
            predictions[fold_test] = fitted.predict(features[fold_test])
    return predictions
