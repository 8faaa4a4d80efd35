"""CLAP of LAION: audio and prompts in one space (Wu et al. 2023, arXiv 2211.06687).

Needs neither the laion_clap package nor a network: HTS-AT is ours (htsat.py), RoBERTa is that of
transformers, and all weights come from the published checkpoint. The tests hold it against
laion_clap 1.1.7.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qamro_cache.encoders.htsat import (
    SIZES,
    Htsat,
    HtsatSize,
    WindowAttention,
    attention_kernels,
    dft_filters,
)
from qamro_cache.encoders.precision import computing_in
from qamro_cache.encoders.prompts import embed_prompts
from qamro_cache.encoders.protocol import EncoderInfo, EncoderOptions
from qamro_cache.encoders.roberta import (
    HOW_TO_GET,
    find_tokenizer,
    load_tokenizer,
    roberta_base,
    tokenizer_sha256,
)
from qamro_cache.encoders.support import file_sha256, missing_packages
from qamro_cache.encoders.weights import load_strictly, read_checkpoint, state_dict_of
from qamro_cache.errors import QamroError
from qamro_cache.identity import AudioPolicy, EncoderSpec

SAMPLE_RATE = 48_000
WINDOW = 480_000  # 10 s
JOINT = 512
TEXT_LENGTH = 77
CHECKPOINT_URL = "https://huggingface.co/lukewys/laion_clap"


def projection(inputs: int) -> nn.Sequential:
    """Two linear layers with a ReLU between, to the joint space."""
    return nn.Sequential(nn.Linear(inputs, JOINT), nn.ReLU(), nn.Linear(JOINT, JOINT))


class ClapNetwork(nn.Module):
    """The parts of a CLAP checkpoint that an embedding needs, under its own names."""

    def __init__(self, size: HtsatSize) -> None:
        super().__init__()
        self.audio_branch = Htsat(size)
        self.audio_projection = projection(size.features)
        self.text_branch = roberta_base()
        self.text_projection = projection(768)


class ClapEncoder:
    """Audio: ``embedding`` [512] of unit length, ``pooled`` before the projection; text: [512].

    Audio of less than 10 s is repeated whole times and filled up with zeros. Longer audio, of
    which laion_clap takes 10 s at random, is cut into fixed windows.
    """

    def __init__(self, options: EncoderOptions, device: str) -> None:
        path = Path(options.checkpoint)
        self.network, size = load_network(path, options.allow_pickle)
        self.device = torch.device(device)
        self.tokenizer = None
        if options.tokenizer != "none":
            folder = find_tokenizer(options.tokenizer)
            if folder is None:
                raise QamroError(f"clap finds no vocabulary for prompts; {HOW_TO_GET}")
            self.tokenizer = load_tokenizer(folder)
        else:
            del self.network.text_branch, self.network.text_projection
        self.network.eval().requires_grad_(False).to(self.device)
        text = self.tokenizer is not None
        self.spec = EncoderSpec(
            name="clap",
            version="1",
            audio=AudioPolicy(
                SAMPLE_RATE,
                WINDOW,
                WINDOW,
                min_tail=SAMPLE_RATE,
                min_clip=SAMPLE_RATE // 10,
                padding="repeat",
                rate_policy=options.rate_policy,
                resampler="librosa-soxr-HQ",
                int16=options.int16,
            ),
            features={"embedding": (JOINT,), "pooled": (size.features,)},
            text_features={"text": (JOINT,)} if text else {},
            checkpoint_sha256=file_sha256(path),
            tokenizer_sha256=tokenizer_sha256(self.tokenizer) if text else "",
            text_length=TEXT_LENGTH if text else 0,
            precision=options.precision,
            options={"architecture": size.name},
        )

    def encode(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        """Return ``embedding`` [B, 512] and ``pooled`` [B, 1024] (HTSAT-tiny: 768)."""
        with computing_in(self.spec.precision, self.device), attention_kernels(self.device):
            pooled = self.network.audio_branch(windows)
            embedding = self.network.audio_projection(pooled)
        with torch.inference_mode():
            return {"embedding": F.normalize(embedding.float(), dim=-1), "pooled": pooled.float()}

    def networks(self) -> list[nn.Module]:
        """Return what is worth compiling."""
        return [self.network.audio_branch]

    def encode_text(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """Return ``text`` [P, 512], in float32; {} when loaded without a tokenizer.

        Raises:
            QamroError: two different prompts get the same tokens or the same embedding.
        """
        if self.tokenizer is None:
            return {}
        text = embed_prompts(
            self.tokenizer, prompts, TEXT_LENGTH, self._embed_text, JOINT, self.device
        )
        return {"text": text}

    def _embed_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        pooled = self.network.text_branch(input_ids=ids, attention_mask=mask).pooler_output
        return self.network.text_projection(pooled)  # type: ignore[no-any-return]


def load_network(path: Path, allow_pickle: bool = False) -> tuple[ClapNetwork, HtsatSize]:
    """Build the network that fits a checkpoint's tensors, and load it with nothing left over.

    Raises:
        QamroError: not a CLAP checkpoint, a fused or otherwise different architecture, tensors
            missing or unexpected, or constants (DFT, positions, masks) that are not what we use.
    """
    state = state_dict_of(read_checkpoint(path, allow_pickle), path)
    size = recognize(state, path)
    network = ClapNetwork(size)
    wanted = expected_constants(network)
    for name, constant in wanted.items():
        if name not in state:
            raise QamroError(f"checkpoint {path} does not fit {size.name}: {name} is missing")
        given = state.pop(name)
        if given.shape != constant.shape or not torch.allclose(
            given.to(constant.dtype), constant, rtol=0, atol=1e-5
        ):
            raise QamroError(f"checkpoint {path}: {name} is not what {size.name} computes with")
    for name in UNUSED:
        if name not in state:
            raise QamroError(f"checkpoint {path} does not fit {size.name}: {name} is missing")
        del state[name]
    # Written by older versions of transformers; it counts 0, 1, 2, ...
    state.pop("text_branch.embeddings.position_ids", None)
    load_strictly(network, state, path, f"CLAP with {size.name}")
    network.audio_branch.fold()
    return network, size


def recognize(state: Mapping[str, Tensor], path: Path) -> HtsatSize:
    """Return the size of audio network whose tensors these are."""
    if "audio_branch.patch_embed.mel_conv2d.weight" in state:
        raise QamroError(
            f"checkpoint {path} is a fusion model, whose windows depend on chance; use a "
            f"fusion-free one, for example music_audioset_epoch_15_esc_90.14.pt ({CHECKPOINT_URL})"
        )
    patches = state.get("audio_branch.patch_embed.proj.weight")
    blocks = {
        tuple(name.split(".")[2:5:2])
        for name in state
        if name.startswith("audio_branch.layers.") and ".blocks." in name
    }
    depths = tuple(
        sum(stage == str(i) for stage, _ in blocks) for i in range(len({s for s, _ in blocks}))
    )
    for size in SIZES:
        if patches is not None and (patches.shape[0], depths) == (size.width, size.depths):
            return size
    seen = f"width {patches.shape[0]}, blocks {depths}" if patches is not None else "no HTS-AT"
    raise QamroError(
        f"checkpoint {path} is no CLAP that we know ({seen}); "
        f"known are {', '.join(size.name for size in SIZES)} of {CHECKPOINT_URL}"
    )


#: Tensors of a checkpoint that no embedding needs.
UNUSED = (
    "logit_scale_a",
    "logit_scale_t",
    *(
        f"{tower}_transform.sequential.{layer}.{kind}"
        for tower in ("audio", "text")
        for layer in (0, 3)
        for kind in ("weight", "bias")
    ),
    *(
        f"audio_branch.{layer}.{kind}"
        for layer in ("tscam_conv", "head")
        for kind in ("weight", "bias")
    ),
)


def expected_constants(network: ClapNetwork) -> dict[str, Tensor]:
    """Return what a checkpoint stores although it follows from the architecture."""
    real, imaginary = dft_filters()
    stft = "audio_branch.spectrogram_extractor.stft"
    found = {f"{stft}.conv_real.weight": real, f"{stft}.conv_imag.weight": imaginary}
    for name, module in network.named_modules():
        if isinstance(module, WindowAttention):
            found[f"{name}.relative_position_index"] = module.position
            if module.mask is not None:
                found[f"{name.removesuffix('.attn')}.attn_mask"] = module.mask
    return found


def missing(argument: str, options: EncoderOptions) -> list[str]:
    """Say what CLAP still needs on this machine, a line each."""
    lines = missing_packages(["transformers"], "clap")
    if options.backend == "upstream":
        lines += missing_packages(["laion_clap", "torchvision"], "clap-upstream")
    if not options.checkpoint:
        lines.append(
            "no checkpoint is named; give --checkpoint FILE, for example "
            f"music_audioset_epoch_15_esc_90.14.pt from {CHECKPOINT_URL}"
        )
    elif not Path(options.checkpoint).is_file():
        lines.append(f"checkpoint {options.checkpoint} is not a file; get it from {CHECKPOINT_URL}")
    if not lines and options.tokenizer != "none" and find_tokenizer(options.tokenizer) is None:
        where = options.tokenizer or "the local hub cache"
        lines.append(f"{where} has no roberta-base vocabulary; {HOW_TO_GET}")
    return lines


INFO = EncoderInfo(
    name="clap",
    summary="LAION-CLAP, HTS-AT audio tower and RoBERTa text tower",
    source=f"laion_clap 1.1.7; weights {CHECKPOINT_URL}",
    license="CC0 1.0",
    dims="embedding 512, pooled 1024 (HTSAT-tiny 768), text 512",
    missing=missing,
    load=lambda argument, options, device: ClapEncoder(options, device),
    takes=(
        "checkpoint",
        "tokenizer",
        "precision",
        "rate_policy",
        "allow_pickle",
        "int16",
        "backend",
    ),
    half=True,
)
