"""The described sets, on small releases of the real form and on the real label files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qamro_cache.datasets.records import Dataset
from qamro_cache.datasets.registry import descriptions, load_dataset
from qamro_cache.errors import QamroError

AES = ("Production_Quality", "Production_Complexity", "Content_Enjoyment", "Content_Usefulness")
TRACK1 = "audiomos2025-track1-"
CLIP = "clip_id"


def put(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def row(dataset: Dataset, clip_id: str) -> int:
    return list(dataset.clips["clip_id"]).index(clip_id)


def test_every_description_names_license_and_source() -> None:
    names = set(descriptions())
    assert names >= {
        "musiceval",
        "aes-natural",
        "aes-pam",
        "somos",
        "bvcc",
        "nisqa",
        "singmos",
        "cvssp-separation",
        "codec-mushra",
    }
    for name, description in descriptions().items():
        assert description.license, name
        assert "http" in description.source, name
        assert description.axes, name


# --- MusicEval -----------------------------------------------------------------------------


def musiceval(folder: Path) -> Path:
    """Two ordinary systems and a demo system that reuses prompt number P001 for another prompt."""
    return put(
        folder,
        {
            "sets/train_mos_list.txt": f"{TRACK1}S002_P001.wav,3.2,4.0\n"
            f"{TRACK1}S003_P002.wav,1.0,5.0\n{TRACK1}S001_P001.wav,2.0,2.2\n",
            # Without .wav, and without a final newline.
            "sets/dev_mos_list.txt": f"{TRACK1}S002_P002,2.6,3.0",
            "prompt_info.txt": 'id\ttext\nP001\ta "soft" piano\nP002\tdrums, fast\n',
            "demo_prompt_info.txt": f"id\ttext\n{TRACK1}S001_P001.wav\twaves on a shore\n",
            "system_mos/system_mos_phase1.csv": "S001,2.0,2.2\nS002,2.9,3.5\nS003,1.0,5.0\n",
            f"wav/{TRACK1}S002_P001.wav": "",
            f"wav/{TRACK1}S001_P001.wav": "",
        },
    )


def test_musiceval(tmp_path: Path) -> None:
    dataset = load_dataset("musiceval", musiceval(tmp_path))
    clips = dataset.clips.set_index("clip_id")
    assert list(clips["split"]) == ["train", "train", "train", "dev"]
    assert clips.loc[f"{TRACK1}S002_P002", "system"] == "S002"
    # The demo system's P001 is another prompt than P001.
    assert clips.loc[f"{TRACK1}S002_P001", "prompt"] == 'a "soft" piano'
    assert clips.loc[f"{TRACK1}S001_P001", "prompt"] == "waves on a shore"
    assert clips.loc[f"{TRACK1}S003_P002", "prompt"] == "drums, fast"
    assert clips.loc[f"{TRACK1}S002_P001", "group"] == "P001"
    assert clips.loc[f"{TRACK1}S001_P001", "group"] == "S001_P001"
    assert clips.loc[f"{TRACK1}S002_P002", "path"] == str(tmp_path / f"wav/{TRACK1}S002_P002.wav")
    assert [axis.name for axis in dataset.labels.axes] == ["overall", "textual"]
    np.testing.assert_array_equal(dataset.labels.mean, [[3.2, 4], [1, 5], [2, 2.2], [2.6, 3]])
    assert (dataset.labels.count == 5).all()
    assert dataset.system_scores["S002"] == (2.9, 3.5)


def test_musiceval_a_demo_system_never_falls_back_to_the_other_prompts(tmp_path: Path) -> None:
    musiceval(tmp_path)
    (tmp_path / "demo_prompt_info.txt").write_text("id\ttext\nelse.wav\telse\n")
    dataset = load_dataset("musiceval", tmp_path)
    assert dataset.clips["prompt"][row(dataset, f"{TRACK1}S001_P001")] == ""
    (tmp_path / "demo_prompt_info.txt").unlink()
    dataset = load_dataset("musiceval", tmp_path)
    assert dataset.clips["prompt"][row(dataset, f"{TRACK1}S001_P001")] == ""


def test_musiceval_evaluation_phase_without_labels(tmp_path: Path) -> None:
    musiceval(tmp_path)
    put(tmp_path, {"sets/eval_list.txt": f"{TRACK1}S002_P003\n{TRACK1}S009_P001\n"})
    # Some audio is there, none of these: a folder of the training phase alone.
    dataset = load_dataset("musiceval", tmp_path)
    assert len(dataset.clips) == 4
    assert "eval_list.txt is left out" in dataset.notes[-1]
    put(tmp_path, {f"wav/{TRACK1}S009_P001.wav": ""})
    dataset = load_dataset("musiceval", tmp_path)
    assert list(dataset.clips["split"][4:]) == ["test", "test"]
    assert np.isnan(dataset.labels.mean[4:]).all()
    assert (dataset.labels.count[4:] == 0).all()
    # When the scores are published, the names alone are not read a second time.
    put(
        tmp_path,
        {
            "sets/test_mos_list.txt": f"{TRACK1}S002_P003.wav,1.2,1.4\n"
            f"{TRACK1}S009_P001.wav,1.6,1.8\n"
        },
    )
    dataset = load_dataset("musiceval", tmp_path)
    np.testing.assert_array_equal(dataset.labels.mean[4:], [[1.2, 1.4], [1.6, 1.8]])


def test_musiceval_evaluation_phase_is_a_folder_of_its_own(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "DATA/sets/eval_list.txt": f"{TRACK1}S002_P003\n{TRACK1}S009_P001\n",
            f"DATA/wav/{TRACK1}S002_P003.wav": "",
        },
    )
    dataset = load_dataset("musiceval", tmp_path)
    assert list(dataset.clips["split"]) == ["test", "test"]
    assert dataset.clips["path"][0] == str(tmp_path / f"DATA/wav/{TRACK1}S002_P003.wav")
    assert [axis.name for axis in dataset.labels.axes] == ["overall", "textual"]
    (tmp_path / "DATA/sets/eval_list.txt").unlink()
    with pytest.raises(QamroError, match=r"none of the lists of musiceval is there \(sets/train"):
        load_dataset("musiceval", tmp_path)


def test_tab_separated_quotes_are_text_unless_they_enclose_a_cell(tmp_path: Path) -> None:
    musiceval(tmp_path)
    (tmp_path / "prompt_info.txt").write_text(
        'id\ttext\nP001\t"Ode" to joy, "slow"\nP002\t"a ""soft"" piano"\nP003\t"open\n'
    )
    dataset = load_dataset("musiceval", tmp_path)
    assert dataset.clips["prompt"][row(dataset, f"{TRACK1}S002_P001")] == '"Ode" to joy, "slow"'
    assert dataset.clips["prompt"][row(dataset, f"{TRACK1}S003_P002")] == 'a "soft" piano'


def test_musiceval_raters(tmp_path: Path) -> None:
    musiceval(tmp_path)
    people = [f"{TRACK1}S002_P001.wav,Rater{i:02d},{s},4\n" for i, s in enumerate((3, 3, 3, 3, 4))]
    put(tmp_path, {"person_mos/train_person_mos.txt": "".join(reversed(people))})
    dataset = load_dataset("musiceval", tmp_path)
    at = row(dataset, f"{TRACK1}S002_P001")
    assert dataset.labels.mean[at].tolist() == [3.2, 4]
    assert dataset.labels.stderr[at, 0] == pytest.approx(np.std([3, 3, 3, 3, 4], ddof=1) / 5**0.5)
    ratings = dataset.labels.ratings
    assert ratings is not None
    assert ratings.raters == tuple(f"Rater{i:02d}" for i in range(5))
    mine = (ratings.clip == at) & (ratings.axis == 0)
    assert dict(zip(ratings.rater[mine], ratings.score[mine], strict=True)) == {
        0: 3,
        1: 3,
        2: 3,
        3: 3,
        4: 4,
    }
    # Clips without single ratings keep their published mean.
    assert dataset.labels.mean[row(dataset, f"{TRACK1}S003_P002")].tolist() == [1, 5]
    assert not any("average" in note for note in dataset.notes)
    put(tmp_path, {"person_mos/train_person_mos.txt": "elsewhere.wav,Rater01,3,3"})
    assert "no clip has the single ratings" in load_dataset("musiceval", tmp_path).notes[-1]
    put(tmp_path, {"person_mos/train_person_mos.txt": people[0]})
    assert "1 clips' single ratings do not average" in load_dataset("musiceval", tmp_path).notes[-1]


def test_musiceval_bad_row(tmp_path: Path) -> None:
    musiceval(tmp_path)
    path = tmp_path / "sets/train_mos_list.txt"
    path.write_text(path.read_text() + "silence.wav,3,3\n")
    with pytest.raises(QamroError, match=r"train_mos_list\.txt, row 4: 'silence\.wav' is not of"):
        load_dataset("musiceval", tmp_path)
    path.write_text(f"{TRACK1}S002_P001.wav,3.2\n")
    with pytest.raises(QamroError, match=r"row 1: 2 cells where there are 3 columns"):
        load_dataset("musiceval", tmp_path)


def test_musiceval_real_labels(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "labels" / "musiceval"
    lists = {s: (source / f"sets/{s}_mos_list.txt").read_text() for s in ("train", "dev")}
    put(tmp_path, {f"sets/{s}_mos_list.txt": text for s, text in lists.items()})
    (tmp_path / "wav").mkdir()
    names = [line.split(",")[0] for text in lists.values() for line in text.splitlines()]
    for name in names:
        (tmp_path / "wav" / name).touch()
    dataset = load_dataset("musiceval", tmp_path)
    clips = dataset.clips
    assert dict(clips["split"].value_counts()) == {"train": 1634, "dev": 289}
    assert clips["system"].nunique() == 31
    assert all(Path(path).is_file() for path in clips["path"])
    on_grid = np.abs(dataset.labels.mean * 5 - np.round(dataset.labels.mean * 5))
    assert dataset.labels.mean.shape == (1923, 2)
    assert on_grid.max() < 1e-9
    expected = [[float(x) for x in line.split(",")[1:]] for line in lists["dev"].splitlines()]
    np.testing.assert_array_equal(dataset.labels.mean[clips["split"] == "dev"], expected)


# --- Audiobox-Aesthetics -------------------------------------------------------------------


def aes_line(path: str, *means: float) -> str:
    """Ten ratings an axis that average to the means, given in tenths."""
    record: dict[str, object] = {"data_path": path}
    for name, mean in zip(AES, means, strict=True):
        low, up = int(mean), round(mean * 10) - int(mean) * 10
        record[name] = [float(low + 1)] * up + [float(low)] * (10 - up)
    return json.dumps(record)


def aes_natural(folder: Path) -> Path:
    head = f"sample_id,data_path,{','.join(AES)}\r\n"
    song = "MUSDB18/test/A Band - A Song"
    sound = "unbalanced_train_segments/audio/-x_0_1.flac"
    return put(
        folder,
        {
            "audiomos2025-track2-train_list.csv": head
            + f"t-music-1,/your_path/{song}/bass.wav,7.6,3.0,6.3,6.9\r\n"
            + f"t-audio-1,/your_path/{sound},0.0,3.3,2.9,4.2\r\n",
            "audiomos2025-track2-dev_list.csv": head
            + f"t-music-2,/your_path/{song}/drums.wav,7.0,2.0,6.0,6.0\r\n",
            "AES_natural_music.jsonl": aes_line(f"/other/{song}/bass.wav", 7.6, 3, 6.3, 6.9)
            + "\n"
            + aes_line(f"/other/{song}/drums.wav", 7, 2, 6, 6),
            "AES_natural_sound.jsonl": aes_line(f"/other/{sound}", 0, 3.3, 2.9, 4.2),
            "audiomos2025_track2_human_annotations.jsonl": aes_line(
                "audiomos2025-track2-sys0v1wm-utt0dJodp", 5, 4, 3, 2
            ),
        },
    )


def test_aes_natural(tmp_path: Path) -> None:
    aes_natural(tmp_path)
    dataset = load_dataset("aes-natural", tmp_path)
    clips, labels = dataset.clips, dataset.labels
    assert list(clips["clip_id"]) == [
        "t-music-1",
        "t-audio-1",
        "t-music-2",
        "audiomos2025-track2-sys0v1wm-utt0dJodp",
    ]
    assert list(clips["split"]) == ["train", "train", "dev", "test"]
    assert list(clips["system"]) == ["", "", "", "sys0v1wm"]
    # The stems of one song belong together.
    assert clips["group"][0] == clips["group"][2] == "MUSDB18/test/A Band - A Song"
    assert [axis.name for axis in labels.axes] == ["PQ", "PC", "CE", "CU"]
    assert all((axis.low, axis.high) == (0, 10) for axis in labels.axes)
    np.testing.assert_allclose(labels.mean[1], [0.0, 3.3, 2.9, 4.2], atol=1e-12)
    assert (labels.count == 10).all()
    assert labels.stderr[0, 0] == pytest.approx(np.std([8] * 6 + [7] * 4, ddof=1) / 10**0.5)
    assert labels.ratings is not None
    assert (labels.ratings.rater == -1).all()
    assert labels.ratings.raters == ()
    assert not any("average" in note for note in dataset.notes)


def test_aes_natural_audio_where_people_keep_it(tmp_path: Path) -> None:
    aes_natural(tmp_path)
    places = [
        "MUSDB18/test/A Band - A Song/bass.wav",
        "audio/t-audio-1.flac",
        "wav/t-music-2.wav",
        "wav/audiomos2025-track2-sys0v1wm-utt0dJodp.wav",
    ]
    put(tmp_path, dict.fromkeys(places, ""))
    dataset = load_dataset("aes-natural", tmp_path)
    assert list(dataset.clips["path"]) == [str(tmp_path / place) for place in places]


def test_aes_natural_evaluation_set_is_left_out_without_its_audio(tmp_path: Path) -> None:
    put(aes_natural(tmp_path), {"wav/t-music-1.wav": ""})
    # One file of three is no reason to leave a list out.
    assert len(load_dataset("aes-natural", tmp_path).clips) == 4
    put(tmp_path, {"wav/t-music-2.wav": ""})
    dataset = load_dataset("aes-natural", tmp_path)
    assert set(dataset.clips["split"]) == {"train", "dev"}
    assert "human_annotations.jsonl is left out" in dataset.notes[-1]


def test_aes_natural_means_alone(tmp_path: Path) -> None:
    aes_natural(tmp_path)
    for path in tmp_path.glob("AES_*"):
        path.unlink()
    labels = load_dataset("aes-natural", tmp_path).labels
    assert labels.mean[0].tolist() == [7.6, 3.0, 6.3, 6.9]
    assert np.isnan(labels.stderr[0]).all()
    assert labels.count[0].tolist() == [10] * 4


def test_aes_natural_bad_json_is_one_line(tmp_path: Path) -> None:
    aes_natural(tmp_path)
    path = tmp_path / "AES_natural_music.jsonl"
    good = path.read_text().splitlines()
    path.write_text(good[0] + "\n" + good[1][:-5])
    with pytest.raises(QamroError, match=r"AES_natural_music\.jsonl, row 2: not JSON"):
        load_dataset("aes-natural", tmp_path)
    path.write_text(good[0].replace("8.0", "8" * 400, 1))
    with pytest.raises(QamroError, match=r"row 1: 8+ in 'Production_Quality' is not a finite"):
        load_dataset("aes-natural", tmp_path)
    path.write_text("[" * 100_000)
    with pytest.raises(QamroError, match="row 1: not JSON"):
        load_dataset("aes-natural", tmp_path)
    path.write_text(good[0].replace("8.0", '"eight"', 1))
    with pytest.raises(QamroError, match=r"row 1: 'eight' in 'Production_Quality' is not a finite"):
        load_dataset("aes-natural", tmp_path)


def test_aes_real_labels(shared_data: Path) -> None:
    folder = shared_data / "labels" / "aes"
    dataset = load_dataset("aes-natural", folder)
    clips, labels = dataset.clips, dataset.labels
    counts = dict(clips["split"].value_counts())
    assert counts == {"train": 2700, "dev": 250, "test": 3060}
    assert (labels.count == 10).all()
    published = pd.concat(
        [
            pd.read_csv(folder / f"audiomos2025-track2-{split}_list.csv")
            for split in ("train", "dev")
        ]
    ).set_index("sample_id")
    natural = (clips["split"] != "test").to_numpy()
    theirs = published.loc[clips["clip_id"][natural], list(AES)].to_numpy()
    np.testing.assert_allclose(labels.mean[natural], theirs, rtol=0, atol=1e-9)
    evaluation = clips[~natural]
    assert evaluation["system"].nunique() == 36
    assert set(evaluation["system"].value_counts()) == {85}
    lines = (folder / "audiomos2025_track2_human_annotations.jsonl").read_text().split("\n")
    for index in (0, 1234, 3059):
        record = json.loads(lines[index])
        at = row(dataset, record["data_path"])
        np.testing.assert_allclose(
            labels.mean[at], [np.mean(record[name]) for name in AES], atol=1e-12
        )
    assert labels.mean.min() >= 0


def test_aes_pam_real_labels(shared_data: Path) -> None:
    dataset = load_dataset("aes-pam", shared_data / "labels" / "aes")
    assert len(dataset.clips) == 1000
    systems = dict(dataset.clips["system"].value_counts())
    assert len(systems) == 9
    assert systems.pop("real") == 200
    assert set(systems.values()) == {100}
    assert set(dataset.clips["group"].value_counts()) == {5}


def test_aes_pam(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "AES_PAM.jsonl": aes_line("/your_path/PAM/human_eval/music/musicldm/a.wav", 5, 4, 3, 2),
            "human_eval/music/musicldm/a.wav": "",
        },
    )
    dataset = load_dataset("aes-pam", tmp_path)
    assert dataset.clips.iloc[0].to_dict() == {
        CLIP: "music/musicldm/a",
        "path": str(tmp_path / "human_eval/music/musicldm/a.wav"),
        "system": "musicldm",
        "group": "music/a",
        "prompt": "",
        "split": "",
        "reference": "",
        "source": "",
    }


# --- Speech and singing --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["somos", "somos-clean"])
def test_somos(tmp_path: Path, name: str) -> None:
    folder = "training_files/split1/" + ("clean" if name.endswith("clean") else "full")
    head = "systemId,utteranceId,choice,listenerId\n"
    put(
        tmp_path,
        {
            f"{folder}/TRAINSET": head
            + "015,novel_2007_0098_015.wav,4,KEXM1\n015,novel_2007_0098_015.wav,3,ABCD2\n"
            + "000,novel_2007_0098_000.wav,5,KEXM1\n",
            f"{folder}/VALIDSET": head + "016,booksent_2012_0005_016.wav,1,KEXM1\n",
            f"{folder}/TESTSET": head + "200,LJ050-0143_200.wav,2,ZZZZ3\n",
        },
    )
    dataset = load_dataset(name, tmp_path)
    assert list(dataset.clips[CLIP]) == [
        "novel_2007_0098_015",
        "novel_2007_0098_000",
        "booksent_2012_0005_016",
        "LJ050-0143_200",
    ]
    assert list(dataset.clips["system"]) == ["015", "000", "016", "200"]
    assert list(dataset.clips["group"])[:2] == ["novel_2007_0098"] * 2
    assert list(dataset.clips["split"]) == ["train", "train", "dev", "test"]
    assert dataset.clips["path"][3] == str(tmp_path / "audios/LJ050-0143_200.wav")
    assert dataset.labels.mean[:, 0].tolist() == [3.5, 5, 1, 2]
    assert dataset.labels.ratings is not None
    assert dataset.labels.ratings.raters == ("ABCD2", "KEXM1", "ZZZZ3")
    # KEXM1 is one person in the training and in the validation part.
    assert dataset.labels.ratings.rater.tolist() == [1, 0, 1, 1, 2]


@pytest.mark.parametrize("ratings", [False, True])
def test_somos_lists_of_means(tmp_path: Path, ratings: bool) -> None:
    """The means alone; beside the single ratings they are not read a second time."""
    folder = "training_files/split1/full"
    means = "utteranceId,mean\n{}.wav,3.5\n"
    names = {"train": "novel_1_015", "valid": "novel_2_016", "test": "novel_3_017"}
    put(tmp_path, {f"{folder}/{s}_mos_list.txt": means.format(n) for s, n in names.items()})
    if ratings:
        head = "systemId,utteranceId,choice,listenerId\n"
        rows = "{1},{0}.wav,4,A\n{1},{0}.wav,3,B\n"
        files = {
            f"{folder}/{s.upper()}SET": head + rows.format(n, n[-3:]) for s, n in names.items()
        }
        put(tmp_path, files)
    dataset = load_dataset("somos", tmp_path)
    assert list(dataset.clips[CLIP]) == list(names.values())
    assert list(dataset.clips["system"]) == ["015", "016", "017"]
    assert list(dataset.clips["group"]) == ["novel_1", "novel_2", "novel_3"]
    assert list(dataset.clips["split"]) == ["train", "dev", "test"]
    assert dataset.labels.mean[:, 0].tolist() == [3.5] * 3
    assert dataset.labels.count[:, 0].tolist() == [2 if ratings else 0] * 3


def test_bvcc(tmp_path: Path) -> None:
    listener = "{}_30-39_bZPQE7w4Zl3g_Female_Valid_1_No"
    other = "{}_20-29_aAAA_Male_Valid_1_No"
    put(
        tmp_path,
        {
            "DATA/sets/train_mos_list.txt": "sys64e2f-utt9c183cd.wav,3.5\n",
            "DATA/sets/val_mos_list.txt": "sys00691-utt00e6ae6.wav,2.0\n",
            "DATA/sets/test_mos_list.txt": "sys11111-utt0000001.wav,4.0\n",
            "DATA/sets/TRAINSET": f"sys64e2f,sys64e2f-utt9c183cd.wav,4,VDP1_1,{listener}\n"
            f"sys64e2f,sys64e2f-utt9c183cd.wav,3,VDP1_1,{other}\n",
            "DATA/sets/DEVSET": f"sys00691,sys00691-utt00e6ae6.wav,2,VDP2_1,{listener}\n",
            "DATA/mydata_system.csv": "system_ID,mean\nsys64e2f,3.5\nsys00691,2.0\n",
        },
    )
    dataset = load_dataset("bvcc", tmp_path)
    assert list(dataset.clips["split"]) == ["train", "dev", "test"]
    assert list(dataset.clips["system"]) == ["sys64e2f", "sys00691", "sys11111"]
    assert dataset.clips["path"][0] == str(tmp_path / "wav/sys64e2f-utt9c183cd.wav")
    assert dataset.labels.mean[:, 0].tolist() == [3.5, 2, 4]
    assert dataset.labels.count[:, 0].tolist() == [2, 1, 0]
    assert dataset.labels.ratings is not None
    assert dataset.labels.ratings.raters == ("aAAA", "bZPQE7w4Zl3g")
    assert dataset.system_scores == {"sys64e2f": (3.5,), "sys00691": (2.0,)}


def test_nisqa(tmp_path: Path) -> None:
    head = (
        "db,con,file,con_description,filename_deg,filename_ref,source,lang,votes,mos,noi,col,dis,"
        "loud,noi_std,col_std,dis_std,loud_std,mos_std,filepath_deg,filepath_ref\n"
    )

    def line(db: str, con: int, name: str, mos: float) -> str:
        return (
            f"{db},{con},1,,{name},ref_a.wav,AusTalk,en,5,{mos},4.1,3.9,4.5,4.0,"
            f".5,.4,.3,.2,0.7,{db}/deg/{name},{db}/ref/ref_a.wav\n"
        )

    put(
        tmp_path,
        {
            f"NISQA_{db}/NISQA_{db}_file.csv": head + line(f"NISQA_{db}", 1, f"c1_{db}.wav", mos)
            for db, mos in (
                ("TRAIN_SIM", 2.5),
                ("TRAIN_LIVE", 3.0),
                ("VAL_SIM", 1.5),
                ("TEST_P501", 4.0),
            )
        },
    )
    corpus = tmp_path / "corpus"
    files = sorted(tmp_path.glob("NISQA_*/*.csv"))
    lines = [line for file in files for line in file.read_text().splitlines()[1:]]
    put(corpus, {"NISQA_corpus_file.csv": head + "\n".join(lines)})
    whole = load_dataset("nisqa", corpus)
    dataset = load_dataset("nisqa", tmp_path)
    assert list(whole.clips[CLIP]) == list(dataset.clips[CLIP])
    assert list(whole.clips["split"]) == list(dataset.clips["split"])
    np.testing.assert_array_equal(whole.labels.mean, dataset.labels.mean)
    assert list(dataset.clips["split"]) == ["train", "train", "dev", "test"]
    assert list(dataset.clips["system"])[:2] == ["NISQA_TRAIN_LIVE/1", "NISQA_TRAIN_SIM/1"]
    assert dataset.clips["path"][1] == str(tmp_path / "NISQA_TRAIN_SIM/deg/c1_TRAIN_SIM.wav")
    assert [axis.name for axis in dataset.labels.axes] == ["mos", "noi", "col", "dis", "loud"]
    assert dataset.labels.mean[:, 0].tolist() == [3.0, 2.5, 1.5, 4.0]
    assert (dataset.labels.count == 5).all()
    assert dataset.labels.stderr[0, 0] == pytest.approx(0.7 / 5**0.5)
    assert dataset.labels.stderr[0, 1] == pytest.approx(0.5 / 5**0.5)


def test_singmos(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "sets/train_mos_list.txt": "voicemos2024-track2-sys0001-utt0001,4.000000\n",
            "sets/val_mos_list.txt": "voicemos2024-track2-sys0002-utt0007,3.200000\n",
            "sets/eval_mos_list.txt": "voicemos2024-track2-sys0003-utt0002,1.400000\n",
        },
    )
    dataset = load_dataset("singmos", tmp_path)
    assert list(dataset.clips["system"]) == ["sys0001", "sys0002", "sys0003"]
    assert list(dataset.clips["split"]) == ["train", "dev", "test"]
    assert dataset.clips["path"][0] == str(tmp_path / "wav/voicemos2024-track2-sys0001-utt0001.wav")
    assert dataset.labels.mean[:, 0].tolist() == [4, 3.2, 1.4]


def test_one_clip_in_two_lists_is_an_error(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "sets/train_mos_list.txt": "voicemos2024-track2-sys0001-utt0001,4\n",
            "sets/val_mos_list.txt": "voicemos2024-track2-sys0001-utt0001.wav,3\n",
        },
    )
    with pytest.raises(QamroError, match=r"utt0001' is listed in train_mos_list.txt and val_mos"):
        load_dataset("singmos", tmp_path)
