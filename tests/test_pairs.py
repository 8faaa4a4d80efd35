"""Tables of pairs: read, made of ratings and of battles, trained on and judged by commands."""

import cProfile
import itertools
import json
import logging

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from qamro_cache_cli.cache import main as cache_command
from qamro_cache_cli.train import main as train_command
from scipy.optimize import minimize
from synthetic_cache import write_synthetic

from qamro_cache.cache.pairs import write_pairs
from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.battles import pairs_of_battles, pairs_of_ratings
from qamro_cache.datasets.preferences import Pairs, load_pairs, read_pairs
from qamro_cache.datasets.records import Axis, Ratings, labels_from_means, labels_from_ratings
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.evaluation.preferences import (
    Said,
    held_pairs,
    pair_difference,
    pair_figures,
    pair_record,
)
from qamro_cache.experiments import calibrated_pairs
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.ensemble import ensemble
from qamro_cache.experiments.train import train
from qamro_cache.heads.file import load_head
from qamro_cache.heads.ridge import fit_ridge
from qamro_cache.scoring.predict import predict

CLIPS = ["x.wav", "y.wav", "z.wav", "deep/w.wav"]
QUICK = {"epochs": 1, "widths": [4], "seeds": 1}


def table(tmp_path, text, name="pairs.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_table_is_read_as_it_says(tmp_path):
    path = table(
        tmp_path,
        "clip_a,clip_b,winner,rater,axis,source,weight\n"
        "x.wav,y,a,ann,,S,\nz.wav,x.wav,TIE,ann,,T,2\ny.wav,deep/w, B ,,,,0.5\n",
    )
    pairs, axes = read_pairs(path, CLIPS, ["quality"])
    assert pairs.clips.tolist() == [[0, 1], [2, 0], [1, 3]]
    assert pairs.winner.tolist() == [1, 0, -1]
    assert pairs.raters == ("S: ann", "T: ann")
    assert pairs.rater.tolist() == [0, 1, -1]
    assert pairs.weight.tolist() == [1, 2, 0.5]
    assert axes == ["quality"]
    assert pairs.axis.tolist() == [0, 0, 0]


def test_an_export_that_was_sent_twice_counts_once(tmp_path, caplog):
    """As of ratings: rows of a known rater, the same in every cell, other columns included."""
    rows = ["x,y,a,ann,1", "x,y,a,ann,2", "x,y,a,bob,1", "x,y,a,,1"]
    head = "clip_a,clip_b,winner,rater,trial"
    once = read_pairs(table(tmp_path, "\n".join([head, *rows])), CLIPS, ["q"])[0]
    assert len(once.winner) == 4, "two trials are two verdicts"
    assert "twice" not in caplog.text
    twice = read_pairs(table(tmp_path, "\n".join([head, *rows, *rows])), CLIPS, ["q"])[0]
    assert twice.rater.tolist() == [*once.rater.tolist(), -1], "nobody may be two listeners"
    assert "3 rows are in it twice, the first is row 6; each counts once" in caplog.text


HEAD = "clip_a,clip_b,winner,axis,weight\n"


@pytest.mark.parametrize(("text", "axes", "said"), [
    (HEAD + "x,y,a,,\nx,q,a,,\n", ["m"], "row 3: clip_b 'q' is none of the 4 clips"),
    (HEAD + "x,y,a,,\nq,x,a,,\n", ["m"], "row 3: clip_a 'q' is none of the 4 clips"),
    (HEAD + "x,x.wav,a,,\n", ["m"], "row 2: clip 'x' is paired with itself; name two clips"),
    (HEAD + "x,y,x,,\nx,y,,,\n", ["m"], "rows 2, 3; the first: winner is 'x'; write a, b or tie"),
    (HEAD + "x,y,a,,0\n", ["m"], "row 2: weight 0 is not above 0"),
    (HEAD + "x,y,a,,many\n", ["m"], "row 2: 'many' in column 'weight' is not a finite number"),
    (HEAD + "x,y,a,,\n", ["m", "n"], "row 2: no axis is named, and there are m, n"),
    (HEAD, ["m"], "row 2: there are no pairs"),
    ("clip_a,clip_b,winer\nx,y,a\n", ["m"], "no column 'winner'; add it; did you mean 'winer'?"),
])  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, text, axes, said):
    with pytest.raises(QamroError) as error:
        read_pairs(table(tmp_path, text), CLIPS, axes)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_parquet_is_read_as_csv(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    frame = pd.DataFrame(
        {"clip_a": ["x", "y"], "clip_b": ["y", "z"], "winner": ["a", "tie"], "weight": [1.5, None]}
    )
    frame.to_parquet(tmp_path / "pairs.parquet")
    pairs, _ = read_pairs(tmp_path / "pairs.parquet", CLIPS)
    assert pairs.weight.tolist() == [1.5, 1]
    assert pairs.winner.tolist() == [1, 0]


@pytest.fixture(scope="module")
def emb(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("pairs") / "emb.h5")


@pytest.fixture(scope="module")
def pairs_file(emb):
    path = emb.parent / "pairs.csv"
    write_pairs([emb], path)
    return path


def test_pairs_of_ratings_are_those_of_each_trial(emb, pairs_file):
    """Two loops over the ratings, as anybody would write it."""
    cache = open_cache(emb)
    clips, rated = cache.clips, cache.labels.ratings
    scores = {}
    for clip, axis, rater, score in zip(
        rated.clip, rated.axis, rated.rater, rated.score, strict=True
    ):
        if clips["status"].iloc[clip] == "ok":
            scores.setdefault((axis, rater, clips["group"].iloc[clip]), {})[int(clip)] = score
    expected = {}
    for (axis, rater, _), trial in scores.items():
        for a, b in itertools.combinations(sorted(trial), 2):
            won = "a" if trial[a] > trial[b] else "b" if trial[b] > trial[a] else "tie"
            key = (clips["clip_id"].iloc[a], clips["clip_id"].iloc[b], rated.raters[rater], axis)
            expected[key] = won
    found = pd.read_csv(pairs_file)
    axes = {"quality": 0, "match": 1}
    ours = {
        (a, b, rater, axes[axis]): won
        for a, b, won, rater, axis in zip(
            found["clip_a"], found["clip_b"], found["winner"], found["rater"], found["axis"],
            strict=True,
        )
    }  # fmt: skip
    assert ours == expected
    assert len(found) == len(expected)


def test_a_second_rating_counts_with_the_first_as_their_mean(emb):
    cache = open_cache(emb)
    rated, labels = cache.labels.ratings, cache.labels
    from dataclasses import replace

    few = np.flatnonzero((rated.axis == 0) & (rated.rater == 0) & (rated.clip < 2))
    take = [few[0], few[1], few[1]]
    again = replace(
        rated, clip=rated.clip[take], axis=rated.axis[take], rater=rated.rater[take],
        score=np.array([50.0, 40, 60]),
    )  # fmt: skip
    found = pairs_of_ratings(cache.clips, replace(labels, ratings=again))
    assert found["winner"].tolist() == ["tie"]


def test_trials_are_not_walked_one_by_one():
    """Ten times the trials take the same calls: 500,000 ratings of two a trial took minutes."""
    calls = {}
    for trials in (50, 500):
        clip = np.arange(2 * trials)
        one = np.zeros(len(clip), np.int16)
        ratings = Ratings(clip, one, clip % 3, clip % 5 / 1.0, ("ann", "bo", "cy"))
        labels = labels_from_ratings((Axis("quality", 0, 4),), len(clip), ratings)
        group = [f"G{k // 6}" for k in clip]
        clips = pd.DataFrame({"clip_id": [f"c{k}" for k in clip], "group": group})
        profile = cProfile.Profile()
        found = profile.runcall(pairs_of_ratings, clips, labels)
        assert len(found) > 0.9 * trials
        calls[trials] = sum(entry.callcount for entry in profile.getstats())
    assert calls[500] < 1.2 * calls[50]


def test_figures_are_those_of_a_plain_loop():
    random = np.random.default_rng(3)
    size = 400
    ends = random.integers(0, 20, (size, 2))
    ends[:, 1] = (ends[:, 0] + 1 + ends[:, 1] % 19) % 20
    winner, weight = random.integers(-1, 2, size), random.uniform(0.5, 2, size)
    pairs = Pairs(ends, np.zeros(size, np.int64), winner, random.integers(0, 6, size), weight)
    test = np.arange(20) % 5 == np.arange(5)[:, None]
    rows = held_pairs(pairs, test)
    gap = random.normal(size=len(rows.pair))
    gap[:5] = 0
    said = Said(gap, np.full(len(gap), 0.7), np.full(len(gap), 0.4))
    found = pair_figures(rows, said)
    hits, count, cost, total, bins = 0.0, 0.0, 0.0, 0.0, {}
    for k in range(len(rows.pair)):
        w, won = rows.weight[k], rows.winner[k]
        assert test[rows.fold[k], ends[rows.pair[k]]].any()
        x = gap[k] / 0.7
        a, b = np.exp(x / 2), np.exp(-x / 2)
        chance = {1: a, 0: 0.4, -1: b}[won] / (a + b + 0.4)
        cost, total = cost - w * np.log(chance), total + w
        if won:
            count += w
            hits += w * (0.5 if gap[k] == 0 else float(np.sign(gap[k]) == won))
        expected = (a + 0.2) / (a + b + 0.4)
        place = bins.setdefault(min(int(expected * 10), 9), [0.0, 0.0, 0.0])
        for i, value in enumerate((w, w * expected, w * (1 + won) / 2)):
            place[i] += value
    assert found["accuracy"]["value"] == pytest.approx(hits / count, abs=1e-12)
    assert found["log_loss"]["value"] == pytest.approx(cost / total, abs=1e-12)
    error = sum(abs(e - g) for _, e, g in bins.values()) / total
    assert found["calibration_error"]["value"] == pytest.approx(error, abs=1e-12)
    # Each pair counts once, however many folds hold it out.
    assert rows.weight.sum() == pytest.approx(weight[rows.counts()["held_out"] > 0].sum())
    same = pair_difference("accuracy", rows, said, said)
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)


def test_a_fold_without_tau_is_left_out_of_the_log_loss_and_counted():
    random = np.random.default_rng(4)
    ends = np.arange(80).reshape(40, 2)
    winner = random.choice([1, -1], 40)
    pairs = Pairs(ends, np.zeros(40, np.int64), winner, np.arange(40) % 5, np.ones(40))
    rows = held_pairs(pairs, np.arange(80) // 20 == np.arange(4)[:, None])
    gap, tau = random.normal(size=40), np.where(rows.fold == 2, np.nan, 0.5)
    said = Said(gap, tau, 0 * tau)
    record = pair_record(rows, said)
    known = rows.fold != 2
    cost = np.log1p(np.exp(-(winner * gap / 0.5)[known])).mean()
    assert record["figures"]["log_loss"]["value"] == pytest.approx(cost)
    assert record["figures"]["accuracy"]["value"] == np.mean(winner * gap > 0)
    assert record["counts"]["without_tau"] == 10
    assert "10 in folds whose heads have no tau, without log loss" in record["words"]
    nobody = pair_record(rows, said._replace(tau=np.nan * tau))
    assert set(nobody["figures"]) == {"accuracy"}
    assert "without log loss" not in nobody["words"]


def simulated(random, straddling):
    """Verdicts by raters' and folds' own levels: two a rater within a fold, or each two folds'."""
    folds = raters = 12
    if straddling:
        ends = np.repeat(np.stack(np.triu_indices(folds, 1), 1), raters, 0)
        rater, test = np.arange(len(ends)) % raters, np.eye(folds, dtype=bool)
    else:
        fold, rater, _ = (x.ravel() for x in np.indices((folds, raters, 2)))
        ends, test = (
            np.stack([2 * fold, 2 * fold + 1], 1), np.repeat(np.eye(folds, dtype=bool), 2, 1)
        )  # fmt: skip
    level = np.repeat(0.08 * random.normal(size=folds), 1 if straddling else 2)
    of_ends = level[ends].sum(1) / (1 if straddling else 2)
    chance = 0.7 + of_ends + 0.08 * (random.normal(size=raters)[rater] * (not straddling))
    winner = np.where(random.random(len(ends)) < np.clip(chance, 0, 1), 1, -1)
    pairs = Pairs(ends, np.zeros(len(ends), np.int64), winner, rater, np.ones(len(ends)))
    rows = held_pairs(pairs, test)
    nothing = np.full(len(rows.pair), np.nan)
    return pair_figures(rows, Said(np.ones(len(rows.pair)), nothing, nothing))["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("straddling", [False, True])
def test_intervals_cover(straddling):
    """The truth is within as often as is said."""
    random, runs = np.random.default_rng(0), 200
    found = [simulated(random, straddling) for _ in range(runs)]
    inside = sum(one["low"] <= 0.7 <= one["high"] for one in found)
    assert 0.92 <= inside / runs <= 0.99


def test_a_pair_that_straddles_goes_with_either_of_its_folds():
    """The delete-one jackknife over systems, by a loop; raters unknown."""
    random = np.random.default_rng(2)
    ends = np.repeat(np.stack(np.triu_indices(6, 1), 1), 3, 0)
    count = len(ends)
    winner = random.choice([1, -1], count)
    nobody = np.full(count, -1)
    pairs = Pairs(ends, np.zeros(count, np.int64), winner, nobody, random.uniform(1, 2, count))
    rows = held_pairs(pairs, np.eye(6, dtype=bool))
    nothing = np.full(len(rows.pair), np.nan)
    found = pair_figures(rows, Said(np.ones(len(rows.pair)), nothing, nothing))["accuracy"]
    without = []
    for system in range(6):
        kept = (ends != system).all(1)
        without.append(np.average(winner[kept] > 0, weights=pairs.weight[kept]))
    error = np.sqrt(5 / 6 * ((without - np.mean(without)) ** 2).sum())
    assert found["value"] - found["low"] == pytest.approx(2.5705818 * error)  # Student's, 5
    # Of one fold a clip is what a fold of it alone would be: both go with all their pairs.
    rows = held_pairs(pairs, np.ones((1, 6), bool))
    assert rows.ways()[0].population == "over clips"
    again = pair_figures(rows, Said(np.ones(count), nothing[:count], nothing[:count]))["accuracy"]
    assert again == pytest.approx(found)


def test_verdicts_on_the_same_two_clips_are_no_sample_of_clips():
    ends = np.tile([[0, 1]], (20, 1))
    winner = np.where(np.arange(20) % 3, 1, -1)
    for rater, over in ((-1, "these 2 clips, over pairs"), (np.arange(20) % 5, "over raters")):
        who = np.broadcast_to(rater, 20)
        rows = held_pairs(Pairs(ends, 0 * who, winner, who, np.ones(20)), np.ones((1, 2), bool))
        said = Said(np.ones(20), np.full(20, np.nan), np.full(20, np.nan))
        record = pair_record(rows, said)
        assert over in record["population"]
        one = record["figures"]["accuracy"]
        # Of nothing that varies there is no interval.
        assert np.isnan([one["low"], one["high"]]).tolist() == ["pairs" in over] * 2


def test_an_accuracy_ends_at_one():
    ends = np.arange(12).reshape(6, 2)
    pairs = Pairs(ends, np.zeros(6, np.int64), np.array([1] * 5 + [-1]), np.arange(6), np.ones(6))
    rows = held_pairs(pairs, np.repeat(np.eye(6, dtype=bool), 2, 1))
    said = Said(np.ones(6), np.full(6, np.nan), np.full(6, np.nan))
    assert pair_figures(rows, said)["accuracy"]["high"] == 1


def test_a_run_from_pairs_alone(emb, pairs_file, tmp_path):
    record = train(emb, tmp_path / "run", pairs=pairs_file, loss="bt", cv="group", **QUICK)
    found = record["axes"]["quality"]
    assert "clip_mse" not in found["models"]["qamro head"]["metrics"]
    assert "clip_srcc" in found["models"]["qamro head"]["metrics"]
    counts = found["pairs"]["counts"]
    frame = pd.read_csv(pairs_file)
    mine = frame[frame["axis"] == "quality"]
    assert counts["pairs"] == counts["held_out"] == counts["within"] == len(mine)
    assert counts["straddling"] == 0
    assert counts["ties"] == (mine["winner"] == "tie").sum()
    assert set(found["pairs"]["figures"]) == {"accuracy", "log_loss", "calibration_error"}
    assert "folds and raters" in found["pairs"]["population"]
    head = load_head(tmp_path / "run")
    learned = head.axes[0].preference
    assert learned.alone
    assert learned.tau > 0
    table = predict(tmp_path / "run", emb)
    assert set(table["scale"]) == {"standard"}
    quality = table[(table["axis"] == "quality") & table["prediction"].notna()]
    assert abs(quality["prediction"].mean()) < 0.2
    with pytest.raises(QamroError, match="in standard units, where an answer has ratings"):
        predict(tmp_path / "run", emb, answer=tmp_path / "answer.txt")
    scored = evaluate(tmp_path / "run" / "predictions.csv", emb)
    assert all("clip_mse" not in axis["metrics"] for axis in scored["axes"].values())


@pytest.mark.slow
def test_systems_held_out_straddle(emb, pairs_file, tmp_path):
    record = train(
        emb, tmp_path / "run", pairs=pairs_file, loss="huber@standardized+bt", cv="system", **QUICK
    )
    found = record["axes"]["quality"]
    counts = found["pairs"]["counts"]
    # One clip of each system in a group: no pair is of one system.
    assert counts["within"] == 0
    assert counts["straddling"] == counts["held_out"] == counts["pairs"]
    assert counts["training_most"] < counts["pairs"]
    assert "clip_mse" in found["models"]["qamro head"]["metrics"]
    assert not load_head(tmp_path / "run").axes[0].preference.alone


@pytest.mark.slow
def test_held_out_pairs_change_no_prediction(emb, pairs_file, tmp_path):
    """Through the whole command: other verdicts of what one fold holds out."""
    frame = pd.read_csv(pairs_file)
    clips = open_cache(emb).clips.set_index("clip_id")["group"]
    out = frame["clip_a"].map(clips) == "G2"
    frame.loc[out, "winner"] = frame.loc[out, "winner"].map({"a": "b", "b": "tie", "tie": "a"})
    frame.to_csv(tmp_path / "other.csv", index=False)
    given = {"loss": "bt", "cv": "group", **QUICK}
    tables = []
    for name, path in (("a", pairs_file), ("b", tmp_path / "other.csv")):
        train(emb, tmp_path / name, pairs=path, **given)
        tables.append(pd.read_csv(tmp_path / name / "predictions.csv"))
    held = tables[0]["fold"] == "G2"
    assert held.any()
    assert tables[0][held].equals(tables[1][held])
    assert not tables[0][~held].equals(tables[1][~held])


@pytest.mark.slow
def test_clips_without_ratings_are_known_by_pairs_alone(tmp_path):
    emb = write_synthetic(tmp_path / "emb.h5")
    write_pairs([emb], tmp_path / "pairs.csv")
    frame = pd.read_csv(tmp_path / "pairs.csv")
    frame = frame[frame["axis"] == "quality"].drop(columns="axis").assign(axis="taste")
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    record = train(
        emb, tmp_path / "run", pairs=tmp_path / "pairs.csv", loss="bt", axis="taste", cv="group",
        **QUICK,
    )  # fmt: skip
    assert set(record["axes"]["taste"]) == {"folds", "diverged", "median_epoch", "ood", "pairs"}
    assert load_head(tmp_path / "run").axes[0].axis.name == "taste"
    from qamro_cache.reports.report import report

    report(tmp_path / "run", tmp_path / "report.html")
    assert "held-out pairs" in (tmp_path / "report.html").read_text()
    with pytest.raises(QamroError, match="axis taste has pairs and no ratings"):
        train(emb, tmp_path / "no", pairs=tmp_path / "pairs.csv", axis="taste", cv="group", **QUICK)


def test_what_cannot_be_learned_is_refused(emb, pairs_file, tmp_path):
    with pytest.raises(OptionError, match=r"loss bt@standardized learns from pairs"):
        train(emb, tmp_path / "run", loss="bt", **QUICK)
    with pytest.raises(OptionError, match="output=bounded needs a rating scale"):
        train(emb, tmp_path / "run", pairs=pairs_file, loss="bt", output="bounded", **QUICK)
    with pytest.raises(OptionError, match="units of bt is 'raw': use standardized"):
        train(emb, tmp_path / "run", pairs=pairs_file, loss="bt@raw", **QUICK)
    frame = pd.read_csv(pairs_file)
    frame[frame["axis"] == "match"].to_csv(tmp_path / "match.csv", index=False)
    with pytest.raises(QamroError, match="axis quality has no training pair for bt@standardized"):
        train(emb, tmp_path / "run", pairs=tmp_path / "match.csv", loss="bt", **QUICK)


def test_a_grid_is_judged_by_ratings(emb, pairs_file, tmp_path):
    frame = pd.read_csv(pairs_file)
    frame = frame[frame["axis"] == "quality"].assign(axis="taste")
    frame.to_csv(tmp_path / "taste.csv", index=False)
    with pytest.raises(OptionError, match="axis taste has pairs and no ratings, by which a grid"):
        ablate(
            emb, tmp_path / "grid", pairs=tmp_path / "taste.csv", axis="taste", loss="bt",
            cv="group",
        )  # fmt: skip


def test_an_axis_without_pairs_keeps_no_tau(emb, pairs_file, tmp_path):
    frame = pd.read_csv(pairs_file)
    frame[frame["axis"] == "quality"].to_csv(tmp_path / "quality.csv", index=False)
    train(
        emb, tmp_path / "run", pairs=tmp_path / "quality.csv", loss="huber@standardized+bt",
        cv="group", **QUICK,
    )  # fmt: skip
    quality, match = load_head(tmp_path / "run").axes
    assert quality.preference.tau > 0
    assert match.preference is None


def test_calibration_leaves_what_is_said_of_pairs(emb, pairs_file, tmp_path):
    given = {
        "pairs": pairs_file,
        "axis": "quality",
        "cv": "group",
        **QUICK,
        "epochs": 8,
        "lr": 0.02,
    }
    with pytest.raises(OptionError, match="in standard units, and has no tau; leave --calibrate"):
        train(emb, tmp_path / "no", loss="ranknet_pairs", calibrate=True, **given)
    loss = "huber@standardized+bt"
    plain = train(emb, tmp_path / "a", loss=loss, **given)["axes"]["quality"]
    lines = train(emb, tmp_path / "b", loss=loss, calibrate=True, **given)["axes"]["quality"]
    assert lines["calibration"]["folds"] == 8
    assert lines["calibration"]["median_slope"] != pytest.approx(1, abs=0.01)
    before, after = (one["pairs"]["figures"] for one in (plain, lines))
    assert after["accuracy"] == before["accuracy"]
    assert after["log_loss"]["value"] < before["log_loss"]["value"]


def test_a_calibrated_tau_is_told_by_verdicts_that_are_new(emb, pairs_file, tmp_path):
    """The saved head's by the out-of-fold table, with scipy; without a vote of what is held out."""
    frame = pd.read_csv(pairs_file).query("axis == 'quality'")
    given = {"axis": "quality", "cv": "group", "loss": "bt", **QUICK, "lr": 0.05, "epochs": 12}
    records = []
    for name in "ab":
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        run = {"pairs": tmp_path / f"{name}.csv", "calibrate": True, "save_folds": True, **given}
        records.append(train(emb, tmp_path / name, **run)["axes"]["quality"])
        if name == "a":
            learned = load_head(tmp_path / "a").axes[0].preference
            table = pd.read_csv(tmp_path / "a" / "predictions.csv")
            scores = table.groupby("clip_id")["prediction"].mean()
            gap = (frame["clip_a"].map(scores) - frame["clip_b"].map(scores)).to_numpy()
            winner = frame["winner"].map({"a": 1, "b": -1, "tie": 0}).to_numpy()

            def cost(x, gap=gap, winner=winner):
                z, even = gap / np.exp(x[0]) / 2, np.exp(x[1])
                won = np.choose(winner + 1, [np.exp(-z), even, np.exp(z)])
                return -np.log(won / (np.exp(z) + np.exp(-z) + even)).mean()

            best = minimize(cost, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9}).x
            assert learned.tau == pytest.approx(np.exp(best[0]), rel=1e-4)
            assert learned.tie == pytest.approx(np.exp(best[1]), rel=1e-4)
            group = table.drop_duplicates("clip_id").set_index("clip_id")["fold"]
            held = group.iloc[0]
            turned = frame["clip_a"].map(group) == held
            flipped = frame.loc[turned, "winner"].map({"a": "b", "b": "a", "tie": "tie"})
            frame.loc[turned, "winner"] = flipped
    assert records[0]["pairs"]["figures"] != records[1]["pairs"]["figures"]
    assert records[0]["calibration"] == {"tau_folds": 8}
    one, other = (
        {head.training["held_out"]: head.axes[0].preference for head in map(load_head, paths)}
        for paths in ((tmp_path / name / "folds").iterdir() for name in "ab")
    )
    assert one[held] == other[held]
    assert sum(one[fold] != other[fold] for fold in one) == len(one) - 1


def test_a_tau_that_no_verdict_can_tell_stays_what_was_learned(tmp_path, caplog):
    """Of three groups compared with one another heads inside a fold have no pair to learn."""
    emb = write_synthetic(tmp_path / "emb.h5", clips=15)
    clips = open_cache(emb).clips.query("status == 'ok'")
    across = [
        f"{a},{b},a"
        for (a, one), (b, other) in itertools.combinations(
            zip(clips["clip_id"], clips["group"], strict=True), 2
        )
        if one != other
    ]
    pairs = table(tmp_path, "\n".join(["clip_a,clip_b,winner", *across]))
    given = {"axis": "quality", "cv": "group", "loss": "bt", "pairs": pairs, **QUICK}
    plain = train(emb, tmp_path / "a", **given)["axes"]["quality"]
    found = train(emb, tmp_path / "b", calibrate=True, **given)["axes"]["quality"]
    assert found["pairs"] == plain["pairs"]
    assert found["calibration"] == {"tau_folds": 0}
    assert "calibration" not in plain
    assert "3 of 3 folds keep the tau of their training" in caplog.text
    kept = [load_head(tmp_path / name).axes[0].preference for name in "ab"]
    assert kept[0] == kept[1]


def test_no_heads_are_trained_for_a_tau_that_no_verdict_can_tell(emb, pairs_file, tmp_path, caplog):
    """Pairs of a test straddle systems: no head inside a fold holds out both of their clips."""
    caplog.set_level("INFO")
    given = {"axis": "quality", "pairs": pairs_file, "loss": "bt", "calibrate": True, **QUICK}
    train(emb, tmp_path / "a", cv="system", **given)
    assert "5 of 5 folds keep the tau of their training" in caplog.text
    assert "heads inside the folds" not in caplog.text
    train(emb, tmp_path / "b", cv="group", **given)
    assert "28 heads inside the folds" in caplog.text


def test_verdicts_without_a_tie_leave_the_tie_parameter():
    ends = np.stack([np.arange(30), np.arange(30) + 30], 1)
    winner = np.where(np.arange(30) % 3, 1, -1)
    zeros = np.zeros(30, np.int64)
    scores = np.concatenate([np.ones(30), np.zeros(30)])
    whole = np.ones((1, 60), bool)
    learned = np.array([2.0, 0.5])
    told = calibrated_pairs._of_verdicts(
        Pairs(ends, zeros, winner, zeros, np.ones(30)), scores, whole
    )
    tau, tie = calibrated_pairs._with_tie(told, learned)
    # A win in two of three at a gap of 1.
    assert 1 / (1 + np.exp(-1 / tau)) == pytest.approx(2 / 3, rel=1e-6)
    assert tie == 0.5
    winner[0] = 0
    told = calibrated_pairs._of_verdicts(
        Pairs(ends, zeros, winner, zeros, np.ones(30)), scores, whole
    )
    assert calibrated_pairs._with_tie(told, learned)[1] == told[1] > 0


def test_what_heads_must_beat_is_judged_on_pairs_too(emb, pairs_file, tmp_path):
    """Ridge by a loop over the systems held out, where all pairs straddle; its head is the same."""
    given = {"pairs": pairs_file, "axis": "quality", "cv": ["system"], "head": ["ridge", "knn"]}
    ablate(emb, tmp_path / "grid", **given)
    rows = pd.read_csv(tmp_path / "grid" / "summary.csv").set_index("model")
    heads = rows.loc["head"].set_index("head")
    cache = open_cache(emb)
    data, clips = cache.arrays(axis="quality"), cache.clips.set_index("clip_id")
    x, y = data.X.astype(float), data.y
    place = {name: k for k, name in enumerate(data.clip_ids)}
    system = clips.loc[data.clip_ids, "system"].to_numpy(str)
    codes = np.unique(system, return_inverse=True)[1]
    frame = pd.read_csv(pairs_file).query("axis == 'quality' and winner != 'tie'")
    right = total = 0.0
    for held in np.unique(system):
        kept = system != held
        score = fit_ridge(x[kept], y[kept], (6,), codes[kept]).predict(x)
        for _, (a, b, winner) in frame[["clip_a", "clip_b", "winner"]].iterrows():
            a, b = place[a], place[b]
            if held in (system[a], system[b]):  # two systems: half in each
                right += 0.5 * ((score[a] > score[b]) == (winner == "a"))
                total += 0.5
    assert rows.loc["ridge", "pairs_accuracy"] == pytest.approx(right / total, abs=1e-9)
    for name in ("pairs_accuracy", "pairs_accuracy_low", "pairs_accuracy_high"):
        assert heads.loc["ridge", name] == pytest.approx(rows.loc["ridge", name], abs=1e-9)
        assert heads.loc["knn", name] == pytest.approx(rows.loc["kNN", name], abs=1e-9)
    assert rows.loc["train mean", "pairs_accuracy"] == 0.5
    assert rows["pairs_log_loss"].isna().all(), "their scores know no tau"
    assert (rows["pairs"].dropna() == len(pd.read_csv(pairs_file).query("axis == 'quality'"))).all()


def test_a_cell_says_of_pairs_what_its_run_says(emb, pairs_file, tmp_path):
    given = {"pairs": pairs_file, "axis": "quality", "loss": "huber@standardized+bt"}
    given |= {"epochs": 2, "widths": [4], "seeds": 2}
    record = train(emb, tmp_path / "run", cv="system", **given)["axes"]["quality"]
    ablate(emb, tmp_path / "grid", cv=["system"], **{**given, "widths": [[4]]})
    rows = pd.read_csv(tmp_path / "grid" / "summary.csv").set_index("model")
    figures = record["pairs"]["figures"]
    assert set(figures) == {"accuracy", "log_loss", "calibration_error"}
    for name, one in figures.items():
        for end in ("low", "high"):
            assert rows.loc["head", f"pairs_{name}_{end}"] == pytest.approx(one[end], rel=1e-4)
        assert rows.loc["head", f"pairs_{name}"] == pytest.approx(one["value"], rel=1e-4)
    beside = record["pairs"]["baselines"]
    for name in ("ridge", "kNN"):
        assert beside[name]["accuracy"]["value"] == pytest.approx(rows.loc[name, "pairs_accuracy"])
        gap = figures["accuracy"]["value"] - beside[name]["accuracy"]["value"]
        assert beside[name]["difference"]["value"] == pytest.approx(gap)
        assert "the heads less it" in beside[name]["words"]


def test_cells_that_learn_of_pairs_too_are_averaged(emb, pairs_file, tmp_path):
    """Other verdicts, weights and labels of what a fold holds out do not reach its ensemble."""
    clips, values = open_cache(emb).clips, open_cache(emb).labels.mean[:, 0]
    frame = pd.read_csv(pairs_file).query("axis == 'quality'").assign(weight=1.0)
    given = {"loss": ["huber@standardized", "huber@standardized+bt"], "head": ["linear"]}
    given |= {"cv": ["4"], "epochs": [2], "lr": [0.05], "seeds": 1, "scale": ["quality=0:100"]}
    tables, held = [], None
    for name in "ab":
        frame.to_csv(tmp_path / f"{name}-pairs.csv", index=False)
        labels = clips[["clip_id", "system", "group"]].assign(quality=values)
        labels.to_csv(tmp_path / f"{name}.csv", index=False)
        files = {"pairs": tmp_path / f"{name}-pairs.csv", "labels": tmp_path / f"{name}.csv"}
        ablate(emb, tmp_path / f"{name}-grid", **files, **given)
        ensemble(tmp_path / f"{name}-grid", tmp_path / name, calibrate=True)
        tables.append(pd.read_csv(tmp_path / name / "predictions.csv"))
        if held is None:
            held = set(tables[0].query("fold == 'part 2 of 4'")["clip_id"])
            at = np.flatnonzero(clips["clip_id"].isin(held))
            values = values.copy()
            values[at] = np.roll(values[at], 2)
            out = frame["clip_a"].isin(held) | frame["clip_b"].isin(held)
            assert 0 < (frame["clip_a"].isin(held) & frame["clip_b"].isin(held)).sum() < out.sum()
            turned = frame.loc[out, "winner"].map({"a": "b", "b": "tie", "tie": "a"})
            frame.loc[out, "winner"], frame.loc[out, "weight"] = turned, 2.5
    mine = tables[0]["clip_id"].isin(held)
    for column in ("prediction", "std"):
        np.testing.assert_array_equal(*(one[column][mine] for one in tables))
    assert (tables[0]["prediction"][~mine] != tables[1]["prediction"][~mine]).any()
    found = json.loads((tmp_path / "a" / "metrics.json").read_text())["axes"]["quality"]
    assert {one["cell"]["loss"] for one in found["ensemble"]["saved"]} == set(given["loss"])
    ablate(emb, tmp_path / "alone", pairs=pairs_file, axis="quality", loss="bt", **QUICK, cv="4")
    with pytest.raises(QamroError, match="learns from pairs alone and scores in standard units"):
        ensemble(tmp_path / "alone", tmp_path / "c")


@pytest.mark.slow
def test_every_baseline_stands_beside_what_is_rated(emb, pairs_file, tmp_path):
    frame = pd.read_csv(pairs_file)
    frame = frame[frame["axis"] == "quality"].assign(axis="taste")
    frame.to_csv(tmp_path / "taste.csv", index=False)
    given = {"loss": "bt", "cv": "group", "baselines": "all", **QUICK}
    record = train(emb, tmp_path / "a", pairs=tmp_path / "taste.csv", axis="taste", **given)
    assert "pairs" in record["axes"]["taste"]
    record = train(emb, tmp_path / "b", pairs=pairs_file, axis="quality", **given)
    assert "Huber alone" in record["axes"]["quality"]["models"]


@pytest.mark.slow
def test_heads_stop_by_pairs(emb, pairs_file, tmp_path):
    record = train(
        emb, tmp_path / "run", pairs=pairs_file, loss="bt", cv="group", stop="inner", **QUICK
    )
    assert len(record["axes"]["quality"]["validation_loss"]) == 1


@pytest.mark.slow
def test_grids_take_pairs(emb, pairs_file, tmp_path):
    best = ablate(
        emb, tmp_path / "grid", pairs=pairs_file, axis="quality", cv="group",
        loss=["huber@standardized", "bt", "huber@standardized+bt"], seeds=1, epochs=2, widths=[4],
    )  # fmt: skip
    assert best
    frame = pd.read_csv(tmp_path / "grid" / "summary.csv")
    heads = frame[frame["model"] == "head"].set_index("loss")
    assert heads["clip_srcc"].notna().all()
    assert heads["clip_mse"].isna().to_dict()["bt"]
    assert heads["clip_mse"].notna().sum() == 2
    with pytest.raises(OptionError, match="learns from pairs"):
        ablate(emb, tmp_path / "other", loss="bt", cv="group")


@pytest.mark.slow
def test_the_commands(emb, tmp_path):
    run = CliRunner()
    out = run.invoke(cache_command, ["pairs", str(emb), "--out", str(tmp_path / "pairs.csv")])
    assert out.exit_code == 0, out.output
    assert " pairs, " in out.output
    again = ["--pairs", str(tmp_path / "pairs.csv"), "--loss", "bt", "--cv", "group"]
    quick = ["--epochs", "2", "--seeds", "1", "--widths", "4", "--axis", "quality"]
    out = run.invoke(
        train_command, ["--cache", str(emb), "--out", str(tmp_path / "run"), *again, *quick]
    )
    assert out.exit_code == 0, out.output
    plain = " ".join(out.output.split())
    assert "held-out pairs (" in plain
    assert "straddling" in plain
    (tmp_path / "mine.csv").write_text("my own\n")
    out = run.invoke(cache_command, ["pairs", str(emb), "--out", str(tmp_path / "mine.csv")])
    assert out.exit_code == 1
    assert (tmp_path / "mine.csv").read_text() == "my own\n"


def test_battles_of_json_lines(tmp_path):
    lines = [
        {"path_a": "s1/p1.wav", "path_b": "s2/p1.wav", "verdict": "left"},
        {"path_a": "s1/p2.wav", "path_b": "s2/p2.wav", "verdict": 0},
        {"path_a": "s1/p3.wav", "path_b": "s2/p3.wav", "verdict": "skip"},
        {"path_a": "s1/p3.wav", "path_b": "s2/p3.wav", "verdict": "B"},
    ]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = pairs_of_battles("verdicts", tmp_path)
    assert found["winner"].tolist() == ["a", "tie", "b"]
    assert found["clip_b"].tolist() == ["s2/p1.wav", "s2/p2.wav", "s2/p3.wav"]
    lines[1]["verdict"] = "hm"
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(QamroError, match="row 2: the verdict 'hm' is none of a, left"):
        pairs_of_battles("verdicts", tmp_path)


def test_a_battle_that_is_none_is_one_line(tmp_path):
    good = {"path_a": "x", "path_b": "y", "verdict": "a"}
    for change, said in (
        ({"path_b": "x"}, "row 2: clip 'x' is paired with itself"),
        ({"path_a": "x\ud800"}, "row 2: .* is not UTF-8"),
    ):
        lines = [good, {**good, **change}]
        (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, lines)))
        with pytest.raises(QamroError, match=said) as error:
            pairs_of_battles("verdicts", tmp_path)
        assert "\n" not in str(error.value)


def test_battles_of_models(tmp_path):
    (tmp_path / "battles.csv").write_text(
        "model_a,model_b,prompt_id,winner\nm1,m2,p1,m2\nm2,m1,p1,model_a\nm1,m3,p2,tie\n"
    )
    found = pairs_of_battles("battles", tmp_path)
    assert found["clip_a"].tolist() == ["m1/p1", "m2/p1", "m1/p2"]
    assert found["winner"].tolist() == ["b", "a", "tie"]


def test_a_verdict_of_two_meanings_is_refused(tmp_path):
    text = "model_a,model_b,prompt_id,winner\nm1,m2,p1,m2\n{},m2,p1,{}\n"
    for model, winner, said in (("m2", "m2", "'m2' is a and b"), ("tie", "tie", "'tie' is a and")):
        (tmp_path / "battles.csv").write_text(text.format(model, winner))
        with pytest.raises(QamroError, match=f"row 3: the verdict {said}"):
            pairs_of_battles("battles", tmp_path)


def test_sources_that_would_not_be_read_are_refused(emb, tmp_path):
    with pytest.raises(OptionError, match=r"battles is a description, and .*; name one"):
        write_pairs(["battles", emb], tmp_path / "pairs.csv")
    with pytest.raises(OptionError, match="--data-dir is for a description's files"):
        write_pairs([emb], tmp_path / "pairs.csv", tmp_path)


@pytest.mark.parametrize("path", ["/etc/*", "a**b/*"])
def test_a_pattern_of_no_folder_is_one_line(tmp_path, path):
    fields = "".join(f'{name} = "{name}"\n' for name in ("clip_a", "clip_b", "winner"))
    (tmp_path / "d.toml").write_text(f'path = "{path}"\n[fields]\n{fields}[winners]\na = "a"\n')
    with pytest.raises(QamroError, match=r"is no pattern of files in a folder"):
        pairs_of_battles(tmp_path / "d.toml")


def test_verdicts_that_somebody_collected_are_kept(emb, pairs_file, tmp_path):
    mine = tmp_path / "pairs.csv"
    first, *lines = pairs_file.read_text().splitlines()
    mine.write_text("\n".join([first, *lines[:5]]) + "\n")
    before = mine.read_bytes()
    with pytest.raises(QamroError, match="is there already, is no table of these pairs"):
        write_pairs([emb], mine)
    assert mine.read_bytes() == before
    assert write_pairs([emb], pairs_file)["pairs"] == len(lines), "the same once more"


def test_battles_as_music_arena_has_them(tmp_path):
    """Records of the form that its preprocessing writes; made up."""
    folder = tmp_path / "battle_data" / "01-2025JULAUG"
    folder.mkdir(parents=True)
    for k, (audio, vote) in enumerate([("a/1.mp3", "A"), ("", "B"), ("a/3.mp3", "BOTH_BAD"),
                                       ("a/4.mp3", None)]):  # fmt: skip
        record = {"audio_a": audio, "audio_b": f"b/{k}.mp3", "preference": vote,
                  "user_pseudonym": "u", "feedback": ""}  # fmt: skip
        (folder / f"{k}.json").write_text(json.dumps(record))
    found = pairs_of_battles("music-arena", tmp_path)
    assert found["clip_a"].tolist() == ["a/1.mp3", "a/3.mp3"]
    assert found["winner"].tolist() == ["a", "tie"]
    assert set(found["source"]) == {"music-arena"}


def test_a_description_that_means_nothing_is_one_line(tmp_path):
    text = 'path = "x.csv"\n[fields]\nclip_a = "{a}"\nclip_b = "{b}"\n[winners]\na = "1"\n'
    path = table(tmp_path, text, "mine.toml")
    with pytest.raises(QamroError, match="fields has no 'winner'"):
        pairs_of_battles(path)
    path = table(tmp_path, text.replace("[winners]", 'winner = "{v}"\n[winners]'), "mine.toml")
    with pytest.raises(QamroError, match=r"x.csv is not there; name the folder"):
        pairs_of_battles(path)
    (tmp_path / "x.csv").write_text("a,b,w\nx,y,1\n")
    with pytest.raises(QamroError, match="there is no column 'v'"):
        pairs_of_battles(path)


def test_axes_that_are_left_out_or_new_are_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, "qamro_cache")
    path = table(tmp_path, HEAD + "x,y,a,quality,\ny,x,b,Quality,\nx,z,a,Quality,\nx,y,a,match,\n")
    axes = (Axis("quality", 1.0, 5.0), Axis("match", 1.0, 5.0))
    labels = labels_from_means(axes, np.ones((4, 2)))
    pairs, _ = load_pairs(path, CLIPS, labels, ["quality"])
    assert len(pairs) == 1
    assert "2 pairs on axis 'Quality' are left out; did you mean 'quality'?" in caplog.text
    assert "1 pairs on axis 'match' are left out" in caplog.text
    assert len(load_pairs(path, CLIPS, labels, [])[0]) == 4
    said = (
        "2 pairs on axis 'Quality' are there, and no clip is rated on it; did you mean 'quality'?"
    )
    (told,) = [one.getMessage() for one in caplog.records if said in one.getMessage()]
    assert told.endswith("There are: quality, match")
    # What is misspelled is a warning, what is left out by --axis none.
    levels = {one.getMessage(): one.levelname for one in caplog.records}
    assert levels[told] == "WARNING"
    assert levels[f"{path}: 1 pairs on axis 'match' are left out"] == "INFO"


def test_pairs_of_which_none_can_be_used_are_one_line(tmp_path):
    labels = labels_from_means(
        (Axis("quality", 1.0, 5.0), Axis("match", 1.0, 5.0)), np.ones((4, 2))
    )
    path = table(tmp_path, HEAD + "x,y,a,qualty,\ny,x,b,qualty,\n")
    words = r"no pair is on an axis that is learned \(quality\): all are on qualty; .*'quality'\?$"
    with pytest.raises(QamroError, match=words):
        load_pairs(path, CLIPS, labels, ["quality"])
