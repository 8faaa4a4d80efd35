"""A head's encoders, loaded once: clips to features in memory, call after call."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from qamro_cache.audio.check import oddity_message
from qamro_cache.audio.shared import SharedSounds
from qamro_cache.audio.sound import Readable
from qamro_cache.cache.content import CacheContent, concatenate
from qamro_cache.cache.held import HeldCache
from qamro_cache.encoders.protocol import Encoder, WeightsOptions
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.extraction.pipeline import Pipeline
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.units import (
    available_processors,
    default_batch,
    jobs_of,
    plan_units,
    unit_size,
)
from qamro_cache.features.sources import Sources, join_caches
from qamro_cache.heads.head import AnyHead
from qamro_cache.identity import identity_differences, identity_of
from qamro_cache.scoring.embed import encoders_of
from qamro_cache.scoring.gradient import content_with_gradient

logger = logging.getLogger("qamro_cache")


class LiveEncoders:
    """What makes features of clips as `extract` makes them for a cache.

    Args:
        head: whose encoders are loaded.
        weights: where their weights are.
        device: of the encoders.

    Raises:
        QamroError: an encoder is not ready here, or has another identity than the head's.
    """

    def __init__(self, head: AnyHead, weights: WeightsOptions, device: str) -> None:
        self._head, self.device = head, device
        self._encoders = encoders_of(head, weights, device)
        self._pipelines = []
        for identity, encoder in zip(head.identities, self._encoders, strict=True):
            dtype = str(identity["stored_dtype"])
            differences = identity_differences(identity, identity_of(encoder.spec, dtype))
            if differences:
                more = f" (and {len(differences) - 2} more)" if len(differences) > 2 else ""
                raise QamroError(
                    f"the head was trained with another encoder {identity['name']} (here: the "
                    f"head's; there: this machine's): {'; '.join(differences[:2])}{more}; use the "
                    "weights and the version that it was trained with"
                )
            self._pipelines.append(_pipeline(encoder, device, dtype))

    def sources(self, clips: pd.DataFrame, held: Mapping[str, Readable]) -> Sources:
        """Return the features of clips, each decoded once.

        Args:
            clips: clip_id, path, prompt, group and reference of each.
            held: sound that is in memory, by the ``path`` that stands for it.
        """
        sounds = SharedSounds(len(self._pipelines), held)
        parts: list[list[CacheContent]] = [[] for _ in self._pipelines]
        size = unit_size(default_batch(self.device), self.device)
        stats = [Stats() for _ in self._pipelines]
        for unit in plan_units(clips, (), size):
            for pipeline, part, done in zip(self._pipelines, parts, stats, strict=True):
                pipeline.sounds = sounds
                part += pipeline.run([unit], done)
        for oddity, (count, names) in stats[0].odd.items():
            logger.warning("%s", oddity_message(oddity, count, names))
        return self._joined(clips, [(concatenate(part), None) for part in parts])

    def sources_with_gradient(
        self, clips: pd.DataFrame, waves: Sequence[Tensor], rate: int
    ) -> Sources:
        """Return the features of clips, differentiable by their samples.

        Args:
            clips: as for `sources`.
            waves: [frames, channels] of each.
            rate: of the samples, in Hz.

        Raises:
            OptionError: an encoder has no gradient.
        """
        made = []
        for identity, encoder in zip(self._head.identities, self._encoders, strict=True):
            if not getattr(encoder, "differentiable", False):
                raise OptionError(
                    f"encoder {encoder.spec.name} has no gradient by the samples; give tensors "
                    "without requires_grad, or a head on distillmos"
                )
            content, features = content_with_gradient(
                encoder, jobs_of(clips), waves, rate, default_batch(self.device), self.device
            )
            dtype = getattr(torch, str(identity["stored_dtype"]))
            made.append((content, {name: value.to(dtype) for name, value in features.items()}))
        return self._joined(clips, made)

    def _joined(
        self,
        clips: pd.DataFrame,
        made: Sequence[tuple[CacheContent, Mapping[str, Tensor] | None]],
    ) -> Sources:
        caches = []
        for identity, (content, features) in zip(self._head.identities, made, strict=True):
            named = {name: clips[name].to_numpy(object) for name in ("group", "reference")}
            content = replace(content, clips=content.clips.assign(**named))
            caches.append(HeldCache(content, identity, features))
        return join_caches(caches)


def _pipeline(encoder: Encoder, device: str, dtype: str) -> Pipeline:
    # No folder is watched: a clip that is not there is a row.
    batch, workers = default_batch(device), available_processors()
    pipeline = Pipeline(encoder, device, batch, workers, dtype, ["/"])
    # How many clips will come is not known, and a compiled batch has one size.
    pipeline.runner.compilable = False
    return pipeline
