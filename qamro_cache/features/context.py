"""The company a clip is heard in: x becomes x, x - c, abs(x - c), with c what it is heard beside.

Listeners of a comparing test do not judge a clip alone. ``reference``: c is the vector of the clip
that is named as its reference; ``group``: the mean of the other clips of its group that are no
references; ``both``: one after the other. No label is looked at. Where there is no company, c is x
itself, so that the difference is zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from qamro_cache.datasets.ids import one_spelling
from qamro_cache.errors import QamroError, few
from qamro_cache.features.expression import CONTEXTS as CONTEXTS
from qamro_cache.features.pooling import sum_windows

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Context(NamedTuple):
    """What a head takes into account of a clip's company.

    Attributes:
        kind: of `CONTEXTS`, not ``none``.
        by: the column that groups are of: ``group`` or ``prompt``.
        low: fewest others that a clip was heard beside in training; 0 without groups.
        high: most.
    """

    kind: str
    by: str
    low: int
    high: int

    def learned(self, others: Ints) -> Bools:
        """Tell of which numbers of others [C] the head has learned something."""
        known: Bools = (others >= max(self.low, 1)) & (others <= self.high)
        return known


def times(kind: str) -> int:
    """Return how many times as wide a context makes a vector."""
    return {"none": 1, "reference": 3, "group": 3, "both": 5}[kind]


@dataclass(frozen=True)
class Company:
    """Whom each of N clips is heard beside.

    Attributes:
        kind: of `CONTEXTS`.
        by: the column that groups are of.
        group: [N] its number, -1 for none.
        member: [N] clips that others are heard beside: with features, and no reference.
        reference: [N] row of its reference; its own where there is none.
    """

    kind: str
    by: str
    group: Ints
    member: Bools
    reference: Ints

    @property
    def of_groups(self) -> bool:
        """Whether the other clips of a group matter."""
        return self.kind in ("group", "both")

    def others(self, allowed: Bools | None = None) -> Ints:
        """Return how many others each clip is heard beside [N], of those that are ``allowed``."""
        member = self.member if allowed is None else self.member & allowed
        mine = member & (self.group >= 0)
        counts = np.bincount(self.group[mine], minlength=self.group.max(initial=-1) + 1)
        found: Ints = np.where(self.group >= 0, counts[self.group] - mine, 0)
        return found

    def agrees(self, trained: Bools) -> bool:
        """Tell whether all company of the ``trained`` clips [N] is among them."""
        same = True
        if self.of_groups:
            same = bool((self.others(trained) == self.others())[trained].all())
        if self.kind != "group":
            same &= bool(trained[self.reference[trained]].all())
        return same

    def seen(self, vectors: Tensor, closed: Sequence[Bools] = ()) -> Tensor:
        """Return the vectors with their company: [N, D] -> [N, 3 D], or 5 D.

        Args:
            vectors: of all clips.
            closed: [N] each, clips that have none but each other for company; of several the
                last that a clip is in counts. All others have everybody.
        """
        parts = [vectors]
        if self.kind != "group":
            row, own = self.reference, np.arange(len(self.reference))
            for part in closed:
                row = np.where(part, np.where(part[self.reference], self.reference, own), row)
            parts += _apart(vectors, vectors[torch.from_numpy(row).to(vectors.device)])
        if self.of_groups:
            center = self._center(vectors, None)
            for part in closed:
                mine = torch.from_numpy(part).to(vectors.device)[:, None]
                center = torch.where(mine, self._center(vectors, part), center)
            parts += _apart(vectors, center)
        return torch.cat(parts, 1)

    def _center(self, vectors: Tensor, allowed: Bools | None) -> Tensor:
        """Return the mean of each clip's others [N, D]; the clip itself where it has none."""
        member = self.member if allowed is None else self.member & allowed
        mine = member & (self.group >= 0)

        def there(values: npt.NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(vectors.device)

        rows, exact = np.flatnonzero(mine), vectors.double()
        rows = rows[np.argsort(self.group[rows], kind="stable")]
        groups = self.group.max(initial=-1) + 2
        sums = sum_windows(exact[there(rows)], there(self.group[rows]), groups)
        others = there(self.others(allowed))[:, None]
        total = sums[there(self.group)] - exact * there(mine)[:, None]
        return torch.where(others > 0, total / others.clamp_min(1), exact).to(vectors.dtype)


def company_of(clips: pd.DataFrame, rows: Ints, kind: str, by: str, where: str) -> Company:
    """Return whom clips are heard beside.

    Args:
        clips: the whole table, N clips.
        rows: of the clips that heads are to see.
        kind: of `CONTEXTS`.
        by: the column that groups are of.
        where: the file, for messages.

    Raises:
        QamroError: there are no groups, one has references only, or a reference is not named, not
            known or not one.
    """
    ids, named = (clips[name].to_numpy(str) for name in ("clip_id", "reference"))
    row_of = {clip: row for row, clip in enumerate(ids)}
    own = np.arange(len(ids))
    reference = np.array([row_of.get(n, -1) if n else -2 for n in named], np.int64)
    # One that others name is a reference, whether or not it names itself.
    is_reference = np.isin(own, reference[reference != own]) | (reference == own)
    ok = (clips["status"] == "ok").to_numpy()
    names = clips[by].to_numpy(str)
    if by == "prompt":
        names = np.array(one_spelling(names.tolist()), str)
    codes = np.unique(names, return_inverse=True)[1]
    # Two listening tests may have a song 1 each, which are not one.
    test = np.unique(clips["source"].to_numpy(str), return_inverse=True)[1]
    codes = np.unique(len(codes) * test + codes, return_inverse=True)[1].astype(np.int64)
    group = np.where(names == "", -1, codes)
    if kind in ("reference", "both"):
        _refuse_references(ids, named, np.where(is_reference & (reference == -2), own, reference),
                           ok, rows, where)  # fmt: skip
    found = Company(kind, by, group, ok & ~is_reference, np.where(reference < 0, own, reference))
    if kind in ("group", "both"):
        _refuse_groups(found, clips, rows, where)
    return found


def _apart(vectors: Tensor, center: Tensor) -> list[Tensor]:
    difference = vectors - center
    return [difference, difference.abs()]


def _refuse_references(
    ids: npt.NDArray[np.str_],
    named: npt.NDArray[np.str_],
    reference: Ints,
    ok: Bools,
    rows: Ints,
    where: str,
) -> None:
    lacking = ids[rows[reference[rows] == -2]].tolist()
    if len(lacking) == len(rows):
        raise QamroError(
            f"{where}: no clip names a reference; context reference takes a column reference in "
            "the manifest or the label file: the id of the clip that each was heard beside"
        )
    if lacking:
        raise QamroError(
            f"{where}: {len(lacking)} clips name no reference ({few(lacking)}); name it, or leave "
            "them out (in training by --without)"
        )
    for row in rows:
        other = reference[row]
        said = f"{where}: clip {ids[row]!r} has the reference {named[row]!r}, which"
        if other == -1:
            raise QamroError(f"{said} is no clip there")
        if reference[other] not in (-2, other):
            raise QamroError(f"{said} refers on to {named[other]!r}; a reference has itself")
        if not ok[other]:
            raise QamroError(
                f"{said} has no features; leave its clips out (in training by --without)"
            )


def _refuse_groups(company: Company, clips: pd.DataFrame, rows: Ints, where: str) -> None:
    chosen = np.zeros(len(clips), np.bool_)
    chosen[rows] = True
    if not (company.group[chosen] >= 0).any():
        raise QamroError(
            f"{where}: no clip has a {company.by}, and context {company.kind} compares the clips "
            "of one; give a column group (to qamro-predict --audio: --group-by folder)"
        )
    counts = np.bincount(company.group[company.member & (company.group >= 0)],
                         minlength=company.group.max() + 1)  # fmt: skip
    empty = chosen & (company.group >= 0) & (counts[company.group] == 0)
    if empty.any():
        name = clips[company.by].to_numpy(str)[empty][0]
        raise QamroError(
            f"{where}: {company.by} {name!r} has references only, so there is nothing to compare "
            f"them with; leave it out (in training by --without {company.by}={name})"
        )
