"""What a crash, a full disk and a second process leave behind: nothing but good data."""

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from extraction_support import digests, make_clips, processes, run_child

from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.records import Dataset

SHORT = (0.03, 0.05, 1.1)


def start(dataset: Dataset, out: Path, **settings: object) -> object:
    child = processes().Process(target=run_child, args=(dataset, out), kwargs=settings)
    child.start()
    return child


def run_to_end(dataset: Dataset, out: Path, **settings: object) -> int:
    child = start(dataset, out, **settings)
    child.join(120)  # type: ignore[attr-defined]
    return int(child.exitcode)  # type: ignore[attr-defined]


def finished(out: Path) -> set[str]:
    """The clips that are safe in shards; every visible shard must be whole."""
    done: set[str] = set()
    for path in out.with_name(out.name + ".parts").glob("part-*.h5"):
        digests(path)
        done |= set(open_cache(path).clips["clip_id"])
    return done


def parts(out: Path) -> int:
    return len(list(out.with_name(out.name + ".parts").glob("part-*.h5")))


@pytest.mark.slow
def test_25_kills_and_the_content_of_an_undisturbed_run(tmp_path: Path) -> None:
    dataset = make_clips(tmp_path / "sounds", 480, seconds=SHORT)
    assert run_to_end(dataset, tmp_path / "whole.h5", unit=8) == 0
    out = tmp_path / "emb.h5"
    rng = random.Random(0)
    kills, before = 0, set()
    while kills < 25:
        known = parts(out)
        child = start(dataset, out, pause=0.1, unit=8)
        deadline = time.monotonic() + 60
        while parts(out) == known and child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.15)
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, "it finished before its kill; use more clips"
        kills += 1
        after = finished(out)
        # New clips were finished, and none that were are lost.
        assert before < after
        before = after
    assert len(before) < 480
    assert run_to_end(dataset, out, unit=8) == 0
    assert digests(out) == digests(tmp_path / "whole.h5")
    assert sorted(path.name for path in tmp_path.glob("*emb*")) == ["emb.h5"]


@pytest.mark.slow
def test_a_kill_at_every_kind_of_file_operation(tmp_path: Path) -> None:
    dataset = make_clips(tmp_path / "sounds", 12, seconds=SHORT)
    whole = tmp_path / "whole.h5"
    assert run_to_end(dataset, whole) == 0
    # Each run starts from nothing and dies at another call, from the first to beyond the last.
    call, code = 1, -signal.SIGKILL
    deaths = 0
    while code == -signal.SIGKILL:
        folder = tmp_path / "run"
        folder.mkdir()
        code = run_to_end(dataset, folder / "emb.h5", die_at=call)
        deaths += code == -signal.SIGKILL
        if (folder / "emb.h5").exists():
            assert digests(folder / "emb.h5") == digests(whole)
        finished(folder / "emb.h5")
        assert run_to_end(dataset, folder / "emb.h5") == 0
        assert digests(folder / "emb.h5") == digests(whole)
        assert [path.name for path in folder.iterdir()] == ["emb.h5"]
        shutil.rmtree(folder)
        call += 13
    assert deaths > 10


def test_two_at_once_on_one_output(tmp_path: Path) -> None:
    dataset = make_clips(tmp_path / "sounds", 60, seconds=SHORT)
    assert run_to_end(dataset, tmp_path / "whole.h5") == 0
    out, log = tmp_path / "emb.h5", tmp_path / "log"
    first = start(dataset, out, pause=0.1)
    while parts(out) == 0 and first.is_alive():  # type: ignore[attr-defined]
        time.sleep(0.01)
    second = run_to_end(dataset, out, log=log)
    first.join()  # type: ignore[attr-defined]
    assert (first.exitcode, second) == (0, 1)  # type: ignore[attr-defined]
    assert "another extraction is writing" in log.read_text()
    assert digests(out) == digests(tmp_path / "whole.h5")
    assert sorted(path.name for path in tmp_path.glob("*emb*")) == ["emb.h5"]


def test_many_started_in_the_same_moment(tmp_path: Path) -> None:
    dataset = make_clips(tmp_path / "sounds", 20, seconds=SHORT)
    assert run_to_end(dataset, tmp_path / "whole.h5") == 0
    out = tmp_path / "emb.h5"
    for _ in range(3):
        children = [start(dataset, out) for _ in range(4)]
        for child in children:
            child.join()  # type: ignore[attr-defined]
        codes = [child.exitcode for child in children]  # type: ignore[attr-defined]
        assert 0 in codes
        assert set(codes) <= {0, 1}
        assert digests(out) == digests(tmp_path / "whole.h5")
        out.unlink()


def test_a_full_disk_is_one_clear_line_and_the_run_goes_on_later(tmp_path: Path) -> None:
    dataset = make_clips(tmp_path / "sounds", 200, seconds=SHORT)
    assert run_to_end(dataset, tmp_path / "whole.h5") == 0
    out, log = tmp_path / "emb.h5", tmp_path / "log"
    size = (tmp_path / "whole.h5").stat().st_size
    # Too small for a shard; large enough for shards and too small for the whole.
    for limit in (2_000, size - 1):
        assert run_to_end(dataset, out, largest_file=limit, log=log) == 1
        assert "cannot be written: File too large; mend that" in log.read_text()
        assert not out.exists()
        assert list(tmp_path.rglob("*.tmp")) == []
    assert len(finished(out)) > 0
    assert run_to_end(dataset, out) == 0
    assert digests(out) == digests(tmp_path / "whole.h5")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mount], capture_output=True
    )
    if made.returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here (needs root)")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


def test_a_full_tmpfs(tmp_path: Path, small_disk: Path) -> None:
    dataset = make_clips(tmp_path / "sounds", 120, seconds=SHORT)
    assert run_to_end(dataset, tmp_path / "whole.h5") == 0
    out, log = small_disk / "emb.h5", tmp_path / "log"
    for ballast in (200_000, 150_000, 80_000):
        (small_disk / "ballast").write_bytes(bytes(ballast))
        assert run_to_end(dataset, out, log=log) == 1
        # Found by the comparison with what is free, or by the disk.
        words = ("of disk while it is made, and", "No space left on device")
        assert any(word in log.read_text() for word in words)
        assert "\n" not in log.read_text()
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert run_to_end(dataset, out) == 0
    assert digests(out) == digests(tmp_path / "whole.h5")
