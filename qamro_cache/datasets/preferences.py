"""Preferences: which of two clips a listener would rather have, one verdict each."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.ids import clean_ids, match_ids
from qamro_cache.datasets.other_tables import read_other
from qamro_cache.datasets.records import Axis, Labels
from qamro_cache.datasets.tables import (
    Text,
    factorize,
    numbers,
    read_table,
    text,
    without_doubles,
)
from qamro_cache.errors import OptionError, QamroError, at_rows, few, nearest, quoted
from qamro_cache.paths import PathLike, as_path

logger = logging.getLogger("qamro_cache")

#: Columns of a table of pairs; the first three must be there.
PAIR_COLUMNS = ("clip_a", "clip_b", "winner", "rater", "axis", "source", "weight")
_NEEDED = PAIR_COLUMNS[:3]
#: Verdicts as they are written, and as numbers.
WINNERS = {"a": 1, "b": -1, "tie": 0}
#: What an axis is called that nobody named.
UNNAMED = "preference"

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pairs:
    """P verdicts on two clips each.

    Attributes:
        clips: [P, 2] rows of the clip table: clip a and clip b.
        axis: [P] index into the axes.
        winner: [P] 1 where a was preferred, -1 where b was, 0 for a tie.
        rater: [P] index into ``raters``; -1 where the rater is not known.
        weight: [P] float64, above 0.
        raters: names of the raters; one of several sources has a name in each.
    """

    clips: Ints
    axis: Ints
    winner: Ints
    rater: Ints
    weight: npt.NDArray[np.float64]
    raters: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.clips)

    def within(self, masks: Bools) -> Bools:
        """Tell which pairs [..., P] have both clips among those of ``masks`` [..., C]."""
        found: Bools = masks[..., self.clips[:, 0]] & masks[..., self.clips[:, 1]]
        return found

    def touching(self, masks: Bools) -> Bools:
        """Tell which pairs [..., P] have a clip among those of ``masks`` [..., C]."""
        found: Bools = masks[..., self.clips[:, 0]] | masks[..., self.clips[:, 1]]
        return found

    def company(self, masks: Bools) -> Bools:
        """Tell which clips [F, C] are in a pair with a clip of each of the ``masks`` [F, C]."""
        found = np.zeros_like(masks)
        for mine, mask in zip(self.touching(masks), found, strict=True):
            mask[self.clips[mine]] = True
        return found

    def named(self, clips: int) -> Bools:
        """Tell which of so many clips [C] some pair names."""
        found = np.zeros(clips, np.bool_)
        found[self.clips] = True
        return found

    def only(self, kept: Bools) -> "Pairs":
        """Return the pairs that are ``kept`` [P]."""
        names = ("clips", "axis", "winner", "rater", "weight")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})

    def on(self, axes: Sequence[int]) -> "Pairs":
        """Return the pairs on some axes, which are numbered in this order."""
        place = np.full(max([*axes, *self.axis.tolist(), 0]) + 1, -1, np.int64)
        place[list(axes)] = np.arange(len(axes))
        kept = self.only(place[self.axis] >= 0)
        return replace(kept, axis=place[kept.axis])

    def at(self, rows: Ints, clips: int) -> "Pairs":
        """Return the pairs whose clips are both among ``rows`` [K] of ``clips``, numbered so.

        What is left out is logged.
        """
        place = np.full(clips, -1, np.int64)
        place[rows] = np.arange(len(rows))
        kept = self.only((place[self.clips] >= 0).all(1))
        if len(kept) < len(self):
            lost = len(self) - len(kept)
            logger.info("%d of %d pairs are left out: a clip of theirs is", lost, len(self))
        return replace(kept, clips=place[kept.clips])


def read_pairs(
    path: PathLike, clip_ids: Sequence[str], axes: Sequence[str] = ()
) -> tuple[Pairs, list[str]]:
    """Read a table of pairs.

    Args:
        path: ``.csv`` or ``.parquet`` with ``clip_a``, ``clip_b`` and ``winner`` (``a``, ``b`` or
            ``tie``), and optionally ``rater``, ``axis``, ``source`` (a rater of one source is none
            of another) and ``weight``.
        clip_ids: [C] names that clips may have.
        axes: names of known axes.

    Returns:
        The pairs, and the names that their axes number: the known ones, then new ones.

    Raises:
        QamroError: one line with the file, the row and what to do.
    """
    path = as_path(path, "a table of pairs")
    frame = _read(path)
    winner = _winners(path, frame)
    ends = _clips(path, frame, clip_ids)
    same = np.flatnonzero(ends[:, 0] == ends[:, 1])
    if len(same):
        name = frame["clip_a"].iloc[same[0]]
        raise QamroError(
            f"{_at(path, frame, same)}clip {quoted(name)} is paired with itself; name two clips"
        )
    names, axis = _axes(path, frame, axes)
    weight = np.ones(len(frame))
    if "weight" in frame:
        weight = numbers(frame, "weight", path, mend="correct it, or leave it empty for 1")
        weight = np.where(np.isnan(weight), 1.0, weight)
        if (low := np.flatnonzero(weight <= 0)).size:
            raise QamroError(
                f"{_at(path, frame, low)}weight {weight[low[0]]:g} is not above 0; "
                "correct it, or remove the row"
            )
    rater, raters = _raters(path, frame)
    return Pairs(ends, axis, winner, rater, weight, raters), names


def load_pairs(
    path: PathLike, clip_ids: Sequence[str], labels: Labels, axes: Sequence[str]
) -> tuple[Pairs, Labels]:
    """Read the pairs of a run.

    Args:
        path: as for `read_pairs`.
        clip_ids: [C] of the clips.
        labels: of the same clips.
        axes: the chosen ones; none: all.

    Returns:
        The pairs on the chosen axes, numbered in their order, and the labels, with axes that only
        the pairs have. It is an error if there is none.
    """
    known = [axis.name for axis in labels.axes]
    pairs, names = read_pairs(path, clip_ids, [name for name in known if name in axes] or known)
    labels = with_axes(labels, names)
    chosen = axes or [axis.name for axis in labels.axes]
    _tell_axes(as_path(path, "a table of pairs"), pairs, names, known, chosen)
    pairs = pairs.on([names.index(name) for name in chosen if name in names])
    # Among the chosen there may be axes that no pair could be on.
    at = np.array([k for k, name in enumerate(chosen) if name in names], np.int64)
    return replace(pairs, axis=at[pairs.axis]), labels


def _tell_axes(
    path: Path, pairs: Pairs, names: Sequence[str], known: Sequence[str], chosen: Sequence[str]
) -> None:
    """Log the pairs on axes that were not chosen, and those on axes that no clip is rated on."""
    if not set(chosen).intersection(used := [names[k] for k in np.unique(pairs.axis)]):
        raise QamroError(
            f"{path}: no pair is on an axis that is learned ({', '.join(chosen)}): all are on "
            f"{few(used)}; correct it, or choose with --axis{nearest(used[0], chosen)}"
        )
    for name, count in zip(names, np.bincount(pairs.axis, minlength=len(names)), strict=True):
        new = name not in known
        # Of one that is rated on nothing is misspelled.
        like = nearest(name, known or chosen) if new else ""
        if not count or (name in chosen and not (new and known)):
            continue
        what = "are left out" if name not in chosen else "are there, and no clip is rated on it"
        told = f"{like} There are: {', '.join(known)}" if like else ""
        level = logging.WARNING if like else logging.INFO
        logger.log(level, "%s: %d pairs on axis %s %s%s", path, count, quoted(name), what, told)


def with_axes(labels: Labels, names: Sequence[str]) -> Labels:
    """Return labels with an axis of each name, those that are new without any label."""
    new = [name for name in names if name not in {axis.name for axis in labels.axes}]
    if not new:
        return labels
    shape = len(labels.mean), len(new)
    unknown = np.full(shape, np.nan)
    return Labels(
        (*labels.axes, *(Axis(name, 1.0, 5.0, guessed=True) for name in new)),
        np.concatenate([labels.mean, unknown], 1),
        np.concatenate([labels.count, np.zeros(shape, np.int32)], 1),
        np.concatenate([labels.stderr, unknown], 1),
        labels.ratings,
    )


def _at(path: Path, frame: pd.DataFrame, rows: npt.NDArray[np.intp]) -> str:
    return at_rows(path, frame.index.to_numpy()[rows])


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise QamroError(f"there is no table of pairs {path}")
    other = read_other(path, lambda name: name in PAIR_COLUMNS)
    frame = read_table(path) if other is None else other
    for name in _NEEDED:
        if name not in frame:
            like = nearest(name, [str(column) for column in frame.columns])
            raise QamroError(f"{path}, row 1: there is no column {name!r}; add it{like}")
    if frame.empty:
        raise QamroError(f"{path}, row 2: there are no pairs; add a row for each")
    unused = [str(name) for name in frame.columns if name not in PAIR_COLUMNS]
    if unused:
        logger.info("%s: columns that pairs do not have are not used: %s", path, ", ".join(unused))
    return without_doubles(frame, path)


def _winners(path: Path, frame: pd.DataFrame) -> Ints:
    codes, cells = factorize(text(frame, "winner"))
    known = np.array([WINNERS.get(cell.strip().casefold(), 9) for cell in cells], np.int64)
    odd = np.flatnonzero(known[codes] == 9)
    if len(odd):
        raise QamroError(
            f"{_at(path, frame, odd)}winner is {quoted(frame['winner'].iloc[odd[0]])}; "
            "write a, b or tie"
        )
    return known[codes]


def _clips(path: Path, frame: pd.DataFrame, clip_ids: Sequence[str]) -> Ints:
    """Return the rows [P, 2] of both clips of each pair."""
    cells: Text = np.concatenate([text(frame, "clip_a"), text(frame, "clip_b")])
    codes, names = factorize(cells)
    # What a name is called in the table may leave out the suffix that the clip's has.
    place = np.full(len(names), -1, np.int64)
    while (left := np.flatnonzero(place < 0)).size:
        # A clip may be called in two ways, of which each turn finds one.
        found = match_ids(list(names[left]), clip_ids)
        if (found < 0).all():
            break
        place[left[found[found >= 0]]] = np.flatnonzero(found >= 0)
    ends = place[codes].reshape(2, -1).T
    odd = np.flatnonzero((ends < 0).any(1))
    if len(odd):
        column = _NEEDED[int(ends[odd[0], 0] >= 0)]
        name = frame[column].iloc[odd[0]]
        raise QamroError(
            f"{_at(path, frame, odd)}{column} {quoted(name)} is none of the {len(clip_ids)} clips"
            f"{nearest(name, clip_ids)}; correct it, or remove the row"
        )
    return np.ascontiguousarray(ends)


def _axes(path: Path, frame: pd.DataFrame, axes: Sequence[str]) -> tuple[list[str], Ints]:
    """Return the names of all axes, and which of them each pair is on."""
    cells = text(frame, "axis") if "axis" in frame else np.full(len(frame), "", object)
    codes, names = factorize(clean_ids(cells, "axis", str(path)))
    known = list(axes)
    if "" in names:
        if len(axes) > 1:
            empty = np.flatnonzero(names[codes] == "")
            raise OptionError(
                f"{_at(path, frame, empty)}no axis is named, and there are {', '.join(axes)}; "
                "add a column axis"
            )
        names[names == ""] = axes[0] if axes else UNNAMED
    known += [str(name) for name in dict.fromkeys(names) if name not in known]
    return known, np.array([known.index(name) for name in names], np.int64)[codes]


def _raters(path: Path, frame: pd.DataFrame) -> tuple[Ints, tuple[str, ...]]:
    nobody = np.full(len(frame), "", object)
    rater = text(frame, "rater") if "rater" in frame else nobody
    source = text(frame, "source") if "source" in frame else nobody
    rater, source = (clean_ids(one, "rater", str(path)) for one in (rater, source))
    whole = [f"{s}: {r}" if r and s else r for s, r in zip(source, rater, strict=True)]
    codes, names = factorize(np.array(whole, object))
    number = np.cumsum(names != "") - 1
    number[names == ""] = -1
    return number[codes].astype(np.int64), tuple(str(name) for name in names if name)
