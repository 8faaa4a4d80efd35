"""Files to windows: against one-shot decoding and resampling, and on broken files."""

import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
import torchaudio

from qamro_cache.audio import sound
from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.audio.resample import make_resampler
from qamro_cache.errors import ClipError
from qamro_cache.identity import AudioPolicy

POLICY = AudioPolicy(sample_rate=16000, window=16000, hop=16000, tail="pad")


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((int(seconds * rate), channels)) * 0.1).astype(np.float32)


def decoded(path: Path, policy: AudioPolicy = POLICY) -> np.ndarray:
    """The clip's audio, put together again from windows that do not overlap."""
    windows = list(ClipDecoder(path, policy).windows())
    return np.concatenate([window.samples[: window.valid] for window in windows])


def code_of(path: Path, policy: AudioPolicy = POLICY) -> str:
    with pytest.raises(ClipError) as caught:
        list(ClipDecoder(path, policy).windows())
    assert "\n" not in caught.value.reason
    return caught.value.code


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("quality", ["HQ", "VHQ"])
def test_soxr_in_blocks_equals_soxr_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, quality: str
) -> None:
    monkeypatch.setattr(sound, "BLOCK", 10_007)
    audio = noise(2.3, rate)
    soundfile.write(tmp_path / "a.wav", audio, rate, subtype="FLOAT")
    found = decoded(tmp_path / "a.wav", replace(POLICY, resampler=f"soxr-{quality}"))
    expected = soxr.resample(audio[:, 0], rate, 16000, quality=quality) if rate != 16000 else audio
    np.testing.assert_allclose(found, expected.reshape(-1), atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("block", [977, 30_011, 1 << 20])
def test_torchaudio_in_blocks_equals_torchaudio_at_once(rate: int, block: int) -> None:
    audio = noise(2.3, rate)[:, 0]
    resampler = make_resampler("torchaudio-sinc-hann-6", rate, 16000)
    found = [resampler.push(audio[i : i + block]) for i in range(0, len(audio), block)]
    found.append(resampler.push(np.zeros(0, np.float32), last=True))
    expected = torchaudio.functional.resample(torch.from_numpy(audio), rate, 16000).numpy()
    joined = np.concatenate(found)
    assert joined.shape == expected.shape
    np.testing.assert_allclose(joined, expected, atol=2e-7)


def test_torchaudio_of_very_short_clips() -> None:
    for size in (1, 2, 100, 441, 442, 1000):
        audio = noise(1, 44100)[:size, 0]
        resampler = make_resampler("torchaudio-sinc-hann-6", 44100, 16000)
        found = np.concatenate([resampler.push(audio), resampler.push(audio[:0], last=True)])
        expected = torchaudio.functional.resample(torch.from_numpy(audio), 44100, 16000).numpy()
        np.testing.assert_allclose(found, expected, atol=2e-7)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_formats(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, noise(1.5, 16000), 16000)
    expected = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_allclose(decoded(path), expected, atol=1e-7)
    np.testing.assert_array_equal(decoded(path), decoded(path))


def test_channels_are_averaged_and_the_bytes_hashed(tmp_path: Path) -> None:
    audio = noise(1.5, 16000, 3)
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    np.testing.assert_allclose(decoded(tmp_path / "a.wav"), audio.mean(1), atol=1e-7)
    clip = ClipDecoder(tmp_path / "a.wav", POLICY)
    list(clip.windows())
    data = (tmp_path / "a.wav").read_bytes()
    assert clip.sha256 == hashlib.sha256(data).hexdigest()
    assert (clip.nbytes, clip.duration) == (len(data), 1.5)


def test_as_is_feeds_the_samples_unchanged(tmp_path: Path) -> None:
    audio = noise(1.5, 8000)
    soundfile.write(tmp_path / "a.wav", audio, 8000, subtype="FLOAT")
    found = decoded(tmp_path / "a.wav", replace(POLICY, rate_policy="as-is"))
    np.testing.assert_array_equal(found, audio[:, 0])


def test_int16_truncates_towards_zero_and_clips(tmp_path: Path) -> None:
    audio = np.array([0.99999, -0.99999, 1.7, -1.7, 1.9 / 32767, -1.9 / 32767], np.float32)
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    found = decoded(tmp_path / "a.wav", replace(POLICY, int16=True))
    np.testing.assert_array_equal(np.rint(found * 32767), [32766, -32766, 32767, -32767, 1, -1])
    exact = decoded(tmp_path / "a.wav", replace(POLICY, int16=False))
    np.testing.assert_array_equal(exact, audio)


def test_what_can_be_wrong_with_a_file(tmp_path: Path) -> None:
    good = noise(1, 16000)
    (tmp_path / "text.wav").write_text("not audio at all\n" * 100)
    (tmp_path / "zero.wav").write_bytes(b"")
    soundfile.write(tmp_path / "empty.wav", good[:0], 16000)
    bad = good.copy()
    bad[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", good[:50], 16000)
    soundfile.write(tmp_path / "good.flac", good, 16000)
    data = (tmp_path / "good.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    expected = {
        "none.wav": "missing",
        "text.wav": "unreadable",
        "zero.wav": "empty",
        "empty.wav": "empty",
        "nan.wav": "not-finite",
        "short.wav": "too-short",
        "cut.flac": "unreadable",
        "folder.wav": "unreadable",
        "pipe.wav": "unreadable",
        "a\0b.wav": "unreadable",
    }
    policy = replace(POLICY, min_clip=100)
    assert {name: code_of(tmp_path / name, policy) for name in expected} == expected


def test_the_format_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(200))
    (tmp_path / "b.xyz").write_bytes(b"no sound at all" * 20)
    for name, said in (
        ("a.wav", "a.wav is MP4 .AAC or ALAC., which cannot be read here; convert with: ffmpeg"),
        ("b.xyz", r"b.xyz .xyz. is not audio that can be read here .Format not recognised.;"),
    ):
        with pytest.raises(ClipError, match=said):
            list(ClipDecoder(tmp_path / name, POLICY).windows())


def test_a_file_that_changes_while_it_is_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(3, 16000), 16000)
    windows = ClipDecoder(path, POLICY).windows()
    next(windows)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ClipError) as caught:
        list(windows)
    assert caught.value.code == "changed"


def test_an_implausible_rate_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "slow.wav", noise(1, 16000), 2)
    assert code_of(tmp_path / "slow.wav") == "unreadable"
    soundfile.write(tmp_path / "odd.wav", noise(1, 16000), 44101)
    policy = replace(POLICY, resampler="torchaudio-sinc-hann-6")
    assert code_of(tmp_path / "odd.wav", policy) == "unreadable"


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_refused_or_read_never_worse(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for kind in ("wav", "flac", "ogg", "mp3"):
        path = tmp_path / f"a.{kind}"
        soundfile.write(path, noise(0.3, 16000, 2), 16000)
        whole = path.read_bytes()
        for _ in range(20):
            data = bytearray(whole)
            for place in rng.integers(0, min(len(data), 400), 8):
                data[place] = rng.integers(256)
            path.write_bytes(data[: rng.integers(1, len(data) + 1)])
            with suppress(ClipError):
                for window in ClipDecoder(path, POLICY).windows():
                    assert np.isfinite(window.samples).all()


def test_a_long_file_is_never_in_memory_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 96000, 1) as file:
        block = np.zeros(96000 * 60, np.float32)
        for _ in range(20):
            file.write(block)
    # These are 460 MB of samples; the child may take 100 MB more than it has at the start.
    script = """
import resource, sys
import numpy, soundfile, soxr
from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.identity import AudioPolicy
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
policy = AudioPolicy(16000, 160000, 160000, resampler="soxr-LQ")
count = sum(1 for _ in ClipDecoder(sys.argv[1], policy).windows())
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    out = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    count, kilobytes = map(int, out.stdout.split())
    assert count == 120
    assert kilobytes < 100_000
