"""Log-mel statistics: an encoder without weights, the honest baseline.

HEAR (Turian et al. 2022) includes such a baseline for the same reason: an embedding that does
not beat it has learned nothing that a filter bank does not know.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from qamro_cache.encoders.precision import computing_in
from qamro_cache.encoders.protocol import Encoder, EncoderInfo
from qamro_cache.identity import AudioPolicy, EncoderSpec

SAMPLE_RATE = 48_000
WINDOW = 480_000  # 10 s, as CLAP's
FRAME = 2_048
HOP = 480
BANDS = 128
FLOOR = 1e-10  # of the power in a band: -100 dB
FEW = 256  # frames; products of fewer rows may be rounded in another way


class MelEncoder(Encoder):
    """Mean and standard deviation over time of a 128-band log-mel spectrogram, in dB.

    Frames lie wholly inside the audio, so padding never enters a statistic, and only those are
    computed; audio shorter than one frame is one frame, filled up with zeros.
    """

    def __init__(self, rate_policy: str, device: str) -> None:
        self.spec = EncoderSpec(
            name="mel",
            version="1",
            audio=AudioPolicy(
                SAMPLE_RATE,
                WINDOW,
                WINDOW,
                min_tail=SAMPLE_RATE,
                min_clip=FRAME,
                rate_policy=rate_policy,
            ),
            features={"statistics": (2 * BANDS,)},
            options={
                "frame": str(FRAME),
                "hop": str(HOP),
                "bands": str(BANDS),
                "floor": f"{FLOOR}",
            },
        )
        self.device = torch.device(device)
        self.filters = mel_filters(SAMPLE_RATE, FRAME, BANDS).to(self.device)  # [bins, bands]
        self.taper = torch.hann_window(FRAME, device=self.device)

    def encode(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        """Return ``statistics`` [B, 256]: the bands' means, then their deviations."""
        with computing_in("float32", self.device):
            framed = windows.unfold(1, FRAME, HOP)  # [B, T, frame]
            frames = torch.clamp((valid - FRAME) // HOP + 1, min=1)
            inside = torch.arange(framed.shape[1], device=self.device) < frames[:, None]  # [B, T]
            spectrum = torch.fft.rfft(framed[inside].mul_(self.taper))
            power = spectrum.real.square() + spectrum.imag.square()  # [frames inside, bins]
            power = F.pad(power, (0, 0, 0, max(0, FEW - len(power))))
            heard = 10 * torch.log10((power @ self.filters).clamp(min=FLOOR))
            # Sums over whole windows, whatever is in them, add in the same order.
            decibels = windows.new_zeros(*inside.shape, BANDS)
            decibels[inside] = heard[: int(frames.sum())]
            weight = (inside / frames[:, None])[..., None]  # [B, T, 1], float32
            mean = (decibels * weight).sum(1)
            variance = ((decibels - mean[:, None]).square() * weight).sum(1)
            return {"statistics": torch.cat([mean, variance.sqrt()], dim=1)}


def mel_filters(sample_rate: int, frame: int, bands: int) -> Tensor:
    """Return triangular filters [frame // 2 + 1, bands], each of unit sum, up to half the rate.

    Mel are m = 2595 log10(1 + f / 700) (O'Shaughnessy 1987); every band gets at least the
    bin nearest to its center, so that none is silent by construction.
    """
    top = 2595 * torch.log10(torch.tensor(1 + sample_rate / 2 / 700, dtype=torch.float64))
    edges = torch.linspace(0, float(top), bands + 2, dtype=torch.float64)
    edges = 700 * (10 ** (edges / 2595) - 1)  # [bands + 2] Hz
    bins = torch.arange(frame // 2 + 1, dtype=torch.float64) * sample_rate / frame
    low, center, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - low) / (center - low)
    falling = (high - bins[:, None]) / (high - center)
    filters = torch.clamp(torch.minimum(rising, falling), min=0)
    nearest = F.one_hot((bins[:, None] - center).abs().argmin(0), len(bins)).T.double()
    filters = torch.where(filters.sum(0) > 0, filters, nearest)
    return (filters / filters.sum(0)).float()


INFO = EncoderInfo(
    name="mel",
    summary="mean and deviation of a log-mel spectrogram; no weights",
    source="qamro_cache",
    license="MIT",
    dims="statistics 256",
    missing=lambda argument, options: (),
    load=lambda argument, options, device: MelEncoder(options.rate_policy, device),
    takes=("rate_policy",),
)
