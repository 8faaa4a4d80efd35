"""Audiobox-Aesthetics: the layers below its four scores (Tjandra et al. 2025, arXiv 2502.05139).

The model averages a weighted sum of WavLM's 13 layers over time and puts it through a small
network, with weights of its own for each of CE, CU, PC and PQ. Averaging and weighting commute,
so the layers' means are cached, and a head initialized by `published_head` reproduces the
published scores from them exactly. The tests hold it against audiobox-aesthetics 0.0.4, which is
not needed here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qamro_cache.encoders.precision import computing_in
from qamro_cache.encoders.protocol import Encoder, EncoderInfo, EncoderOptions
from qamro_cache.encoders.support import file_sha256, missing_packages
from qamro_cache.encoders.wavlm import LAYERS, WIDTH, WavLM
from qamro_cache.encoders.weights import (
    load_strictly,
    read_checkpoint,
    read_safetensors,
    state_dict_of,
)
from qamro_cache.errors import QamroError, words_of
from qamro_cache.identity import AudioPolicy, EncoderSpec

SAMPLE_RATE = 16_000
WINDOW = 160_000  # 10 s
AXES = ("CE", "CU", "PC", "PQ")
SOURCE = "https://huggingface.co/facebook/audiobox-aesthetics"
FILES = ("model.safetensors", "config.json")


class AudioboxEncoder(Encoder):
    """The mean over time of WavLM's input and 12 layers, ``layers`` [13, 768] a window."""

    def __init__(self, options: EncoderOptions, device: str) -> None:
        path, state, _ = read_audiobox(Path(options.checkpoint), options.allow_pickle)
        self.network = WavLM()
        prefix = "wavlm_model."
        own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        load_strictly(self.network, own, path, "Audiobox-Aesthetics' WavLM-base")
        self.device = torch.device(device)
        self.network.eval().requires_grad_(False).to(self.device)
        self.network.fold(WINDOW)
        self.spec = EncoderSpec(
            name="audiobox",
            version="1",
            audio=AudioPolicy(
                SAMPLE_RATE,
                WINDOW,
                WINDOW,
                tail="pad",
                min_clip=SAMPLE_RATE // 10,
                rate_policy=options.rate_policy,
                resampler="torchaudio-sinc-hann-6",
            ),
            features={"layers": (LAYERS + 1, WIDTH)},
            checkpoint_sha256=file_sha256(path),
            precision=options.precision,
        )

    def encode(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        """Return ``layers`` [B, 13, 768] float32."""
        with computing_in(self.spec.precision, self.device):
            return {"layers": self.network(windows, valid)}

    def networks(self) -> list[nn.Module]:
        """Return what is worth compiling."""
        return [self.network]


@dataclass(frozen=True)
class PublishedHead:
    """The published head of one axis, in the names and layout of a stack's parameters.

    Attributes:
        tensors: ``layers`` [13], logits of the layer weights; for hidden layer k ``k.weight``
            [768, 768] as (in, out), ``k.bias`` [768] and, with ``layer_norm``,
            ``k.norm.weight`` and ``k.norm.bias`` [768]; ``output.weight`` [768, 1] and
            ``output.bias`` [1]. The mixed layers are normalized to unit length before layer 0.
        widths: of the hidden layers; after each comes GELU.
        layer_norm: before each GELU.
        mean: of the labels that the network was trained on; a score is output * std + mean,
            averaged over a clip's windows by their weights.
        std: as ``mean``.
    """

    tensors: Mapping[str, Tensor]
    widths: tuple[int, ...]
    layer_norm: bool
    mean: float
    std: float


def published_head(checkpoint: str | Path) -> dict[str, PublishedHead]:
    """Return the published heads of CE, CU, PC and PQ.

    Args:
        checkpoint: the .pt file, or a folder with model.safetensors and config.json.

    Raises:
        QamroError: not an Audiobox-Aesthetics checkpoint of the published kind.
    """
    path, state, config = read_audiobox(Path(checkpoint))
    layers = int(config.get("proj_num_layer", 1))
    layer_norm, dropout = bool(config.get("proj_ln", False)), config.get("proj_dropout", 0) != 0
    fixed = {
        "nth_layer": LAYERS + 1,
        "use_weighted_layer_sum": True,
        "normalize_embed": True,
        "output_dim": 1,
        "proj_act_fn": "gelu",
    }
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise QamroError(
                f"checkpoint {path}: {name} is {config[name]!r}, published is {value!r}"
            )
    step = 2 + layer_norm + dropout  # modules a hidden layer: linear, norm, GELU, dropout
    heads = {}
    for axis in AXES:
        tensors = {"layers": state.pop(f"layer_weights.{axis}")}
        for k in range(layers):
            name = "output" if k == layers - 1 else str(k)
            source = f"proj_layer.{axis}.{k * step}"
            tensors[f"{name}.weight"] = state.pop(f"{source}.weight").T.contiguous()
            tensors[f"{name}.bias"] = state.pop(f"{source}.bias")
            if layer_norm and name != "output":
                source = f"proj_layer.{axis}.{k * step + 1}"
                tensors[f"{name}.norm.weight"] = state.pop(f"{source}.weight")
                tensors[f"{name}.norm.bias"] = state.pop(f"{source}.bias")
        units = config["target_transform"][axis]
        widths = (WIDTH,) * (layers - 1)
        heads[axis] = PublishedHead(
            tensors, widths, layer_norm, float(units["mean"]), float(units["std"])
        )
    left = [name for name in state if not name.startswith("wavlm_model.")]
    if left:
        raise QamroError(f"checkpoint {path} holds {', '.join(left[:3])}, which no head uses")
    return heads


def read_audiobox(
    path: Path, allow_pickle: bool = False
) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """Read either published form: the file of the weights, all tensors by name, the configuration.

    Raises:
        QamroError: neither form, or a head's tensors or configuration are missing.
    """
    if path.is_dir():
        path, state, config = _read_folder(path)
    else:
        checkpoint = read_checkpoint(path, allow_pickle)
        state = state_dict_of(checkpoint, path)
        state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        config = dict(checkpoint.get("model_cfg", {}))
        config["target_transform"] = checkpoint.get("target_transform")
    for axis in AXES:
        for name in (f"layer_weights.{axis}", f"proj_layer.{axis}.0.weight"):
            if name not in state:
                raise QamroError(f"checkpoint {path} is not Audiobox-Aesthetics: no {name}")
        if not isinstance(config.get("target_transform"), Mapping) or not {"mean", "std"} <= set(
            config["target_transform"].get(axis, ())
        ):
            raise QamroError(f"checkpoint {path} lacks target_transform of {axis}; fetch it again")
    return path, state, config


def _read_folder(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    weights, config = (folder / name for name in FILES)
    if not weights.is_file() or not config.is_file():
        raise QamroError(f"{folder} lacks {' or '.join(FILES)}; get both from {SOURCE}")
    try:
        known = dict(json.loads(config.read_text("utf-8")))
    except ValueError as error:
        raise QamroError(f"{folder} cannot be read ({words_of(error)}); fetch it again") from error
    return weights, read_safetensors(weights), known


def missing(argument: str, options: EncoderOptions) -> list[str]:
    """Say what Audiobox-Aesthetics still needs on this machine, a line each."""
    where = f"checkpoint.pt, or a folder with {' and '.join(FILES)}, from {SOURCE}"
    lines = missing_packages(["torchaudio"], "audiobox")  # its resampler
    if options.backend == "upstream":
        lines += missing_packages(["audiobox_aesthetics"], "audiobox-upstream")
    if not options.checkpoint:
        lines.append(f"no checkpoint is named; give --checkpoint: {where}")
    elif not Path(options.checkpoint).exists():
        lines.append(f"checkpoint {options.checkpoint} is not there; get {where}")
    return lines


INFO = EncoderInfo(
    name="audiobox",
    summary="Audiobox-Aesthetics, the mean of each WavLM layer; its scores by --init published",
    source=f"audiobox-aesthetics 0.0.4; weights {SOURCE}",
    license="CC-BY 4.0",
    dims="layers 13 x 768",
    missing=missing,
    load=lambda argument, options, device: AudioboxEncoder(options, device),
    takes=("checkpoint", "precision", "rate_policy", "allow_pickle", "backend"),
)
