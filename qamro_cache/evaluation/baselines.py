"""What a head must beat: the mean training label; ridge and nearest clips on the same vectors."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from qamro_cache.heads.ridge import fit_ridge, held_out_parts, scaling
from qamro_cache.memory import refuse_memory

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

#: Among how many nearest clips is chosen; of equally good numbers the largest, which comes first.
NEIGHBORS = (100, 70, 50, 30, 20, 15, 10, 7, 5, 3, 2, 1)

#: Among what the cost of an error of support vector regression is chosen.
COSTS = (0.1, 1.0, 10.0, 100.0)


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


def nearest(
    features: Floats,
    target: Floats,
    train: Bools,
    test: Bools,
    blocks: Sequence[int],
    groups: Ints | None = None,
) -> Floats:
    """Predict each held-out clip by the mean label of the k nearest of its fold's training clips.

    Distances are Euclidean, of features scaled as ridge's are: standardized by the training clips,
    each block of one weight. k is one of `NEIGHBORS`, of the least squared error when the training
    clips' groups are held out in turn, as ridge's penalty is chosen. Arguments and result are those
    of `ridge`.

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
    predictions = np.full(len(target), np.nan)
    folds = _scaled(features, target, train, test, blocks, groups)
    for fold_test, rows, others, labels, mine in folds:
        k = _choose_k(rows, labels, mine)
        predictions[fold_test] = _means_of_nearest(_squared_distances(others, rows), labels, k)[
            :, k - 1
        ]
    return predictions


def _scaled(
    features: Floats,
    target: Floats,
    train: Bools,
    test: Bools,
    blocks: Sequence[int],
    groups: Ints | None,
) -> Iterator[tuple[Bools, Floats, Floats, Floats, Ints | None]]:
    """Yield each fold's test clips [C], rows to learn from, rows to predict, labels and groups.

    Labels and groups are those of the rows to learn from; a fold without either rows is left out.
    """
    for fold_train, fold_test in zip(train, test, strict=True):
        used = fold_train & np.isfinite(target)
        if used.any() and fold_test.any():
            mean, std, scale = scaling(features[used], blocks)
            rows, others = ((features[f] - mean) / (std * scale) for f in (used, fold_test))
            yield fold_test, rows, others, target[used], None if groups is None else groups[used]


def _choose_k(rows: Floats, labels: Floats, groups: Ints | None) -> int:
    """Return how many neighbors predict the parts best, each held out in its turn."""
    parts = held_out_parts(len(rows), groups)
    # In every part there must be that many others.
    fewest = len(rows) - max(map(len, parts), default=0)
    choices = [k for k in NEIGHBORS if k <= fewest]
    apart = _squared_distances(rows, rows)
    errors = np.zeros(len(choices))
    for part in parts:
        others = np.setdiff1d(np.arange(len(rows)), part)
        means = _means_of_nearest(apart[np.ix_(part, others)], labels[others], choices[0])
        left = means[:, np.array(choices) - 1] - labels[part][:, None]
        errors += (left**2).sum(0)
    return choices[int(np.argmin(errors))]


def _squared_distances(rows: Floats, others: Floats) -> Floats:
    """Return the squared Euclidean distance of each of ``rows`` [N, D] to ``others`` [M, D]."""
    sizes = (rows**2).sum(1)[:, None] + (others**2).sum(1)
    distances: Floats = sizes - 2 * rows @ others.T
    return distances


def _means_of_nearest(apart: Floats, labels: Floats, most: int) -> Floats:
    """Return the mean label of the 1, 2, ... ``most`` nearest clips: [N, most].

    Args:
        apart: [N, M] distances.
        labels: [M].
        most: at most M.
    """
    near = np.argpartition(apart, most - 1, axis=1)[:, :most]
    order = np.argsort(np.take_along_axis(apart, near, 1), axis=1, kind="stable")
    found = labels[np.take_along_axis(near, order, 1)]
    means: Floats = found.cumsum(1) / np.arange(1, most + 1)
    return means


def support_vectors(
    features: Floats,
    target: Floats,
    train: Bools,
    test: Bools,
    blocks: Sequence[int],
    groups: Ints | None = None,
) -> Floats:
    """Predict each held-out clip by support vector regression on its fold's training clips.

    scikit-learn's ``SVR`` with its usual radial kernel and epsilon, of features scaled as ridge's
    and standardized labels. C is one of `COSTS`, of the least squared error when whole groups are
    held out in turn, in at most five parts. Arguments and result are those of `ridge`.
    """
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.svm import SVR

    predictions = np.full(len(target), np.nan)
    folds = _scaled(features, target, train, test, blocks, groups)
    for fold_test, rows, others, labels, mine in folds:
        center, spread = labels.mean(), labels.std() or 1.0
        part = np.zeros(len(labels), np.int64)
        for place, clips in enumerate(held_out_parts(len(labels), mine)):
            part[clips] = place % 5
        model = SVR()
        if part.any():
            model = GridSearchCV(
                model, {"C": COSTS}, scoring="neg_mean_squared_error", cv=PredefinedSplit(part)
            )
        model.fit(rows, (labels - center) / spread)
        predictions[fold_test] = center + spread * model.predict(others)
    return predictions
