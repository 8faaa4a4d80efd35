"""Fingerprints: what they hold, what is alike by them, and that caches keep them."""

import numpy as np
import pandas as pd
import pytest
import soundfile

from qamro_cache.audio.alike import ALIKE, SHIFT, SHORTEST, find_alike, similarity
from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.audio.fingerprint import BANDS, FINGERPRINT, FRAMES, VERSION, frames_of
from qamro_cache.cache.edit import relabel_cache
from qamro_cache.cache.merge import merge_caches
from qamro_cache.cache.reader import open_cache
from qamro_cache.extraction.extract import extract
from qamro_cache.identity import AudioPolicy


def sounds(seed, lengths):
    """Fingerprints of made-up sounds that change slowly, as speech does."""
    rng = np.random.default_rng(seed)
    found = []
    for length in lengths:
        walk = rng.standard_normal((length + 12, BANDS)).cumsum(0)
        steps = np.clip(120 + 12 * (walk[12:] - walk[:-12]), 0, 255).astype(np.uint8)
        found.append(np.concatenate([[VERSION], steps.reshape(-1)]).astype(np.uint8))
    return found


def moved(fingerprint, frames, noise, rng):
    """The same sound with a later start, and some noise."""
    steps = frames_of(fingerprint)[frames:] + noise * rng.standard_normal(BANDS)
    steps = np.clip(steps + 3 * rng.standard_normal(steps.shape), 0, 255).astype(np.uint8)
    return np.concatenate([[VERSION], steps.reshape(-1)]).astype(np.uint8)


def naive(one, other):
    """The similarity by its definition, in loops."""

    def heard(frames):
        floor = max(max(row) for row in frames) - 120
        raised = [[max(v, floor) for v in row] for row in frames]
        return [[v - sum(row) / BANDS for v in row] for row in raised]

    x, y = heard(one.tolist()), heard(other.tolist())
    best = -1.0
    for shift in range(-SHIFT, SHIFT + 1):
        a, b = x[max(shift, 0) :], y[max(-shift, 0) :]
        n = min(len(a), len(b))
        if n < SHORTEST:
            continue
        top = bottom = 0.0
        for band in range(BANDS):
            p, q = [row[band] for row in a[:n]], [row[band] for row in b[:n]]
            mean_p, mean_q = sum(p) / n, sum(q) / n
            for u, v in zip(p, q, strict=True):
                top += 2 * (u - mean_p) * (v - mean_q)
                bottom += (u - mean_p) ** 2 + (v - mean_q) ** 2 + (mean_p - mean_q) ** 2
        best = max(best, top / bottom)
    return best


def test_the_similarity_is_its_definition():
    rng = np.random.default_rng(3)
    a, b, c = sounds(0, [60, 75, 50])
    for one, other in ((a, b), (b, c), (a, moved(a, 7, 2, rng)), (moved(b, 20, 5, rng), b)):
        one, other = frames_of(one), frames_of(other)
        assert similarity(one, other) == pytest.approx(naive(one, other), abs=1e-6)
        assert similarity(one, other) == pytest.approx(similarity(other, one), abs=1e-9)
    assert similarity(frames_of(a), frames_of(a)[: SHORTEST - 1]) == -1
    same = np.full((60, BANDS), 90, np.float32)
    assert similarity(same, same) == 0


def test_what_is_alike_is_found_as_by_comparing_every_pair():
    rng = np.random.default_rng(1)
    theirs = sounds(1, rng.integers(70, FRAMES, 30))
    theirs[5], theirs[6] = np.zeros(0, np.uint8), theirs[6] + 0
    theirs[6][0] = VERSION + 1  # of another program
    ours = [*sounds(2, [50, 200, 399, 20])]
    ours += [moved(theirs[k], int(rng.integers(0, 20)), 2, rng) for k in range(10, 25)]
    ours += [theirs[5], theirs[6], theirs[7][: 1 + BANDS * 100]]
    found = find_alike(ours, theirs)
    for row, place in enumerate(found):
        pairs = [
            -1.0 if frames_of(a) is None or frames_of(b) is None
            else similarity(frames_of(a), frames_of(b))
            for a, b in ((ours[row], theirs[k]) for k in range(30))
        ]  # fmt: skip
        assert (place >= 0) == (max(pairs) >= ALIKE), row
        assert place < 0 or pairs[place] >= ALIKE
    assert (found[4:19] == np.arange(10, 25)).all()
    assert found[-1] == 7
    but = find_alike(ours, theirs, lambda rows: np.arange(30) != rows[:, None] + 6)
    assert (but[4:19] == -1).all()
    assert but[-1] == 7


def test_a_fingerprint_is_of_the_file_alone(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    sound = np.cumsum(rng.standard_normal((44100 * 9, 2)), 0) * 0.002
    soundfile.write(tmp_path / "a.wav", sound, 44100)
    policies = [
        AudioPolicy(16000, 16000, 16000),
        AudioPolicy(48000, 480000, 480000, rate_policy="as-is", int16=True),
    ]

    def fingerprint(policy):
        decoder = ClipDecoder(tmp_path / "a.wav", policy)
        list(decoder.windows())
        return decoder.fingerprint

    one = fingerprint(policies[0])
    assert len(one) == 1 + FRAMES * BANDS
    assert one[0] == VERSION
    np.testing.assert_array_equal(fingerprint(policies[1]), one)
    monkeypatch.setattr("qamro_cache.audio.sound.BLOCK", 4097)
    np.testing.assert_array_equal(fingerprint(policies[0]), one)


def test_a_sine_lies_in_its_band_at_its_level(tmp_path):
    for rate in (8000, 22050):
        t = np.arange(2 * rate) / rate
        soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * t), rate, "FLOAT")
        decoder = ClipDecoder(tmp_path / "a.wav", AudioPolicy(16000, 16000, 16000))
        list(decoder.windows())
        frames = frames_of(decoder.fingerprint)[3:-3]
        mel = 2595 * np.log10(1 + np.array([100, 1000, 3800]) / 700)
        place = (mel[1] - mel[0]) / (mel[2] - mel[0]) * (BANDS + 1) - 1
        assert (abs(frames.argmax(1) - place) <= 1).all()
        # 0.5 is -6 dB; a band's filter has the sum 1, so it spreads a line over its width.
        assert (np.ptp(frames, axis=0)[frames[0] > 100] <= 2).all()
        assert 120 - 20 < frames.max() / 2 < 120 - 6


def test_caches_keep_fingerprints(tmp_path, shared_data):
    files = sorted((shared_data / "codec-mushra" / "audio").glob("stim_0[12]/*.flac"))
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    paths = [*files, tmp_path / "broken.wav"]
    names = ["/".join(path.parts[-2:]) for path in paths]
    table = pd.DataFrame({"clip_id": names, "path": paths, "quality": 3})
    table.to_csv(tmp_path / "clips.csv", index=False)

    def run(out, **options):
        options |= {"manifest": tmp_path / "clips.csv", "encoder": "mel", "batch_size": 8}
        extract(out=tmp_path / out, **options)
        return tmp_path / out

    whole = open_cache(run("whole.h5"))
    assert whole.provenance["fingerprint"] == FINGERPRINT
    prints = whole.fingerprints_of(np.arange(len(table)))
    for path, found in zip(table["path"], prints, strict=True):
        if "broken" in str(path):
            assert len(found) == 0
            continue
        decoder = ClipDecoder(path, AudioPolicy(16000, 16000, 16000))
        list(decoder.windows())
        np.testing.assert_array_equal(found, decoder.fingerprint)
    assert (whole.clips["samples_sha256"] != "").sum() == len(files)
    for part in ("1/2", "2/2"):
        run("part.h5", shard=part)
    parts = sorted(tmp_path.glob("part-*.h5"), reverse=True)
    merge_caches(parts, tmp_path / "merged.h5")
    (tmp_path / "labels.csv").write_text(f"clip_id,quality\n{table['clip_id'].iloc[0]},3\n")
    relabel_cache(tmp_path / "merged.h5", tmp_path / "labels.csv", tmp_path / "other.h5")
    for name in ("merged.h5", "other.h5"):
        again = open_cache(tmp_path / name)
        order = [again.clips["clip_id"].tolist().index(name) for name in table["clip_id"]]
        for a, b in zip(again.fingerprints_of(np.array(order)), prints, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("error")
def test_a_sound_near_the_largest_float_has_a_fingerprint(tmp_path):
    """The resampler would overflow, and what is no number would be cast to a byte."""
    quiet = np.random.default_rng(0).uniform(-0.5, 0.5, 32000).astype(np.float32)
    prints = []
    for name, sound in (("loud", 6e38 * quiet), ("limit", np.clip(6e38 * quiet, -1e6, 1e6))):
        soundfile.write(tmp_path / f"{name}.wav", sound, 16000, "FLOAT")
        decoder = ClipDecoder(tmp_path / f"{name}.wav", AudioPolicy(16000, 16000, 16000))
        for _ in decoder.blocks():
            pass
        prints.append(decoder.fingerprint)
    assert len(prints[0]) > BANDS
    np.testing.assert_array_equal(*prints)
