"""Manifests: what people write, and one line for what they write wrongly."""

import contextlib
import csv
import logging
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.tables import read_table
from qamro_cache.errors import QamroError


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "clips.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_means(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'clip_id,path,system,quality,prompt\na,x/a.wav,s1,3.5,"a bell, ringing"\n'
        "b,/abs/b.wav,s2,,\n",
    )
    dataset = load_manifest(path)
    assert list(dataset.clips["clip_id"]) == ["a", "b"]
    assert list(dataset.clips["path"]) == [str(tmp_path / "x/a.wav"), "/abs/b.wav"]
    assert list(dataset.clips["prompt"]) == ["a bell, ringing", ""]
    assert list(dataset.clips["group"]) == ["", ""]
    assert [axis.name for axis in dataset.labels.axes] == ["quality"]
    np.testing.assert_array_equal(dataset.labels.mean[:, 0], [3.5, np.nan])
    assert dataset.labels.ratings is None
    assert "1 to 5" in dataset.notes[0]
    moved = load_manifest(path, tmp_path / "elsewhere")
    assert moved.clips["path"][0] == str(tmp_path / "elsewhere/x/a.wav")


def test_no_ratings_at_all(tmp_path: Path) -> None:
    dataset = load_manifest(write(tmp_path, "clip_id,path\na,a.wav\n"))
    assert dataset.labels.axes == ()
    assert dataset.labels.mean.shape == (1, 0)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from("xyz"), st.integers(0, 100)),
        min_size=1,
        max_size=40,
    )
)
def test_raters_against_a_plain_loop(rows: list[tuple[int, str, int]]) -> None:
    """What is twice in every cell counts once."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"c{c},c{c}.wav,{r},{s},{100 - s}" for c, r, s in rows]
        path = write(Path(folder), "\n".join(["clip_id,path,rater,up,down", *lines]))
        labels = load_manifest(path).labels
        ids = list(load_manifest(path).clips["clip_id"])
    for row, clip in enumerate(ids):
        scores = [s for c, _, s in dict.fromkeys(rows) if f"c{c}" == clip]
        assert labels.count[row].tolist() == [len(scores)] * 2
        assert labels.mean[row, 0] == pytest.approx(sum(scores) / len(scores), abs=1e-12)
        assert labels.mean[row, 1] == pytest.approx(100 - sum(scores) / len(scores), abs=1e-12)
        if len(scores) > 1:
            expected = np.std(scores, ddof=1) / np.sqrt(len(scores))
            assert labels.stderr[row, 0] == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(labels.stderr[row, 0])
    assert labels.ratings is not None
    triples = {
        (ids[c], labels.ratings.raters[r], s)
        for c, r, s, a in zip(
            labels.ratings.clip,
            labels.ratings.rater,
            labels.ratings.score,
            labels.ratings.axis,
            strict=True,
        )
        if a == 0
    }
    assert triples == {(f"c{c}", r, s) for c, r, s in rows}


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=8))
def test_cells_and_row_numbers_as_csv_has_them(rows: list[tuple[str, str, str]]) -> None:
    """Quotes, line breaks, commas and blank rows, against Python's own writer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("a", "b", "c"), *rows])
        frame = read_table(path)
    expected = {number: row for number, row in enumerate(rows, 2) if any(row)}
    read = {int(n): tuple(r) for n, r in zip(frame.index, frame.to_numpy(), strict=True)}
    assert read == expected


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_load_or_give_one_line(data: st.DataObject) -> None:
    good = b'clip_id,path,rater,q\na,a.wav,r1,3\nb,"b, 2.wav",r1,4.5\na,a.wav,r2,\n'
    at = data.draw(st.integers(0, len(good)))
    cut = data.draw(st.integers(0, 5))
    new = data.draw(st.one_of(st.binary(max_size=4), st.sampled_from([b'"', b"\r", b"\n", b","])))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), good[:at] + new + good[at + cut :])
        # Anything but one of our own lines fails the test.
        with contextlib.suppress(QamroError):
            dataset = load_manifest(path)
            assert len(dataset.clips) == len(dataset.labels.mean) > 0


HEAD = "clip_id,path,quality\n"


@pytest.mark.parametrize(
    ("content", "row", "words"),
    [
        ("clip_id,path,prompt\na,a.wav,é\n".encode("latin-1"), 2, ["UTF-8"]),
        (("clip_id,path\na,b\n").encode("utf-16"), 1, ["UTF-8"]),
        ("clip_id,where,quality\na,a.wav,3\n", 1, ["'path'", "add it", "--columns path=where"]),
        (b"PK\3\4 a workbook", None, ["Excel workbook", "CSV"]),
        (b"\x89HDF\r\n\x1a\n\0", None, ["an HDF5 file, no table", "CSV"]),
        (b"\x1f\x8b\x08\0", None, ["compressed by gzip, no table"]),
        (HEAD + "a,a.wav,3\nb,b.wav,2\na,c.wav,1\n", 4, ["'a'", "row 2", "rater"]),
        (HEAD + "a,a.wav,3\n\nb,b.wav,good\n", 4, ["'good'", "'quality'", "remove"]),
        (HEAD + "a,a.wav,3\nb,b.wav,inf\n", 3, ["'inf'", "finite"]),
        (HEAD + "a,a.wav,3\nb,b.wav,4_5\n", 3, ["'4_5'", "finite"]),
        (HEAD + "a,a.wav,3\nb\0c,b.wav,4\n", 3, ["NUL", "UTF-8"]),
        (HEAD + 'a,a.wav,3\nb,"b.wav,3\n', 3, ["mend"]),
        (HEAD + "a,a.wav,3\nb,b.wav\n", 3, ["2 cells", "3 columns"]),
        (HEAD + "a,a.wav,3\nb,b, take 2.wav,3\n", 3, ["4 cells", "quotes"]),
        (HEAD + "a;a.wav;3\n", 2, ["semicolons"]),
        (HEAD + ",a.wav,3\n", 2, ["clip_id is empty"]),
        (HEAD + "a,,3\n", None, ["no row names a file"]),
        ("clip_id,path,quality,quality\na,a.wav,3,3\n", 1, ["twice"]),
        ("clip_id,path,,quality\na,a.wav,3,3\n", 1, ["no name"]),
        (HEAD, 2, ["no clips"]),
        (
            "clip_id,path,system,rater,q\na,a.wav,s1,r1,3\na,a.wav,s2,r2,3\n",
            3,
            ["'s2'", "'s1'", "row 2"],
        ),
    ],
)
def test_one_line_with_file_row_and_mend(
    tmp_path: Path, content: str | bytes, row: int | None, words: list[str]
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(QamroError) as caught:
        load_manifest(path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{path}, row {row}:" in message or (row is None and f"{path}: " in message)
    for word in words:
        assert word in message


def test_byte_order_mark_is_skipped_with_a_notice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf" + (HEAD + "a,a.wav,3\n").encode())
    with caplog.at_level(logging.INFO, "qamro_cache"):
        dataset = load_manifest(path)
    assert list(dataset.clips["clip_id"]) == ["a"]
    assert f"{path}, row 1" in caplog.text
    assert "byte-order mark" in caplog.text


def test_absent_and_empty(tmp_path: Path) -> None:
    with pytest.raises(QamroError, match="no such file"):
        load_manifest(tmp_path / "none.csv")
    with pytest.raises(QamroError, match="is empty"):
        load_manifest(write(tmp_path, ""))


@pytest.mark.parametrize(
    ("scores", "scale"),
    [
        ([1, 5], (1, 5)),
        ([0, 1], (0, 1)),
        ([0, 9.5], (0, 10)),
        ([3, 70], (0, 100)),
        ([-3, 2], (-3, 2)),
    ],
)
def test_scale_is_guessed_and_said(
    tmp_path: Path, scores: list[float], scale: tuple[float, float]
) -> None:
    lines = [f"c{i},c.wav,{score}" for i, score in enumerate(scores)]
    dataset = load_manifest(write(tmp_path, HEAD + "\n".join(lines)))
    assert (dataset.labels.axes[0].low, dataset.labels.axes[0].high) == scale
    assert f"{scale[0]:g} to {scale[1]:g}" in dataset.notes[0]


@pytest.mark.slow
def test_a_million_rows_take_less_than_a_gigabyte(tmp_path: Path) -> None:
    import subprocess
    import sys

    random.seed(0)
    path = tmp_path / "clips.csv"
    with path.open("w") as file:
        file.write("clip_id,path,system,group,split,prompt,quality,alignment\n")
        for i in range(1_000_000):
            file.write(
                f"clip-{i:07d},audio/system{i % 50}/clip-{i:07d}.wav,system{i % 50},g{i % 997},"
                f"train,a prompt of several words number {i // 7},"
                f"{random.random() * 4 + 1:.3f},{random.random() * 4 + 1:.2f}\n"
            )
    # VmHWM and not ru_maxrss, which a new program takes over from the process that started it.
    program = (
        "from pathlib import Path\n"
        "from qamro_cache.datasets.manifest import load_manifest\n"
        f"path = Path({str(path)!r})\n"
        "dataset = load_manifest(path)\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(len(dataset.clips), int(status.split('VmHWM:')[1].split()[0]) / 2**20)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    count, gibibytes = (float(word) for word in run.stdout.split())
    assert count == 1_000_000
    assert gibibytes <= 1e9 / 2**30
