"""What a dry run says about a rated set."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile

from qamro_cache.datasets.checks import check_dataset
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.records import Dataset, Published
from qamro_cache.datasets.registry import load_dataset
from qamro_cache.datasets.report import report_tables


def manifest(folder: Path, lines: list[str], audio: Mapping[str, bytes] | None = None) -> Dataset:
    (folder / "clips.csv").write_text("\n".join(lines))
    for name, content in (audio or {}).items():
        (folder / name).write_bytes(content)
    return load_manifest(folder / "clips.csv")


def messages(dataset: Dataset, code: str) -> list[str]:
    return [p["message"] for p in check_dataset(dataset)["problems"] if p["code"] == code]


def wave(samples: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(samples, 0.1), 16000, format="WAV")
    return file.getvalue()


HEAD = "clip_id,path,system,group,prompt,split,mos"


def test_a_sound_set_has_no_problems(tmp_path: Path) -> None:
    lines = [f"c{i},c{i}.wav,,,,{'train' if i < 20 else 'dev'},{1 + i % 5}" for i in range(40)]
    audio = {f"c{i}.wav": wave(i + 1) for i in range(40)}
    report = check_dataset(manifest(tmp_path, [HEAD, *lines], audio))
    assert report["problems"] == []
    assert report["audio"] == {"files": 40, "opened": 40, "unreadable": 0}
    assert report["splits"]["train"] == {
        "clips": 20,
        "labeled": 20,
        "missing_audio": 0,
        "systems": 0,
        "groups": 0,
        "prompts": 0,
        "shared": {},
    }
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_files_that_cannot_be_opened_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"c{i},c{i}.wav,,,,,{1 + i % 5}" for i in range(12)]
    audio = {f"c{i}.wav": wave(i + 1) for i in range(12)}
    audio |= {"c2.wav": b"not sound", "c4.wav": b"", "c6.wav": wave(0), "c8.wav": wave(99)[:20]}
    dataset = manifest(tmp_path, [HEAD, *lines], audio)
    (tmp_path / "c10.wav").unlink()
    os.mkfifo(tmp_path / "c10.wav")
    (tmp_path / "c11.wav").unlink()
    report = check_dataset(dataset)
    assert report["audio"] == {"files": 11, "opened": 11, "unreadable": 5}
    (message,) = messages(dataset, "unreadable-audio")
    counted = "5 of 11 audio files cannot be read (empty 2, unreadable 3), the first are "
    assert message.startswith(counted)
    assert f"{tmp_path / 'c2.wav'} " in message
    assert "c8.wav" not in message, "more than the first three"
    (table,) = (t for t in report_tables(report) if "notes" in t.title)
    assert ("note", "11 audio files were opened, 5 cannot be read") in table.rows
    monkeypatch.setattr("qamro_cache.datasets.headers.MOST", 6)
    sampled = check_dataset(dataset)
    assert sampled["audio"]["opened"] == 6
    assert sampled["audio"] == check_dataset(dataset)["audio"], "another sample each time"
    (message,) = messages(dataset, "unreadable-audio")
    assert "of 6 audio files (a random sample of 11)" in message


def test_overlap_between_splits(tmp_path: Path) -> None:
    dataset = manifest(
        tmp_path,
        [
            HEAD,
            "a,a.wav,s1,g1,rain,train,3",
            "b,b.wav,s2,g2,wind,train,4",
            "c,c.wav,s1,g3,rain,dev,2",
            "d,d.wav,s3,g2,snow,dev,1",
            "e,e.wav,s4,g4,hail,test,1.5",
        ],
        {"a.wav": b"one", "b.wav": b"two", "c.wav": b"six", "d.wav": b"two", "e.wav": b"five5"},
    )
    report = check_dataset(dataset)
    shared = report["splits"]["dev"]["shared"]["train"]
    assert shared == {"systems": 1, "groups": 1, "prompts": 1, "audio": 1}
    assert report["splits"]["test"]["shared"]["train"] == dict.fromkeys(shared, 0)
    assert "dev shares 1 of 2 systems with train" in messages(dataset, "overlap-systems")[0]
    assert "--cv system" in messages(dataset, "overlap-systems")[0]
    assert "--cv prompt" in messages(dataset, "overlap-prompts")[0]
    assert "--cv group" in messages(dataset, "overlap-groups")[0]
    assert "dev shares 1 audio files with train" in messages(dataset, "overlap-audio")[0]
    assert messages(dataset, "duplicate-audio") == [
        "1 clips have the same audio as another, the first are b and d"
    ]
    assert (
        "audio" not in check_dataset(dataset, read_audio=False)["splits"]["dev"]["shared"]["train"]
    )


def test_labels(tmp_path: Path) -> None:
    dataset = manifest(
        tmp_path,
        ["clip_id,path,flat,wide,holes", "a,a.wav,3,-7,3", "b,b.wav,3,250,", "c,c.wav,3,3,3.1"],
    )
    assert messages(dataset, "constant") == ["flat: all clips have the score 3"]
    assert messages(dataset, "unlabeled") == ["holes: 1 clips have no score"]
    assert messages(dataset, "out-of-range") == []  # the scale was guessed from these scores
    strict = Dataset(
        "x",
        dataset.clips,
        type(dataset.labels)(
            tuple(type(a)(a.name, 0, 10) for a in dataset.labels.axes),
            dataset.labels.mean,
            dataset.labels.count,
            dataset.labels.stderr,
        ),
        published=Published({"": 4}, steps={"holes": 0.5}, ratings_a_clip=5),
    )
    assert messages(strict, "out-of-range") == [
        "wide: 2 clips have a score outside 0 to 10, the first is a; correct it, or the scale"
    ]
    assert messages(strict, "off-grid") == ["holes: 1 scores are off the published grid of 0.5"]
    assert messages(strict, "count") == [
        "the set: 3 clips, 4 published",
        "3 clips have not the published 5 ratings",
    ]
    (said,) = messages(strict, "missing-audio")
    assert said.startswith("3 of 3 audio files are not there, the first is ")
    assert "lies there" not in said
    first = Path(dataset.clips["path"].iloc[0])
    first.with_suffix(".flac").write_bytes(b"")
    (said,) = messages(strict, "missing-audio")
    assert said.endswith(f"; {first.stem}.flac lies there, is the table's ending wrong?")
    # Names that no file has.
    for name in ("", "a" * 300 + ".wav"):
        strict.clips["path"] = name
        (said,) = messages(strict, "missing-audio")
        assert "lies there" not in said


def test_single_ratings_out_of_range_hide_in_a_good_mean(tmp_path: Path) -> None:
    dataset = manifest(
        tmp_path, ["clip_id,path,rater,q", "a,a.wav,r1,2", "a,a.wav,r2,4", "b,b.wav,r1,1"]
    )
    assert messages(dataset, "out-of-range") == []
    ratings = dataset.labels.ratings
    assert ratings is not None
    ratings.score[:] = [-1, 7, 1]  # the mean stays 3
    assert (
        "q: 1 clips have a score outside 1 to 5, the first is a"
        in messages(dataset, "out-of-range")[0]
    )


def test_raters(tmp_path: Path) -> None:
    rows = [
        f"c{i},c{i}.wav,{r},{3 if r == 'lazy' else 1 + i % 5}"
        for i in range(12)
        for r in ("lazy", "keen")
    ]
    dataset = manifest(tmp_path, ["clip_id,path,rater,q", *rows, "c0,c0.wav,keen,2"])
    assert messages(dataset, "constant-rater") == [
        "1 times a rater gave all clips of an axis the same score, first lazy on q"
    ]
    assert messages(dataset, "replicates") == ["1 ratings are a rater's second of the same clip"]
    raters = check_dataset(dataset)["raters"]
    assert raters["known"] == 2
    assert raters["single_ratings"] == 25
    assert raters["by_rater"]["lazy"] == {"ratings": 12, "mean": 3.0}


def test_few_clips_and_some_prompts(tmp_path: Path) -> None:
    lines = [f"a{i},a{i}.wav,big,,p{i},,3" for i in range(10)] + ["b,b.wav,small,,,,4"]
    dataset = manifest(tmp_path, [HEAD, *lines])
    assert messages(dataset, "few-clips") == ["1 of 2 systems have fewer than 10 clips: small 1"]
    assert messages(dataset, "no-prompt") == ["1 of 11 clips have no prompt"]
    assert check_dataset(dataset)["systems"]["small"] == {"clips": 1, "mean": {"mos": 4.0}}


def test_musiceval_says_what_its_dev_split_shares(shared_data: Path) -> None:
    dataset = load_dataset("musiceval", shared_data / "labels" / "musiceval")
    report = check_dataset(dataset)
    assert not [p for p in report["problems"] if p["code"] in ("count", "off-grid", "out-of-range")]
    codes = {p["code"]: p["message"] for p in report["problems"]}
    assert "dev shares 31 of 31 systems with train" in codes["overlap-systems"]
    # 28 of dev's prompts are the demo systems' own; by number alone they would look shared.
    assert "dev shares 92 of 120 prompts with train" in codes["overlap-prompts"]
    assert len(report["systems"]) == 31
    assert list(report["axes"]) == ["overall", "textual"]
    tables = report_tables(report)
    assert ("dev", "train", "31") in [row[:3] for row in tables[1].rows]
    for table in tables:
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_aes_counts_agree_with_the_published(shared_data: Path) -> None:
    report = check_dataset(load_dataset("aes-natural", shared_data / "labels" / "aes"))
    codes = {p["code"] for p in report["problems"]}
    assert codes == {"missing-audio", "overlap-groups"}
    assert report["axes"]["PQ"]["ratings_a_clip"] == 10


def test_counts_that_differ_from_the_published(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/train_mos_list.txt").write_text("audiomos2025-track1-S002_P001.wav,3,3.1\n")
    (tmp_path / "sets/dev_mos_list.txt").write_text("audiomos2025-track1-S002_P002.wav,3,3\n")
    dataset = load_dataset("musiceval", tmp_path)
    assert messages(dataset, "count") == [
        "train: 1 clips, 1634 published",
        "dev: 1 clips, 289 published",
        "1 systems, 31 published",
    ]
    assert messages(dataset, "off-grid") == ["textual: 1 scores are off the published grid of 0.2"]


def test_synthetic_is_said(tmp_path: Path) -> None:
    report = check_dataset(load_dataset("demo", tmp_path / "demo"))
    assert report["synthetic"] is True
    assert all("synthetic" in table.title for table in report_tables(report))
    assert {p["code"] for p in report["problems"]} == {"overlap-systems"}


@pytest.mark.parametrize("gone", ["README.txt"])
def test_nothing_is_written(tmp_path: Path, gone: str) -> None:
    dataset = load_dataset("demo", tmp_path / "demo")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    check_dataset(dataset)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
