"""Ensembles: who is chosen and by what, that the mean is what is saved, and what it gains."""

import importlib.util
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.modeled import model_ratings
from qamro_cache.datasets.options import RaterOptions
from qamro_cache.datasets.screening import Scores
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.ensembles import Chooser, average, gains
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.kinds import Kind
from qamro_cache.evaluation.nested import Inside
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.ensemble import ensemble
from qamro_cache.experiments.train import train
from qamro_cache.heads.file import load_head, save_head
from qamro_cache.heads.head import Ensemble
from qamro_cache.heads.trained import KNOWN
from qamro_cache.reports.report import report
from qamro_cache.scoring.predict import predict

CELLS = [
    {"head": "mlp", "widths": [8], "lr": 0.02, "epochs": 2},
    {"head": "ridge"},
    {"head": "knn"},
    {"head": "ridge", "feature": "layers"},
]


def write_grid(path):
    lines = ["seeds = 2"]
    for cell in CELLS:
        lines += ["[[cells]]", *(f"{name} = {json.dumps(value)}" for name, value in cell.items())]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data") / "emb.h5")


@pytest.fixture(scope="module")
def grid(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    toml = write_grid(folder / "grid.toml")
    ablate(cache, folder / "grid", grid=toml, cv="4", nested=True, over="system")
    return folder / "grid"


@pytest.fixture(scope="module")
def run(grid, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, ensemble(grid, folder, choose="greedy", members=6)


def by_hand(pred, labels, way, members):
    """Who is chosen, by loops."""

    def value(places):
        return spearmanr(np.mean([pred[k] for k in places], 0), labels)[0]

    alone = sorted(range(len(pred)), key=lambda k: -value([k]))
    if way == "top":
        return sorted(alone[:members])
    picks = [alone[0]]
    reached = [value(picks)]
    for _ in range(members - 1):
        picks.append(max(range(len(pred)), key=lambda k: value([*picks, k])))
        reached.append(value(picks))
    return sorted(picks[: int(np.argmax(reached)) + 1])


@pytest.mark.parametrize("way", ["top", "greedy"])
@pytest.mark.parametrize("members", [1, 3, 8])
def test_members_are_those_of_a_loop(way, members):
    rng = np.random.default_rng(members)
    labels = rng.standard_normal(50)
    pred = labels + 2 * rng.standard_normal((7, 50))
    times = Chooser(way, members).choose(pred, labels)
    assert np.repeat(np.arange(7), times).tolist() == by_hand(pred, labels, way, members)


def test_what_has_no_figure_is_not_chosen():
    labels = np.arange(20.0)
    pred = np.stack([np.ones(20), labels])
    for way in ("top", "greedy"):
        assert Chooser(way, 2).choose(pred, labels).tolist()[0] == 0
        assert not Chooser(way, 2).choose(pred[:1], labels).any()


def example(cells=5, groups=6, size=8, alike=False):
    rng = np.random.default_rng(8)
    group = np.repeat(np.arange(groups), size)
    labels = rng.standard_normal(len(group))
    test = group == np.arange(groups)[:, None]
    outer = labels + 2 * rng.standard_normal((cells, len(group)))
    inner = labels + 2 * rng.standard_normal((cells, groups, len(group)))
    if alike:
        outer[:], inner[:] = outer[0], inner[0]
    inner[:, test] = np.nan
    return (
        list(outer),
        [Inside(test, labels, one) for one in inner],
        Judged(labels, group, group=group),
    )


@pytest.mark.parametrize("way", ["top", "greedy"])
def test_of_equal_members_the_gain_is_zero(way):
    outer, inside, judged = example(alike=True)
    found, _ = average(outer, inside, Chooser(way, 4))
    assert found.times.sum(1).min() >= 1
    np.testing.assert_array_equal(found.pred, outer[0])
    for one in gains(found, judged).values():
        assert one["gain"] == 0
        assert np.isnan(one["low"]) or one["low"] <= 0 <= one["high"]


@pytest.mark.parametrize("way", ["top", "greedy"])
def test_each_fold_chooses_by_its_own_clips(way):
    outer, inside, judged = example()
    found, _ = average(outer, inside, Chooser(way, 3))
    test, labels = inside[0].test, inside[0].labels
    for fold, held in enumerate(test):
        seen = np.stack([one.pred[fold, ~held] for one in inside])
        picks = by_hand(seen, labels[~held], way, 3)
        np.testing.assert_allclose(found.pred[held], np.mean([outer[k][held] for k in picks], 0))
        single = by_hand(seen, labels[~held], "top", 1)[0]
        np.testing.assert_array_equal(found.single[held], outer[single][held])
    assert len({tuple(row) for row in found.times}) > 1, "folds that choose alike test little"
    told = gains(found, judged)
    mean = np.sum([held * labels[~held].mean() for held in test], 0)
    ours, theirs = found.pred - mean, found.single - mean
    wanted = spearmanr(ours, labels)[0] - spearmanr(theirs, labels)[0]
    assert told["centered_clip_srcc"]["gain"] == pytest.approx(wanted)
    error = np.mean((found.pred - labels) ** 2) - np.mean((found.single - labels) ** 2)
    assert told["clip_mse"]["gain"] == pytest.approx(error)


def test_what_only_knows_its_training_mean_gains_nothing():
    """Held-out predictions that follow the fold's training mean rank good groups last.

    An ensemble that follows it without noise is therefore below its noisy members as it comes.
    """
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(12), 10)
    test = group == np.arange(12)[:, None]
    plain, told = [], []
    for _ in range(100):
        labels = rng.standard_normal(12)[group] + rng.standard_normal(120)
        mean = np.sum([held * labels[~held].mean() for held in test], 0)
        inner = np.where(test, np.nan, mean + 0.1 * rng.standard_normal((4, *test.shape)))
        outer = mean + 0.1 * rng.standard_normal((4, 120))
        inside = [Inside(test, labels, one) for one in inner]
        found, _ = average(list(outer), inside, Chooser("top", 4))
        np.testing.assert_allclose(found.mean, mean)
        judged = Judged(labels, group, group=group, interval=Kind("bootstrap", 0))
        told.append(gains(found, judged)["centered_clip_srcc"]["gain"])
        plain.append(spearmanr(found.pred, labels)[0] - spearmanr(found.single, labels)[0])
    assert np.mean(plain) < -0.1
    assert abs(np.mean(told)) < 3 * np.std(told) / 10


def test_labels_that_raters_were_taken_out_of_gain_nothing_by_their_mean():
    """Heads that know the mean of modeled labels alone, without the offsets of groups' panels."""
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(12), 10)
    test = group == np.arange(12)[:, None]
    told = []
    for _ in range(60):
        modeled = rng.standard_normal(12)[group] + rng.standard_normal(120)
        labels = modeled + rng.standard_normal(12)[group]
        means = np.array([modeled[~held].mean() for held in test])
        inner = np.where(test, np.nan, means[:, None] + 0.1 * rng.standard_normal((4, *test.shape)))
        outer = means[group] + 0.1 * rng.standard_normal((4, 120))
        inside = [Inside(test, labels, one, mean=means) for one in inner]
        found, _ = average(list(outer), inside, Chooser("top", 4))
        judged = Judged(labels, group, group=group, interval=Kind("bootstrap", 0))
        told.append(gains(found, judged)["centered_clip_srcc"]["gain"])
    assert abs(np.mean(told)) < 3 * np.std(told) / 60**0.5


def test_gains_are_less_the_mean_of_what_heads_have_learned(tmp_path):
    """Without the panels' offsets that mean follows a group's plain labels, for better or worse.

    Calibrated, heads are on the scale of plain means, and so is the mean that is taken away.
    """
    cache, rng = write_synthetic(tmp_path / "emb.h5"), np.random.default_rng(1)
    opened = open_cache(cache)
    ids, group = opened.clips["clip_id"], opened.clips["group"].to_numpy(str)
    ok, truth = (opened.clips["status"] == "ok").to_numpy(), opened.labels.mean[:, 0]
    names = np.unique(group)
    panel, apart = {name: k % 4 for k, name in enumerate(names)}, 12 * rng.standard_normal(6)
    rows = [
        (clip, f"r{rater}", np.clip(0.5 * truth[k] + 25 + apart[rater], 0, 100))
        for k, clip in enumerate(ids)
        if ok[k]
        for rater in (panel[group[k]], panel[group[k]] + 1, panel[group[k]] + 2)
    ]
    table = pd.DataFrame(rows, columns=["clip_id", "rater", "quality"])
    table.to_csv(tmp_path / "mine.csv", index=False)
    lines = ["seeds = 1", *(f'[[cells]]\nhead = "{name}"' for name in ("ridge", "knn"))]
    (tmp_path / "grid.toml").write_text("\n".join([*lines, 'rater_model = "additive"']))
    given = {"labels": tmp_path / "mine.csv", "scale": "quality=0:100", "cv": "group"}
    more = {"interval": "bootstrap", "resamples": 0}
    ablate(cache, tmp_path / "grid", grid=tmp_path / "grid.toml", nested=True, **given, **more)
    plain = table.groupby("clip_id")["quality"].mean()
    of = pd.Series(group, ids)[plain.index].to_numpy(str)
    for calibrated in (False, True):
        run = tmp_path / f"run{calibrated}"
        record = ensemble(tmp_path / "grid", run, choose="top", members=2, calibrate=calibrated)
        pred = pd.read_csv(run / "predictions.csv").set_index("clip_id")["prediction"]
        center = {}
        for name in names:
            means = [plain[of != name].mean()] * 2
            if not calibrated:
                seen = table[~table["clip_id"].isin(plain.index[of == name])]
                clip, rater = (pd.factorize(seen[one])[0] for one in ("clip_id", "rater"))
                scores = Scores(clip, rater, seen["quality"].to_numpy())
                options = RaterOptions(rater_model="additive")
                made = model_ratings(scores, np.zeros(clip.max() + 1, bool), (0, 100), options)
                means[1] = made.mean.mean()
            center[name] = np.mean(means)
        if not calibrated:
            assert max(abs(center[name] - plain[of != name].mean()) for name in names) > 1
        value = spearmanr(pred[plain.index] - [center[name] for name in of], plain)[0]
        told = record["axes"]["quality"]["ensemble"]["gain"]["centered_clip_srcc"]
        assert told["ensemble"] == pytest.approx(value)


def test_the_file_is_the_mean_of_its_members(cache, run):
    folder, record = run
    head = load_head(folder)
    assert isinstance(head, Ensemble)
    assert len(head.members) > 1
    table = predict(folder, cache)
    for axis in ("quality", "match"):
        mine = table[table["axis"] == axis].set_index("clip_id")
        scores, weights = [], []
        for member, times in zip(head.members, head.times, strict=True):
            names = [one.axis.name for one in member.axes]
            if axis not in names:
                continue
            one = member.axes[names.index(axis)]
            for k in range(len(one.seeds)):
                params = {name: value[k : k + 1] for name, value in one.params.items()}
                alone = replace(member, axes=(replace(one, seeds=(k,), params=params),))
                scores.append(predict(alone, cache).set_index("clip_id")["prediction"])
                weights.append(times[names.index(axis)] / len(one.seeds))
        share = np.array(weights) / np.sum(weights)
        assert len(share) > 1
        wanted = sum(s * w for s, w in zip(scores, share, strict=True))
        np.testing.assert_allclose(mine["prediction"], wanted, rtol=1e-6)
        spread = sum(w * (s - wanted) ** 2 for s, w in zip(scores, share, strict=True))
        np.testing.assert_allclose(mine["std"], np.sqrt(spread / (1 - (share**2).sum())), rtol=1e-5)
        assert mine["trained_on"].isin(KNOWN).sum() == 39
        assert set(record["axes"][axis]["models"]) > {"ensemble", "best cell"}


def test_a_saved_cell_is_what_train_saves(cache, grid, run, tmp_path):
    """The members that are saved are refitted as qamro-train refits one recipe."""
    head = load_head(run[0])
    for member in head.members:
        cell = dict(member.training["cell"])
        name = member.axes[0].axis.name
        more = {} if cell["head"] in ("ridge", "knn", "svr") else {"seeds": 2}
        out = tmp_path / f"{cell['head']}{cell.get('feature', '')}"
        given = {n: v for n, v in cell.items() if n != "widths"}
        widths = {"widths": (8,)} if "widths" in cell else {}
        train(cache, out, cv="4", axis=name, **given, **widths, **more)
        mine, theirs = predict(member, cache), predict(out, cache)
        mine = mine[mine["axis"] == name]
        np.testing.assert_allclose(mine["prediction"], theirs["prediction"], rtol=1e-5)


def test_held_out_predictions_are_means_of_the_grids(cache, grid, tmp_path):
    record = ensemble(grid, tmp_path / "run", members=2)
    found = record["axes"]["quality"]["ensemble"]
    # Intervals are those of the grid.
    assert record["interval"] == {"name": "jackknife", "draws": 0, "over": "system"}
    signature = record["axes"]["quality"]["models"]["ensemble"]["signature"]
    assert "ci=jackknife:systems|" in signature
    assert sum(one["share"] for one in found["chosen"]) == pytest.approx(1)
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert set(table["seed"]) == {"mean"}
    assert table.groupby("axis").size().to_dict() == {"match": 39, "quality": 39}
    one = table[table["axis"] == "quality"]
    value = spearmanr(one["prediction"], one["target"])[0]
    models = record["axes"]["quality"]["models"]
    assert models["ensemble"]["metrics"]["clip_srcc"]["value"] == pytest.approx(value)
    best = json.loads((grid / "best.json").read_text())["axes"]["quality"]["nested"]["exact"]
    told = models["best cell"]["metrics"]["clip_srcc"]["value"]
    assert told == pytest.approx(best["value"])
    all_of = one["target"].sum()
    mean = [(all_of - held.sum()) / (39 - len(held)) for _, held in one.groupby("fold")["target"]]
    center = one["fold"].map(dict(zip(sorted(set(one["fold"])), mean, strict=True)))
    value = spearmanr(one["prediction"] - center, one["target"])[0]
    assert found["gain"]["centered_clip_srcc"]["ensemble"] == pytest.approx(value)
    # The run is one of qamro-train to whatever reads it.
    page = report(tmp_path / "run").read_text()
    assert "run of qamro-ensemble" in page
    assert "quality: what averaging gains" in page
    assert "Up to 2 of 4 cells, chosen the highest by heads inside" in page
    assert "Saved: 50 % head=" in page


def test_held_out_labels_do_not_move_predictions(cache, run, tmp_path):
    clips, values = open_cache(cache).clips, open_cache(cache).labels.mean[:, 0]
    folds = pd.read_csv(run[0] / "predictions.csv").set_index("clip_id")["fold"]
    names = folds[folds == "part 2 of 4"].index
    held = np.flatnonzero(clips["clip_id"].isin(names))
    tables = []
    for name, order in (("a", held), ("b", np.roll(held, 2))):
        other = values.copy()
        other[held] = values[order]
        table = clips[["clip_id", "system", "group"]].assign(quality=other)
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        ablate(
            cache, tmp_path / f"grid{name}", labels=tmp_path / f"{name}.csv", cv="4",
            scale=["quality=0:100"], head=["ridge", "knn", "linear"], epochs=1, seeds=1,
            resamples=0,
        )  # fmt: skip
        out = tmp_path / name
        ensemble(tmp_path / f"grid{name}", out, choose="greedy", members=3, calibrate=True)
        tables.append(pd.read_csv(out / "predictions.csv"))
    a, b = tables
    mine = a["fold"] == "part 2 of 4"
    assert mine.sum() == len(held)
    np.testing.assert_array_equal(a["prediction"][mine], b["prediction"][mine])
    np.testing.assert_array_equal(a["std"][mine], b["std"][mine])
    assert (a["prediction"][~mine] != b["prediction"][~mine]).any()


def test_a_fixed_split_saves_what_its_training_clips_chose(tmp_path):
    cache = write_synthetic(tmp_path / "split.h5", clips=60, split=True)
    data = open_cache(cache)
    held = np.flatnonzero(data.clips["split"] == "dev")
    heads = []
    for name, order in (("a", held), ("b", np.roll(held, 3))):
        values = data.labels.mean[:, 0].copy()
        values[held] = values[order]
        table = data.clips[["clip_id", "system", "group", "split"]].assign(quality=values)
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        ablate(
            cache, tmp_path / f"grid{name}", labels=tmp_path / f"{name}.csv", cv="split",
            scale=["quality=0:100"], head=["ridge", "knn", "svr"], resamples=0,
        )  # fmt: skip
        ensemble(tmp_path / f"grid{name}", tmp_path / name, members=2, calibrate=True)
        heads.append(predict(tmp_path / name, cache)["prediction"])
    np.testing.assert_array_equal(*heads)


def test_the_command_says_what_it_costs_and_what_it_gains(run, grid):
    from qamro_cache_cli.ensemble import main

    given = [str(grid), "--out", str(run[0]), "--choose", "greedy"]
    before = (run[0] / "head.safetensors").read_bytes()
    done = CliRunner().invoke(main, [*given, "--members", "6"])
    assert done.exit_code == 0, done.output
    # 4 parts, 6 pairs: a cell of 2 seeds and 3 of one, on 2 axes.
    assert "the choice: 60 heads inside the folds, beside the folds' own 40" in done.stderr
    said = " ".join(done.stdout.split())
    assert "clip SRCC gains" in said
    assert "SRCC within groups gains" in said
    assert "less the mean label of their fold's training clips" in said
    assert (run[0] / "head.safetensors").read_bytes() == before
    again = CliRunner().invoke(main, given)
    assert again.exit_code == 1
    assert "differs in members" in again.stderr


def test_what_is_no_grid_for_it_is_one_line(cache, grid, run, tmp_path):
    def said(folder, **options):
        with pytest.raises(QamroError) as caught:
            ensemble(folder, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "holds no finished grid of qamro-ablate" in said(tmp_path / "none")
    assert "is a run, no grid; name a folder of qamro-ablate" in said(run[0])
    assert "members must be at least 1, got 0" in said(grid, members=0)
    with pytest.raises(QamroError, match="holds the grid; name another folder"):
        ensemble(grid, grid)
    ablate(cache, tmp_path / "ways", cv=["2", "3"], head="ridge", axis="quality", resamples=0)
    assert "compares --cv 2, 3; an ensemble is chosen by one" in said(tmp_path / "ways")
    ablate(cache, tmp_path / "few", cv="3", clips=[0, 9], head="ridge", axis="quality", resamples=0)
    assert "sets clips, which makes a study of it" in said(tmp_path / "few")
    config = json.loads((tmp_path / "few" / "config.json").read_text())
    config["given"]["clips"] = [0]
    (tmp_path / "few" / "config.json").write_text(json.dumps(config))
    assert "are not those of its --grid any more" in said(tmp_path / "few")
    (tmp_path / "few" / "config.json").write_text("{")
    assert "cannot be read" in said(tmp_path / "few")


@pytest.mark.parametrize(
    "change",
    [
        {"times": ((1,),)}, {"times": ((0, 1), (1, 1))}, {"members": ()}, {"axes": ()},
    ],
)  # fmt: skip
def test_a_file_that_no_ensemble_was_saved_as_is_refused(run, tmp_path, change):
    head = load_head(run[0])
    two = (head.members[0], deepcopy(head.members[0]))
    good = replace(head, members=two, times=(head.times[0],) * 2,
                   axes=tuple(one.axis for one in two[0].axes), trained=None)  # fmt: skip
    save_head(tmp_path / "good.safetensors", good)
    assert len(load_head(tmp_path / "good.safetensors").members) == 2
    with pytest.raises(QamroError, match="damaged or not a head file"):
        save_head(tmp_path / "bad.safetensors", replace(good, **change))


def load_benchmark():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "ensembles.py"
    spec = importlib.util.spec_from_file_location("benchmarks_ensembles", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_printed_gain_is_the_gain_on_fresh_clips():
    module = load_benchmark()
    for row in ("equal 8x12", "uneven 8x12"):
        found = module.run_row(row, 40, 5, Chooser("greedy", 5))
        assert found["gain"]["printed_centered_clip_srcc"] > 0.01
        for figure in ("centered_clip_srcc", "centered_group_srcc", "clip_mse"):
            apart = found["printed_less"][f"fresh_{figure}"]
            assert abs(apart["mean"]) < 3 * apart["standard_error"]
    same = module.run_row("identical 8x12", 3, 5, Chooser("top", 5))
    assert same["gain"]["printed_centered_clip_srcc"] == 0
