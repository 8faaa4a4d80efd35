"""Figures with one system, one group or one diagonal block of clips left out, for intervals.

The two-way cluster jackknife of MacKinnon, Nielsen and Webb (arXiv 2406.08880): a way is a kind of
cluster (systems; prompts, songs or other groups) whose labels are random draws of those that the
test stands for. Every left-out sample is a row of 0/1 weights that the metrics take.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qamro_cache.evaluation.judged import Bools, Floats, Ints
from qamro_cache.evaluation.metrics import ktau

#: More labels of a way than this are merged at random: 200 left-out samples tell a variance.
MOST_LABELS = 200

#: A way of fewer labels cannot tell how labels differ: it is taken as it is.
FEWEST_LABELS = 3

#: Up to this many systems the second-order term of a difference is computed (S^2 / 2 samples).
MOST_PAIRED = 60

#: Left-out samples computed at once: bounds memory at N clips to 64 N numbers a metric.
_CHUNK = 64

Metric = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Way(NamedTuple):
    """A kind of cluster.

    Attributes:
        noun: what a label is: ``system``, ``song``.
        label: [N] each clip's label, 0..labels-1.
        labels: C, how many there are.
        alone: clips that no label was known of; each is a label of its own.
    """

    noun: str
    label: Ints
    labels: int
    alone: int = 0


@dataclass(frozen=True)
class Ways:
    """What an interval is over: one way or two, and the ways that are taken as they are."""

    over: tuple[Way, ...]
    fixed: tuple[Way, ...] = ()

    @property
    def population(self) -> str:
        """The population in words: ``over systems and songs``, ``these 2 systems, over songs``."""
        over = f"over {' and '.join(f'{way.noun}s' for way in self.over)}"
        if self.fixed:
            counts = [f"{w.labels} {w.noun}s" if w.labels > 1 else w.noun for w in self.fixed]
            over = (
                f"{'these' if self.fixed[0].labels > 1 else 'this'} {' and '.join(counts)}, {over}"
            )
        alone = [
            f"{way.alone} clip{'s' if way.alone > 1 else ''} without a {way.noun}"
            for way in self.over
            if way.alone
        ]
        return f"{over} ({', '.join(alone)}: each stands for one)" if alone else over

    def clusters(self) -> list[Ints]:
        """[N] labels of each way, at most `MOST_LABELS`, and of the diagonal blocks of two ways.

        A block holds the clips of (system + group) mod max(S, G): at most one clip a system and
        group where each made one for each, so what is left out is neither a system's nor a group's.
        """
        ways = [_merged(way.label, way.labels) for way in self.over]
        if len(ways) == 2:
            size = max(int(label.max()) + 1 for label in ways)
            ways.append(np.unique((ways[0] + ways[1]) % size, return_inverse=True)[1])
        return ways


def make_ways(clips: int, *named: tuple[str, Ints]) -> Ways:
    """Say what an interval is over.

    Args:
        clips: N.
        named: noun and labels [N] (-1 for none) of at most two ways, systems first. A way without
            any label is absent, one of fewer than three is fixed; without a way that is neither,
            the clips are the clusters.
    """
    over: list[Way] = []
    fixed: list[Way] = []
    for noun, given in named:
        known = given >= 0
        if not known.any():
            continue
        label = np.unique(given, return_inverse=True)[1] - (0 if known.all() else 1)
        count, alone = int(label.max()) + 1, int((~known).sum())
        label[~known] = count + np.arange(alone)
        way = Way(noun, label, count + alone, alone)
        (over if way.labels >= FEWEST_LABELS else fixed).append(way)
    if not over:
        over.append(Way("clip", np.arange(clips), clips))
    return Ways(tuple(over), tuple(fixed))


@dataclass(frozen=True)
class Sample:
    """The clips that models are judged by, each with a label of an axis and a prediction.

    Attributes:
        target: [N] labels.
        ways: what intervals are over.
        system: [N] each clip's system from 0, -1 for none.
        group: [N] the group within which clips are ranked, from 0, -1 for none.
        truth: [S] published system scores; where NaN, or not given, the mean over the clips.
    """

    target: Floats
    ways: Ways
    system: Ints
    group: Ints
    truth: Floats | None = None


def make_sample(
    target: Floats, system: Ints, second: tuple[str, Ints], truth: Floats | None = None
) -> Sample:
    """Make a sample of labels [N], systems [N], the second way (noun, [N]) and `Sample.truth`."""
    ways = make_ways(len(target), ("system", system), second)
    return Sample(target, ways, system, second[1], truth)


class LeftOut(NamedTuple):
    """A figure of M models: in the sample [M], and without each cluster of each way [M, C].

    Where there are two ways, the third of ``parts`` leaves out the diagonal blocks.
    """

    value: Floats
    parts: tuple[Floats, ...]

    def of(self, models: Sequence[int] | Ints | slice) -> "LeftOut":
        """The same of some of the models."""
        return LeftOut(self.value[models], tuple(part[models] for part in self.parts))


def left_out(level: str, metric: Metric, pred: Floats, sample: Sample) -> LeftOut:
    """Compute a figure in the sample and in every left-out sample.

    Args:
        level: ``clip``, ``group`` (the mean over groups of the metric within each) or ``system``
            (clips without a system are then no part of the sample).
        metric: of (predictions [..., N], targets, weights) as in `metrics`.
        pred: [M, N] predictions of M models: where a model has seeds, their mean.
        sample: the same clips.
    """
    if level == "system":
        pred, sample = with_systems(pred, sample)
    clusters = sample.ways.clusters()
    p, t = torch.as_tensor(pred), torch.as_tensor(sample.target)
    if level == "clip" and metric is ktau:
        found = [_tau(row, sample.target, clusters) for row in pred]
        values = np.array([value for value, _ in found])
        rows = zip(*(parts for _, parts in found), strict=True)
        return LeftOut(values, tuple(np.stack(row) for row in rows))
    whole = np.zeros(len(sample.target), np.int64)
    compute = {"clip": _of_clips, "group": _of_groups, "system": _of_systems}[level]
    value = compute(metric, p, t, sample, whole - 1, 1)[:, 0]
    parts = [compute(metric, p, t, sample, label, int(label.max()) + 1) for label in clusters]
    return LeftOut(value, tuple(parts))


def with_systems(pred: Floats, sample: Sample) -> tuple[Floats, Sample]:
    """The clips that have a system, alone."""
    inside = sample.system >= 0
    if inside.all() or not inside.any():
        return pred, sample
    ways = tuple(_part(way, inside) for way in sample.ways.over)
    kept = replace(
        sample,
        target=sample.target[inside],
        system=sample.system[inside],
        group=sample.group[inside],
        ways=replace(sample.ways, over=ways),
    )
    return pred[:, inside], kept


def system_pairs(metric: Metric, pred: Floats, sample: Sample) -> Floats | None:
    """A system figure without each pair of systems: [M, S(S-1)/2]; None beyond `MOST_PAIRED`."""
    pred, sample = with_systems(pred, sample)
    size = int(sample.system.max()) + 1
    if not 4 <= size <= MOST_PAIRED:
        return None
    p, t, counted = _means(torch.as_tensor(pred), torch.as_tensor(sample.target), sample, None)
    first, second = np.triu_indices(size, 1)
    weights = counted.expand(len(first), size).clone()
    place = torch.arange(len(first))
    weights[place, torch.as_tensor(first)] = 0
    weights[place, torch.as_tensor(second)] = 0
    return _weighted(metric, p, t, weights)


def _merged(label: Ints, labels: int) -> Ints:
    """At most `MOST_LABELS` labels: of more, some at random are one."""
    if labels <= MOST_LABELS:
        return label
    merged: Ints = np.random.default_rng(0).permutation(labels)[label] % MOST_LABELS
    return merged


def _part(way: Way, inside: Bools) -> Way:
    names, label = np.unique(way.label[inside], return_inverse=True)
    return Way(way.noun, label, len(names))


def _weighted(metric: Metric, pred: Tensor, target: Tensor, weights: Tensor) -> Floats:
    """A metric of M models in R samples of 0/1 weights [R, N]: [M, R]."""
    parts = [
        torch.stack([metric(one, target, part) for one in pred]) for part in weights.split(_CHUNK)
    ]
    found: Floats = torch.cat(parts, -1).numpy()
    return found


def _masks(label: Ints, count: int) -> Tensor:
    """Weights [C, N]: row c leaves out the clips of label c."""
    return torch.as_tensor(label != np.arange(count)[:, None]).double()


def _of_clips(metric: Metric, p: Tensor, t: Tensor, _: Sample, label: Ints, count: int) -> Floats:
    return _weighted(metric, p, t, _masks(label, count))


def _of_groups(
    metric: Metric, p: Tensor, t: Tensor, sample: Sample, label: Ints, count: int
) -> Floats:
    """The mean over groups, groups where the metric is undefined left out."""
    order = np.argsort(sample.group, kind="stable")
    order = order[sample.group[order] >= 0]
    groups, start, size = np.unique(sample.group[order], return_index=True, return_counts=True)
    if len(groups) == 0:
        return np.full((len(p), count), np.nan)
    # [G, n] the clips of each group, filled up with its first.
    inside = np.arange(size.max()) < size[:, None]
    clip = order[np.where(inside, start[:, None] + np.arange(size.max()), start[:, None])]
    weights = torch.as_tensor(inside & (label[clip] != np.arange(count)[:, None, None])).double()
    parts = [
        torch.stack([metric(one[clip], t[clip], part).nanmean(-1) for one in p])
        for part in weights.split(_CHUNK)
    ]
    found: Floats = torch.cat(parts, -1).numpy()
    return found


def _of_systems(
    metric: Metric, p: Tensor, t: Tensor, sample: Sample, label: Ints, count: int
) -> Floats:
    means, truth, counted = _means(p, t, sample, _masks(label, count))
    found: Floats = torch.stack([metric(one, truth, counted) for one in means]).numpy()
    return found


def _means(
    p: Tensor, t: Tensor, sample: Sample, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """System scores of M models [M, (R,) S] and of the labels, and whether a system has a clip.

    As `metrics.system_means`, by one matrix product a model for all R samples.
    """
    size = int(sample.system.max()) + 1
    belongs = torch.as_tensor(sample.system[:, None] == np.arange(size)).double()
    rows = torch.ones(1, len(t), dtype=torch.float64) if weights is None else weights
    count = rows @ belongs

    def mean(values: Tensor) -> Tensor:
        # Rounded as there: what ties by arithmetic ties.
        found = torch.round(rows @ (values[:, None] * belongs) / count, decimals=12)
        found = torch.where(count > 0, found, 0.0)
        return found[0] if weights is None else found

    truth = mean(t.double())
    if sample.truth is not None:
        published = torch.as_tensor(sample.truth)
        truth = torch.where(published.isnan(), truth, published)
    counted = (count > 0).double()
    return torch.stack([mean(one.double()) for one in p]), truth, counted


def _tau(p: Floats, t: Floats, clusters: list[Ints]) -> tuple[float, list[Floats]]:
    """Kendall's tau-b with and without each cluster, from sums over pairs.

    With a = sign(p_i - p_j) sign(t_i - t_j), the sample without a cluster keeps
    sum a - 2 sum a[c, :] + sum a[c, c], and likewise the two sums of pairs apart.
    """
    rows = np.zeros((3, len(p)))
    step = max(1, (1 << 20) // len(p))
    for start in range(0, len(p), step):
        block = slice(start, start + step)
        rows[:, block] = _pairs(p[block, None], p, t[block, None], t).sum(-1)
    parts = []
    for label in clusters:
        count = int(label.max()) + 1
        rest = np.empty((3, count))
        for c in range(count):
            i = np.flatnonzero(label == c)
            within = _pairs(p[i, None], p[i], t[i, None], t[i]).sum((-1, -2))
            rest[:, c] = rows.sum(-1) - 2 * rows[:, i].sum(-1) + within
        parts.append(_ratio(rest))
    return float(_ratio(rows.sum(-1))), parts


def _pairs(p: Floats, q: Floats, t: Floats, u: Floats) -> Floats:
    first, second = np.sign(p - q), np.sign(t - u)
    return np.stack([first * second, np.abs(first), np.abs(second)])


def _ratio(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Floats = sums[0] / np.sqrt(sums[1] * sums[2])
    return np.clip(ratio, -1, 1)
