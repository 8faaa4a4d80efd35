"""Datasets by name, descriptions and plug-ins."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qamro_cache.datasets.registry import list_datasets, load_dataset
from qamro_cache.errors import QamroError


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(QamroError, match=r"demo.*--manifest"):
        load_dataset("nothing")


def test_real_set_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(QamroError, match=r"--data-dir.*github\.com/CVSSP"):
        load_dataset("cvssp-separation")
    with pytest.raises(QamroError, match="no such folder"):
        load_dataset("cvssp-separation", tmp_path / "none")
    with pytest.raises(QamroError, match=r"data/ratings\.csv or ratings\.csv is not there"):
        load_dataset("cvssp-separation", tmp_path)


def test_cvssp_against_pandas(shared_data: Path) -> None:
    folder = shared_data / "cvssp-separation"
    dataset = load_dataset("cvssp-separation", folder)
    clips, labels = dataset.clips, dataset.labels
    assert len(clips) == 96
    assert clips["system"].nunique() == 24
    assert clips["group"].nunique() == 12
    assert all(Path(path).is_file() for path in clips["path"])
    assert [axis.name for axis in labels.axes] == ["quality", "interferer"]
    assert not dataset.synthetic
    rows = pd.read_csv(folder / "data" / "ratings.csv")
    rows["clip_id"] = rows["page"] + "/" + rows["sound"]
    table = (
        rows.groupby(["clip_id", "experiment"])["rating"].agg(["mean", "sem", "count"]).unstack()
    )
    for index, axis in enumerate(("quality", "interferer")):
        for name, ours in (("mean", labels.mean), ("sem", labels.stderr), ("count", labels.count)):
            theirs = table[name][axis].loc[clips["clip_id"]].to_numpy()
            np.testing.assert_allclose(ours[:, index], theirs, rtol=0, atol=1e-12)
    assert labels.ratings is not None
    assert len(labels.ratings.score) == len(rows)
    assert len(labels.ratings.raters) == 24


def test_codec_mushra_against_json_by_hand(shared_data: Path) -> None:
    folder = shared_data / "codec-mushra"
    dataset = load_dataset("codec-mushra", folder)
    clips, labels = dataset.clips, dataset.labels
    assert len(clips) == 96
    assert clips["system"].nunique() == 8  # the anchor has no audio
    assert clips["group"].nunique() == 12
    assert all(Path(path).is_file() for path in clips["path"])
    rows = pd.read_csv(folder / "ratings_formated_filtered.csv").dropna(subset="file")
    found = dict(zip(clips["clip_id"], labels.mean[:, 0], strict=True))
    counts = dict(zip(clips["clip_id"], labels.count[:, 0], strict=True))
    assert labels.ratings is not None
    names = clips["clip_id"].to_numpy()[labels.ratings.clip]
    who = np.array(labels.ratings.raters)[labels.ratings.rater]
    ours = dict(zip(zip(names, who, strict=True), labels.ratings.score, strict=True))
    theirs = {}
    for row in rows.itertuples():
        scores, raters = json.loads(row.ratings), json.loads(row.participant_ids)
        name = row.file.removesuffix(".wav")
        assert found[name] == pytest.approx(np.mean(scores), abs=1e-12)
        assert counts[name] == len(scores)
        theirs |= {(name, str(r)): s for r, s in zip(raters, scores, strict=True)}
    assert ours == theirs


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ('"[1, 2]","[7]"', "row 2: who has 1 entries and scores has 2"),
        ('"[1, 2","[7, 8]"', r"row 2: '\[1, 2' in scores is no list"),
        ('1,"[7]"', "row 2: '1' in scores is no list"),
        ('"[[1]]","[7]"', "is no list"),
        ('"[true]","[7]"', "is no list"),
        ('"[""x""]","[7]"', "row 2: .*'x'"),
    ],
)
def test_bad_lists_in_cells_are_one_line(tmp_path: Path, cells: str, words: str) -> None:
    axes = "[[axes]]\nname = 'q'\nlow = 1\nhigh = 5\n"
    head = HEAD.replace("axes = []", "audio = ['{clip_id}']")
    clips = (
        "[[clips]]\npath = 'list.csv'\nlists = ['scores', 'who']\nscores = {q = 'scores'}\n"
        "fields = {rater = '{who}'}\n"
    )
    (tmp_path / "mine.toml").write_text(head + clips + axes)
    (tmp_path / "list.csv").write_text('clip_id,scores,who\na,"[1, 3.5]","[4, ""eve""]"\n')
    labels = load_dataset(str(tmp_path / "mine.toml"), tmp_path).labels
    assert labels.ratings is not None
    assert (labels.mean[0, 0], list(labels.ratings.raters)) == (2.25, ["4", "eve"])
    (tmp_path / "list.csv").write_text(f"clip_id,scores,who\na,{cells}\n")
    with pytest.raises(QamroError, match=words):
        load_dataset(str(tmp_path / "mine.toml"), tmp_path)


def test_cvssp_keeps_only_the_songs_on_disk(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["page,sound,url,experiment,subject,rating,is_replicate"]
    for page in ("song-1", "song-2"):
        for sound in ("ref", "ABC"):
            for axis in ("quality", "interferer"):
                lines.append(f"{page},{sound},sounds/{page}/{sound}.wav,{axis},A,50,False")
                lines.append(f"{page},{sound},sounds/{page}/{sound}.wav,{axis},A,70,True")
    (folder / "ratings.csv").write_text("\n".join(lines))
    (tmp_path / "site/sounds/song-2").mkdir(parents=True)
    (tmp_path / "site/sounds/song-2/ref.flac").write_bytes(b"")
    dataset = load_dataset("cvssp-separation", tmp_path)
    # A missing file of a present song stays listed: the extraction says that it is missing.
    assert list(dataset.clips["clip_id"]) == ["song-2/ref", "song-2/ABC"]
    assert "1 of 2 groups are left out" in dataset.notes[-1]
    np.testing.assert_array_equal(dataset.labels.mean, [[60, 60], [60, 60]])
    assert dataset.labels.ratings is not None
    assert sorted(dataset.labels.ratings.score) == [50] * 4 + [70] * 4
    assert dataset.labels.ratings.clip.max() == 1


def test_own_description_needs_no_python(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        """
        name = "mine"
        title = "my test"
        license = "mine"
        source = "my disk"
        audio = ["{stem}.flac", "{stem}.wav"]
        [[axes]]
        name = "mos"
        low = 1
        high = 5
        [[clips]]
        path = "list.txt"
        format = "psv"
        columns = ["file", "score"]
        split = "train"
        extract = [{source = "{file}", pattern = '^(?P<stem>(?P<system>[a-z]+)_.+?)([.]wav)?$'}]
        scores = {mos = "score"}
        fields = {clip_id = "{stem}"}
        """
    )
    (tmp_path / "list.txt").write_text("abc_1.wav|3\nxyz_2|4.5\n")
    (tmp_path / "xyz_2.wav").write_bytes(b"")
    dataset = load_dataset(str(tmp_path / "mine.toml"))
    assert list(dataset.clips["clip_id"]) == ["abc_1", "xyz_2"]
    assert list(dataset.clips["system"]) == ["abc", "xyz"]
    assert list(dataset.clips["split"]) == ["train", "train"]
    assert list(dataset.clips["path"]) == [
        str(tmp_path / "abc_1.flac"),
        str(tmp_path / "xyz_2.wav"),
    ]
    np.testing.assert_array_equal(dataset.labels.mean[:, 0], [3, 4.5])
    (tmp_path / "list.txt").write_text("abc_1.wav|3\n123|4.5\n")
    with pytest.raises(QamroError, match=r"list\.txt, row 2: '123' is not of the form"):
        load_dataset(str(tmp_path / "mine.toml"), tmp_path)


HEAD = "name = 'x'\ntitle = 'x'\nlicense = 'x'\nsource = 'x'\naxes = []\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name = ", "not a TOML file"),
        ('name = "x"', "no 'title'"),
        ('nmae = "x"', "unknown key 'nmae'; did you mean 'name'"),
        (f"{HEAD}audio = ['{{a']\n[[clips]]\npath = 'a'", "template '{a'"),
        (f"{HEAD}audio = []\n[[clips]]\npath = 3", r"clips: path is 3; write a list"),
        ("axes = [{name = 'q', low = '1', high = 5}]", "low is '1'; write a number"),
        ("axes = 3", r"axes is 3; write a list \[\.\.\.\]"),
        ("name = 3\n" + HEAD.partition("\n")[2] + "audio = []", "name is 3; write text in quotes"),
        (f"{HEAD}audio = []\n[[clips]]\npath = 'a'\nformat = 'xls'", "use csv, tsv"),
        (f"{HEAD}audio = []\n[[clips]]\npath = 'a'\nscores = {{q = 'q'}}", "axis 'q', which"),
        (
            f"{HEAD}audio = []\n[[clips]]\npath = 'a'\n"
            "extract = [{source = '{a}', pattern = '(?P<'}]",
            "pattern",
        ),
        (f"{HEAD}audio = []\n[[clips]]\npath = ['/etc/*']", "a path starts with /"),
        *(
            (HEAD.replace("axes = []", "audio = []") + "[[clips]]\npath = 'a'\n" + axes, words)
            for axes, words in (
                ("[[axes]]\nname = 'q'\nlow = 5\nhigh = 1", "low is not below high"),
                ("[[axes]]\nname = 'q'\nlow = 1\nhigh = nan", "low is not below high"),
                (
                    "[[axes]]\nname = 'q'\nlow = 1\nhigh = 5\n[published]\nsteps = {q = 0}",
                    "a step above 0",
                ),
                (
                    "[published]\nsteps = {q = 1}\n[[axes]]\nname = 'r'\nlow = 1\nhigh = 5",
                    "name an",
                ),
                ("[[axes]]\nname = 'q'\nlow = 1\nhigh = 5\n" * 2, "have one name"),
            )
        ),
        (f"{HEAD}audio = []", "no 'clips'"),
        ("axes = [1]", "axes: is 1; write a table"),
        ("clips = [[]]", r"clips: is \[\]; write a table"),
        ("published = {clips = {train = 'x'}}", r"clips\.train is 'x'; write a whole number"),
        ("published = {systems = true}", "systems is True; write a whole number"),
        (f"axes = [{{name = 'q', low = 1{'0' * 400}, high = 5}}]", "more than 64 bits"),
        (f"notes = 1{'0' * 5000}", "not a TOML file"),
        (f"x = {'[' * 5000}{']' * 5000}", "too deep"),
        (f"notes = ['{'x' * (1 << 20)}']", "larger than 1 MB"),
        ("[[clips]]\npath = 'a'\nfields = {system = 3}", r"fields\.system is 3; write text"),
        (
            "'\x1b[2J' = 1".replace("\x1b", "\\x1b").replace("'", '"').replace("\\x1b", "\\u001b"),
            "unknown key",
        ),
    ],
)
def test_bad_description_is_one_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(QamroError, match=words) as caught:
        load_dataset(str(path), tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "use",
    [
        "extract = [{source = '{a}', pattern = '(?P<system>(a|aa)+)c'}]",
        "only = {source = '{a}', pattern = '(a|aa)+c'}",
    ],
)
def test_a_pattern_that_would_take_hours_is_one_line(
    tmp_path: Path, use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qamro_cache.datasets.patterns.SECONDS", 0.2)
    (tmp_path / "list.csv").write_text(f"a\n{'a' * 100}\n")
    head = HEAD.replace("axes = []", "audio = ['{clip_id}']")
    clips = "[[clips]]\npath = 'list.csv'\nfields = {clip_id = '{a}'}\n"
    axes = "[[axes]]\nname = 'q'\nlow = 1\nhigh = 5\n"
    (tmp_path / "mine.toml").write_text(f"{head}{clips}{use}\n{axes}")
    with pytest.raises(QamroError, match=r"list\.csv: 'aaa.* busy for more than 0\.2 s"):
        load_dataset(str(tmp_path / "mine.toml"), tmp_path)


def test_plug_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two packages as an installer would leave them, one of them broken."""
    (tmp_path / "their_package.py").write_text(
        "from qamro_cache.datasets.manifest import load_manifest\n"
        "def load(data_dir):\n"
        "    return load_manifest(data_dir / 'theirs.csv')\n"
    )
    (tmp_path / "theirs.csv").write_text("clip_id,path,q\na,a.wav,3\n")
    for name, target in (("theirs", "their_package:load"), ("broken", "no_such_package:load")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[qamro_cache.datasets]\n{name} = {target}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list_datasets()["theirs"] == "from their_package"
    assert list(load_dataset("theirs", tmp_path).clips["clip_id"]) == ["a"]
    with pytest.raises(QamroError, match="cannot be imported"):
        load_dataset("broken", tmp_path)


def test_the_guides_description_works(tmp_path: Path) -> None:
    guide = Path(__file__).parents[1] / "docs" / "datasets.md"
    example = re.findall(r"```toml\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)[0]
    (tmp_path / "mine.toml").write_text(example)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.txt").write_text("m1_p07.wav,3.5\n")
    (tmp_path / "prompts.tsv").write_text("id\ttext\np07\ta bell, ringing\n")
    dataset = load_dataset(str(tmp_path / "mine.toml"), tmp_path)
    assert dataset.clips.iloc[0].to_dict() == {
        "clip_id": "m1_p07",
        "path": str(tmp_path / "audio/m1_p07.wav"),
        "system": "m1",
        "group": "p07",
        "prompt": "a bell, ringing",
        "split": "train",
        "reference": "",
        "source": "",
    }
    np.testing.assert_array_equal(dataset.labels.mean, [[3.5]])
