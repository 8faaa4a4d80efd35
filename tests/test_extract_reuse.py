"""What an earlier run has left is reused only for the audio that it was made of."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from extraction_support import digests, make_clips
from fake_encoder import WINDOW, FakeEncoder

from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.records import Dataset
from qamro_cache.extraction import stats as counters
from qamro_cache.extraction.decoding import LONG_CLIP
from qamro_cache.extraction.extract import extract
from qamro_cache.extraction.stats import Stats


def moved(dataset: Dataset, folder: Path) -> Dataset:
    """The same set with its files in another folder."""
    clips = dataset.clips.copy()
    clips["path"] = [str(folder / Path(path).name) for path in clips["path"]]
    return Dataset(dataset.name, clips, dataset.labels, dataset.synthetic)


@pytest.mark.parametrize("interrupted", [False, True], ids=["file", "shards"])
def test_another_path_is_compared_by_hash(tmp_path: Path, interrupted: bool) -> None:
    """Files of one size and time, as archives, Nix and squashfs make them."""
    old = make_clips(tmp_path / "v1", 6)
    new = make_clips(tmp_path / "v2", 6)
    for index, path in enumerate(new.clips["path"]):
        if index != 2:  # this one is the same file in another place
            samples, rate = soundfile.read(path, dtype="float32")
            soundfile.write(path, samples[::-1], rate)
    for path in (*old.clips["path"], *new.clips["path"]):
        os.utime(path, (1, 1))
    out, fresh = tmp_path / "emb.h5", tmp_path / "fresh.h5"

    def stop(stats: Stats) -> None:
        if interrupted and stats.clips_done:
            raise KeyboardInterrupt

    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            extract(old, out, FakeEncoder(), progress=stop)
        assert not out.exists()
    else:
        extract(old, out, FakeEncoder())
    assert extract(new, out, FakeEncoder()).stats.clips_done == 5
    extract(new, fresh, FakeEncoder())
    assert digests(out) == digests(fresh)


def test_a_link_that_names_another_folder_today_is_seen(tmp_path: Path) -> None:
    """The paths stay, and so do sizes and times where a store gives all files one."""
    for name, level in (("v1", 1), ("v2", -1)):
        for path in make_clips(tmp_path / name, 3).clips["path"]:
            samples, rate = soundfile.read(path, dtype="float32")
            soundfile.write(path, level * samples, rate)
            os.utime(path, (1, 1))
    dataset, link = moved(make_clips(tmp_path / "v0", 3), tmp_path / "now"), tmp_path / "now"
    link.symlink_to(tmp_path / "v1")
    extract(dataset, tmp_path / "emb.h5", FakeEncoder())
    assert extract(dataset, tmp_path / "emb.h5", FakeEncoder()).stats.clips_done == 0
    link.unlink()
    link.symlink_to(tmp_path / "v2")
    assert extract(dataset, tmp_path / "emb.h5", FakeEncoder()).stats.clips_done == 3
    extract(dataset, tmp_path / "fresh.h5", FakeEncoder())
    assert digests(tmp_path / "emb.h5") == digests(tmp_path / "fresh.h5")


def test_files_that_moved_are_not_encoded_again(tmp_path: Path) -> None:
    dataset = make_clips(tmp_path / "here", 6)
    extract(dataset, tmp_path / "emb.h5", FakeEncoder())
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    summary = extract(moved(dataset, tmp_path / "there"), tmp_path / "emb.h5", FakeEncoder())
    assert summary.stats.clips_done == 0
    assert open_cache(tmp_path / "emb.h5").clips["path"][0].startswith(str(tmp_path / "there"))


def test_another_path_without_a_file_is_a_missing_clip(tmp_path: Path) -> None:
    """Nothing says that the old features are of the file that is named now."""
    dataset = make_clips(tmp_path / "here", 6)
    extract(dataset, tmp_path / "emb.h5", FakeEncoder())
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    (tmp_path / "there" / "clip0003.wav").unlink()
    summary = extract(moved(dataset, tmp_path / "there"), tmp_path / "emb.h5", FakeEncoder())
    assert summary.failed == {"missing": 1}


def test_a_clip_that_was_missing_and_has_another_path_now(tmp_path: Path) -> None:
    dataset = make_clips(tmp_path / "here", 6)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    (tmp_path / "here" / "clip0003.wav").unlink()
    assert extract(dataset, tmp_path / "emb.h5", FakeEncoder()).failures == 1
    summary = extract(moved(dataset, tmp_path / "there"), tmp_path / "emb.h5", FakeEncoder())
    assert (summary.failures, summary.stats.clips_done) == (0, 1)


@pytest.mark.parametrize("seconds", [13569465600, -12219292800], ids=["2400", "1582"])
def test_a_date_that_no_column_can_hold(tmp_path: Path, seconds: int) -> None:
    dataset = make_clips(tmp_path / "sounds", 6)
    path = Path(dataset.clips["path"][2])
    os.utime(path, (seconds, seconds))
    if int(path.stat().st_mtime) != seconds:
        pytest.skip("this disk has no such times")
    Path(dataset.clips["path"][4]).unlink()
    summary = extract(dataset, tmp_path / "emb.h5", FakeEncoder())
    assert (summary.ok, summary.failed) == (5, {"missing": 1})
    assert extract(dataset, tmp_path / "emb.h5", FakeEncoder()).stats.clips_done == 0


def test_a_long_clip_moves_the_bar_within_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "SECONDS_A_MOVE", 0.0)
    dataset = make_clips(tmp_path / "sounds", 2)
    windows = 4 * LONG_CLIP
    noise = 0.1 * np.random.default_rng(0).standard_normal(windows * WINDOW)
    soundfile.write(dataset.clips["path"][1], noise, 16000)
    seen: list[tuple[int, float, float | None]] = []
    extract(
        dataset,
        tmp_path / "emb.h5",
        FakeEncoder(),
        progress=lambda stats: seen.append(
            (stats.clips_done, stats.clips_begun, stats.seconds_left)
        ),
    )
    begun = [share for done, share, _ in seen if not done]
    assert begun == sorted(begun)
    assert len({share for share in begun if 1 < share < 2}) > 4
    assert all(left is not None for _, share, left in seen if share)
    assert seen[-1][:2] == (2, 0.0)
