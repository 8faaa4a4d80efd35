"""From caches on disk to what `fit` takes: the clips that can be used, in memory."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from qamro_cache.cache.reader import Cache, TextFeatures, WindowFeatures
from qamro_cache.datasets.labels import relabel
from qamro_cache.datasets.records import Axis, Labels, select_axes, select_labels
from qamro_cache.datasets.selection import describe, reference_like, select_rows
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.score import Judged, warn_of_small_numbers
from qamro_cache.experiments.options import RunOptions
from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.network import input_width, prepare_rows
from qamro_cache.heads.pooling import clip_of_window, mean_rows, take_clips
from qamro_cache.training.inputs import Bools, Features, Folds, Targets

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

    @property
    def known(self) -> Bools:
        """[C] the clips that have a label."""
        known: Bools = np.isfinite(self.labels.mean).any(1)
        return known

    def origin(self) -> dict[str, Any]:
        """Return what a run's ``config.json`` says of the clips and their features."""
        return {
            "dataset": self.dataset,
            "synthetic": self.synthetic,
            "encoder": self.encoder,
            "identity_sha256": self.identity_sha256,
            "feature": self.feature,
        }

    def targets(self) -> Targets:
        """Return the labels as `fit` takes them."""
        ranges = [[axis.low, axis.high] for axis in self.axes]
        return Targets(
            torch.from_numpy(self.labels.mean.T.copy()), torch.tensor(ranges, dtype=torch.float64)
        )

    def systems(self) -> npt.NDArray[np.int64]:
        """Return each clip's system as a number, -1 for none."""
        names = self.clips["system"].to_numpy(dtype=str)
        known = np.unique(names[names != ""])
        index = np.searchsorted(known, names)
        return np.where(names == "", -1, index).astype(np.int64)

    def clip_means(self) -> Tensor:
        """Return the mean of each clip's windows [C, D], flattened, without the prompt."""
        windows, offsets, weights, _ = self.features
        return mean_rows(windows.flatten(1), clip_of_window(offsets), weights, len(self.clips))

    def clip_vectors(self) -> npt.NDArray[np.float64]:
        """Return one vector a clip [C, D] for baselines: its windows' mean, with the prompt's."""
        values, text = self.clip_means(), self.features.text
        vectors: npt.NDArray[np.float64] = (
            (values if text is None else torch.cat([values, text], 1)).double().numpy()
        )
        return vectors

    def check_head(self, head: Architecture) -> None:
        """Refuse a head that does not take the feature."""
        text = self.features.text
        width = 0 if text is None else text.shape[1]
        try:
            input_width(head, self.features.windows.shape[1:], width)
        except ValueError as error:
            raise QamroError(f"feature {self.feature!r}: {error}") from error

    def row_shape(self, head: Architecture) -> tuple[int, ...]:
        """Return the shape of one row that a head sees."""
        windows, offsets, weights, text = self.features
        few = int(offsets[1])
        one = None if text is None else text[:1]
        rows = prepare_rows(head, windows[:few], offsets[:2], weights[:few], one)
        return tuple(rows.values.shape[1:])

    def asked(self, question: str, options: RunOptions) -> str:
        """Return the line that says what folds ask, with the clips that were chosen.

        Systems that look like references or anchors, and were not taken out, are pointed out.
        """
        found = reference_like(self.clips, self.labels)
        if found:
            names = ", ".join(f"{name!r} ({why})" for name, why in list(found.items())[:5])
            logger.warning(
                "looks like a reference or an anchor: %s; such clips raise every figure, "
                "--without system=%s leaves them out",
                names,
                next(iter(found)),
            )
        chosen = describe(options.only, options.without)
        return f"{question}; {chosen} ({len(self.clips)} clips)" if chosen else question

    def warn_of_small_sets(self, folds: Folds) -> None:
        """Log where held-out clips are too few, or too much alike, for figures that mean much."""
        judged, system = folds.test.any(0), self.systems()
        for index, axis in enumerate(self.axes):
            target = np.where(judged, self.labels.mean[:, index], np.nan)
            warn_of_small_numbers(axis.name, Judged(target, system))


def load_material(
    cache: Cache,
    options: RunOptions,
    *,
    feature: str = "",
    text: bool = False,
    text_feature: str = "",
    common: Collection[str] | None = None,
) -> Material:
    """Read a cache and leave out what cannot be trained on, or is not to be.

    Args:
        cache: open.
        options: ``axis``, ``labels``, ``only`` and ``without`` of the run. A label file stands in
            place of the cache's labels, systems, groups and splits, as far as it has them.
        feature: name; empty for the encoder's first.
        text: whether the prompts' embeddings are wanted.
        text_feature: name; empty for the encoder's first.
        common: ids of the clips to use; None for all.

    Raises:
        QamroError: no such axis or feature, no clip with a label, a NaN among the features.
    """
    clips, rated = cache.clips, cache.labels
    if options.labels is not None:
        clips, rated = relabel(options.labels, clips, rated)
    rated = select_axes(rated, options.axis)
    feature = cache.feature_name(feature)
    read = cache.read(feature)
    text_feature = cache.feature_name(text_feature, "text_features") if text else ""
    prompts = cache.read_text(text_feature) if text else None
    lacks = {
        "features": read.offsets.diff().numpy() <= 0,
        "a label": ~np.isfinite(rated.mean).any(1),
    }
    if prompts is not None:
        lacks["a prompt"] = prompts.index.numpy() < 0
    usable = ~np.logical_or.reduce(list(lacks.values()))
    usable &= select_rows(clips, options.only, options.without)
    if common is not None:
        usable &= clips["clip_id"].isin(common).to_numpy(dtype=bool)
    rows = _usable_rows(cache, usable, lacks)
    features = _take(read, prompts, torch.from_numpy(rows))
    if not bool(features.windows.isfinite().all()):
        raise QamroError(
            f"{cache.paths[0]}: feature {feature!r} has values that are not finite; "
            "run qamro-cache verify and extract it again"
        )
    return Material(
        clips=clips.iloc[rows].reset_index(drop=True),
        features=features,
        labels=select_labels(rated, rows),
        feature=feature,
        text_feature=text_feature,
        encoder=str(cache.identity.get("name", "")),
        identity=cache.identity,
        identity_sha256=cache.identity_sha256,
        dataset=cache.dataset,
        synthetic=cache.synthetic,
    )


def _take(read: WindowFeatures, prompts: TextFeatures | None, rows: Tensor) -> Features:
    """Return the features of some clips."""
    taken = take_clips(read.offsets, rows)
    text = None
    if prompts is not None:
        text = prompts.embeddings.float()[prompts.index[rows]].flatten(1)
    windows = read.windows.float()[taken.windows]
    return Features(windows, taken.offsets, read.weights[taken.windows], text)


def _usable_rows(cache: Cache, usable: Bools, lacks: dict[str, Bools]) -> npt.NDArray[np.int64]:
    """Return the rows of the clips that are used, and say why others are not."""
    if not usable.any():
        raise QamroError(f"{cache.paths[0]}: no clip has features and a label; use --labels FILE")
    if not usable.all():
        why = ", ".join(f"{int(missing.sum())} without {what}" for what, missing in lacks.items())
        logger.info("%d of %d clips are left out: %s", int((~usable).sum()), len(usable), why)
    return np.flatnonzero(usable).astype(np.int64)
