"""From caches on disk to what `fit` takes: the clips that can be used, in memory."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from qamro_cache.cache.reader import Cache, open_cache
from qamro_cache.datasets.labels import load_labels
from qamro_cache.datasets.records import Axis, Labels, select_axes, select_labels
from qamro_cache.errors import QamroError
from qamro_cache.heads.pooling import take_clips
from qamro_cache.training.inputs import Features, Targets

logger = logging.getLogger("qamro_cache")


@dataclass(frozen=True)
class Material:
    """The rated clips of a cache.

    Attributes:
        clips: one row a clip that has features and at least one label.
        features: of these clips.
        labels: of these clips, the chosen axes only.
        feature: its name in the cache.
        text_feature: its name in the cache; empty where no prompts are used.
        encoder: name.
        identity: of the cache.
        identity_sha256: of the cache.
        dataset: name of the set.
        synthetic: clips or ratings were made by a program.
    """

    clips: pd.DataFrame
    features: Features
    labels: Labels
    feature: str
    text_feature: str
    encoder: str
    identity: dict[str, Any]
    identity_sha256: str
    dataset: str
    synthetic: bool

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The chosen axes."""
        return self.labels.axes

    def targets(self) -> Targets:
        """Return the labels as `fit` takes them."""
        ranges = [[axis.low, axis.high] for axis in self.axes]
        return Targets(
            torch.from_numpy(self.labels.mean.T.copy()), torch.tensor(ranges, dtype=torch.float64)
        )

    def systems(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """Return each clip's system as a number, -1 for none."""
        names = self.clips["system"].to_numpy(dtype=str)
        known = np.unique(names[names != ""])
        index = np.searchsorted(known, names)
        return np.where(names == "", -1, index).astype(np.int64)


def load_material(
    caches: str | Path | Sequence[str | Path] | Cache,
    *,
    axes: Sequence[str] = (),
    labels: Path | None = None,
    feature: str = "",
    text: bool = False,
    text_feature: str = "",
    only: Collection[str] | None = None,
) -> Material:
    """Read a cache and leave out what cannot be trained on.

    Args:
        caches: a cache file, or several of one identity, or an open cache.
        axes: names; empty for all.
        labels: a label file in place of the cache's own labels.
        feature: name; empty for the encoder's first.
        text: whether the prompts' embeddings are wanted.
        text_feature: name; empty for the encoder's first.
        only: ids of the clips to use; None for all.

    Raises:
        QamroError: no such axis or feature, no clip with a label, a NaN among the features.
    """
    cache = caches if isinstance(caches, Cache) else open_cache(caches)
    rated = cache.labels
    if labels is not None:
        rated = load_labels(labels, list(cache.clips["clip_id"]), rated.axes)
    rated = select_axes(rated, axes)
    feature = cache.feature_name(feature)
    windows, offsets, weights = cache.read(feature)
    known = np.isfinite(rated.mean).any(1)
    has_windows = offsets.diff().numpy() > 0
    usable = has_windows & known
    if text:
        text_feature = cache.feature_name(text_feature, "text_features")
        prompts = cache.read_text(text_feature)
        usable &= prompts.index.numpy() >= 0
    if only is not None:
        usable &= cache.clips["clip_id"].isin(only).to_numpy(dtype=bool)
    if not usable.any():
        raise QamroError(f"{cache.paths[0]}: no clip has features and a label; use --labels FILE")
    if not usable.all():
        why = f"{int((~has_windows).sum())} without features, {int((~known).sum())} without a label"
        if text:
            why += f", {int((prompts.index < 0).sum())} without a prompt"
        logger.info("%d of %d clips are left out: %s", int((~usable).sum()), len(usable), why)
    rows = np.flatnonzero(usable)
    taken = take_clips(offsets, torch.from_numpy(rows))
    chosen = Features(windows.float()[taken.windows], taken.offsets, weights[taken.windows])
    if not bool(chosen.windows.isfinite().all()):
        raise QamroError(
            f"{cache.paths[0]}: feature {feature!r} has values that are not finite; "
            "run qamro-cache verify and extract it again"
        )
    if text:
        embeddings = prompts.embeddings.float()[prompts.index[torch.from_numpy(rows)]]
        chosen = chosen._replace(text=embeddings.flatten(1))
    return Material(
        clips=cache.clips.iloc[rows].reset_index(drop=True),
        features=chosen,
        labels=select_labels(rated, rows.astype(np.int64)),
        feature=feature,
        text_feature=text_feature if text else "",
        encoder=str(cache.identity.get("name", "")),
        identity=cache.identity,
        identity_sha256=cache.identity_sha256,
        dataset=cache.dataset,
        synthetic=cache.synthetic,
    )
