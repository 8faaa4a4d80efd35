"""A cache in memory: what an encoder made of clips that are asked about once."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qamro_cache.cache.content import (
    CacheContent,
    Fingerprints,
    TextFeatures,
    WindowFeatures,
    no_fingerprints,
    prompt_index,
)
from qamro_cache.cache.reader import Cache
from qamro_cache.identity import identity_sha256

if TYPE_CHECKING:
    from torch import Tensor


class HeldCache(Cache):
    """Clips, features and prompts as a `Cache` gives them, with no file behind.

    Args:
        content: all but the features, or with them.
        identity: of what made the features.
        features: name -> [W, ...] in place of those of ``content``: tensors that may have a
            gradient.
    """

    def __init__(
        self,
        content: CacheContent,
        identity: Mapping[str, Any],
        features: "Mapping[str, Tensor] | None" = None,
    ) -> None:
        import torch

        # Not by Cache's own, which reads files.
        self.paths = (Path("the clips"),)
        self.identity = dict(identity)
        self.identity_sha256 = identity_sha256(identity)
        self.dataset, self.synthetic = "", False
        self.provenance, self.licenses = {}, {}
        self.features = {n: tuple(shape) for n, shape in identity["features"].items()}
        self.text_features = {n: tuple(shape) for n, shape in identity["text_features"].items()}
        self.clips, self.labels = content.clips, content.labels
        self._content = content
        self._features = features or {
            name: torch.from_numpy(values) for name, values in content.features.items()
        }

    @property
    def prompts(self) -> tuple[str, ...]:
        """The different prompts, in the order of ``read_text``."""
        return self._content.prompts

    @property
    def num_windows(self) -> int:
        """Windows of all clips."""
        return len(self._content.weights)

    def read(self, name: str = "", device: str = "cpu") -> WindowFeatures:
        """As of a file; of features with a gradient, with theirs."""
        import torch

        windows = self._features[self.feature_name(name)].to(device)
        about = (self._content.offsets, self._content.weights)
        return WindowFeatures(windows, *(torch.from_numpy(part).to(device) for part in about))

    def read_text(self, name: str = "", device: str = "cpu") -> TextFeatures:
        """As of a file."""
        import torch

        values = self._content.text_features[self.feature_name(name, "text_features")]
        index = prompt_index(self.prompts, list(self.clips["prompt"]))
        return TextFeatures(torch.from_numpy(values).to(device), torch.from_numpy(index).to(device))

    def read_fingerprints(self) -> Fingerprints:
        """The fingerprints of all clips."""
        return self._content.fingerprints or no_fingerprints(len(self.clips))
