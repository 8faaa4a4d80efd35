"""Heads of one listening test that another one judges: what is asked, before torch is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qamro_cache.cache.reader import Cache
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.clips import AxisGroup, Clips, HeldOut, by_rated_clips, choose_clips
from qamro_cache.experiments.copies import Copies
from qamro_cache.experiments.folds import default_cv, make_folds
from qamro_cache.experiments.grid import Cell
from qamro_cache.experiments.options import AblateOptions
from qamro_cache.features.sources import Sources, join_caches
from qamro_cache.identity import identity_differences
from qamro_cache.training.inputs import Folds


@dataclass(frozen=True)
class Onto:
    """The other test.

    Attributes:
        sources: its cache.
        clips: its rated clips.
        cv: how its clips are held out, where baselines are estimated,
        folds: and the folds; groups of clips stay together in them.
    """

    sources: Sources
    clips: Clips
    cv: str
    folds: Folds


def open_onto(
    options: AblateOptions, cells: Sequence[Cell], caches: Sequence[Cache]
) -> Onto | None:
    """Open what ``--onto`` names; None where nobody asked for it.

    Raises:
        OptionError: an option that has no use with it, or none without it.
        QamroError: it was embedded by another encoder, or has no rated clip.
    """
    if options.onto is None:
        if any(cell.calibrate for cell in cells):
            raise OptionError("--calibrate is for the clips of another test; name it with --onto")
        return None
    used = {"--cv": any(cell.cv for cell in cells), "--raters": any(cell.raters for cell in cells)}
    for name in ("rater_model", "rater_weights", "screen"):
        option = f"--{name.replace('_', '-')}"
        used |= {option: any(getattr(cell, name) != "none" for cell in cells)}
    used |= {"--nested": options.nested, "--stop": options.stop == "inner"}
    for name, given in used.items():
        if given:
            raise OptionError(
                f"with --onto all clips of --cache are learned from: leave {name} out"
            )
    sources = join_caches(options.onto)
    for other in caches:
        if found := identity_differences(other.identity, sources.first.identity):
            raise QamroError(
                f"{options.onto}: embeddings of another encoder (here: of --cache; there: of "
                f"--onto): {found[0]}; extract both with one"
            )
    plain = replace(options, labels=None, columns=(), scale=(), axis=(), only=(), without=())
    text = any(cell.recipe.head.takes_prompts for cell in cells)
    clips = choose_clips(sources, plain, text=text)
    if clips.several:
        raise QamroError(f"{options.onto}: its clips are of several sources; --onto takes one test")
    cv = default_cv(clips.table, clips.known)
    folds, _ = make_folds(clips.table, cv, clips.known, inner=False)
    return Onto(sources, clips, cv, folds)


def learn_all(sources: Sources, clips: Clips, onto: Onto) -> list[AxisGroup]:
    """Return the axes by the clips that are rated on them, all of which heads learn from."""
    groups = []
    for part in by_rated_clips(clips):
        nothing = np.zeros((1, len(part.table)), np.bool_)
        names = part.table["group"].to_numpy(dtype=str)
        groups_of = np.unique(names, return_inverse=True)[1] if len(set(names)) > 2 else None
        folds = Folds(part.known[None], nothing, nothing, ("none",), groups_of)
        words = f"trained on {len(part.table)} clips of {sources.first.dataset}"
        words += f", judged on {len(onto.clips.table)} of {onto.sources.first.dataset}"
        groups.append(AxisGroup(part, HeldOut("onto", False, folds, words, Copies())))
    return groups


def axis_of(name: str, learned: Sequence[str], onto: Onto) -> int:
    """Return which axis of the other test an axis is judged by: of its name, or the only one.

    Raises:
        QamroError: there is none.
    """
    there = [axis.name for axis in onto.clips.axes]
    if name in there:
        return there.index(name)
    if len(there) == len(learned) == 1:
        return 0
    raise QamroError(
        f"{onto.sources.paths[0]} has no axis {name!r} (it has {', '.join(there)}); choose with "
        "--axis one that both have, or name them alike with qamro-cache relabel"
    )
