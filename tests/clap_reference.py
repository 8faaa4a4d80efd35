"""A CLAP checkpoint in the published form, and laion_clap itself to hold ours against.

The weights are random, in the real architecture, and stirred so that no part of the network is
without effect (as initialized, biases are zero and normalizations do nothing). The vocabulary is
synthetic: right in size and kind, made of pairs of bytes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

SAMPLE_RATE = 48_000


@dataclass(frozen=True)
class Reference:
    """``module`` is laion_clap.CLAP_Module with the weights of ``checkpoint``."""

    module: Any
    checkpoint: Path
    tokenizer: Path


def write_vocabulary(folder: Path, tokens: int = 50_265) -> Path:
    """Write a synthetic byte-pair vocabulary of ``tokens`` tokens with RoBERTa's special ones."""
    folder.mkdir(exist_ok=True)
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(256, 512))
    letters = [chr(b) if b in plain else chr(next(spare)) for b in range(256)]
    ordered = [letters[b] for b in plain] + [c for c in letters if ord(c) >= 256]
    pairs = [(a, b) for a in ordered for b in ordered][: max(0, tokens - 5 - 256)]
    words = ["<s>", "<pad>", "</s>", "<unk>", *ordered, *(a + b for a, b in pairs), "<mask>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    merges = ["#version: 0.2", *(f"{a} {b}" for a, b in pairs)]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")
    return folder


def stir(module: torch.nn.Module, seed: int = 0) -> None:
    """Give weights, biases and statistics values as varied as training would."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator) * scale

    with torch.no_grad():
        for name, value in module.named_parameters():
            if "extractor" in name or not value.is_floating_point() or "embeddings" in name:
                continue
            if "norm" in name.lower() or "bn0" in name:
                value.add_(noise(value, 0.2))
            elif name.endswith("bias"):
                value.add_(noise(value, 0.1))
            elif "relative_position_bias_table" in name:
                value.add_(noise(value, 1.0))
            elif "audio_branch" in name and value.ndim == 2:
                value.mul_(2)
        for name, value in module.named_buffers():
            if name.endswith("bn0.running_mean"):
                value.copy_(-30 + noise(value, 5))
            elif name.endswith("bn0.running_var"):
                value.copy_(200 + noise(value, 20).abs())


def make_reference(folder: Path) -> Reference:
    """Build laion_clap's own module without a network, and save its weights as published ones."""
    import transformers

    tokenizer = write_vocabulary(folder / "synthetic-vocabulary")
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    )

    def random_roberta(*args: Any, **kwargs: Any) -> Any:
        return transformers.RobertaModel(config)

    real = transformers.RobertaTokenizer.from_pretrained

    def synthetic_tokenizer(name: str) -> Any:
        return real(str(tokenizer))

    with (
        mock.patch.object(transformers.RobertaModel, "from_pretrained", random_roberta),
        mock.patch.object(transformers.BertTokenizer, "from_pretrained"),
        mock.patch.object(transformers.BartTokenizer, "from_pretrained"),
        mock.patch.object(transformers.RobertaTokenizer, "from_pretrained", synthetic_tokenizer),
    ):
        import laion_clap

        module = laion_clap.CLAP_Module(amodel="HTSAT-base", device="cpu")
    stir(module.model)
    state = {f"module.{name}": value for name, value in module.model.state_dict().items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    checkpoint = folder / "random-htsat-base.pt"
    # The published files carry numpy scalars beside the weights.
    torch.save(
        {"epoch": 15, "name": "random", "state_dict": state, "loss": np.float64(1)}, checkpoint
    )
    module.load_ckpt(str(checkpoint), verbose=False)
    module.model.eval()
    return Reference(module, checkpoint, tokenizer)


def sound(seed: int, samples: int, rate: int = SAMPLE_RATE) -> np.ndarray:
    """A seeded synthetic sound [samples] float32: tones, noise and a second of silence."""
    draw = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    wave = sum(
        draw.uniform(0.05, 0.3) * np.sin(2 * np.pi * f * time + p)
        for f, p in zip(draw.uniform(60, 9000, 5), draw.uniform(0, 6, 5), strict=True)
    )
    wave = wave * (0.5 + 0.5 * np.sin(2 * np.pi * draw.uniform(0.2, 3) * time))
    wave = wave + draw.normal(0, draw.uniform(0.001, 0.1), samples)
    wave[samples // 2 : samples // 2 + rate] = 0
    return np.clip(wave, -1.05, 1.05).astype(np.float32)
