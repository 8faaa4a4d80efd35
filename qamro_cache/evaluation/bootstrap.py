"""How far a figure moves by chance: cluster bootstrap over systems.

Clips of one system are not independent, so whole systems are drawn with replacement (Field and
Welsh, "Bootstrapping clustered data", 2007). A resample is a count a system, which the metrics
take as weights: all resamples are one batch.
"""

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from qamro_cache.evaluation.figures import figures, figures_of, with_interval
from qamro_cache.evaluation.judged import Floats, Ints, Judged
from qamro_cache.evaluation.limits import Gap, Interval, Intervals, Limits
from qamro_cache.memory import refuse_memory

#: Share of the resamples inside an interval.
LEVEL = 0.95


def draw_clusters(num_clusters: int, resamples: int) -> Ints:
    """Counts [resamples, num_clusters] of drawing that many clusters with replacement."""
    even = np.full(num_clusters, 1.0 / num_clusters)
    return np.random.default_rng(0).multinomial(num_clusters, even, size=resamples)


def resampled(
    pred: Floats, judged: Judged, *, resamples: int = 1000, only: Collection[str] = ()
) -> dict[str, Tensor]:
    """Compute figures in resamples: name -> [R].

    Nothing is resampled where there are fewer than two systems (or clips, where no clip has a
    system): drawing one again and again says nothing about chance.

    Args:
        pred: [C] predictions, one a clip.
        judged: the same clips. Clips without a system are left out where others have one; where
            none has, clips are drawn.
        resamples: R draws, the same for every model of the same clips.
        only: names of `FIGURES`; none: all that have an interval.
    """
    inside = judged.known
    if named := bool((judged.system[inside] >= 0).any()):
        inside = inside & (judged.system >= 0)
    system = judged.system[inside]
    names, cluster = np.unique(system if named else np.arange(len(system)), return_inverse=True)
    if resamples == 0 or len(names) < 2:
        return {}
    counts = torch.as_tensor(draw_clusters(len(names), resamples)).double()
    place = torch.as_tensor(cluster)
    truth = judged.system_truth
    found = figures(
        torch.as_tensor(pred[None, inside]),
        torch.as_tensor(judged.target[inside]),
        place if named else torch.full_like(place, -1),
        None if truth is None or not named else torch.as_tensor(truth[names]),
        group=None if judged.group is None else torch.as_tensor(judged.group[inside]),
        weights={"clip": counts[:, place], "system": counts},
        only=only or with_interval(int(inside.sum())),
    )
    return {name: value[0] for name, value in found.items()}


def refuse_resamples(resamples: int, clips: int) -> None:
    """Refuse more draws than memory can keep, where every clip may be a system of its own."""
    # Counts, and once more with the data as they are; sixteen figures.
    size = 8 * resamples * (2 * clips + 16)
    refuse_memory(size, f"{resamples:,} resamples of {clips:,} clips", "ask for fewer --resamples")


class Bootstrap(Intervals):
    """Percentile intervals over systems, or clips where no clip has one."""

    def limits(self, pred: Floats, judged: Judged) -> Limits:
        """Return the intervals of one prediction's main figures."""
        drawn = resampled(pred, judged, resamples=self.draws)
        if not drawn:
            return Limits({}, "", "none")
        way = "systems" if (judged.system[judged.known] >= 0).any() else "clips"
        between = {name: interval(values) for name, values in drawn.items()}
        return Limits(between, f"over {way}", f"bootstrap:{way}:{self.draws}")

    def gap(self, ours: Floats, theirs: Floats, judged: Judged, figure: str) -> Gap | None:
        """Return a main figure's difference, ours less theirs; None where nothing can be told."""
        drawn = [
            resampled(pred, judged, resamples=self.draws, only=[figure]) for pred in (ours, theirs)
        ]
        if figure not in drawn[0]:
            return None
        (both,) = figures_of(np.stack([ours, theirs]), judged, only=[figure]).values()
        return Gap(both[0] - both[1], *interval(drawn[0][figure] - drawn[1][figure]))


def interval(values: Tensor) -> Interval:
    """Percentile interval of a resampled figure; NaN resamples (undefined there) are left out."""
    known = values[~values.isnan()]
    if known.numel() < 2:
        return Interval(float("nan"), float("nan"))
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(known, torch.tensor([tail, 1 - tail], dtype=known.dtype)).tolist()
    return Interval(low, high)
