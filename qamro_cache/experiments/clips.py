"""Which clips heads are trained on and judged by, and how: decided before torch is loaded."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.datasets.axes import notice_guessed, rated_axes, refuse_far, with_scales
from qamro_cache.datasets.ids import point_out_case
from qamro_cache.datasets.labels import relabel
from qamro_cache.datasets.options import parse_scales
from qamro_cache.datasets.preferences import Pairs, load_pairs
from qamro_cache.datasets.raters import raters_apart
from qamro_cache.datasets.records import Axis, Labels, select_axes, select_labels
from qamro_cache.datasets.registry import group_kind
from qamro_cache.datasets.selection import describe, reference_like, select_rows
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.judged import Judged, check_judged, codes_of, judged_of, rated
from qamro_cache.evaluation.kinds import JACKKNIFE, Kind
from qamro_cache.experiments.copies import Copies
from qamro_cache.experiments.cutting import folds_and_copies
from qamro_cache.experiments.folds import default_cv
from qamro_cache.experiments.options import RunOptions
from qamro_cache.experiments.several import Units, check_sources, own_units, tests_apart, units_of
from qamro_cache.experiments.untaught import point_out_untaught
from qamro_cache.features.sources import Sources
from qamro_cache.training.inputs import Bools, Folds

logger = logging.getLogger("qamro_cache")


@dataclass(frozen=True)
class Clips:
    """The rated clips of joined caches that can be used, and are to be.

    Attributes:
        table: one row a clip.
        labels: of these clips, the chosen axes only.
        rows: [C] their rows in the caches' table.
        whole: that table, with the systems, groups and splits of a label file.
        chosen: ``--only`` and ``--without`` in words.
        group_kind: what a group is, in a word; empty where that is not known.
        interval: the kind that figures on them have.
        pairs: verdicts on these clips, on the chosen axes; None where none were given.
    """

    table: pd.DataFrame
    labels: Labels
    rows: npt.NDArray[np.int64]
    whole: pd.DataFrame
    chosen: str = ""
    group_kind: str = ""
    interval: Kind = JACKKNIFE
    pairs: Pairs | None = None

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The chosen axes."""
        return self.labels.axes

    @property
    def known(self) -> Bools:
        """[C] the clips that have a label, or are in a pair."""
        known: Bools = np.isfinite(self.labels.mean).any(1)
        return known if self.pairs is None else known | self.pairs.named(len(known))

    def known_on(self, axis: int) -> Bools:
        """[C] the clips that have a label on an axis, or are in a pair there."""
        known: Bools = np.isfinite(self.labels.mean[:, axis])
        if self.pairs is None:
            return known
        return known | self.pairs.on([axis]).named(len(known))

    def systems(self) -> npt.NDArray[np.int64]:
        """Return each clip's system as a number, -1 for none."""
        return codes_of(self.apart["system"].to_numpy(dtype=str))

    def sources(self) -> npt.NDArray[np.int64]:
        """Return which test each clip is of, as a number, -1 for none."""
        return codes_of(self.table["source"].to_numpy(dtype=str))

    @cached_property
    def several(self) -> bool:
        """Whether clips of several tests are among them."""
        return self.table["source"].nunique() > 1

    @property
    def apart(self) -> pd.DataFrame:
        """The table, what different tests call alike being told apart."""
        return tests_apart(self.table) if self.several else self.table

    def units(self, axis: int, folds: Folds) -> Units:
        """Return the units that `judged` has: of several tests, standard ones of each."""
        if not self.several:
            return own_units(len(self.table))
        return units_of(self.sources(), self.labels.mean[:, axis], folds)

    def judged(self, axis: int, folds: Folds, cv: str) -> Judged:
        """Return the labels of the clips that some fold of ``cv`` holds out, in `units`."""
        judged = judged_of(
            self.apart,
            np.where(folds.test.any(0), self.labels.mean[:, axis], np.nan),
            cv=cv,
            ratings=rated(self.labels, axis),
            group_kind=self.group_kind,
            interval=self.interval,
        )
        return self.units(axis, folds).judged(judged)


@dataclass(frozen=True)
class HeldOut:
    """How clips are held out from training.

    Attributes:
        cv: as given, or chosen.
        inner: whether heads stop on a validation set.
        folds: who trains on what.
        question: what the folds ask of a model, in a line.
        copies: the held-out clips that are trained on too, under another name.
    """

    cv: str
    inner: bool
    folds: Folds
    question: str
    copies: Copies


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


def choose_clips(sources: Sources, options: RunOptions, *, text: bool = False) -> Clips:
    """Return the clips of the caches that have what training takes, and are to be used.

    Args:
        sources: joined caches.
        options: ``axis``, ``labels``, ``only`` and ``without`` of the run. A label file stands in
            place of the cache's labels, systems, groups and splits, as far as it has them.
        text: whether a clip needs a prompt.

    Raises:
        QamroError: no such axis, no such column or value, or no clip is left.
    """
    clips, labels = sources.clips, sources.labels
    if options.labels is not None:
        clips, labels = relabel(
            options.labels,
            clips,
            labels,
            columns=options.columns,
            axes=options.axis,
            scale=options.scale,
        )
    elif options.scale:
        labels = with_scales(labels, parse_scales(options.scale), clips["clip_id"].tolist())
    pairs = None
    if options.pairs is not None:
        pairs, labels = load_pairs(options.pairs, clips["clip_id"].tolist(), labels, options.axis)
    labels = select_axes(labels, options.axis)
    refuse_far(labels)
    notice_guessed(rated_axes(labels))
    chosen = describe(options.only, options.without)
    lacks = {
        "without features": (clips["status"] != "ok").to_numpy(dtype=bool),
        "without a label": ~np.isfinite(labels.mean).any(1),
        f"not chosen ({chosen})": ~select_rows(clips, options.only, options.without),
    }
    if text:
        lacks["without a prompt"] = (clips["prompt"] == "").to_numpy(dtype=bool)
    if pairs is not None:
        lacks["without a label or a pair"] = lacks.pop("without a label") & ~pairs.named(len(clips))
    usable = ~np.logical_or.reduce(list(lacks.values()))
    if not usable.any():
        raise QamroError(
            f"{sources.first.paths[0]}: no clip has features and a label; use --labels FILE"
        )
    if not usable.all():
        some = {what: int(out.sum()) for what, out in lacks.items() if out.any()}
        counted = [f"{count} {what}" for what, count in some.items()]
        why = ", ".join(counted if len(some) > 1 else some)
        logger.info("%d of %d clips are left out: %s", int((~usable).sum()), len(usable), why)
    check_sources(clips, labels, usable)
    rows = np.flatnonzero(usable).astype(np.int64)
    table = clips.iloc[rows].reset_index(drop=True)
    # A label file may have groups of its own.
    kind = "" if options.labels is not None else group_kind(sources.first.dataset)
    rated_on = raters_apart(select_labels(labels, rows), table["source"].tolist())
    if pairs is not None:
        pairs = pairs.at(rows, len(clips))
    return Clips(table, rated_on, rows, clips, chosen, kind, options.kind, pairs)


def by_rated_clips(clips: Clips) -> list[Clips]:
    """Part the axes by the clips that are rated on them."""
    known = np.stack([clips.known_on(index) for index in range(len(clips.axes))], 1)
    alike: dict[bytes, list[int]] = {}
    for index in range(len(clips.axes)):
        alike.setdefault(known[:, index].tobytes(), []).append(index)
    parts = []
    for indices in alike.values():
        rows = np.flatnonzero(known[:, indices[0]]).astype(np.int64)
        labels = select_axes(clips.labels, [clips.axes[index].name for index in indices])
        table = clips.table.iloc[rows].reset_index(drop=True)
        rated_on, pairs = select_labels(labels, rows), clips.pairs
        if pairs is not None:
            pairs = pairs.on(indices).at(rows, len(clips.rows))
        mine = replace(clips, table=table, labels=rated_on, rows=clips.rows[rows], pairs=pairs)
        parts.append(mine)
    return parts


def hold_out(sources: Sources, clips: Clips, cv: str, options: RunOptions) -> list[AxisGroup]:
    """Decide how clips are held out, a group of axes each; log what figures will not be worth.

    Args:
        sources: that the clips are from.
        clips: to be cut.
        cv: a way to hold out; empty for the one that the clips suggest.
        options: ``stop``, ``labels`` and ``keep_together`` of the run.

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
    parts = by_rated_clips(clips)
    groups = []
    for part in parts:
        try:
            groups.append(AxisGroup(part, _held_out(sources, part, cv, options, inner=inner)))
        except QamroError as error:
            names = ", ".join(axis.name for axis in part.axes)
            raise error if len(parts) == 1 else QamroError(f"axis {names}: {error}") from error
    return groups


def _held_out(
    sources: Sources, clips: Clips, cv: str, options: RunOptions, *, inner: bool
) -> HeldOut:
    # Of one prompt by two systems clips are alike by design: there, exact copies alone count.
    fingerprints = None if cv == "system" else sources.first.fingerprints_of(clips.rows)
    folds, question, copies = folds_and_copies(
        clips.table, clips.known, cv, fingerprints, inner=inner, together=options.keep_together
    )
    if clips.chosen:
        question += f"; {clips.chosen} ({len(clips.table)} clips)"
    if clips.several:
        question += f"; {clips.table['source'].nunique()} sources, each in its standard units"
    if copies.words():
        question += f"; {copies.words()}"
        logger.warning(
            "%s, which raises every figure: %s; --keep-together puts copies into one fold",
            copies.words(),
            copies.examples(clips.table["clip_id"].tolist()),
        )
    if copies.not_comparable:
        logger.info(
            "the sounds of %d of %d clips cannot be compared (too short, or a cache without "
            "fingerprints): among them copies are found by their hashes alone",
            copies.not_comparable,
            len(clips.table),
        )
    for index, axis in enumerate(clips.axes):
        known = np.isfinite(clips.labels.mean[:, index])
        pairs = None if clips.pairs is None else clips.pairs.on([index])
        point_out_untaught(axis.name, clips.table["clip_id"], known, pairs, folds)
        check_judged(axis.name, clips.judged(index, folds, cv))
    return HeldOut(cv, inner, folds, question, copies)
