"""Which clips heads are trained on and judged by, and how: decided before torch is loaded."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.cache.reader import Cache
from qamro_cache.datasets.axes import notice_guessed, with_scales
from qamro_cache.datasets.ids import point_out_case
from qamro_cache.datasets.labels import relabel
from qamro_cache.datasets.options import parse_scales
from qamro_cache.datasets.records import Axis, Labels, select_axes, select_labels
from qamro_cache.datasets.selection import describe, reference_like, select_rows
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.judged import Judged, codes_of, warn_of_small_numbers, ways_of
from qamro_cache.experiments.folds import default_cv, make_folds
from qamro_cache.experiments.options import RunOptions
from qamro_cache.training.inputs import Bools, Folds

logger = logging.getLogger("qamro_cache")


@dataclass(frozen=True)
class Clips:
    """The rated clips of a cache that can be used, and are to be.

    Attributes:
        table: one row a clip.
        labels: of these clips, the chosen axes only.
        rows: [C] their rows in the cache.
        chosen: ``--only`` and ``--without`` in words.
    """

    table: pd.DataFrame
    labels: Labels
    rows: npt.NDArray[np.int64]
    chosen: str = ""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The chosen axes."""
        return self.labels.axes

    @property
    def known(self) -> Bools:
        """[C] the clips that have a label."""
        known: Bools = np.isfinite(self.labels.mean).any(1)
        return known

    def systems(self) -> npt.NDArray[np.int64]:
        """Return each clip's system as a number, -1 for none."""
        return codes_of(self.table["system"].to_numpy(dtype=str))

    def judged(self, axis: int, folds: Folds, cv: str) -> Judged:
        """Return the labels of the clips that some fold of ``cv`` holds out."""
        target = np.where(folds.test.any(0), self.labels.mean[:, axis], np.nan)
        return Judged(target, self.systems(), cv=cv, **ways_of(self.table, cv))


@dataclass(frozen=True)
class HeldOut:
    """How clips are held out from training.

    Attributes:
        cv: as given, or chosen.
        inner: whether heads stop on a validation set.
        folds: who trains on what.
        question: what the folds ask of a model, in a line.
    """

    cv: str
    inner: bool
    folds: Folds
    question: str


class AxisGroup(NamedTuple):
    """Axes that are rated on the same clips, and how these are held out.

    Heads of an axis depend on the clips that are rated on it, and on no others.
    """

    clips: Clips
    held_out: HeldOut

    @property
    def names(self) -> str:
        """Its axes, for people."""
        return ", ".join(axis.name for axis in self.clips.axes)


def choose_clips(
    cache: Cache, options: RunOptions, *, text: bool = False, common: Collection[str] | None = None
) -> Clips:
    """Return the clips of a cache that have what training takes, and are to be used.

    Args:
        cache: open.
        options: ``axis``, ``labels``, ``only`` and ``without`` of the run. A label file stands in
            place of the cache's labels, systems, groups and splits, as far as it has them.
        text: whether a clip needs a prompt.
        common: ids of the clips to use; None for all.

    Raises:
        QamroError: no such axis, no such column or value, or no clip is left.
    """
    clips, rated = cache.clips, cache.labels
    if options.labels is not None:
        clips, rated = relabel(
            options.labels,
            clips,
            rated,
            columns=options.columns,
            axes=options.axis,
            scale=options.scale,
        )
    elif options.scale:
        rated = with_scales(rated, parse_scales(options.scale), clips["clip_id"].tolist())
    rated = select_axes(rated, options.axis)
    notice_guessed(rated.axes)
    lacks = {
        "features": (clips["status"] != "ok").to_numpy(dtype=bool),
        "a label": ~np.isfinite(rated.mean).any(1),
    }
    if text:
        lacks["a prompt"] = (clips["prompt"] == "").to_numpy(dtype=bool)
    usable = ~np.logical_or.reduce(list(lacks.values()))
    usable &= select_rows(clips, options.only, options.without)
    if common is not None:
        usable &= clips["clip_id"].isin(common).to_numpy(dtype=bool)
    if not usable.any():
        raise QamroError(f"{cache.paths[0]}: no clip has features and a label; use --labels FILE")
    if not usable.all():
        why = ", ".join(f"{int(missing.sum())} without {what}" for what, missing in lacks.items())
        logger.info("%d of %d clips are left out: %s", int((~usable).sum()), len(usable), why)
    rows = np.flatnonzero(usable).astype(np.int64)
    table = clips.iloc[rows].reset_index(drop=True)
    chosen = describe(options.only, options.without)
    return Clips(table, select_labels(rated, rows), rows, chosen)


def _point_out_untaught(clips: Clips, index: int, folds: Folds) -> None:
    """Name the clips that no head of an axis will predict; refuse an axis without any head."""
    axis, known = clips.axes[index].name, np.isfinite(clips.labels.mean[:, index])
    taught, judged = folds.teach(known), (folds.test & known).any(1)
    if not (taught & judged).any():
        raise QamroError(
            f"no fold has two training labels and a held-out one "
            f"({int(known.sum())} of the clips are rated on it); use another --cv, or leave the "
            "axis out: --axis names those to train"
        )
    lost = clips.table["clip_id"][folds.test[~taught].any(0) & known].tolist()
    if not taught.all():
        names = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        logger.warning(
            "axis %s: %d of %d folds have fewer than two training labels and train no head; "
            "their held-out clips are left out of all figures: %d%s",
            axis,
            int((~taught).sum()),
            len(taught),
            len(lost),
            f" ({names})" if lost else "",
        )


def _by_rated_clips(clips: Clips) -> list[Clips]:
    """Part the axes by the clips that are rated on them."""
    known = np.isfinite(clips.labels.mean)
    alike: dict[bytes, list[int]] = {}
    for index in range(len(clips.axes)):
        alike.setdefault(known[:, index].tobytes(), []).append(index)
    parts = []
    for indices in alike.values():
        rows = np.flatnonzero(known[:, indices[0]]).astype(np.int64)
        labels = select_axes(clips.labels, [clips.axes[index].name for index in indices])
        table = clips.table.iloc[rows].reset_index(drop=True)
        parts.append(Clips(table, select_labels(labels, rows), clips.rows[rows], clips.chosen))
    return parts


def hold_out(clips: Clips, cv: str, options: RunOptions) -> list[AxisGroup]:
    """Decide how clips are held out, a group of axes each; log what figures will not be worth.

    Raises:
        QamroError: the clips cannot be cut that way.
    """
    cv = cv or default_cv(clips.table, clips.known)
    inner = options.stop == "inner" or (not options.stop and cv == "split")
    # What a label file names is pointed out as it is read.
    if cv in ("system", "group") and options.labels is None:
        point_out_case(clips.table[cv], cv, "the clips")
    found = reference_like(clips.table, clips.labels)
    if found:
        names = ", ".join(f"{name!r} ({why})" for name, why in list(found.items())[:5])
        logger.warning(
            "looks like a reference or an anchor: %s; such clips raise every figure, "
            "--without system=%s leaves them out",
            names,
            next(iter(found)),
        )
    parts = _by_rated_clips(clips)
    groups = []
    for part in parts:
        try:
            groups.append(AxisGroup(part, _held_out(part, cv, inner)))
        except QamroError as error:
            names = ", ".join(axis.name for axis in part.axes)
            raise error if len(parts) == 1 else QamroError(f"axis {names}: {error}") from error
    return groups


def _held_out(clips: Clips, cv: str, inner: bool) -> HeldOut:
    folds, question = make_folds(clips.table, cv, clips.known, inner=inner)
    if clips.chosen:
        question += f"; {clips.chosen} ({len(clips.table)} clips)"
    for index, axis in enumerate(clips.axes):
        _point_out_untaught(clips, index, folds)
        warn_of_small_numbers(axis.name, clips.judged(index, folds, cv))
    return HeldOut(cv, inner, folds, question)
