"""Tables as they are sent: ratings in lists, files elsewhere, and all mistakes in one pass."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from qamro_cache_cli.extract import main as extract_command

from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.records import Dataset
from qamro_cache.datasets.registry import load_dataset
from qamro_cache.errors import MistakesError, QamroError

#: Clip -> who rated it, and how; an empty score is none.
RATED = {
    "a.wav": (["ann", "bo lee", "cy"], ["3", "4.5", "5"]),
    "b.wav": (["ann", "cy"], ["1", "2"]),
    "c.wav": (["bo lee"], ["4"]),
}
LISTS = {
    "JSON": lambda items: json.dumps([float(i) if i[0].isdigit() else i for i in items]),
    "Python": lambda items: str(tuple(items)).replace(",)", ")"),
    "semicolons": ";".join,
    "bars": " | ".join,
    "commas": ", ".join,
}


def write(folder: Path, text: str) -> Path:
    (folder / "clips.csv").write_text(text)
    return folder / "clips.csv"


def ratings_of(dataset: Dataset) -> list[tuple[str, str, float]]:
    found = dataset.labels.ratings
    assert found is not None
    who = [found.raters[rater] if rater >= 0 else "" for rater in found.rater]
    ids = dataset.clips["clip_id"].to_numpy(object)[found.clip]
    return sorted(zip(ids, who, found.score.tolist(), strict=True))


@pytest.mark.parametrize("form", list(LISTS))
@pytest.mark.parametrize("who", ["participant_ids", "Listeners", "rater", ""])
def test_a_clips_ratings_in_one_cell(tmp_path: Path, form: str, who: str) -> None:
    """The same as a row a rating."""
    make = LISTS[form]
    rows = [
        {"file": name, "scores": make(scores), **({who: make(raters)} if who else {})}
        for name, (raters, scores) in RATED.items()
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "clips.csv", index=False)
    lists = load_manifest(tmp_path / "clips.csv")
    assert [axis.name for axis in lists.labels.axes] == ["scores"]
    long = [
        f"{name},{score},{rater}"
        for name, (raters, scores) in RATED.items()
        for rater, score in zip(raters, scores, strict=True)
    ]
    plain = load_manifest(write(tmp_path, "\n".join(["file,scores,rater", *long]) + "\n"))
    np.testing.assert_allclose(lists.labels.mean, plain.labels.mean)
    np.testing.assert_array_equal(lists.labels.count, plain.labels.count)
    if who:
        assert ratings_of(lists) == ratings_of(plain)


def test_lists_with_holes_and_of_other_lengths(tmp_path: Path) -> None:
    path = write(tmp_path, 'file,q,rater\na.wav,"[3, null, 5]",\nb.wav,"[]","[]"\nc.wav,4,x\n')
    found = load_manifest(path)
    assert ratings_of(found) == [("a", "", 3.0), ("a", "", 5.0), ("c", "x", 4.0)]
    assert np.isnan(found.labels.mean[1, 0])
    path = write(tmp_path, "file,q,raters\na.wav,1;2,x;y\nb.wav,1;2,x;y;z\nc.wav,3;5,x;y\n")
    with pytest.raises(QamroError, match=r"row 3: raters has 3 entries and q has 2; mend the row"):
        load_manifest(path)
    path = write(tmp_path, "file,q,n\na.wav,1;2,1;2\nb.wav,1;2,1;2;3\nc.wav,3;4,5;6;7\n")
    with pytest.raises(QamroError, match=r"rows 3, 4; the first: n has 3 entries and q has 2; men"):
        load_manifest(path)


def test_what_is_no_list_is_named(tmp_path: Path) -> None:
    for cell in ("3,5;4,5", "3/4/5", "3;x"):
        path = write(tmp_path, f'clip_id,path,q\na,a.wav,"{cell}"\n')
        with pytest.raises(QamroError, match="several raters' scores in a cell: 3;4;5"):
            load_manifest(path)


def test_clips_of_one_name_in_folders_are_called_by_their_paths(tmp_path: Path) -> None:
    path = write(tmp_path, "file,q\nx/a.wav,1\nx/b.wav,3\ny/a.wav,2\n")
    assert load_manifest(path).clips["clip_id"].tolist() == ["x/a", "x/b", "y/a"]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"")


def test_files_with_another_ending_or_in_a_folder_beside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qamro_cache")
    path = write(tmp_path, "file,q\na.wav,1\nb.wav,3\nc.wav,2\n")

    def files(**options: Path) -> list[str]:
        start = f"{tmp_path}/"
        found = load_manifest(path, **options).clips["path"]  # type: ignore[arg-type]
        return [one.removeprefix(start) for one in found]

    assert files() == ["a.wav", "b.wav", "c.wav"]
    touch(tmp_path / "set/a.flac", tmp_path / "set/b.wav", tmp_path / "set/b.mp3")
    touch(tmp_path / "set/c.ogg", tmp_path / "set/c.mp3", tmp_path / ".hidden/a.wav")
    # Of two, neither is taken; a folder that was named is not left.
    assert files() == ["set/a.flac", "set/b.wav", "set/c.wav"]
    assert f"its files are in {tmp_path}/set; --data-dir says otherwise" in caplog.text
    assert "1 files have another ending than it says and are taken: the first, a.wav" in caplog.text
    assert files(data_dir=tmp_path) == ["a.wav", "b.wav", "c.wav"]
    touch(tmp_path / "other/b.wav")
    assert files() == ["a.wav", "b.wav", "c.wav"]
    touch(tmp_path / "c.wav")
    assert files() == ["a.wav", "b.wav", "c.wav"]


def test_a_file_that_another_row_names_is_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A codec study whose uncoded files were lost, and one file for two names."""
    caplog.set_level(logging.INFO, "qamro_cache")
    names = ["s.wav", "s.mp3", "t.wav", "u.wav", "u.mp3", "v.wav"]
    path = write(tmp_path, "\n".join(["clip_id,path,q", *(f"{one},{one},3" for one in names)]))
    touch(tmp_path / "s.mp3", tmp_path / "t.mp3", tmp_path / "u.flac")
    # What is no regular file is there by its own name.
    os.mkfifo(tmp_path / "v.wav")
    found = [Path(one).name for one in load_manifest(path).clips["path"]]
    assert found == ["s.wav", "s.mp3", "t.mp3", "u.wav", "u.mp3", "v.wav"]
    assert "1 files have another ending than it says and are taken: the first, t" in caplog.text


@pytest.mark.parametrize("head", ["clip_id", "id", "Stimulus"])
def test_labels_and_a_folder_of_audio(tmp_path: Path, head: str) -> None:
    """Ids, or names without ending, are enough where files are called so."""
    path = write(tmp_path, f"{head},mos\ns1.5,1\nt,2\n")
    if head != "Stimulus":
        with pytest.raises(QamroError, match="there is no column 'path', and no audio file is cal"):
            load_manifest(path)
    touch(tmp_path / "wavs/s1.5.wav", tmp_path / "wavs/t.FLAC")
    for folder in (None, tmp_path / "wavs"):
        found = load_manifest(path, folder).clips
        assert found["clip_id"].tolist() == ["s1.5", "t"]
        names = [Path(one).relative_to(tmp_path).as_posix() for one in found["path"]]
        assert names == ["wavs/s1.5.wav", "wavs/t.FLAC"]


def test_clips_without_a_file_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "system,file,q\ns,a.wav,1\nanchor,,3\ns,b.wav,2\nanchor, ,3\n")
    assert load_manifest(path).clips["clip_id"].tolist() == ["a", "b"]
    said = f"{path}: rows 3, 5 name no file and are left out; these are all rows whose system is"
    assert f"{said} 'anchor'\n" in caplog.text
    caplog.clear()
    path = write(tmp_path, "clip_id,path,q\nx,,1\ny,b.wav,2\n")
    assert load_manifest(path).clips["clip_id"].tolist() == ["y"]
    assert f"{path}: row 2 names no file and is left out" in caplog.text
    assert "these are all" not in caplog.text
    # A clip whose other row names it keeps its ratings, or is an error.
    path = write(tmp_path, "clip_id,path,rater,q\nx,x.wav,r,1\nx,,s,2\n")
    with pytest.raises(QamroError, match=r"row 3: clip 'x' has path '' here and 'x\.wav' in row 2"):
        load_manifest(path)


def test_all_mistakes_are_told_in_one_pass(tmp_path: Path) -> None:
    rows = "".join(f"c{k},c{k}.wav,s,{'bad' if k % 2 else k},1\n" for k in range(30))
    rows += ",x.wav,s,1,1\nc3,y.wav,s,2,oops\nz,C:\\z.wav,s,3,4\n"
    path = write(tmp_path, f"clip_id,path,system,q,r\n{rows}")
    want = [
        "row 34: 'C:\\\\z.wav' is a path of a Windows machine",
        "row 32: clip_id is empty",
        "row 33: clip_id 'c3' is already in row 5",
        "rows 3, 5, 7, 9, 11, 13, 15, 17, 19, 21 and 5 more; the first: 'bad' in column 'q' is not",
        "row 33: 'oops' in column 'r' is not a finite number",
    ]
    with pytest.raises(MistakesError) as caught:
        load_manifest(path)
    assert len(caught.value.lines) == len(want)
    for line, words in zip(caught.value.lines, want, strict=True):
        assert line.startswith(f"{path}, {words}")
    assert str(caught.value) == f"{caught.value.lines[0]} (and 4 more)"
    ask = ["--manifest", str(path), "--encoder", "mel", "--out", str(tmp_path / "e.h5")]
    done = CliRunner().invoke(extract_command, ask)
    assert done.exit_code == 1
    said = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "also: "))]
    assert [line.partition(": ")[0] for line in said] == ["error", *["also"] * 4]
    assert "Traceback" not in done.output


def test_all_columns_are_told_in_one_pass(tmp_path: Path) -> None:
    path = write(tmp_path, "wav,file,method,condition,q\na,b,c,d,1\n")
    with pytest.raises(MistakesError) as caught:
        load_manifest(path, columns=["quality=mos", "group=song"])
    lines = caught.value.lines
    assert ["'mos'" in lines[0], "'song'" in lines[1]] == [True, True]
    assert "may both be the path" in lines[2]
    assert "may both be the system" in lines[3]
    # What is unclear is not missed once more.
    assert len(lines) == 4
    path = write(tmp_path, "clip_id,path,q\na,b\nc,d,1\ne\n")
    with pytest.raises(
        QamroError, match=r"rows 2, 4; the first: 2 cells where there are 3 columns"
    ):
        load_manifest(path)


def test_a_real_test_as_published(shared_data: Path) -> None:
    """The table of `codec-mushra` alone, without its description, a flag or an edit."""
    folder = shared_data / "codec-mushra"
    found = load_manifest(folder / "ratings_formated_filtered.csv")
    want = load_dataset("codec-mushra", folder)
    for column in ("clip_id", "path", "system", "group"):
        assert found.clips[column].tolist() == want.clips[column].tolist()
    np.testing.assert_array_equal(found.labels.mean, want.labels.mean)
    assert ratings_of(found) == ratings_of(want)
