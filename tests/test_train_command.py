"""Training end to end, from a cache on disk to files that other commands read."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from qamro_cache_cli.ablate import main as ablate
from scipy.stats import pearsonr, spearmanr
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.experiments.folds import default_cv, make_folds
from qamro_cache.experiments.train import train
from qamro_cache.heads.file import load_head
from qamro_cache.scoring.predict import predict

QUICK = ["--epochs", "4", "--widths", "8", "--lr", "0.01", "--seeds", "2"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("cache") / "emb.h5")


def run(*arguments):
    from qamro_cache_cli.train import main

    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def clips():
    n = 24
    return pd.DataFrame(
        {
            "system": [f"s{k % 4}" for k in range(n)],
            "group": [f"g{k // 4}" for k in range(n)],
            "prompt": ["" for _ in range(n)],
            "split": ["train"] * 16 + ["dev"] * 4 + ["test"] * 4,
        }
    )


def test_folds_hold_out_whole_groups(clips):
    known = np.ones(len(clips), bool)
    known[5] = False
    for cv, count in (("group", 6), ("system", 4), ("5", 5)):
        for inner in (False, True):
            folds, _ = make_folds(clips, cv, known, inner=inner)
            assert folds.test.shape == (count, 24)
            assert (folds.test.sum(0) == known).all(), "every rated clip is held out once"
            assert not (folds.train | folds.validation)[:, ~known].any()
            assert ((folds.train | folds.validation | folds.test).sum(0) == count * known).all()
            assert folds.validation.any(1).all() == inner
            if cv != "5":
                for k in range(count):
                    names = clips[cv].to_numpy()
                    parts = [set(names[m[k]]) for m in (folds.train, folds.validation, folds.test)]
                    assert not (parts[0] | parts[1]) & parts[2]
                    assert not (inner and parts[0] & parts[1]), "the inner split cuts a group"


def test_fixed_splits(clips):
    known = np.ones(24, bool)
    folds, line = make_folds(clips, "split", known, inner=True)
    assert (folds.train.sum(), folds.validation.sum(), folds.test.sum()) == (16, 4, 4)
    assert "100 % of the test clips have a system" in line
    folds, _ = make_folds(clips, "split", known, inner=False)
    assert (folds.train.sum(), folds.test.sum()) == (20, 4)
    no_test = clips[clips["split"] != "test"].reset_index(drop=True)
    folds, _ = make_folds(no_test, "split", known[:20], inner=True)
    assert folds.test[0, 16:].all(), "dev is judged, so it may not stop the training"
    assert not folds.validation[0, 16:].any()
    assert folds.validation.any()


@pytest.mark.parametrize("cv", ["prompt", "1", "99", "song", ""])
def test_impossible_folds_are_one_line(clips, cv):
    every = "system, group, prompt, source, split or a number of folds"
    with pytest.raises(QamroError, match=f"--cv.*{every}"):
        make_folds(clips, cv, np.ones(24, bool), inner=False)


def test_a_run_folder_holds_what_it_says(cache, tmp_path):
    result = run("--cache", cache, "--out", tmp_path / "run", "--cv", "group", *QUICK)
    assert result.exit_code == 0, result.output
    assert "synthetic data" in result.stdout
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(table.columns) == [
        "clip_id", "system", "group", "axis", "seed", "fold", "prediction", "target", "ood",
    ]  # fmt: skip
    # 39 usable clips, each held out once, by two seeds on two axes.
    assert len(table) == 39 * 2 * 2
    assert (table["fold"] == table["group"]).all()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for axis, one in metrics["axes"].items():
        scored = one["models"]["qamro head"]
        assert (scored["clips"], scored["systems"], scored["seeds"]) == (39, 5, 2)
        rows = table[table["axis"] == axis]
        srcc = [spearmanr(r["prediction"], r["target"])[0] for _, r in rows.groupby("seed")]
        assert scored["metrics"]["clip_srcc"]["seeds_mean"] == pytest.approx(np.mean(srcc))
        # What qamro-predict would say of a clip: the mean over the seeds.
        mean = rows.groupby(["clip_id", "system", "group"])[["prediction", "target"]].mean()
        want = spearmanr(mean["prediction"], mean["target"])[0]
        assert scored["metrics"]["clip_srcc"]["value"] == pytest.approx(want)
        means = mean.groupby("system").mean()
        error = ((means["prediction"] - means["target"]) ** 2).mean()
        assert scored["metrics"]["system_mse"]["value"] == pytest.approx(error)
        within = [spearmanr(*part.to_numpy().T)[0] for _, part in mean.groupby("group")]
        assert scored["metrics"]["group_srcc"]["value"] == pytest.approx(np.mean(within))
        assert (scored["groups"], scored["left_out"]) == (8, 0)
        assert "|n=39|systems=5|groups=8|cv=group|seeds=2|ci=" in scored["signature"]
        assert set(one["models"]) == {"qamro head", "ridge", "kNN", "train mean"}
        assert (one["ceiling"]["clips"], one["ceiling"]["raters"]) == (39, 4)
        assert 0.9 < one["ceiling"]["figures"]["clip_srcc"] < 1
    assert "ceiling     in 8 groups" in result.stdout
    assert "ceiling: of 4 raters" in result.stdout
    found = [one for axis in metrics["axes"].values() for one in axis["diagnostics"]]
    assert found, "four epochs teach next to nothing"
    for one in found:
        assert f"{one['evidence']}. To try: {one['suggestion']}" in " ".join(result.stdout.split())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"]["epochs"] == 4
    assert config["recipe"]["widths"] == [8]
    assert config["synthetic"] is True


def test_the_saved_head_is_trained_on_everything(cache, tmp_path):
    train(
        cache, tmp_path, cv="group", epochs=30, seeds=3, widths=(8,), lr=0.02, save_folds=True,
        resamples=0,
    )  # fmt: skip
    head = load_head(tmp_path / "head.safetensors")
    assert [len(one.seeds) for one in head.axes] == [3, 3]
    predicted = predict(tmp_path / "head.safetensors", cache=cache)
    quality = predicted[(predicted["axis"] == "quality") & predicted["prediction"].notna()]
    assert len(quality) == 39
    assert spearmanr(quality["prediction"], quality["target"])[0] > 0.9
    # The heads of a fold predict its held-out clips as predictions.csv has them.
    table = pd.read_csv(tmp_path / "predictions.csv")
    of_fold = predict(tmp_path / "folds" / "2.safetensors", cache=cache)
    name = load_head(tmp_path / "folds" / "2.safetensors").training["held_out"]
    mine = table[(table["fold"] == name) & (table["axis"] == "match")]
    mean = mine.groupby("clip_id")["prediction"].mean()
    theirs = of_fold[of_fold["axis"] == "match"].set_index("clip_id")["prediction"]
    np.testing.assert_allclose(theirs[mean.index], mean, rtol=1e-4)


@pytest.mark.parametrize(
    ("batches", "told"),
    [
        # 35 clips are five batches, passed over twice; 9 are two: 4, 10 and 10 steps an epoch.
        ("own", "the 35 training clips 2 times"),
        ("shared", "the 39 training clips 2 times"),
    ],
)
def test_the_saved_head_takes_the_median_fold_s_steps(cache, tmp_path, caplog, batches, told):
    """Of unequal folds: of 30, 5 and 4 clips' systems in turn. All 39 are 10 steps an epoch."""
    caplog.set_level("INFO")
    table = open_cache(cache).clips[["clip_id", "status"]].assign(quality=range(40), system="A")
    table.loc[table["clip_id"] > "clip030", "system"] = "B"
    table.loc[table["clip_id"] > "clip035", "system"] = "C"
    table.to_csv(tmp_path / "labels.csv", index=False)
    train(cache, tmp_path / "run", labels=tmp_path / "labels.csv", cv="system", stop="fixed",
          batches=batches, batch_size=8, epochs=10, seeds=1, widths=(4,), resamples=0)  # fmt: skip
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["refit_epochs"] == {"quality": 10}
    assert told in caplog.text


@pytest.mark.parametrize("refit", ["", "all"])
def test_the_judged_part_of_a_fixed_split_stays_unseen_by_the_saved_head(tmp_path, refit):
    """Other labels, and other embeddings, of the judged clips leave it as it is."""
    path = write_synthetic(tmp_path / "emb.h5", clips=60, split=True)
    settings = {"seeds": 1, "epochs": 3, "stop": "fixed", "widths": (8,), "lr": 0.02,
                "axis": "quality", "resamples": 0}  # fmt: skip
    train(path, tmp_path / "a", refit=refit, **settings)
    cached = open_cache(path)
    dev = np.flatnonzero(cached.clips["split"] == "dev")
    values = cached.labels.mean.copy()
    values[dev] = values[dev[::-1]]
    labels = cached.clips[["clip_id", "split"]].assign(quality=values[:, 0], match=values[:, 1])
    labels.to_csv(tmp_path / "labels.csv", index=False)
    train(path, tmp_path / "b", refit=refit, labels=tmp_path / "labels.csv", **settings)
    a, b = load_head(tmp_path / "a"), load_head(tmp_path / "b")
    same = [
        torch.equal(one.params[name], other.params[name])
        for one, other in zip(a.axes, b.axes, strict=True)
        for name in one.params
    ]
    table = predict(tmp_path / "a", cache=path)
    said = table.groupby(table["clip_id"].isin(cached.clips["clip_id"][dev]))["trained_on"]
    record = json.loads((tmp_path / "a" / "config.json").read_text())
    if refit:
        assert not any(same)
        assert record["refit_clips"] == 59
        assert set(said.get_group(True)) == {"yes"}
    else:
        assert all(same)
        assert record["refit_clips"] == len(a.reference.clips) == 49
        assert set(said.get_group(True)) == {"no"}
        assert set(said.get_group(False)) == {"yes", "no"}, "and one failed clip"
    table.to_csv(tmp_path / "p.csv", index=False)
    result = evaluate(tmp_path / "p.csv", path, split="dev", include_trained=True, resamples=0)
    assert result["axes"]["quality"]["trained_on"] == (10 if refit else 0)


def test_the_heads_of_a_fold_note_the_clips_of_that_fold_alone(cache, tmp_path):
    few = {"epochs": 2, "seeds": 1, "widths": (8,), "axis": "quality", "resamples": 0}
    train(cache, tmp_path, cv="group", stop="inner", save_folds=True, **few)
    whole = predict(tmp_path, cache=cache)
    assert set(whole["trained_on"][whole["prediction"].notna()]) == {"yes"}
    table = pd.read_csv(tmp_path / "predictions.csv")
    one = predict(tmp_path / "folds" / "2.safetensors", cache=cache)
    held = set(table["clip_id"][table["fold"] == "G2"])
    assert set(one["clip_id"][(one["trained_on"] == "no") & one["prediction"].notna()]) == held


@pytest.mark.parametrize(
    "settings",
    [
        {"head": "audiobox", "feature": "layers"},
        {"inputs": "concat", "pooling": "scores"},
        {"inputs": "products", "pooling": "max"},
        {"head": "linear", "output": "bounded"},
        {"pooling": "attention", "layer_norm": True, "dropout": 0.1, "optimizer": "adamw"},
    ],
)
def test_every_head_goes_from_cache_to_prediction(cache, tmp_path, settings):
    record = train(
        cache,
        tmp_path,
        cv="3",
        seeds=1,
        epochs=12,
        lr=0.02,
        axis="quality",
        resamples=0,
        **settings,
    )
    scored = record["axes"]["quality"]["models"]["qamro head"]
    assert scored["metrics"]["clip_srcc"]["value"] > 0.3, settings
    predicted = predict(tmp_path / "head.safetensors", cache=cache)
    assert predicted["prediction"].notna().sum() == 39


def test_a_fixed_split_stops_on_training_clips_only(tmp_path):
    """Permuting the dev labels changes no prediction and no stopping epoch."""
    path = write_synthetic(tmp_path / "emb.h5", clips=60, split=True)
    cached = open_cache(path)
    labels = cached.clips[["clip_id"]].assign(
        quality=cached.labels.mean[:, 0], match=cached.labels.mean[:, 1]
    )
    dev = np.flatnonzero(cached.clips["split"] == "dev")
    for axis in ("quality", "match"):
        labels.loc[dev, axis] = labels.loc[dev[::-1], axis].to_numpy()
    labels.to_csv(tmp_path / "permuted.csv", index=False)
    plain = cached.clips[["clip_id"]].assign(
        quality=cached.labels.mean[:, 0], match=cached.labels.mean[:, 1]
    )
    plain.to_csv(tmp_path / "plain.csv", index=False)
    tables = []
    for name in ("plain", "permuted"):
        train(
            path, tmp_path / name, labels=tmp_path / f"{name}.csv", seeds=2, epochs=10,
            patience=3, widths=(8,), lr=0.02, resamples=0,
        )  # fmt: skip
        tables.append(pd.read_csv(tmp_path / name / "predictions.csv"))
    assert (tables[0]["prediction"] == tables[1]["prediction"]).all()
    assert (tables[0]["target"] != tables[1]["target"]).any()


def test_mistakes_are_one_line(cache, tmp_path):
    for arguments, words in (
        (["--head", "audiobox"], "layers"),
        (["--cv", "99"], "(2 to the 39 rated clips)"),
        (["--lr", "1e30", "--cv", "3"], "diverged"),
    ):
        result = run("--cache", cache, "--out", tmp_path / "run", *QUICK, *arguments)
        assert result.exit_code == 1, (arguments, result.output)
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("error: "), last
        assert words in last
    for arguments, words in (
        (["--loss", "hubert"], "did you mean 'huber'?"),
        (["--loss", "huber", "--alpha", "0.3"], "no term of the loss 'huber' takes it"),
        (["--loss", "qamro(alpha=0.1)", "--alpha", "0.3"], "give it once"),
        (["--alpha", "-1"], "alpha must be at least 0"),
        (["--head", "mpl"], "did you mean 'mlp'?"),
        (["--widths", "256,64"], "widths must be whole numbers joined by -, got '256,64'"),
        (["--sede", "3"], "--sede"),
        (["--axis", "qualty"], "there are: quality, match; did you mean 'quality'?"),
        (["--feature", "embed"], "there are: embedding, layers; did you mean 'embedding'?"),
        (["--cv", "prompts"], "did you mean 'prompt'?"),
        (["--cv", "Signal"], "did you mean 'group'?"),
        (["--cv", "condition"], "did you mean 'system'?"),
        (
            ["--cv", "1"],
            "use system, group, prompt, source, split or a number of folds, at least 2",
        ),
        (["--cv", "9" * 5000], "--cv '999"),
    ):
        result = run("--cache", cache, "--out", tmp_path / "run", *arguments)
        assert result.exit_code == 2, (arguments, result.output)
        errors = [line for line in result.stderr.splitlines() if not line.startswith("INFO: ")]
        assert [line[:7] for line in errors] == ["error: "], result.stderr
        assert words in result.stderr
    assert run("--cache", tmp_path / "none.h5", "--out", tmp_path).exit_code == 1
    assert run("--cache", cache).exit_code == 2


def test_labels_that_float32_cannot_tell_apart_are_refused(cache, tmp_path):
    clips, labels = open_cache(cache).clips, open_cache(cache).labels.mean[:, 0]
    for offset, code in ((1e4, 0), (1e8, 1)):
        pd.DataFrame({"clip_id": clips["clip_id"], "mos": labels + offset}).to_csv(
            tmp_path / "labels.csv", index=False
        )
        result = run(
            "--cache", cache, "--labels", tmp_path / "labels.csv", "--cv", "3", "--head", "ridge",
            "--out", tmp_path / f"{offset:.0f}",
        )  # fmt: skip
        assert result.exit_code == code, result.output
    last = result.stderr.splitlines()[-1]
    assert "error: mos: labels from 1000" in last
    assert "differ too little for their size" in last


def test_another_run_in_the_folder_is_kept(cache, tmp_path):
    out = tmp_path / "run"
    other = write_synthetic(tmp_path / "other.h5", seed=1)
    options = ["--out", out, "--cv", "3", *QUICK, "--epochs", "1", "--axis", "match",
               "--resamples", "0"]  # fmt: skip
    arguments = ["--cache", cache, *options]
    assert run(*arguments, "--save-folds").exit_code == 0
    assert run(*arguments, "--save-folds").exit_code == 0, "the same command is harmless"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert len(before) == 4 + 3
    for changed, name in (
        ([*arguments, "--alpha", "0.5"], "loss"),
        ([*arguments, "--seeds", "1"], "seeds"),
        (["--cache", other, *options], "cache"),
    ):
        refused = run(*changed, "--save-folds")
        assert refused.exit_code == 1, refused.output
        last = refused.stderr.splitlines()[-1]
        assert last.startswith(f"error: {out} holds a run that differs in {name}"), last
        assert "--overwrite" in last
    bare = [*arguments[:-2], "--save-folds"]
    for given, said in (
        (["--over", "system"], "--over system"),
        (["--resamples", "9"], "--resamples 9"),
        ([], "--interval jackknife"),
    ):
        last = run(*bare, *given).stderr.splitlines()[-1]
        command = f"qamro-evaluate --predictions {out} --labels {cache} {said}; or name another"
        assert f"intervals alone need no training: {command}" in last
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "predictions.csv").write_text("mine")
    foreign = run("--cache", cache, "--out", tmp_path / "mine", "--cv", "3", *QUICK)
    assert "holds predictions.csv of something else" in foreign.stderr
    for name in ("done", "begun"):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "0.safetensors").write_text("heads")
        foreign = run("--cache", cache, "--out", tmp_path / name, "--cv", "3", *QUICK)
        assert "holds a grid of qamro-ablate in training" in foreign.stderr
    grid = CliRunner().invoke(ablate, ["--cache", str(cache), "--out", str(out)])
    assert (grid.exit_code, "holds a run of qamro-train" in grid.stderr) == (1, True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    replaced = run(*arguments, "--alpha", "0.5", "--overwrite")
    assert replaced.exit_code == 0, replaced.output
    assert "alpha=0.5" in json.loads((out / "config.json").read_text())["recipe"]["loss"]
    assert not (out / "folds").exists(), "heads of the replaced run are left"


def test_training_on_three_clips_or_one_rating_says_what_it_is_worth(cache, tmp_path):
    ids = open_cache(cache).clips["clip_id"]
    for name, scores, words in (
        ("few", {0: 10.0, 1: 20.0, 2: 30.0}, "quality: only 3 clips and 3 systems: correlations"),
        ("equal", dict.fromkeys(range(4, 16), 50.0), "all 12 clips have the rating 50"),
    ):
        labels = tmp_path / f"{name}.csv"
        rows = [f"{ids[k]},{score}" for k, score in scores.items()]
        labels.write_text("\n".join(["clip_id,quality", *rows]))
        arguments = ["--cache", cache, "--labels", labels, "--cv", "3", *QUICK, "--epochs", "1"]
        done = run(*arguments, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
        assert done.stderr.count("WARNING: quality: ") == 1, done.stderr
        assert words in done.stderr
        grid = CliRunner().invoke(
            ablate,
            [*map(str, arguments), "--resamples", "0", "--out", str(tmp_path / f"{name}-grid")],
        )
        assert grid.exit_code == 0, grid.output
        assert words in grid.stderr


@pytest.mark.slow
def test_real_separation_ratings(shared_data, tmp_path):
    """Leave one song out on real audio: at least what ridge on the same embeddings reaches."""
    pytest.importorskip("distillmos")
    from qamro_cache.datasets.registry import load_dataset
    from qamro_cache.encoders.registry import load_encoder
    from qamro_cache.extraction.extract import extract

    dataset = load_dataset("cvssp-separation", shared_data / "cvssp-separation")
    extract(dataset, tmp_path / "emb.h5", load_encoder("distillmos"))
    record = train(tmp_path / "emb.h5", tmp_path / "run", axis=["quality"], cv="group", epochs=25)
    models = record["axes"]["quality"]["models"]
    srcc = models["qamro head"]["metrics"]["clip_srcc"]["value"]
    assert models["qamro head"]["clips"] == 96
    assert models["qamro head"]["systems"] == 24
    assert srcc >= 0.885
    assert srcc >= models["ridge"]["metrics"]["clip_srcc"]["value"] - 0.015
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    table = table[~table["system"].isin(["ref", "Quality", "Interferer"])]
    alone = [spearmanr(t["prediction"], t["target"])[0] for _, t in table.groupby("seed")]
    assert np.mean(alone) >= 0.66


def test_published_heads_are_the_start(cache, tmp_path, monkeypatch):
    """At a learning rate of 0 an audiobox head scores as the published one does."""
    import torch

    from qamro_cache.encoders import audiobox
    from qamro_cache.heads.network import Architecture, forward
    from qamro_cache.heads.parameters import init_params

    settings = Architecture("audiobox", (6,), "gelu", layer_norm=True, pooling="scores")
    heads, expected = {}, {}
    data = open_cache(cache)
    windows, offsets, weights = data.read("layers")
    ok = np.flatnonzero(data.clips["status"] == "ok")
    keep = torch.cat([torch.zeros(1, dtype=torch.int64), offsets.diff()[ok].cumsum(0)])
    for seed, (axis, mean, std) in enumerate((("quality", 50.0, 20.0), ("match", 3.0, 0.5))):
        params = init_params(settings, (3, 6), [seed])
        params["layers"] += torch.tensor([[1.0, -1.0, 0.3]])
        tensors = {name: value[0] for name, value in params.items()}
        heads[axis] = audiobox.PublishedHead(tensors, (6,), True, mean, std)
        expected[axis] = forward(settings, params, windows, keep, weights)[0] * std + mean
    monkeypatch.setattr(audiobox, "published_head", lambda checkpoint: heads)
    record = train(
        cache, tmp_path, feature="layers", head="audiobox", init=tmp_path / "weights.pt",
        cv="3", seeds=1, epochs=1, lr=0.0, resamples=0,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "predictions.csv").set_index("clip_id")
    targets = {name: data.labels.mean[ok, k] for k, name in enumerate(("quality", "match"))}
    for axis, scores in expected.items():
        mine = table[table["axis"] == axis]["prediction"][data.clips["clip_id"][ok]]
        np.testing.assert_allclose(mine, scores, rtol=1e-4)
        # The published model itself stands beside the heads.
        own = record["axes"][axis]["models"][f"published {axis}"]["metrics"]
        assert own["clip_lcc"]["value"] == pytest.approx(pearsonr(scores, targets[axis])[0])
        assert "clip_mse" not in own
    with pytest.raises(QamroError, match="--head audiobox"):
        train(cache, tmp_path / "other", init=tmp_path / "weights.pt", cv="3")


def test_no_hidden_layer_is_not_the_default(cache, tmp_path):
    result = run("--cache", cache, "--out", tmp_path, "--widths", "", "--epochs", 1, "--seeds", 1,
                 "--cv", "3", "--axis", "quality", "--resamples", 0)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "config.json").read_text())["recipe"]["widths"] == []


def test_a_run_says_every_parameter_by_default_too(cache, tmp_path):
    train(cache, tmp_path, cv="3", seeds=1, epochs=1, alpha=None, widths="8", resamples=0)
    recipe = json.loads((tmp_path / "config.json").read_text())["recipe"]
    assert recipe["loss"] == (
        "huber(delta=1)@standardized+qamro(alpha=0.2,beta=7,normalize=train)@standardized"
    )
    assert recipe["widths"] == [8]
    assert load_head(tmp_path / "head.safetensors").training["recipe"] == recipe
    with pytest.raises(QamroError, match="labels must be a path, got 5"):
        train(cache, tmp_path / "other", labels=5)
    with pytest.raises(QamroError, match="no label file"):
        train(cache, tmp_path / "other", labels=".")


def test_splits_of_other_names_are_told_as_a_warning(caplog):
    clips = pd.DataFrame({"split": ["trian", "dev"] * 4, "group": ["a", "b"] * 4})
    assert default_cv(clips, np.ones(8, bool)) == "group"
    assert "splits are not used" in caplog.text
    assert "(trian); estimating with --cv group" in caplog.text
    caplog.clear()
    assert default_cv(clips.assign(split=""), np.ones(8, bool)) == "group"
    assert "WARNING" not in [one.levelname for one in caplog.records]
