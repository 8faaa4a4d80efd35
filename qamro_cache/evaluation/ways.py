"""What an interval is over: systems, groups or clips, their clusters, the population in words."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from qamro_cache.evaluation.judged import Bools, Floats, Ints, Judged
from qamro_cache.evaluation.kinds import OVER

#: More labels of a way than this are merged at random: 200 left-out samples tell a variance.
MOST_LABELS = 200

#: A way of fewer labels cannot tell how labels differ: it is taken as it is.
FEWEST_LABELS = 3


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


def make_ways(clips: int, *named: tuple[str, Ints], over: str = "") -> Ways:
    """Say what an interval is over.

    Args:
        clips: N.
        named: noun and labels [N] (-1 for none) of at most two ways, systems first. A way without
            any label is absent, one of fewer than three is fixed; without a way that is neither,
            the clips are the clusters.
        over: as `Kind.over`: the other way is fixed.
    """
    free: list[Way] = []
    fixed: list[Way] = []
    for kind, (noun, given) in zip(OVER, named, strict=False):
        known = given >= 0
        if not known.any():
            continue
        label = np.unique(given, return_inverse=True)[1] - (0 if known.all() else 1)
        count, alone = int(label.max()) + 1, int((~known).sum())
        label[~known] = count + np.arange(alone)
        way = Way(noun, label, count + alone, alone)
        varies = way.labels >= FEWEST_LABELS and over in ("", kind)
        (free if varies else fixed).append(way)
    if not free:
        free.append(Way("clip", np.arange(clips), clips))
    return Ways(tuple(free), tuple(fixed))


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
    target: Floats,
    system: Ints,
    second: tuple[str, Ints],
    truth: Floats | None = None,
    over: str = "",
) -> Sample:
    """Make a sample of labels [N], systems [N], the second way (noun, [N]) and `Sample.truth`.

    ``over`` is as in `make_ways`.
    """
    ways = make_ways(len(target), ("system", system), second, over=over)
    return Sample(target, ways, system, second[1], truth)


def sample_of(judged: Judged) -> Sample:
    """Return the clips that are judged: over their systems and what they would be chosen among."""
    known = judged.known
    system = judged.system[known]
    names, place = np.unique(system, return_inverse=True)
    # Systems from 0, whichever of them are there; -1 stays.
    system = place - int((system < 0).any())
    truth = None if judged.system_truth is None else judged.system_truth[names[names >= 0]]
    group = np.full(len(system), -1) if judged.group is None else judged.group[known]
    second = judged.group_noun, group
    return make_sample(judged.target[known], system, second, truth, judged.interval.over)


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


def _merged(label: Ints, labels: int) -> Ints:
    """At most `MOST_LABELS` labels: of more, some at random are one."""
    if labels <= MOST_LABELS:
        return label
    merged: Ints = np.random.default_rng(0).permutation(labels)[label] % MOST_LABELS
    return merged


def _part(way: Way, inside: Bools) -> Way:
    names, label = np.unique(way.label[inside], return_inverse=True)
    return Way(way.noun, label, len(names))
