"""What a head is held against: nearest clips, the encoder's own score, and the verdict in words."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from qamro_cache_cli.ablate import main as ablate_command
from qamro_cache_cli.train import main as train_command
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from synthetic_cache import write_synthetic

from qamro_cache import open_cache, train
from qamro_cache.evaluation.baselines import View, by_fold
from qamro_cache.evaluation.compare import paired_gap
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.kinds import Kind
from qamro_cache.evaluation.verdict import Model, verdicts
from qamro_cache.experiments.tables import Outcome, write_tables
from qamro_cache.heads import points
from qamro_cache.heads.points import COSTS, NEIGHBORS, fit_neighbors, fit_vectors

QUICK = ("--epochs", 3, "--widths", "8", "--lr", 0.01, "--seeds", 2, "--cv", "group")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("cache") / "emb.h5", own_score=True)


def run(command, *arguments):
    result = CliRunner().invoke(command, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    return result


def nearest_by_loops(x, y, blocks, groups, asked):
    """Leave a group out to choose k, then predict: a distance at a time."""
    std = x.std(0)
    std[std == 0] = 1
    scale = std * np.repeat(np.sqrt(blocks), blocks)
    rows, asked = (x - x.mean(0)) / scale, (asked - x.mean(0)) / scale

    def predicted(one, others, labels, k):
        return labels[np.argsort(cdist(one[None], others)[0])[:k]].mean()

    fewest = min((groups != g).sum() for g in groups)
    errors = {
        k: sum(
            (predicted(rows[i], rows[groups != groups[i]], y[groups != groups[i]], k) - y[i]) ** 2
            for i in range(len(y))
        )
        for k in NEIGHBORS
        if k <= fewest
    }
    k = min(errors, key=errors.get)
    return k, np.array([predicted(one, rows, y, k) for one in asked])


@pytest.mark.parametrize(("noise", "clips"), [(0.1, 50), (3.0, 50), (3.0, 9)])
def test_nearest_clips_against_a_loop(noise, clips):
    generator = np.random.default_rng(3)
    x = generator.normal(5, 3, (clips, 7)) * np.array([1, 1, 1, 1, 1, 1, 20.0])
    x[:, 4] = 2.0
    y = x[:, 0] + noise * generator.standard_normal(clips)
    fold = generator.integers(0, 3, clips)
    groups = generator.integers(0, 6, clips)
    y[4] = np.nan
    test = np.stack([fold == f for f in range(3)])
    got = by_fold(fit_neighbors, View(x, ~test, test, (2, 5), groups), y)
    chosen = set()
    for held in test:
        used = ~held & np.isfinite(y)
        k, want = nearest_by_loops(x[used], y[used], (2, 5), groups[used], x[held])
        chosen.add(k)
        np.testing.assert_allclose(got[held], want, rtol=1e-12)
    assert len(chosen - {1}) > 0


@pytest.mark.parametrize("copies", [False, True])
def test_nearest_clips_of_many_are_found_a_block_at_a_time(copies, monkeypatch):
    generator = np.random.default_rng(4)
    x = generator.standard_normal((300, 3))
    x = np.concatenate([x, x]) if copies else x
    y, groups = x[:, 0] + generator.standard_normal(len(x)), np.arange(len(x)) % 7
    wanted = nearest_by_loops(x, y, (3,), groups, x[:40] + 0.1)
    sizes, found = [], points.means_of_nearest

    def means(apart, *rest):
        sizes.append(apart.size)
        return found(apart, *rest)

    monkeypatch.setattr(points, "_BLOCK", 10_000)
    monkeypatch.setattr(points, "means_of_nearest", means)
    fitted = fit_neighbors(x, y, (3,), groups)
    assert fitted.k == wanted[0]
    np.testing.assert_allclose(fitted.predict(x[:40] + 0.1), wanted[1], rtol=1e-12)
    assert max(sizes) <= 10_000
    # Of more clips than distances are looked at, some choose.
    sizes.clear()
    monkeypatch.setattr(points, "_CHOICE", 20_000)
    fit_neighbors(x, y, (3,), groups)
    assert 15_000 < sum(sizes) <= 20_000


def test_nearest_clips_do_not_see_held_out_labels():
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=(40, 4)), generator.normal(size=40)
    test = np.arange(40)[None] < 12
    view = View(x, ~test, test, (4,))
    first = by_fold(fit_neighbors, view, y)
    y[test[0]] = generator.permutation(y[test[0]])
    np.testing.assert_array_equal(first, by_fold(fit_neighbors, view, y))
    # A single clip to learn from, and none.
    alone = np.arange(40)[None] == 20
    of_one = by_fold(fit_neighbors, view._replace(learned=alone), y)
    assert (of_one[test[0]] == y[20]).all()
    assert np.isnan(by_fold(fit_neighbors, view, np.full(40, np.nan))).all()


@pytest.fixture
def judged():
    generator = np.random.default_rng(0)
    return Judged(generator.normal(50, 10, 80), np.arange(80) % 10)


def model(name, judged, noise, seed=1):
    pred = judged.target + noise * np.random.default_rng(seed).standard_normal(80)
    return Model(name, name.partition(" ")[0], pred, spearmanr(pred, judged.target)[0])


def test_verdicts_say_what_the_intervals_say(judged):
    ours = model("ours", judged, 8)
    found = verdicts(
        ours,
        [model("ridge (b)", judged, 30), model("ridge (a)", judged, 8.2, 2),
         model("kNN", judged, 0.5), model("mos", judged, 60), model("train mean", judged, 99)],
        {"ridge", "mos"},
        judged,
    )  # fmt: skip
    assert [one["baseline"] for one in found] == ["ridge (a)", "kNN", "mos"]
    assert [one["beats"] for one in found] == [False, False, True]
    assert [one["highest"] for one in found] == [False, True, False]
    for one, theirs in zip(found, (8.2, 0.5, 60), strict=True):
        assert one["difference"] == pytest.approx(ours.value - one["value"])
        assert one["low"] <= one["difference"] <= one["high"], theirs
        assert one["within"] is None
    assert found[0]["words"].startswith("beats ridge (a): no (clip SRCC difference ")
    assert found[1]["words"].startswith("beats kNN: no, it is clearly lower (clip SRCC differ")
    assert found[2]["words"].startswith("beats mos: yes (clip SRCC difference .")


def test_a_verdict_needs_an_interval_and_a_figure(judged):
    ours, ridge = model("ours", judged, 5), model("ridge", judged, 6)
    (one,) = verdicts(ours, [ridge], {"ridge"}, replace(judged, interval=Kind("bootstrap", 0)))
    assert one["beats"] is None
    assert one["words"].startswith("beats ridge: not known, without an interval (clip SRCC diff")
    still = Model("ours", "", np.full(80, 3.0), float("nan"))
    (one,) = verdicts(still, [ridge], {"ridge"}, judged)
    assert (one["beats"], one["words"]) == (
        None, "beats ridge: not known, its clip SRCC is undefined",
    )  # fmt: skip
    assert verdicts(ours, [still], {"ours"}, judged) == []
    bare = Judged(judged.target, np.full(80, -1))
    (one,) = verdicts(ours, [ridge], {"ridge"}, bare)
    assert one["beats"] is not None


def test_a_verdict_within_groups(judged):
    grouped = replace(judged, group=np.arange(80) // 8, group_kind="song")
    ours, theirs = model("ours", judged, 8), model("ridge", judged, 30)
    (one,) = verdicts(ours, [theirs], {"ridge"}, grouped)
    within = one["within"]
    mine, ridge = (
        np.mean(
            [spearmanr(who.pred[at], judged.target[at])[0] for at in np.split(np.arange(80), 10)]
        )
        for who in (ours, theirs)
    )
    assert within["value"] == pytest.approx(ridge)
    assert within["difference"] == pytest.approx(mine - ridge)
    gap = paired_gap(ours.pred, theirs.pred, grouped, "group_srcc")
    assert (within["low"], within["high"]) == (gap.low, gap.high)
    assert within["beats"] is (gap.low > 0)
    said = "yes" if within["beats"] else "no"
    assert f"; within songs: {said} (" in one["words"]
    # Groups of one clip each tell nothing, and no word is lost on them.
    alone = replace(judged, group=np.arange(80))
    assert verdicts(ours, [theirs], {"ridge"}, alone)[0]["within"] is None


def test_train_holds_heads_against_the_encoders_own_score(cache, tmp_path):
    result = run(train_command, "--cache", cache, "--out", tmp_path / "run", *QUICK)
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    opened = open_cache(cache)
    windows, offsets, weights = (part.numpy() for part in opened.read("mos"))
    ok = np.flatnonzero(opened.clips["status"] == "ok")
    own = [np.average(windows[a:b, 0], weights=weights[a:b])
           for a, b in zip(offsets[ok], offsets[ok + 1], strict=True)]  # fmt: skip
    for index, (name, axis) in enumerate(record["axes"].items()):
        assert list(axis["models"]) == ["qamro head", "fake mos", "ridge", "kNN", "train mean"]
        figures = axis["models"]["fake mos"]["metrics"]
        want = spearmanr(own, opened.labels.mean[ok, index])[0]
        assert figures["clip_srcc"]["value"] == pytest.approx(want)
        # It is in units of its own.
        assert "clip_mse" not in figures
        assert "clip_mse_fit" in figures
        assert {"clip_mse", "clip_mae"} < set(axis["models"]["ridge"]["metrics"])
        assert [one["baseline"] for one in axis["verdicts"]][:2] == ["fake mos", "ridge"]
        for one in axis["verdicts"]:
            assert f"{name}: {one['words']}" in " ".join(result.stdout.split())


def test_a_score_of_the_encoder_does_not_move_the_heads(cache, tmp_path):
    without = write_synthetic(tmp_path / "without.h5")
    settings = {"epochs": 2, "widths": (8,), "seeds": 1, "cv": "3", "axis": "quality"}
    one, other = (
        train(path, tmp_path / name, **settings)["axes"]["quality"]["models"]
        for name, path in (("a", cache), ("b", without))
    )
    assert set(one) - set(other) == {"fake mos"}
    assert all(one[name] == other[name] for name in other)


def test_baselines_take_part_in_the_best_cell(cache, tmp_path):
    given = ("--cache", cache, "--out", tmp_path, *QUICK, "--axis", "quality", "--lr", "0.001,0.01")
    result = run(ablate_command, *given)
    best = json.loads((tmp_path / "best.json").read_text())["axes"]["quality"]
    table = pd.read_csv(tmp_path / "summary.csv")
    rows = table[~table["model"].isin(["head", "ceiling"])].set_index("model")
    top = rows["clip_srcc"].idxmax()
    assert best["baseline"]["baseline"] == top
    assert best["baseline"]["value"] == pytest.approx(rows["clip_srcc"].max())
    gap = best["clip_srcc"] - rows["clip_srcc"].max()
    assert best["baseline"]["difference"] == pytest.approx(gap)
    assert np.isnan(rows.loc["fake mos", "clip_mse"])
    assert {one["baseline"] for one in best["verdicts"]} == {"fake mos", "ridge", top}
    for one in best["verdicts"]:
        assert f"quality: this cell {one['words']}" in " ".join(result.stdout.split())


@pytest.mark.parametrize(("noise", "clear"), [(4.0, False), (60.0, True)])
def test_a_cell_below_ridge_is_not_clearly_best(judged, tmp_path, noise, clear):
    """Clearly above every other cell, and only then above what must be beaten."""
    cells = [({"lr": 0.1}, "head", 8.0), ({"lr": 0.2}, "head", 90.0), ({}, "ridge", noise)]
    judged = replace(judged, interval=Kind("bootstrap", 200))
    clips = pd.DataFrame({"clip_id": [f"c{k}" for k in range(80)]})
    outcomes = [
        Outcome(
            names, kind, "quality", [0], model(kind, judged, width).pred[None], judged, {},
            clips=clips,
        )
        for names, kind, width in cells
    ]  # fmt: skip
    best = write_tables(tmp_path, outcomes, {"synthetic": True})["axes"]["quality"]
    assert best["cell"] == {"lr": 0.1}
    assert best["not_told_apart"] == []
    assert best["clearly_best"] is clear
    assert best["baseline"]["baseline"] == "ridge"
    assert best["baseline"]["beats"] is clear
    from qamro_cache.reports.choice import choice_words

    told = "clearly above all others" if clear else "but not clearly above ridge"
    assert told in choice_words("quality", best)


def test_support_vectors_are_each_folds_own():
    """Against scikit-learn's pieces, the folds by a loop."""
    svm = pytest.importorskip("sklearn.svm")
    generator = np.random.default_rng(5)
    x = generator.normal(4, 3, (60, 5))
    y = 50 + 10 * np.tanh(x[:, 0] - 4) + generator.standard_normal(60)
    y[3] = np.nan
    groups, fold = np.arange(60) % 4, np.arange(60) // 4 % 3
    test = np.stack([fold == f for f in range(3)])
    got = by_fold(fit_vectors, View(x, ~test, test, (5,), groups), y)

    def fitted(c, rows, labels, asked):
        return svm.SVR(C=c).fit(rows, labels).predict(asked)

    for held in test:
        used = ~held & np.isfinite(y)
        mean, std = x[used].mean(0), x[used].std(0)
        rows, asked = ((x[part] - mean) / std / 5**0.5 for part in (used, held))
        labels = (y[used] - y[used].mean()) / y[used].std()
        errors = []
        for c in COSTS:
            parts = [groups[used] == g for g in range(4)]
            left = [fitted(c, rows[~p], labels[~p], rows[p]) - labels[p] for p in parts]
            errors.append(np.mean([(one**2).mean() for one in left]))
        best = COSTS[int(np.argmin(errors))]
        want = y[used].mean() + y[used].std() * fitted(best, rows, labels, asked)
        np.testing.assert_allclose(got[held], want, rtol=1e-9)


def test_all_baselines_on_demand(cache, tmp_path, monkeypatch, caplog):
    settings = {"epochs": 3, "widths": (8,), "lr": 0.01, "seeds": 2, "cv": "3", "axis": "quality"}
    pytest.importorskip("sklearn")
    one = train(cache, tmp_path / "a", baselines="all", **settings)["axes"]["quality"]
    plain = train(cache, tmp_path / "b", loss="huber@standardized", **settings)["axes"]["quality"]
    assert list(one["models"])[1] == "Huber alone"
    assert "SVR" in one["models"]
    theirs = plain["models"]["qamro head"]["metrics"]["clip_srcc"]
    assert one["models"]["Huber alone"]["metrics"]["clip_srcc"]["by_seed"] == theirs["by_seed"]
    assert "beats Huber alone" in one["verdicts"][0]["words"]
    # The loss is Huber alone already, and scikit-learn is not there.
    monkeypatch.setattr("qamro_cache.evaluation.baselines.find_spec", lambda name: None)
    monkeypatch.setattr("qamro_cache.encoders.support.find_spec", lambda name: None)
    given = {**settings, "loss": "huber@standardized", "baselines": "all", "overwrite": True}
    other = train(cache, tmp_path / "b", **given)["axes"]["quality"]
    assert set(other["models"]) == set(plain["models"])
    assert caplog.text.count("--baselines all without SVR: package sklearn is not") == 1


def test_all_baselines_of_a_grid_are_cells_of_huber_alone(cache, tmp_path):
    given = ("--cache", cache, "--out", tmp_path, *QUICK, "--axis", "quality",
             "--alpha", "0.1,0.5", "--dropout", "0,0.5", "--baselines", "all")  # fmt: skip
    run(ablate_command, *given)
    table = pd.read_csv(tmp_path / "summary.csv", keep_default_na=False)
    heads = table[table["model"] == "head"]
    assert len(heads) == 4 + 2
    plain = heads[heads["loss"] != ""]
    assert set(plain["loss"]) == {"huber@standardized"}
    assert set(plain["alpha"]) == {""}
    assert sorted(plain["dropout"].astype(float)) == [0, 0.5]
