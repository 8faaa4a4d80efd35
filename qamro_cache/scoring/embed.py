"""Audio to embeddings with the encoder that a head was trained on."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qamro_cache.cache.reader import Cache, open_cache
from qamro_cache.datasets.records import Dataset
from qamro_cache.encoders.protocol import WeightsOptions
from qamro_cache.encoders.registry import load_encoder, options_of
from qamro_cache.errors import QamroError
from qamro_cache.extraction.extract import extract
from qamro_cache.files import plain_target
from qamro_cache.heads.head import Head
from qamro_cache.identity import canonical_json


def embed(
    head: Head,
    clips: Dataset,
    out: Path,
    weights: WeightsOptions,
    *,
    device: str,
    progress: Callable[..., None] | None,
) -> Cache:
    """Extract clips with a head's encoder into a cache file ``out``, and open it.

    Goes on where an earlier run of the same ``out`` was stopped; what failed then is tried again.
    """
    options = options_of(head.identity, weights)
    encoder = load_encoder(str(head.identity["name"]), options, device)
    dtype = str(head.identity.get("stored_dtype", ""))
    extract(clips, out, encoder, progress=progress, device=device, dtype=dtype, retry_failed=True)
    return open_cache(out)


@contextmanager
def embeddings_file(out: Path | None, head: Head, source: str | Path) -> Iterator[Path]:
    """Name the file of a request's embeddings; it is removed when the block is left well.

    Args:
        out: table of the predictions, beside which the file lies: whatever stops the work, the
            same request finds there what is finished. A temporary one where there is no table, or
            it goes down a pipe.
        head: whose encoder is asked.
        source: of the clips: requests of other clips or encoders have other files.
    """
    try:
        beside = None if out is None else plain_target(out)
    except QamroError:
        beside = None
    if beside is None:
        with tempfile.TemporaryDirectory(prefix="qamro-predict-") as folder:
            yield Path(folder) / "emb.h5"
        return
    asked = canonical_json({"encoder": dict(head.identity), "clips": os.path.realpath(source)})
    name = hashlib.sha256(asked.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    file = beside.with_name(f"{beside.name}.emb-{name}.h5")
    yield file
    file.unlink(missing_ok=True)
