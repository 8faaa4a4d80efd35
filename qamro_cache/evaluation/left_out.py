"""Figures with one system, one group or one diagonal block of clips left out, for intervals.

The two-way cluster jackknife of MacKinnon, Nielsen and Webb (arXiv 2406.08880): a way is a kind of
cluster (systems; prompts, songs or other groups) whose labels are random draws of those that the
test stands for. Every left-out sample is a row of 0/1 weights that the metrics take.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qamro_cache.evaluation.judged import Floats, Ints
from qamro_cache.evaluation.pairs import ktau
from qamro_cache.evaluation.ways import Sample, with_systems
from qamro_cache.evaluation.within import blocks_of, mean_over_groups

#: Up to this many systems the second-order term of a difference is computed (S^2 / 2 samples).
MOST_PAIRED = 60

#: Left-out samples computed at once: bounds memory at N clips to 64 N numbers a metric.
_CHUNK = 64

Metric = Callable[[Tensor, Tensor, Tensor | None], Tensor]

#: Of a metric, predictions [M, N], targets [N] and weights [R, N]: [M, R].
_Compute = Callable[[Metric, Tensor, Tensor, Tensor], Tensor]


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
    compute = {"clip": _of_clips, "group": _of_groups, "system": _of_systems}[level](sample)
    all_samples = torch.cat([compute(metric, p, t, some) for some in _samples(clusters)], -1)
    value, *parts = all_samples.split([1, *(int(label.max()) + 1 for label in clusters)], -1)
    return LeftOut(value[:, 0].numpy(), tuple(part.numpy() for part in parts))


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


def _weighted(metric: Metric, pred: Tensor, target: Tensor, weights: Tensor) -> Floats:
    """A metric of M models in R samples of 0/1 weights [R, N]: [M, R]."""
    parts = [_each(metric, pred, target, part) for part in weights.split(_CHUNK)]
    found: Floats = torch.cat(parts, -1).numpy()
    return found


def _each(metric: Metric, pred: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    return torch.stack([metric(one, target, weights) for one in pred])


def _samples(clusters: Sequence[Ints]) -> Iterator[Tensor]:
    """Weights [R, N] of the whole sample, and then without each cluster of each way.

    All ways in one tensor, as far as a chunk reaches: of small samples the calls take the time.
    """
    counts = [1, *(int(label.max()) + 1 for label in clusters)]
    labels = np.stack([np.full_like(clusters[0], -1), *clusters])
    way = np.repeat(np.arange(len(counts)), counts)
    cluster = np.concatenate([np.arange(count) for count in counts])
    for start in range(0, len(way), _CHUNK):
        some = slice(start, start + _CHUNK)
        yield torch.as_tensor(labels[way[some]] != cluster[some, None]).double()


def _of_clips(_: Sample) -> _Compute:
    return _each


def _of_groups(sample: Sample) -> _Compute:
    """The mean over groups, by the rules of `within`."""
    blocks = blocks_of(torch.as_tensor(sample.group))

    def compute(metric: Metric, p: Tensor, t: Tensor, weights: Tensor) -> Tensor:
        return _each(partial(mean_over_groups, metric, blocks=blocks), p, t, weights)

    return compute


def _of_systems(sample: Sample) -> _Compute:
    def compute(metric: Metric, p: Tensor, t: Tensor, weights: Tensor) -> Tensor:
        means, truth, counted = _means(p, t, sample, weights)
        return torch.stack([metric(one, truth, counted) for one in means])

    return compute


def _means(
    p: Tensor, t: Tensor, sample: Sample, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """System scores of M models [M, (R,) S] and of the labels, and whether a system has a clip.

    As `metrics.system_means`, in as much memory as R samples of the clips take.
    """
    size = int(sample.system.max()) + 1
    rows = torch.ones(1, len(t), dtype=torch.float64) if weights is None else weights
    index = torch.as_tensor(sample.system, dtype=torch.int64).expand(rows.shape)
    zeros = torch.zeros(len(rows), size, dtype=torch.float64)
    count = zeros.scatter_add(1, index, rows)

    def mean(values: Tensor) -> Tensor:
        # Rounded as there: what ties by arithmetic ties.
        found = torch.round(zeros.scatter_add(1, index, rows * values) / count, decimals=12)
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
