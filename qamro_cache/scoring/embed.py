"""Audio to embeddings with the encoder that a head was trained on."""

from collections.abc import Callable
from pathlib import Path

from qamro_cache.cache.reader import Cache, open_cache
from qamro_cache.datasets.records import Dataset
from qamro_cache.encoders.protocol import WeightsOptions
from qamro_cache.encoders.registry import load_encoder, options_of
from qamro_cache.extraction.extract import extract
from qamro_cache.heads.file import Head


def embed(
    head: Head,
    clips: Dataset,
    out: Path,
    weights: WeightsOptions,
    *,
    device: str,
    progress: Callable[..., None] | None,
) -> Cache:
    """Extract clips with a head's encoder into a cache file ``out``, and open it."""
    options = options_of(head.identity, weights)
    encoder = load_encoder(str(head.identity["name"]), options, device)
    dtype = str(head.identity.get("stored_dtype", ""))
    extract(clips, out, encoder, device=device, dtype=dtype, progress=progress)
    return open_cache(out)
