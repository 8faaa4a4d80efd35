"""What a clip is heard beside: references and groups; no leak from a fold's held-out clips."""

import dataclasses
import json

import fake_encoder
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from synthetic_cache import write_synthetic

from qamro_cache.cache.edit import relabel_cache
from qamro_cache.cache.reader import open_cache
from qamro_cache.encoders import mel, registry
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.company import training_parts
from qamro_cache.experiments.nested import inner_folds
from qamro_cache.experiments.request import train_request
from qamro_cache.experiments.thinned import thinned
from qamro_cache.experiments.train import _material, train
from qamro_cache.extraction.extract import extract
from qamro_cache.features.context import CONTEXTS, Context, company_of, times
from qamro_cache.heads.file import load_head
from qamro_cache.scoring.predict import predict

QUICK = {"widths": (8,), "epochs": 3, "lr": 0.01, "seeds": 1}


def reference_of(clips):
    """The first system's clip is its group's reference."""
    first = clips[clips["system"] == "S0"].set_index("group")["clip_id"]
    return clips["group"].map(first)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Eight groups of five clips, the first of each its reference; clip003 has failed."""
    folder = tmp_path_factory.mktemp("context")
    path = write_synthetic(folder / "emb.h5")
    return with_columns(path, folder / "named.h5", reference=reference_of)


def with_columns(path, out, **columns):
    """The cache with other columns of its clips, each a function of the table."""
    clips = open_cache(path).clips
    table = pd.DataFrame({"clip_id": clips["clip_id"]})
    for name, make in columns.items():
        table[name] = make(clips)
    table.to_csv(out.with_suffix(".csv"), index=False)
    relabel_cache(path, out.with_suffix(".csv"), out)
    return out


def slow(x, group, member, reference, kind, allowed, trained):
    """The definition, clip by clip in float64."""
    rows = []
    for k, own in enumerate(x):
        parts = [own]
        if kind in ("reference", "both"):
            other = reference[k]
            if trained[k] and not trained[other]:
                other = k
            parts += [own - x[other], abs(own - x[other])]
        if kind in ("group", "both"):
            who = [
                j for j in range(len(x))
                if j != k and group[j] == group[k] and member[j] and (allowed[j] or not trained[k])
            ]  # fmt: skip
            center = np.mean([x[j] for j in who], 0) if who else own
            parts += [own - center, abs(own - center)]
        rows.append(np.concatenate(parts))
    return np.stack(rows)


@pytest.mark.parametrize("kind", CONTEXTS[1:])
@pytest.mark.parametrize("cv", ["group", "4", "system", "prompt"])
def test_heads_see_the_definition(cache, tmp_path, kind, cv):
    """Every fold's features against a double loop over clips and their company."""
    asked = {"context": kind, "cv": cv, "head": "ridge", "axis": "quality"}
    request = train_request(cache, tmp_path / "run", asked)
    (clips, held_out), = request.groups  # fmt: skip
    material = _material(request, clips, held_out)
    table = open_cache(cache).table("embedding").filter(like="embedding_")
    x = np.zeros((40, 6))
    whole = open_cache(cache).clips
    ok = (whole["status"] == "ok").to_numpy()
    x[ok] = table.loc[whole["clip_id"][ok]].to_numpy()
    by = "prompt" if cv == "prompt" else "group"
    references = {str(name) for name in whole["reference"]}
    member = ok & ~whole["clip_id"].isin(references).to_numpy()
    place = {name: k for k, name in enumerate(whole["clip_id"])}
    reference = [place[name] for name in whole["reference"]]
    shared = cv in ("group", "prompt") and (kind == "group" or cv == "group")
    assert (len(material.features) == 1) == shared
    for fold, learned in enumerate(held_out.folds.train):
        trained = np.zeros(40, bool)
        trained[clips.rows] = learned
        expected = slow(x, whole[by].to_numpy(), member, reference, kind, trained, trained)
        found = material.seen(fold).windows.numpy()
        assert found.shape == (39, 6 * times(kind))
        np.testing.assert_allclose(found, expected[clips.rows], atol=2e-5)
    assert material.seen(0).blocks("audio") == (6,) * times(kind)


@pytest.mark.parametrize("cv", ["group", "4", "system"])
@pytest.mark.parametrize("kind", CONTEXTS[1:])
def test_a_held_out_sound_changes_no_training_clip(cache, tmp_path, kind, cv):
    asked = {"context": kind, "cv": cv, "head": "ridge", "axis": "quality",
             "feature": "project(layers, 4) + embedding"}  # fmt: skip
    request = train_request(cache, tmp_path / "run", asked)
    (clips, held_out), = request.groups  # fmt: skip
    material = _material(request, clips, held_out)
    for fold in (0, 2):
        learned = held_out.folds.train[fold]
        held = clips.rows[held_out.folds.test[fold]]
        leaves = {leaf: values.clone() for leaf, values in material.vectors.leaves.items()}
        for values in leaves.values():
            values[torch.from_numpy(held)] = values[torch.from_numpy(held)] * -3 + 100
        vectors = dataclasses.replace(material.vectors, leaves=leaves)
        again = dataclasses.replace(material, vectors=vectors).bound(held_out.folds)
        before, after = (one.seen(fold).windows.numpy() for one in (material, again))
        np.testing.assert_array_equal(before[learned], after[learned])
        assert (before[~learned] != after[~learned]).any()


@pytest.mark.parametrize("kind", CONTEXTS[1:])
@pytest.mark.parametrize("cv", ["4", "split"])
def test_a_held_out_sound_changes_no_validation_clip(tmp_path, kind, cv):
    """Ridge learns from the validation set too, and the range of what is known is its own."""
    path = write_synthetic(tmp_path / "emb.h5")
    path = with_columns(
        path, tmp_path / "named.h5", reference=reference_of,
        split=lambda t: [("train", "dev", "test", "train", "train")[k % 5] for k in range(len(t))],
    )  # fmt: skip
    request = train_request(
        path, tmp_path / "run", {"context": kind, "cv": cv, "stop": "inner", "axis": "quality"}
    )
    (clips, held_out), = request.groups  # fmt: skip
    assert held_out.folds.validation.any()
    material = _material(request, clips, held_out)
    leaves = {leaf: values.clone() for leaf, values in material.vectors.leaves.items()}
    held = torch.from_numpy(clips.rows[held_out.folds.test[0]])
    for values in leaves.values():
        values[held] += 100
    vectors = dataclasses.replace(material.vectors, leaves=leaves)
    again = dataclasses.replace(material, vectors=vectors).bound(held_out.folds)
    before, after = (one.seen(0).windows.numpy() for one in (material, again))
    learned = held_out.folds.train[0] | held_out.folds.validation[0]
    np.testing.assert_array_equal(before[learned], after[learned])


@pytest.mark.parametrize("cv", ["group", "4", "2", "system"])
def test_what_is_judged_inside_a_fold_hears_nothing_that_the_fold_holds_out(cache, tmp_path, cv):
    """A cell that is chosen for a fold is chosen without the sound of that fold's clips."""
    request = train_request(cache, tmp_path / "run", {"context": "both", "cv": cv, "head": "ridge"})
    (clips, held_out), = request.groups  # fmt: skip
    outer, material = held_out.folds, _material(request, clips, held_out)
    inner = inner_folds(outer)
    plain = material.bound(inner)
    leaves = {leaf: values.clone() for leaf, values in material.vectors.leaves.items()}
    for values in leaves.values():
        values[torch.from_numpy(clips.rows[outer.test[1]])] += 100
    vectors = dataclasses.replace(material.vectors, leaves=leaves)
    again = dataclasses.replace(material, vectors=vectors).bound(inner)
    mine = [n for n, served in enumerate(inner.serves) if 1 in served]
    assert mine
    for n in mine:
        before, after = (one.seen(n).windows.numpy() for one in (plain, again))
        rest = ~outer.test[1]
        np.testing.assert_array_equal(before[rest], after[rest])
        assert (before[~rest] != after[~rest]).any()


def test_fewer_labels_leave_the_company_as_it_is(cache, tmp_path):
    """A study of fewer clips or systems is of labels: all clips of the training part are heard."""
    request = train_request(cache, tmp_path, {"context": "group", "cv": "group", "head": "ridge"})
    (clips, held_out), = request.groups  # fmt: skip
    whole = _material(request, clips, held_out)
    for few in ((12, 0), (0, 2)):
        folds = thinned(held_out.folds, clips, *few)
        assert folds.train.sum() < held_out.folds.train.sum()
        one = whole.bound(folds)
        assert len(one.features) == 1
        assert torch.equal(one.seen(0).windows, whole.seen(0).windows)


@pytest.mark.parametrize("head", [{"head": "ridge"}, QUICK])
def test_labels_that_are_held_out_change_nothing(cache, tmp_path, head):
    clips, labels = open_cache(cache).clips, open_cache(cache).labels.mean[:, 0]
    found = []
    for held in (labels, np.where(clips["group"] == "G2", np.roll(labels, 1), labels)):
        table = pd.DataFrame({"clip_id": clips["clip_id"], "quality": held})
        table.to_csv(tmp_path / "labels.csv", index=False)
        out = tmp_path / str(len(found))
        train(
            cache, out, feature="project(layers, 5)", context="both", cv="group",
            labels=tmp_path / "labels.csv", **head,
        )  # fmt: skip
        one = pd.read_csv(out / "predictions.csv")
        found.append(one[one["fold"] == "G2"])
    assert (found[0]["target"].to_numpy() != found[1]["target"].to_numpy()).all()
    np.testing.assert_array_equal(found[0]["prediction"], found[1]["prediction"])


def test_unrated_clips_are_company_but_not_of_a_fold_that_holds_them_out(cache, tmp_path):
    clips = open_cache(cache).clips
    labels = pd.DataFrame({"clip_id": clips["clip_id"], "quality": np.arange(40.0)})
    labels.loc[[1, 12], "quality"] = np.nan
    labels.to_csv(tmp_path / "labels.csv", index=False)
    asked = {"context": "group", "head": "ridge", "labels": tmp_path / "labels.csv"}
    for cv in ("system", "group", "5"):
        request = train_request(cache, tmp_path / cv, {**asked, "cv": cv})
        (chosen, held_out), = request.groups  # fmt: skip
        parts = training_parts(chosen, held_out.folds, cv)
        assert len(chosen.rows) == 37
        for part, name, learned in zip(
            parts, held_out.folds.names, held_out.folds.train, strict=True
        ):
            np.testing.assert_array_equal(part[chosen.rows], learned)
            for row in (1, 12):
                assert part[row] == (cv == "5" or clips[cv][row] != name)


@pytest.mark.parametrize(
    ("context", "head"),
    [("reference", {"head": "ridge"}), ("group", QUICK), ("both", {"head": "ridge"})],
)
def test_a_folds_head_says_again_what_it_predicted(cache, tmp_path, context, head):
    train(cache, tmp_path, context=context, cv="group", save_folds=True, **head)
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert load_head(tmp_path).context == Context(
        context, "group", *((0, 0) if context == "reference" else (2, 4))
    )
    for path in (tmp_path / "folds").iterdir():
        loaded = load_head(path)
        part = table[table["fold"] == loaded.training["held_out"]]
        again = predict(loaded, cache).set_index(["axis", "clip_id"])["prediction"]
        mine = part.set_index(["axis", "clip_id"])["prediction"]
        np.testing.assert_allclose(again.loc[mine.index], mine, rtol=1e-4)


def test_context_is_a_dimension_of_a_grid(cache, tmp_path):
    ablate(cache, tmp_path, context=list(CONTEXTS), head="ridge", cv="group", axis="quality",
           resamples=0)  # fmt: skip
    table = pd.read_csv(tmp_path / "summary.csv")
    for model in ("head", "ridge"):
        mine = table[(table["model"] == model) & (table["axis"] == "quality")]
        mine = mine.set_index("context")["clip_mse"]
        assert set(mine.index) == set(CONTEXTS)
        assert mine.nunique() == 4
    # A ridge head and the baseline see the same.
    pair = table[table["model"].isin(["head", "ridge"])].groupby(["axis", "context"])["clip_mse"]
    assert set(table["axis"]) == {"quality", "quality (without references)"}
    np.testing.assert_allclose(pair.min(), pair.max(), rtol=1e-6)


def test_another_clip_in_a_group_changes_that_group_alone(cache, tmp_path):
    """At prediction the company is that of the call."""
    train(cache, tmp_path / "run", context="group", head="ridge", cv="group")
    other = write_synthetic(tmp_path / "other.h5", clips=5, seed=3, prefix="more")
    other = with_columns(other, tmp_path / "one.h5", group=lambda t: ["G2"] * 5)
    before, after = (
        predict(tmp_path / "run", cache, company=company).set_index(["axis", "clip_id"])
        for company in ((), other)
    )
    assert set(before.index) == set(after.index)
    change = (before["prediction"] - after["prediction"]).abs()
    assert change[before["group"] != "G2"].max() <= 1e-6 * 100
    assert (change[before["group"] == "G2"] > 1e-3).all()
    assert set(after[after["group"] == "G2"]["company"]) == {
        "7: learned 2 to 4",
        "8: learned 2 to 4",
    }
    assert set(before["company"]) == {"2", "3", "4", ""}
    with pytest.raises(QamroError, match="another number of others than this head learned"):
        predict(tmp_path / "run", cache, company=other, strict=True)


def test_company_needs_no_reference_and_a_lost_reference_is_a_reason(cache, tmp_path):
    train(cache, tmp_path / "run", context="both", head="ridge", cv="group")
    other = write_synthetic(tmp_path / "other.h5", clips=5, seed=3, prefix="more")
    plain = predict(tmp_path / "run", cache, company=other)
    assert plain["clip_id"].nunique() == 40
    assert plain["prediction"].notna().sum() == 78
    # clip003 has failed: those that it is the reference of.
    lost = with_columns(
        cache, tmp_path / "lost.h5",
        reference=lambda t: ["clip003" if g == "G0" else r
                             for g, r in zip(t["group"], t["reference"], strict=True)],
    )  # fmt: skip
    table = predict(tmp_path / "run", lost)
    of_group = table[(table["group"] == "G0") & (table["clip_id"] != "clip003")]
    assert set(of_group["reason"]) == {"its reference has no features"}
    assert of_group["prediction"].isna().all()
    assert table[table["group"] != "G0"]["prediction"].notna().all()
    assert set(table[table["clip_id"] == "clip003"]["reason"]) == {"not a sound file"}


def test_company_of_several_encoders_is_of_each(tmp_path):
    """A company that one encoder lacks would not be heard."""
    caches, others = (
        [
            write_synthetic(tmp_path / f"{name}{seed}.h5", name=name, seed=seed, **more)
            for name in ("one", "two")
        ]
        for seed, more in ((0, {}), (3, {"clips": 5, "prefix": "more"}))
    )
    feature = "one.embedding + two.embedding"
    train(caches, tmp_path / "run", feature=feature, context="group", head="ridge", cv="group")
    with pytest.raises(QamroError, match=r"4 clips are not in a cache of each encoder .'more000'"):
        predict(tmp_path / "run", caches, company=others[0])
    with pytest.raises(QamroError, match="5 clips are not in a cache of each encoder"):
        predict(tmp_path / "run", caches, company=others[1:])
    beside = predict(tmp_path / "run", caches, company=others).set_index(["axis", "clip_id"])
    whole = predict(tmp_path / "run", [*caches, *others]).set_index(["axis", "clip_id"])
    assert len(beside) == 80
    np.testing.assert_allclose(beside["prediction"], whole.loc[beside.index]["prediction"])
    told = set(beside[beside["group"] == "G0"]["company"])
    assert told == {"7: learned 3 to 4", ""}


def made(folder, encoder, name, ids, columns):
    for k, one in enumerate(ids):
        (folder / one).parent.mkdir(exist_ok=True, parents=True)
        noise = np.random.default_rng([k, len(name)]).normal(size=12000)
        soundfile.write(folder / one, noise * 0.02 * (k + 1), 16000)
    pd.DataFrame({"clip_id": ids, "path": ids, **columns}).to_csv(folder / "m.csv", index=False)
    extract(None, folder / f"{name}.h5", encoder, manifest=folder / "m.csv")
    return folder / f"{name}.h5"


def test_a_folder_is_grouped_as_it_is_asked(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(registry, "list_encoders", lambda: [mel.INFO, fake_encoder.INFO])
    ids = [f"song{k % 4}/take{k}.wav" for k in range(12)]
    groups = {"group": [one.split("/")[0] for one in ids], "q": [1 + k % 5 for k in range(12)]}
    cache = made(tmp_path / "train", "fake", "fake", ids, groups)
    train(cache, tmp_path / "run", context="group", head="ridge", cv="group")
    known = predict(tmp_path / "run", cache).set_index("clip_id")["prediction"]
    folder = tmp_path / "train"
    for by in ("folder", "(song[0-9])/", "song[0-9]"):
        table = predict(tmp_path / "run", audio=folder, group_by=by).set_index("clip_id")
        np.testing.assert_allclose(table["prediction"], known[table.index], rtol=1e-6)
    with pytest.raises(QamroError, match=r"no clip has a group.*--group-by folder"):
        predict(tmp_path / "run", audio=folder)
    with pytest.raises(OptionError, match=r"matches no clip, such as 'song0/take0.wav'"):
        predict(tmp_path / "run", audio=folder, group_by="album")
    with pytest.raises(OptionError, match="no regular expression"):
        predict(tmp_path / "run", audio=folder, group_by="(")
    with pytest.raises(OptionError, match="for a folder of audio"):
        predict(tmp_path / "run", cache, group_by="folder")
    # One clip alone, then beside the rest of its song.
    (tmp_path / "one" / "song1").mkdir(parents=True)
    (folder / ids[1]).rename(tmp_path / "one" / ids[1])
    alone = predict(tmp_path / "run", audio=tmp_path / "one", group_by="folder")
    assert alone["company"].tolist() == ["alone"]
    assert "1 clips are alone in their group" in caplog.text
    again = predict(tmp_path / "run", audio=tmp_path / "one", group_by="folder", company=folder)
    assert again["clip_id"].tolist() == [ids[1]]
    np.testing.assert_allclose(again["prediction"], known[[ids[1]]], rtol=1e-6)


def test_a_head_that_compares_prompts_takes_groups_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "list_encoders", lambda: [mel.INFO, fake_encoder.INFO])
    ids = [f"song{k % 4}/take{k}.wav" for k in range(12)]
    prompts = {
        "prompt": [f"a song {k % 4}" for k in range(12)],
        "q": [1 + k % 5 for k in range(12)],
    }
    cache = made(tmp_path / "train", "fake", "fake", ids, prompts)
    train(cache, tmp_path / "run", context="group", head="ridge", cv="prompt")
    assert load_head(tmp_path / "run").context.by == "prompt"
    known = predict(tmp_path / "run", cache).set_index("clip_id")["prediction"]
    table = predict(tmp_path / "run", audio=tmp_path / "train", group_by="folder")
    np.testing.assert_allclose(table["prediction"], known[table["clip_id"]], rtol=1e-6)
    with pytest.raises(QamroError, match="no clip has a group"):
        predict(tmp_path / "run", audio=tmp_path / "train")


def test_prompts_of_another_spelling_are_one_group():
    table = pd.DataFrame({"clip_id": list("abc"), "reference": "", "status": "ok", "group": ""})
    table = table.assign(source="", prompt=["a dog", "A  dog ", "a cat"])
    found = company_of(table, np.arange(3), "group", "prompt", "x.h5")
    assert found.others().tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("kind", "columns", "said"),
    [
        ("reference", {"reference": ""}, "no clip names a reference; context reference takes a"),
        ("reference", {"reference": ["a", "", "a"]}, "1 clips name no reference \\(b\\)"),
        ("reference", {"reference": ["a", "z", "a"]}, "clip 'b' has the reference 'z', which is"),
        ("reference", {"reference": ["b", "c", "c"]}, "which refers on to 'c'"),
        ("both", {"reference": "c", "status": ["ok", "ok", "empty"]}, "'c', which has no features"),
        ("group", {"group": ""}, "no clip has a group, and context group compares"),
        ("group", {"group": ["A", "B", "B"], "reference": ["a", "c", "c"]},
         "group 'A' has references only"),
    ],
)  # fmt: skip
def test_company_that_cannot_be_is_one_line(kind, columns, said):
    table = pd.DataFrame({"clip_id": list("abc"), "group": "G", "reference": "", "status": "ok"})
    table = table.assign(source="", **columns)
    with pytest.raises(QamroError, match=f"x.h5: .*{said}") as error:
        company_of(table, np.arange(3), kind, "group", "x.h5")
    assert "\n" not in str(error.value)


def test_a_clip_alone_has_the_zero_difference_and_is_counted(cache, tmp_path, caplog):
    path = with_columns(
        cache, tmp_path / "x.h5",
        group=lambda t: ["alone" if k == 7 else g for k, g in enumerate(t["group"])],
    )  # fmt: skip
    request = train_request(path, tmp_path / "run", {"context": "group", "cv": "4"})
    (clips, held_out), = request.groups[:1]  # fmt: skip
    material = _material(request, clips, held_out)
    material.tell()
    assert "context group: 1 of 39 clips are alone in their group" in caplog.text
    row = int(np.flatnonzero(clips.rows == 7)[0])
    assert (material.seen(0).windows[row, 6:] == 0).all()


def test_figures_without_references_stand_beside_those_with_them(cache, tmp_path):
    """x - c = 0 marks a reference, which listeners rate highest."""
    record = train(cache, tmp_path, context="reference", cv="group", axis="quality", head="ridge")
    beside = record["axes"]["quality"]["without_references"]
    found = beside["models"]["ridge head"]["metrics"]["clip_srcc"]["value"]
    table = pd.read_csv(tmp_path / "predictions.csv")
    kept = table[table["system"] != "S0"]
    assert beside["clips"] == len(kept)
    assert found == pytest.approx(kept["prediction"].corr(kept["target"], method="spearman"))
    assert json.loads((tmp_path / "metrics.json").read_text())["axes"]["quality"][
        "without_references"
    ]["clips"] == len(kept)


@pytest.mark.parametrize("given", [{"pooling": "attention"}, {"head": "audiobox"}])
def test_context_is_of_clip_vectors(cache, tmp_path, given):
    with pytest.raises(OptionError, match="context group is of a vector a clip"):
        train(cache, tmp_path, context="group", feature="layers", **given)
