"""CLAP and Audiobox-Aesthetics by the packages of their authors, for those who want no other.

They are fed and read as ours are, from the same checkpoints; the identity names the package and its
version, so that caches of the two are never mixed.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from qamro_cache.encoders.audiobox import AudioboxEncoder
from qamro_cache.encoders.clap import ClapEncoder
from qamro_cache.encoders.precision import computing_in
from qamro_cache.encoders.protocol import Encoder, EncoderOptions
from qamro_cache.encoders.upstream import quiet
from qamro_cache.encoders.upstream_packages import (
    UPSTREAMS,
    Features,
    aes_predictor,
    clap_module,
    layers_of,
)
from qamro_cache.errors import QamroError, kind_and_words_of
from qamro_cache.identity import EncoderSpec


class TheirClap(ClapEncoder):
    """As `ClapEncoder`, by ``laion_clap.CLAP_Module``. Our own loading judges the checkpoint."""

    def __init__(self, options: EncoderOptions, device: str) -> None:
        super().__init__(options, device)
        del self.network
        architecture = self.spec.options["architecture"]
        self.module = clap_module(architecture, self.tokenizer, options, device)
        self.module.eval().requires_grad_(False)
        self.spec = their_spec(self.spec)

    def encode(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        """Return what `ClapEncoder.encode` does."""
        clips = [window[:n] for window, n in zip(windows, valid.tolist(), strict=True)]
        taken: Features = {}
        hook = self.module.model.audio_branch.register_forward_hook(
            lambda branch, inputs, out: taken.update(pooled=out["embedding"])
        )
        try:
            with computing_in("float32", self.device):
                # Tensors are not truncated to 16 bits there: they were, by the audio policy.
                embedding = self.module.get_audio_embedding_from_data(clips, use_tensor=True)
        finally:
            hook.remove()
        return {"embedding": embedding, "pooled": taken["pooled"]}

    def networks(self) -> list[nn.Module]:
        """Return nothing: their code is run as it is."""
        return []

    def _embed_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        tokens = {"input_ids": ids, "attention_mask": mask}
        return self.module.model.get_text_embedding(tokens)  # type: ignore[no-any-return]


class TheirAudiobox(AudioboxEncoder):
    """As `AudioboxEncoder`, by ``audiobox_aesthetics.infer.AesPredictor``."""

    def __init__(self, options: EncoderOptions, device: str) -> None:
        super().__init__(options, device)
        del self.network
        self.predictor = aes_predictor(Path(options.checkpoint), device)
        self.predictor.model.requires_grad_(False)
        self.spec = their_spec(self.spec)

    def encode(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        """Return what `AudioboxEncoder.encode` does."""
        inside = torch.arange(windows.shape[1], device=self.device) < valid[:, None]
        with computing_in("float32", self.device), layers_of(self.predictor) as taken:
            self.predictor.model({"wav": windows[:, None], "mask": inside[:, None]})
        return {"layers": taken["layers"]}

    def networks(self) -> list[nn.Module]:
        """Return nothing: their code is run as it is."""
        return []


def their_spec(spec: EncoderSpec) -> EncoderSpec:
    """Return the identity of the same features by the package of the encoder's authors."""
    package = UPSTREAMS[spec.name].package
    return replace(spec, options={**spec.options, "backend": f"{package} {version(package)}"})


THEIRS: dict[str, Callable[[EncoderOptions, str], Encoder]] = {
    "clap": TheirClap,
    "audiobox": TheirAudiobox,
}


def load_theirs(name: str, options: EncoderOptions, device: str) -> Encoder:
    """Load the encoder ``name`` by the package of its authors.

    Raises:
        QamroError: another precision than float32, weights that do not fit, or a package that does
            not run among the versions that are installed here.
    """
    if options.precision != "float32":
        raise QamroError(
            f"--backend upstream computes in float32 alone (given: {options.precision})"
        )
    try:
        with quiet():
            return THEIRS[name](options, device)
    except QamroError:
        raise
    except Exception as error:  # a package of others, among whatever versions it meets
        package = UPSTREAMS[name].package
        raise QamroError(
            f"{package} {version(package)} does not run here ({kind_and_words_of(error)}); "
            "leave --backend out"
        ) from error
