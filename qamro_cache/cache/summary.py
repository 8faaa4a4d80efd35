"""What ``print`` shows of an open cache: about ten lines."""

from typing import Any

import numpy as np

#: Axes that have a line.
_AXES = 4


def summary(cache: Any) -> str:
    """Return an open `Cache` in words."""
    clips, labels = cache.clips, cache.labels
    shapes = [f"{name} {list(shape)}" for name, shape in cache.features.items()]
    shapes += [f"{name} {list(shape)} (prompts)" for name, shape in cache.text_features.items()]
    status = [f"{count:,} {code}" for code, count in clips["status"].value_counts().items()]
    hours = clips["duration"].sum() / 3600
    lines = {
        "files": ", ".join(map(str, cache.paths)),
        "dataset": f"{cache.dataset}{' (synthetic)' if cache.synthetic else ''}",
        "encoder": f"{cache.identity.get('name')}, identity {cache.identity_sha256[:12]}",
        "features": ", ".join(shapes),
        "clips": f"{len(clips):,} ({', '.join(status)}), {hours:.2f} hours",
        "windows": f"{cache.num_windows:,}",
    }
    for name in ("system", "group", "prompt"):
        lines[f"{name}s"] = f"{clips[name].replace('', np.nan).nunique():,}"
    splits = clips["split"][clips["split"] != ""].value_counts()
    lines["splits"] = ", ".join(f"{count:,} {name}" for name, count in splits.items()) or "none"
    for axis, scores in list(zip(labels.axes, labels.mean.T, strict=True))[:_AXES]:
        known = scores[np.isfinite(scores)]
        found = f"mean {known.mean():.3g}, std {known.std():.3g}" if len(known) else "no rating"
        guessed = " (guessed)" if axis.guessed else ""
        scale = f"{axis.low:g} to {axis.high:g}{guessed}"
        lines[f"axis {axis.name}"] = f"{scale}, {len(known):,} clips rated: {found}"
    if len(labels.axes) > _AXES:
        lines["more axes"] = f"{len(labels.axes) - _AXES}"
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:{width}}{line}" for name, line in lines.items())
