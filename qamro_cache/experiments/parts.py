"""What of a grid is trained together: cells that read one feature and hold out the same clips."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qamro_cache.cache.reader import Cache
from qamro_cache.experiments.clips import AxisGroup, Clips, HeldOut, choose_clips, hold_out
from qamro_cache.experiments.grid import Cell
from qamro_cache.experiments.onto import Onto, learn_all
from qamro_cache.experiments.options import AblateOptions
from qamro_cache.experiments.thinned import thinned

logger = logging.getLogger("qamro_cache")


@dataclass(frozen=True)
class Part:
    """The cells that read the same feature of the same cache and hold out the same clips of axes.

    Attributes:
        cache: open.
        feature: of the cache; empty for its first.
        text: whether heads read prompts.
        clips: to train on and to judge by.
        held_out: from training, in turn.
        cells: positions in the grid.
    """

    cache: Cache
    feature: str
    text: bool
    clips: Clips
    held_out: HeldOut
    cells: list[int]


def parts_of_grid(
    cache: Cache,
    cells: Sequence[Cell],
    options: AblateOptions,
    common: Sequence[str] | None,
    onto: Onto | None,
) -> list[Part]:
    """Group the cells by what they read of a cache and by folds; then part the axes."""
    groups: dict[tuple[str, bool, str, int, int], list[int]] = {}
    for place, cell in enumerate(cells):
        text = cell.recipe.head.inputs != "audio"
        key = (cell.feature, text, cell.cv, cell.clips, cell.systems)
        groups.setdefault(key, []).append(place)
    # All on the same clips: those with a prompt, where some cell reads prompts.
    prompts = any(text for _, text, *_ in groups)
    clips = choose_clips(cache, options, text=prompts, common=common)
    held_out: dict[str, list[AxisGroup]] = {}
    parts = []
    for (feature, text, cv, *few), members in groups.items():
        cache.feature_name(feature)
        if cv not in held_out:
            held_out[cv] = (
                hold_out(cache, clips, cv, options)
                if onto is None
                else learn_all(cache, clips, onto)
            )
        for rated, held in held_out[cv]:
            folds = thinned(held.folds, rated, *few)
            if any(few) and (folds.train == held.folds.train).all():
                logger.info("%s: the folds have no more; it is all of them", _few_words(*few))
                if (feature, text, cv, 0, 0) in groups:
                    continue
            parts.append(Part(cache, feature, text, rated, replace(held, folds=folds), members))
    return parts


def _few_words(clips: int, systems: int) -> str:
    few = {"clips": clips, "systems": systems}
    return ", ".join(f"{number} {name}" for name, number in few.items() if number)
