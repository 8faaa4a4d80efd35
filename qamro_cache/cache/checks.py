"""Whether the parts of a cache fit each other and what its identity promises."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.cache.content import Array, CacheContent, Header
from qamro_cache.datasets.records import Labels
from qamro_cache.errors import QamroError
from qamro_cache.identity import identity_differences

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


def check_content(content: CacheContent, header: Header) -> None:
    """Raise a QamroError if the parts do not fit each other."""
    clips = content.clips
    size, windows = len(clips), len(content.weights)
    ok = (clips["status"] == "ok").to_numpy()
    check_windows(ok, content.offsets, content.weights, content.starts)
    if clips["clip_id"].duplicated().any() or (clips["clip_id"] == "").any():
        raise QamroError("clip ids are not all different, or one is empty")
    if set(content.prompts) != set(clips["prompt"].unique()) - {""}:
        raise QamroError("the prompts are not those of the clips")
    if len(set(content.prompts)) != len(content.prompts):
        raise QamroError("a prompt is listed twice")
    _check_features("features", content.features, header, windows)
    _check_features("text_features", content.text_features, header, len(content.prompts))
    check_labels(content.labels, size)
    if content.fingerprints is not None:
        check_offsets(content.fingerprints.offsets, size, len(content.fingerprints.values))


def check_offsets(offsets: npt.NDArray[np.int64], size: int, total: int) -> None:
    """Raise a QamroError unless offsets [size + 1] rise from 0 to ``total``."""
    if offsets.shape != (size + 1,) or offsets[0] != 0 or offsets[-1] != total:
        raise QamroError(f"offsets do not span {size} clips and {total} entries")
    if (np.diff(offsets) < 0).any():
        raise QamroError("offsets go backwards")


def check_windows(
    ok: npt.NDArray[np.bool_],
    offsets: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
    starts: npt.NDArray[np.int64],
) -> None:
    """Raise a QamroError unless the windows fit clips of which ``ok`` [C] are usable."""
    size, windows = len(ok), len(weights)
    check_offsets(offsets, size, windows)
    counts = np.diff(offsets)
    if (counts[ok] == 0).any() or (counts[~ok] != 0).any():
        raise QamroError("a clip without windows is called ok, or one with windows is not")
    if starts.shape != (windows,) or (starts < 0).any():
        raise QamroError("window starts do not fit the windows")
    if not ((weights > 0) & (weights <= 1)).all():
        raise QamroError("a window's weight is not in (0, 1]")


def _check_features(which: str, features: Mapping[str, Array], header: Header, rows: int) -> None:
    check_feature_shapes(
        which, {name: (value.dtype, value.shape) for name, value in features.items()}, header, rows
    )


def check_feature_shapes(
    which: str,
    features: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    header: Header,
    rows: int,
) -> None:
    """See that arrays are those which the identity promises, with ``rows`` rows each."""
    promised = header.identity.get(which)
    if not isinstance(promised, Mapping) or set(promised) != set(features):
        raise QamroError(f"the {which} are {sorted(features)}; the identity names others")
    for name, (dtype, shape) in features.items():
        if not _NAME.fullmatch(name):
            raise QamroError(f"{name!r} cannot name a feature: use letters, digits and _ . + -")
        if str(dtype) != header.identity.get("stored_dtype"):
            raise QamroError(f"feature {name} is {dtype}, which is not what the identity says")
        if not isinstance(promised[name], Sequence) or shape != (rows, *promised[name]):
            raise QamroError(f"feature {name} has the shape {shape}, not that of the identity")


def check_labels(labels: Labels, num_clips: int) -> None:
    """Raise a QamroError if labels do not fit the number of clips or themselves."""
    shape = (num_clips, len(labels.axes))
    if any(value.shape != shape for value in (labels.mean, labels.count, labels.stderr)):
        raise QamroError(f"labels have the shape {labels.mean.shape}, not {shape}")
    if len({axis.name for axis in labels.axes}) != len(labels.axes):
        raise QamroError("two axes have one name")
    if not all(-np.inf < axis.low < axis.high < np.inf for axis in labels.axes):
        raise QamroError("an axis' lowest rating is not below its highest")
    if np.isinf(labels.mean).any() or np.isinf(labels.stderr).any() or (labels.count < 0).any():
        raise QamroError("a rating is infinite, or its count is negative")
    ratings = labels.ratings
    if ratings is not None:
        sizes = {len(value) for value in (ratings.clip, ratings.axis, ratings.rater, ratings.score)}
        limits = (
            (ratings.clip, 0, num_clips),
            (ratings.axis, 0, len(labels.axes)),
            (ratings.rater, -1, len(ratings.raters)),
        )
        if len(sizes) != 1 or any(
            len(value) and (value.min() < low or value.max() >= high) for value, low, high in limits
        ):
            raise QamroError("a rating names a clip, axis or rater that is not there")
        if not np.isfinite(ratings.score).all():
            raise QamroError("a single rating is not a finite number")


def join_datasets(names: Iterable[str]) -> str:
    """Return what files of several sets are of: each set once."""
    return "+".join(dict.fromkeys(part for name in names for part in name.split("+") if part))


def join_licenses(licenses: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the licenses of several files: each different one named once."""
    names = sorted({name for one in licenses for name in one})
    found = {name: dict.fromkeys(one[name] for one in licenses if name in one) for name in names}
    return {name: "; ".join(texts) for name, texts in found.items()}


def refuse_mixture(path: Path, ours: Any, other: Path, theirs: Any) -> None:
    """Raise if two identities differ, naming the differences."""
    # The encoder's name says most: another one differs in nearly everything.
    lines = sorted(
        identity_differences(ours, theirs), key=lambda line: line.split(":")[0] != "name"
    )
    if lines:
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise QamroError(
            f"{path} and {other} were not made by the same encoder and settings "
            f"({'; '.join(lines[:3])}{more})"
        )


def refuse_doubles(clip_ids: "pd.Series[str]") -> None:
    """Raise if files that are to be read as one have a clip in common."""
    if clip_ids.duplicated().any():
        raise QamroError(
            f"clip {clip_ids[clip_ids.duplicated()].iloc[0]!r} is in more than one of the files; "
            "join them with qamro-cache merge, which keeps one where both are the same"
        )
