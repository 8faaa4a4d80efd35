"""The tables of a cache file: everything but the features.

Numbers are checked as soon as the file is opened; text becomes columns when it is asked for,
because a cache of a million clips is often opened for its features alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.cache.container import Container, damaged
from qamro_cache.cache.content import (
    NUMBER_COLUMNS,
    Array,
    CacheContent,
    Header,
    check_content,
    check_feature_shapes,
    check_labels,
    check_windows,
    clip_table,
)
from qamro_cache.cache.layout import (
    CODED,
    LABEL_COLUMNS,
    PLAIN,
    RATINGS,
    decode_text,
    header_of,
)
from qamro_cache.datasets.records import Axis, Labels, Ratings
from qamro_cache.errors import QamroError

_NAMES = {
    *(f"clips/{name}" for name in (*PLAIN, *CODED, *NUMBER_COLUMNS)),
    *(f"clips/{name}_names" for name in CODED),
    *(f"labels/{name}" for name in LABEL_COLUMNS),
    *(f"labels/{name}_names" for name in LABEL_COLUMNS),
    *(f"labels/{name}" for name in ("axes", "low", "high", "mean", "count", "stderr")),
    *(f"windows/{name}" for name in ("offsets", "weight", "start")),
    *(f"prompts/{name}" for name in ("text", "clip")),
}
_RATING_NAMES = {f"labels/ratings/{name}" for name in (*RATINGS, "raters")}


class Tables:
    """The tables of one file.

    Attributes:
        header: of the file.
        size: clips.
        offsets: [C+1] int64.
        weights: [W] float32.
        starts: [W] int64.
        prompt_index: [C] int64, row of ``prompts``; -1 for none.

    Raises:
        QamroError: a part is missing, damaged, or does not fit the others; from the properties,
            too.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self.header = header_of(container)
        with _one_line(container.path):
            self._load()

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """The P different prompts."""
        return tuple(decode_text(self._small["prompts/text"]))

    @cached_property
    def clips(self) -> pd.DataFrame:
        """The clip table; see ``CacheContent``."""
        small = self._small
        with _one_line(self._container.path):
            columns: dict[str, Any] = {name: decode_text(small[f"clips/{name}"]) for name in PLAIN}
            if len(set(columns["clip_id"])) != self.size or "" in columns["clip_id"]:
                raise QamroError("clip ids are not all different, or one is empty")
            for name in CODED:
                columns[name] = _column(small, f"clips/{name}")
            for name in LABEL_COLUMNS:
                columns[name] = _column(small, f"labels/{name}")
            for name in NUMBER_COLUMNS:
                columns[name] = small[f"clips/{name}"]
            columns["prompt"] = np.array([*self.prompts, ""], object)[self.prompt_index]
            return clip_table(pd.DataFrame(columns))

    @cached_property
    def labels(self) -> Labels:
        """Ratings of the clips."""
        with _one_line(self._container.path):
            labels = _labels_of(self._small, self.size)
            check_labels(labels, self.size)
            return labels

    def content(self) -> CacheContent:
        """Everything at once, checked; the features stay empty."""
        content = CacheContent(
            self.clips, self.labels, self.offsets, self.weights, self.starts, {}, self.prompts
        )
        bare = Header({**self.header.identity, "features": {}, "text_features": {}})
        with _one_line(self._container.path):
            check_content(content, bare)
        return content

    def _load(self) -> None:
        container = self._container
        names = {
            name
            for name in container.extents
            if not name.startswith(("features/", "text_features/"))
        }
        expected = _NAMES | (_RATING_NAMES if names & _RATING_NAMES else set())
        if names != expected:
            raise QamroError(f"/{min(names ^ expected)} is missing or does not belong there")
        small = self._small = {name: container.load(name) for name in sorted(names)}
        ids = _array(small, "clips/clip_id", "S", 1)
        size = self.size = len(ids)
        for name in PLAIN:
            _array(small, f"clips/{name}", "S", 1, (size,))
        for name, dtype in NUMBER_COLUMNS.items():
            _array(small, f"clips/{name}", dtype.kind, 1, (size,))
        coded = [f"clips/{name}" for name in CODED] + [f"labels/{name}" for name in LABEL_COLUMNS]
        for name in coded:
            _check_codes(small, name, size)
        prompts = _array(small, "prompts/text", "S", 1)
        index = self.prompt_index = _array(small, "prompts/clip", "i", 1, (size,))
        if ((index < -1) | (index >= len(prompts))).any():
            raise QamroError("a clip names a prompt that is not there")
        used = np.bincount(index[index >= 0], minlength=len(prompts)) > 0
        if not used.all() or len(set(prompts.tolist())) != len(prompts):
            raise QamroError("the prompts are not those of the clips, or one is listed twice")
        self.offsets = _array(small, "windows/offsets", "i", 1, (size + 1,))
        self.weights = _array(small, "windows/weight", "f", 1)
        self.starts = _array(small, "windows/start", "i", 1)
        good = [name == b"ok" for name in small["clips/status_names"].tolist()]
        ok = np.array(good, bool)[small["clips/status"]] if size else np.zeros(0, bool)
        check_windows(ok, self.offsets, self.weights, self.starts)
        _array(small, "labels/axes", "S", 1)
        for which, rows in {"features": len(self.weights), "text_features": len(prompts)}.items():
            shapes = {
                name.removeprefix(f"{which}/"): (extent.dtype, extent.shape)
                for name, extent in container.extents.items()
                if name.startswith(f"{which}/")
            }
            check_feature_shapes(which, shapes, self.header, rows)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file causes into one line that names it."""
    try:
        yield
    except QamroError as error:
        message = str(error)
        raise QamroError(message if str(path) in message else f"{path}: {message}") from error
    except (KeyError, ValueError, TypeError, OverflowError, IndexError) as error:
        raise damaged(path, f"the file is damaged ({str(error).splitlines()[0]})") from error


def _check_codes(small: Mapping[str, Array], name: str, size: int) -> None:
    codes = _array(small, name, "i", 1, (size,))
    names = _array(small, f"{name}_names", "S", 1)
    if size and (codes.min() < 0 or codes.max() >= len(names)):
        raise QamroError(f"/{name} names a value that is not there")


def _column(small: Mapping[str, Array], name: str) -> npt.NDArray[np.object_]:
    return np.array(decode_text(small[f"{name}_names"]), object)[small[name]]


def _labels_of(small: Mapping[str, Array], size: int) -> Labels:
    names = decode_text(_array(small, "labels/axes", "S", 1))
    shape = (size, len(names))
    low = _array(small, "labels/low", "f", 1, (len(names),))
    high = _array(small, "labels/high", "f", 1, (len(names),))
    ratings = None
    if "labels/ratings/clip" in small:
        parts = {
            name: _array(small, f"labels/ratings/{name}", dtype.kind, 1)
            for name, dtype in RATINGS.items()
        }
        raters = decode_text(_array(small, "labels/ratings/raters", "S", 1))
        ratings = Ratings(**parts, raters=tuple(raters))
    return Labels(
        tuple(Axis(name, float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)),
        _array(small, "labels/mean", "f", 2, shape),
        _array(small, "labels/count", "i", 2, shape),
        _array(small, "labels/stderr", "f", 2, shape),
        ratings,
    )


def _array(
    small: Mapping[str, Array],
    name: str,
    kind: str,
    ndim: int,
    shape: tuple[int, ...] | None = None,
) -> Array:
    array = small[name]
    if array.dtype.kind != kind or array.ndim != ndim or shape not in (None, array.shape):
        raise QamroError(f"/{name} is {array.dtype} {array.shape}, which does not fit the rest")
    return array
