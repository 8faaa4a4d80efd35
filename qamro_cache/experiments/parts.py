"""What of a grid is trained together: cells that read one feature and hold out the same clips."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qamro_cache.datasets.modeled import refuse_raters
from qamro_cache.datasets.selection import is_reference
from qamro_cache.experiments.clips import AxisGroup, Clips, HeldOut, choose_clips, hold_out
from qamro_cache.experiments.grid import Cell
from qamro_cache.experiments.onto import Onto, learn_all
from qamro_cache.experiments.options import AblateOptions
from qamro_cache.experiments.readings import Reading, readings
from qamro_cache.experiments.several import refuse_in_several
from qamro_cache.experiments.thinned import thinned
from qamro_cache.experiments.unpaired import refuse_unrated
from qamro_cache.features.expression import Expression
from qamro_cache.features.sources import Sources

logger = logging.getLogger("qamro_cache")


@dataclass(frozen=True)
class Part:
    """The cells that read the same of the same caches and hold out the same clips of axes.

    Attributes:
        sources: the caches that are read.
        expression: what is read of them.
        context: what clips are heard beside, of `CONTEXTS`.
        text: whether heads read prompts.
        clips: to train on and to judge by.
        held_out: from training, in turn.
        cells: positions in the grid.
    """

    sources: Sources
    expression: Expression
    context: str
    text: bool
    clips: Clips
    held_out: HeldOut
    cells: list[int]


def parts_of_grid(
    sources: Sources, cells: Sequence[Cell], options: AblateOptions, onto: Onto | None
) -> list[Part]:
    """Group the cells by what they read and by folds; then part the axes."""
    groups: dict[tuple[str, str, str, bool, str, int, int], tuple[Reading, list[int]]] = {}
    for place, cell in enumerate(cells):
        text = cell.recipe.head.takes_prompts
        for reading in readings(sources, cell):
            key = (reading[0].identity_sha256, str(reading[1]), cell.context)
            more = (text, cell.cv, cell.clips, cell.systems)
            groups.setdefault((*key, *more), (reading, []))[1].append(place)
    # All on the same clips: those with a prompt, where some cell reads prompts.
    prompts = any(cell.recipe.head.takes_prompts for cell in cells)
    clips = choose_clips(sources, options, text=prompts)
    refuse_unrated(clips)
    for cell in cells:
        named = is_reference(clips.table), cell.modeling, clips.table["source"].tolist()
        refuse_raters(clips.labels, *named)
        if clips.several:
            refuse_in_several(cell.recipe, ["pairs"] * (options.pairs is not None))
    held_out: dict[str, list[AxisGroup]] = {}
    parts = []
    for (*read, context, text, cv, clip, system), (reading, members) in groups.items():
        few = (clip, system)
        if cv not in held_out:
            held_out[cv] = (
                hold_out(sources, clips, cv, options)
                if onto is None
                else learn_all(sources, clips, onto)
            )
        for rated, held in held_out[cv]:
            folds = thinned(held.folds, rated, *few)
            if any(few) and (folds.train == held.folds.train).all():
                logger.info("%s: the folds have no more; it is all of them", _few_words(*few))
                if (*read, context, text, cv, 0, 0) in groups:
                    continue
            parts.append(Part(*reading, context, text, rated, replace(held, folds=folds), members))
    return parts


def _few_words(clips: int, systems: int) -> str:
    few = {"clips": clips, "systems": systems}
    return ", ".join(f"{number} {name}" for name, number in few.items() if number)
