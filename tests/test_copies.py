"""Clips on both sides of a split under two names: what is found, and what is kept together."""

import json
import logging
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from synthetic_cache import write_synthetic

from qamro_cache.datasets.ids import one_spelling, prompt_key
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.folds import make_folds
from qamro_cache.experiments.request import train_request
from qamro_cache.experiments.train import train
from qamro_cache.extraction.extract import extract
from qamro_cache.heads.file import load_head
from qamro_cache.heads.trained import known_words
from qamro_cache.scoring.predict import predict

SETS = {"codec-mushra": "audio", "cvssp-separation": "site/sounds"}
FORMS = ("same", "flac", "ogg", "mp3", "trimmed")


def copy_of(path, form, folder):
    """Write a copy of a file's sound, and return its path."""
    if form == "same":
        return shutil.copyfile(path, folder / f"{path.parent.name}-{path.stem}-same.flac")
    sound, rate = soundfile.read(path, always_2d=True)
    subtype = soundfile.info(path).subtype
    if form == "trimmed":
        sound = sound[round(0.02 * rate) :]
    # The clips are FLAC files: a copy of one in another container has the same samples.
    end = {"flac": "wav", "trimmed": "flac"}.get(form, form)
    out = folder / f"{path.parent.name}-{path.stem}-{form}.{end}"
    soundfile.write(out, sound, rate, subtype=subtype if end in ("wav", "flac") else None)
    return out


def manifest_of(folder, files, copies):
    """Write a manifest: made-up scores, the folder is the group, of copies the one beside it."""
    groups = sorted({path.parent.name for path in files})
    rows = [(f"{p.parent.name}/{p.stem}", p, p.stem, p.parent.name, p.parent.name) for p in files]
    for path, form in copies:
        wrong = groups[groups.index(path.parent.name) ^ 1]
        name = f"{path.parent.name}/{path.stem}/{form}"
        rows.append((name, copy_of(path, form, folder), path.stem, wrong, path.parent.name))
    table = pd.DataFrame(rows, columns=["clip_id", "path", "system", "group", "true_group"])
    rng = np.random.default_rng(0)
    table["quality"] = rng.integers(0, 101, len(table))
    table.drop(columns="true_group").to_csv(folder / "clips.csv", index=False)
    return table


@pytest.fixture(scope="module", params=SETS)
def real(request, shared_data, tmp_path_factory):
    """A cache of a real set, one clip a group copied into another; the table of the clips."""
    folder = tmp_path_factory.mktemp("copies")
    files = sorted((shared_data / request.param / SETS[request.param]).glob("*/*.flac"))
    firsts = {path.parent: path for path in reversed(files)}.values()
    copies = [(path, FORMS[k % len(FORMS)]) for k, path in enumerate(sorted(firsts))]
    table = manifest_of(folder, files, copies)
    extract(manifest=folder / "clips.csv", out=folder / "emb.h5", encoder="mel")
    return folder / "emb.h5", table


def held_out(cache, tmp_path, **options):
    (group,) = train_request(cache, tmp_path / "run", options).groups
    return group.held_out


def test_copies_in_another_group_are_found_in_every_form(real, tmp_path, caplog):
    cache, table = real
    found = held_out(cache, tmp_path, cv="group")
    pairs = {kind: dict(rows.tolist()) for kind, rows in found.copies.pairs.items()}
    forms = table["clip_id"].str.split("/").str[2]
    wanted = {"same": "file", "flac": "samples", "ogg": "sound", "mp3": "sound", "trimmed": "sound"}
    for row, form in forms.dropna().items():
        assert row in pairs[wanted[form]], table["clip_id"][row]
    # Whatever is found has the same song or sentence, under the name of another.
    for rows in pairs.values():
        for held, trained in rows.items():
            assert table["true_group"][held] == table["true_group"][trained]
            assert table["group"][held] != table["group"][trained]
    record = found.copies.record()
    assert record["held_out"] == record["file"] + record["samples"] + record["sound"]
    assert record["not_comparable"] == 0
    assert f"; {record['held_out']} held-out clips are trained on too (" in found.question
    assert "--keep-together puts copies into one fold" in caplog.text


def test_clips_of_other_songs_are_no_copies(real, tmp_path, caplog):
    cache, table = real
    copies = table["clip_id"][table["clip_id"].str.count("/") == 2]
    without = [f"clip_id={name}" for name in copies]
    for cv in ("group", "system", "5"):
        found = held_out(cache, tmp_path, cv=cv, without=without)
        assert found.copies.record()["held_out"] == 0, cv
        assert "trained on too" not in found.question + caplog.text


def test_where_systems_are_held_out_exact_copies_alone_are_looked_for(real, tmp_path):
    cache, table = real
    labels = pd.DataFrame({"clip_id": table["clip_id"], "quality": table["quality"]})
    labels["system"] = [f"{s}{'' if n < 2 else '+'}" for s, n in zip(
        table["system"], table["clip_id"].str.count("/"), strict=True)]  # fmt: skip
    labels.to_csv(tmp_path / "labels.csv", index=False)
    record = held_out(cache, tmp_path, cv="system", labels=tmp_path / "labels.csv").copies.record()
    forms = table["clip_id"].str.split("/").str[2].value_counts()
    assert record["file"] == 2 * forms["same"]
    assert record["samples"] == 2 * forms["flac"]
    assert record["sound"] is None
    assert record["not_comparable"] is None


@pytest.mark.parametrize("cv", ["group", "5", "system"])
def test_copies_are_kept_together(real, tmp_path, cv):
    cache, table = real
    found = held_out(cache, tmp_path, cv=cv, keep_together=True)
    assert found.copies.record()["held_out"] == 0
    assert found.folds.test.any(0).all()
    if cv != "system":
        assert "that are copies of one another are kept together" in found.question
        fold = found.folds.test.argmax(0)
        row = {name: row for row, name in enumerate(table["clip_id"])}
        for name in table["clip_id"][table["clip_id"].str.count("/") == 2]:
            assert fold[row[name]] == fold[row[name.rpartition("/")[0]]], name
        # A group stays whole.
        if cv == "group":
            assert (pd.Series(fold).groupby(table["group"]).nunique() == 1).all()


def test_copies_raise_a_figure_and_it_is_said(shared_data, tmp_path, caplog):
    """Scores made of noise cannot be predicted, but for clips that were trained on."""
    files = sorted((shared_data / "codec-mushra" / "audio").glob("*/*_[68].flac"))
    table = manifest_of(tmp_path, files, [(path, "trimmed") for path in files])
    table["quality"] = 2 * table["quality"][: len(files)].tolist()
    table.drop(columns="true_group").to_csv(tmp_path / "clips.csv", index=False)
    extract(manifest=tmp_path / "clips.csv", out=tmp_path / "emb.h5", encoder="mel")
    options = {"cv": "3", "seeds": 1, "epochs": 20, "lr": 0.02, "widths": "32"}
    apart = train(tmp_path / "emb.h5", tmp_path / "apart", **options)
    assert apart["copies"]["sound"] == apart["copies"]["held_out"] > len(files)
    assert "which raises every figure" in caplog.text
    kept = train(tmp_path / "emb.h5", tmp_path / "kept", keep_together=True, **options)
    assert kept["copies"]["held_out"] == 0
    models = [run["axes"]["quality"]["models"]["qamro head"] for run in (apart, kept)]
    srcc = [model["metrics"]["clip_srcc"]["value"] for model in models]
    assert srcc[0] > 0.5, srcc
    assert srcc[1] < 0.3, srcc
    written = json.loads((tmp_path / "apart" / "metrics.json").read_text())
    assert written["copies"] == apart["copies"]


def test_without_fingerprints_hashes_are_compared_and_it_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    cache = write_synthetic(tmp_path / "a.h5")
    found = held_out(cache, tmp_path, cv="group")
    assert found.copies.record() == {
        "held_out": 0, "file": 0, "samples": 0, "sound": 0, "not_comparable": 39
    }  # fmt: skip
    assert "the sounds of 39 of 39 clips cannot be compared" in caplog.text
    caplog.clear()
    assert held_out(cache, tmp_path, cv="system").copies.not_comparable is None
    assert "cannot be compared" not in caplog.text


def test_a_grid_says_what_was_found(tmp_path, real):
    cache, _ = real
    quick = {"seeds": 1, "epochs": 1, "widths": "8", "resamples": 0}
    best = ablate(cache, tmp_path / "grid", cv=["group", "system"], **quick)
    group, system = best["questions"]
    assert group["cv"] == "group"
    assert group["copies"]["held_out"] > 0
    assert "held-out clips are trained on too" in group["split"]
    assert system["copies"]["sound"] is None
    assert json.loads((tmp_path / "grid" / "best.json").read_text())["questions"] == [group, system]


def test_a_head_says_which_clips_sound_like_those_it_learned_from(real, tmp_path, caplog):
    cache, table = real
    form = table["clip_id"].str.split("/").str[2]
    strange = set(table["true_group"].unique()[:3])
    unseen = table["clip_id"][form.notna() | table["true_group"].isin(strange)]
    options = {"cv": "3", "seeds": 1, "epochs": 1, "widths": "4"}
    train(cache, tmp_path, without=[f"clip_id={name}" for name in unseen], **options)
    # 16 bytes of two hashes, 1.5 kB of a fingerprint at most, and a byte an axis.
    noted = load_head(tmp_path).trained
    assert len(noted.audio) == len(table) - len(unseen)
    assert noted.sound.numel() <= 1536 * len(noted.audio)
    predicted = predict(tmp_path, cache=cache, out=tmp_path / "p.csv")
    wanted = {"same": "yes", "flac": "yes", "ogg": "near", "mp3": "near", "trimmed": "near"}
    learned = ~table["true_group"].isin(strange)
    said = np.where(learned, form.map(wanted).fillna("yes"), "no")
    assert predicted["trained_on"].tolist() == said.tolist()
    known, near = (said != "no").sum(), (said == "near").sum()
    assert known_words(known, near, f"these {len(table)} clips") in caplog.text
    scored = evaluate(tmp_path / "p.csv", cache, resamples=0)["axes"]["quality"]
    assert scored["trained_on_near"] == near
    assert scored["without_trained"]["clips"] == (said == "no").sum()


def clips_of(**columns):
    names = ("system", "group", "prompt", "split")
    size = len(next(iter(columns.values())))
    return pd.DataFrame({name: columns.get(name, [""] * size) for name in names})


def test_joined_names_are_one_fold():
    clips = clips_of(group=list("aabbccdd"))
    together = np.array([0, 1, 1, 2, 3, 4, 4, 5])  # of a and b, of c and d
    folds, _ = make_folds(clips, "group", np.ones(8, bool), inner=False, together=together)
    assert list(folds.names) == ["a+b", "c+d"]
    folds, _ = make_folds(clips, "4", np.ones(8, bool), inner=False, together=together)
    part = folds.test.argmax(0)
    assert part[1] == part[2]
    assert part[5] == part[6]


def test_a_split_does_not_train_on_copies_of_what_is_judged():
    clips = clips_of(split=["train"] * 4 + ["dev"] * 2 + ["test"] * 2)
    together = np.array([0, 1, 2, 3, 1, 4, 1, 0])
    folds, _ = make_folds(clips, "split", np.ones(8, bool), inner=True, together=together)
    assert folds.train[0].tolist() == [False, False, True, True] + [False] * 4
    assert folds.validation[0].tolist() == [False] * 5 + [True] + [False] * 2
    assert folds.test[0].tolist() == [False] * 6 + [True] * 2


def test_prompts_that_differ_in_case_blanks_or_punctuation_are_one():
    dogs, cats = ["A dog barks.", "a dog  barks", "A dog-barks!"], ["a cat", "\uff21 cat "]
    prompts = [*dogs, *cats, "?!", "\u2026", "a cat 2"]
    keys = [prompt_key(prompt) for prompt in prompts]
    assert len(set(keys)) == 5
    assert keys[0] == keys[1] == keys[2]
    assert keys[3] == keys[4]
    assert keys[5] != keys[6]
    assert prompt_key("") == ""
    assert one_spelling(prompts) == ["A dog barks."] * 3 + ["a cat"] * 2 + prompts[5:]
    folds, line = make_folds(clips_of(prompt=prompts), "prompt", np.ones(8, bool), inner=False)
    assert len(folds.names) == 5
    assert "5 folds" in line
    assert set(folds.names) <= set(prompts)
    part = folds.test.argmax(0)
    assert part[0] == part[1] == part[2]
    assert part[3] == part[4]


def test_a_random_part_without_clips_is_no_fold():
    clips = clips_of(group=list("abcdef"))
    folds, _ = make_folds(clips, "6", np.ones(6, bool), inner=False, together=np.arange(6) // 2)
    assert len(folds.names) == 3
    assert folds.test.sum(1).tolist() == [2, 2, 2]
    with pytest.raises(QamroError, match="all clips are copies of one another"):
        make_folds(clips, "6", np.ones(6, bool), inner=False, together=np.zeros(6, int))
    with pytest.raises(QamroError, match="which has 1 after those that copies join"):
        make_folds(clips, "group", np.ones(6, bool), inner=False, together=np.zeros(6, int))


def test_clips_known_and_clips_alike_are_told_apart():
    words = known_words(9, 0, "these 10 clips")
    assert words == "the head was trained on 9 of these 10 clips"
    words = known_words(9, 4, "10 clips")
    assert words == (
        "the head was trained on 5 of 10 clips, and 4 more sound like one that it was trained on"
    )
    words = known_words(4, 4, "10 clips")
    assert words == "4 of 10 clips sound like a clip that the head was trained on"


def test_what_is_not_named_is_said():
    bare = pd.DataFrame({"system": "", "group": "", "prompt": "", "split": ""}, index=range(6))
    known = np.ones(6, np.bool_)
    _, line = make_folds(bare, "3", known, inner=False)
    assert line == "3 random parts of the clips; no system or group or prompt of a clip is named"
    grouped = bare.assign(group=list("aabbcc"))
    _, line = make_folds(grouped, "group", known, inner=False)
    assert line == "leave one group out, 3 folds; no system or prompt of a clip is named"
