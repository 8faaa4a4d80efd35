"""How far a figure moves by chance: cluster bootstrap over systems.

Clips of one system are not independent, so whole systems are drawn with replacement (Field and
Welsh, "Bootstrapping clustered data", 2007). A resample is a count a system, which the metrics
take as weights: all resamples are one batch.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qamro_cache.evaluation.figures import FIGURES, figures
from qamro_cache.evaluation.judged import Floats, Ints
from qamro_cache.memory import refuse_memory

#: Tau compares all pairs in every resample; beyond this many clips its interval is left out.
_TAU_LIMIT = 1000


#: Share of the resamples inside an interval.
LEVEL = 0.95


class Interval(NamedTuple):
    """The middle 95 % of a figure's resamples."""

    low: float
    high: float


def draw_clusters(num_clusters: int, resamples: int, seed: int = 0) -> Ints:
    """Counts [resamples, num_clusters] of drawing that many clusters with replacement."""
    generator = np.random.default_rng(seed)
    even = np.full(num_clusters, 1.0 / num_clusters)
    return generator.multinomial(num_clusters, even, size=resamples)


def resampled(
    pred: Floats,
    target: Floats,
    system: Ints,
    truth: Tensor | None = None,
    *,
    resamples: int = 1000,
    only: Collection[str] = FIGURES,
) -> dict[str, Tensor]:
    """Compute figures in resamples: name -> [R], the mean over the seeds.

    Nothing is resampled where there are fewer than two systems (or clips, where no clip has a
    system): drawing one again and again says nothing about chance.

    Args:
        pred: [K, N] predictions of K seeds.
        target: [N] labels.
        system: [N] each clip's system, -1 for none. Clips without one are left out where others
            have one; where none has, clips are drawn.
        truth: [S] published system scores, see `figures`.
        resamples: R draws, the same for every model of the same clips.
        only: names of `FIGURES`. Tau is left out beyond 1,000 clips, where it would take minutes.
    """
    named = (system >= 0).any()
    inside = system >= 0 if named else np.ones(len(system), np.bool_)
    names, cluster = np.unique(system[inside] if named else np.arange(len(system)),
                               return_inverse=True)  # fmt: skip
    if resamples == 0 or len(names) < 2:
        return {}
    counts = torch.as_tensor(draw_clusters(len(names), resamples)).double()
    place = torch.as_tensor(cluster)
    if int(inside.sum()) > _TAU_LIMIT:
        only = [name for name in only if name != "clip_ktau"]
    found = figures(
        torch.as_tensor(pred[:, inside]),
        torch.as_tensor(target[inside]),
        place if named else torch.full_like(place, -1),
        truth,
        weights={"clip": counts[:, place], "system": counts},
        only=only,
    )
    return {name: value.mean(0) for name, value in found.items()}


def refuse_resamples(resamples: int, clips: int) -> None:
    """Refuse more draws than memory can keep, where every clip may be a system of its own."""
    # Counts, and once more with the data as they are; sixteen figures.
    size = 8 * resamples * (2 * clips + 16)
    refuse_memory(size, f"{resamples:,} resamples of {clips:,} clips", "ask for fewer --resamples")


def interval(values: Tensor) -> Interval:
    """Percentile interval of a resampled figure; NaN resamples (undefined there) are left out."""
    known = values[~values.isnan()]
    if known.numel() < 2:
        return Interval(float("nan"), float("nan"))
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(known, torch.tensor([tail, 1 - tail], dtype=known.dtype)).tolist()
    return Interval(low, high)
