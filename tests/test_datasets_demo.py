"""The synthetic demo set."""

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from qamro_cache.datasets.demo import default_folder, load_demo, make_demo
from qamro_cache.datasets.registry import list_datasets, load_dataset
from qamro_cache.errors import QamroError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "demo"
    load_demo(folder)
    return folder


def test_what_it_is(folder: Path) -> None:
    dataset = load_dataset("demo", folder)
    assert dataset.synthetic
    assert "synthetic" in dataset.notes[0]
    assert "synthetic" in list_datasets()["demo"]
    assert "SYNTHETIC" in (folder / "README.txt").read_text()
    clips = dataset.clips
    assert len(clips) == 120
    assert clips["system"].nunique() == 10
    assert clips["group"].nunique() == 12
    assert dict(clips["split"].value_counts()) == {"train": 80, "dev": 20, "test": 20}
    # No content is in two splits.
    assert clips.groupby("group")["split"].nunique().max() == 1
    assert (dataset.labels.count == 12).all()
    assert len(dataset.labels.ratings.raters) == 12  # type: ignore[union-attr]
    assert [(a.name, a.low, a.high) for a in dataset.labels.axes] == [
        ("quality", 1, 5),
        ("enjoyment", 1, 5),
    ]


def test_audio_is_sound_and_damage_costs_points(folder: Path) -> None:
    dataset = load_dataset("demo", folder)
    for path in dataset.clips["path"]:
        with wave.open(path) as file:
            assert (file.getframerate(), file.getnchannels()) == (16000, 1)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
        assert len(samples) == 48000
        assert 0.02 < np.sqrt(np.mean(samples**2)) < 0.5
        assert np.abs(samples).max() <= 1
    means = dataset.labels.mean[:, 0]
    by_system = {
        s: means[(dataset.clips["system"] == s).to_numpy()].mean() for s in ("clean", "coarse")
    }
    assert by_system["clean"] > by_system["coarse"] + 1.5


def test_made_once_and_the_same_everywhere(folder: Path, tmp_path: Path) -> None:
    stamp = (folder / "clips.csv").stat().st_mtime_ns
    load_demo(folder)
    assert (folder / "clips.csv").stat().st_mtime_ns == stamp
    make_demo(tmp_path / "again")
    assert (tmp_path / "again/clips.csv").read_bytes() == (folder / "clips.csv").read_bytes()
    names = sorted(path.name for path in (folder / "wav").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again/wav").iterdir())
    for name in names[::10]:
        assert (tmp_path / "again/wav" / name).read_bytes() == (folder / "wav" / name).read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(QamroError, match="remove it or name another"):
        load_demo(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from qamro_cache.datasets import demo\n"
        "demo._sha256 = lambda folder: os.kill(os.getpid(), 9)\n"
        "demo.make_demo(Path(sys.argv[1]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path / "demo"], check=False)
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name != "demo"
    assert (left / "clips.csv").is_file()
    load_demo(tmp_path / "demo")
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_another_version_is_not_taken_for_this_one(tmp_path: Path) -> None:
    make_demo(tmp_path / "demo")
    record = json.loads((tmp_path / "demo/demo.json").read_text())
    (tmp_path / "demo/demo.json").write_text(json.dumps(record | {"version": 0}))
    with pytest.raises(QamroError, match="not this version"):
        load_demo(tmp_path / "demo")


def test_without_a_folder_it_goes_to_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "qamro-cache" / "demo"
    dataset = load_dataset("demo", None)
    assert dataset.clips["path"][0].startswith(str(tmp_path))
