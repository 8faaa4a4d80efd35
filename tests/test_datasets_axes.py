"""Scales of axes, named and guessed; ratings that look mistaken; columns that look like none."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qamro_cache.datasets.axes import far_off, take_axes, with_scales
from qamro_cache.datasets.checks import check_dataset
from qamro_cache.datasets.described import load_described
from qamro_cache.datasets.description import read_description
from qamro_cache.datasets.labels import relabel
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.options import parse_scales
from qamro_cache.datasets.records import Axis, labels_from_means
from qamro_cache.errors import OptionError, QamroError


def write(folder: Path, header: str, rows: list[str]) -> Path:
    path = folder / "clips.csv"
    path.write_text("\n".join([header, *rows]))
    return path


def test_scales_as_written() -> None:
    assert parse_scales(["q=0:100", " e = -3 : +3", "a=b=1:5"]) == {
        "q": (0, 100),
        "e": (-3, 3),
        "a=b": (1, 5),
    }
    for words in ("q", "q=", "=1:5", "q=1", "q=5:1", "q=1:1", "q=a:b", "q=1..5", "q=nan:5",
                  "q=0:1e999", "q=1:5:9", "q=1_0:20"):  # fmt: skip
        with pytest.raises(OptionError, match=r"AXIS=LOW:HIGH"):
            parse_scales([words])
    with pytest.raises(OptionError, match="'q' twice"):
        parse_scales(["q=1:5", "q=0:5"])


def test_a_named_scale_replaces_the_guess(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "path,q,e", ["a.wav,3,3", "b.wav,4,4"])
    found = load_manifest(path, scale=["q=0:100"])
    assert found.labels.axes == (Axis("q", 0, 100), Axis("e", 1, 5))
    assert [axis.guessed for axis in found.labels.axes] == [False, True]
    assert len(found.notes) == 1
    assert "scale of e: 1 to 5, guessed from the scores seen; --scale e=" in found.notes[0]
    with pytest.raises(QamroError, match=r"clips\.csv, row 3: 4 in column 'e' .* 1 to 3.5 "):
        load_manifest(path, scale=["e=1:3.5"])
    with pytest.raises(QamroError, match=r"names no axis: 'qq'; there are: q, e"):
        load_manifest(path, scale=["qq=1:5"])


def test_scales_of_labels_that_are_there(tmp_path: Path) -> None:
    labels = labels_from_means(
        (Axis("q", 1, 5, True), Axis("e", 1, 5)), np.array([[3.0, 1], [4, 5]])
    )
    assert with_scales(labels, {}, ["a", "b"]).axes == labels.axes
    new = with_scales(labels, {"q": (0, 10), "e": (0, 100)}, ["a", "b"])
    assert new.axes == (Axis("q", 0, 10), Axis("e", 0, 100))
    assert not any(axis.guessed for axis in new.axes)
    with pytest.raises(QamroError, match=r"clip 'b' has 4 on 'q'"):
        with_scales(labels, {"q": (1, 3)}, ["a", "b"])
    # Single ratings are held to it, too.
    path = write(tmp_path, "clip_id,path,rater,q", ["a,a,r,1", "a,a,s,5"])
    rated = load_manifest(path).labels
    with pytest.raises(QamroError, match=r"clip 'a' has 5 on 'q'"):
        with_scales(rated, {"q": (1, 4)}, ["a"])
    clips = load_manifest(path).clips
    assert relabel(path, clips, labels_from_means((Axis("q", 1, 5),), np.ones((1, 1))),
                   scale=["q=0:9"])[1].axes == (Axis("q", 0, 9),)  # fmt: skip
    (tmp_path / "splits.csv").write_text("clip_id,split\na,dev\n")
    assert relabel(tmp_path / "splits.csv", clips, rated, scale=["q=0:9"])[1].axes[0].high == 9


def far(values: list[float]) -> list[float]:
    scores = np.array(values, np.float64)
    return sorted(scores[far_off(scores)])


MUSHRA = [float(x) for x in range(0, 100, 3)]
MOS = [1 + x % 9 / 2 for x in range(30)]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([*MUSHRA, 410], [410]),
        ([*MUSHRA, 99.5, 100, 410], [410]),
        ([*MOS, 45], [45]),
        ([*MOS, 10], [10]),
        ([*MOS, -1], [-1]),
        ([*MOS * 3, -99, -99, np.nan], [-99, -99]),
        ([*MOS, 0, 0, 0], [0, 0, 0]),
        ([*MUSHRA, -1], [-1]),
        (MUSHRA, []),
        (MOS, []),
        ([0, 1, 1, 0, 0.5], []),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], []),
        ([0, 2, 4, 5.5, 7, 9], []),
        ([4.1] * 30 + [4.2, 1.0], []),
        ([-3, -2, -1, 0, 1, 2, 3] * 5, []),
        ([3.0] * 5, []),
        ([np.nan] * 3, []),
        ([], []),
        ([2, 40], []),
    ],
)
def test_ratings_far_off(scores: list[float], expected: list[float]) -> None:
    assert far(scores) == expected


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 100), min_size=20, max_size=60),
    st.integers(0, 19),
    st.sampled_from([10.0, 100.0]),
)
def test_a_slipped_point_is_found_in_any_order(scores: list[int], place: int, slip: float) -> None:
    values = [float(score) for score in scores]
    values[place] = (1 + values[place]) * slip * 20
    rest = [value for n, value in enumerate(values) if n != place]
    if max(rest) - min(rest) > 0 and values[place] > 200:
        assert far(values) == [values[place]]


def test_far_ratings_are_pointed_out_by_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"{n}.wav,{score}" for n, score in enumerate([*MUSHRA, 410, 50])]
    path = write(tmp_path, "path,q", rows)
    load_manifest(path)
    assert f"{path}: q: 410 in row {len(MUSHRA) + 2}, the other ratings lie between 0 and 99" in (
        caplog.text
    )
    caplog.clear()
    load_manifest(path, scale=["q=0:500"])
    assert "410" not in caplog.text


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("take", [0, 0, 0, 7, 7, 7], "the same for all clips of a system"),
        ("level", [1, 2, 1, 2, 1, 2], "the same for all clips of a group"),
        ("take", [0, 1, 2, 2, 1, 0], "it counts the clips of each system"),
        ("Std-Dev", [1, 2, 4, 3, 1, 2], "its name"),
        ("q", [1, 2, 4, 3, 1, 2], None),
        ("q", [3, 3, 3, 3, 3, 3], None),
    ],
)
def test_what_looks_like_no_rating(
    tmp_path: Path, name: str, values: list[int], why: str | None
) -> None:
    rows = [f"{n}.wav,s{n // 3},g{n % 2},{value}" for n, value in enumerate(values)]
    path = write(tmp_path, f"path,system,group,{name}", rows)
    found = check_dataset(load_manifest(path), read_audio=False)["problems"]
    messages = [one["message"] for one in found if one["code"] == "no-rating"]
    assert len(messages) == (why is not None)
    if why is not None:
        assert messages[0].startswith(f"{name}: looks like no rating: ")
        assert why in messages[0]
        told = load_manifest(path, scale=[f"{name}=0:10"])
        codes = [one["code"] for one in check_dataset(told, read_audio=False)["problems"]]
        assert "no-rating" not in codes


def test_axes_that_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path, "path,q,take,e", ["a.wav,3,one,4", "b.wav,4,two,5"])
    found = load_manifest(path, axes=["e", "q"])
    assert [axis.name for axis in found.labels.axes] == ["e", "q"]
    assert found.labels.mean.tolist() == [[4, 3], [5, 4]]
    with pytest.raises(QamroError, match=r"no column is the axis 'qq'; .*did you mean 'q'"):
        load_manifest(path, axes=["qq"])


def test_axes_of_a_release(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("clip_id,system,q,e\na,s,3,4\n")
    (tmp_path / "systems.csv").write_text("system,q,e\ns,1,2\n")
    (tmp_path / "mine.toml").write_text(
        "name = 'x'\ntitle = 'x'\nlicense = 'x'\nsource = 'x'\naudio = ['{clip_id}.wav']\n"
        "[[axes]]\nname = 'q'\nlow = 1\nhigh = 5\n[[axes]]\nname = 'e'\nlow = 1\nhigh = 5\n"
        "[[clips]]\npath = 'list.csv'\nscores = {q = 'q', e = 'e'}\n"
        "[system_scores]\npath = 'systems.csv'\nsystem = 'system'\nscores = {q = 'q', e = 'e'}\n"
    )
    found = load_described(read_description(tmp_path / "mine.toml"), tmp_path)
    assert take_axes(found, ()) is found
    taken = take_axes(found, ["e"])
    assert [axis.name for axis in taken.labels.axes] == ["e"]
    assert taken.system_scores == {"s": (2.0,)}
    with pytest.raises(QamroError, match="no axis 'x'"):
        take_axes(found, ["x"])


def test_an_axis_of_two_words_is_quoted_where_a_command_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"{n}.wav,{score}" for n, score in enumerate([*MUSHRA, 410, 50])]
    found = load_manifest(write(tmp_path, "path,my score", rows))
    assert found.notes[0].endswith("; --scale 'my score'=LOW:HIGH names it")
    assert "name the scale with --scale 'my score'=LOW:HIGH" in caplog.text
