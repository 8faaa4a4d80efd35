"""MuQ: a music model of 300 million parameters (Zhu et al. 2025, arXiv 2501.01108).

The network is that of the authors' package ``muq``; the weights must be on this machine, and their
license forbids commercial use, which is said whenever they are loaded.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qamro_cache.encoders.hub_folder import find_folder, weight_files, weights_sha256
from qamro_cache.encoders.precision import computing_in
from qamro_cache.encoders.protocol import Encoder, EncoderInfo, EncoderOptions
from qamro_cache.encoders.support import file_sha256, missing_packages
from qamro_cache.encoders.weights import (
    load_strictly,
    read_checkpoint,
    read_safetensors,
    state_dict_of,
)
from qamro_cache.errors import QamroError, kind_and_words_of
from qamro_cache.identity import AudioPolicy, EncoderSpec

SAMPLE_RATE = 24_000
WINDOW = 30 * SAMPLE_RATE  # what it was trained on
MODEL = "OpenMuQ/MuQ-large-msd-iter"
LICENSE = "CC-BY-NC 4.0, not for commercial use"
HOW_TO_GET = f"run: hf download {MODEL} --local-dir muq, then give --checkpoint muq"
MEL = "melspec_2048"
STAT = ("mean", "std")
#: What makes targets for training; upstream would unpickle the file of one.
NO_TARGETS = {
    **dict.fromkeys(("use_rvq_target", "use_vq_target", "use_encodec_target"), False),
    "rvq_ckpt_path": None,
}

logger = logging.getLogger("qamro_cache")


class MuqEncoder(Encoder):
    """``layers``: the mean over time of the Conformer's input and of each layer, [13, 1024].

    The last is after the final normalization, as in upstream's ``hidden_states``. Clips of a batch
    are computed by their length, so that padding costs nothing and enters nothing.
    """

    def __init__(self, options: EncoderOptions, device: str) -> None:
        folder = find_folder(MODEL, options)
        assert folder is not None
        self.network = load_network(folder, options.allow_pickle).to(device)
        self.device = torch.device(device)
        logger.warning("the weights of muq are %s", LICENSE)
        conformer = self.network.conformer
        self.spec = EncoderSpec(
            name="muq",
            version="1",
            audio=AudioPolicy(
                SAMPLE_RATE,
                WINDOW,
                WINDOW,
                min_tail=SAMPLE_RATE,
                min_clip=SAMPLE_RATE // 10,
                resampler="librosa-soxr-HQ",
                rate_policy=options.rate_policy,
            ),
            features={"layers": (len(conformer.layers) + 1, conformer.config.hidden_size)},
            checkpoint_sha256=weights_sha256(folder),
            precision=options.precision,
            options={"config_sha256": file_sha256(folder / "config.json")},
        )

    def encode(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        """Return ``layers`` [B, 13, 1024] float32."""
        layers = windows.new_empty(len(windows), *self.spec.features["layers"])
        for size in valid.unique().tolist():
            layers[valid == size] = self._layers(windows[valid == size, :size])
        return {"layers": layers}

    def _layers(self, sound: Tensor) -> Tensor:
        """Return the layers' means [B, L + 1, D] of clips of one length [B, N]."""
        network, means = self.network, list[Tensor]()
        with computing_in("float32", self.device):
            mel = network.normalize(network.preprocessing(sound, [MEL]))[MEL]

        def take(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            means.append(inputs[0].float().mean(1))

        hooks = [layer.register_forward_pre_hook(take) for layer in network.conformer.layers]
        try:
            with computing_in(self.spec.precision, self.device):
                last = network.conformer(network.conv(mel)).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([*means, last.float().mean(1)], 1)


def load_network(folder: Path, allow_pickle: bool) -> Any:
    """Build upstream's network by a folder's configuration, and load what computes features.

    Raises:
        QamroError: the folder's files cannot be read, or a tensor is missing or does not fit.
    """
    from muq import MuQ, MuQConfig
    from transformers import Wav2Vec2ConformerConfig

    file = folder / "config.json"
    try:
        settings = json.loads(file.read_text("utf-8"))
        network = MuQ(MuQConfig(**settings | NO_TARGETS)).model
        # Upstream gives a bare dictionary, on which transformers of today does not run.
        conformer = dict(network.conformer.config) | {"attn_implementation": "eager"}
        config = Wav2Vec2ConformerConfig(**conformer)
        network.stat = {f"{MEL}_{name}": float(network.stat[f"{MEL}_{name}"]) for name in STAT}
    except Exception as error:  # whatever a stranger's configuration makes upstream do
        said = kind_and_words_of(error)
        raise QamroError(f"{file} is no configuration of MuQ ({said}); {HOW_TO_GET}") from error
    for module in network.conformer.modules():
        if hasattr(module, "config"):
            module.config = config
    weights = weight_files(folder)[0]
    # The rest is for training.
    used = nn.ModuleDict(
        {
            "conv": network.conv,
            "layers": network.conformer.layers,
            "layer_norm": network.conformer.layer_norm,
        }
    )
    if weights.suffix == ".safetensors":
        state = read_safetensors(weights)
    else:
        state = state_dict_of(read_checkpoint(weights, allow_pickle), weights)
    state = {n.removeprefix("model.").removeprefix("conformer."): t for n, t in state.items()}
    state = {name: tensor for name, tensor in state.items() if name.split(".")[0] in used}
    load_strictly(used, state, weights, f"the MuQ of {file}")
    del network.linear
    return network.eval().requires_grad_(False)


def missing(argument: str, options: EncoderOptions) -> list[str]:
    """Return what is missing, a line each."""
    if lines := missing_packages(["muq", "transformers", "torchaudio"], "muq"):
        return lines
    folder = find_folder(MODEL, options)
    if folder is None or not (folder / "config.json").is_file() or not weight_files(folder):
        where = options.checkpoint or "the local hub cache"
        return [f"{where} has no config.json and model.safetensors of {MODEL}; {HOW_TO_GET}"]
    return []


INFO = EncoderInfo(
    name="muq",
    summary="MuQ, music; the mean of each Conformer layer",
    source=f"PyPI muq 0.1.0 (tencent-ailab/MuQ); weights https://huggingface.co/{MODEL}",
    license=LICENSE,
    dims="layers 13 x 1024",
    missing=missing,
    load=lambda argument, options, device: MuqEncoder(options, device),
    takes=("checkpoint", "precision", "rate_policy", "allow_pickle"),
)
