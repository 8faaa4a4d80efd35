"""Axes rated on few clips, or on other clips than their neighbors; scales that are guesses."""

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.train import train
from qamro_cache.heads.file import load_head
from qamro_cache.scoring.predict import predict

QUICK = {"widths": "8", "lr": 0.01, "device": "cpu", "seeds": 2, "epochs": 3}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("cache") / "emb.h5")


def write_labels(path, cache, **changes):
    """Write the cache's labels, some changed: ``axis=change``, of the labels and systems [C]."""
    opened = open_cache(cache)
    table = opened.clips[["clip_id"]].copy()
    for index, axis in enumerate(opened.labels.axes):
        values = opened.labels.mean[:, index].copy()
        change = changes.get(axis.name, lambda values, systems: values)
        table[axis.name] = change(values, opened.clips["system"].to_numpy(str))
    table.to_csv(path, index=False)
    return path


def first_system_and_one_more(values, systems):
    kept = systems == "S0"
    kept[1] = True
    return np.where(kept, values, np.nan)


@pytest.mark.parametrize("head", ["mlp", "ridge"])
def test_a_fold_with_one_training_label_trains_no_head(cache, tmp_path, caplog, head):
    labels = write_labels(tmp_path / "l.csv", cache, match=first_system_and_one_more)
    options = {"cv": "system", "labels": labels, "save_folds": True}
    quick = QUICK if head == "mlp" else {"head": "ridge", "device": "cpu"}
    record = train(cache, tmp_path / "run", **options, **quick)
    # The head of fold S0 has the one label of S1.
    lost = [f"clip{k:03d}" for k in range(0, 40, 5)]
    assert f"left out of all figures: 8 ({', '.join(lost[:5])}, ...)" in caplog.text
    for model in record["axes"]["match"]["models"].values():
        assert (model["clips"], model["left_out"]) == (1, 8)
    for model in record["axes"]["quality"]["models"].values():
        assert (model["clips"], model["left_out"]) == (39, 0)
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert not table["clip_id"][table["axis"] == "match"].isin(lost).any()
    assert table["prediction"].notna().all()
    assert record["split"].startswith("quality: leave one system out, 5 folds")
    assert "; match: leave one system out, 2 folds" in record["split"]
    axes = [one.axis.name for one in load_head(tmp_path / "run" / "folds" / "0.safetensors").axes]
    assert axes == ["quality"]


def test_a_grid_trains_no_such_head_either(cache, tmp_path, caplog):
    labels = write_labels(tmp_path / "l.csv", cache, match=first_system_and_one_more)
    options = {**QUICK, "cv": "system", "labels": labels, "head": ["mlp", "ridge"], "resamples": 0}
    options.pop("widths")
    ablate(cache, tmp_path / "grid", **options)
    table = pd.read_csv(tmp_path / "grid" / "summary.csv")
    assert set(table["model"]) == {"head", "ridge", "kNN", "train mean"}
    counts = set(zip(table["axis"], table["clips"], table["left_out"], strict=True))
    assert counts == {("match", 1, 8), ("quality", 39, 0)}


@pytest.mark.parametrize("command", [train, ablate])
def test_an_axis_without_a_head_is_refused_before_anything_is_trained(cache, tmp_path, command):
    def two(values, systems):
        return np.where(np.arange(len(values)) < 2, values, np.nan)

    labels = write_labels(tmp_path / "l.csv", cache, match=two)
    with pytest.raises(QamroError, match="axis match") as error:
        command(cache, tmp_path / "out", cv="system", labels=labels, **QUICK)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def tables_with_other_held_out_labels(tmp_path, **options):
    """Train twice on a fixed split with scales that are guesses; return both predictions.csv."""
    cache = write_synthetic(tmp_path / "split.h5", clips=60, split=True)
    dev = np.arange(60) >= 50
    tables = []
    for name, factor in (("a", 1), ("b", 3)):
        # Three times the dev labels are beyond the scale that holds the others.
        labels = write_labels(
            tmp_path / f"{name}.csv",
            cache,
            quality=lambda values, systems, f=factor: np.where(dev, f * values, values),
        )
        train(cache, tmp_path / name, labels=labels, stop="fixed", save_folds=True, **options)
        tables.append(pd.read_csv(tmp_path / name / "predictions.csv"))
    return cache, tables


@pytest.mark.parametrize("options", [{"output": "bounded"}, {"normalize": "scale"}])
def test_a_guessed_scale_tells_nothing_of_held_out_labels(tmp_path, options):
    cache, (a, b) = tables_with_other_held_out_labels(tmp_path, **options, **QUICK)
    assert (a["target"] != b["target"]).any()
    assert a["prediction"].tolist() == b["prediction"].tolist()
    # The saved head keeps the bounds that it was trained with.
    again = predict(tmp_path / "b" / "folds" / "0.safetensors", cache)
    again = again[again["axis"] == "quality"].set_index("clip_id")["prediction"]
    mean = b[b["axis"] == "quality"].groupby("clip_id")["prediction"].mean()
    np.testing.assert_allclose(again[mean.index], mean, rtol=1e-4)


def test_a_held_out_clip_is_out_of_distribution_by_its_own_folds_rule(cache, tmp_path):
    train(cache, tmp_path / "run", cv="group", save_folds=True, axis=("quality",), **QUICK)
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    called = 0
    for fold in range(8):
        path = tmp_path / "run" / "folds" / f"{fold}.safetensors"
        held = table[table["fold"] == load_head(path).training["held_out"]]
        far = predict(path, cache).set_index("clip_id")["ood"]
        assert held["ood"].tolist() == far[held["clip_id"]].tolist()
        called += held["ood"].sum()
    whole = predict(tmp_path / "run", cache)["ood"].sum()
    clips = table.loc[table["ood"], "clip_id"].nunique()
    judged = evaluate(tmp_path / "run" / "predictions.csv", cache, resamples=0)
    assert judged["axes"]["quality"]["ood"] == clips == called / 2 > 0
    assert called > 2 * whole, "the whole set's rule has seen the clips"


def some(values, systems):
    """Rated on two clips of three: other folds, batches and moments than those of all clips."""
    return np.where(np.arange(len(values)) % 3 > 0, values, np.nan)


PARTIAL = [
    {"cv": "4"},
    pytest.param({"cv": "system", "batches": "own", "batch_size": 8}, marks=pytest.mark.slow),
    pytest.param({"cv": "group", "stop": "inner", "epochs": 6}, marks=pytest.mark.slow),
    {"cv": "group", "head": "ridge"},
]


def test_an_axis_that_is_named_twice_is_one(cache, tmp_path):
    twice = train(cache, tmp_path / "run", axis=("quality", "quality"), head="ridge", cv="4")
    assert list(twice["axes"]) == ["quality"]
    assert [one.axis.name for one in load_head(tmp_path / "run").axes] == ["quality"]


@pytest.mark.parametrize("options", PARTIAL, ids=str)
def test_an_axis_is_the_same_alone_as_beside_another(cache, tmp_path, options):
    options = {"device": "cpu"} | options if "head" in options else {**QUICK, **options}
    labels = write_labels(tmp_path / "l.csv", cache, match=some)
    options["labels"] = labels
    both = train(cache, tmp_path / "both", save_folds=True, **options)
    table = pd.read_csv(tmp_path / "both" / "predictions.csv")
    heads = {one.axis.name: one for one in load_head(tmp_path / "both").axes}
    again = predict(tmp_path / "both", cache)
    fields = ["clip_id", "prediction", "std", "ood", "trained_on"]
    for axis in ("quality", "match"):
        alone = train(cache, tmp_path / axis, axis=(axis,), save_folds=True, **options)
        assert str(both["axes"][axis]) == str(alone["axes"][axis])
        mine = pd.read_csv(tmp_path / axis / "predictions.csv")
        beside = table[table["axis"] == axis].reset_index(drop=True)
        pd.testing.assert_frame_equal(beside, mine, check_exact=True)
        (head,) = load_head(tmp_path / axis).axes
        for name, value in head.params.items():
            assert torch.equal(value, heads[axis].params[name]), name
        theirs = again[again["axis"] == axis][fields].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            theirs, predict(tmp_path / axis, cache)[fields], check_exact=True
        )
    folds = [load_head(path) for path in (tmp_path / "both" / "folds").iterdir()]
    assert all(len(head.axes) == 2 for head in folds)


def test_a_grid_is_the_same_alone_as_beside_another_axis(cache, tmp_path):
    labels = write_labels(tmp_path / "l.csv", cache, match=some)
    options = {**QUICK, "cv": "4", "labels": labels, "alpha": [0.1, 0.5], "resamples": 0}
    ablate(cache, tmp_path / "both", **options)
    table = pd.read_csv(tmp_path / "both" / "results.csv")
    for axis in ("quality", "match"):
        ablate(cache, tmp_path / axis, axis=(axis,), **options)
        mine = pd.read_csv(tmp_path / axis / "results.csv")
        beside = table[table["axis"] == axis].reset_index(drop=True)
        pd.testing.assert_frame_equal(beside, mine, check_exact=True)
