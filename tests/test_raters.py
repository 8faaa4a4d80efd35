"""Labels by a model of the raters: rules against double loops; no look at held-out ratings."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.modeled import (
    model_ratings,
    offsets,
    refuse_raters,
    reliabilities,
    standardized,
)
from qamro_cache.datasets.options import RaterOptions
from qamro_cache.datasets.records import Axis, Ratings, labels_from_means, labels_from_ratings
from qamro_cache.datasets.screening import Scores, inconsistent, misses_reference
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.labels import Wanted, targets_of
from qamro_cache.experiments.request import train_request
from qamro_cache.experiments.train import train
from qamro_cache.heads.file import load_head
from qamro_cache.scoring.predict import predict

EVERY = [
    RaterOptions(rater_model=model, rater_weights=weights, screen=screen)
    for model, weights, screen in itertools.product(
        ("none", "standardized", "additive"), ("none", "reliability"), ("none", "bs1534", "bt500")
    )
][1:]


def simulated(seed, clips=30, raters=9, share=0.6):
    """Unbalanced ratings by raters of different offset, spread and care, some of them twice."""
    rng = np.random.default_rng(seed)
    truth, offset = rng.uniform(20, 90, clips), rng.normal(0, 12, raters)
    care = rng.uniform(1, 25, raters)
    clip, rater = (index.ravel() for index in np.indices((clips, raters)))
    kept = rng.random(len(clip)) < share
    clip, rater = np.r_[clip[kept], clip[kept][:5]], np.r_[rater[kept], rater[kept][:5]]
    noise = rng.standard_t(2, len(clip)) * care[rater]
    score = np.clip(np.round(truth[clip] + offset[rater] + noise), 0, 100)
    return Scores(clip, rater, score), truth, offset


def erratic(seed):
    """Ratings of which some raters' are anything at all."""
    scores, truth, _ = simulated(seed, raters=16, share=0.9)
    rng = np.random.default_rng([seed, 1])
    score = np.round(truth[scores.clip] + rng.normal(0, 4, len(scores.clip)))
    wild = np.isin(scores.rater, (3, 11)) & (rng.random(len(score)) < 0.3 + seed / 40)
    return scores._replace(score=np.where(wild, rng.uniform(0, 100, len(score)), score))


@pytest.mark.parametrize("seed", range(20))
def test_screening_is_that_of_a_double_loop(seed):
    scores = erratic(seed) if seed % 2 else simulated(seed)[0]
    out = []
    for rater in range(16):
        above = below = given = 0
        for clip, who, score in zip(*scores, strict=True):
            if who != rater:
                continue
            given += 1
            mine = scores.score[scores.clip == clip]
            mean = sum(mine) / len(mine)
            if len(set(mine)) < 2:
                continue
            moments = [sum((x - mean) ** power for x in mine) / len(mine) for power in (2, 4)]
            deviation = (sum((x - mean) ** 2 for x in mine) / (len(mine) - 1)) ** 0.5
            limit = 2 if 2 <= moments[1] / moments[0] ** 2 <= 4 else 20**0.5
            above += score >= mean + limit * deviation
            below += score <= mean - limit * deviation
        far = above + below
        if far and far / given > 0.05 and abs(above - below) / far < 0.3:
            out.append(rater)
    assert inconsistent(scores).tolist() == out


def test_screening_finds_whom_it_should():
    found = [len(inconsistent(erratic(seed))) for seed in range(1, 20, 2)]
    assert sum(found) > 3, "the double loop has something to agree on"
    # Of forty raters one says the contrary of what all others hear. Of fewer than 22 nobody is
    # the root of 20 times S away, which the rule asks for where one stands alone.
    rng = np.random.default_rng(0)
    clip, rater = (index.ravel() for index in np.indices((40, 40)))
    truth = np.where(np.arange(40) % 2, 80, 20)
    score = truth[clip] + rng.normal(0, 3, len(clip))
    score[rater == 7] = 100 - score[rater == 7]
    assert inconsistent(Scores(clip, rater, score)).tolist() == [7]
    few = rater < 20
    assert inconsistent(Scores(clip[few], rater[few], score[few])).tolist() == []


def test_the_hidden_reference_rule():
    """Below 90 for more than 15 % of the items: 3 of 20 are 15 %, 4 are more."""
    clip, rater = (index.ravel() for index in np.indices((40, 3)))
    reference = np.arange(40) < 20
    score = np.full(120, 95.0)
    score[~reference[clip]] = 10
    for who, missed in ((0, 3), (1, 4)):
        score[(rater == who) & (clip < missed)] = 89.9
    score[(rater == 2) & (clip < 20)] = 90
    scores = Scores(clip, rater, score)
    assert misses_reference(scores, reference, 0, 100).tolist() == [1]
    # On a scale of 1 to 5 the 90 of 100 is 4.6.
    five = scores._replace(score=1 + score / 25)
    assert misses_reference(five, reference, 1, 5).tolist() == [1]
    none = scores.only(~reference[clip])
    assert misses_reference(none, reference, 0, 100).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_offsets_are_the_shortest_least_squares_solution(seed):
    scores, *_ = simulated(seed)
    design = np.zeros((len(scores.score), 30 + 9))
    for row, (clip, rater) in enumerate(zip(scores.clip, scores.rater, strict=True)):
        design[row, clip] = design[row, 30 + rater] = 1
    solved = np.linalg.lstsq(design, scores.score, rcond=None)[0][30:]
    np.testing.assert_allclose(offsets(scores), solved - solved.mean(), atol=1e-7)


def test_panels_without_a_common_clip_have_offsets_of_their_own():
    scores, _, offset = simulated(0, share=1)
    exact = offset[scores.rater] + 50.0 + scores.clip
    apart = Scores(
        np.r_[scores.clip, scores.clip + 30],
        np.r_[scores.rater, scores.rater + 9],
        np.r_[exact, exact + 20],
    )
    found = offsets(apart)
    np.testing.assert_allclose(found[:9], offset - offset.mean(), atol=1e-7)
    np.testing.assert_allclose(found[9:], offset - offset.mean(), atol=1e-7)


def test_an_additive_model_brings_panels_together():
    """Each clip is heard by some raters only: their offsets are in its mean, and taken out."""
    plain, modeled = [], []
    for seed in range(10):
        scores, truth, _ = simulated(seed, share=0.3)
        for found, model in ((plain, "none"), (modeled, "additive")):
            options = RaterOptions(rater_model=model)
            mean = model_ratings(scores, np.zeros(30, bool), (0, 100), options).mean
            kept = np.isfinite(mean)
            found.append(np.corrcoef(mean[kept], truth[kept])[0, 1])
    assert np.mean(modeled) > np.mean(plain)


def test_standardized_raters_and_reliability_are_those_of_loops():
    scores, *_ = simulated(3)
    score = scores.score.copy()
    score[scores.rater == 4] = 55  # says nothing: as it is
    scores = scores._replace(score=score)
    wanted = score.copy()
    for rater in range(9):
        mine = scores.rater == rater
        if rater != 4:
            own = (score[mine] - score[mine].mean()) / score[mine].std()
            wanted[mine] = score.mean() + score.std() * own
    np.testing.assert_allclose(standardized(scores), wanted)

    squares, every = {rater: [] for rater in range(9)}, []
    for clip, rater, one in zip(*scores, strict=True):
        mine = score[scores.clip == clip]
        if len(mine) > 1:
            squares[rater].append((one - mine.mean()) ** 2 * len(mine) / (len(mine) - 1))
            every.append(squares[rater][-1])
    weights = [(len(own) + 5) / (sum(own) + 5 * np.mean(every)) for own in squares.values()]
    np.testing.assert_allclose(reliabilities(scores), weights)
    equal = scores._replace(score=np.full(len(score), 7.0))
    np.testing.assert_array_equal(reliabilities(equal), np.ones(9))


@pytest.mark.parametrize("options", EVERY, ids=RaterOptions.words)
def test_labels_are_the_mean_of_what_is_left(options):
    scores, *_ = simulated(11)
    reference = np.arange(30) < 6
    made = model_ratings(scores, reference, (0, 100), options)
    left = scores
    if options.screen == "bs1534":
        left = scores.only(~np.isin(scores.rater, misses_reference(scores, reference, 0, 100)))
    elif options.screen == "bt500":
        left = scores.only(~np.isin(scores.rater, inconsistent(scores)))
    if options.rater_model == "standardized":
        left = left._replace(score=standardized(left))
    elif options.rater_model == "additive":
        left = left._replace(score=left.score - offsets(left)[left.rater])
    weights = np.ones(9)
    if options.rater_weights == "reliability":
        weights = reliabilities(left)
    for clip in range(30):
        mine = left.clip == clip
        if not mine.any():
            assert np.isnan(made.mean[clip])
            continue
        w, x = weights[left.rater[mine]], left.score[mine]
        mean = (w * x).sum() / w.sum()
        assert made.mean[clip] == pytest.approx(mean)
        assert made.spread[clip, 0] == mine.sum()
        assert made.spread[clip, 1] == pytest.approx((w * (x - mean) ** 2).sum() / w.sum())


def test_equal_ratings_and_none_at_all():
    for options in EVERY:
        nothing = Scores(np.zeros(0, int), np.zeros(0, int), np.zeros(0))
        made = model_ratings(nothing, np.zeros(3, bool), (0, 100), options)
        assert np.isnan(made.mean).all()
        assert not len(made.out)
        one = Scores(np.array([1, 1, 2]), np.array([0, 1, 0]), np.full(3, 4.0))
        made = model_ratings(one, np.zeros(3, bool), (1, 5), options)
        np.testing.assert_allclose(made.mean, [np.nan, 4, 4])


def ratings_table(path, seed=0):
    """Every rating of a synthetic cache as a row; two systems are called reference."""
    cached = open_cache(path)
    of = cached.labels.ratings
    clips = cached.clips.iloc[of.clip]
    table = pd.DataFrame(
        {
            "clip_id": clips["clip_id"].to_numpy(),
            "group": clips["group"].to_numpy(),
            "system": clips["system"].replace("S1", "reference").to_numpy(),
            "rater": np.array(of.raters)[of.rater],
            "quality": of.score,
        }
    )[of.axis == 0]
    rng = np.random.default_rng(seed)
    table["quality"] = (table["quality"] + rng.normal(0, 6, len(table))).clip(0, 100)
    table.loc[table["system"] == "reference", "quality"] = 97.0
    careless = (table["system"] == "reference") & (table["rater"] == "bo")
    table.loc[careless, "quality"] = 50.0
    # Not everybody hears everything.
    return table[rng.random(len(table)) < 0.8]


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rated")
    path = write_synthetic(folder / "emb.h5")
    ratings_table(path).to_csv(folder / "ratings.csv", index=False)
    return path, folder / "ratings.csv"


RIDGE = {"head": "ridge", "cv": "group", "axis": "quality", "scale": ["quality=0:100"]}


@pytest.fixture(scope="module")
def other(rated, tmp_path_factory):
    """The same ratings, but that of group G3 other things are said."""
    table = pd.read_csv(rated[1], float_precision="round_trip")
    held = (table["group"] == "G3").to_numpy()
    rng = np.random.default_rng(5)
    table.loc[held, "quality"] = rng.permutation(100 - table.loc[held, "quality"].to_numpy())
    path = tmp_path_factory.mktemp("other") / "other.csv"
    table.to_csv(path, index=False)
    return path


def test_a_fold_learns_nothing_of_what_it_holds_out(rated, other, tmp_path):
    rows = [Wanted(0), *(Wanted(0, 0, one) for one in EVERY), Wanted(0, 2, EVERY[-1])]
    found = []
    for labels in (rated[1], other):
        request = train_request(rated[0], tmp_path / "none", {**RIDGE, "labels": labels})
        ((clips, held_out),) = request.groups
        found.append(targets_of(clips, held_out.folds, rows))
    folds = held_out.folds
    (fold,) = (k for k, name in enumerate(folds.names) if name == "G3")
    # Plain means are in no fold's way: what is learned of them is masked.
    for row in range(1, len(rows)):
        (labels, spread), (theirs, their_spread) = (
            (one.of(row, fold).numpy(), one.spread_of(row, fold).numpy()) for one in found
        )
        np.testing.assert_array_equal(labels, theirs)
        np.testing.assert_array_equal(spread, their_spread)
        assert np.isnan(labels[folds.test[fold]]).all()
        assert np.isfinite(labels[folds.train[fold]]).all()
        of_others = (one.of(row, (fold + 1) % len(folds.names)).numpy() for one in found)
        assert not np.array_equal(*of_others, equal_nan=True)


SMALL = {**RIDGE, "head": "mlp", "widths": (4,), "epochs": 2, "seeds": 1, "stop": "inner"}


@pytest.mark.parametrize(
    "head",
    [
        SMALL,
        pytest.param(RIDGE, marks=pytest.mark.slow),
        pytest.param({**SMALL, "output": "gaussian"}, marks=pytest.mark.slow),
    ],
)
def test_ratings_of_a_held_out_group_do_not_reach_its_predictions(rated, other, tmp_path, head):
    found = []
    given = {"rater_model": "additive", "rater_weights": "reliability", "screen": "bs1534"}
    for name, labels in (("a", rated[1]), ("b", other)):
        train(rated[0], tmp_path / name, labels=labels, **given, **head)
        found.append(pd.read_csv(tmp_path / name / "predictions.csv"))
    mine = found[0]["group"] == "G3"
    assert (found[0]["prediction"][mine] == found[1]["prediction"][mine]).all()
    assert (found[0]["prediction"][~mine] != found[1]["prediction"][~mine]).mean() > 0.9


@pytest.mark.parametrize("cv", ["split", "group"])
def test_heads_of_a_feature_learn_modeled_labels_beside_those_of_another(rated, tmp_path, cv):
    given = {"rater_model": ["additive"], "cv": cv, "epochs": 3, "lr": 0.02, "widths": [(4,)]}
    given |= {"labels": tmp_path / "labels.csv", "seeds": 1, "resamples": 0}
    table = pd.read_csv(rated[1])
    table["split"] = np.where(table["group"].isin(["G1", "G5"]), "test", "train")
    table.to_csv(given["labels"], index=False)
    found = []
    for name, features in (("both", ["embedding", "layers"]), ("one", ["layers"])):
        ablate(rated[0], tmp_path / name, feature=features, **given)
        table = pd.read_csv(tmp_path / name / "results.csv")
        of = table["feature"] == "layers" if name == "both" else slice(None)
        table = table.loc[of][lambda t: t["model"] == "head"]
        found.append(table[["clip_mse", "clip_srcc"]].to_numpy())
    np.testing.assert_allclose(*found, rtol=1e-5)


def srcc(models, name):
    return models[name]["metrics"]["clip_srcc"]["value"]


def test_clips_that_are_left_out_have_no_say_in_who_is_screened(rated, tmp_path):
    given = {"rater_model": "additive", "rater_weights": "reliability", "screen": "bs1534"}
    table = pd.read_csv(rated[1], float_precision="round_trip")
    table[table["system"] != "S2"].to_csv(tmp_path / "fewer.csv", index=False)
    runs = (("a", rated[1], ["system=S2"]), ("b", tmp_path / "fewer.csv", []))
    for name, labels, without in runs:
        train(rated[0], tmp_path / name, labels=labels, without=without, **given, **RIDGE)
    a, b = (pd.read_csv(tmp_path / name / "predictions.csv") for name in "ab")
    np.testing.assert_array_equal(a["prediction"], b["prediction"])
    a, b = (json.loads((tmp_path / name / "config.json").read_text())["raters"] for name in "ab")
    assert a == b


def test_judged_labels_stay_plain_means_and_who_is_out_is_counted(rated, tmp_path):
    path, labels = rated
    plain = train(path, tmp_path / "plain", labels=labels, **RIDGE)["axes"]["quality"]
    given = {"rater_model": "additive", "screen": "bs1534"}
    record = train(path, tmp_path / "run", labels=labels, **RIDGE, **given)["axes"]["quality"]
    tables = [pd.read_csv(tmp_path / name / "predictions.csv") for name in ("plain", "run")]
    np.testing.assert_array_equal(tables[0]["target"], tables[1]["target"])
    assert (tables[0]["prediction"] != tables[1]["prediction"]).any()
    means = pd.read_csv(labels).groupby("clip_id")["quality"].mean()
    np.testing.assert_allclose(tables[1]["target"], means[tables[1]["clip_id"]])
    # The baseline learns from plain means: it is what the head was without a model.
    assert srcc(plain["models"], "ridge head") == srcc(record["models"], "ridge")
    beside = record["by_modeled_labels"]
    assert beside["labels"] == "bs1534, additive"
    assert set(beside["models"]) == set(record["models"])
    assert srcc(record["models"], "ridge head") != srcc(beside["models"], "ridge head")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["given"]["screen"] == "bs1534"
    assert config["raters"]["quality"]["screened"] == ["bo"]
    assert config["raters"]["quality"]["raters"] == 4
    assert config["raters"]["quality"]["screened_mean"] == 1
    assert "raters" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_a_cell_of_a_grid_is_a_run(rated, tmp_path):
    path, labels = rated
    ablate(path, tmp_path / "grid", labels=labels, rater_model=["none", "additive"], **RIDGE)
    summary = pd.read_csv(tmp_path / "grid" / "summary.csv")
    mine = summary[summary["model"] == "head"]
    assert set(mine["axis"]) == {"quality", "quality (additive labels)"}
    alone = train(path, tmp_path / "run", labels=labels, rater_model="additive", **RIDGE)
    alone = alone["axes"]["quality"]
    beside = alone["by_modeled_labels"]["models"]
    for axis, models in (("quality", alone["models"]), ("quality (additive labels)", beside)):
        row = mine[(mine["axis"] == axis) & (mine["rater_model"] == "additive")]
        (value,) = row["clip_srcc"]
        assert value == pytest.approx(srcc(models, "ridge head"), abs=1e-6)
    config = json.loads((tmp_path / "grid" / "config.json").read_text())
    assert config["materials"][0]["raters"]["additive"]["quality"]["raters"] == 4


def offset_raters(path, cache):
    """Write ratings of 1 to 5 by two raters, half a point too high and too low, of a half each."""
    opened = open_cache(cache)
    truth = opened.labels.mean[:, 0]
    truth = 1 + 4 * (truth - truth.min()) / np.ptp(truth)
    noise = np.random.default_rng(0).normal(0, 0.2, (len(truth), 2))
    rows = []
    for k, name in enumerate(opened.clips["clip_id"]):
        for rater, off in (("even", 0.6), ("odd", -0.6), ("all", 0.0)):
            if rater == "all" or (rater == "even") == (k % 2 == 0):
                score = np.clip(np.round(truth[k] + off + noise[k, int(rater == "all")]), 1, 5)
                rows.append((name, rater, score))
    pd.DataFrame(rows, columns=["clip_id", "rater", "mos"]).to_csv(path, index=False)
    return path


def test_a_saved_head_has_the_scale_that_it_was_trained_with(tmp_path):
    cache = write_synthetic(tmp_path / "emb.h5", clips=80)
    labels = offset_raters(tmp_path / "l.csv", cache)
    given = {"axis": ["mos"], "labels": labels, "output": "bounded", "widths": [4], "epochs": 2}
    options = {"rater_model": "additive", "save_folds": True}
    train(cache, tmp_path / "run", cv="2", seeds=1, **given, **options)
    estimate = pd.read_csv(tmp_path / "run" / "predictions.csv").set_index("clip_id")
    for file in (tmp_path / "run" / "folds").iterdir():
        mine = estimate[estimate["fold"].astype(str) == load_head(file).training["held_out"]]
        again = predict(file, cache).set_index("clip_id")["prediction"]
        np.testing.assert_allclose(again[mine.index], mine["prediction"], rtol=1e-4)


def test_what_cannot_be_modeled_is_one_line(rated, tmp_path):
    path, _ = rated
    options = RaterOptions(rater_model="additive")
    axes, none = (Axis("quality", 0, 100),), np.zeros(3, bool)
    with pytest.raises(QamroError, match="only mean scores are known, and additive needs"):
        refuse_raters(labels_from_means(axes, np.zeros((3, 1))), none, options)
    ratings = Ratings(
        np.array([0, 1], np.int32), np.zeros(2, np.int16), np.array([0, -1], np.int32),
        np.ones(2), ("a",),
    )  # fmt: skip
    labels = labels_from_ratings(axes, 3, ratings)
    with pytest.raises(QamroError, match="additive needs to know who rated, and 1 ratings"):
        refuse_raters(labels, none, options)
    refuse_raters(labels, none, RaterOptions())
    with pytest.raises(OptionError, match="--screen bs1534 goes by the hidden reference"):
        train(path, tmp_path / "run", screen="bs1534", cv="group")
    named = open_cache(path).clips[["clip_id"]].assign(reference="clip000")
    named.to_csv(tmp_path / "named.csv", index=False)
    given = {"screen": "bs1534", "cv": "group", "axis": "quality", "head": "ridge"}
    with pytest.raises(QamroError, match="--screen bs1534 takes out all 4 raters"):
        train(path, tmp_path / "run", labels=tmp_path / "named.csv", **given)
    with pytest.raises(OptionError, match="leave --rater-model out"):
        ablate(path, tmp_path / "grid", onto=path, rater_model="additive")
