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

from qamro_cache.cache.checks import (
    check_feature_shapes,
    check_labels,
    check_offsets,
    check_windows,
)
from qamro_cache.cache.container import Container, damaged, open_container
from qamro_cache.cache.content import NUMBER_COLUMNS, Array, clip_table
from qamro_cache.cache.layout import (
    CODED,
    LABEL_COLUMNS,
    PLAIN,
    RATINGS,
    check_arrays,
    decode_text,
    header_of,
)
from qamro_cache.datasets.records import Axis, Labels, Ratings
from qamro_cache.datasets.tables import refuse_lost
from qamro_cache.errors import QamroError, words_of


class Tables:
    """The tables of one file.

    Attributes:
        container: where its arrays lie.
        header: of the file.
        size: clips.
        offsets: [C+1] int64.
        weights: [W] float32.
        starts: [W] int64.
        prompt_index: [C] int64, row of ``prompts``; -1 for none.
        fingerprint_offsets: [C+1] int64; see ``Fingerprints``.

    Raises:
        QamroError: a part is missing, damaged, or does not fit the others; from the properties,
            too.
    """

    def __init__(self, container: Container) -> None:
        self.container = container
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
        with _one_line(self.container.path):
            columns: dict[str, Any] = {name: decode_text(small[f"clips/{name}"]) for name in PLAIN}
            if len(set(columns["clip_id"])) != self.size or "" in columns["clip_id"]:
                raise QamroError("clip ids are not all different, or one is empty")
            for name in CODED:
                columns[name] = _column(small, f"clips/{name}")
            for name in ("clip_id", "path", "reason"):
                refuse_lost(columns[name], self.container.path)
            for name in LABEL_COLUMNS:
                columns[name] = _column(small, f"labels/{name}")
            for name in NUMBER_COLUMNS:
                columns[name] = small[f"clips/{name}"]
            columns["prompt"] = np.array([*self.prompts, ""], object)[self.prompt_index]
            return clip_table(pd.DataFrame(columns))

    @cached_property
    def labels(self) -> Labels:
        """Ratings of the clips."""
        with _one_line(self.container.path):
            labels = _labels_of(self._small)
            check_labels(labels, self.size)
            return labels

    def _load(self) -> None:
        extents = self.container.extents
        check_arrays(extents)
        self.size = extents["clips/clip_id"].shape[0]
        for which, rows in (
            ("features", extents["windows/weight"].shape[0]),
            ("text_features", extents["prompts/text"].shape[0]),
        ):
            shapes = {
                name.removeprefix(f"{which}/"): (extent.dtype, extent.shape)
                for name, extent in extents.items()
                if name.startswith(f"{which}/")
            }
            check_feature_shapes(which, shapes, self.header, rows)
        large = ("features/", "text_features/", "fingerprints/values")
        names = sorted(name for name in extents if not name.startswith(large))
        small = self._small = {name: self.container.load(name) for name in names}
        for name in (*(f"clips/{n}" for n in CODED), *(f"labels/{n}" for n in LABEL_COLUMNS)):
            codes, values = small[name], small[f"{name}_names"]
            if self.size and (codes.min() < 0 or codes.max() >= len(values)):
                raise QamroError(f"/{name} names a value that is not there")
        prompts = small["prompts/text"]
        index = self.prompt_index = small["prompts/clip"]
        if ((index < -1) | (index >= len(prompts))).any():
            raise QamroError("a clip names a prompt that is not there")
        used = np.bincount(index[index >= 0], minlength=len(prompts)) > 0
        if not used.all() or len({b"", *prompts.tolist()}) != len(prompts) + 1:
            raise QamroError("the prompts are not those of the clips, one is empty or there twice")
        self.offsets = small["windows/offsets"]
        self.weights = small["windows/weight"]
        self.starts = small["windows/start"]
        good = [name == b"ok" for name in small["clips/status_names"].tolist()]
        ok = np.array(good, bool)[small["clips/status"]] if self.size else np.zeros(0, bool)
        check_windows(ok, self.offsets, self.weights, self.starts)
        self.fingerprint_offsets = small["fingerprints/offsets"]
        total = extents["fingerprints/values"].shape[0]
        check_offsets(self.fingerprint_offsets, self.size, total)


def open_tables(path: Path) -> Tables:
    """Open a file, and check all of its tables at once.

    Raises:
        QamroError: as `Tables`, or there is no such file.
    """
    tables = Tables(open_container(path))
    _ = tables.clips, tables.labels
    return tables


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file causes into one line that names it."""
    try:
        yield
    except QamroError as error:
        message = str(error)
        raise QamroError(message if str(path) in message else f"{path}: {message}") from error
    except (KeyError, ValueError, TypeError, OverflowError, IndexError) as error:
        raise damaged(path, f"the file is damaged ({words_of(error)})") from error


def _column(small: Mapping[str, Array], name: str) -> npt.NDArray[np.object_]:
    return np.array(decode_text(small[f"{name}_names"]), object)[small[name]]


def _labels_of(small: Mapping[str, Array]) -> Labels:
    ratings = None
    if "labels/ratings/clip" in small:
        parts = {name: small[f"labels/ratings/{name}"] for name in RATINGS}
        ratings = Ratings(**parts, raters=tuple(decode_text(small["labels/ratings/raters"])))
    names = decode_text(small["labels/axes"])
    columns = (small[f"labels/{name}"].tolist() for name in ("low", "high", "guessed"))
    axes = zip(names, *columns, strict=True)
    return Labels(
        tuple(Axis(name, low, high, bool(guessed)) for name, low, high, guessed in axes),
        small["labels/mean"],
        small["labels/count"],
        small["labels/stderr"],
        ratings,
    )
