"""Held-out clips that are trained on under another name: the same file, samples or sound."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.audio.alike import comparable, find_alike
from qamro_cache.audio.fingerprint import Bytes
from qamro_cache.errors import few
from qamro_cache.training.inputs import Bools, Folds

logger = logging.getLogger("qamro_cache")

Rows = npt.NDArray[np.int64]

#: How a clip is known to be a copy, the surest first, and in words.
KINDS: Mapping[str, str] = {"file": "same file", "samples": "same samples", "sound": "alike"}
#: Pairs of clips from which the comparison of sounds takes minutes.
_MANY = 10**9


@dataclass(frozen=True)
class Copies:
    """The held-out clips that their fold's training clips repeat.

    Attributes:
        pairs: by kind, [N, 2]: rows of a held-out clip, which is in the first kind that it is
            found by, and of a training clip.
        not_comparable: clips of the folds whose sounds cannot be compared; None: not asked for.
    """

    pairs: Mapping[str, Rows] = field(default_factory=dict)
    not_comparable: int | None = None

    @property
    def all_pairs(self) -> Rows:
        """[N, 2] of all kinds."""
        return np.concatenate([np.zeros((0, 2), np.int64), *self.pairs.values()])

    def record(self) -> dict[str, int | None]:
        """Return the numbers of held-out clips, whole and by kind, for ``metrics.json``."""
        counts = {kind: len(rows) for kind, rows in self.pairs.items()}
        return {
            "held_out": sum(counts.values()),
            **{kind: counts.get(kind, None if kind == "sound" else 0) for kind in KINDS},
            "not_comparable": self.not_comparable,
        }

    def words(self) -> str:
        """Say how many there are; empty for none."""
        counts = [f"{len(rows)} {KINDS[kind]}" for kind, rows in self.pairs.items() if len(rows)]
        total = len(self.all_pairs)
        verb = "clip is" if total == 1 else "clips are"
        return f"{total} held-out {verb} trained on too ({', '.join(counts)})" if total else ""

    def examples(self, clip_ids: Sequence[str]) -> str:
        """Name the first pairs."""
        shown = [
            f"{clip_ids[held]} and {clip_ids[trained]} ({KINDS[kind]})"
            for kind, rows in self.pairs.items()
            for held, trained in rows.tolist()
        ]
        return few(shown, 3)


def find_copies(
    clips: pd.DataFrame,
    folds: Folds,
    fingerprints: Sequence[Bytes] | None,
    content: npt.NDArray[np.str_],
) -> Copies:
    """Compare each fold's held-out clips with those that it trains on or stops by.

    Args:
        clips: one row a clip.
        folds: over them.
        fingerprints: of the clips; None: their sounds are not compared.
        content: [C] what is heard in a clip, empty where that is not known. Clips of one content
            are alike by design, so their sounds are not compared.
    """
    held = np.flatnonzero(folds.test.any(0))
    learns = folds.train | folds.validation
    # Of every clip, those that its fold learns from.
    fold_of = folds.test.argmax(0)
    pairs: dict[str, Rows] = {}
    for kind in ("file", "samples"):
        column = {"file": "audio_sha256", "samples": "samples_sha256"}[kind]
        pairs[kind] = _same(clips[column].to_numpy(dtype=str), held, learns, fold_of)
        held = np.setdiff1d(held, pairs[kind][:, 0])
    if fingerprints is None:
        return Copies(pairs)
    used = np.flatnonzero(folds.test.any(0) | learns.any(0))
    unknown = sum(not comparable(fingerprints[row]) for row in used)
    if len(held) * len(used) > _MANY:
        logger.info("comparing the sounds of %d clips with those of %d", len(held), len(used))

    def may(rows: Rows) -> Bools:
        mine = held[rows]
        same = (content[mine, None] == content) & (content[mine, None] != "")
        allowed: Bools = learns[fold_of[mine]] & ~same
        return allowed

    found = find_alike([fingerprints[row] for row in held], fingerprints, may)
    there = found >= 0
    pairs["sound"] = np.stack([held[there], found[there]], 1)
    return Copies(pairs, unknown)


def _same(hashes: npt.NDArray[np.str_], held: Rows, learns: Bools, fold_of: Rows) -> Rows:
    """Return a pair for each held-out clip whose hash some clip has that its fold learns from."""
    _, code, count = np.unique(hashes, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero((count[code] > 1) & (hashes != ""))
    order = repeated[np.argsort(code[repeated], kind="stable")]
    pairs = []
    for rows in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
        for row in np.intersect1d(rows, held).tolist():
            trained = rows[learns[fold_of[row], rows]]
            if len(trained):
                pairs.append((row, int(trained[0])))
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)
