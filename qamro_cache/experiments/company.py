"""Which clips may be a training clip's company: those of its fold's training part alone."""

import logging

import numpy as np

from qamro_cache.datasets.ids import one_spelling
from qamro_cache.experiments.clips import Clips
from qamro_cache.experiments.folds import split_names
from qamro_cache.features.context import Company, company_of
from qamro_cache.training.inputs import Bools, Folds

logger = logging.getLogger("qamro_cache")


def company(clips: Clips, cv: str, kind: str, where: str) -> Company:
    """Return whom the clips of a table are heard beside, where ``cv`` holds clips out."""
    table = clips.whole
    no_groups = not (table["group"].iloc[clips.rows] != "").any()
    by = "prompt" if cv == "prompt" or no_groups else "group"
    return company_of(table, clips.rows, kind, by, where)


def training_parts(clips: Clips, folds: Folds, cv: str, *, stopping: bool = False) -> Bools:
    """Tell which clips of the whole table [F, N] belong to each fold's training part.

    A clip that is not chosen, or not rated, belongs there unless its system, group, prompt or split
    is one that the fold holds out. With ``stopping`` the validation set belongs there too.
    """
    # With fewer labels the same clips are heard.
    folds = folds.whole or folds
    learned = folds.train | folds.validation if stopping else folds.train
    parts = np.ones((len(learned), len(clips.whole)), np.bool_)
    parts[:, clips.rows] = learned
    if cv not in clips.whole:
        return parts
    names = clips.whole[cv].to_numpy(str)
    if cv == "prompt":
        names = np.array(one_spelling(names.tolist()), str)
    if cv == "split":
        names = split_names(clips.whole)
    others = np.setdiff1d(np.arange(len(names)), clips.rows)
    for part, trained in zip(parts, learned, strict=True):
        kept, held = names[clips.rows[trained]], names[clips.rows[~trained]]
        part[others] = ~np.isin(names[others], np.setdiff1d(held, kept))
    return parts


def closed_parts(clips: Clips, folds: Folds, cv: str) -> list[list[Bools]]:
    """Return of each fold the clips [N] that have none but each other for company.

    All that folds which it serves learn from (what it holds out is judged there, and may not hear
    what they hold out); all that it does not hold out, whom ridge learns from; and the training
    part alone.
    """
    parts = [training_parts(clips, folds, cv)]
    if folds.validation.any():
        parts.insert(0, training_parts(clips, folds, cv, stopping=True))
    closed = [list(fold) for fold in zip(*parts, strict=True)]
    if folds.outer is None:
        return closed
    around = training_parts(clips, folds.outer, cv, stopping=True)
    return [
        [*around[list(serves)], *fold] for serves, fold in zip(folds.serves, closed, strict=True)
    ]


def tell_company(found: Company, clips: Clips, parts: Bools) -> None:
    """Say how many clips have no company, or none that their fold may know of.

    Args:
        found: of the whole table.
        clips: that heads are to see.
        parts: of `training_parts`.
    """
    alone = int((found.others()[clips.rows] == 0).sum()) if found.of_groups else 0
    if alone:
        logger.warning(
            "context %s: %d of %d clips are alone in their %s: their difference is zero",
            found.kind,
            alone,
            len(clips.rows),
            found.by,
        )
    own = found.reference[clips.rows] == clips.rows
    trained, theirs = parts[:, clips.rows], parts[:, found.reference[clips.rows]]
    lost = int((trained & ~theirs & ~own).any(0).sum())
    if lost and found.kind != "group":
        logger.warning(
            "context %s: the references of %d training clips are held out in some fold, where "
            "their difference is zero; --cv group keeps them together",
            found.kind,
            lost,
        )
