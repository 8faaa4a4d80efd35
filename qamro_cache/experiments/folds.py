"""Who trains on what: a fixed split, or cross-validation over systems, groups, prompts or clips."""

import logging
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.columns import CALLED, key
from qamro_cache.datasets.ids import one_spelling
from qamro_cache.errors import OptionError, QamroError, few, nearest, quoted
from qamro_cache.experiments.options import CV_CHOICES, CV_WORDS
from qamro_cache.memory import refuse_memory
from qamro_cache.training.inputs import Bools, Folds

logger = logging.getLogger("qamro_cache")

Numbers = npt.NDArray[np.int64]

#: Part of the training groups that the inner split keeps for stopping.
VALIDATION_SHARE = 0.15

_SPLITS = {
    "train": "train",
    "dev": "dev",
    "valid": "dev",
    "validation": "dev",
    "val": "dev",
    "test": "test",
    "eval": "test",
}


def default_cv(clips: pd.DataFrame, labeled: Bools) -> str:
    """Choose how to hold clips out where nobody said (arguments as in `make_folds`)."""
    split = set(clips["split"].str.lower())
    if "train" in split and len(split - {"", "train"}) > 0:
        return "split"
    groups = clips["group"]
    most = min(5, int(labeled.sum()))
    choice = "group" if groups.nunique() > 1 and (groups != "").all() else str(most)
    if named := sorted(split - {"", *_SPLITS}):
        told = "the clips' splits are not used, of which none is train beside dev or test (%s)"
        logger.warning(f"{told}; estimating with --cv %s", few(named), choice)
        return choice
    logger.info("the clips have no train and dev split: estimating with --cv %s", choice)
    return choice


def make_folds(
    clips: pd.DataFrame,
    cv: str,
    labeled: Bools,
    *,
    inner: bool,
    together: Numbers | None = None,
) -> tuple[Folds, str]:
    """Return the folds and a line that says what they ask of a model.

    Args:
        clips: one row a clip.
        cv: ``system``, ``group``, ``prompt`` or ``source``: leave one out at a time; a number K:
            K random parts of the clips; ``split``: the split column, where a ``test`` split, if
            there is one, is held out and ``dev`` stops the training, else ``dev`` is held out.
        labeled: [C] clips that have a label.
        inner: whether a fold keeps some of its training clips for stopping; without, its heads
            train for a fixed number of epochs.
        together: [C] clips of one number are held out together: with all clips of their systems,
            groups or prompts; in the part of the first; or, by a split, they are not trained on
            where one of them is judged.

    Raises:
        OptionError: there is no such way.
        QamroError: the clips cannot be cut that way.
    """
    if (clips["prompt"] != "").any():
        clips = clips.assign(prompt=one_spelling(clips["prompt"].tolist()))
    if cv == "split":
        return _by_split(clips, labeled, together, inner=inner)
    cut = _by_name if cv in CV_WORDS else _at_random
    clips, usable, part, held, line = cut(clips, cv, labeled, together)
    refuse_memory(
        8 * len(held) * len(clips),
        f"{len(held):,} folds of {len(clips):,} clips",
        "use another --cv",
    )
    test = np.stack([usable & (part == k) for k in range(len(held))])
    train = usable & ~test
    validation = np.zeros_like(train)
    groups = _together(clips, cv)
    if inner:
        validation = np.stack([keep_for_stopping(fold, groups, k) for k, fold in enumerate(train)])
    return Folds(train & ~validation, validation, test, held, groups), line


def refit_clips(folds: Folds, labeled: Bools, *, everything: bool) -> Folds:
    """Return the one fold of the head that is saved: it holds nothing out.

    Args:
        folds: of the estimate.
        labeled: [C] clips that have a label.
        everything: train on all of them, not only on what the estimate's head learned from.
    """
    train = labeled if everything else (folds.train | folds.validation).any(0)
    nothing = np.zeros((1, len(labeled)), np.bool_)
    return Folds(train[None], nothing, nothing, ("none",), folds.groups)


def joined(size: int, pairs: Numbers) -> Numbers:
    """Return [size] numbers, equal for what ``pairs`` [N, 2] join, at whatever remove."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    _, number = connected_components(links, directed=False)
    return np.asarray(number, np.int64)


def _by_name(
    clips: pd.DataFrame, cv: str, labeled: Bools, together: Numbers | None
) -> tuple[pd.DataFrame, Bools, Numbers, list[str], str]:
    """Return the clips, which can be judged, each one's part, the parts' names, and the line."""
    if together is not None:
        clips = clips.assign(**{cv: _join_names(clips[cv].to_numpy(dtype=str), together)})
    names = clips[cv].to_numpy(dtype=str)
    usable = labeled & (names != "")
    held = [str(name) for name in np.unique(names[usable])]
    if len(held) < 2:
        left = " after those that copies join" if together is not None else ""
        raise QamroError(
            f"--cv {cv} needs at least two values in the clips' {cv!r} column, which has "
            f"{len(held)}{left}; use another --cv: {CV_CHOICES}; or give the column with --labels"
        )
    if (labeled & ~usable).any():
        raise QamroError(
            f"--cv {cv}: {int((labeled & ~usable).sum())} rated clips have no {cv}; "
            f"use another --cv: {CV_CHOICES}"
        )
    line = f"leave one {cv} out, {len(held)} folds; {_overlap(clips, cv)}"
    return clips, usable, np.searchsorted(held, names), held, line


def _at_random(
    clips: pd.DataFrame, cv: str, labeled: Bools, together: Numbers | None
) -> tuple[pd.DataFrame, Bools, Numbers, list[str], str]:
    """Return the same as `_by_name` for a number of parts."""
    _refuse_number(cv, int(labeled.sum()))
    order = np.random.default_rng(0).permutation(len(clips))
    part = np.argsort(order) % int(cv)
    if together is not None:
        _, first, member = np.unique(together, return_index=True, return_inverse=True)
        part = part[first[member]]
    # A part whose clips have all gone to others is none.
    kept = np.unique(part[labeled])
    if len(kept) < 2:
        raise QamroError(f"--cv {cv}: all clips are copies of one another; train on other clips")
    held = [f"part {k + 1} of {cv}" for k in kept]
    part = np.searchsorted(kept, part)
    return clips, labeled, part, held, f"{cv} random parts of the clips; {_overlap(clips, cv)}"


def _refuse_number(cv: str, most: int) -> None:
    """Refuse what is no number of folds of so many rated clips."""
    # More digits than an int may have are a ValueError of Python's own.
    if not re.fullmatch(r"0*([2-9]|[1-9]\d{1,8})", cv, re.ASCII):
        meant = [name for name in CV_WORDS if key(cv) in CALLED.get(name, ())]
        hint = f"; did you mean {meant[0]!r}?" if meant else nearest(cv, CV_WORDS)
        raise OptionError(f"--cv {quoted(cv)}: use {CV_CHOICES}, at least 2{hint}")
    if int(cv) > most:
        raise QamroError(f"--cv {cv}: use {CV_CHOICES} (2 to the {most} rated clips)")


def _join_names(names: npt.NDArray[np.str_], together: Numbers) -> npt.NDArray[np.object_]:
    """Give one name to all names that clips of one number have, at whatever remove."""
    known, code = np.unique(names, return_inverse=True)
    links = np.stack([code, len(known) + together], 1)
    part = joined(len(known) + int(together.max()) + 1, links)[: len(known)]
    names_of = np.empty(len(known), object)
    for number in np.unique(part):
        mine = known[part == number].tolist()
        names_of[part == number] = (
            "+".join(mine) if len(mine) < 4 else f"{mine[0]} and {len(mine) - 1} more"
        )
    return names_of[code]


def split_names(clips: pd.DataFrame) -> npt.NDArray[np.str_]:
    """Return each clip's split, ``train``, ``dev`` and ``test`` by whatever name."""
    lower = clips["split"].str.lower()
    return np.array([_SPLITS.get(name, name) for name in lower], str)


def _by_split(
    clips: pd.DataFrame,
    labeled: Bools,
    together: Numbers | None,
    *,
    inner: bool,
) -> tuple[Folds, str]:
    split = split_names(clips)
    known = sorted(set(split) - {""})
    train, dev, test = ((split == name) & labeled for name in ("train", "dev", "test"))
    if not train.any() or not (dev.any() or test.any()):
        raise QamroError(
            f"the clips' splits are {', '.join(known) or 'not given'}, and a fixed split takes "
            "train and dev or test; use --cv with system, group, prompt or a number of folds"
        )
    held = "test" if test.any() else "dev"
    judged, validation = (test, dev) if test.any() else (dev, np.zeros_like(dev))
    groups = _together(clips, "group")
    if together is not None:
        apart = ~np.isin(together, together[judged])
        train, validation = train & apart, validation & apart
        if not train.any():
            raise QamroError("every training clip is a copy of a held-out one; use another --cv")
    if not inner:
        train, validation = train | validation, np.zeros_like(validation)
    elif not validation.any():
        validation = keep_for_stopping(train, groups, 0)
    shared = [
        f"{int((clips[name][judged].isin(set(clips[name][train]))).mean() * 100)} % of the "
        f"{held} clips have a {name} that was trained on"
        for name in ("system", "prompt")
        if (clips[name] != "").any()
    ]
    overlap = ", ".join(shared) or "no system or prompt of a clip is named"
    line = f"fixed split, judged on {held}; {overlap}"
    parts = (train & ~validation)[None], validation[None], judged[None]
    return Folds(*parts, (held,), groups), line


def _together(clips: pd.DataFrame, cv: str) -> Numbers | None:
    """Return what an inner split keeps together: the same kind as the outer one, if it can."""
    for name in (cv, "group", "prompt", "system"):
        if name in clips and clips[name].nunique() > 2 and (clips[name] != "").all():
            groups: Numbers = np.unique(clips[name].to_numpy(dtype=str), return_inverse=True)[1]
            return groups
    return None


def keep_for_stopping(train: Bools, groups: Numbers | None, fold: int) -> Bools:
    """Choose whole groups of ``train`` at random until VALIDATION_SHARE of its clips are held."""
    random = np.random.default_rng([1, fold])
    names: npt.NDArray[Any] = np.array([str(k) for k in range(len(train))])
    names = names if groups is None else groups
    validation = np.zeros_like(train)
    for name in random.permutation(np.unique(names[train])):
        if validation.sum() >= VALIDATION_SHARE * train.sum():
            break
        validation |= train & (names == name)
    if not (train & ~validation).any():
        raise QamroError("too few groups to keep some for stopping; use --stop fixed")
    return validation


def _overlap(clips: pd.DataFrame, cv: str) -> str:
    seen = [
        name for name in ("system", "group", "prompt") if name != cv and (clips[name] != "").any()
    ]
    if seen:
        return f"a held-out clip's {' and '.join(seen)} may be seen"
    names = " or ".join(name for name in ("system", "group", "prompt") if name != cv)
    return f"no {names} of a clip is named"
