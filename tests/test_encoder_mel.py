"""Log-mel statistics against numpy, and that padding never enters them."""

import numpy as np
import pytest
import torch

from qamro_cache.encoders.mel import FLOOR, FRAME, HOP, SAMPLE_RATE, WINDOW, mel_filters
from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.errors import QamroError


@pytest.fixture(scope="module")
def mel():
    return load_encoder("mel")


def noise(rows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, WINDOW, generator=generator).mul(0.1).clamp(-1, 1)


def numpy_statistics(samples: np.ndarray) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), FRAME)[::HOP]
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    power = np.abs(np.fft.rfft(frames * taper)) ** 2
    filters = mel_filters(SAMPLE_RATE, FRAME, 128).double().numpy()
    decibels = 10 * np.log10(np.maximum(power @ filters, 1e-10))
    return np.concatenate([decibels.mean(0), decibels.std(0)])


def test_equals_numpy(mel):
    windows = noise(2)
    got = mel.encode(windows, torch.tensor([WINDOW, WINDOW]))["statistics"]
    assert got.shape == (2, *mel.spec.features["statistics"])
    for row, window in zip(got, windows, strict=True):
        np.testing.assert_allclose(row, numpy_statistics(window.numpy()), atol=2e-4)


def test_padding_does_not_enter(mel):
    length = 100_000
    windows = noise(2)
    windows[0, length:] = 0
    got = mel.encode(windows, torch.tensor([length, length]))["statistics"]
    np.testing.assert_allclose(got[0], numpy_statistics(windows[0, :length].numpy()), atol=2e-4)
    inside = torch.full((2,), (length - FRAME) // HOP * HOP + FRAME)
    windows[1] = windows[0]
    windows[1, length:] = 0.7
    got = mel.encode(windows, inside)["statistics"]
    assert torch.equal(got[0], got[1])


def of_every_frame(mel, windows: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The statistics with the spectrum of whole windows, padding and all, weighted by zeros."""
    spectrum = torch.stft(windows, FRAME, HOP, window=mel.taper, center=False, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    decibels = 10 * torch.log10((power.mT @ mel.filters).clamp(min=FLOOR))
    frames = torch.clamp((valid - FRAME) // HOP + 1, min=1)
    inside = torch.arange(decibels.shape[1]) < frames[:, None]
    weight = (inside / frames[:, None])[..., None]
    mean = (decibels * weight).sum(1)
    variance = ((decibels - mean[:, None]).square() * weight).sum(1)
    return torch.cat([mean, variance.sqrt()], dim=1)


@pytest.mark.parametrize(
    "lengths",
    [
        [1],
        [FRAME],
        [FRAME + HOP - 1, FRAME + HOP],
        [4_800],
        [4_800] * 16,
        [1, 4_800, 24_000, WINDOW // 2, WINDOW - 1, WINDOW],
        [FRAME + HOP * 254, FRAME],
        [WINDOW],
        [WINDOW] * 3,
        *(np.random.default_rng(k).integers(1, WINDOW >> k, 1 + 2 * k).tolist() for k in range(9)),
    ],
)
def test_leaving_the_padding_out_changes_no_bit(mel, lengths):
    windows, valid = noise(len(lengths), sum(lengths)), torch.tensor(lengths)
    windows[torch.arange(WINDOW) >= valid[:, None]] = 0
    got = mel.encode(windows, valid)["statistics"]
    assert torch.equal(got, of_every_frame(mel, windows, valid))


def test_a_short_clip_costs_its_own_frames(mel, monkeypatch):
    rows = []
    rfft = torch.fft.rfft
    monkeypatch.setattr(torch.fft, "rfft", lambda frames: rows.append(len(frames)) or rfft(frames))
    mel.encode(noise(3), torch.tensor([4_800, FRAME, FRAME + HOP]))
    assert rows == [(4_800 - FRAME) // HOP + 1 + 1 + 2]


def test_silence_and_the_shortest_clip_are_finite(mel):
    windows = torch.zeros(2, WINDOW)
    windows[1, : mel.spec.audio.min_clip] = 0.5
    got = mel.encode(windows, torch.tensor([WINDOW, mel.spec.audio.min_clip]))["statistics"]
    assert torch.isfinite(got).all()


def test_one_clip_or_many_gives_the_same(mel):
    windows, valid = noise(3), torch.full((3,), WINDOW)
    together = mel.encode(windows, valid)["statistics"]
    alone = torch.cat([mel.encode(w[None], valid[:1])["statistics"] for w in windows])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-6)


def test_no_band_is_silent():
    filters = mel_filters(SAMPLE_RATE, FRAME, 128)
    torch.testing.assert_close(filters.sum(0), torch.ones(128))


def test_a_pure_tone_lights_its_band(mel):
    time = torch.arange(WINDOW) / SAMPLE_RATE
    tone = 0.5 * torch.sin(2 * torch.pi * 3000 * time)[None]
    means = mel.encode(tone, torch.tensor([WINDOW]))["statistics"][0, :128]
    center = (
        (mel_filters(SAMPLE_RATE, FRAME, 128)[:, means.argmax()]).argmax() * SAMPLE_RATE / FRAME
    )
    assert abs(float(center) - 3000) < 100


def test_takes_the_rate_policy_and_no_checkpoint():
    assert (
        load_encoder("mel", EncoderOptions(rate_policy="as-is")).spec.audio.rate_policy == "as-is"
    )
    with pytest.raises(QamroError, match="mel takes no checkpoint"):
        load_encoder("mel", EncoderOptions(checkpoint="x.pt"))
