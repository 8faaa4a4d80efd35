"""Read a cache: one file or several of one identity, in one sequential pass."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.cache.checks import (
    join_datasets,
    join_licenses,
    refuse_doubles,
    refuse_mixture,
)  # fmt: skip
from qamro_cache.cache.container import open_container
from qamro_cache.cache.content import (
    Fingerprints,
    TextFeatures,
    WindowFeatures,
    concatenate_fingerprints,
    offsets_of,
    pick_text,
    prompt_index,
    unique_prompts,
)
from qamro_cache.cache.index import nbytes_of
from qamro_cache.cache.summary import summary
from qamro_cache.cache.tables import Tables
from qamro_cache.cache.vectors import ClipArrays, pool_windows, rated_arrays, vector_table
from qamro_cache.datasets.joined import concatenate_labels
from qamro_cache.datasets.records import Labels, select_axes
from qamro_cache.errors import OptionError, QamroError, unknown
from qamro_cache.identity import identity_sha256
from qamro_cache.paths import PathLike, as_list, as_path


class Cache:
    """What one encoder made of a set of clips.

    The tables are in memory; features are read on request. No file is held open, so a cache may
    be used after a fork and in threads; a file that was replaced meanwhile is an error.

    Attributes:
        paths: the files.
        clips: one row a clip: clip_id, path, system, group, split, prompt, status (``ok`` or a
            ``ClipError`` code), reason, audio_sha256, samples_sha256, reference, source, duration
            in seconds, peak, audio_bytes, audio_mtime_ns; docs/cache.md says what is not known.
        features: name -> shape of one window's feature.
        text_features: name -> shape of one prompt's feature.
        identity: what made the features; ``identity_sha256`` is its hex digest.
        labels: of the rows of ``clips``.
        synthetic: the clips or ratings were made by a program.
        dataset: name of the set; of files of several sets each once, with a + between.
        provenance: of the first file: versions, device, times.
        licenses: of the encoder's weights and of the data, as far as they are known.
    """

    def __init__(self, parts: Sequence[Tables]) -> None:
        self._parts = parts
        headers = [part.header for part in parts]
        self.paths = tuple(part.container.path for part in parts)
        for path, header in zip(self.paths[1:], headers[1:], strict=True):
            refuse_mixture(self.paths[0], headers[0].identity, path, header.identity)
        first = headers[0]
        self.identity: dict[str, Any] = dict(first.identity)
        self.identity_sha256: str = identity_sha256(first.identity)
        self.dataset = join_datasets(header.dataset for header in headers)
        self.synthetic = any(header.synthetic for header in headers)
        self.provenance: dict[str, Any] = dict(first.provenance)
        self.licenses = join_licenses([header.licenses for header in headers])
        self.features = _shapes(first.identity["features"])
        self.text_features = _shapes(first.identity["text_features"])
        if len(parts) > 1:
            refuse_doubles(self.clips["clip_id"])
            _ = self.labels

    def __repr__(self) -> str:
        return (
            f"Cache({', '.join(str(path) for path in self.paths)}: {len(self.clips)} clips, "
            f"encoder {self.identity.get('name')}, features {self.features})"
        )

    def __str__(self) -> str:
        """Return what ``print`` shows: about ten lines."""
        return summary(self)

    @cached_property
    def clips(self) -> pd.DataFrame:
        """One row a clip, in the order of the files."""
        if len(self._parts) == 1:
            return self._parts[0].clips
        return pd.concat([part.clips for part in self._parts], ignore_index=True)

    @cached_property
    def labels(self) -> Labels:
        """Ratings of the rows of ``clips``."""
        parts = self._parts
        return concatenate_labels([part.labels for part in parts], [_sources(p) for p in parts])

    @property
    def prompts(self) -> tuple[str, ...]:
        """The different prompts, in the order of ``read_text``."""
        return unique_prompts([prompt for part in self._parts for prompt in part.prompts])

    @property
    def num_windows(self) -> int:
        """Windows of all clips."""
        return sum(len(part.weights) for part in self._parts)

    @property
    def content_sha256(self) -> str:
        """Hex digest of the checksums of everything in the files: other content, another one."""
        sums = [
            f"{extent.xxh3} {name}"
            for part in self._parts
            for name, extent in sorted(part.container.extents.items())
        ]
        return hashlib.sha256("\n".join(sums).encode()).hexdigest()

    def feature_name(
        self,
        name: str,
        which: Literal["features", "text_features"] = "features",
    ) -> str:
        """Return ``name``, or that of the encoder's first feature for an empty one.

        Raises:
            OptionError: there is no such feature.
        """
        known = self.features if which == "features" else self.text_features
        name = name or next(iter(known), "")
        if name not in known:
            what = f"{self.paths[0]} has no {which.replace('_', ' ')[:-1]}"
            raise unknown(what, name, tuple(known))
        return name

    def read(self, name: str = "", device: str = "cpu") -> WindowFeatures:
        """Read one feature of every window into one tensor, checksum verified.

        Args:
            name: of the feature; empty for the encoder's first.
            device: where the tensors go.

        Raises:
            QamroError: no such feature, or the file is damaged or was replaced.
        """
        import torch

        windows = self._read_windows(f"features/{self.feature_name(name)}")
        counts = np.concatenate([np.diff(part.offsets) for part in self._parts])
        weights = np.concatenate([part.weights for part in self._parts])
        arrays = (windows, offsets_of(counts), weights)
        return WindowFeatures(*(torch.from_numpy(array).to(device) for array in arrays))

    def table(self, feature: str = "") -> pd.DataFrame:
        """Return a row a clip that could be embedded: who it is, its labels and its vector.

        Args:
            feature: name; empty for the encoder's first.

        Returns:
            Indexed by clip_id: system, group, split, prompt; the mean rating on each axis, NaN
            where there is none; then the feature, averaged over the clip's windows by the share
            of them that is audio, as heads take it: ``embedding_0`` ..., ``layers_2_0`` ... .

        Raises:
            QamroError: no such feature, or a damaged file.
        """
        name = self.feature_name(feature)
        vectors = self._vectors(name)
        return vector_table(self.clips, self.labels, name, self.features[name], vectors)

    def arrays(self, feature: str = "", axis: str = "") -> ClipArrays:
        """Return ``X, y, groups, systems, clip_ids`` of the rated clips, for scikit-learn.

        Args:
            feature: as in `table`.
            axis: whose ratings are y; may be left out where there is but one.

        Raises:
            QamroError: no such feature or axis, or several axes and none named.
        """
        names = [one.name for one in self.labels.axes]
        if not axis and len(names) > 1:
            raise QamroError(f"name the axis of y; there are: {', '.join(names)}")
        score = select_axes(self.labels, [axis] if axis else []).mean[:, 0]
        return rated_arrays(self.clips, score, self._vectors(self.feature_name(feature)))

    def _vectors(self, name: str) -> Any:
        windows, offsets, weights = (part.numpy() for part in self.read(name))
        return pool_windows(windows, offsets, weights)

    def read_text(self, name: str = "", device: str = "cpu") -> TextFeatures:
        """Read one feature of every prompt; arguments and errors as ``read``."""
        import torch

        name = f"text_features/{self.feature_name(name, 'text_features')}"
        parts = [(part.prompts, part.container.load(name)) for part in self._parts]
        values, index = parts[0][1], self._parts[0].prompt_index
        if len(parts) > 1:
            values = pick_text(self.prompts, parts)
            index = prompt_index(self.prompts, list(self.clips["prompt"]))
        return TextFeatures(torch.from_numpy(values).to(device), torch.from_numpy(index).to(device))

    def count_known(self) -> dict[str, int]:
        """Return how many clips have what a cache may leave unknown, by its name."""
        prints = sum(int((np.diff(part.fingerprint_offsets) > 0).sum()) for part in self._parts)
        texts = ("samples_sha256", "reference", "source")
        return {
            "peak": int(self.clips["peak"].notna().sum()),
            "fingerprint": prints,
            **{name: int((self.clips[name] != "").sum()) for name in texts},
        }

    def read_fingerprints(self) -> Fingerprints:
        """Read the fingerprints of all clips, checksum verified."""
        return concatenate_fingerprints(
            [
                Fingerprints(part.container.load("fingerprints/values"), part.fingerprint_offsets)
                for part in self._parts
            ]
        )

    def fingerprints_of(self, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
        """Return the fingerprint of each of these clips, empty where it is not known."""
        whole = self.read_fingerprints()
        return [whole.values[whole.offsets[row] : whole.offsets[row + 1]] for row in rows]

    def _read_windows(self, name: str) -> Any:
        extents = [part.container.extents[name] for part in self._parts]
        dtype, shape = extents[0].dtype, (self.num_windows, *extents[0].shape[1:])
        # numpy asks for huge pages for large arrays, which makes the first touch cheaper.
        out = np.empty(nbytes_of(dtype, shape), np.uint8)
        done = 0
        for part, extent in zip(self._parts, extents, strict=True):
            part.container.read_into(name, out[done : done + extent.nbytes])
            done += extent.nbytes
        return out.view(dtype).reshape(shape)


def _sources(part: Tables) -> npt.NDArray[np.object_]:
    return part.clips["source"].to_numpy(object)


def _shapes(features: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in features.items()}


#: What names a cache: a file, several files, or one that is open.
CacheLike = PathLike | Sequence[PathLike] | Cache


def cache_files(cache: CacheLike) -> list[Path]:
    """Return the files of a cache, open or not.

    Raises:
        OptionError: it is neither a path, nor several, nor an open cache.
    """
    if isinstance(cache, Cache):
        return list(cache.paths)
    return [as_path(one, "a cache") for one in as_list(cache)]


def one_file(cache: CacheLike) -> Path:
    """Return the file of a cache that has only one.

    Raises:
        OptionError: it has several, or is no cache.
    """
    files = cache_files(cache)
    if len(files) != 1:
        raise OptionError(f"this takes a cache of one file, got {len(files)}; merge them first")
    return files[0]


def open_cache(path: CacheLike) -> Cache:
    """Open a cache.

    Args:
        path: a file, or several of one identity with different clips, in order. A cache that is
            open already is returned as it is.

    Raises:
        QamroError: a file is missing, damaged or no cache; or the files do not belong together.
    """
    if isinstance(path, Cache):
        return path
    paths = cache_files(path)
    if not paths:
        raise QamroError("no cache file was given")
    return Cache([Tables(open_container(each)) for each in paths])
