"""Read a cache: one file or several of one identity, in one sequential pass."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.cache.container import Container, open_container
from qamro_cache.cache.content import Fingerprints, concatenate_fingerprints, unique_prompts
from qamro_cache.cache.index import nbytes_of
from qamro_cache.cache.tables import Tables
from qamro_cache.datasets.records import Labels, concatenate_labels
from qamro_cache.errors import QamroError
from qamro_cache.identity import identity_differences, identity_sha256

if TYPE_CHECKING:
    from torch import Tensor


class WindowFeatures(NamedTuple):
    """One feature of all windows of all clips.

    Attributes:
        windows: [W, ...] in the stored dtype.
        offsets: [C+1] int64; clip c has the windows ``offsets[c]`` to ``offsets[c+1]``, none if
            its status is not ``ok``.
        weights: [W] float32, the fraction of each window that is audio.
    """

    windows: "Tensor"
    offsets: "Tensor"
    weights: "Tensor"


class TextFeatures(NamedTuple):
    """One feature of all prompts.

    Attributes:
        embeddings: [P, ...] in the stored dtype.
        index: [C] int64, the row of each clip's prompt; -1 for a clip without one.
    """

    embeddings: "Tensor"
    index: "Tensor"  # type: ignore[assignment]  # a tuple has a method of that name


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
        identity: what made the features.
        identity_sha256: hex digest of it.
        labels: of the rows of ``clips``.
        synthetic: the clips or ratings were made by a program.
        dataset: name of the set.
        provenance: of the first file: versions, device, times.
        licenses: of the encoder's weights and of the data, as far as they are known.
    """

    def __init__(self, containers: Sequence[Container]) -> None:
        self._containers = list(containers)
        parts = [Tables(container) for container in containers]
        headers = [part.header for part in parts]
        self.paths = tuple(container.path for container in containers)
        for path, header in zip(self.paths[1:], headers[1:], strict=True):
            refuse_mixture(self.paths[0], headers[0].identity, path, header.identity)
        first = headers[0]
        self.identity: dict[str, Any] = dict(first.identity)
        self.identity_sha256: str = identity_sha256(first.identity)
        self.dataset = first.dataset
        self.synthetic = any(header.synthetic for header in headers)
        self.provenance: dict[str, Any] = dict(first.provenance)
        self.licenses = join_licenses([header.licenses for header in headers])
        self.features = _shapes(first.identity["features"])
        self.text_features = _shapes(first.identity["text_features"])
        self._parts = parts
        if len(parts) > 1:
            self._refuse_doubles()

    def __repr__(self) -> str:
        return (
            f"Cache({', '.join(str(path) for path in self.paths)}: {len(self.clips)} clips, "
            f"encoder {self.identity.get('name')}, features {self.features})"
        )

    @cached_property
    def clips(self) -> pd.DataFrame:
        """One row a clip, in the order of the files."""
        if len(self._parts) == 1:
            return self._parts[0].clips
        return pd.concat([part.clips for part in self._parts], ignore_index=True)

    @cached_property
    def labels(self) -> Labels:
        """Ratings of the rows of ``clips``."""
        return concatenate_labels([part.labels for part in self._parts])

    def _refuse_doubles(self) -> None:
        ids = self.clips["clip_id"]
        if ids.duplicated().any():
            raise QamroError(
                f"clip {ids[ids.duplicated()].iloc[0]!r} is in more than one of the files; join "
                "them with qamro-cache merge, which keeps one where both are the same"
            )
        concatenate_labels([part.labels for part in self._parts])

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
            for container in self._containers
            for name, extent in sorted(container.extents.items())
        ]
        return hashlib.sha256("\n".join(sums).encode()).hexdigest()

    def feature_name(
        self,
        name: str,
        which: Literal["features", "text_features"] = "features",
    ) -> str:
        """Return ``name``, or that of the encoder's first feature for an empty one.

        Raises:
            QamroError: there is no such feature.
        """
        known = self.features if which == "features" else self.text_features
        name = name or next(iter(known), "")
        if name not in known:
            raise QamroError(
                f"{self.paths[0]} has no {which.replace('_', ' ')[:-1]} {name!r}; "
                f"there are: {', '.join(known) or 'none'}"
            )
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

        windows = self._read("features", self.feature_name(name))
        counts = np.concatenate([np.diff(part.offsets) for part in self._parts])
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        weights = np.concatenate([part.weights for part in self._parts])
        return WindowFeatures(
            torch.from_numpy(windows).to(device),
            torch.from_numpy(offsets).to(device),
            torch.from_numpy(weights).to(device),
        )

    def read_text(self, name: str = "", device: str = "cpu") -> TextFeatures:
        """Read one feature of every prompt; arguments and errors as ``read``."""
        import torch

        values = self._read("text_features", self.feature_name(name, "text_features"))
        if len(self._parts) == 1:
            return TextFeatures(
                torch.from_numpy(values).to(device),
                torch.from_numpy(self._parts[0].prompt_index).to(device),
            )
        everything = [prompt for part in self._parts for prompt in part.prompts]
        prompts = unique_prompts(everything)
        # A prompt that several files have is kept once, from the first of them.
        row = {prompt: index for index, prompt in reversed(list(enumerate(everything)))}
        place = {prompt: index for index, prompt in enumerate(prompts)}
        index = [place[prompt] if prompt else -1 for prompt in self.clips["prompt"]]
        if len(everything) != len(prompts):
            values = values[[row[prompt] for prompt in prompts]]
        return TextFeatures(
            torch.from_numpy(values).to(device),
            torch.tensor(index, dtype=torch.int64, device=device),
        )

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
                Fingerprints(container.load("fingerprints/values"), part.fingerprint_offsets)
                for container, part in zip(self._containers, self._parts, strict=True)
            ]
        )

    def fingerprints_of(self, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
        """Return the fingerprint of each of these clips, empty where it is not known."""
        whole = self.read_fingerprints()
        return [whole.values[whole.offsets[row] : whole.offsets[row + 1]] for row in rows]

    def _read(self, which: str, name: str) -> Any:
        extents = [container.extents[f"{which}/{name}"] for container in self._containers]
        rows = [extent.shape[0] for extent in extents]
        dtype, shape = extents[0].dtype, (sum(rows), *extents[0].shape[1:])
        # numpy asks for huge pages for large arrays, which makes the first touch cheaper.
        out = np.empty(nbytes_of(dtype, shape), np.uint8)
        done = 0
        for container, extent in zip(self._containers, extents, strict=True):
            container.read_into(f"{which}/{name}", out[done : done + extent.nbytes])
            done += extent.nbytes
        return out.view(dtype).reshape(shape)


def _shapes(features: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in features.items()}


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


#: What names a cache: a file, several files, or one that is open.
CacheLike = str | Path | Sequence[str | Path] | Cache


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
    paths = [path] if isinstance(path, str | Path) else list(path)
    if not paths:
        raise QamroError("no cache file was given")
    containers = []
    for each in map(Path, paths):
        try:
            containers.append(open_container(each))
        except FileNotFoundError as error:
            raise QamroError(
                f"there is no cache {each}; qamro-extract --out {each} makes one"
            ) from error
    return Cache(containers)
