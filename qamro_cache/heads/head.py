"""What a head is: its members an axis, what it reads, what it was trained on; and an ensemble."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qamro_cache.datasets.records import Axis
from qamro_cache.features.context import Context
from qamro_cache.features.vectors import Projections
from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.ood import Reference
from qamro_cache.heads.trained import Trained
from qamro_cache.identity import identity_sha256


class Preference(NamedTuple):
    """What the members of an axis learned of given pairs.

    Of clips with scores s_a and s_b, with x = (s_a - s_b) / tau, a is preferred, b is, or it is a
    tie as exp(x/2) to exp(-x/2) to ``tie``.

    Attributes:
        tau: in the units of the scores, before a calibration.
        tie: Davidson's tie parameter; 0 where no tie was learned from.
        alone: nothing but pairs was learned from: scores are in standard units (mean 0 and
            standard deviation 1 over the training clips), which no rating scale has.
    """

    tau: float
    tie: float
    alone: bool


def preference_of(record: Any) -> Preference | None:
    """Return what a file says was learned of pairs; None for nothing.

    Raises:
        ValueError: it is no such record.
    """
    if record is None:
        return None
    made = Preference(**record)
    tau, tie = float(made.tau), float(made.tie)
    if not (0 < tau < math.inf and 0 <= tie < math.inf and isinstance(made.alone, bool)):
        raise ValueError("what it learned of pairs is no tau with a tie parameter")
    return Preference(tau, tie, made.alone)


@dataclass(frozen=True)
class AxisHead:
    """The members of one axis: M heads of one shape, whose scores are averaged.

    Attributes:
        axis: name and range of the scores.
        seeds: M seeds, a member each.
        params: name -> [M, ...], as `heads.parameters.init_params` lays them out; they take
            standardized rows and give standardized scores.
        label_mean: score = label_mean + label_std * output.
        label_std: as above, in the axis' units, positive.
        row_mean: [D], or [L, D] of layers, subtracted from a row; None where the head takes rows
            as they are.
        row_std: [D] by which the difference is divided; None with ``row_mean``.
        reference: training clips of this axis, where they are others than the head's first axis
            has; None: `Head.reference`.
        projections: in what the head reads, fitted to the training clips of this axis.
        preference: what it learned of given pairs; None where it learned of none.
        scales: of each listening test that it learned from, where these are several: mean and std
            of its training labels, and its lowest and highest rating.
        source: the test on whose scale ``axis``, ``label_mean`` and ``label_std`` are; empty
            without ``scales``.
    """

    axis: Axis
    seeds: tuple[int, ...]
    params: Mapping[str, Tensor]
    label_mean: float
    label_std: float
    row_mean: Tensor | None = None
    row_std: Tensor | None = None
    reference: Reference | None = None
    projections: Projections = field(default_factory=dict)
    preference: Preference | None = None
    scales: Mapping[str, tuple[float, float, float, float]] = field(default_factory=dict)
    source: str = ""

    def on(self, source: str) -> "AxisHead":
        """Return the same members with scores on the scale of a test of ``scales``."""
        mean, std, low, high = self.scales[source]
        old_mean, old_std, *_ = self.scales[self.source]
        return replace(
            self,
            axis=replace(self.axis, low=low, high=high),
            label_mean=mean + std * (self.label_mean - old_mean) / old_std,
            label_std=std * self.label_std / old_std,
            source=source,
        )

    @property
    def standard(self) -> bool:
        """Whether scores are in standard units, on no rating scale."""
        return self.preference is not None and self.preference.alone

    @property
    def bounds(self) -> Tensor:
        """The axis' range in standardized units [M, 2], for a bounded output."""
        ends = [(end - self.label_mean) / self.label_std for end in (self.axis.low, self.axis.high)]
        return torch.tensor([ends]).expand(len(self.seeds), 2)


#: Marks a field that stands in the file's record as it is: text, a number, a mapping of JSON types.
#: One that older files lack has the default None, and None is left out.
AS_IT_IS = {"as it is": True}


@dataclass(frozen=True)
class Head:
    """Everything that a prediction needs.

    Attributes:
        architecture: the same for all axes.
        row: shape of one row that the heads see ([D], or [L, D] of cached layers).
        feature: what is read, as `features.expression` has it, with every name in full.
        text_feature: name of the prompt's feature; empty for a head on audio alone.
        identities: of the caches it was trained on, one an encoder that is read; predicting from
            any other is refused.
        axes: one `AxisHead` an axis.
        reference: clips of the training set, to tell whether a new one is out of distribution.
        training: how it was trained: dataset, settings, synthetic or not, versions. JSON types.
        trained: the clips that it learned from; None where nobody noted them.
        context: what a clip's company is to it; None: it looks at a clip alone.
        figures: how good it was found, on clips that were held out, before it was trained on all:
            of each axis the figures of its heads and of the baselines with intervals, verdicts and
            the ceiling. JSON types; None where nobody noted them.
        calibration: axis -> what brings its scores to another scale (`heads.calibration`), as JSON
            types; None: scores are as the members give them.
    """

    architecture: Architecture
    row: tuple[int, ...]
    feature: str = field(metadata=AS_IT_IS)
    text_feature: str = field(metadata=AS_IT_IS)
    identities: tuple[Mapping[str, Any], ...]
    axes: tuple[AxisHead, ...]
    reference: Reference
    training: Mapping[str, Any] = field(default_factory=dict, metadata=AS_IT_IS)
    trained: Trained | None = None
    context: Context | None = None
    figures: Mapping[str, Any] | None = field(default=None, metadata=AS_IT_IS)
    calibration: Mapping[str, Any] | None = field(default=None, metadata=AS_IT_IS)


@dataclass(frozen=True)
class Ensemble:
    """Several heads as one: the mean of their scores, each counted as often as it was chosen.

    Attributes:
        members: the heads; each predicts one of the axes or several.
        times: of each member, how often it counts on each of its own axes.
        axes: what is predicted; each is one of some member's.
        training: as of `Head`.
        trained: as of `Head`, of these axes; the members have none of their own.
        figures: as of `Head`.
        calibration: as of `Head`, of the mean; the members have none of their own.
    """

    members: tuple[Head, ...]
    times: tuple[tuple[int, ...], ...]
    axes: tuple[Axis, ...]
    training: Mapping[str, Any] = field(default_factory=dict)
    trained: Trained | None = None
    figures: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None

    @property
    def identities(self) -> tuple[Mapping[str, Any], ...]:
        """Of all caches that some member reads, each once."""
        every = [one for head in self.members for one in head.identities]
        return tuple({identity_sha256(one): one for one in every}.values())


#: What a head file holds.
AnyHead = Head | Ensemble


def members_of(head: AnyHead) -> tuple[Head, ...]:
    """Return the heads of an ensemble, or the one."""
    return head.members if isinstance(head, Ensemble) else (head,)


def axes_of(head: AnyHead) -> tuple[Axis, ...]:
    """Return what is predicted."""
    return head.axes if isinstance(head, Ensemble) else tuple(one.axis for one in head.axes)


def members_on(head: AnyHead, axis: str) -> int:
    """Return how many members, seeds of each head, an axis' score is the mean of."""
    heads = members_of(head)
    return sum(len(heads[k].axes[row].seeds) for k, row, _ in shares_of(head, axis))


def standard_axes(head: AnyHead) -> list[str]:
    """Return the axes whose scores are in standard units, on no rating scale."""
    if isinstance(head, Ensemble):
        return []
    names = [one.axis.name for one in head.axes if one.standard]
    return [name for name in names if name not in (head.calibration or {})]


def shares_of(head: AnyHead, axis: str) -> list[tuple[int, int, float]]:
    """Return what an axis' score is the mean of: (member, its axis, share) of each that has it."""
    if isinstance(head, Head):
        return [(0, [one.axis.name for one in head.axes].index(axis), 1.0)]
    found = [
        (place, row, times)
        for place, (member, counts) in enumerate(zip(head.members, head.times, strict=True))
        for row, (one, times) in enumerate(zip(member.axes, counts, strict=True))
        if one.axis.name == axis
    ]
    total = sum(times for *_, times in found)
    return [(place, row, times / total) for place, row, times in found]
