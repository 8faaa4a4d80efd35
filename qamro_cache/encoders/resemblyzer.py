"""Resemblyzer's voice encoder: an LSTM over a mel spectrogram, its weights inside the wheel.

Wan et al., "Generalized End-to-End Loss for Speaker Verification" (ICASSP 2018), as trained by
Resemble AI. Only the file of weights is read from the package: its import asks for webrtcvad, which
comes as source and trims silence, which listeners hear and we keep.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qamro_cache.encoders.precision import computing_in
from qamro_cache.encoders.protocol import Encoder, EncoderInfo, EncoderOptions
from qamro_cache.encoders.support import file_sha256, missing_packages
from qamro_cache.encoders.weights import load_strictly, read_checkpoint
from qamro_cache.identity import AudioPolicy, EncoderSpec

SAMPLE_RATE = 16_000
WINDOW = 60 * SAMPLE_RATE  # the whole clip, up to a minute
FRAME, HOP, BANDS = 400, 160, 40  # 25 and 10 ms
HIDDEN, LAYERS = 256, 3
LEVEL = 10 ** (-30 / 20)  # of full scale: quieter clips are raised to it
AT_ONCE = 32  # clips, on a GPU

INSTALL = (
    "pip install webrtcvad-wheels && pip install --no-deps Resemblyzer==0.1.4 "
    "(without --no-deps it asks for webrtcvad, which comes as source and needs a C compiler)"
)


class VoiceNetwork(nn.Module):
    """The layers of upstream's ``VoiceEncoder``, under its names."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, HIDDEN, LAYERS, batch_first=True)
        self.linear = nn.Linear(HIDDEN, HIDDEN)
        # Of the training loss; the file has them.
        self.similarity_weight = nn.Parameter(torch.zeros(1))
        self.similarity_bias = nn.Parameter(torch.zeros(1))


class ResemblyzerEncoder(Encoder):
    """Mean, std and last of the last layer's states over a clip, and the embedding of the last.

    As upstream, clips below -30 dBFS are raised to that, and the spectrogram is of power, without
    a logarithm. Upstream cuts a clip into overlapping parts of 1.6 s and trims silence; here the
    LSTM hears it from end to end. Only audio is computed, so padding costs nothing and enters
    nothing; on a CPU clips are computed one by one, so that no bit depends on the batch.
    """

    def __init__(self, rate_policy: str, device: str) -> None:
        from torchaudio.functional import melscale_fbanks

        path = weights_file()
        assert path is not None
        network = VoiceNetwork()
        load_strictly(network, read_checkpoint(path)["model_state"], path, "the voice encoder")
        self.network = network.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.taper = torch.hann_window(FRAME, device=self.device)
        self.filters = melscale_fbanks(  # [bins, bands]
            FRAME // 2 + 1, 0.0, SAMPLE_RATE / 2, BANDS, SAMPLE_RATE, "slaney", "slaney"
        ).to(self.device)
        self.spec = EncoderSpec(
            name="resemblyzer",
            version="1",
            audio=AudioPolicy(
                SAMPLE_RATE,
                WINDOW,
                WINDOW,
                tail="pad",
                min_tail=SAMPLE_RATE,
                min_clip=SAMPLE_RATE // 10,
                resampler="librosa-soxr-HQ",
                rate_policy=rate_policy,
            ),
            features={"states": (3 * HIDDEN,), "embedding": (HIDDEN,)},
            checkpoint_sha256=file_sha256(path),
            options={"level": "raised to -30 dBFS", "silence": "kept"},
        )

    def encode(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        """Return ``states`` [B, 768]: mean, std (0 for one frame), last; ``embedding`` [B, 256]."""
        size = 1 if self.device.type == "cpu" else AT_ONCE
        with computing_in("float32", self.device):
            parts = [
                self._encode(*part)
                for part in zip(windows.split(size), valid.split(size), strict=True)
            ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _encode(self, windows: Tensor, valid: Tensor) -> dict[str, Tensor]:
        sound = windows[:, : int(valid.max())]
        level = (sound.square().sum(1) / valid).sqrt()
        sound = sound * (LEVEL / level.clamp(min=1e-30)).clamp(min=1)[:, None]
        spectrum = torch.stft(
            sound, FRAME, HOP, window=self.taper, pad_mode="constant", return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()  # [B, bins, T]
        states, _ = self.network.lstm(power.mT @ self.filters)  # [B, T, 256]
        # No state knows of later frames, so those of padding are just left out.
        frames = valid // HOP + 1
        inside = torch.arange(states.shape[1], device=self.device) < frames[:, None]
        weight = (inside / frames[:, None])[..., None]
        mean = (states * weight).sum(1)
        variance = ((states - mean[:, None]).square() * weight).sum(1)
        last = states[torch.arange(len(states), device=self.device), frames - 1]
        embedding = F.normalize(self.network.linear(last).relu())
        return {"states": torch.cat([mean, variance.sqrt(), last], 1), "embedding": embedding}


def weights_file() -> Path | None:
    """Return where the package's weights are, whether or not it can be imported; None: nowhere."""
    found = find_spec("resemblyzer")
    places = (found.submodule_search_locations or ()) if found else ()
    files = (Path(place) / "pretrained.pt" for place in places)
    return next((file for file in files if file.is_file()), None)


def missing(argument: str, options: EncoderOptions) -> list[str]:
    """Return what is missing, a line each."""
    lines = missing_packages(["torchaudio"], "audiobox")  # an extra that asks for nothing else
    if weights_file() is None:
        lines.insert(0, f"package resemblyzer, with its weights, is not installed; run: {INSTALL}")
    return lines


INFO = EncoderInfo(
    name="resemblyzer",
    summary="Resemblyzer's LSTM over the whole clip; weights inside its package, works offline",
    source="PyPI Resemblyzer 0.1.4 (resemble-ai/Resemblyzer)",
    license="Apache-2.0",
    dims="states 768, embedding 256",
    missing=missing,
    load=lambda argument, options, device: ResemblyzerEncoder(options.rate_policy, device),
    takes=("rate_policy",),
)
