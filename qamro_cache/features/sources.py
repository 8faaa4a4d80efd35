"""Caches of one or several encoders, joined by clip: what the features of an expression are of."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.cache.content import TextFeatures, WindowFeatures
from qamro_cache.cache.reader import Cache, CacheLike, open_cache
from qamro_cache.datasets.records import Labels
from qamro_cache.errors import QamroError, few, unknown
from qamro_cache.features.expression import Expression, Read
from qamro_cache.features.lookup import owner, used
from qamro_cache.paths import as_list

logger = logging.getLogger("qamro_cache")

Rows = npt.NDArray[np.int64]

_HASHES = ("audio_sha256", "samples_sha256")


@dataclass(frozen=True)
class Sources:
    """N clips, and where each cache has them.

    Attributes:
        first: the cache whose clips, labels and groups count.
        clips: its table; a clip that any of the joined caches has no features of is not ``ok``.
        caches: to read features from, of one encoder each.
        rows: [N] of each of these caches; -1 for a clip that it lacks.
    """

    first: Cache
    clips: pd.DataFrame
    caches: tuple[Cache, ...]
    rows: tuple[Rows, ...]

    @property
    def labels(self) -> Labels:
        """Of the clips."""
        return self.first.labels

    @property
    def name(self) -> str:
        """The encoders' names."""
        return " + ".join(dict.fromkeys(str(one.get("name", "")) for one in self.identities))

    @property
    def identities(self) -> tuple[Mapping[str, Any], ...]:
        """What made the features, an encoder each."""
        return tuple(cache.identity for cache in self.caches)

    @property
    def identity_sha256(self) -> str:
        """Hex digest of what made the features."""
        return _together([cache.identity_sha256 for cache in self.caches])

    @property
    def content_sha256(self) -> str:
        """Hex digest of everything in the caches."""
        return _together([cache.content_sha256 for cache in self.caches])

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of all caches."""
        return tuple(path for cache in self.caches for path in cache.paths)

    @property
    def synthetic(self) -> bool:
        """Whether the clips or ratings were made by a program."""
        return any(cache.synthetic for cache in self.caches)

    def only(self, expression: Expression) -> "Sources":
        """Return these clips with the caches alone that an expression reads, in its order."""
        chosen = used(expression, self.identities)
        caches = tuple(self.caches[k] for k in chosen)
        return replace(self, caches=caches, rows=tuple(self.rows[k] for k in chosen))

    def read(self, one: Read, device: str = "cpu") -> WindowFeatures:
        """Read a feature of the clips; one that its cache lacks has no window."""
        import torch

        from qamro_cache.features.pooling import take_clips

        k = owner(one, self.identities)
        rows, found = self.rows[k], self.caches[k].read(one.feature, device)
        windows, offsets, weights = found
        if one.layers:
            first, colon, end = one.layers.partition(":")
            windows = windows[:, int(first) : int(end)] if colon else windows[:, int(first)]
        if np.array_equal(rows, np.arange(len(offsets) - 1)):
            return WindowFeatures(windows, offsets, weights)
        # A clip more, without windows, for those that are not there.
        offsets = torch.cat([offsets, offsets[-1:]])
        place = np.where(rows < 0, len(offsets) - 2, rows)
        taken = take_clips(offsets, torch.from_numpy(place).to(offsets.device))
        return WindowFeatures(windows[taken.windows], taken.offsets, weights[taken.windows])

    def text_source(self, name: str) -> tuple[int, str]:
        """Return which cache has the prompts' embeddings, and their name.

        Args:
            name: of the feature; empty for the first of the first cache that has any.

        Raises:
            OptionError: there is no such feature.
        """
        for k, cache in enumerate(self.caches):
            if name in cache.text_features or (not name and cache.text_features):
                return k, name or next(iter(cache.text_features))
        known = [feature for cache in self.caches for feature in cache.text_features]
        raise unknown(f"{self.caches[0].paths[0]} has no text feature", name, known)

    def read_text(self, name: str, device: str = "cpu") -> TextFeatures:
        """Read one feature of the prompts, and which is each clip's; -1 for none."""
        import torch

        k, name = self.text_source(name)
        found = self.caches[k].read_text(name, device)
        rows = torch.from_numpy(self.rows[k]).to(found.index.device)
        index = found.index[rows.clamp(min=0)].masked_fill(rows < 0, -1)
        return TextFeatures(found.embeddings, index)


def join_caches(caches: CacheLike | Sequence[CacheLike]) -> Sources:
    """Open caches, those of one identity as parts of one, and join them by clip id.

    Clips that one has and another lacks are counted and named.

    Raises:
        QamroError: they have no clip in common, or another sound under a clip's id.
    """
    opened = _by_encoder(caches)
    first, clips = opened[0], opened[0].clips
    rows = [np.arange(len(clips), dtype=np.int64)]
    if len(opened) > 1:
        clips = clips.copy()
    for cache in opened[1:]:
        place = pd.Index(cache.clips["clip_id"]).get_indexer(pd.Index(first.clips["clip_id"]))
        rows.append(place.astype(np.int64))
        _compare(first, cache, rows[-1])
        mine = (clips["status"] == "ok").to_numpy()
        theirs = cache.clips.iloc[rows[-1].clip(0)]
        gone, failed = mine & (rows[-1] < 0), mine & (theirs["status"] != "ok").to_numpy()
        for name in ("status", "reason"):
            clips.loc[failed, name] = theirs[name].to_numpy()[failed]
        clips.loc[gone, ["status", "reason"]] = "missing", f"it is not in {cache.paths[0]}"
    return Sources(first, clips, tuple(opened), tuple(rows))


def _together(sums: Sequence[str]) -> str:
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def _by_encoder(caches: CacheLike | Sequence[CacheLike]) -> list[Cache]:
    """Open the caches, those of one identity as one."""
    groups: dict[str, list[Cache]] = {}
    for cache in map(open_cache, as_list(caches)):
        groups.setdefault(cache.identity_sha256, []).append(cache)
    if not groups:
        raise QamroError("no cache file was given")
    return [
        parts[0] if len(parts) == 1 else open_cache([path for part in parts for path in part.paths])
        for parts in groups.values()
    ]


def _compare(first: Cache, other: Cache, rows: Rows) -> None:
    """Refuse caches of other clips; count and name those that one of them lacks."""
    there = rows >= 0
    if not there.any():
        raise QamroError(
            f"{first.paths[0]} and {other.paths[0]} have no clip in common, by their clip ids"
        )
    mine, theirs = first.clips[there], other.clips.iloc[rows[there]]
    hashes = [[one[name].to_numpy(str) for one in (mine, theirs)] for name in _HASHES]
    known = np.logical_and.reduce([part != "" for part in hashes[0]])
    # The same samples in another format have another hash of the file.
    same = (hashes[0][0] == hashes[0][1]) | ((hashes[1][0] == hashes[1][1]) & (hashes[1][0] != ""))
    differ = known & ~same
    if differ.any():
        raise QamroError(
            f"clip {mine['clip_id'].to_numpy()[differ][0]!r} is another sound in {other.paths[0]} "
            f"than in {first.paths[0]} (of {int(differ.sum())} such clips); extract both from the "
            "same files"
        )
    extra = ~other.clips["clip_id"].isin(first.clips["clip_id"]).to_numpy()
    for lost, lacking in (
        (first.clips["clip_id"][~there].tolist(), other),
        (other.clips["clip_id"][extra].tolist(), first),
    ):
        if lost:
            said = "left out: %d clips that %s does not have (%s)"
            logger.warning(said, len(lost), lacking.paths[0], few(lost))
