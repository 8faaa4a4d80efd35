"""A small encoder for tests of the extraction: quick, with text, several features and weights."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from qamro_cache.encoders.protocol import EncoderInfo, EncoderOptions
from qamro_cache.identity import AudioPolicy, EncoderSpec

WINDOW = 8000

SPEC = EncoderSpec(
    name="fake",
    version="1",
    audio=AudioPolicy(16000, WINDOW, WINDOW, min_tail=800, min_clip=160),
    features={"embedding": (8,), "layers": (3, 4)},
    text_features={"text": (5,)},
    text_length=20,
)


class FakeEncoder:
    """Frames of the waveform through two fixed random layers."""

    def __init__(self, spec: EncoderSpec = SPEC, pause: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(0)
        self.first = torch.randn(80, 16, generator=generator)
        self.second = torch.randn(16, 20, generator=generator)
        self.spec = spec
        self.pause = pause
        self.batches: list[int] = []

    def encode(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        self.batches.append(len(windows))
        time.sleep(self.pause)
        hidden = torch.tanh(windows.reshape(len(windows), -1, 80) @ self.first).mean(1)
        out = hidden @ self.second + torch.log1p(valid.float())[:, None]
        return {"embedding": out[:, :8], "layers": out[:, 8:].reshape(-1, 3, 4)}

    def encode_text(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        rows = [
            [float(len(p)), *(float(sum(map(ord, p[k::4]))) for k in range(4))] for p in prompts
        ]
        return {"text": torch.tensor(rows)}


def load(argument: str, options: EncoderOptions, device: str) -> FakeEncoder:
    return FakeEncoder(replace(SPEC, checkpoint_sha256=options.checkpoint))


INFO = EncoderInfo(
    "fake", "for tests", "tests", "MIT", "embedding 8", lambda a, o: (), load, takes=("checkpoint",)
)
