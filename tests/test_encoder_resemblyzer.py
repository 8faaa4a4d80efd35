"""Resemblyzer against its own package, with its real weights."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.encoders import resemblyzer, upstream
from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.encoders.resemblyzer import SAMPLE_RATE, WINDOW
from qamro_cache.encoders.upstream_packages import UPSTREAMS
from qamro_cache.errors import QamroError

here = pytest.mark.skipif(resemblyzer.weights_file() is None, reason="resemblyzer's weights")


@pytest.fixture(scope="module")
def ours():
    return load_encoder("resemblyzer")


@pytest.fixture(scope="module")
def package():
    """Upstream's own modules; they need webrtcvad or webrtcvad-wheels, and librosa."""
    pytest.importorskip("webrtcvad")
    pytest.importorskip("librosa")
    return pytest.importorskip("resemblyzer")


def sound(seconds: float, level: float = 0.1) -> np.ndarray:
    """Seeded noise under a rising tone: synthetic."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(0).standard_normal(len(time))
    tone = np.sin(2 * np.pi * (150 + 40 * time) * time)
    return (level * (tone + 0.2 * noise)).astype(np.float32)


def encoded(encoder, *clips: np.ndarray) -> dict[str, torch.Tensor]:
    windows = torch.zeros(len(clips), WINDOW)
    for row, clip in enumerate(clips):
        windows[row, : len(clip)] = torch.from_numpy(clip)
    return encoder.encode(windows, torch.tensor([len(clip) for clip in clips]))


def theirs(package, clip: np.ndarray) -> dict[str, torch.Tensor]:
    """What upstream's own functions make of a whole clip at 16 kHz, silence left in."""
    raised = package.audio.normalize_volume(clip, -30, increase_only=True)
    mels = torch.from_numpy(package.audio.wav_to_mel_spectrogram(raised))[None]
    network = package.VoiceEncoder("cpu", verbose=False)
    with torch.no_grad():
        states = network.lstm(mels)[0].double()
        mean, std = states.mean(1), states.std(1, correction=0)
        return {"states": torch.cat([mean, std, states[:, -1]], 1), "embedding": network(mels)}


def assert_equal(got, expected):
    assert got.keys() == expected.keys() == {"states", "embedding"}
    for name, value in expected.items():
        torch.testing.assert_close(got[name].double(), value.double(), atol=1e-5, rtol=0)


@here
def test_equals_upstream_on_real_audio(ours, package, shared_data: Path):
    import librosa

    songs = sorted((shared_data / "cvssp-separation" / "site" / "sounds").glob("*/*.flac"))
    speech = sorted((shared_data / "codec-mushra" / "audio").glob("*/*.flac"))
    for file in [*songs[::40], *speech[::30]]:
        (window,) = ClipDecoder(file, ours.spec.audio).windows()
        samples, rate = librosa.load(file, sr=None)
        clip = librosa.resample(samples, orig_sr=rate, target_sr=SAMPLE_RATE)
        assert np.array_equal(window.samples[: window.valid], clip)
        assert_equal(encoded(ours, clip), theirs(package, clip))


@here
@pytest.mark.parametrize("seconds", [0.1, 1.0, 2.003])
@pytest.mark.parametrize("level", [0.3, 0.001])
def test_equals_upstream_at_short_lengths_and_levels(ours, package, seconds, level):
    clip = sound(seconds, level)
    assert_equal(encoded(ours, clip), theirs(package, clip))


@here
def test_equals_upstream_on_a_minute_of_speech(ours, package, shared_data: Path):
    files = sorted((shared_data / "codec-mushra" / "audio").glob("*/ref.flac"))
    cut = [next(iter(ClipDecoder(file, ours.spec.audio).windows())) for file in files]
    speech = np.concatenate([window.samples[: window.valid] for window in cut] * 3)[:WINDOW]
    assert len(speech) == WINDOW
    assert_equal(encoded(ours, speech), theirs(package, speech))


@here
def test_no_bit_depends_on_the_batch_or_on_what_is_behind_the_audio(ours):
    clips = [sound(3), sound(1, 0.001), sound(0.5), sound(2.7)]
    together = encoded(ours, *clips)
    for row, clip in enumerate(clips):
        for name, value in encoded(ours, clip).items():
            assert torch.equal(value[0], together[name][row])
    behind = torch.ones(1, WINDOW)
    behind[0, : len(clips[0])] = torch.from_numpy(clips[0])
    again = ours.encode(behind, torch.tensor([len(clips[0])]))
    assert torch.equal(again["states"][0], together["states"][0])


@here
def test_batches_of_several_as_on_a_gpu(ours, monkeypatch):
    """The way of a GPU, on the CPU: clips of all lengths at once agree with one by one."""
    clips = [sound(3), sound(1, 0.001), sound(0.5)]
    alone = encoded(ours, *clips)
    windows = torch.zeros(3, WINDOW)
    for row, clip in enumerate(clips):
        windows[row, : len(clip)] = torch.from_numpy(clip)
    with torch.inference_mode():
        together = ours._encode(windows, torch.tensor([len(clip) for clip in clips]))
    assert_equal(together, alone)


@here
def test_silence_is_finite_and_a_loud_clip_is_left_as_it_is(ours):
    silent = encoded(ours, np.zeros(SAMPLE_RATE, np.float32))
    assert all(torch.isfinite(value).all() for value in silent.values())
    # Below -30 dBFS the level is no feature; above it is.
    quiet, quieter = encoded(ours, sound(1, 0.01)), encoded(ours, sound(1, 0.001))
    torch.testing.assert_close(quiet["states"], quieter["states"], atol=1e-4, rtol=0)
    loud, louder = encoded(ours, sound(1, 0.1)), encoded(ours, sound(1, 0.4))
    assert (loud["states"] - louder["states"]).abs().max() > 0.01


@here
def test_files_short_long_and_stereo(ours, tmp_path):
    rate = 22_050
    draw = np.random.default_rng(1)
    for name, seconds, windows in (("a", 1.0, 1), ("b", 60.0, 1), ("c", 90.0, 2)):
        mono = (0.1 * draw.standard_normal(round(seconds * rate))).astype(np.float32)
        soundfile.write(tmp_path / f"{name}.wav", mono, rate, subtype="FLOAT")
        stereo = np.stack([1.5 * mono, 0.5 * mono], 1)
        soundfile.write(tmp_path / f"{name}2.wav", stereo, rate, subtype="FLOAT")
        cut, mixed = (
            list(ClipDecoder(tmp_path / file, ours.spec.audio).windows())
            for file in (f"{name}.wav", f"{name}2.wav")
        )
        assert len(cut) == len(mixed) == windows
        assert sum(window.valid for window in cut) == seconds * SAMPLE_RATE
        np.testing.assert_allclose(cut[-1].samples, mixed[-1].samples, atol=1e-6)


@here
def test_the_identity_is_of_these_weights(ours):
    assert ours.spec.checkpoint_sha256 == (
        "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
    )
    assert dict(ours.spec.features) == {"states": (768,), "embedding": (256,)}
    as_is = load_encoder("resemblyzer", EncoderOptions(rate_policy="as-is"))
    assert as_is.spec == replace(ours.spec, audio=replace(ours.spec.audio, rate_policy="as-is"))
    assert not any(p.requires_grad for p in ours.network.parameters())
    with pytest.raises(QamroError, match="resemblyzer takes no precision"):
        load_encoder("resemblyzer", EncoderOptions(precision="float16"))


@here
def test_it_needs_nothing_that_its_package_imports():
    """Neither webrtcvad nor librosa, nor the package's own modules."""
    code = (
        "import sys; names = ('webrtcvad', 'librosa', 'resemblyzer.audio'); "
        "sys.modules.update(dict.fromkeys(names)); "
        "from qamro_cache.encoders.registry import load_encoder; load_encoder('resemblyzer'); "
        "assert 'resemblyzer' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_missing_names_the_package_that_needs_no_compiler(monkeypatch):
    monkeypatch.setattr(resemblyzer, "find_spec", lambda name: None)
    with pytest.raises(QamroError) as error:
        load_encoder("resemblyzer")
    assert str(error.value).startswith(
        "encoder resemblyzer is not ready: package resemblyzer, with its weights, is not "
        "installed; run: pip install webrtcvad-wheels && pip install --no-deps Resemblyzer"
    )


@here
def test_the_doctor_holds_it_against_its_package(ours, package, tmp_path, monkeypatch):
    monkeypatch.setattr(upstream, "SOUNDS", ((0.3, 0), (0.6, 44_100), (0.12, 8_000)))
    files = upstream.write_sounds(tmp_path, ours)
    judged = UPSTREAMS["resemblyzer"].features(files, ours, EncoderOptions())
    assert set(judged) == {"waveform", "states", "embedding"}
    assert upstream.judge(upstream.ours(files, ours, "cpu"), judged, 1e-4)[0]
    spec = replace(ours.spec, audio=replace(ours.spec.audio, resampler="soxr-LQ"))
    monkeypatch.setattr(ours, "spec", spec)
    assert not upstream.judge(upstream.ours(files, ours, "cpu"), judged, 1e-4)[0]


@here
def test_extracted_by_the_command(tmp_path, package):
    from cli.extract import main
    from qamro_cache.cache.reader import open_cache

    rows = ["path,quality"]
    for index, seconds in enumerate((0.5, 1.5)):
        soundfile.write(tmp_path / f"{index}.wav", sound(seconds), SAMPLE_RATE, subtype="FLOAT")
        rows.append(f"{index}.wav,{index + 1}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    out = tmp_path / "emb.h5"
    done = CliRunner().invoke(
        main, ["--manifest", str(tmp_path / "clips.csv"), "--encoder", "resemblyzer",
               "--scale", "quality=1:5", "--device", "cpu", "--out", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    states = open_cache(out).read("states")[0]
    for row, seconds in enumerate((0.5, 1.5)):
        expected = theirs(package, sound(seconds))["states"][0].float()
        torch.testing.assert_close(torch.as_tensor(states[row]), expected, atol=1e-5, rtol=0)
