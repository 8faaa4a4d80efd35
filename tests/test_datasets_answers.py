"""answer.txt of both tracks."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from qamro_cache.datasets.answers import Answer, read_answer, read_answer_list, write_answer
from qamro_cache.errors import QamroError

IDS = ["audiomos2025-track1-S002_P001", "audiomos2025-track1-S001_P004"]


def predictions(track: int, size: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(track)
    axes = ("textual", "overall") if track == 1 else ("CU", "CE", "PC", "PQ")
    return {axis: rng.uniform(1, 5, size) for axis in axes}


def test_track_1_as_the_baseline_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "answer.txt"
    write_answer(
        path,
        [name + ".wav" for name in IDS],
        {"overall": np.array([3.5, 2.0]), "textual": np.array([4.25, 1.0])},
        1,
    )
    assert path.read_text() == f"{IDS[0]},3.5,4.25\n{IDS[1]},2.0,1.0\n"


def test_track_2_has_a_header(tmp_path: Path) -> None:
    path = tmp_path / "answer.txt"
    made = {
        axis: np.array([value])
        for axis, value in zip(("CU", "CE", "PC", "PQ"), (4, 3, 2, 1.5), strict=True)
    }
    write_answer(path, ["audiomos2025-track2-sys0-utt1"], made, 2)
    assert path.read_text() == (
        "sample_id,PQ,PC,CE,CU\naudiomos2025-track2-sys0-utt1,1.5,2.0,3.0,4.0\n"
    )


@pytest.mark.parametrize("track", [1, 2])
def test_there_and_back_is_exact_and_in_the_lists_order(tmp_path: Path, track: int) -> None:
    path = tmp_path / "answer.txt"
    made = predictions(track)
    write_answer(path, IDS, made, track, listed=[IDS[1] + ".wav", IDS[0] + ".wav"])
    answer = read_answer(path, [IDS[1], IDS[0]])
    assert answer.track == track
    assert answer.clip_ids == (IDS[1], IDS[0])
    axes = ("overall", "textual") if track == 1 else ("PQ", "PC", "CE", "CU")
    for column, axis in enumerate(axes):
        np.testing.assert_array_equal(answer.scores[:, column], made[axis][::-1])


def test_clips_that_are_not_asked_for_are_left_out(tmp_path: Path) -> None:
    write_answer(tmp_path / "answer.txt", [*IDS, "other"], predictions(1, 3), 1, listed=IDS)
    assert len(read_answer(tmp_path / "answer.txt", IDS).clip_ids) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"drop": "overall"}, "no predictions for axis 'overall'"),
        ({"nan": True}, "row 2: overall of .*S001_P004' is missing or not a finite number"),
        ({"listed": [*IDS, "audiomos2025-track1-S009_P001"]}, "1 of 3 listed clips have no"),
        ({"twice": True}, "has two predictions"),
        ({"track": 3}, "no track 3"),
    ],
)
def test_nothing_is_written_when_something_is_wrong(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "answer.txt"
    made = predictions(1)
    if "drop" in change:
        del made["overall"]
    if "nan" in change:
        made["overall"][1] = np.nan
    ids = [IDS[0], IDS[0]] if "twice" in change else IDS
    with pytest.raises(QamroError, match=words):
        write_answer(path, ids, made, change.get("track", 1), change.get("listed"))  # type: ignore[arg-type]
    assert not path.exists()


@pytest.mark.parametrize("name", ["a,b", "a\nb", 'a"b', "", "a\x1b[31m", "\udcff"])
def test_an_id_that_could_not_be_read_back_is_not_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "answer.txt"
    with pytest.raises(QamroError, match="cannot stand in an answer"):
        write_answer(path, [IDS[0], name], predictions(1), 1)
    with pytest.raises(QamroError, match="is asked for twice"):
        write_answer(path, IDS, predictions(1), 1, [IDS[0], IDS[0]])
    assert not path.exists()


GOOD = [f"{IDS[0]},3.5,4.25", f"{IDS[1]},2.0,1.0"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a,3"], r"row 1: 2 columns; track 1 has 3"),
        ([*GOOD, "a,3"], r"row 3: 2 cells where there are 3 columns"),
        ([GOOD[0], GOOD[0]], r"row 2: '.*S002_P001' is already in row 1"),
        ([GOOD[1], GOOD[0]], r"row 1: '.*S001_P004' stands where the list has '.*S002_P001'"),
        (GOOD[:1], r"1 rows for 2 listed clips; '.*S001_P004' is missing"),
        ([*GOOD, "audiomos2025-track1-S009_P001,1,1"], r"row 3: '.*S009_P001' is not in the list"),
        ([GOOD[0], f"{IDS[1]},2.0,nan"], r"row 2: 'nan' in column 'textual' is not a finite"),
        ([GOOD[0], f"{IDS[1]},,1"], r"row 2: overall of '.*S001_P004' is missing"),
        ([GOOD[0], f"{IDS[1]},two,1"], r"row 2: 'two' in column 'overall'"),
        ([",1,1", GOOD[1]], r"row 1: the id is empty"),
        (["id,textual,overall", *GOOD], r"row 1: columns textual, overall; track 1 wants overall"),
    ],
)
def test_read_names_the_row(tmp_path: Path, lines: list[str], words: str) -> None:
    path = tmp_path / "answer.txt"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(QamroError, match=words) as caught:
        read_answer(path, IDS)
    assert "\n" not in str(caught.value)


def test_header_or_not(tmp_path: Path) -> None:
    path = tmp_path / "answer.txt"
    path.write_text("x,1,2,3,4\n")
    without = read_answer(path)
    path.write_text("sample_id,PQ,PC,CE,CU\nx,1,2,3,4\n")
    assert isinstance(without, Answer)
    np.testing.assert_array_equal(read_answer(path).scores, without.scores)
    assert without.clip_ids == ("x",)


def test_lists(tmp_path: Path) -> None:
    path = tmp_path / "eval_list.txt"
    path.write_text("a.wav\nb\n\n")
    assert read_answer_list(path) == ["a.wav", "b"]
    path.write_text("sample_id,data_path,PQ\na,/x/a.wav,3\n")
    assert read_answer_list(path) == ["a"]
    path.write_text("a.wav,3.2,4.0\n")
    assert read_answer_list(path) == ["a.wav"]
    path.write_text("")
    with pytest.raises(QamroError, match="lists no clips"):
        read_answer_list(path)


def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    size = 100_000
    ids = [f"clip{i}" for i in range(size)]
    write_answer(tmp_path / "answer.txt", ids, predictions(1, size), 1, ids)
    assert read_answer(tmp_path / "answer.txt", ids).scores.shape == (size, 2)


@pytest.mark.parametrize(
    "theirs",
    [
        "clip_id,path,system,overall,textual\na,b,c,1,2\n",
        "a.wav,3.5,4\nb.wav,3,4\n",
        "just a note\n",
        "\xff,1,2\n",
    ],
)
def test_only_an_answer_is_replaced_by_an_answer(tmp_path: Path, theirs: str) -> None:
    path = tmp_path / "answer.txt"
    path.write_text(theirs, encoding="latin-1")
    with pytest.raises(QamroError, match="is no answer of qamro-predict, and is kept"):
        write_answer(path, IDS, predictions(1), 1)
    assert path.read_text(encoding="latin-1") == theirs
    path.unlink()
    for track in (1, 2, 1):
        write_answer(path, IDS, predictions(track), track)
    assert read_answer(path).track == 1


def test_a_zip_has_the_answer_in_it_and_is_checked(tmp_path: Path) -> None:
    plain, packed = tmp_path / "answer.txt", tmp_path / "submission.zip"
    made = predictions(2)
    for path in (plain, packed):
        write_answer(path, IDS, made, 2, listed=IDS[::-1])
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == ["answer.txt"]
        assert archive.read("answer.txt") == plain.read_bytes()
    first = packed.read_bytes()
    write_answer(packed, IDS, made, 2, listed=IDS[::-1])
    assert packed.read_bytes() == first, "the same answer is other bytes"
    assert read_answer(packed, IDS[::-1]).clip_ids == tuple(IDS[::-1])
    with pytest.raises(QamroError, match=r"submission.zip: answer.txt, row 2: .* stands where"):
        read_answer(packed, IDS)


def test_a_zip_that_is_no_answer_is_one_line_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "theirs.zip"
    for name, words in (
        ("folder/answer.txt", "has no answer.txt at its top"),
        ("answer.txt", "1 columns"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "mine")
        with pytest.raises(QamroError, match=words):
            read_answer(path)
        before = path.read_bytes()
        with pytest.raises(QamroError, match="is kept"):
            write_answer(path, IDS, predictions(1), 1)
        assert path.read_bytes() == before
    path.write_bytes(before[:40])
    with pytest.raises(QamroError, match="is no zip that can be read"):
        read_answer(path)
