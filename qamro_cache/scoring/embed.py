"""Audio to embeddings with the encoders that a head was trained on."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from qamro_cache.datasets.records import Dataset
from qamro_cache.encoders.protocol import Encoder, WeightsOptions
from qamro_cache.encoders.registry import find_encoder, load_encoder, options_of
from qamro_cache.errors import QamroError
from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.extraction.together import Asked, extract_together
from qamro_cache.features.sources import Sources, join_caches
from qamro_cache.files import plain_target
from qamro_cache.heads.head import AnyHead
from qamro_cache.identity import canonical_json


def embed(
    head: AnyHead,
    clips: Dataset,
    files: Sequence[Path],
    weights: WeightsOptions,
    *,
    device: str,
    progress: Callable[..., None] | None,
) -> Sources:
    """Extract clips with a head's encoders into a cache file each, and open these.

    Each file is decoded once, whatever the encoders do with it.
    Goes on where an earlier run of the same files was stopped; what failed then is tried again.
    """
    asked = []
    encoders = encoders_of(head, weights, device)
    for identity, encoder, out in zip(head.identities, encoders, files, strict=True):
        dtype = str(identity["stored_dtype"])
        request = ExtractRequest(device=device, dtype=dtype, retry_failed=True)
        asked.append(Asked(encoder, out, request))
    extract_together(clips, asked, progress)
    return join_caches(list(files))


def encoders_of(head: AnyHead, weights: WeightsOptions, device: str) -> list[Encoder]:
    """Load the encoders that a head was trained on, each as its identity has it.

    Raises:
        QamroError: one is not ready here, or an option is for several of them.
    """
    found = []
    for identity in head.identities:
        options = options_of(identity, _weights_of(identity, head, weights))
        found.append(load_encoder(str(identity["name"]), options, device))
    return found


def _weights_of(
    identity: Mapping[str, Any], head: AnyHead, weights: WeightsOptions
) -> WeightsOptions:
    """Return what is said of the weights as far as it is for this encoder, one of several."""
    takes = [find_encoder(str(one["name"]))[0].takes for one in head.identities]
    mine = takes[head.identities.index(identity)]
    if len(takes) == 1:
        return weights
    for name in ("checkpoint", "tokenizer"):
        if getattr(weights, name) and sum(name in one for one in takes) > 1:
            raise QamroError(
                f"several encoders of this head take a {name}; run qamro-extract for each, and "
                "give the caches with --cache"
            )
    names = [field.name for field in fields(WeightsOptions) if field.name in mine]
    return WeightsOptions(**{name: getattr(weights, name) for name in names})


@contextmanager
def embeddings_files(out: Path | None, head: AnyHead, source: str | Path) -> Iterator[list[Path]]:
    """Name the files of a request's embeddings; they are removed when the block is left well.

    Args:
        out: table of the predictions, beside which the files lie: whatever stops the work, the
            same request finds there what is finished. Temporary ones where there is no table, or
            it goes down a pipe.
        head: whose encoders are asked.
        source: of the clips: requests of other clips or encoders have other files.
    """
    try:
        beside = None if out is None else plain_target(out)
    except QamroError:
        beside = None
    if beside is None:
        with tempfile.TemporaryDirectory(prefix="qamro-predict-") as folder:
            yield [Path(folder) / f"emb{k}.h5" for k in range(len(head.identities))]
        return
    files = []
    for identity in head.identities:
        asked = canonical_json({"encoder": dict(identity), "clips": os.path.realpath(source)})
        name = hashlib.sha256(asked.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        files.append(beside.with_name(f"{beside.name}.emb-{name}.h5"))
    yield files
    for file in files:
        file.unlink(missing_ok=True)
