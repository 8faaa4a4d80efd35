"""What a cache holds, in one record."""

from typing import Any

from qamro_cache.cache.reader import CacheLike, open_cache


def cache_info(paths: CacheLike) -> dict[str, Any]:
    """Return what ``qamro-cache info --json`` prints of one cache, in one file or several.

    Args:
        paths: its files, or an open cache.
    """
    cache = open_cache(paths)
    labels = cache.labels
    status = cache.clips["status"]
    return {
        "files": [str(path) for path in cache.paths],
        "bytes": sum(path.stat().st_size for path in cache.paths),
        "dataset": cache.dataset,
        "synthetic": cache.synthetic,
        "clips": len(cache.clips),
        "status": {str(code): int(count) for code, count in status.value_counts().items()},
        "systems": int(cache.clips["system"].nunique()),
        "splits": {
            str(name): int(count) for name, count in cache.clips["split"].value_counts().items()
        },
        "windows": cache.num_windows,
        "hours": float(cache.clips["duration"].sum() / 3600),
        "features": {name: list(shape) for name, shape in cache.features.items()},
        "text_features": {name: list(shape) for name, shape in cache.text_features.items()},
        "axes": {
            axis.name: {
                "low": axis.low,
                "high": axis.high,
                "guessed": axis.guessed,
                "rated_clips": int((labels.mean[:, index] == labels.mean[:, index]).sum()),
            }
            for index, axis in enumerate(labels.axes)
        },
        "ratings": 0 if labels.ratings is None else len(labels.ratings.score),
        "known": cache.count_known(),
        "identity_sha256": cache.identity_sha256,
        "identity": cache.identity,
        "provenance": cache.provenance,
        "licenses": cache.licenses,
    }
