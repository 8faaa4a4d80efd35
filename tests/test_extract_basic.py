"""The extraction end to end, in one process."""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from extraction_support import digests, make_clips
from fake_encoder import SPEC, WINDOW, FakeEncoder

from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.audio.windows import Window
from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.records import Dataset, select_clips
from qamro_cache.errors import QamroError
from qamro_cache.extraction import shards
from qamro_cache.extraction.batches import _Filling
from qamro_cache.extraction.extract import extract


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_clips(tmp_path_factory.mktemp("noises"), 150)


@pytest.fixture(scope="module")
def whole(noises: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "emb.h5"
    extract(noises, out, FakeEncoder())
    return out


def test_every_window_of_every_clip_is_what_the_encoder_gives(noises: Dataset, whole: Path) -> None:
    cache = open_cache(whole)
    assert cache.clips["clip_id"].tolist() == noises.clips["clip_id"].tolist()
    assert (cache.clips["status"] == "ok").all()
    assert cache.synthetic
    np.testing.assert_array_equal(cache.labels.mean, noises.labels.mean)
    encoder = FakeEncoder()
    windows, offsets, weights = cache.read("layers")
    for row, path in enumerate(noises.clips["path"]):
        # One window at a time, in the plainest way.
        cut = list(ClipDecoder(path, SPEC.audio).windows())
        assert offsets[row + 1] - offsets[row] == len(cut)
        for place, window in zip(range(offsets[row], offsets[row + 1]), cut, strict=True):
            expected = encoder.encode(
                torch.from_numpy(window.samples)[None], torch.tensor([window.valid])
            )["layers"][0]
            torch.testing.assert_close(windows[place], expected, atol=1e-5, rtol=1e-5)
            assert weights[place] == np.float32(window.valid / WINDOW)
    text = cache.read_text()
    for row, prompt in enumerate(noises.clips["prompt"]):
        if prompt:
            expected = encoder.encode_text([prompt])["text"][0]
            assert torch.equal(text.embeddings[text.index[row]], expected)
        else:
            assert text.index[row] == -1


def test_the_number_of_threads_changes_no_bit(noises: Dataset, whole: Path, tmp_path: Path) -> None:
    extract(noises, tmp_path / "emb.h5", FakeEncoder(), workers=7)
    assert digests(tmp_path / "emb.h5") == digests(whole)


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_the_batch_size_changes_features_by_less_than_1e_5(
    noises: Dataset, whole: Path, tmp_path: Path, batch_size: int
) -> None:
    encoder = FakeEncoder()
    extract(noises, tmp_path / "emb.h5", encoder, batch_size=batch_size)
    assert max(encoder.batches) <= batch_size
    ours, theirs = open_cache(tmp_path / "emb.h5"), open_cache(whole)
    for name in ours.features:
        torch.testing.assert_close(
            ours.read(name).windows, theirs.read(name).windows, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("refused", [False, True])
def test_a_batch_takes_the_memory_of_the_windows_that_there_are(
    monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """Of any memory, where a GPU's driver refuses more of that which it copies from at once."""
    real = torch.empty

    def empty(*shape: int, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return real(*shape, **options)

    monkeypatch.setattr(torch, "empty", empty)
    filling = _Filling(4096, pinned=refused)
    for k in range(3):
        assert filling.add(Window(k, 9 - k, np.full(1000, k, np.float32))) is None
    batch = filling.rest()
    assert batch is not None
    assert batch.windows[:, 7].tolist() == [0, 1, 2]
    assert batch.valid.tolist() == [9, 8, 7]
    assert batch.windows.untyped_storage().nbytes() == 3 * 1000 * 4
    assert filling.rest() is None


def test_batches_beyond_the_memory_are_refused_with_an_estimate(
    noises: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A window at least of each of 150 clips.
    monkeypatch.setattr("qamro_cache.memory.free_memory", lambda: 1000.0)
    with pytest.raises(QamroError, match=r"batches of 4,096 windows .* smaller --batch-size"):
        extract(noises, tmp_path / "emb.h5", FakeEncoder(), batch_size=4096)
    assert not (tmp_path / "emb.h5").exists()


def test_stored_as_half(noises: Dataset, whole: Path, tmp_path: Path) -> None:
    extract(noises, tmp_path / "emb.h5", FakeEncoder(), dtype="float16")
    ours = open_cache(tmp_path / "emb.h5").read("embedding").windows
    assert ours.dtype == torch.float16
    assert torch.equal(ours, open_cache(whole).read("embedding").windows.half())


def _interrupt_after(units: int) -> object:
    def progress(stats: object) -> None:
        if stats.clips_done >= 64 * units:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_run_goes_on_and_ends_up_the_same(
    noises: Dataset, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "emb.h5"
    with pytest.raises(KeyboardInterrupt):
        extract(noises, out, FakeEncoder(), progress=_interrupt_after(1))  # type: ignore[arg-type]
    assert not out.exists()
    # Ctrl-C publishes what is finished.
    summary = extract(noises, out, FakeEncoder())
    assert (summary.stats.clips_reused, summary.stats.clips_done) == (64, 86)
    assert digests(out) == digests(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["emb.h5"]


def test_a_finished_run_is_not_done_again(noises: Dataset, tmp_path: Path, whole: Path) -> None:
    out = Path(shutil.copy(whole, tmp_path / "emb.h5"))
    stamp = out.stat()
    encoder = FakeEncoder()
    summary = extract(noises, out, encoder)
    assert (summary.clips, summary.stats.clips_done, encoder.batches) == (150, 0, [])
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (stamp.st_ino, stamp.st_mtime_ns)


def test_new_clips_and_new_ratings_are_added(noises: Dataset, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "emb.h5"
    extract(select_clips(noises, np.arange(20, 100)), out, FakeEncoder())
    summary = extract(noises, out, FakeEncoder())
    assert (summary.stats.clips_reused, summary.stats.clips_done) == (80, 70)
    cache = open_cache(out)
    torch.testing.assert_close(cache.read().windows, open_cache(whole).read().windows)
    assert cache.clips["clip_id"].tolist() == noises.clips["clip_id"].tolist()
    changed = replace(noises, labels=replace(noises.labels, mean=noises.labels.mean + 0.5))
    assert extract(changed, out, FakeEncoder()).stats.clips_done == 0
    np.testing.assert_array_equal(open_cache(out).labels.mean, noises.labels.mean + 0.5)


def test_clips_that_the_set_lacks_are_not_lost(
    noises: Dataset, tmp_path: Path, whole: Path
) -> None:
    out = Path(shutil.copy(whole, tmp_path / "emb.h5"))
    with pytest.raises(QamroError, match="50 clips that noises does not have"):
        extract(select_clips(noises, np.arange(100)), out, FakeEncoder())
    assert digests(out) == digests(whole)


def test_another_checkpoint_is_refused_with_the_difference(
    noises: Dataset, tmp_path: Path, whole: Path
) -> None:
    out = Path(shutil.copy(whole, tmp_path / "emb.h5"))
    other = FakeEncoder(replace(SPEC, checkpoint_sha256="abc"))
    with pytest.raises(QamroError, match="checkpoint_sha256: 'abc' here, '' there"):
        extract(noises, out, other)
    half = tmp_path / "half.h5"
    with pytest.raises(KeyboardInterrupt):
        extract(noises, half, FakeEncoder(), progress=_interrupt_after(1))  # type: ignore[arg-type]
    with pytest.raises(QamroError, match="checkpoint_sha256: 'abc' here, '' there"):
        extract(noises, half, other)


def test_a_changed_audio_file_is_extracted_again(tmp_path: Path) -> None:
    noises = make_clips(tmp_path / "sounds", 70)
    out = tmp_path / "emb.h5"
    with pytest.raises(KeyboardInterrupt):
        extract(noises, out, FakeEncoder(), progress=_interrupt_after(1))  # type: ignore[arg-type]
    before = Path(noises.clips["path"][3])
    audio, rate = soundfile.read(before, dtype="float32")
    soundfile.write(before, -audio, rate)  # same size, other bytes
    touched = Path(noises.clips["path"][5])
    os.utime(touched)  # another time, same bytes
    summary = extract(noises, out, FakeEncoder())
    assert summary.stats.clips_done == 7
    fresh = tmp_path / "fresh.h5"
    extract(noises, fresh, FakeEncoder())
    torch.testing.assert_close(open_cache(out).read().windows, open_cache(fresh).read().windows)
    sha = open_cache(out).clips["audio_sha256"]
    assert sha.equals(open_cache(fresh).clips["audio_sha256"])
    # The finished file notices too.
    soundfile.write(before, audio, rate)
    assert extract(noises, out, FakeEncoder()).stats.clips_done == 1


def _spoil(noises: Dataset) -> dict[str, str]:
    """Make ten clips bad, each in its own way; returns the status each should get."""
    paths = dict(zip(noises.clips["clip_id"], map(Path, noises.clips["path"]), strict=True))
    ids = list(paths)[5:150:14][:10]
    good = np.zeros(4000, np.float32)
    paths[ids[0]].unlink()
    paths[ids[1]].write_text("this is text\n")
    paths[ids[2]].write_bytes(b"")
    soundfile.write(paths[ids[3]], good[:0], 16000)
    soundfile.write(paths[ids[4]], good[:10], 16000)
    good[100] = np.nan
    soundfile.write(paths[ids[5]], good, 16000, subtype="FLOAT")
    good[100] = np.inf
    soundfile.write(paths[ids[6]], good, 16000, subtype="FLOAT")
    paths[ids[7]].unlink()
    paths[ids[7]].mkdir()
    flac = paths[ids[8]].with_suffix(".flac")
    soundfile.write(flac, np.random.default_rng(0).standard_normal(9000) * 0.1, 16000)
    paths[ids[8]].write_bytes(flac.read_bytes()[:6000])
    paths[ids[9]].unlink()
    os.mkfifo(paths[ids[9]])
    codes = ["missing", "unreadable", "empty", "empty", "too-short", "not-finite", "not-finite"]
    return dict(zip(ids, [*codes, "unreadable", "unreadable", "unreadable"], strict=True))


def test_bad_clips_are_rows_with_reasons_and_can_be_tried_again(tmp_path: Path) -> None:
    noises = make_clips(tmp_path / "sounds", 150)
    fresh = tmp_path / "fresh.h5"
    extract(noises, fresh, FakeEncoder())
    expected = _spoil(noises)
    out = tmp_path / "emb.h5"
    summary = extract(noises, out, FakeEncoder())
    assert (summary.clips, summary.ok, summary.failures) == (150, 140, 10)
    cache = open_cache(out)
    rows = cache.clips.set_index("clip_id")
    assert rows["status"][list(expected)].to_dict() == expected
    assert (rows["reason"][list(expected)] != "").all()
    assert (np.diff(cache.read().offsets)[(rows["status"] != "ok").to_numpy()] == 0).all()
    # Left alone without the flag; with it, those that are mended now are done.
    clips = make_clips(tmp_path / "again", 150).clips
    for clip_id in list(expected)[:1]:
        row = clips.set_index("clip_id")["path"][clip_id]
        shutil.copy2(row, noises.clips.set_index("clip_id")["path"][clip_id])
    assert extract(noises, out, FakeEncoder()).failures == 10
    again = extract(noises, out, FakeEncoder(), retry_failed=True)
    assert (again.stats.clips_done, again.failures) == (10, 9)
    assert [path.name for path in tmp_path.glob("emb*")] == ["emb.h5"]


def test_features_that_are_not_finite_fail_their_clip_alone(
    noises: Dataset, tmp_path: Path
) -> None:
    class Sick(FakeEncoder):
        def encode(self, windows: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
            out = dict(super().encode(windows, valid))
            out["layers"] = torch.where(valid[:, None, None] == 4800, torch.nan, out["layers"])
            return out

    summary = extract(noises, tmp_path / "emb.h5", Sick())
    assert summary.failed == {"failed": 50}
    cache = open_cache(tmp_path / "emb.h5")
    assert "NaN or infinite values in layers" in cache.clips["reason"][0]


def test_a_decoder_keeps_to_one_core_and_the_encoder_keeps_all(
    noises: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[int]] = {"decode": set(), "encode": set()}

    class Watching(FakeEncoder):
        def encode(self, windows: torch.Tensor, valid: torch.Tensor) -> Mapping[str, torch.Tensor]:
            seen["encode"].add(torch.get_num_threads())
            return super().encode(windows, valid)

    def decoding(self: ClipDecoder) -> Iterator[Window]:
        seen["decode"].add(torch.get_num_threads())
        return windows(self)

    windows = ClipDecoder.windows
    monkeypatch.setattr(ClipDecoder, "windows", decoding)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        extract(noises, tmp_path / "emb.h5", Watching(), workers=2)
        assert seen == {"decode": {1}, "encode": {3}}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_an_encoder_that_breaks_its_promise_is_an_error(noises: Dataset, tmp_path: Path) -> None:
    lying = FakeEncoder(replace(SPEC, features={"embedding": (9,), "layers": (3, 4)}))
    with pytest.raises(QamroError, match=r"gave \(8, 8\) as feature embedding"):
        extract(noises, tmp_path / "emb.h5", lying)
    assert list(tmp_path.iterdir()) == []


def test_a_vanished_folder_stops_the_run_and_a_returned_one_goes_on(
    tmp_path: Path, whole: Path
) -> None:
    noises = make_clips(tmp_path / "mnt" / "sounds", 150)
    out = tmp_path / "emb.h5"

    def unmount(stats: object) -> None:
        if stats.clips_done == 64:  # type: ignore[attr-defined]
            (tmp_path / "mnt").rename(tmp_path / "away")

    with pytest.raises(QamroError, match="is gone; what is finished is kept"):
        extract(noises, out, FakeEncoder(), progress=unmount, workers=1)
    with pytest.raises(QamroError, match="missing, empty or cannot be read"):
        extract(noises, out, FakeEncoder())
    (tmp_path / "mnt" / "sounds").mkdir(parents=True)  # a mount point without its disk
    with pytest.raises(QamroError, match="missing, empty or cannot be read"):
        extract(noises, out, FakeEncoder())
    shutil.rmtree(tmp_path / "mnt")
    (tmp_path / "away").rename(tmp_path / "mnt")
    summary = extract(noises, out, FakeEncoder())
    assert summary.failures == 0
    assert summary.stats.clips_reused >= 64
    torch.testing.assert_close(open_cache(out).read().windows, open_cache(whole).read().windows)


def test_a_damaged_shard_is_made_again(noises: Dataset, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "emb.h5"
    with pytest.raises(KeyboardInterrupt):
        extract(noises, out, FakeEncoder(), progress=_interrupt_after(2))  # type: ignore[arg-type]
    part = next((tmp_path / "emb.h5.parts").glob("part-*.h5"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 255
    part.write_bytes(data)
    extract(noises, out, FakeEncoder())
    assert digests(out) == digests(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["emb.h5"]


def test_many_small_shards_make_the_same_file(
    noises: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    extract(noises, tmp_path / "emb.h5", FakeEncoder())
    assert digests(tmp_path / "emb.h5") == digests(whole)


def test_bfloat16_is_said_to_cost_something_when_extracting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here, so that Ray's workers need not say it, and predicting with such a head does not."""
    clips = make_clips(tmp_path / "sounds", 2)
    for precision in ("float16", "bfloat16"):
        assert "prefer --precision float16" not in caplog.text
        encoder = FakeEncoder(replace(SPEC, precision=precision))
        extract(clips, tmp_path / f"{precision}.h5", encoder)
    assert "prefer --precision float16" in caplog.text
