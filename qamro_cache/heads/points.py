"""Heads that keep training clips: the mean of the nearest ones, and support vector regression.

Both see features as ridge does: standardized by the clips that they are fitted to, each block of
one weight. What they keep are tensors; `heads.outputs` scores with them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qamro_cache.heads.ridge import held_out_parts, scaling
from qamro_cache.memory import refuse_memory

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Among how many nearest clips is chosen; of equally good numbers the largest, which comes first.
NEIGHBORS = (100, 70, 50, 30, 20, 15, 10, 7, 5, 3, 2, 1)

#: Among what the cost of an error of support vector regression is chosen.
COSTS = (0.1, 1.0, 10.0, 100.0)


class Neighbors(NamedTuple):
    """The training clips, of which the k nearest are averaged.

    Attributes:
        mean: [D] of the clips.
        std: [D] theirs, times the square root of the width of a feature's block.
        points: [N, D] the clips, standardized so.
        labels: [N].
        k: how many are averaged.
    """

    mean: Floats
    std: Floats
    points: Floats
    labels: Floats
    k: int

    @property
    def intercept(self) -> float:
        """The mean label."""
        return float(self.labels.mean())

    @property
    def penalty(self) -> float:
        """None."""
        return float("nan")

    def predict(self, features: Floats) -> Floats:
        """Predict clips [C, D] in label units: [C]."""
        _refuse_distances(len(features), *self.points.shape)
        rows = (features - self.mean) / self.std
        found = means_of_nearest(squared_distances(rows, self.points), self.labels, self.k)
        predictions: Floats = found[:, self.k - 1]
        return predictions

    def params(self, label_std: float) -> dict[str, Any]:
        """Return what a head keeps, for standardized labels."""
        labels = (self.labels - self.intercept) / label_std
        return {"points": self.points, "labels": labels, "shares": np.full(self.k, 1 / self.k)}


class Vectors(NamedTuple):
    """A fitted support vector regression with a radial kernel.

    Attributes:
        mean: [D], as of `Neighbors`.
        std: [D], as of `Neighbors`.
        model: scikit-learn's, of standardized rows and labels.
        gamma: of the kernel exp(-gamma * squared distance).
        intercept: mean label.
        spread: of the labels.
    """

    mean: Floats
    std: Floats
    model: Any
    gamma: float
    intercept: float
    spread: float

    @property
    def penalty(self) -> float:
        """None."""
        return float("nan")

    def predict(self, features: Floats) -> Floats:
        """Predict clips [C, D] in label units: [C]."""
        rows = (features - self.mean) / self.std
        predictions: Floats = self.intercept + self.spread * self.model.predict(rows)
        return predictions

    def params(self, label_std: float) -> dict[str, Any]:
        """Return what a head keeps: the support vectors, their coefficients, gamma and the bias."""
        scale = self.spread / label_std
        return {
            "points": self.model.support_vectors_,
            "labels": self.model.dual_coef_[0] * scale,
            "gamma": np.array([self.gamma]),
            "bias": self.model.intercept_ * scale,
        }


def fit_neighbors(
    features: Floats, target: Floats, blocks: Sequence[int], groups: Ints | None = None
) -> Neighbors:
    """Keep clips, and choose how many of the nearest are averaged.

    k is one of `NEIGHBORS`, of the least squared error when the clips' groups are held out in turn,
    as ridge's penalty is chosen. Arguments are those of `fit_ridge`.
    """
    _refuse_distances(len(features), *features.shape)
    mean, std, scale = scaling(features, blocks)
    points = (features - mean) / (std * scale)
    k = _choose_k(points, target, groups)
    return Neighbors(mean, std * scale, points, target, k)


def fit_vectors(
    features: Floats, target: Floats, blocks: Sequence[int], groups: Ints | None = None
) -> Vectors:
    """Fit labels by support vector regression: scikit-learn's ``SVR`` with its usual epsilon.

    Labels are standardized. C is one of `COSTS`, of the least squared error when whole groups are
    held out in turn, in at most five parts. Arguments are those of `fit_ridge`.
    """
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.svm import SVR

    mean, std, scale = scaling(features, blocks)
    rows = (features - mean) / (std * scale)
    center, spread = float(target.mean()), float(target.std()) or 1.0
    part = np.zeros(len(target), np.int64)
    for place, clips in enumerate(held_out_parts(len(target), groups)):
        part[clips] = place % 5
    model = SVR()
    if part.any():
        model = GridSearchCV(
            model, {"C": COSTS}, scoring="neg_mean_squared_error", cv=PredefinedSplit(part)
        )
    model.fit(rows, (target - center) / spread)
    # What gamma="scale" is; of rows that are all alike, 1.
    variance = float(rows.var())
    gamma = 1 / (rows.shape[1] * variance) if variance else 1.0
    return Vectors(
        mean, std * scale, getattr(model, "best_estimator_", model), gamma, center, spread
    )


def _choose_k(points: Floats, labels: Floats, groups: Ints | None) -> int:
    """Return how many neighbors predict the parts best, each held out in its turn."""
    parts = held_out_parts(len(points), groups)
    # In every part there must be that many others.
    fewest = len(points) - max(map(len, parts), default=0)
    choices = [k for k in NEIGHBORS if k <= fewest]
    apart = squared_distances(points, points)
    errors = np.zeros(len(choices))
    for part in parts:
        others = np.setdiff1d(np.arange(len(points)), part)
        means = means_of_nearest(apart[np.ix_(part, others)], labels[others], choices[0])
        left = means[:, np.array(choices) - 1] - labels[part][:, None]
        errors += (left**2).sum(0)
    return choices[int(np.argmin(errors))]


def _refuse_distances(asked: int, known: int, width: int) -> None:
    """Refuse distances of clips to the known ones that would not fit in memory."""
    refuse_memory(
        8 * (3 * max(asked, known) * width + 4 * known * asked),
        f"distances of {known:,} clips with {width:,} features",
        "use a --feature of fewer numbers",
    )


def squared_distances(rows: Floats, others: Floats) -> Floats:
    """Return the squared Euclidean distance of each of ``rows`` [N, D] to ``others`` [M, D].

    Those to copies of one point are equal to the last digit.
    """
    once: dict[bytes, int] = {}
    place = [once.setdefault(row.tobytes(), len(once)) for row in np.ascontiguousarray(others)]
    points = others[np.unique(place, return_index=True)[1]]
    sizes = (rows**2).sum(1)[:, None] + (points**2).sum(1)
    distances: Floats = (sizes - 2 * rows @ points.T)[:, place]
    return distances


def means_of_nearest(apart: Floats, labels: Floats, most: int) -> Floats:
    """Return the mean label of the 1, 2, ... ``most`` nearest clips: [N, most].

    Of clips that are equally near the first count first, as in `heads.point_scores`.

    Args:
        apart: [N, M] distances.
        labels: [M].
        most: at most M.
    """
    near = np.argsort(apart, axis=1, kind="stable")[:, :most]
    means: Floats = labels[near].cumsum(1) / np.arange(1, most + 1)
    return means
