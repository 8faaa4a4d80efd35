"""Distill-MOS against its own package, with its real weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("distillmos")

from qamro_cache.encoders.distillmos import SAMPLE_RATE, WINDOW
from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.errors import QamroError


@pytest.fixture(scope="module")
def ours():
    return load_encoder("distillmos")


@pytest.fixture(scope="module")
def upstream():
    import distillmos

    return distillmos.ConvTransformerSQAModel().eval()


def sounds(rows: int) -> torch.Tensor:
    """Seeded noise bursts and tones of different levels [rows, WINDOW]: synthetic."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(WINDOW) / SAMPLE_RATE
    tones = torch.sin(2 * torch.pi * (200 + 150 * torch.arange(rows))[:, None] * time)
    level = 10 ** -torch.rand(rows, 1, generator=generator)
    return level * (0.7 * tones + 0.3 * torch.randn(rows, WINDOW, generator=generator)).clamp(-1, 1)


def test_mos_equals_upstream_on_a_full_window(ours, upstream):
    windows = sounds(3)
    with torch.inference_mode():
        expected = upstream(windows)
    got = ours.encode(windows, torch.full((3,), WINDOW))
    assert got["mos"].shape == (3, 1)
    torch.testing.assert_close(got["mos"], expected, atol=1e-6, rtol=0)


def test_a_short_clip_is_filled_with_zeros_as_upstream_does(ours, upstream):
    clip = sounds(1)[:, :112_000]
    with torch.inference_mode():
        expected = upstream(clip)
    assert ours.spec.audio.padding == "zero"
    window = torch.nn.functional.pad(clip, (0, WINDOW - clip.shape[1]))
    got = ours.encode(window, torch.tensor([112_000]))["mos"]
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_embedding_is_what_the_last_linear_layer_gets(ours, upstream):
    got = ours.encode(sounds(3), torch.full((3,), WINDOW))
    assert got["embedding"].shape == (3, 200)
    with torch.inference_mode():
        score = upstream.transformer_pool_attn.pool.linear3(got["embedding"])
    torch.testing.assert_close(1 + 4 * torch.sigmoid(score), got["mos"])


def test_repeatable_and_the_same_in_any_batch(ours):
    windows, valid = sounds(3), torch.full((3,), WINDOW)
    together = ours.encode(windows, valid)
    again = ours.encode(windows, valid)
    for name, value in together.items():
        assert torch.equal(again[name], value)
        alone = torch.cat([ours.encode(w[None], valid[:1])[name] for w in windows])
        torch.testing.assert_close(alone, value, atol=1e-5, rtol=1e-5)


def test_half_precision_is_near(ours):
    windows, valid = sounds(1), torch.full((1,), WINDOW)
    half = load_encoder("distillmos", EncoderOptions(precision="bfloat16"))
    assert half.spec != ours.spec
    cosine = torch.nn.functional.cosine_similarity(
        half.encode(windows, valid)["embedding"].float(), ours.encode(windows, valid)["embedding"]
    )
    assert cosine.min() > 0.999


def test_frozen_and_in_eval_mode(ours):
    assert not ours.model.training
    assert not any(p.requires_grad for p in ours.model.parameters())
    assert len(ours.spec.checkpoint_sha256) == 64


def test_refuses_what_it_cannot_honor():
    with pytest.raises(QamroError, match="distillmos takes no checkpoint"):
        load_encoder("distillmos", EncoderOptions(checkpoint="mine.pt"))
    with pytest.raises(QamroError, match="tf32 needs a CUDA device"):
        load_encoder("distillmos", EncoderOptions(precision="tf32"))
    with pytest.raises(ValueError, match="precision must be one of auto, float32"):
        EncoderOptions(precision="int8")


def test_loading_prints_nothing(capfd):
    load_encoder("distillmos")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.slow
def test_real_ratings_are_predicted_across_songs(ours, shared_data: Path):
    """Leave-one-song-out ridge on the frozen embedding of real clips with real ratings."""
    import pandas as pd
    from scipy.stats import spearmanr

    from qamro_cache.audio.decode import ClipDecoder

    root = shared_data / "cvssp-separation"
    ratings = pd.read_csv(root / "data" / "ratings.csv")
    ratings = ratings[ratings.experiment == "quality"]
    ratings["file"] = [root / "site" / Path(url).with_suffix(".flac") for url in ratings.url]
    ratings = ratings[[file.is_file() for file in ratings.file]]
    mean = ratings.groupby("file").rating.mean()
    rows = []
    for file in mean.index:
        (window,) = ClipDecoder(file, ours.spec.audio).windows()
        samples, valid = torch.from_numpy(window.samples)[None], torch.tensor([window.valid])
        rows.append(ours.encode(samples, valid)["embedding"][0])
    x, y = torch.stack(rows).double().numpy(), mean.to_numpy()
    song = np.array([file.parent.name for file in mean.index])
    out = np.zeros(len(y))
    for held in np.unique(song):
        train = song != held
        center, scale = x[train].mean(0), x[train].std(0)
        a, b = (x[train] - center) / scale, y[train] - y[train].mean()
        weights = np.linalg.solve(a.T @ a + 100 * np.eye(200), a.T @ b)
        out[~train] = (x[~train] - center) / scale @ weights + y[train].mean()
    assert spearmanr(out, y)[0] > 0.89
