"""Peaks, the hash of the samples, and levels that no listener rated."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from audio_files import RATE, encoded, noise
from fake_encoder import FakeEncoder

from qamro_cache.audio.check import look_at, oddity_of
from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.audio.endings import AUDIO_ENDINGS, OTHER_ENDINGS, find_audio
from qamro_cache.cache.content import clip_table
from qamro_cache.datasets.checks import check_dataset
from qamro_cache.datasets.records import Dataset, labels_from_means
from qamro_cache.errors import ClipError
from qamro_cache.extraction.extract import extract
from qamro_cache.extraction.stats import Stats
from qamro_cache.identity import AudioPolicy
from qamro_cache.scoring.folder import clips_of_folder

POLICY = AudioPolicy(8000, 8000, 8000)


def through(path: Path, policy: AudioPolicy = POLICY) -> ClipDecoder:
    decoder = ClipDecoder(path, policy)
    list(decoder.windows())
    return decoder


def wave(path: Path, sound: np.ndarray, subtype: str = "FLOAT", rate: int = RATE) -> Path:
    soundfile.write(path, sound, rate, subtype, format="WAV")
    return path


def test_the_peak_is_of_all_channels(tmp_path: Path) -> None:
    sound = noise()
    sound[7, 1] = -1.75
    found = through(wave(tmp_path / "a.wav", sound))
    assert found.peak == 1.75
    assert found.mixed_peak == np.abs(sound.mean(axis=1)).max()
    found = through(wave(tmp_path / "a.wav", noise(channels=1)))
    assert found.peak == found.mixed_peak == np.abs(noise(channels=1)).max()


def test_equal_sound_has_the_same_hash_in_every_container(tmp_path: Path) -> None:
    sound = (noise() * 32767).astype(np.int16)
    hashes = set()
    for kind in ("wav", "wav-float", "rf64", "w64", "aiff", "au", "caf", "flac"):
        path = tmp_path / kind
        path.write_bytes(encoded(sound / np.float32(32768), kind))
        # Neither the encoder's rate nor its resampler matters.
        hashes.add(through(path).samples_sha256)
        hashes.add(through(path, AudioPolicy(24000, 24000, 24000)).samples_sha256)
    interleaved = (sound / np.float32(32768)).astype("<f4").tobytes()
    assert hashes == {hashlib.sha256(interleaved).hexdigest()}
    sound[-1, -1] += 1
    assert through(wave(tmp_path / "b.wav", sound, "PCM_16")).samples_sha256 not in hashes


def test_what_is_odd_about_a_level() -> None:
    assert oddity_of(0.0, 0.0) == oddity_of(1e-6, 1e-6) == "silent"
    assert oddity_of(0.5, 0.0) == oddity_of(0.5, 4e-4) == "canceled"
    assert oddity_of(200.0, 150.0) == "beyond-full-scale"
    # The smallest step of 16 bits, a quiet clip, one channel of many, a loud clip.
    for level in ((2.0**-15, 2.0**-15), (1e-3, 1e-3), (0.5, 0.5 / 8), (3.0, 3.0)):
        assert oddity_of(*level) is None


@pytest.fixture
def odd(tmp_path: Path) -> Dataset:
    sound = noise(channels=1)
    late = np.concatenate([np.zeros((3 * RATE, 1), np.float32), sound])
    clips = {
        "good": (sound, "FLOAT"),
        "late": (late, "FLOAT"),
        "zeros": (0 * sound, "PCM_16"),
        "zeros2": (0 * sound, "FLOAT"),
        "zeros3": (0 * sound, "FLOAT"),
        "zeros4": (0 * sound, "FLOAT"),
        "opposite": (np.hstack([sound, -sound]), "PCM_16"),
        "int16": (sound * 32768, "FLOAT"),
    }
    for name, (samples, subtype) in clips.items():
        wave(tmp_path / f"{name}.wav", samples, subtype)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:-4000])
    names = [*clips, "cut"]
    paths = [str(tmp_path / f"{name}.wav") for name in names]
    table = clip_table(pd.DataFrame({"clip_id": names, "path": paths}))
    return Dataset("odd", table, labels_from_means((), np.empty((len(names), 0))))


SAID = [
    "4 clips are digital silence: zeros, zeros2, zeros3, ...",
    "1 clips have channels in opposite phase, which cancel out in their mean: opposite",
    "1 clips have a peak beyond 100, where full scale is 1; divide float samples in 16-bit units "
    "by 32768: int16",
]


def test_an_extraction_says_which_clips_are_odd_and_keeps_them(
    odd: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        summary = extract(odd, tmp_path / "emb.h5", FakeEncoder(), workers=3, batch_size=2)
    assert [record.getMessage() for record in caplog.records] == SAID
    assert summary.failed == {"unreadable": 1}
    assert summary.record()["odd_levels"] == {"silent": 4, "canceled": 1, "beyond-full-scale": 1}


def test_the_dry_run_says_the_same(odd: Dataset) -> None:
    problems = {p["code"]: p["message"] for p in check_dataset(odd)["problems"]}
    codes = ("silent-audio", "canceled-audio", "beyond-full-scale-audio")
    assert [problems[code] for code in codes] == SAID
    assert "(unreadable 1)" in problems["unreadable-audio"]
    assert "cut.wav ends after 1." in problems["unreadable-audio"]


def test_other_processes_add_what_they_saw() -> None:
    stats, other = Stats(), Stats()
    stats.count_odd("silent", ["a"])
    for name in "bcde":
        other.count_odd("silent", [name])
    other.count_odd("canceled", ["f"])
    stats.merge(other)
    assert stats.odd == {"silent": (5, ["a", "b", "c"]), "canceled": (1, ["f"])}


def test_the_look_stops_where_there_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wave(tmp_path / "a.wav", noise(20 * RATE, 1))
    read, frames = soundfile.SoundFile.read, []

    def counted(self: soundfile.SoundFile, *args: object, **kwargs: object) -> np.ndarray:
        block = read(self, *args, **kwargs)
        frames.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    assert look_at(path) is None
    assert sum(frames) < 5 * RATE


def test_every_ending_that_is_listed_can_be_read(tmp_path: Path) -> None:
    formats = {"oga": "OGG", "opus": "OGG", "aif": "AIFF", "aifc": "AIFF", "snd": "AU"}
    for ending in AUDIO_ENDINGS:
        name = ending[1:]
        if name == "mp2":  # libsndfile reads it, but does not write it
            continue
        path = tmp_path / f"a{ending}"
        soundfile.write(path, noise(), RATE, format=formats.get(name, name.upper()))
        assert through(path).peak > 0.1
    assert not set(AUDIO_ENDINGS) & set(OTHER_ENDINGS)


def test_a_folder_is_searched_but_not_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b.wav", "a.FLAC", "deep/c.w64", "._b.wav", ".git/d.wav", "e.m4a", "f.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "folder.wav").mkdir()
    found, others = find_audio(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a.FLAC", "b.wav", "deep/c.w64"]
    assert others == [tmp_path / "e.m4a"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.wav").touch()
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "above").symlink_to(tmp_path / "audio")
    found, _ = find_audio(tmp_path / "audio")
    assert found == [tmp_path / "audio" / "link" / "a.wav"]
    # A link that leads nowhere, or round, is no clip without a word.
    (tmp_path / "audio" / "broken.wav").symlink_to("nowhere")
    (tmp_path / "audio" / "round.wav").symlink_to("round.wav")
    clips = clips_of_folder(tmp_path / "audio").clips
    assert clips["clip_id"].tolist() == ["broken.wav", "link/a.wav", "round.wav"]
    for path, code in zip(clips["path"], ("missing", "empty", "unreadable"), strict=True):
        with pytest.raises(ClipError) as caught:
            look_at(Path(path))
        assert caught.value.code == code
    for name in ("broken.wav", "round.wav"):
        (tmp_path / "audio" / name).unlink()
    # A link beside its folder, whatever the two are called, makes no clip twice.
    (tmp_path / "aaa").symlink_to(tmp_path / "real")
    (tmp_path / "zzz").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "above").unlink()
    found, _ = find_audio(tmp_path)
    assert found == [tmp_path / "real" / "a.wav"]
