"""Several listening tests at once: ranked and standardized each by itself, held out one by one."""

import json
import logging
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import linregress
from synthetic_cache import write_synthetic

from qamro_cache.cache.edit import relabel_cache
from qamro_cache.cache.merge import merge_caches
from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.battles import pairs_of_ratings
from qamro_cache.datasets.checks import check_dataset
from qamro_cache.datasets.joined import concatenate_labels
from qamro_cache.datasets.modeled import refuse_raters
from qamro_cache.datasets.options import RaterOptions
from qamro_cache.datasets.raters import raters_apart
from qamro_cache.datasets.records import (
    Axis,
    Dataset,
    Ratings,
    labels_from_means,
    labels_from_ratings,
)
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.evaluation.nested import nested_choice
from qamro_cache.experiments import tables
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.ensemble import ensemble
from qamro_cache.experiments.several import units_of
from qamro_cache.experiments.train import train
from qamro_cache.features.context import company_of
from qamro_cache.heads.file import load_head
from qamro_cache.heads.ridge import fit_ridge
from qamro_cache.losses.composed import LabelStats, composed_loss, value_and_grad
from qamro_cache.losses.loss import parse_loss
from qamro_cache.losses.terms import TERMS
from qamro_cache.reports.dataset import dataset_page
from qamro_cache.scoring.calibrate import calibrate
from qamro_cache.scoring.predict import predict
from qamro_cache.training.inputs import Folds

RANKINGS = [name for name, info in TERMS.items() if info.kind == "ranking"]


def naive_within(name, pred, target, mask, source, stats):
    """The mean over all pairs within a test, or over the samples of lists; autograd's gradient."""
    loss, total, parts = parse_loss(f"{name}@standardized"), 0.0, []
    for test in source.unique():
        kept = mask & (source == test)
        if not kept.any():
            continue
        value = composed_loss(loss, pred[kept], target[kept], labels=stats)
        y = target[kept]
        count = int((y[:, None] > y).sum()) if TERMS[name].pairs else len(y)
        parts.append(count * value)
        total += count
    return sum(parts) / max(total, 1)


@pytest.mark.parametrize("name", RANKINGS)
@pytest.mark.parametrize("seed", range(3))
def test_a_ranking_is_within_a_test(name, seed):
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn(3, 40, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 12, (40,), generator=generator).double()
    mask = torch.rand(3, 40, generator=generator) < 0.8
    mask[2] = False
    mask[2, :2] = True
    source = torch.randint(0, 3, (40,), generator=generator)
    stats = LabelStats(float(target.mean()), float(target.std()), 0.0, 11.0)
    loss = parse_loss(f"{name}@standardized")
    value, grad = value_and_grad(
        loss, pred, target, mask=mask, labels=stats, source=source, sources=3
    )
    for head in range(3):
        mine = pred[head].clone().requires_grad_()
        wanted = naive_within(name, mine, target, mask[head], source, stats)
        (slope,) = torch.autograd.grad(wanted, mine)
        assert value[head].item() == pytest.approx(wanted.item(), abs=1e-10)
        torch.testing.assert_close(grad[head], slope, atol=1e-10, rtol=0)


def test_a_regression_and_a_single_test_do_not_care():
    pred, target = torch.randn(2, 30).double(), torch.randn(30).double()
    stats = LabelStats(0.0, 1.0, -3.0, 3.0)
    for name in (n for n, info in TERMS.items() if info.kind in ("ranking", "regression")):
        loss = parse_loss(f"{name}@standardized")
        plain = value_and_grad(loss, pred, target, labels=stats)
        one = value_and_grad(
            loss, pred, target, labels=stats, source=torch.zeros(30, dtype=int), sources=1
        )
        for mine, theirs in zip(plain, one, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)
    halves = (torch.arange(30) % 2).long()
    other = value_and_grad(
        parse_loss("huber@standardized"), pred, target, labels=stats, source=halves, sources=2
    )
    torch.testing.assert_close(
        other, value_and_grad(parse_loss("huber@standardized"), pred, target, labels=stats)
    )


@pytest.fixture(scope="module")
def tests(tmp_path_factory):
    """Two tests by one encoder: ``one`` from 0 to 100, ``two`` from 1 to 5, of other clips."""
    folder = tmp_path_factory.mktemp("tests")
    paths = []
    for number, name in enumerate(("one", "two")):
        path = write_synthetic(folder / f"{name}.h5", seed=number, prefix=name, clips=40)
        clips, labels = open_cache(path).clips, open_cache(path).labels
        table = clips[["clip_id"]].assign(quality=labels.mean[:, 0])
        if name == "two":
            table["quality"] = 1 + table["quality"] / 25
        table.to_csv(folder / f"{name}.csv", index=False)
        scale = ["quality=0:100"] if name == "one" else ["quality=1:5"]
        relabel_cache(path, folder / f"{name}.csv", scale=scale, source=name)
        paths.append(path)
    return paths


QUICK = {"axis": "quality", "epochs": 3, "widths": (8,), "seeds": 1}
RIDGE = {"axis": "quality", "head": "ridge"}


def test_files_of_two_tests_go_together(tests, tmp_path):
    joined = open_cache(tests)
    assert joined.clips["source"].value_counts().to_dict() == {"one": 40, "two": 40}
    assert joined.labels.axes == (Axis("quality", 0, 100),)
    assert joined.labels.axes[0].guessed
    assert merge_caches(tests, tmp_path / "both.h5") == 80
    merged = open_cache(tmp_path / "both.h5")
    np.testing.assert_array_equal(merged.labels.mean, joined.labels.mean)
    assert merged.clips["source"].tolist() == joined.clips["source"].tolist()


@pytest.mark.parametrize(
    ("head", "cv"),
    [
        *product([RIDGE, QUICK, {**QUICK, "stop": "inner"}], ["source", "group"]),
        ({**RIDGE, "calibrate": True}, "group"),
    ],
)
def test_held_out_labels_do_not_reach_predictions(tests, tmp_path, head, cv):
    train(tests, tmp_path / "a", cv=cv, **head)
    first = pd.read_csv(tmp_path / "a" / "predictions.csv")
    held = "two" if cv == "source" else "G3"
    clips, labels = open_cache(tests).clips, open_cache(tests).labels
    table = clips[["clip_id", "source", "group"]].assign(quality=labels.mean[:, 0])
    mine = (table[cv] == held).to_numpy()
    rng = np.random.default_rng(0)
    for test in ("one", "two"):
        some = mine & (table["source"] == test).to_numpy()
        table.loc[some, "quality"] = rng.permutation(table.loc[some, "quality"].to_numpy())
    if cv == "group":
        table.loc[mine, "quality"] *= 0.9  # another mean too
    table[["clip_id", "quality"]].to_csv(tmp_path / "other.csv", index=False)
    train(tests, tmp_path / "b", cv=cv, labels=tmp_path / "other.csv", **head)
    second = pd.read_csv(tmp_path / "b" / "predictions.csv")
    out = (first["fold"] == held).to_numpy()
    assert out.sum() == mine.sum() - (cv == "source" or 0)
    assert (first["prediction"][out] == second["prediction"][out]).all()
    assert (first["prediction"][~out] != second["prediction"][~out]).any()


def test_each_fold_standardizes_each_test_by_its_training_clips(tests, tmp_path):
    """Ridge on z-scores made by hand, fold by fold, brought back to each test's scale."""
    record = train(tests, tmp_path / "run", cv="group", **RIDGE)
    found = pd.read_csv(tmp_path / "run" / "predictions.csv").set_index("clip_id")
    cache = open_cache(tests)
    data = cache.arrays(axis="quality")
    clips = cache.clips.set_index("clip_id").loc[data.clip_ids]
    source, groups = clips["source"].to_numpy(str), clips["group"].to_numpy(str)
    wanted = np.full(len(source), np.nan)
    codes = np.unique(groups, return_inverse=True)[1]
    for group in np.unique(groups):
        held, z = groups == group, np.full(len(source), np.nan)
        moments = {}
        for test in ("one", "two"):
            own = data.y[~held & (source == test)]
            moments[test] = own.mean(), own.std()
            z[source == test] = (data.y[source == test] - own.mean()) / own.std()
        fitted = fit_ridge(data.X[~held].astype(float), z[~held], (6,), codes[~held])
        mean, std = np.array([moments[test] for test in source]).T
        wanted[held] = (mean + std * fitted.predict(data.X.astype(float)))[held]
    np.testing.assert_allclose(found.loc[data.clip_ids, "prediction"], wanted, rtol=1e-4)
    # Judged in standard units of each test, all labels of which are on the same two numbers.
    pred, target = found["prediction"], found["target"]
    of = clips["source"].reindex(found.index)
    centered = (target - target.groupby(of).transform("mean")) / target.groupby(of).transform(
        lambda y: y.std(ddof=0)
    )
    mine = (pred - target.groupby(of).transform("mean")) / target.groupby(of).transform(
        lambda y: y.std(ddof=0)
    )
    metrics = record["axes"]["quality"]["models"]["ridge head"]["metrics"]
    assert metrics["clip_srcc"]["value"] == pytest.approx(mine.corr(centered, "spearman"), abs=1e-6)
    assert metrics["clip_mse"]["value"] == pytest.approx(((mine - centered) ** 2).mean(), rel=1e-5)
    alone = record["axes"]["quality"]["by_source"]["two"]["models"]["ridge head"]["metrics"]
    two = of == "two"
    assert alone["clip_srcc"]["value"] == pytest.approx(
        pred[two].corr(target[two], "spearman"), abs=1e-6
    )


def test_each_test_has_a_line_of_its_own(tests, tmp_path):
    """A fold's lines come of a run without its clips; the saved head's of all held-out ones."""
    given = {"cv": "group", **RIDGE}
    train(tests, tmp_path / "plain", **given)
    record = train(tests, tmp_path / "run", calibrate=True, **given)
    train(tests, tmp_path / "inside", without=["group=G1"], **given)
    plain, mine, inside = (
        pd.read_csv(tmp_path / name / "predictions.csv") for name in ("plain", "run", "inside")
    )
    slopes = record["axes"]["quality"]["calibration"]
    assert slopes["folds"] == 8
    for test in ("one", "two"):
        of = inside["clip_id"].str.startswith(test)
        line = linregress(inside["prediction"][of], inside["target"][of])
        here = plain["clip_id"].str.startswith(test) & (plain["fold"] == "G1")
        assert here.sum() > 3
        np.testing.assert_allclose(
            mine["prediction"][here], line.intercept + line.slope * plain["prediction"][here]
        )
        of = plain["clip_id"].str.startswith(test)
        line = linregress(plain["prediction"][of], plain["target"][of])
        before, after = (
            predict(tmp_path / name, tests[0], source=test) for name in ("plain", "run")
        )
        np.testing.assert_allclose(
            after["prediction"], line.intercept + line.slope * before["prediction"]
        )
        assert set(after["scale"]) == set(before["scale"])


def test_a_cell_is_chosen_in_each_folds_own_units(tests, tmp_path, monkeypatch):
    """What a fold chooses by, by two loops over groups: labels standardized by hand."""
    seen = []

    def spy(cells, judged):
        seen.append(cells)
        return nested_choice(cells, judged)

    monkeypatch.setattr(tables, "nested_choice", spy)
    given = {"cv": ["group"], "axis": "quality", "head": ["ridge", "knn"]}
    record = ablate(tests, tmp_path / "grid", nested=True, **given)
    every, of_one, _ = seen
    ((names, _, inside), _) = every
    assert names["head"] == "ridge"
    cache = open_cache(tests)
    data = cache.arrays(axis="quality")
    clips = cache.clips.set_index("clip_id").loc[data.clip_ids]
    source, groups = clips["source"].to_numpy(str), clips["group"].to_numpy(str)
    codes, x, y = np.unique(groups, return_inverse=True)[1], data.X.astype(float), data.y

    def moments(learned):
        own = {test: y[learned & (source == test)] for test in ("one", "two")}
        return np.array([(own[test].mean(), own[test].std()) for test in source]).T

    for held in (groups == "G0", groups == "G5"):
        (fold,) = np.flatnonzero(inside.test[:, held].all(1))
        mean, std = moments(~held)
        np.testing.assert_allclose(inside.own[fold, ~held], ((y - mean) / std)[~held])
        assert np.isnan(inside.own[fold, held]).all(), "a fold knows nothing of what it holds out"
        for other in np.unique(groups[~held])[:3]:
            out = groups == other
            learned = ~held & ~out
            low, size = moments(learned)
            fitted = fit_ridge(x[learned], ((y - low) / size)[learned], (6,), codes[learned])
            wanted = (low + size * fitted.predict(x) - mean) / std
            np.testing.assert_allclose(inside.pred[fold, out], wanted[out], rtol=1e-3, atol=1e-4)
    alone = of_one[0][2].own
    np.testing.assert_array_equal(np.isfinite(alone), np.isfinite(inside.own) & (source == "one"))
    assert record["axes"]["quality"]["nested"]["exact"]["clips"] == len(y)


def test_scales_do_not_matter_to_what_is_learned(tests, tmp_path):
    """The same labels on other scales: the same predictions, brought to these scales."""
    clips, labels = open_cache(tests).clips, open_cache(tests).labels
    table = clips[["clip_id"]].assign(quality=labels.mean[:, 0])
    two = (clips["source"] == "two").to_numpy()
    table.loc[two, "quality"] = 100 + 7 * table.loc[two, "quality"]
    table.to_csv(tmp_path / "other.csv", index=False)
    train(tests, tmp_path / "a", cv="group", **RIDGE)
    train(tests, tmp_path / "b", cv="group", labels=tmp_path / "other.csv", **RIDGE)
    a, b = (pd.read_csv(tmp_path / name / "predictions.csv")["prediction"] for name in "ab")
    order = pd.read_csv(tmp_path / "a" / "predictions.csv")["clip_id"].str.startswith("two")
    np.testing.assert_allclose(b[~order], a[~order], rtol=1e-5)
    np.testing.assert_allclose(b[order], 100 + 7 * a[order], rtol=1e-5)


def test_a_head_scores_on_a_named_scale(tests, tmp_path, caplog):
    train(tests, tmp_path / "run", cv="group", **RIDGE)
    head = load_head(tmp_path / "run" / "head.safetensors")
    (axis,) = head.axes
    assert set(axis.scales) == {"one", "two"}
    caplog.set_level(logging.INFO)
    default = predict(tmp_path / "run", cache=tests[0])
    assert "scores are on the scale of one, of the 2 tests" in caplog.text
    assert (default["scale"] == "0..100 (guessed)").all()
    two = predict(tmp_path / "run", cache=tests[0], source="two")
    assert (two["scale"] == "1..5 (guessed)").all()
    (m1, d1, *_), (m2, d2, *_) = axis.scales["one"], axis.scales["two"]
    z = (default["prediction"] - m1) / d1
    np.testing.assert_allclose(two["prediction"], m2 + d2 * z, rtol=1e-5)
    with pytest.raises(OptionError, match="has not learned from 'thre'; there are"):
        predict(tmp_path / "run", cache=tests[0], source="thre")
    only = {"only": ["source=one"], "cv": "group"}
    train(tests, tmp_path / "alone", **only, **RIDGE)
    assert not load_head(tmp_path / "alone" / "head.safetensors").axes[0].scales
    with pytest.raises(OptionError, match="has learned from one test alone"):
        predict(tmp_path / "alone", cache=tests[0], source="one")


def test_evaluate_points_out_that_tests_are_pooled(tests, tmp_path, caplog):
    train(tests, tmp_path / "run", cv="group", **RIDGE)
    evaluate(tmp_path / "run" / "predictions.csv", tests)
    assert "the labels are of 2 sources (one, two), and all figures pool" in caplog.text
    caplog.clear()
    evaluate(tmp_path / "run" / "predictions.csv", tests, only=["source=two"])
    assert "sources" not in caplog.text


def test_a_calibrated_head_has_one_scale(tests, tmp_path):
    train(tests, tmp_path / "run", cv="group", **RIDGE)
    new = write_synthetic(tmp_path / "new.h5", seed=7, prefix="new", clips=40)
    data = open_cache(new)
    table = data.clips[["clip_id"]].assign(quality=data.labels.mean[:, 0] / 10)
    table.dropna().to_csv(tmp_path / "mine.csv", index=False)
    calibrate(tmp_path / "run", tmp_path / "mine.csv", new, scale=["quality=0:10"])
    assert (predict(tmp_path / "run", new)["scale"] == "0..10").all()
    with pytest.raises(OptionError, match="--source 'two': scores on quality are calibrated"):
        predict(tmp_path / "run", new, source="two")


def test_company_is_of_ones_own_test():
    """A song of one name in two tests is two."""
    clips = pd.DataFrame(
        {
            "clip_id": list("abcdef"), "reference": "", "status": "ok",
            "group": ["s1", "s1", "s1", "s1", "s2", ""], "source": ["x", "x", "y", "y", "y", "y"],
        }
    )  # fmt: skip
    found = company_of(clips, np.arange(6), "group", "group", "here")
    np.testing.assert_array_equal(found.others(), [1, 1, 1, 1, 0, 0])
    one = company_of(clips.assign(source="x"), np.arange(6), "group", "group", "here")
    np.testing.assert_array_equal(one.others(), [3, 3, 3, 3, 0, 0])


def test_one_test_of_several_is_as_it_was_alone(tests, tmp_path):
    train(tests[0], tmp_path / "a", cv="group", **QUICK)
    train(tests, tmp_path / "b", cv="group", only=["source=one"], **QUICK)
    a, b = (pd.read_csv(tmp_path / name / "predictions.csv")["prediction"] for name in "ab")
    np.testing.assert_array_equal(a, b)


def test_leaving_a_test_out(tests, tmp_path):
    record = train(tests, tmp_path / "run", cv="source", **RIDGE)
    assert "leave one source out, 2 folds" in record["split"]
    assert "2 sources, each in its standard units" in record["split"]
    found = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert set(found["fold"]) == {"one", "two"}
    # A test that nothing was learned from has no scale: predictions are standard ones.
    assert found["prediction"].abs().max() < 5
    metrics = record["axes"]["quality"]["models"]["ridge head"]["metrics"]
    assert "clip_mse" not in metrics
    grid = ablate(tests, tmp_path / "grid", cv=["source"], **RIDGE)
    assert set(grid["axes"]) == {"quality", "quality of one", "quality of two"}
    summary = pd.read_csv(tmp_path / "grid" / "summary.csv")
    row = summary[(summary["axis"] == "quality of two") & (summary["model"] == "head")]
    alone = record["axes"]["quality"]["by_source"]["two"]["models"]["ridge head"]["metrics"]
    assert row["clip_srcc"].item() == pytest.approx(alone["clip_srcc"]["value"], abs=1e-6)
    config = json.loads((tmp_path / "grid" / "config.json").read_text())
    assert config["given"]["cv"] == ["source"]


def test_units_are_those_of_judged_labels():
    labels = np.array([1.0, 2, 3, 10, 30, np.nan])
    source = np.array([0, 0, 0, 1, 1, 1])
    test = np.array([[True, True, False, False, False, False], [False] * 3 + [True] * 3])
    folds = Folds(~test, np.zeros_like(test), test)
    units = units_of(source, labels, folds)
    np.testing.assert_allclose(units.label(labels)[[0, 1, 3, 4]], [-1, 1, -1, 1])
    # The second fold has learned from no clip of its test.
    np.testing.assert_array_equal(units.learned, [True, True, False, False, False, False])
    np.testing.assert_allclose(units.prediction(np.full(6, 2.0))[[0, 3]], [1, 2])


def test_what_does_not_fit_is_one_line(tests, tmp_path):
    axes = (Axis("quality", 0, 100),), (Axis("quality", 1, 5),)
    parts = [labels_from_means(one, np.ones((2, 1))) for one in axes]
    names = [np.array(["a", "a"], object), np.array(["a", "b"], object)]
    with pytest.raises(QamroError, match="source 'a' has quality from 0 to 100 in one file and "
                                         "from 1 to 5 in another"):  # fmt: skip
        concatenate_labels(parts, names)
    with pytest.raises(QamroError, match="name each file's"):
        concatenate_labels(parts, [names[0], np.array(["", "b"], object)])
    with pytest.raises(QamroError, match="name each file's"):
        concatenate_labels(parts)
    match = replace(parts[1], axes=(Axis("match", 1, 5),))
    both = concatenate_labels([parts[0], match], [names[0], np.array(["b", "b"], object)])
    assert both.axes == (*axes[0], Axis("match", 1, 5))
    np.testing.assert_array_equal(np.isfinite(both.mean), [[1, 0]] * 2 + [[0, 1]] * 2)

    bare = write_synthetic(tmp_path / "bare.h5", seed=2, prefix="bare")
    relabel_cache(bare, None, scale=["quality=0:100"])
    plain = open_cache(bare).clips[["clip_id"]].assign(quality=50.0)
    plain.to_csv(tmp_path / "bare.csv", index=False)
    relabel_cache(bare, tmp_path / "bare.csv", scale=["quality=0:100"])
    with pytest.raises(QamroError, match="39 rated clips have no source"):
        train([tests[0], bare], tmp_path / "run", cv="group", **RIDGE)
    for given, words in (
        ({"output": "bounded"}, "--output bounded needs one scale"),
        ({"normalize": "scale"}, "--normalize scale needs one scale"),
        ({"loss": "huber@raw+qamro(bins=aes-PQ)@raw"}, "--bins needs one scale"),
    ):
        with pytest.raises(OptionError, match=words):
            train(tests, tmp_path / "run", cv="group", **given, **QUICK)
    with pytest.raises(OptionError, match="--calibrate needs labels of the test that is predicted"):
        train(tests, tmp_path / "run", cv="source", calibrate=True, **RIDGE)
    ablate(tests, tmp_path / "grid", cv=["group"], axis="quality", head=["ridge"])
    with pytest.raises(QamroError, match="learns from several sources, each on a scale of its own"):
        ensemble(tmp_path / "grid", tmp_path / "run")
    with pytest.raises(QamroError, match="'source' column, which has 0"):
        train(bare, tmp_path / "run", cv="source", **RIDGE)


def of_two_tests():
    """Two listeners of one name in two tests of two clips, and a clip each of means alone."""
    raters = ("ann", "bob")
    ratings = Ratings(
        np.array([0, 1, 0, 1, 2, 3], np.int32), np.zeros(6, np.int16),
        np.array([0, 0, 1, -1, 0, 0], np.int32), np.array([1.0, 2, 3, 4, 5, 5]), raters,
    )  # fmt: skip
    return labels_from_ratings((Axis("quality", 1.0, 5.0),), 4, ratings), ["one"] * 2 + ["two"] * 2


def test_raters_of_one_name_in_two_tests_are_two():
    labels, source = of_two_tests()
    apart = raters_apart(labels, source).ratings
    assert apart.raters == ("one: ann", "bob", "two: ann")
    assert apart.rater.tolist() == [0, 0, 1, -1, 2, 2]
    alone = raters_apart(labels, ["one"] * 4).ratings
    assert (alone.raters, alone.rater.tolist()) == (("ann", "bob"), [0, 0, 1, -1, 0, 0])


def test_whoever_counts_raters_counts_those_of_two_tests_twice(tmp_path):
    """As if the raters of the second test had other names: ann of it is severe, the other kind."""
    cached = open_cache(write_synthetic(tmp_path / "emb.h5"))
    of, test = cached.labels.ratings, np.arange(40) % 2
    score = of.score + 8 * np.where(of.axis == 0, (of.rater == 0) * (1 - 2.0 * test[of.clip]), 0)
    names = (*of.raters, *(f"{name} of two" for name in of.raters))
    clips = cached.clips.assign(source=np.array(["one", "two"], object)[test])
    sets = []
    for rater, raters in ((of.rater, of.raters), (of.rater + 4 * test[of.clip], names)):
        ratings = replace(of, rater=rater.astype(np.int32), raters=raters, score=score)
        sets.append(Dataset("two", clips, labels_from_ratings(cached.labels.axes, 40, ratings)))
    pred = sets[0].labels.mean[:, 0] + np.random.default_rng(0).normal(size=40)
    table = pd.DataFrame({"clip_id": clips["clip_id"], "axis": "quality", "prediction": pred})
    mine, theirs = (evaluate(table, one)["axes"]["quality"] for one in sets)
    assert mine["ceiling"] == theirs["ceiling"]
    assert mine["ceiling"]["raters"] == 8
    assert mine["error_sources"] == theirs["error_sources"]
    found, named = (check_dataset(one, read_audio=False)["raters"] for one in sets)
    assert [*found["by_rater"].values()] == [*named["by_rater"].values()]
    assert (found["known"], list(found["by_rater"])[::4]) == (8, ["one: ann", "two: ann"])
    pages = [str(dataset_page(one).sections[1]) for one in sets]
    assert pages[0] == re.sub(r"'(\w+) of two'", r"'two: \1'", re.sub(
        r"'(ann|bo|cy|di)'", r"'one: \1'", pages[1]))  # fmt: skip


def test_pairs_are_within_a_test():
    """Both have a listener ann and a group G0."""
    labels, source = of_two_tests()
    clips = pd.DataFrame({"clip_id": list("abcd"), "group": "G0", "source": source})
    found = pairs_of_ratings(clips, labels, "joined")
    assert found[["clip_a", "clip_b", "winner", "rater", "source"]].to_numpy().tolist() == [
        ["a", "b", "b", "ann", "one"], ["c", "d", "tie", "ann", "two"],
    ]  # fmt: skip
    bare = pairs_of_ratings(clips.assign(source=""), labels, "joined")
    assert len(bare) == 6
    assert set(bare["source"]) == {"joined"}


def test_a_model_of_raters_refuses_a_test_of_means_alone(caplog):
    labels, source = of_two_tests()
    whole = replace(labels, ratings=replace(labels.ratings, rater=np.zeros(6, np.int32)))
    model, none = RaterOptions(rater_model="additive"), np.zeros(4, np.bool_)
    refuse_raters(whole, none, model, source)
    assert not caplog.text

    def without(clips):
        of = whole.ratings
        kept = ~np.isin(of.clip, clips)
        names = ("clip", "axis", "rater", "score")
        few = replace(of, **{name: getattr(of, name)[kept] for name in names})
        refuse_raters(replace(whole, ratings=few), none, model, source)

    with pytest.raises(QamroError, match="quality of source 'two': only mean scores are known"):
        without([2, 3])
    without([3])
    assert "quality of source 'two': of 1 of 2 clips only means are known" in caplog.text


def test_files_of_two_sets_are_called_after_both(tmp_path):
    a = write_synthetic(tmp_path / "a.h5", dataset="codec-mushra")
    b = write_synthetic(tmp_path / "b.h5", prefix="new", seed=1, dataset="cvssp-separation")
    for path, name in ((a, "codecs"), (b, "separators")):
        relabel_cache(path, None, source=name)
    assert open_cache([a, b]).dataset == "codec-mushra+cvssp-separation"
    given = {"axis": ["quality"], "head": "ridge", "resamples": 0, "interval": "bootstrap"}
    record = train([a, b], tmp_path / "run", **given)
    assert record["dataset"] == "codec-mushra+cvssp-separation"
    assert record["defaults_chosen_on"] == ["cvssp-separation"]


def test_a_source_without_spread_is_told(tmp_path, caplog):
    cache = write_synthetic(tmp_path / "a.h5")
    table = open_cache(cache).clips[["clip_id", "system", "group"]]
    table = table.assign(quality=np.arange(len(table)) % 7 + 1.0, source="many")
    table.loc[5, "source"] = "one"
    table.to_csv(tmp_path / "mine.csv", index=False)
    given = {"head": "ridge", "cv": "group", "resamples": 0, "interval": "bootstrap"}
    train(cache, tmp_path / "run", labels=tmp_path / "mine.csv", **given)
    assert "quality: source 'one' has 1 rated clip, all with the label 6" in caplog.text
    assert "source 'many'" not in caplog.text
