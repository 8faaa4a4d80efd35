"""What a head must beat: the mean training label; ridge and nearest clips on the same vectors."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple, Protocol

import numpy as np

from qamro_cache.evaluation.judged import Bools, Floats, Ints
from qamro_cache.heads.points import fit_neighbors, fit_vectors
from qamro_cache.heads.ridge import fit_ridge


class Fitted(Protocol):
    """Predicts clips [C, D] in label units."""

    def predict(self, features: Floats) -> Floats:
        """Predict: [C]."""


#: Fits clips by their vectors, labels, blocks and groups, as `fit_ridge` does.
Fit = Callable[[Floats, Floats, Sequence[int], Ints | None], Fitted]

#: What learns from vectors, by its name in the tables; SVR where scikit-learn is installed.
FITS: Mapping[str, Fit] = {"ridge": fit_ridge, "kNN": fit_neighbors, "SVR": fit_vectors}


class View(NamedTuple):
    """What baselines see of C clips, and by which F folds they learn.

    Attributes:
        vectors: [C, D] one a clip.
        learned: [F, C] the clips that each fold learns from, and chooses a penalty or k by.
        test: [F, C] the clips that each fold predicts; a clip in two folds gets the later one's.
        blocks: widths of the vectors' blocks.
        groups: [C] clips that stay together as a penalty or k is chosen; see `fit_ridge`.
    """

    vectors: Floats
    learned: Bools
    test: Bools
    blocks: Sequence[int]
    groups: Ints | None = None


def baselines(view: View, truth: Floats, *, every: bool = False) -> dict[str, Floats]:
    """Predict held-out clips by what a head must beat: name -> predictions [C].

    Args:
        view: of the clips.
        truth: [C] labels, NaN where a clip has none.
        every: support vector regression too.
    """
    left_out = () if every and find_spec("sklearn") is not None else ("SVR",)
    made = {name: by_fold(fit, view, truth) for name, fit in FITS.items() if name not in left_out}
    return {**made, "train mean": train_mean(view, truth)}


def by_fold(fit: Fit, view: View, truth: Floats) -> Floats:
    """Predict each fold's clips by what its training clips are fitted by.

    Returns:
        [C] predictions, NaN where no fold predicts a clip, or one has no label to learn from.
    """
    predictions = np.full(len(truth), np.nan)
    for learned, test in zip(view.learned, view.test, strict=True):
        used = learned & np.isfinite(truth)
        if used.any() and test.any():
            groups = None if view.groups is None else view.groups[used]
            fitted = fit(view.vectors[used], truth[used], view.blocks, groups)
            predictions[test] = fitted.predict(view.vectors[test])
    return predictions


def train_mean(view: View, truth: Floats) -> Floats:
    """Predict each held-out clip by its fold's mean training label.

    Out of a leave-one-out split these correlate negatively with the truth: taking a good group out
    lowers the mean.
    """
    predictions = np.full(len(truth), np.nan)
    for learned, test in zip(view.learned, view.test, strict=True):
        used = learned & np.isfinite(truth)
        predictions[test] = truth[used].mean() if used.any() else np.nan
    return predictions
