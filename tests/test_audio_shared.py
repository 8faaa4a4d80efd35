"""One decoding for several readers: the same windows, whoever is ahead, in bounded memory."""

import threading
from collections import Counter
from dataclasses import replace

import fake_encoder
import numpy as np
import pandas as pd
import pytest
import soundfile

from qamro_cache.audio import shared, sound
from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.audio.shared import SharedSound, SharedSounds
from qamro_cache.cache.reader import open_cache
from qamro_cache.encoders import mel, registry
from qamro_cache.errors import ClipError, QamroError
from qamro_cache.experiments.train import train
from qamro_cache.extraction.extract import extract
from qamro_cache.extraction.pipeline import Pipeline
from qamro_cache.identity import AudioPolicy
from qamro_cache.scoring.predict import predict

POLICIES = (
    AudioPolicy(16000, 16000, 16000, tail="pad"),
    AudioPolicy(24000, 30000, 10000, resampler="soxr-HQ", int16=True),
    AudioPolicy(16000, 8000, 8000, rate_policy="as-is"),
)
FACTS = ("sha256", "samples_sha256", "nbytes", "mtime_ns", "duration", "peak", "mixed_peak")


@pytest.fixture
def decodings(monkeypatch):
    """How often each file is decoded from its start."""
    counts: Counter[str] = Counter()
    real = sound.Sound.blocks

    def counted(self):
        counts[self.path.name] += 1
        return real(self)

    monkeypatch.setattr(sound.Sound, "blocks", counted)
    return counts


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sound, "BLOCK", 5000)
    noise = np.random.default_rng(0).standard_normal((66_150, 2)) * 0.1
    soundfile.write(tmp_path / "a.wav", noise, 22050)
    return tmp_path / "a.wav"


def same(ours, windows, path, policy):
    alone = ClipDecoder(path, policy)
    for one, other in zip(windows, alone.windows(), strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)
        assert (one.start, one.valid) == (other.start, other.valid)
    assert [getattr(ours, name) for name in FACTS] == [getattr(alone, name) for name in FACTS]
    np.testing.assert_array_equal(ours.fingerprint, alone.fingerprint)


@pytest.mark.parametrize("longest", [1 << 20, 50_000, 1])
@pytest.mark.parametrize("order", ["one after the other", "in turn", "threads"])
def test_every_reader_gets_what_it_would_get_alone(file, monkeypatch, decodings, longest, order):
    monkeypatch.setattr(shared, "LONGEST", longest)
    whole = SharedSound(file)
    readers = [ClipDecoder(file, policy, whole) for policy in POLICIES]
    found = [[] for _ in readers]
    if order == "one after the other":
        for reader, windows in zip(readers, found, strict=True):
            windows += reader.windows()
    elif order == "in turn":
        streams = [reader.windows() for reader in readers]
        for _ in range(100):
            for stream, windows in zip(streams, found, strict=True):
                windows += [one for one in [next(stream, None)] if one is not None]
    else:
        threads = [
            threading.Thread(target=lambda r=reader, w=windows: w.extend(r.windows()))
            for reader, windows in zip(readers, found, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    times = decodings["a.wav"]
    assert times == 1 if longest == 1 << 20 else times > 1
    for one, windows, policy in zip(readers, found, POLICIES, strict=True):
        same(one, windows, file, policy)


def test_every_reader_is_told_of_a_damaged_file(file, decodings):
    file.write_bytes(file.read_bytes()[:-70_000])
    whole = SharedSound(file)
    for policy in POLICIES[:2]:
        with pytest.raises(ClipError, match="ends after") as said:
            list(ClipDecoder(file, policy, whole).windows())
        assert said.value.code == "unreadable"
    assert decodings["a.wav"] == 1


def test_files_are_forgotten_when_all_have_read_them_or_too_much_waits(file, monkeypatch):
    sounds = SharedSounds(2)
    first = sounds.take("a")
    assert sounds.take("b") is not first
    assert sounds.take("a") is first
    assert sounds.take("a") is not first
    monkeypatch.setattr(shared, "MOST", 100_000)
    long = sounds.take(str(file))
    list(ClipDecoder(file, POLICIES[0], long).windows())
    sounds.take("c")
    assert sounds.take(str(file)) is not long


@pytest.fixture
def two_encoders(tmp_path, monkeypatch):
    """A head of two encoders, and a folder of other clips."""
    other = replace(fake_encoder.SPEC, audio=AudioPolicy(24000, 9600, 9600, min_clip=160))
    info = replace(fake_encoder.INFO, load=lambda a, o, d: fake_encoder.FakeEncoder(other))
    monkeypatch.setattr(registry, "list_encoders", lambda: [mel.INFO, info])
    for name, count in (("old", 12), ("new", 20)):
        (tmp_path / name).mkdir()
        for k in range(count):
            noise = np.random.default_rng([k, count]).standard_normal(14_000 + 500 * k) * 0.05
            soundfile.write(tmp_path / name / f"{k:02d}.wav", noise, 16000)
    table = pd.DataFrame({"path": [f"{k:02d}.wav" for k in range(12)], "quality": np.arange(12.0)})
    table.assign(clip_id=table["path"]).to_csv(tmp_path / "old" / "m.csv", index=False)
    caches = [tmp_path / "mel.h5", tmp_path / "fake.h5"]
    for name, cache in zip(("mel", "fake"), caches, strict=True):
        extract(None, cache, name, manifest=tmp_path / "old" / "m.csv")
    train(caches, tmp_path / "run", feature="mel.statistics + fake.embedding", head="ridge", cv="3")
    return tmp_path


def test_a_prediction_decodes_each_file_once(two_encoders, decodings):
    (two_encoders / "new" / "07.wav").write_bytes(b"no sound")
    found = predict(two_encoders / "run", audio=two_encoders / "new").set_index("clip_id")
    assert decodings == {f"{k:02d}.wav": 1 for k in range(20)}
    assert found["prediction"].notna().sum() == 19
    assert found["reason"]["07.wav"]
    caches = [two_encoders / "new-mel.h5", two_encoders / "new-fake.h5"]
    table = pd.DataFrame({"path": [f"{k:02d}.wav" for k in range(20)]})
    table.assign(clip_id=table["path"]).to_csv(two_encoders / "new" / "m.csv", index=False)
    for name, cache in zip(("mel", "fake"), caches, strict=True):
        extract(None, cache, name, manifest=two_encoders / "new" / "m.csv")
    alone = predict(two_encoders / "run", caches).set_index("clip_id").loc[found.index]
    np.testing.assert_array_equal(found["prediction"], alone["prediction"])
    assert found["reason"].tolist() == alone["reason"].tolist()


def test_a_prediction_that_stops_goes_on_with_each_encoder(two_encoders, decodings, monkeypatch):
    """One encoder fails on the way: what both have finished is not encoded again."""
    real, batches = Pipeline._encode_batch, []

    def failing(self, batch):
        batches.append(self.encoder.spec.name)
        if batches.count("fake") > 4:
            raise QamroError("no more")
        return real(self, batch)

    out = two_encoders / "out.csv"
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "_encode_batch", failing)
        with pytest.raises(QamroError, match="no more"):
            predict(two_encoders / "run", audio=two_encoders / "new", out=out)
    decodings.clear()
    table = predict(two_encoders / "run", audio=two_encoders / "new", out=out)
    assert table["prediction"].notna().all()
    assert 0 < len(decodings) < 20
    assert not list(two_encoders.glob("out.csv.emb*"))
    assert open_cache(two_encoders / "mel.h5")
