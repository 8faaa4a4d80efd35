"""What a head sees of the clips of a call: its encoders' caches, vectors with company, prompts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qamro_cache.cache.content import WindowFeatures
from qamro_cache.errors import QamroError
from qamro_cache.features.context import Company
from qamro_cache.features.expression import Read, parse, takes_windows
from qamro_cache.features.sources import Sources
from qamro_cache.features.vectors import clip_vectors
from qamro_cache.heads.head import Head
from qamro_cache.identity import identity_differences, identity_sha256


def head_sources(head: Head, sources: Sources) -> Sources:
    """Return the caches that a head reads, in its order.

    Raises:
        QamroError: one is of another encoder, or of the same one fed in another way; or lacks.
    """
    digests = [cache.identity_sha256 for cache in sources.caches]
    chosen = []
    for identity in head.identities:
        digest = identity_sha256(identity)
        if digest not in digests:
            _refuse_other_encoder(identity, sources)
        chosen.append(digests.index(digest))
    caches = tuple(sources.caches[k] for k in chosen)
    return replace(sources, caches=caches, rows=tuple(sources.rows[k] for k in chosen))


def _refuse_other_encoder(identity: Mapping[str, Any], sources: Sources) -> None:
    name = identity["name"]
    like = [one for one in sources.identities if one.get("name") == name]
    if not like and len(sources.caches) > 1:
        raise QamroError(
            f"the head reads {name} too, and there is no cache of it; "
            "extract the clips with it and give one more --cache"
        )
    differences = identity_differences(identity, (like or sources.identities)[0])
    if differences:
        more = f" (and {len(differences) - 2} more)" if len(differences) > 2 else ""
        raise QamroError(
            "the head was trained on embeddings of another identity (here: the head's; there: "
            f"the cache's): {'; '.join(differences[:2])}{more}; extract the clips with the "
            "head's encoder, or train a head on this cache"
        )


def seen(
    head: Head, sources: Sources, company: Company | None, device: str
) -> Iterator[tuple[WindowFeatures, Sequence[int]]]:
    """Yield what the head sees of the clips, with the axes that see it so."""
    expression, axes = parse(head.feature), range(len(head.axes))
    if company is None and takes_windows(expression):
        assert isinstance(expression, Read)
        yield sources.read(expression, device), axes
        return
    vectors = clip_vectors(expression, sources, device)
    each = torch.arange(len(sources.clips) + 1, device=device)
    ones = torch.ones(len(sources.clips), device=device)
    parts = [axes] if vectors.shared else [[row] for row in axes]
    for part in parts:
        values = vectors.values(head.axes[part[0]].projections)
        yield WindowFeatures(values if company is None else company.seen(values), each, ones), part


def prompts(head: Head, sources: Sources, device: str) -> tuple[Tensor | None, Any]:
    """Each clip's prompt embedding [C, T] (None for a head on audio alone), and what is missing."""
    none = np.full(len(sources.clips), "", object)
    if not head.text_feature:
        return None, none
    if not any(head.text_feature in cache.text_features for cache in sources.caches):
        raise QamroError(
            f"the head takes prompts ({head.text_feature!r}), and this cache has none; "
            "extract with a manifest that has a column prompt"
        )
    read = sources.read_text(head.text_feature, device)
    none[(read.index < 0).cpu().numpy()] = "no prompt"
    return read.embeddings[read.index.clamp(min=0)], none
