"""Our CLAP against laion_clap 1.1.7's own API: same clips, same weights, same numbers.

The weights are random (tests/clap_reference.py), so an error is stated as a share of the median
distance between different clips; the inputs of the network are compared by themselves; and each
step of the preparation has a test that switches it off and must see the comparison fail.
"""

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("torchlibrosa")  # comes with laion_clap, whose import reaches for a hub
pytest.importorskip("soundfile")

from clap_reference import sound

from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.encoders import htsat
from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.registry import load_encoder

FLOAT32, HALF = 1e-4, 1e-2  # of the median distance between different clips
PROMPTS = ["a slow piano piece", "Heavy metal, 180 bpm!", "naïve synth — ambient", "a", ""]
LENGTHS = (1.0, 3.0, 4.9, 5.1, 7.0, 10.0)  # seconds, at 48 kHz or another rate


@pytest.fixture(scope="module")
def ours(clap_reference):
    options = EncoderOptions(
        checkpoint=str(clap_reference.checkpoint), tokenizer=str(clap_reference.tokenizer)
    )
    return load_encoder("clap", options)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """WAV files of different length, rate and channels, all of at most 10 s."""
    import soundfile

    folder = tmp_path_factory.mktemp("clips")
    rates = (48_000, 16_000, 44_100, 48_000, 22_050, 48_000)
    for seed, (seconds, rate) in enumerate(zip(LENGTHS, rates, strict=True)):
        samples = sound(seed, int(seconds * rate), rate)
        if seed == 3:
            samples = np.stack([samples, sound(99, len(samples), rate)], axis=1)
        soundfile.write(folder / f"{seed}.wav", samples, rate, subtype="FLOAT")
    return sorted(folder.iterdir())


def windows_of(files, policy) -> tuple[torch.Tensor, torch.Tensor]:
    windows = [window for file in files for window in ClipDecoder(file, policy).windows()]
    assert len(windows) == len(files)
    samples = torch.from_numpy(np.stack([window.samples for window in windows]))
    return samples, torch.tensor([window.valid for window in windows])


class Taken:
    """What laion_clap's network was given and gave, gathered by hooks."""

    def __init__(self, module) -> None:
        self.waveform: list[torch.Tensor] = []
        self.logmel: list[torch.Tensor] = []
        self.pooled: list[torch.Tensor] = []
        branch = module.model.audio_branch
        self.hooks = [
            branch.register_forward_pre_hook(lambda _, a: self.waveform.append(a[0]["waveform"])),
            branch.logmel_extractor.register_forward_hook(
                lambda _, a, out: self.logmel.append(out[:, 0])
            ),
            branch.register_forward_hook(lambda _, a, out: self.pooled.append(out["embedding"])),
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


@pytest.fixture(scope="module")
def theirs(clap_reference, files):
    """Embedding, pooled, waveform and log-mel of laion_clap, from its own file API."""
    with torch.inference_mode(), Taken(clap_reference.module) as taken:
        embedding = clap_reference.module.get_audio_embedding_from_filelist([str(f) for f in files])
    return {
        "embedding": torch.from_numpy(embedding),
        "pooled": taken.pooled[0],
        "waveform": taken.waveform[0],
        "logmel": taken.logmel[0],
    }


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error of the first rows, as a share of the median distance between all rows."""
    distance = torch.pdist(expected.double()).median()
    return float((got.double() - expected[: len(got)].double()).norm(dim=1).max() / distance)


def test_waveforms_are_the_same_sample_by_sample(ours, files, theirs):
    windows, _ = windows_of(files, ours.spec.audio)
    assert torch.equal(windows, theirs["waveform"])


def power_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error of a band's power, as a share of its frame's strongest band, from dB.

    In dB itself a band with nothing in it would show the rounding errors of its neighbors.
    """
    got, expected = 10 ** (got.double() / 10), 10 ** (expected.double() / 10)
    return float(((got - expected).abs() / expected.amax(-1, keepdim=True)).max())


SAME_POWER = 2e-5


def test_log_mel_is_the_same(ours, theirs):
    got = ours.network.audio_branch.logmel_extractor(theirs["waveform"])
    assert power_error(got, theirs["logmel"]) < SAME_POWER
    assert (got - theirs["logmel"]).abs().median() < 1e-5  # dB


def test_audio_embeddings_equal_the_file_api(ours, files, theirs):
    got = ours.encode(*windows_of(files, ours.spec.audio))
    for name in ("embedding", "pooled"):
        assert got[name].shape[1:] == ours.spec.features[name]
        assert relative_error(got[name], theirs[name]) < FLOAT32, name


def test_audio_embeddings_equal_the_data_api(clap_reference, ours):
    clips = [sound(seed, length) for seed, length in enumerate((30_000, 200_000, 480_000))]
    with torch.inference_mode():
        expected = clap_reference.module.get_audio_embedding_from_data(clips)
    windows = []
    for clip in clips:
        clip = (np.clip(clip, -1, 1) * 32767.0).astype(np.int16).astype(np.float32) / 32767
        clip = np.tile(clip, 480_000 // len(clip))
        windows.append(np.pad(clip, (0, 480_000 - len(clip))))
    got = ours.encode(torch.from_numpy(np.stack(windows)), torch.full((3,), 480_000))
    assert relative_error(got["embedding"], torch.from_numpy(expected)) < FLOAT32


@pytest.mark.slow
def test_real_clips(clap_reference, ours, shared_data):
    root = shared_data / "cvssp-separation" / "site" / "sounds"
    files = sorted(root.rglob("*.flac"))[::16]
    with torch.inference_mode(), Taken(clap_reference.module) as taken:
        expected = clap_reference.module.get_audio_embedding_from_filelist([str(f) for f in files])
    windows, valid = windows_of(files, ours.spec.audio)
    assert torch.equal(windows, taken.waveform[0])
    got = ours.encode(windows, valid)
    assert relative_error(got["embedding"], torch.from_numpy(expected)) < FLOAT32
    assert relative_error(got["pooled"], taken.pooled[0]) < FLOAT32


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "limit"), [("float16", HALF), ("bfloat16", 10 * HALF)])
def test_half_precision(clap_reference, ours, files, theirs, precision, limit):
    options = EncoderOptions(
        checkpoint=str(clap_reference.checkpoint), tokenizer="none", precision=precision
    )
    half = load_encoder("clap", options)
    got = half.encode(theirs["waveform"][:2], torch.full((2,), 480_000))
    for name in ("embedding", "pooled"):
        assert got[name].dtype == torch.float32
        error = relative_error(got[name], theirs[name])
        print(f"{precision}: {name} {error:.1e}")
        assert error < limit, name


def test_the_tiny_network_too(clap_reference, theirs):
    """HTSAT-tiny, which the general checkpoints of LAION have, against their module."""
    from clap_reference import stir
    from laion_clap.clap_module.htsat import create_htsat_model
    from laion_clap.clap_module.model import CLAPAudioCfp

    config = clap_reference.module.model_cfg["audio_cfg"] | {"model_name": "tiny"}
    torch.manual_seed(0)
    network = create_htsat_model(CLAPAudioCfp(**config)).eval()
    stir(network)
    tiny = htsat.Htsat(htsat.SIZES[0]).eval()
    state = network.state_dict()
    tiny.load_state_dict({name: state[name] for name in tiny.state_dict()})
    tiny.fold()
    windows = theirs["waveform"][:3]
    with torch.inference_mode():
        expected = network({"waveform": windows}, device="cpu")["embedding"]
        assert expected.shape == (3, 768)
        assert relative_error(tiny(windows), expected) < FLOAT32


def test_text_embeddings_equal_theirs(clap_reference, ours):
    long = "very " * 100 + "long"
    with torch.inference_mode():
        expected = torch.from_numpy(clap_reference.module.get_text_embedding([*PROMPTS, long]))
    got = ours.encode_text([*PROMPTS, long])["text"]
    assert got.shape == (6, 512)
    assert relative_error(got, expected) < FLOAT32


def test_any_batch_and_order_gives_the_same(ours, files):
    windows, valid = windows_of(files[:3], ours.spec.audio)
    together = ours.encode(windows, valid)
    again = ours.encode(windows, valid)
    backwards = ours.encode(windows.flip(0), valid.flip(0))
    alone = [ours.encode(windows[i : i + 1], valid[i : i + 1]) for i in range(len(windows))]
    for name, value in together.items():
        assert torch.equal(again[name], value)
        torch.testing.assert_close(backwards[name].flip(0), value, atol=1e-5, rtol=1e-5)
        singly = torch.cat([one[name] for one in alone])
        torch.testing.assert_close(singly, value, atol=1e-5, rtol=1e-5)


# Each step switched off must be seen.


@pytest.mark.parametrize(
    "change",
    [{"rate_policy": "as-is"}, {"int16": False}, {"padding": "zero"}, {"resampler": "soxr-LQ"}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_audio_policy_is_seen_in_the_waveform(ours, files, theirs, change):
    policy = replace(ours.spec.audio, **change)
    assert not torch.equal(windows_of(files, policy)[0], theirs["waveform"])


def no_reflection(windows, *args, **kwargs):
    return torch_stft(windows, *args, **kwargs | {"pad_mode": "constant"})


def no_taper(windows, *args, **kwargs):
    return torch_stft(windows, *args, **kwargs | {"window": torch.ones(htsat.FRAME)})


def shorter_hop(windows, frame, hop, **kwargs):
    return torch_stft(windows, frame, hop - 1, **kwargs)[..., :1001]


torch_stft = torch.stft


@pytest.mark.parametrize("stft", [no_reflection, no_taper, shorter_hop])
def test_a_changed_spectrum_is_seen_in_the_log_mel(ours, theirs, monkeypatch, stft):
    monkeypatch.setattr(torch, "stft", stft)
    got = ours.network.audio_branch.logmel_extractor(theirs["waveform"])
    assert power_error(got, theirs["logmel"]) > SAME_POWER


def test_another_floor_is_seen_in_the_log_mel(ours, theirs, monkeypatch):
    monkeypatch.setattr(htsat, "POWER_FLOOR", 1e-9)
    got = ours.network.audio_branch.logmel_extractor(theirs["waveform"])
    assert power_error(got, theirs["logmel"]) > SAME_POWER


def without_batch_norm(branch, patch):
    branch.bn0 = torch.nn.Identity()


def with_linear_stretch(branch, patch):
    def linear(x, size, **_):
        return interpolate(x, size, mode="bilinear", align_corners=True)

    interpolate = F.interpolate
    patch.setattr(F, "interpolate", linear)


def with_loose_corners(branch, patch):
    def loose(x, size, **_):
        return interpolate(x, size, mode="bicubic", align_corners=False)

    interpolate = F.interpolate
    patch.setattr(F, "interpolate", loose)


def without_shift(branch, patch):
    branch.layers[0].blocks[1].attn.shift = 0


def without_mask(branch, patch):
    branch.layers[0].blocks[1].attn.mask = None
    branch.fold()


def without_bias(branch, patch):
    branch.layers[2].blocks[3].attn.bias.zero_()


def without_last_norm(branch, patch):
    branch.norm = torch.nn.Identity()


@pytest.mark.parametrize(
    "switch_off",
    [
        without_batch_norm,
        with_linear_stretch,
        with_loose_corners,
        without_shift,
        without_mask,
        without_bias,
        without_last_norm,
    ],
)
def test_a_changed_network_is_seen_in_the_embedding(ours, theirs, monkeypatch, switch_off):
    branch = copy.deepcopy(ours.network.audio_branch)
    windows, expected = theirs["waveform"][:2], theirs["pooled"]
    with torch.inference_mode():
        switch_off(branch, monkeypatch)
        assert relative_error(branch(windows), expected) > FLOAT32


def test_nothing_of_laion_clap_is_imported(clap_reference):
    """Ours works where importing laion_clap would reach for a hub."""
    code = (
        "import sys; sys.modules['laion_clap'] = None\n"
        "from qamro_cache.encoders.registry import load_encoder\n"
        "from qamro_cache.encoders.protocol import EncoderOptions\n"
        f"load_encoder('clap', EncoderOptions(checkpoint={str(clap_reference.checkpoint)!r}, "
        f"tokenizer={str(clap_reference.tokenizer)!r})).encode_text(['a', 'b'])\n"
        "assert not any('clap_module' in name for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
