"""Names: one name in whatever form it was typed, and which ids of two files belong together."""

import contextlib
import itertools
import json
import logging
import os
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from qamro_cache.cache.edit import export_cache, relabel_cache
from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.answers import read_answer, write_answer
from qamro_cache.datasets.ids import clean_id, match_ids
from qamro_cache.datasets.labels import load_rated, relabel
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.records import labels_from_means
from qamro_cache.datasets.registry import load_dataset
from qamro_cache.datasets.selection import select_rows
from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.by_system import system_means
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.evaluation.files import read_predictions, read_truth
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.grid import Grid
from qamro_cache.experiments.train import train
from qamro_cache.extraction.extract import extract
from qamro_cache.files import json_text, write_table
from qamro_cache.integrations.rows import write_rows
from qamro_cache.reports.clips import predicted_of
from qamro_cache.reports.report import report
from qamro_cache.scoring.folder import clips_of_folder, clips_of_list
from qamro_cache.scoring.keep import keep
from qamro_cache.scoring.notices import point_out
from qamro_cache.scoring.predict import predict

COMPOSED, APART = "syst\u00e9me", "syste\u0301me"


@pytest.mark.parametrize("typed", ["sys1 ", "\tsys1", "\u00a0sys1", "sys1\u200b", "\ufeffsys1"])
def test_blanks_make_no_other_name(typed: str) -> None:
    assert clean_id(typed) == "sys1"


@given(st.text(max_size=8))
def test_cleaning_twice_is_cleaning_once(name: str) -> None:
    once = clean_id(name)
    assert clean_id(once) == once == unicodedata.normalize("NFC", once).strip()


@pytest.mark.parametrize("column", ["clip_id", "system", "group", "split", "rater"])
def test_every_column_of_names_is_cleaned_with_a_notice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str
) -> None:
    caplog.set_level(logging.INFO, "qamro_cache")
    names = {"clip_id": ["a", "b"], "system": ["s"] * 2, "group": ["g"] * 2, "split": ["t"] * 2}
    names["rater"] = ["r", "q"]
    names[column] = [COMPOSED, f" {APART} "] if column != "clip_id" else [COMPOSED, "b "]
    frame = pd.DataFrame({**names, "path": ["a.wav", "b.wav"], "quality": [1, 5]})
    path = tmp_path / "clips.csv"
    frame.to_csv(path, index=False)
    dataset = load_manifest(path)
    if column == "rater":
        assert dataset.labels.ratings is not None
        assert dataset.labels.ratings.raters == (COMPOSED,)
    elif column == "clip_id":
        assert list(dataset.clips["clip_id"]) == [COMPOSED, "b"]
    else:
        assert set(dataset.clips[column]) == {COMPOSED}
    assert f"1 names in '{column}' have blanks around them" in caplog.text
    if column != "rater":
        assert set(load_rated(path)[0][column]) == set(dataset.clips[column])


def test_two_rows_of_one_clean_id_are_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("clip_id,path\nc1,a.wav\nc1 ,b.wav\n")
    with pytest.raises(QamroError, match=r"row 3: clip_id 'c1' is already in row 2"):
        load_manifest(path)


def test_names_that_differ_by_case_alone_are_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("clip_id,path,system\na,a.wav,Sys1\nb,b.wav,sys1\n")
    assert load_manifest(path).clips["system"].nunique() == 2
    assert "'Sys1' and 'sys1' in 'system' differ by case alone" in caplog.text


def test_names_of_axes_are_cleaned_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "clips.csv"
    caplog.set_level("INFO", "qamro_cache")
    names = (COMPOSED, f" {APART}", COMPOSED.upper())
    rows = [f"{k},{k}.wav,{name},ann,1" for k, name in enumerate(names)]
    path.write_text("\n".join(["clip_id,path,axis,rater,score", *rows]) + "\n")
    axes = load_manifest(path).labels.axes
    assert [axis.name for axis in axes] == [COMPOSED, COMPOSED.upper()]
    assert "1 names in 'axis' have blanks" in caplog.text
    assert "in 'axis' differ by case alone" in caplog.text
    caplog.clear()
    path.write_text("clip_id,path,mos,MOS\na,a.wav,1,2\n")
    load_manifest(path)
    assert "'mos' and 'MOS' in 'columns' differ by case alone" in caplog.text


def test_names_of_axes_are_one_in_labels_and_predictions(tmp_path: Path) -> None:
    rows = [(f"c{place}", 1 + place % 5) for place in range(12)]
    labels, predictions = tmp_path / "l.csv", tmp_path / "p.csv"
    for header, typed in itertools.product((COMPOSED, f" {APART}"), (COMPOSED, APART)):
        labels.write_text(f"clip_id,{header}\n" + "".join(f"{c},{q}\n" for c, q in rows))
        lines = [f"{c},{f'{typed} ' if q > 3 else typed},{q}" for c, q in rows]
        predictions.write_text("\n".join(["clip_id,axis,prediction", *lines]))
        found = evaluate(predictions, labels, resamples=0)["axes"]
        assert {axis: one["clips"] for axis, one in found.items()} == {COMPOSED: 12}
        assert keep(predictions, {COMPOSED: 5}).clip_ids == ("c4", "c9")
    # The same prediction twice is told, whatever the blanks.
    predictions.write_text("clip_id,axis,prediction\na,q,1\na,q ,2\n")
    with pytest.raises(QamroError, match="row 3: clip 'a' has a prediction on 'q' already"):
        read_predictions(predictions)


def test_a_release_keeps_the_names_of_its_files(tmp_path: Path) -> None:
    """Its ids are clean, and its files are found as they are called."""
    (tmp_path / f"{APART}.wav").write_bytes(b"x")
    (tmp_path / "list.csv").write_text(f"clip_id,q\n{APART},3\n")
    (tmp_path / "mine.toml").write_text(
        "name = 'x'\ntitle = 'x'\nlicense = 'x'\nsource = 'x'\naudio = ['{clip_id}.wav']\n"
        "[[axes]]\nname = 'q'\nlow = 1\nhigh = 5\n[[clips]]\npath = 'list.csv'\n"
        "scores = {q = 'q'}\n"
    )
    clips = load_dataset(tmp_path / "mine.toml").clips
    assert clips["clip_id"][0] == COMPOSED
    assert Path(clips["path"][0]).is_file()


NAMES = [f"{stem}{end}" for stem in ("a", "b") for end in ("", ".wav", ".mp3", " ", ".WAV")]


def slow_match(have: list[str], want: list[str]) -> list[int] | None:
    """By the rules, one pair at a time; None for a mistake."""

    def stem(name: str) -> str:
        return name.strip()[:-4] if name.strip()[-4:].lower() in (".wav", ".mp3") else name.strip()

    at: dict[str, int] = {}
    for rule in (
        lambda h, w: h == w,
        lambda h, w: h.strip() == w.strip(),
        lambda h, w: stem(h) == w.strip(),
        lambda h, w: h.strip() == stem(w),
    ):
        given_away, new = set(at.values()), {}
        for name in want:
            hits = [row for row, other in enumerate(have) if rule(other, name)]
            if name not in at and len(hits) == 1 and hits[0] not in given_away:
                if hits[0] in new.values():
                    return None
                new[name] = hits[0]
        at |= new
    return [at.get(name, -1) for name in want]


@given(
    st.lists(st.sampled_from(NAMES), unique=True, max_size=6),
    st.lists(st.sampled_from(NAMES), unique=True, max_size=6),
)
def test_matching_against_a_slow_loop(have: list[str], want: list[str]) -> None:
    expected = slow_match(have, want)
    if expected is None:
        with pytest.raises(QamroError, match="would both be"):
            match_ids(have, want)
        return
    found = match_ids(have, want).tolist()
    assert found == expected
    assert len({row for row in found if row >= 0}) == sum(row >= 0 for row in found)


@pytest.mark.parametrize(
    "ends", list(itertools.permutations(["", ".wav", ".mp3", ".AIF", ".m4a"], 2))
)
def test_a_suffix_is_left_out_and_never_exchanged(ends: tuple[str, str]) -> None:
    ours, theirs = ends
    assert match_ids([f"s{ours}"], [f"s{theirs}"]).tolist() == [0 if "" in ends else -1]


@pytest.mark.parametrize(
    ("written", "listed", "words"),
    [
        ("s.mp3", ["s.wav"], r"row 1: 's.mp3' is not in the list"),
        ("s.wav", ["s.wav"], ""),
        ("s", ["s.wav"], ""),
        ("s.wav", ["s"], ""),
        (f"{APART}.wav", [COMPOSED], ""),
        ("s", ["s.wav", "s.mp3"], "'s.wav' and 's.mp3' would both be 's'"),
        ("s", ["s", "s"], "the list has 's' twice"),
        ("s.mp3", ["s.mp3", "s.wav"], "1 rows for 2 listed clips; 's' is missing"),
    ],
)
def test_reading_an_answer_exchanges_no_suffix(
    tmp_path: Path, written: str, listed: list[str], words: str
) -> None:
    path = tmp_path / "answer.txt"
    path.write_text(f"{written},1,2\n")
    with pytest.raises(QamroError, match=words) if words else contextlib.nullcontext():
        answer = read_answer(path, listed)
        assert answer.scores.tolist() == [[1, 2]]


def test_an_answer_is_scored_by_the_file_that_it_names(tmp_path: Path) -> None:
    answer, labels = tmp_path / "answer.txt", tmp_path / "l.csv"
    answer.write_text("".join(f"{i}.mp3,{i},{i}\n{i}.wav,{9 - i},{i}\n" for i in range(4)))
    assert len(read_answer(answer).clip_ids) == 8, "s.mp3 and s.wav are two clips"
    labels.write_text("clip_id,overall\n" + "".join(f"{i}.wav,{i}\n" for i in range(4)))
    found = evaluate(answer, labels, resamples=0)
    assert found["axes"]["overall"]["metrics"]["clip_srcc"]["value"] == pytest.approx(-1)
    assert found["unlabeled"] == 4


def test_forms_of_a_name_across_files() -> None:
    assert match_ids([APART, "b "], [f"{COMPOSED}.wav", "b"]).tolist() == [0, 1]


def test_an_answer_is_for_the_file_that_was_asked_for(tmp_path: Path) -> None:
    """The challenge lists s.wav; a prediction of s.mp3 is another clip's."""
    scores = {"overall": np.array([1.0, 2.0]), "textual": np.array([3.0, 4.0])}
    path = tmp_path / "answer.txt"
    write_answer(path, ["s.mp3", "s.wav"], scores, 1, listed=["s.wav"])
    assert read_answer(path, ["s.wav"]).scores.tolist() == [[2.0, 4.0]]
    with pytest.raises(QamroError, match="1 of 1 listed clips have no prediction"):
        write_answer(
            path, ["s.mp3"], {name: column[:1] for name, column in scores.items()}, 1, ["s.wav"]
        )


def test_an_export_that_was_sent_twice_counts_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = ["a,a.wav,ann,4", "a,a.wav,bob,2", "b,b.wav,ann,5", "b,b.wav,,3"]
    once, twice = tmp_path / "once.csv", tmp_path / "twice.csv"
    once.write_text("\n".join(["clip_id,path,rater,q", *rows]) + "\n")
    twice.write_text("\n".join(["clip_id,path,rater,q", *rows, *rows[:3]]) + "\n")
    for load in (lambda path: load_manifest(path).labels, lambda path: load_rated(path)[1]):
        a, b = load(once), load(twice)
        np.testing.assert_array_equal(a.mean, b.mean)
        np.testing.assert_array_equal(a.count, b.count)
        np.testing.assert_array_equal(a.stderr, b.stderr)
        assert "3 rows are in it twice, the first is row 6" in caplog.text
        caplog.clear()
    # Blanks around a name make no other row.
    twice.write_text("\n".join(["clip_id,path,rater,q", *rows, "a ,a.wav,\tann, 4"]) + "\n")
    assert load_manifest(twice).labels.count.tolist() == [[2], [2]]
    assert "1 rows are in it twice, the first is row 6" in caplog.text
    caplog.clear()
    # Rows that are told apart by a date may be two ratings: they count, and it is said.
    dated = [f"{row},{hour}:00" for hour in (1, 2) for row in rows]
    twice.write_text("\n".join(["clip_id,path,rater,q,date", *dated, "a,a.wav,ann,5,3:00"]) + "\n")
    assert load_manifest(twice, axes=["q"]).labels.count.tolist() == [[5], [4]]
    said = "4 ratings are a rater's second of the same clip, 3 of them with the same score"
    assert said in caplog.text
    # A rater who is not known may be two, and a rater may change his mind.
    twice.write_text("clip_id,path,rater,q\na,a.wav,,4\na,a.wav,,4\na,a.wav,ann,4\na,a.wav,ann,5\n")
    assert load_manifest(twice).labels.count.tolist() == [[4]]


def test_labels_replace_what_they_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qamro_cache")
    path = tmp_path / "l.csv"
    path.write_text("clip_id,split,q\na,test,3\nb,train,4\n")
    clips = pd.DataFrame({"clip_id": ["a", "b"], "split": ["train", "train"], "system": ["s", "s"]})
    after, labels = relabel(path, clips, labels_from_means((), np.zeros((2, 0))))
    assert list(after["split"]) == ["test", "train"]
    assert labels.mean[:, 0].tolist() == [3, 4]
    assert "replaces split of 2 clips" in caplog.text


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;", "\ufeffsep=;"])
def test_excels_first_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "clips.csv"
    path.write_text(f'{line}\r\nclip_id;path;prompt\r\na;a.wav;"x; y"\r\nb;b.wav;\r\n', newline="")
    clips = load_manifest(path).clips
    assert list(clips["clip_id"]) == ["a", "b"]
    assert clips["prompt"][0] == "x; y"
    path.write_text("sep=;\r\nclip_id;path\r\na;a.wav;more\r\n", newline="")
    with pytest.raises(QamroError, match="row 2: 3 cells where there are 2 columns"):
        load_manifest(path)


def test_names_that_are_not_utf8_keep_their_bytes_through_every_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Extract, export, relabel, train, predict and evaluate files named on another system."""
    rng = np.random.default_rng(0)
    names = [b"%d\xff.wav" % i for i in range(12)]
    ids = [os.fsdecode(name) for name in names]
    rows = [b"clip_id,path,system,q"]
    for i, name in enumerate(names):
        sound = tmp_path / os.fsdecode(name)
        soundfile.write(str(sound).encode("utf-8", "surrogateescape"), rng.normal(size=9600), 48000)
        rows.append(b"%b,%b,S%d,%d" % (name, name, i % 3, 1 + i % 5))
    manifest, cache = tmp_path / "m.csv", tmp_path / "e.h5"
    manifest.write_bytes(b"\n".join(rows))
    with caplog.at_level(logging.INFO):
        dataset = load_manifest(manifest)
    assert list(dataset.clips["clip_id"]) == ids
    assert "24 names are not UTF-8; they are kept byte for byte" in caplog.text
    extract(dataset, cache, load_encoder("mel"))
    assert list(open_cache(cache).clips["status"]) == ["ok"] * 12

    export_cache([cache], tmp_path / "plain", "npy")
    for file in ("clips.csv", "labels.csv"):
        lines = (tmp_path / "plain" / file).read_bytes().splitlines()[1:]
        assert [line.split(b",")[0] for line in lines] == names
    exported = pd.read_csv(tmp_path / "plain/labels.csv", encoding_errors="surrogateescape")
    labels = exported[["clip_id"]].assign(q=exported["mean"] / 2)
    write_table(tmp_path / "l.csv", labels)
    assert relabel_cache(cache, tmp_path / "l.csv") == 12
    assert list(open_cache(cache).labels.mean[:, 0]) == [(1 + i % 5) / 2 for i in range(12)]

    run = tmp_path / "run"
    train(cache, out=run, epochs=1, seeds=1, labels=tmp_path / "l.csv")
    predictions = tmp_path / "p.csv"
    predict(run / "head.safetensors", cache, out=predictions)
    assert list(read_predictions(predictions)["clip_id"]) == ids
    for truth in (cache, tmp_path / "l.csv", manifest):
        labels = load_manifest(truth) if truth == manifest else truth
        found = evaluate(predictions, labels, include_trained=True)
        assert found["axes"]["q"]["clips"] == 12
        assert (found["unpredicted"], found["unlabeled"]) == (0, 0)
    assert report(run).is_file()


def test_tables_and_folders_may_have_such_names_too(tmp_path: Path) -> None:
    """A manifest, a cache, a run and a grid, each found again by the same command."""
    odd = os.fsdecode(b"\xe4")
    plain = extracted(tmp_path, "plain", "s", "resample")
    manifest = plain.with_suffix(".csv").rename(tmp_path / f"m{odd}.csv")
    cache, run, grid = tmp_path / f"e{odd}.h5", tmp_path / f"run{odd}", tmp_path / f"grid{odd}"
    extract(load_manifest(manifest), cache, load_encoder("mel"))
    assert open_cache(cache).dataset == "m\ufffd"
    assert read_truth(manifest).name == "m\ufffd"
    first = train(cache, run, epochs=1, seeds=1, labels=manifest)
    again = train(cache, run, epochs=1, seeds=1, labels=manifest)
    assert json_text(again) == json_text(first), "it is its own run"
    assert json.loads((run / "config.json").read_text("utf-8"))["given"]["labels"] == str(manifest)
    best = ablate(cache, grid, grid=Grid({"epochs": [1, 2]}), cv="2", seeds=1, resamples=0)
    again = ablate(cache, grid, grid=Grid({"epochs": [1, 2]}), cv="2", seeds=1, resamples=0)
    assert json_text(again) == json_text(best)


def test_names_that_are_not_utf8_stay_apart_in_predictions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Sixty clips of two folders: the figures are those of the same clips with plain names."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 5, 60)
    rows = [(axis, place) for axis in ("q", "r") for place in range(60)]
    table = pd.DataFrame(
        {
            "clip_id": [f"{place}" for _, place in rows],
            "system": ["b" if place % 3 else "c" for _, place in rows],
            "axis": [axis for axis, _ in rows],
            "seed": "mean",
            "prediction": np.tile(truth, 2) + rng.normal(size=120),
            "ood": [str(place < 40) for _, place in rows],
            "trained_on": ["yes" if place < 7 else "no" for _, place in rows],
        }
    )
    labels = pd.DataFrame({"clip_id": table["clip_id"][:60], "q": truth})
    found = {}
    for name in ("plain", "odd"):
        if name == "odd":
            odd = [chr(0xDC80 + int(one)) for one in table["clip_id"]]
            table["clip_id"] = np.array(odd, object)
            labels["clip_id"] = np.array(odd[:60], object)
            systems = {"b": "\udce4", "c": "\udcf6"}
            table["system"] = np.array([systems[one] for one in table["system"]], object)
        path, truths = tmp_path / f"{name}.csv", tmp_path / f"{name}-labels.csv"
        write_table(path, table)
        write_table(truths, labels)
        other = tmp_path / "other.csv"
        write_table(other, table.assign(prediction=table["prediction"] ** 2))
        done = evaluate(path, truths, baseline=[other], include_trained=True, resamples=0)
        kept = keep(path, {"q": 3}, ood=False)
        caplog.clear()
        point_out(table.assign(ood=table["ood"] == "True"))
        clips = predicted_of(table[:60].assign(target=truth), {})
        found[name] = (
            {**done["axes"]["q"], "baselines": done["axes"]["q"]["baselines"]["other.csv"]},
            (len(kept.clip_ids), kept.clips, kept.retention.to_dict()),
            system_means(table).drop(columns="system").to_dict(),
            [line.replace("120", "60") for line in caplog.messages],
            clips.pred.shape,
        )
    assert found["plain"][0]["ood"] == 40
    assert "trained on 7 of these 60 clips" in found["plain"][3][0]
    assert repr(found["odd"]) == repr(found["plain"])


def test_beside_pyarrow_a_name_that_is_not_utf8_is_one_line_at_every_door(tmp_path: Path) -> None:
    """Where nobody has told pandas to keep text as Python does, it cannot hold such a name."""
    pytest.importorskip("pyarrow", reason="pyarrow is missing (extra parquet)")
    name, folder = os.fsdecode(b"1\xff.wav"), tmp_path / os.fsdecode(b"f\xff")
    folder.mkdir()
    for file in (tmp_path / name, folder / "a.wav"):
        soundfile.write(os.fsencode(file), np.full(9600, 0.1), 48000)
    table, inside, cache = tmp_path / "m.csv", folder / "m.csv", tmp_path / "e.h5"
    row = b"clip_id,path,prediction\n1\xff.wav,1\xff.wav,3\n"
    table.write_bytes(row)
    scores = tmp_path / "p.csv"
    scores.write_bytes(b"clip_id,prediction\n1\xff.wav,3\n")
    inside.write_bytes(row.replace(b"1\xff", b"a"))
    tar = tmp_path / "t.tar"
    with tarfile.open(tar, "w") as made:
        made.add(tmp_path / name, name)
    extract(load_manifest(table), cache, load_encoder("mel"))
    doors: list[Callable[[], object]] = [
        lambda: load_manifest(table),
        lambda: load_manifest(inside),
        lambda: load_manifest(tar),
        lambda: load_rated(table, ()),
        lambda: read_predictions(scores),
        lambda: clips_of_folder(folder),
        lambda: clips_of_list(os.fsencode(tmp_path / name)),
        lambda: open_cache(cache).clips,
    ]
    for door in doors:
        door()
        with (
            pd.option_context("mode.string_storage", "pyarrow"),
            pytest.raises(QamroError, match=r"is not UTF-8, and beside pyarrow .*set_option"),
        ):
            door()
    with pd.option_context("mode.string_storage", "pyarrow"):
        manifest = write_rows([{"audio": str(tmp_path / name)}], tmp_path / "rows")
    assert os.fsencode(tmp_path / name) in manifest.read_bytes()


@pytest.mark.parametrize("typed", [COMPOSED, APART, f" {APART} "])
def test_a_choice_names_a_system_in_any_form(typed: str) -> None:
    clips = pd.DataFrame({"clip_id": list("abc"), "system": [COMPOSED, "other", APART]})
    assert select_rows(clips, [f"system={typed}"], []).tolist() == [True, False, True]
    assert select_rows(clips, [], [f"system={typed}"]).tolist() == [False, True, False]
    with pytest.raises(QamroError, match="no clip has system 'Other'"):
        select_rows(clips, ["system=Other"], [])


def extracted(folder: Path, name: str, system: str, policy: str) -> Path:
    """A cache of twelve clips of two systems, of which one's name is given, and so the ids."""
    rng = np.random.default_rng(0)
    rows = ["clip_id,path,system,q"]
    for i in range(12):
        soundfile.write(folder / f"{i}.wav", rng.normal(size=4800) * 0.1, 48000)
        rows.append(f"{system}{i},{i}.wav,{system if i % 2 else 'S'},{1 + i % 5}")
    manifest, cache = folder / f"{name}.csv", folder / f"{name}.h5"
    manifest.write_text("\n".join(rows))
    encoder = load_encoder("mel", EncoderOptions(rate_policy=policy))
    extract(load_manifest(manifest), cache, encoder)
    return cache


def test_two_caches_that_name_systems_in_two_forms_are_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caches = [
        extracted(tmp_path, "one", COMPOSED, "resample"),
        extracted(tmp_path, "two", APART, "as-is"),
    ]
    grid = Grid({"epochs": [1]})
    ablate(caches, tmp_path / "grid", grid=grid, cv="system", seeds=1, resamples=0)
    assert "comparing on" not in caplog.text, "all clips are in both"
    results = pd.read_csv(tmp_path / "grid/results.csv")
    assert set(results["systems"]) == {2}
    assert set(results["clips"]) == {12}


def test_systems_that_differ_by_case_are_pointed_out_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = extracted(tmp_path, "case", "s", "resample")
    caplog.clear()
    train(cache, out=tmp_path / "run", epochs=1, seeds=1, cv="system")
    said = [line for line in caplog.messages if "differ by case alone" in line]
    assert len(said) == 1
    assert said[0].endswith("'S' and 's' in 'system' differ by case alone; they are taken for two")


@pytest.mark.parametrize(
    ("rows", "row"),
    [
        (b"clip_id,path,prompt\na,a.wav,x\nb,b.wav,caf\xe9\n", 3),
        (b"clip_id,path,system\na,a.wav,\xff\n", 2),
        (b"clip_id,path,caf\xe9\na,a.wav,3\n", 1),
        (b"clip_id,path,q\na,a.wav,\xff\n", 2),
    ],
)
def test_only_names_of_files_need_not_be_utf8(tmp_path: Path, rows: bytes, row: int) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(rows)
    byte = "0xe9" if b"\xe9" in rows else "0xff"
    for load in (load_manifest, load_rated):
        with pytest.raises(QamroError, match=f"row {row}: byte {byte} is not UTF-8; save it"):
            load(path)
