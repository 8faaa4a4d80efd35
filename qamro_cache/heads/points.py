"""Heads that keep training clips: the mean of the nearest ones, and support vector regression.

Both see features as ridge does: standardized by the clips that they are fitted to, each block of
one weight. What they keep are tensors; `heads.outputs` scores with them.
"""

from collections.abc import Iterator, Sequence
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

#: Distances at once: 32 MiB of float64.
_BLOCK = 1 << 22

#: Distances by which the number of neighbors is chosen at most; beyond some 8,000 clips a part of
#: them is predicted.
_CHOICE = 1 << 26


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
        _refuse_rows(max(len(features), len(self.points)), self.points.shape[1])
        rows = (features - self.mean) / self.std
        apart = squared_distances(rows, self.points)
        parts = [means_of_nearest(block, self.labels, self.k)[:, -1] for block in apart]
        predictions: Floats = np.concatenate([np.zeros(0), *parts])
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
    as ridge's penalty is chosen; of many clips a random part is predicted. Arguments are those of
    `fit_ridge`.
    """
    _refuse_rows(*features.shape)
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
    asked = np.ones(len(points), np.bool_)
    if len(points) ** 2 > _CHOICE:
        asked[np.random.default_rng(0).permutation(len(points))[_CHOICE // len(points) :]] = False
    errors = np.zeros(len(choices))
    for part in parts:
        rows = part[asked[part]]
        done = 0
        for apart in squared_distances(points[rows], points):
            # No clip of the part is a neighbor: all others are nearer.
            apart[:, part] = np.inf
            means = means_of_nearest(apart, labels, choices[0])
            own = labels[rows[done : done + len(apart)], None]
            errors += ((means[:, np.array(choices) - 1] - own) ** 2).sum(0)
            done += len(apart)
    return choices[int(np.argmin(errors))]


def _refuse_rows(clips: int, width: int) -> None:
    """Refuse standardized rows that would not fit in memory beside a block of distances."""
    refuse_memory(
        8 * (3 * clips * width + 4 * _BLOCK),
        f"distances of {clips:,} clips with {width:,} features",
        "use a --feature of fewer numbers",
    )


def squared_distances(rows: Floats, others: Floats) -> Iterator[Floats]:
    """Yield the squared Euclidean distances of ``rows`` [N, D], some at a time, to ``others``.

    Those to copies of one point are equal to the last digit.

    Args:
        rows: [N, D].
        others: [M, D].

    Yields:
        [B, M] of the next B rows, at most `_BLOCK` numbers or a row.
    """
    once: dict[bytes, int] = {}
    place = [once.setdefault(row.tobytes(), len(once)) for row in np.ascontiguousarray(others)]
    points = others[np.unique(place, return_index=True)[1]]
    own = (points**2).sum(1)
    step = max(1, _BLOCK // max(1, len(others)))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        sizes = (some**2).sum(1)[:, None] + own
        apart = sizes - 2 * some @ points.T
        yield apart if len(points) == len(others) else apart[:, place]


def means_of_nearest(apart: Floats, labels: Floats, most: int) -> Floats:
    """Return the mean label of the 1, 2, ... ``most`` nearest clips: [N, most].

    Of clips that are equally near the first count first, as in `heads.point_scores`.

    Args:
        apart: [N, M] distances.
        labels: [M].
        most: at most M.
    """
    import torch

    near = torch.from_numpy(apart).topk(most, largest=False).indices.sort().values.numpy()
    own = np.take_along_axis(apart, near, 1)
    near = np.take_along_axis(near, np.argsort(own, axis=1, kind="stable"), 1)
    # Where others are as near as the last of them, which these are is not said.
    tied = (apart <= own.max(1, keepdims=True)).sum(1) > most
    near[tied] = np.argsort(apart[tied], axis=1, kind="stable")[:, :most]
    means: Floats = labels[near].cumsum(1) / np.arange(1, most + 1)
    return means
