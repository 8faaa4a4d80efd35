"""What predictions must beat, from the cache that holds their labels: on their own folds."""

import logging

import numpy as np
import numpy.typing as npt

from qamro_cache.cache.reader import Cache
from qamro_cache.datasets.ids import match_ids
from qamro_cache.evaluation.baselines import View, baselines
from qamro_cache.evaluation.judged import Floats, Ints, codes_of
from qamro_cache.evaluation.others import Beside, Source
from qamro_cache.features.expression import Read
from qamro_cache.features.lookup import resolved
from qamro_cache.features.sources import join_caches
from qamro_cache.features.vectors import clip_vectors
from qamro_cache.heads.architecture import row_blocks

logger = logging.getLogger("qamro_cache")


def own_scores(cache: Cache, rows: Ints) -> dict[str, Floats]:
    """Return the encoder's own scores of some clips, in its units: name -> [C].

    Its features of one number are scores of a window; a clip's is their mean. Nothing of these
    clips' labels is in them.
    """
    return {
        f"{cache.identity.get('name', '')} {name}": _means(cache, name)[rows, 0]
        for name, shape in cache.features.items()
        if shape == (1,)
    }


def baselines_beside(
    source: Source | None, theirs: str, ours: str, target: Floats, rows: Ints
) -> dict[str, Beside]:
    """Predict held-out clips by ridge, nearest clips and the training mean, as their heads were.

    A line says why where that cannot be.

    Args:
        source: of the features; None: the labels are no cache.
        theirs: the axis as predicted.
        ours: of the labels.
        target: [N] labels of all clips of the cache, NaN where there is none.
        rows: [C] the clips that are scored, of these N.

    Returns:
        By name the scores of the clips [C], the encoder's own among them.
    """
    why, found = "the labels are no cache; give the heads' own as --labels", {}
    if source is not None:
        found = {name: Beside(one, True) for name, one in own_scores(source.cache, rows).items()}
        held = _folds(source, theirs)
        names = np.unique(held[held != ""])
        why = ""
        if source.feature and source.feature not in source.cache.features:
            why = f"the cache has no feature {source.feature!r}, which the heads read"
        elif len(names) < 2:
            why = "the predictions do not say by which folds their clips were held out"
        else:
            made = _made(source, held, target)
            found |= {name: Beside(scores[rows], False) for name, scores in made.items()}
    if why:
        own = "" if source is not None else "encoder's own score, "
        logger.info("%s: no %sridge, kNN and training mean beside it: %s", ours, own, why)
    return found


def _folds(source: Source, axis: str) -> npt.NDArray[np.str_]:
    """Return the fold that held each of the cache's clips out [N], empty for none."""
    table, clips = source.table, source.cache.clips["clip_id"].tolist()
    if "fold" not in table:
        return np.full(len(clips), "")
    mine = table[table["axis"] == axis].drop_duplicates("clip_id")
    at = match_ids(mine["clip_id"].tolist(), clips)
    fold = np.append(mine["fold"].to_numpy(str), "")
    return fold[at]


def _made(source: Source, held: npt.NDArray[np.str_], target: Floats) -> dict[str, Floats]:
    """Return the baselines' predictions of the cache's clips [N]."""
    cache, feature = source.cache, source.cache.feature_name(source.feature)
    usable = (cache.clips["status"] == "ok").to_numpy() & np.isfinite(target) & (held != "")
    test = held[usable] == np.unique(held[usable])[:, None]
    # A penalty or k is chosen as the heads were held out.
    groups = codes_of(held[usable]) if len(test) > 2 else None
    blocks = row_blocks("audio", cache.features[feature])
    view = View(_means(cache, feature)[usable], ~test, test, blocks, groups)
    made = {}
    for name, scores in baselines(view, target[usable]).items():
        made[name] = np.full(len(target), np.nan)
        made[name][usable] = scores
    return made


def _means(cache: Cache, feature: str) -> Floats:
    """Return the mean of each clip's windows [N, D], NaN for a clip that could not be read.

    Raises:
        QamroError: a value is not finite.
    """
    sources = join_caches(cache)
    whole = resolved(Read("", feature), sources.identities)
    means = clip_vectors(whole, sources).values({}).double().numpy()
    return np.where((cache.clips["status"] == "ok").to_numpy()[:, None], means, np.nan)
