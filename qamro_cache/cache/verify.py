"""Verify a cache: every checksum, every fit, every number finite."""

import numpy as np

from qamro_cache.cache.reader import CacheLike, one_file
from qamro_cache.cache.tables import open_tables
from qamro_cache.errors import QamroError


def verify_cache(cache: CacheLike) -> dict[str, int]:
    """Read a cache of one file in full.

    Checked are: that it is a cache of this format and nothing else is in it; identity and its
    hash; every array's checksum; that clips, windows, prompts, labels and features fit each
    other; and that every feature is finite.

    Returns:
        Counts: clips, failed, windows, prompts, arrays, bytes.

    Raises:
        QamroError: the first thing that is wrong.
    """
    path = one_file(cache)
    tables = open_tables(path)
    container = tables.container
    for name in container.extents:
        if name.startswith(("features/", "text_features/")):
            dtype = container.extents[name].dtype
            for piece in container.pieces(name):
                if not np.isfinite(piece.view(dtype)).all():
                    raise QamroError(f"{path}: /{name} holds NaN or infinite values")
        else:
            container.check(name)
    return {
        "clips": tables.size,
        "failed": int((tables.clips["status"] != "ok").sum()),
        "windows": len(tables.weights),
        "prompts": len(tables.prompts),
        "arrays": len(container.extents),
        "bytes": container.stamp[2],
    }
