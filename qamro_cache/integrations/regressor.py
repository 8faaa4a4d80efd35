"""QamroRegressor: heads on arrays in memory, as an estimator of scikit-learn."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from qamro_cache.datasets.axes import guess_scale
from qamro_cache.datasets.records import Axis
from qamro_cache.devices import usable_device
from qamro_cache.encoders.support import missing_packages
from qamro_cache.errors import QamroError
from qamro_cache.experiments.fitting import (
    Fitted,
    axis_head,
    fit_heads,
    refit_recipe,
    refuse_diverged,
)
from qamro_cache.experiments.folds import keep_for_stopping
from qamro_cache.experiments.options import TrainOptions
from qamro_cache.heads.network import forward, input_width
from qamro_cache.memory import refuse_memory
from qamro_cache.settings import Setting, described, settings_of
from qamro_cache.training.inputs import Features, Folds, Targets
from qamro_cache.training.recipe import RECIPE, Job, Recipe, make_recipe
from qamro_cache.training.schedule import steps_per_epoch

try:
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.utils.validation import (
        _check_sample_weight,
        check_consistent_length,
        check_is_fitted,
        validate_data,
    )
except ImportError as error:
    missing = missing_packages(["sklearn"], "sklearn")
    raise QamroError(missing[0] if missing else f"scikit-learn is too old: {error}") from error

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Of a recipe what is about windows, layers and prompts, which a vector a clip does not have.
NOT_OF_VECTORS = ("pooling", "layers", "inputs")
_OPTIONS = settings_of(TrainOptions)
#: Every parameter of `QamroRegressor` by its declaration.
PARAMETERS: Mapping[str, Setting] = {
    **{name: one for name, one in RECIPE.items() if name not in NOT_OF_VECTORS},
    "scale": Setting(
        "scale", float, None, "Low and high end of the ratings.", several=True,
        default_help="guessed from the ratings",
    ),
    **{name: _OPTIONS[name] for name in ("seeds", "stop", "device")},
}  # fmt: skip
#: Clips predicted at once: bounds the memory for hidden layers.
_CLIPS = 8192


class QamroRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Predict ratings from a vector a clip, with the heads of qamro-train; no cache anywhere.

    A head a seed is trained on all samples and the predictions are averaged, as in the head that
    `qamro_cache.train` saves. None, the default of every parameter, is the recipe's default, which
    may depend on others. It is deterministic: the seeds are 0, 1, ...

    Attributes:
        head_: the trained members, an `AxisHead`.
        recipe_: what they were trained by; of ``stop="inner"`` with the number of epochs found.
        n_features_in_: D.
    """

    def __init__(
        self,
        *,
        loss: str | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        normalize: str | None = None,
        bins: str | None = None,
        width: float | None = None,
        temperature: float | None = None,
        delta: float | None = None,
        optimizer: str | None = None,
        lr: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        dropout: float | None = None,
        batch_size: int | None = None,
        batches: str | None = None,
        epochs: int | None = None,
        patience: int | None = None,
        head: str | None = None,
        widths: Sequence[int] | None = None,
        activation: str | None = None,
        layer_norm: bool | None = None,
        output: str | None = None,
        scale: tuple[float, float] | None = None,
        seeds: int | None = None,
        stop: str | None = None,
        device: str | None = None,
    ) -> None:
        given = locals()
        for name in PARAMETERS:
            setattr(self, name, given[name])

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        groups: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Train.

        Args:
            X: [N, D] a vector a clip.
            y: [N] its mean rating.
            groups: [N] clips of one value stay together where some are held out: to stop by
                (``stop="inner"``), and to choose a ridge's penalty.
            sample_weight: [N] whole numbers: how often a clip is taken, as its number of ratings.

        Raises:
            ValueError: an array that does not fit, or a parameter that is not as declared.
            QamroError: all heads diverged, or there is not memory enough.
        """
        given = {name: _plain(getattr(self, name)) for name in PARAMETERS}
        chosen = {name: value for name, value in given.items() if value is not None}
        recipe = make_recipe({name: value for name, value in chosen.items() if name in RECIPE})
        _refuse_pairs(recipe)
        seeds, stop, device = (
            _OPTIONS[name].check(chosen.get(name, _OPTIONS[name].default))
            for name in ("seeds", "stop", "device")
        )
        checks = {"dtype": np.float32, "y_numeric": True, "ensure_min_samples": 2}
        rows, labels = validate_data(self, X, y, **checks)
        input_width(recipe.head, rows.shape[1:])
        together = None
        if groups is not None:
            together = _groups(groups, rows)
        if sample_weight is not None:
            taken = _repeats(sample_weight, rows)
            rows, labels = rows[taken], labels[taken]
            if together is not None:
                together = together[taken]
            elif (np.diff(taken) == 0).any():
                together = taken  # copies are no clips of their own
        labels = np.asarray(labels, np.float64)
        scale = _scale(chosen.get("scale"), labels)
        data = _Samples(rows, labels, together, scale)
        jobs = range(1 if recipe.head.closed else seeds)
        where = usable_device(device)
        if stop == "inner":
            folds = data.kept_for_stopping()
            estimate = data.fit(recipe, jobs, folds, where)
            before, after = (
                steps_per_epoch(of, data.targets, recipe, 0) for of in (folds, data.all_in())
            )
            recipe = refit_recipe(recipe, estimate.steps(0, before), int(after[0]))
        refit = data.fit(recipe, jobs, data.all_in(), where)
        refuse_diverged(recipe, refit)
        self.recipe_ = recipe
        self.head_ = axis_head(Axis("rating", *scale), refit, range(len(jobs)))
        return self

    def predict(self, X: npt.ArrayLike) -> Floats:
        """Return the members' mean rating [N] of vectors [N, D]."""
        check_is_fitted(self)
        vectors = validate_data(self, X, dtype=np.float32, reset=False)
        one, params = self.head_, {k: v.double() for k, v in self.head_.params.items()}
        mean, std = one.row_mean, one.row_std
        found = []
        for start in range(0, len(vectors), _CLIPS):
            rows = torch.from_numpy(vectors[start : start + _CLIPS].astype(np.float64))
            out = forward(
                self.recipe_.head,
                params,
                *_a_row_each(rows),
                mean=None if mean is None else mean.double(),
                std=None if std is None else std.double(),
                bounds=one.bounds.double(),
            )
            found.append(out.mean(0))
        predicted: Floats = (one.label_mean + one.label_std * torch.cat(found)).numpy()
        return predicted


QamroRegressor.__doc__ = described(QamroRegressor.__doc__, PARAMETERS.values())


class _Samples:
    """What heads learn from: X [N, D], y [N], groups [N] or None, and the ends of the scale."""

    def __init__(
        self,
        X: npt.NDArray[np.float32],
        y: Floats,
        groups: Ints | None,
        scale: tuple[float, float],
    ) -> None:
        rows = torch.from_numpy(np.require(X, np.float32, ["C", "W"]))
        self.features = Features(*_a_row_each(rows), parts=(X.shape[1],))
        labels = torch.from_numpy(np.array(y))[None]
        # Each label is one rating, whose variance around it is none.
        spread = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(1, len(y), 2)
        self.targets = Targets(labels, torch.tensor([scale], dtype=torch.float64), spread)
        self.groups = groups

    def all_in(self) -> Folds:
        """Return the one fold that learns from all."""
        every = np.ones(self.targets.labels.shape[1], np.bool_)
        nothing = ~every[None]
        return Folds(every[None], nothing, nothing, ("none",), self.groups)

    def kept_for_stopping(self) -> Folds:
        """Return a fold that keeps some samples, whole groups, to stop by."""
        every = np.ones(self.targets.labels.shape[1], np.bool_)
        kept = keep_for_stopping(every, self.groups, 0)
        return Folds(~kept[None], kept[None], ~every[None], ("none",), self.groups)

    def fit(self, recipe: Recipe, seeds: Sequence[int], folds: Folds, device: str) -> Fitted:
        """Train a head a seed in a fold."""
        jobs = [Job(recipe, seed) for seed in seeds]
        return fit_heads((self.features,), self.targets, folds, jobs, device=device)


def _a_row_each(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return vectors as windows, their offsets and their weights: a clip is a window."""
    return rows, torch.arange(len(rows) + 1), torch.ones(len(rows), dtype=rows.dtype)


def _plain(value: Any) -> Any:
    """Return a parameter without numpy's types, in which searches give them."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _scale(given: Sequence[float] | None, y: Floats) -> tuple[float, float]:
    """Return the ends of the rating scale: those given, or guessed from the ratings."""
    if given is None:
        low, high = float(y.min()), float(y.max())
        return guess_scale(low, high if high > low else low + 1)
    ends = PARAMETERS["scale"].check(given)
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise ValueError(f"scale must be a low and a high end, got {given!r}")
    if (off := np.flatnonzero((y < ends[0]) | (y > ends[1]))).size:
        raise ValueError(
            f"y[{off[0]}] is {y[off[0]]:g}, which is not on the scale {ends[0]:g} to {ends[1]:g}"
        )
    return ends[0], ends[1]


def _refuse_pairs(recipe: Recipe) -> None:
    if recipe.takes("loss") and recipe.loss.on_pairs.terms:
        names = ", ".join(term.name for term in recipe.loss.on_pairs.terms)
        raise ValueError(
            f"loss={recipe.loss} learns from pairs ({names}), which fit does not take; name a "
            "loss of labels alone"
        )


def _groups(groups: npt.ArrayLike, X: npt.NDArray[np.float32]) -> Ints:
    """Return the number of each sample's group."""
    check_consistent_length(X, groups)
    values = np.asarray(groups)
    if values.ndim != 1:
        raise ValueError(f"groups must be [N], a value a sample, got shape {list(values.shape)}")
    try:
        numbers: Ints = np.unique(values, return_inverse=True)[1].astype(np.int64)
    except TypeError as error:
        raise ValueError(
            f"groups must be numbers or texts, all of one kind ({error}); name the group of every "
            "sample"
        ) from error
    return numbers


def _repeats(sample_weight: npt.ArrayLike, X: npt.NDArray[np.float32]) -> Ints:
    """Return the samples, each as often as its weight says, in their order."""
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if (odd := np.flatnonzero(weight % 1)).size:
        raise ValueError(
            f"sample_weight[{odd[0]}] is {weight[odd[0]]:g}: a weight is how often a sample is "
            "taken, a whole number, for example its number of ratings"
        )
    total = float(weight.sum())
    what = f"sample_weight: {total:,.0f} samples of {X.shape[1]:,} numbers"
    refuse_memory(8 * total * X.shape[1], what, "give smaller weights")
    taken: Ints = np.repeat(np.arange(len(X)), weight.astype(np.int64))
    return taken
