"""The scales of the listening tests that a head has learned from, as its file has them."""

import math
from collections.abc import Mapping
from typing import Any

#: Most tests of an axis.
MAX_SOURCES = 30_000


def scales_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``scales`` and ``source`` of an `AxisHead`; nothing of one that has none.

    Raises:
        ValueError: they are not what a head file holds.
    """
    if "scales" not in entry:
        return {}
    scales, source = entry["scales"], entry["source"]
    if not isinstance(scales, dict) or not 1 <= len(scales) <= MAX_SOURCES or source not in scales:
        raise ValueError("its scales are not those of its sources")
    found = {}
    for name, numbers in scales.items():
        mean, std, low, high = (float(number) for number in numbers)
        if not (-math.inf < low < high < math.inf and 0 < std < math.inf and math.isfinite(mean)):
            raise ValueError(f"the scale of source {name[:40]!r} is none")
        found[name] = mean, std, low, high
    return {"scales": found, "source": source}
