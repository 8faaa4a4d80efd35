"""What a head must beat: the mean of the training labels, and ridge on the same embeddings."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Ridge penalty on standardized features. Fixed, so that no held-out clip has a say in it.
RIDGE_PENALTY = 100.0


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
    features: Floats, target: Floats, train: Bools, test: Bools, penalty: float = RIDGE_PENALTY
) -> Floats:
    """Predict each held-out clip by ridge regression on its fold's training clips.

    Args:
        features: [C, D] one vector a clip; standardized here on each fold's training clips.
        target: [C] labels, NaN where a clip has none.
        train: [F, C] the clips each fold trains on.
        test: [F, C] the clips each fold predicts.
        penalty: on the squared weights of the standardized features; the intercept is free.

    Returns:
        [C] predictions, NaN where no fold predicts a clip.
    """
    predictions = np.full(len(target), np.nan)
    for fold_train, fold_test in zip(train, test, strict=True):
        used = fold_train & np.isfinite(target)
        if not used.any():
            continue
        x, y = features[used], target[used]
        center, std = x.mean(0), x.std(0)
        std[std == 0] = 1.0
        x = (x - center) / std
        # The smaller of the two equal systems: features by features, or clips by clips.
        if x.shape[0] >= x.shape[1]:
            weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y - y.mean()))
        else:
            weights = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(x.shape[0]), y - y.mean())
        predictions[fold_test] = (features[fold_test] - center) / std @ weights + y.mean()
    return predictions
