"""From a cache on disk to what `fit` takes: the features of the chosen clips, in memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qamro_cache.cache.content import TextFeatures, WindowFeatures
from qamro_cache.cache.reader import Cache
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.compare import baselines
from qamro_cache.evaluation.from_cache import own_scores
from qamro_cache.experiments.clips import Clips
from qamro_cache.heads.architecture import Architecture, row_blocks
from qamro_cache.heads.network import input_width, prepare_rows
from qamro_cache.heads.pooling import clip_of_window, mean_rows, take_clips
from qamro_cache.training.inputs import Features, Folds, Targets


@dataclass(frozen=True)
class Material:
    """The rated clips of a cache with one of its features.

    Attributes:
        clips: one row a clip that has features and at least one label.
        features: of these clips.
        feature: its name in the cache.
        text_feature: its name in the cache; empty where no prompts are used.
        cache: that they were read from.
    """

    clips: Clips
    features: Features
    feature: str
    text_feature: str
    cache: Cache

    @property
    def encoder(self) -> str:
        """Its name."""
        return str(self.cache.identity.get("name", ""))

    def origin(self) -> dict[str, Any]:
        """Return what a run's ``config.json`` says of the clips and their features."""
        return {
            "dataset": self.cache.dataset,
            "synthetic": self.cache.synthetic,
            "licenses": self.cache.licenses,
            "encoder": self.encoder,
            "identity_sha256": self.cache.identity_sha256,
            "feature": self.feature,
        }

    def targets(self) -> Targets:
        """Return the labels as `fit` takes them."""
        labels = torch.from_numpy(self.clips.labels.mean.T.copy())
        nan = float("nan")
        ranges = [(nan, nan) if a.guessed else (a.low, a.high) for a in self.clips.axes]
        return Targets(labels, torch.tensor(ranges, dtype=torch.float64))

    def clip_means(self) -> Tensor:
        """Return the mean of each clip's windows [C, D], flattened, without the prompt."""
        windows, offsets, weights, _ = self.features
        return mean_rows(windows.flatten(1), clip_of_window(offsets), weights, len(offsets) - 1)

    def baselines(
        self, axis: int, folds: Folds, *, every: bool
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Predict held-out clips by what a head must beat: name -> predictions [C].

        They see a vector a clip: its windows' mean, with the prompt's embedding.
        """
        values, text = self.clip_means(), self.features.text
        vectors = (values if text is None else torch.cat([values, text], 1)).double().numpy()
        inputs, width = ("audio", 0) if text is None else ("concat", text.shape[1])
        blocks = row_blocks(inputs, self.features.windows.shape[1:], width)
        truth = self.clips.labels.mean[:, axis]
        learned = folds.train | folds.validation
        return baselines(vectors, truth, learned, folds.test, blocks, folds.groups, every=every)

    def own_scores(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the encoder's own scores of the clips, in its units: name -> [C]."""
        return own_scores(self.cache, self.clips.rows)

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


def load_material(
    cache: Cache, clips: Clips, *, feature: str = "", text: bool = False, text_feature: str = ""
) -> Material:
    """Read a feature of the chosen clips.

    Args:
        cache: open.
        clips: of `choose_clips`.
        feature: name; empty for the encoder's first.
        text: whether the prompts' embeddings are wanted.
        text_feature: name; empty for the encoder's first.

    Raises:
        QamroError: no such feature, or a NaN among its values.
    """
    feature = cache.feature_name(feature)
    text_feature = cache.feature_name(text_feature, "text_features") if text else ""
    prompts = cache.read_text(text_feature) if text else None
    features = _take(cache.read(feature), prompts, torch.from_numpy(clips.rows))
    if not bool(features.windows.isfinite().all()):
        raise QamroError(
            f"{cache.paths[0]}: feature {feature!r} has values that are not finite; "
            "run qamro-cache verify and extract it again"
        )
    return Material(clips, features, feature, text_feature, cache)


def _take(read: WindowFeatures, prompts: TextFeatures | None, rows: Tensor) -> Features:
    """Return the features of some clips."""
    taken = take_clips(read.offsets, rows)
    text = None
    if prompts is not None:
        text = prompts.embeddings.float()[prompts.index[rows]].flatten(1)
    windows = read.windows.float()[taken.windows]
    return Features(windows, taken.offsets, read.weights[taken.windows], text)
