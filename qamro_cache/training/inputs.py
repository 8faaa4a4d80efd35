"""What heads learn from: features, targets and folds over the same clips, in memory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from qamro_cache.datasets.preferences import Pairs
from qamro_cache.heads.architecture import row_blocks
from qamro_cache.losses.loss import Loss

if TYPE_CHECKING:  # Folds are made, and refused, before torch is loaded.
    from torch import Tensor

    from qamro_cache.heads.network import Rows

Bools = npt.NDArray[np.bool_]


class Features(NamedTuple):
    """One feature of a cache in memory.

    Attributes:
        windows: [W, ...].
        offsets: [C+1] int64, the windows of each clip; every clip has one.
        weights: [W], the fraction of each window that is audio.
        text: [C, T] each clip's prompt embedding, or None.
        parts: widths of the parts of a flat window; empty: each layer is one.
    """

    windows: "Tensor"
    offsets: "Tensor"
    weights: "Tensor"
    text: "Tensor | None" = None
    parts: tuple[int, ...] = ()

    def blocks(self, inputs: str) -> tuple[int, ...]:
        """Return the widths of what a flat row is made of; ``inputs`` of the `Architecture`."""
        *layers, width = self.windows.shape[1:]
        parts = self.parts or (width,) * math.prod(layers)
        return row_blocks(inputs, parts, 0 if self.text is None else self.text.shape[1])


@dataclass(frozen=True)
class Targets:
    """Labels to learn, a row each: an axis, or an axis as some of its raters have it.

    Attributes:
        labels: [T, C] in their own units, NaN where a clip has none; or [F, T, C], of each fold its
            own.
        ranges: [T, 2] the rating scales; NaN where nobody named one: then a head's scale is
            guessed from its own training labels (`datasets.axes.guess_scale`).
        spread: [T, C, 2] how many ratings each label is the mean of, and their variance around it;
            for ``gaussian`` heads alone; or [F, T, C, 2].
        pairs: verdicts on the same clips, on the axes that `axes` numbers; None: there are none.
        axes: of each row, by which pairs name it; empty: a row is an axis.
        source: [C] number of each clip's listening test, where labels are in standard units of
            each; None where all are of one.
        scales: [F, T, S, 2] mean and std of each test's training labels; NaN without any.
    """

    labels: "Tensor"
    ranges: "Tensor"
    spread: "Tensor | None" = None
    pairs: Pairs | None = None
    axes: Sequence[int] = ()
    source: "Tensor | None" = None
    scales: "Tensor | None" = None

    def pairs_of(self, row: int, clips: Bools) -> Bools:
        """Tell which pairs [..., P] a head of a row learns from those of ``clips`` [..., C]."""
        if self.pairs is None:
            return np.zeros((*clips.shape[:-1], 0), np.bool_)
        axis = self.axes[row] if len(self.axes) else row
        found: Bools = self.pairs.within(clips) & (self.pairs.axis == axis)
        return found

    def own_units(
        self, scores: npt.NDArray[np.float64], target: int, fold: int
    ) -> npt.NDArray[np.float64]:
        """Bring a head's scores [C] from standard units to the scale of each clip's test.

        Of a test that the fold did not learn from they stay as they are.
        """
        if self.scales is None or self.source is None:
            return scores
        mean, std = self.scales[fold, target][self.source].cpu().numpy().T
        return np.where(np.isnan(mean), scores, mean + std * scores)

    def has_scale(self, target: int, fold: int) -> Bools:
        """Tell which clips [C] are of a test that a fold knows the scale of: all, if of one."""
        if self.scales is None or self.source is None:
            return np.ones(self.labels.shape[-1], np.bool_)
        known: Bools = self.scales[fold, target, :, 0].isfinite()[self.source].cpu().numpy()
        return known

    def standard_units(
        self, scores: npt.NDArray[np.float64], target: int, fold: int
    ) -> npt.NDArray[np.float64]:
        """Bring scores [C] from the scale of each clip's test to a fold's standard units."""
        if self.scales is None or self.source is None:
            return scores
        mean, std = self.scales[fold, target][self.source].cpu().numpy().T
        found: npt.NDArray[np.float64] = (scores - mean) / std
        return found

    def of(self, target: "int | Tensor", fold: "int | Tensor") -> "Tensor":
        """Return the labels of a row in a fold [C], or of as many of both [H, C]."""
        return self.labels[target] if self.labels.ndim == 2 else self.labels[fold, target]

    def spread_of(self, target: "int | Tensor", fold: "int | Tensor") -> "Tensor | None":
        """Return the spread of rows in folds [H, C, 2]."""
        if self.spread is None or self.spread.ndim == 3:
            return None if self.spread is None else self.spread[target]
        return self.spread[fold, target]


def stacked(parts: Sequence[Targets]) -> Targets:
    """Put the rows of several targets of the same clips and folds under one another."""
    import torch

    folds = max((len(one.labels) for one in parts if one.labels.ndim == 3), default=0)

    def whole(name: str, rows: int) -> "Tensor":
        values = [getattr(one, name) for one in parts]
        if folds:
            values = [v if v.ndim > rows else v.expand(folds, *v.shape) for v in values]
        return torch.cat(values, -rows)

    labels, ranges = whole("labels", 2), torch.cat([one.ranges for one in parts])
    axes = [axis for one in parts for axis in one.axes]
    scales = None if parts[0].scales is None else whole("scales", 3)
    pairs, source = parts[0].pairs, parts[0].source
    return Targets(labels, ranges, whole("spread", 3), pairs, axes, source, scales)


@dataclass(frozen=True)
class Folds:
    """Who may see what: rows of masks over the clips.

    Attributes:
        train: [F, C] clips whose labels a head learns from.
        validation: [F, C] clips whose labels choose its epoch; an all-false row: a fixed number.
        test: [F, C] clips it is judged by; no head of the fold ever sees their labels.
        names: what each fold holds out, for people.
        groups: [C] clips of one number stay together where a part of the training clips is held
            out once more; None: any clip may be.
        whole: folds that hold out the same and learn from more clips: of fewer labels, the same
            clips are heard.
        outer: folds that these lie in, for a nested estimate.
        serves: of each fold those outer ones for which it judges what it holds out, but for what
            they hold out themselves.
    """

    train: Bools
    validation: Bools
    test: Bools
    names: Sequence[str] = ()
    groups: npt.NDArray[np.int64] | None = None
    whole: "Folds | None" = None
    outer: "Folds | None" = None
    serves: Sequence[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        counts = self.train.astype(np.int8) + self.validation + self.test
        if (counts > 1).any():
            raise ValueError("a clip is in two parts of one fold")
        if not self.train.any(1).all():
            raise ValueError(f"fold {int(self.train.any(1).argmin())} has no training clip")

    def teach(self, known: Bools) -> Bools:
        """Tell which folds [F] train a head, given the clips [C] that have a label on its axis.

        ``known`` may be [F, C], of each fold its own.

        Of fewer than two training labels there is nothing to learn.
        """
        taught: Bools = (self.train & known).sum(1) >= 2
        return taught


def taught(folds: Folds, targets: Targets, row: int, loss: Loss) -> Bools:
    """Tell which folds [F] have something to teach a head of a row of targets by such a loss.

    Two labels, where it has a term on labels, else a pair.
    """
    if loss.on_labels.terms:
        return folds.teach(targets.labels[..., row, :].isfinite().cpu().numpy())
    some: Bools = targets.pairs_of(row, folds.train).any(1)
    return some


@dataclass(frozen=True)
class Inputs:
    """What the heads of a bucket learn from, on the device they are trained on.

    Attributes:
        rows: of all clips, not standardized: by the views that some head sees, of one shape.
        offsets: [C+1] rows of each clip, in all views; None where a row is a clip.
        targets: in float64.
        folds: who may see what.
        order_seed: of the shared batches.
    """

    rows: "Mapping[int, Rows]"
    offsets: "Tensor | None"
    targets: Targets
    folds: Folds
    order_seed: int = 0

    @property
    def num_clips(self) -> int:
        """C."""
        return int(self.targets.labels.shape[-1])
