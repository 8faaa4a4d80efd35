"""Tables as people have them: names of columns, separators, decimal commas, paths, clip ids."""

import csv
import io
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qamro_cache.datasets.columns import CALLED, FIELDS
from qamro_cache.datasets.labels import load_rated, relabel
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.options import parse_columns
from qamro_cache.datasets.records import Axis, Dataset, labels_from_means
from qamro_cache.datasets.tables import numbers, read_table, text
from qamro_cache.errors import OptionError, QamroError

ROOT = Path(__file__).resolve().parents[1]


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "clips.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def what(path: Path, **options: Any) -> list[Any]:
    """What a table comes to, in plain values."""
    found = load_manifest(path, **options)
    clips, labels = found.clips, found.labels
    ratings = labels.ratings
    start = f"{path.parent.absolute()}/"
    return [
        [axis.name for axis in labels.axes],
        [[name.removeprefix(start) for name in row] for row in clips.to_numpy().tolist()],
        np.nan_to_num(labels.mean, nan=-1).round(9).tolist(),
        None if ratings is None else list(ratings.raters),
    ]


RIGHT = (
    "clip_id,path,system,group,prompt,rater,quality\n"
    'a,x/a.wav,s1,g1,"a bell, ringing",ann,3.5\na,x/a.wav,s1,g1,"a bell, ringing",bob,4.5\n'
    "b,x/b.wav,s2,g1,a drum,ann,2\n"
)
HEADERS = [
    "Clip ID,File Name,Method,Song,Text,Listener,quality",
    "CLIP_ID,PATH,System,GROUP,Prompt,Rater,quality",
    " clip-id , Filepath,condition,sentence,caption,Subject ID,quality ",
    "id,wav,Model,song,Text,participant,quality",
    "clip_id,audio,system,group,prompt,worker_id,quality",
    "Sample,file,SYS,Group,Caption,User,quality",
]


@pytest.mark.parametrize("header", HEADERS)
def test_names_that_people_give(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, header: str
) -> None:
    expected = what(write(tmp_path, RIGHT))
    caplog.set_level(logging.INFO, "qamro_cache")
    caplog.clear()
    assert what(write(tmp_path, RIGHT.replace(RIGHT.partition("\n")[0], header))) == expected
    notices = [record.message for record in caplog.records if "read as" in record.message]
    assert len(notices) == 1
    for field, name in zip(RIGHT.split("\n")[0].split(","), header.split(","), strict=True):
        assert (f"{field} from {name.strip()!r}" in notices[0]) == (field != name.strip())


@pytest.mark.parametrize("field", FIELDS)
def test_every_name_that_the_guide_lists_is_understood(tmp_path: Path, field: str) -> None:
    listed = (ROOT / "docs" / "datasets.md").read_text()
    for name in CALLED[field]:
        assert f"`{name}`" in listed
        columns = {"clip_id": "c", "path": "c.wav", "rater": "ann", "score": "3"}
        columns = {key: value for key, value in columns.items() if key != field}
        # With a right clip_id and path, all the rest of them is words.
        value = {"clip_id": "c", "path": "c.wav", "reference": "c"}.get(field, "v")
        row = columns | {name.upper(): value}
        content = f"{','.join(row)}\n{','.join(row.values())}\n"
        found = load_manifest(write(tmp_path, content))
        assert found.clips["clip_id"][0] == "c"
        if field == "axis":
            assert [axis.name for axis in found.labels.axes] == ["v"]
        elif field == "rater":
            assert found.labels.ratings is not None
            assert found.labels.ratings.raters == ("v",)
        else:
            assert found.clips[field][0].endswith(list(row.values())[-1])


FORMS = [(";", True), ("\t", True), ("|", True), (";", False), ("\t", False), (",", False)]


@pytest.mark.parametrize(("separator", "comma"), FORMS)
@pytest.mark.parametrize("start", ["", "\ufeff", "sep"])
def test_separators_and_decimal_commas(
    tmp_path: Path, separator: str, comma: bool, start: str
) -> None:
    expected = what(write(tmp_path, RIGHT))
    rows = list(csv.reader(io.StringIO(RIGHT)))
    for row in rows[1:]:
        row[-1] = row[-1].replace(".", ",") if comma else row[-1]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator).writerows(rows)
    start = f"sep={separator}\r\n" if start == "sep" else start
    path = write(tmp_path, start + buffer.getvalue())
    assert what(path) == expected
    labels = load_rated(path)[1]
    np.testing.assert_array_equal(labels.mean[:, 0], [4.0, 2.0])


NUMBER = st.one_of(st.integers(-200, 200), st.floats(-200, 200).map(lambda x: round(x, 3)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(NUMBER, st.one_of(st.none(), NUMBER)), min_size=1, max_size=8),
    st.sampled_from(";\t|"),
)
def test_any_numbers_with_decimal_commas(
    rows: list[tuple[float, float | None]], separator: str
) -> None:
    def cell(number: float | None) -> str:
        return "" if number is None else str(number).replace(".", ",")

    with tempfile.TemporaryDirectory() as folder:
        lines = [separator.join(["Filename", "up", "down"])]
        lines += [separator.join([f"{i}.wav", cell(a), cell(b)]) for i, (a, b) in enumerate(rows)]
        labels = load_manifest(write(Path(folder), "\r\n".join(lines))).labels
    expected = np.array([[a, np.nan if b is None else b] for a, b in rows], np.float64)
    np.testing.assert_array_equal(labels.mean, expected)


NAMES = ["clip_id", "path", "system", "group", "prompt", "split", "rater"]
AXES = ["mos", "Quality", "audio", "model", "Condition", "file", "text", "axis", "set", "id", "std"]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_table_whose_names_are_right_is_read_as_it_stands(data: st.DataObject) -> None:
    """Against a plain reading: columns of numbers are axes, whatever they are called."""
    extra = data.draw(st.lists(st.sampled_from(NAMES[2:]), unique=True))
    axes = data.draw(st.lists(st.sampled_from(AXES), unique=True, max_size=4))
    header = data.draw(st.permutations([*NAMES[:2], *extra, *axes]))
    cell = st.text(st.sampled_from("ab ,;\"\n'é|."), max_size=4)
    rows = []
    for number in range(data.draw(st.integers(1, 5))):
        row = {"clip_id": f"c{number}", "path": f"{number}.wav"}
        row |= {name: data.draw(cell) for name in extra}
        row |= {name: f"{data.draw(st.integers(0, 50)) / 10:g}" for name in axes}
        rows.append([row[name] for name in header])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clips.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        found = load_manifest(path)
        plain = read_table(path)
        assert found.clips["prompt"].tolist() == (
            plain["prompt"].tolist() if "prompt" in extra else [""] * len(rows)
        )
        assert found.clips["path"].tolist() == [f"{folder}/{name}" for name in text(plain, "path")]
        assert [axis.name for axis in found.labels.axes] == [n for n in header if n in axes]
        for index, axis in enumerate(found.labels.axes):
            expected = numbers(plain, axis.name, path)
            np.testing.assert_array_equal(found.labels.mean[:, index], expected)


ODD = [*NAMES, *AXES, "Listener", "Method", "attribute", "score", "", "Notiz", "n/a"]
ODD_CELL = st.one_of(
    st.sampled_from(["", "3", "4,5", "4.5", "1.234,5", "-", "x", "a.wav", "A\\b.wav", "C:\\a.wav"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(ODD), min_size=1, max_size=6),
    st.lists(st.lists(ODD_CELL, min_size=6, max_size=6), max_size=5),
    st.sampled_from([",", ";", "\t", "|", ", "]),
    st.sampled_from([(), ("path=file",), ("quality=score", "clip_id=path"), ("axis=attribute",)]),
)
def test_any_table_loads_or_gives_one_line(
    header: list[str], rows: list[list[str]], separator: str, told: tuple[str, ...]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = [separator.join(row[: len(header)]) for row in [header, *rows]]
        path = write(Path(folder), "\n".join(lines))
        for load in (load_manifest, lambda path, columns: Dataset("x", *load_rated(path, columns))):
            found, line = None, ""
            try:
                found = load(path, columns=told)
            except QamroError as error:
                line = str(error)
            if found is None:
                assert "\n" not in line
                assert "columns" in line or str(path) in line
                continue
            assert len(found.clips) == len(found.labels.mean) > 0
            assert not found.clips["clip_id"].duplicated().any()


def test_blanks_after_commas_are_no_part_of_values(tmp_path: Path) -> None:
    expected = what(write(tmp_path, RIGHT))
    spaced = RIGHT.replace(",", ", ").replace("bell,  ringing", "bell, ringing")
    assert what(write(tmp_path, spaced)) == expected
    # A name in quotes that holds one is no such blank, nor is a single cell's.
    path = write(tmp_path, 'clip_id,path,prompt,"quality, overall"\na, a.wav, a bell,3\n')
    assert what(path)[:2] == [["quality, overall"], [["a", "a.wav", "", "", " a bell", "", "", ""]]]
    (tmp_path / " a.wav").write_bytes(b"")
    assert what(path)[1][0][1] == " a.wav"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (r"C:\test\a.wav", ["Windows machine", "--data-dir"]),
        ("D:/test/a.wav", ["Windows machine"]),
        (r"\\server\share\a.wav", ["Windows machine"]),
        ("https://example.org/a.wav", ["address", "download"]),
        ("~/a.wav", ["from /"]),
    ],
)
def test_paths_of_elsewhere(tmp_path: Path, name: str, words: list[str]) -> None:
    path = write(tmp_path, f"clip_id,path,q\na,a.wav,1\nb,{name},2\n")
    with pytest.raises(QamroError) as caught:
        load_manifest(path)
    assert f"{path}, row 3: " in str(caught.value)
    for word in [repr(name), *words]:
        assert word in str(caught.value)


def test_a_relative_windows_path_is_read_unless_a_file_is_called_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qamro_cache")
    path = write(tmp_path, "path,q\naudio\\a.wav,1\n")
    assert what(path)[1] == [["a", "audio/a.wav", "", "", "", "", "", ""]]
    assert "1 paths are read without blanks around them, and \\ as /" in caplog.text
    (tmp_path / "audio\\a.wav").write_bytes(b"")
    assert what(path)[1][0][1] == "audio\\a.wav"


def test_clips_are_called_after_their_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qamro_cache")
    path = write(tmp_path, "path,rater,q\nx/a.b.wav,r1,1\ny/c,r1,2\nx/a.b.wav,r2,3\n")
    assert [row[0] for row in what(path)[1]] == ["a.b", "c"]
    assert "clip_id from the names of the files" in caplog.text
    path = write(tmp_path, "File,q\nx/a.wav,1\nx/b.wav,3\nx/a.flac,2\n")
    with pytest.raises(QamroError, match=r"row 4: .*'x/a\.flac' here and 'x/a\.wav' in row 2 "):
        load_manifest(path)
    clips = what(path, columns=["clip_id=File"])[1]
    assert [row[:2] for row in clips] == [[n] * 2 for n in ("x/a.wav", "x/b.wav", "x/a.flac")]


def test_a_number_of_the_row_names_no_clip(tmp_path: Path) -> None:
    path = write(tmp_path, "id,file,listener,q\n1,a.wav,r1,1\n2,a.wav,r2,2\n3,b.wav,r1,3\n")
    with pytest.raises(QamroError, match=r"'id' has 3 names for 2 files; .*--columns clip_id=file"):
        load_manifest(path)
    assert what(path, columns=["clip_id=file"])[2][0] == [1.5, 1.5]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("clip_id,file,wav,q", ["'file' and 'wav' may both be the path", "--columns path=file"]),
        ("file,Method,Condition,q", ["'Method' and 'Condition'", "--columns system=Method"]),
        ("clip_id,Take File,q,r", ["no column 'path'", "--columns 'path=Take File'"]),
    ],
)
def test_what_may_be_two_things_is_asked(tmp_path: Path, header: str, words: list[str]) -> None:
    path = write(tmp_path, f"{header}\nx.wav,y.wav,z.wav,3\n")
    with pytest.raises(QamroError) as caught:
        load_manifest(path)
    assert f"{path}, row 1:" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_columns_as_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "name,wav,path,MOS,effort,quality\na,x.wav,y.wav,3,2,1\n")
    found = what(path, columns=["clip_id=name,path=WAV", "quality=mos"])
    assert found[0] == ["quality", "effort"]
    assert found[1] == [["a", "x.wav", "", "", "", "", "", ""]]
    assert found[2] == [[3, 2]]
    assert "the column 'path' is not used: 'wav' stands in its place" in caplog.text
    assert "the column 'quality' is not used: 'MOS' stands in its place" in caplog.text
    with pytest.raises(QamroError, match=r"no column 'effrt' .*did you mean 'effort'"):
        what(path, columns=["q=effrt"])


def test_columns_that_cannot_be_told() -> None:
    assert parse_columns(["a=b,c='d, e=f'", "g = h"]) == {"a": "b", "c": "d, e=f", "g": "h"}
    for words in ("path", "path=", "=x", "a=b,", "a='b"):
        with pytest.raises(OptionError, match="columns"):
            parse_columns([words])
    with pytest.raises(OptionError, match="'a' twice"):
        parse_columns(["a=b", "a=c"])


def test_words_that_say_nothing_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qamro_cache")
    path = write(tmp_path, "path,q,comment\na.wav,3,loud\nb.wav,4,\n")
    assert what(path)[0] == ["q"]
    assert "columns that are not used: comment" in caplog.text
    # Where they tell the rows of a clip apart, they may name its axes.
    path = write(tmp_path, "path,rater,topic,q\na.wav,r,clear,3\na.wav,r,loud,4\n")
    with pytest.raises(QamroError, match=r"row 3: 'loud' in column 'topic' .*--columns axis=topic"):
        load_manifest(path)
    assert what(path, columns=["axis=topic"])[::2] == [["clear", "loud"], [[3, 4]]]
    assert what(path, axes=["q"])[::2] == [["q"], [[3.5]]]


def test_a_row_a_score_of_an_axis(tmp_path: Path) -> None:
    """The export of a cache is read back."""
    path = write(tmp_path, "clip_id,axis,score,path\na,q,3,a\na,i,4,a\nb,q,5,b\n")
    found = what(path)
    assert found[::2] == [["q", "i"], [[3, 4], [5, -1]]]
    assert found[3] is None
    assert what(path, axes=["i"])[::2] == [["i"], [[4], [-1]]]
    with pytest.raises(QamroError, match=r"no row is of the axis 'j'"):
        load_manifest(path, axes=["j"])
    for content, words in (
        ("clip_id,axis,score,path\na,q,3,a\na,q,4,a\n", r"row 3: clip 'a' has a score"),
        ("clip_id,axis,score,path\na,,3,a\nb,q,3,b\n", r"row 2: names no axis"),
        ("clip_id,axis,x,y,path\na,q,3,4,a\n", r"any of x, y; .*--columns score=COLUMN"),
    ):
        with pytest.raises(QamroError, match=words):
            load_manifest(write(tmp_path, content))


def test_columns_without_a_name(tmp_path: Path) -> None:
    expected = what(write(tmp_path, RIGHT))
    lines = RIGHT.splitlines()
    numbered = [f",{lines[0]}"] + [f"{number},{line}" for number, line in enumerate(lines[1:])]
    assert what(write(tmp_path, "\n".join(numbered))) == expected
    assert what(write(tmp_path, "\n".join(f"{line},," for line in lines))) == expected


def test_mixed_decimal_signs_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "path;q\na.wav;3,5\nb.wav;4\nc.wav;4.5\n")
    with pytest.raises(QamroError, match=r"row 4: '4\.5' in column 'q', but '3,5' in row 2"):
        load_manifest(path)
    path = write(tmp_path, 'path,q\na.wav,"3,5"\n')
    with pytest.raises(QamroError, match=r"'3,5' in column 'q' is not a finite number"):
        load_manifest(path)


@pytest.mark.parametrize("cell", ["1e300", "-2e31", "1" + 40 * "0"])
def test_a_number_that_is_no_score_is_refused(tmp_path: Path, cell: str) -> None:
    """Its square would be infinite somewhere: in a mean error, an interval, a head's loss."""
    path = write(tmp_path, f"clip_id,path,q\na,a.wav,1e30\nb,b.wav,{cell}\n")
    for read in (load_manifest, load_rated):
        with pytest.raises(QamroError, match=rf"row 3: '{cell}' in column 'q' is beyond 1e\+30, "):
            read(path)


def test_labels_are_read_likewise(tmp_path: Path) -> None:
    path = write(tmp_path, "Filename;Listener;Note\nx/a.wav;1;3,5\nx/a.wav;2;4,5\nb.wav;1;2\n")
    clips, labels = load_rated(path)
    assert clips["clip_id"].tolist() == ["a", "b"]
    assert labels.mean.tolist() == [[4.0], [2.0]]
    old = labels_from_means((Axis("mos", 1, 5),), np.array([[1.0], [1.0]]))
    new = relabel(path, clips, old, columns=["mos=Note"])[1]
    assert new.axes == (Axis("mos", 1, 5),)
    assert new.mean.tolist() == [[4.0], [2.0]]
    # A column of numbers is an axis where the clips are called right.
    path = write(tmp_path, "clip_id,audio,file\na,1,2\nb,3,4\n")
    assert [axis.name for axis in load_rated(path)[1].axes] == ["audio", "file"]
