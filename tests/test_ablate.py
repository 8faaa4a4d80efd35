"""Grids: their cells, tables, comparison with single runs, and going on after a kill."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.stats import kendalltau, pearsonr, spearmanr
from synthetic_cache import write_synthetic

from qamro_cache.cache.content import clip_table
from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.raters import subsampled
from qamro_cache.datasets.records import labels_from_means
from qamro_cache.errors import QamroError
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.grid import Grid, cells_of, override, read_grid
from qamro_cache.experiments.request import ablate_request
from qamro_cache.experiments.store import keep_stack, read_stacks
from qamro_cache.experiments.train import train
from qamro_cache.training.schedule import Schedule, comparable_pairs, pair_coverage

QUICK = {"epochs": 3, "widths": (8,), "lr": 0.01}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("cache") / "emb.h5")


def run(*arguments):
    from qamro_cache_cli.ablate import main

    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_cells_and_their_tables(cache, tmp_path):
    grid = Grid({"alpha": [0.1, 0.5], "beta": [3.0, 7.0]}, [{"loss": "huber"}], QUICK)
    best = ablate(cache, tmp_path, grid=grid, seeds=2, cv="group", resamples=50)
    results = pd.read_csv(tmp_path / "results.csv")
    heads = results[results["model"] == "head"]
    assert len(heads) == 5 * 2 * 2
    assert list(heads.columns[:3]) == ["alpha", "beta", "loss"]
    assert (heads["clips"] == 39).all()
    assert (heads["best_epoch"] == 3).all()
    assert (heads["pair_coverage"] == 1).all(), "whole folds are one batch"
    # One cell by another way: the same recipe through train().
    for alpha, beta in ((0.1, 7.0), (0.5, 3.0)):
        train(
            cache, tmp_path / "one", cv="group", seeds=2, alpha=alpha, beta=beta, overwrite=True,
            resamples=0, **QUICK,
        )  # fmt: skip
        table = pd.read_csv(tmp_path / "one" / "predictions.csv")
        for (axis, seed), rows in table.groupby(["axis", "seed"]):
            mine = heads[
                (heads["alpha"] == alpha) & (heads["beta"] == beta)
                & (heads["axis"] == axis) & (heads["seed"] == seed)
            ].iloc[0]  # fmt: skip
            p, y = rows["prediction"], rows["target"]
            systems = rows.groupby("system")[["prediction", "target"]].mean().to_numpy().T
            for name, expected in (
                ("clip_mse", ((p - y) ** 2).mean()),
                ("clip_lcc", pearsonr(p, y)[0]),
                ("clip_srcc", spearmanr(p, y)[0]),
                ("clip_ktau", kendalltau(p, y)[0]),
                ("system_srcc", spearmanr(*systems)[0]),
            ):
                assert mine[name] == pytest.approx(expected, abs=1e-4), name
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert len(summary) == 2 * (5 + 3 + 1)
    for axis, one in best["axes"].items():
        (row,) = summary[(summary["axis"] == axis) & (summary["model"] == "ceiling")].to_dict(
            "records"
        )
        assert row["clip_srcc"] == pytest.approx(one["ceiling"]["figures"]["clip_srcc"])
        assert (row["clips"], one["ceiling"]["raters"]) == (39, 4)
    for _, row in summary[summary["model"] == "head"].iterrows():
        cell = heads[heads["axis"] == row["axis"]]
        for name in ("alpha", "beta", "loss"):
            same = cell[name].isna() if pd.isna(row[name]) else cell[name] == row[name]
            cell = cell[same]
        assert row["clip_srcc_seeds_mean"] == pytest.approx(cell["clip_srcc"].mean())
        assert row["clip_srcc_seeds_std"] == pytest.approx(cell["clip_srcc"].std(ddof=1))
    # The last cell that was trained alone: the figure of the seeds' averaged prediction.
    mean = table.groupby(["axis", "clip_id"])[["prediction", "target"]].mean()
    for axis, rows in mean.groupby("axis"):
        (row,) = summary[
            (summary["alpha"] == alpha) & (summary["beta"] == beta) & (summary["axis"] == axis)
        ].to_dict("records")
        assert row["clip_srcc"] == pytest.approx(spearmanr(*rows.to_numpy().T)[0], abs=1e-4)
    of_best(cache, tmp_path, best)
    chosen = best["axes"]["quality"]
    top = summary[(summary["axis"] == "quality") & (summary["model"] == "head")]
    assert chosen["clip_srcc"] == pytest.approx(top["clip_srcc"].max())
    assert json.loads((tmp_path / "best.json").read_text())["synthetic"] is True


def of_best(cache, folder, best):
    """Hold the predictions of the highest cells against those of train(), cell by cell."""
    table = pd.read_csv(folder / "predictions.csv")
    for axis, one in best["axes"].items():
        names = {k: v for k, v in one["cell"].items() if v is not None}
        train(cache, folder / "best", cv="group", seeds=2, axis=axis, resamples=0, **names, **QUICK)
        alone = pd.read_csv(folder / "best" / "predictions.csv")
        shutil.rmtree(folder / "best")
        mine = table[table["axis"] == axis].reset_index(drop=True)
        keys = ["seed", "clip_id"]
        alone = alone.sort_values(keys).reset_index(drop=True)
        mine = mine.sort_values(keys).reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, alone[mine.columns], atol=1e-4)
    assert len(table) == 2 * 2 * 39


def test_ways_to_hold_clips_out_are_a_dimension(cache, tmp_path):
    one = {"alpha": [0.1, 0.5]}
    grid = Grid({**one, "cv": ["group", "3"]}, (), QUICK)
    best = ablate(cache, tmp_path / "both", grid=grid, seeds=2, axis=["quality"], resamples=50)
    table = pd.read_csv(tmp_path / "both" / "summary.csv", dtype={"cv": str})
    assert table.groupby("cv").size().to_dict() == {"group": 6, "3": 6}, "baselines, ceiling"
    for cv in ("group", "3"):
        alone = ablate(
            cache, tmp_path / cv, grid=Grid(one, (), QUICK), cv=cv, seeds=2, axis=["quality"],
            resamples=50,
        )  # fmt: skip
        single = pd.read_csv(tmp_path / cv / "summary.csv")
        pd.testing.assert_frame_equal(
            table[table["cv"] == cv].drop(columns="cv").reset_index(drop=True), single, atol=1e-6
        )
        mine, theirs = best["axes"][f"quality, cv {cv}"], alone["axes"]["quality"]
        assert mine["cell"] == {**theirs["cell"], "cv": cv}
    result = run("--cache", cache, "--out", tmp_path / "both", "--cv", "group,3", "--alpha",
                 "0.1,0.5", "--seeds", 2, "--axis", "quality", "--epochs", 3, "--widths", "8",
                 "--lr", 0.01, "--resamples", 0)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "quality, cv group: highest" in result.stdout
    assert "quality, cv 3: highest" in result.stdout


def test_the_table_says_what_is_not_told_apart(cache, tmp_path):
    # The last cell learns next to nothing.
    cells = [{"lr": 0.01}, {"lr": 0.02}, {"lr": 1e-9}]
    arguments = ["--cache", cache, "--cv", "group", "--seeds", 1, "--axis", "quality", "--lr",
                 "0.01,0.02,1e-9", "--epochs", 40, "--widths", "8", "--out", tmp_path]  # fmt: skip
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    summary = pd.read_csv(tmp_path / "summary.csv")
    heads = summary[summary["model"] == "head"].set_index("lr")
    assert list(heads.index) == [one["lr"] for one in cells]
    best = json.loads((tmp_path / "best.json").read_text())["axes"]["quality"]
    alike = {one["cell"]["lr"]: one for one in best["not_told_apart"]}
    assert set(alike) | {best["cell"]["lr"]} == {0.01, 0.02}
    assert best["clearly_best"] is (not alike)
    assert heads.loc[1e-9, "mcs_p"] < 0.05
    assert heads.loc[best["cell"]["lr"], "mcs_p"] == best["mcs_p"] == 1
    for lr, one in alike.items():
        assert heads.loc[lr, "mcs_p"] == pytest.approx(one["mcs_p"])
        assert one["gap_95"][0] < best["clip_srcc"] - one["clip_srcc"] < one["gap_95"][1]
    assert summary[summary["model"] != "head"]["mcs_p"].isna().all()
    words = "over systems and groups; of these heads, trained on the same systems: expect worse on "
    words += "new ones"
    assert set(summary["population"].dropna()) == {best["population"]} == {words}
    assert f"not told apart at 95 %: {len(alike) + 1} of 3 cells" in result.stdout
    assert "95 % intervals over systems and groups; of these heads" in result.stdout
    assert "|ci=jackknife:systems+groups|" in result.stdout
    again = [*arguments, "--resamples", 0]
    told = " ".join(run(*again).stdout.split())
    assert "nothing tells the 3 cells apart: there are no intervals" in told
    wrong = run(*again, "--interval", "jackknife")
    assert wrong.exit_code == 2
    assert "--resamples is for --interval bootstrap" in wrong.stderr


def test_what_is_done_is_not_trained_again(cache, tmp_path, monkeypatch):
    grid = Grid({"alpha": [0.1, 0.5]}, (), QUICK)
    ablate(cache, tmp_path, grid=grid, seeds=1, cv="3", axis=["match"], resamples=0)
    before = (tmp_path / "results.csv").read_bytes()
    trained = []
    from qamro_cache.experiments import missing as module

    real = module.stacks

    def counting(material, targets, folds, jobs, **options):
        trained.append(len(jobs))
        return real(material, targets, folds, jobs, **options)

    monkeypatch.setattr(module, "stacks", counting)
    ablate(cache, tmp_path, grid=grid, seeds=1, cv="3", axis=["match"], resamples=0)
    assert trained == []
    assert (tmp_path / "results.csv").read_bytes() == before
    # A cell and a seed more: only these. Other folds, labels or settings: all again.
    more = Grid({"alpha": [0.1, 0.5, 0.9]}, (), QUICK)
    ablate(cache, tmp_path, grid=more, seeds=2, cv="3", axis=["match"], resamples=0)
    assert trained == [3 * (3 * 2 - 2)]
    ablate(cache, tmp_path, grid=grid, seeds=1, cv="4", axis=["match"], resamples=0)
    other = Grid({"alpha": [0.1, 0.5]}, (), {**QUICK, "epochs": 4})
    ablate(cache, tmp_path, grid=other, seeds=1, cv="3", axis=["match"], resamples=0)
    assert trained[1:] == [8, 6]
    done = set((tmp_path / "done").glob("*.safetensors"))
    # Other embeddings behind the same names, from the same encoder: all again.
    again = write_synthetic(tmp_path / "again.h5", factor=2.0)
    ablate(again, tmp_path, grid=grid, seeds=1, cv="3", axis=["match"], resamples=0)
    assert trained.pop() == 6
    for path in set((tmp_path / "done").glob("*.safetensors")) - done:
        path.unlink()
    # A damaged file is trained again, the others are not.
    kept = sorted((tmp_path / "done").glob("*.safetensors"))
    kept[0].write_bytes(kept[0].read_bytes()[:200])
    ablate(cache, tmp_path, grid=more, seeds=2, cv="3", axis=["match"], resamples=0)
    ablate(cache, tmp_path, grid=grid, seeds=1, cv="4", axis=["match"], resamples=0)
    ablate(cache, tmp_path, grid=other, seeds=1, cv="3", axis=["match"], resamples=0)
    assert 0 < sum(trained[3:]) <= 18


def test_a_kept_stack_is_as_it_was_written_or_trained_again(tmp_path, caplog):
    rng = np.random.default_rng(0)
    results = {
        "predictions": rng.standard_normal((2, 7)),
        "best_epoch": np.array([3, 4]),
        "diverged": np.array([False, True]),
        "stability": rng.standard_normal(2),
        "preference": rng.standard_normal((2, 2)),
    }
    kept = set()
    for _ in range(20):
        keep_stack(tmp_path, ["a", "b"], results)
        kept.add(next(tmp_path.glob("*.safetensors")).read_bytes())
    assert len(kept) == 1
    (path,) = tmp_path.glob("*.safetensors")
    raw = path.read_bytes()
    whole = read_stacks(tmp_path, 7)
    assert list(whole) == ["a", "b"]
    np.testing.assert_array_equal(whole["b"]["predictions"], results["predictions"][1])
    assert read_stacks(tmp_path, 8) == {}
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :])
        found = read_stacks(tmp_path, 7)
        # A blank of the header's padding may change, no number may.
        assert not found or all(
            np.array_equal(found[key][name], whole[key][name])
            for key in ("a", "b")
            for name in results
        )
        path.write_bytes(raw[:place])
        assert read_stacks(tmp_path, 7) == {}
    assert "its checksum is wrong" in caplog.text


def test_a_killed_grid_goes_on(cache, tmp_path):
    """SIGKILL while stacks finish, then the same command: the same table as undisturbed."""
    arguments = [
        "--cache", str(cache), "--alpha", "0.1,0.2,0.3", "--batch-size", "5,6,7,8,9,10",
        "--batches", "shared", "--axis", "quality", "--epochs", "6", "--widths", "8",
        "--lr", "0.01", "--seeds", "2", "--cv", "3", "--resamples", "0",
    ]  # fmt: skip
    code = "from qamro_cache_cli.ablate import main; main()"
    command = [sys.executable, "-c", code, *arguments, "--out", str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    done = tmp_path / "killed" / "done"
    deadline = time.monotonic() + 600
    while not (done.is_dir() and list(done.glob("*.safetensors"))):
        assert time.monotonic() < deadline and process.poll() is None  # noqa: PT018
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in done.glob("*.safetensors")}
    assert not (tmp_path / "killed" / "results.csv").exists(), "it was over before the kill"
    assert run(*arguments, "--out", tmp_path / "killed").exit_code == 0
    for name, when in kept.items():
        assert (done / name).stat().st_mtime_ns == when
    assert run(*arguments, "--out", tmp_path / "whole").exit_code == 0
    tables = [pd.read_csv(tmp_path / name / "results.csv") for name in ("killed", "whole")]
    pd.testing.assert_frame_equal(*tables)


def test_caches_of_two_encoders_are_compared_on_the_same_clips(cache, tmp_path):
    other = write_synthetic(tmp_path / "other.h5", clips=35, name="other")
    grid = Grid({}, (), QUICK)
    ablate([cache, other], tmp_path / "out", grid=grid, seeds=1, cv="group", resamples=0)
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert set(table["encoder"]) == {"fake", "other"}
    assert (table["clips"] == 34).all()


def test_the_order_of_clips_in_a_cache_moves_no_figure(cache, tmp_path):
    """Caches of one set by two encoders, whose files are given in different orders."""
    more, *others = [
        write_synthetic(tmp_path / f"{prefix}{name}.h5", seed=seed, prefix=prefix, name=name)
        for prefix, seed, name in (("b", 1, "fake"), ("clip", 0, "other"), ("b", 1, "other"))
    ]
    figures = []
    for order in (others, others[::-1]):
        out = tmp_path / order[0].stem
        ablate(
            [cache, more, *order], out, grid=Grid({}, (), QUICK), seeds=1, cv="group", resamples=0
        )
        table = pd.read_csv(out / "summary.csv")
        figures.append(table[table["model"].isin(["head", "ridge"])]["clip_srcc"])
    np.testing.assert_allclose(figures[0], figures[1], atol=1e-5)


def test_cells_that_read_prompts_and_cells_that_do_not_are_judged_on_the_same_clips(
    tmp_path, monkeypatch
):
    def with_gaps(frame):
        return clip_table(frame.assign(prompt=frame["prompt"].where(frame.index > 3, "")))

    monkeypatch.setattr("synthetic_cache.clip_table", with_gaps)
    some = write_synthetic(tmp_path / "some.h5")
    grid = Grid({"inputs": ["audio", "concat"]}, (), QUICK)
    ablate(some, tmp_path / "out", grid=grid, seeds=1, cv="3", resamples=0)
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert set(table["clips"]) == {36}


def test_baselines_say_which_feature_they_read(cache, tmp_path):
    audiobox = {"feature": "layers", "head": "audiobox", "widths": []}
    grid = Grid({"feature": ["embedding"]}, [audiobox], {"epochs": 1})
    ablate(cache, tmp_path, grid=grid, seeds=1, cv="3", resamples=0)
    table = pd.read_csv(tmp_path / "summary.csv")
    ridge = table[(table["model"] == "ridge") & (table["axis"] == "quality")]
    assert sorted(ridge["feature"]) == ["embedding", "layers"]


def test_diverged_cells_are_marked(cache, tmp_path):
    grid = Grid({"lr": [0.01, 1e30]}, (), {"epochs": 3, "widths": (8,)})
    best = ablate(cache, tmp_path, grid=grid, seeds=1, cv="3", resamples=20)
    table = pd.read_csv(tmp_path / "summary.csv")
    mean = table[table["model"] == "train mean"].set_index("axis")
    table = table[table["model"] == "head"].set_index("lr")
    assert (table.loc[1e30, "diverged"] == 3).all()
    assert (table.loc[0.01, "diverged"] == 0).all()
    # They count with the mean of what they learned from, and no row loses a clip by them.
    assert (table["clips"] == 39).all()
    diverged = table.loc[1e30].set_index("axis")["clip_mse"]
    pd.testing.assert_series_equal(diverged, mean["clip_mse"], check_like=True, rtol=1e-6)
    assert best["axes"]["quality"]["cell"] == {"lr": 0.01}
    alone = Grid({"lr": [1e30]}, (), {"epochs": 3, "widths": (8,)})
    best = ablate(cache, tmp_path / "alone", grid=alone, seeds=1, cv="3", resamples=20)
    assert best["axes"]["quality"]["reason"] == "every cell has heads that diverged"


def test_fewer_raters(cache, tmp_path):
    labels = open_cache(cache).labels
    for axis in (0, 1):
        one, three, five = (subsampled(labels, axis, n, seed=7).mean[:, 0] for n in (1, 3, 5))
        np.testing.assert_allclose(five, labels.mean[:, axis])
        ratings = labels.ratings
        for clip in range(5):
            mine = ratings.score[(ratings.clip == clip) & (ratings.axis == axis)]
            assert one[clip] in mine
            sums = [np.mean(c) for c in itertools.combinations(mine, 3) if one[clip] in c]
            assert np.isclose(sums, three[clip]).any(), "one's rating is among three's"
        assert (one != subsampled(labels, axis, 1, seed=8).mean[:, 0]).any()
    grid = Grid({"raters": [1, 0]}, (), QUICK)
    ablate(cache, tmp_path, grid=grid, seeds=2, cv="3", resamples=0, axis=["quality"])
    table = pd.read_csv(tmp_path / "results.csv")
    assert set(table[table["model"] == "head"]["raters"]) == {0, 1}
    # Both are judged by the labels of all raters.
    assert len(table[table["model"] == "ridge"]) == 1


def test_pair_coverage_against_a_loop():
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, 23).astype(float)
    labels[2] = np.nan
    train_mask = random.random(23) < 0.8
    schedule = Schedule((np.arange(23),), (5,), 6, 23, 2)
    pairs = {
        (i, j)
        for i, j in itertools.combinations(range(23), 2)
        if train_mask[i] and train_mask[j] and labels[i] != labels[j]
        and np.isfinite(labels[[i, j]]).all()
    }  # fmt: skip
    known = np.where(train_mask, labels, np.nan)
    assert comparable_pairs(known) == len(pairs)
    seen = 0
    for epoch in range(3):
        for clips, _ in schedule.epoch(epoch):
            seen += sum((min(p), max(p)) in pairs for p in itertools.combinations(clips[0], 2))
    coverage = pair_coverage(schedule, 0, labels, train_mask, 3)
    assert coverage == pytest.approx(seen / len(pairs) / 3 / 2)
    assert 0.1 < coverage < 0.4


def test_batch_size_study_reports_stability(cache, tmp_path):
    result = run(
        "--cache", cache, "--out", tmp_path, "--grid", "batch_size", "--batch-size", "4,64",
        "--epochs", 4, "--seeds", 1, "--axis", "quality", "--widths", "8", "--cv", "3",
        "--resamples", 0,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "summary.csv")
    table = table[table["model"] == "head"].set_index("batch_size")
    assert table.loc[64, "pair_coverage"] == 1
    assert 0 < table.loc[4, "pair_coverage"] < 0.3
    assert table["stability"].between(-1, 1).all()
    config = json.loads((tmp_path / "config.json").read_text())
    assert {cell["recipe"]["batches"] for cell in config["cells"]} == {"own"}
    assert "synthetic data" in result.stdout


def test_shipped_grids_are_grids():
    folder = Path(str(files("qamro_cache_data"))) / "grids"
    sizes = {path.stem: len(cells_of(read_grid(path))) for path in folder.glob("*.toml")}
    assert sizes == {
        "alpha_beta": 13, "batch_size": 4, "encoders": 2, "losses": 12, "annotation_noise": 12,
        "recipe": 8, "members": 9, "clips": 8, "systems": 5, "raters": 5, "transfer": 8,
    }  # fmt: skip
    assert "alpha_beta" in run("--list-grids").stdout


def test_command_line_values_replace_those_of_a_grid():
    grid = Grid({"alpha": [0.1, 0.2], "beta": [3.0, 5.0]}, (), {"lr": 0.1})
    changed = override(grid, {"alpha": [0.7], "lr": [0.2, 0.3]})
    assert dict(changed.values) == {"beta": [3.0, 5.0], "lr": [0.2, 0.3]}
    assert {str(cell.recipe.loss) for cell in cells_of(changed)} == {
        "huber@standardized+qamro(alpha=0.7,beta=3)@standardized",
        "huber@standardized+qamro(alpha=0.7,beta=5)@standardized",
    }


def test_python_does_what_the_command_does(cache, tmp_path):
    """A grid's own seeds, cv, stop and axis count in both, and options replace them in both."""
    (tmp_path / "grid.toml").write_text(
        'seeds = 1\ncv = "3"\nstop = "inner"\naxis = ["match"]\n'
        '[grid]\nloss = ["huber", "huber(delta=2)+margin(width=0.5)"]\nlr = [0.01]\n'
        "[settings]\nepochs = 3\nwidths = [8]\n"
    )
    options = {"loss": ["huber(delta=0.5)", "qamro(alpha=0.1,beta=3)"], "resamples": 20, "lr": 0.02}
    ablate(cache, tmp_path / "python", grid=tmp_path / "grid.toml", **options)
    result = run("--cache", cache, "--out", tmp_path / "command", "--grid", tmp_path / "grid.toml",
                 "--loss", "huber(delta=0.5),qamro(alpha=0.1,beta=3)", "--resamples", 20,
                 "--lr", 0.02)  # fmt: skip
    assert result.exit_code == 0, result.output
    for name in ("results.csv", "summary.csv", "best.json", "config.json"):
        mine, theirs = (tmp_path / way / name for way in ("python", "command"))
        assert mine.read_bytes() == theirs.read_bytes()
    table = pd.read_csv(tmp_path / "python" / "results.csv")
    assert set(table["axis"]) == {"match"}
    assert set(table["seed"]) == {0}
    assert len(table[table["model"] == "head"]) == 2
    config = json.loads((tmp_path / "python" / "config.json").read_text())
    assert config["materials"][0]["split"].startswith("3 random parts")
    assert table["stability"].notna().any(), "an inner validation set stopped the heads"
    with pytest.raises(QamroError, match=r"no option 'seed'; did you mean 'seeds'\?"):
        ablate(cache, tmp_path / "other", seed=3)
    assert "alpha: QAMRO's margin" in ablate.__doc__


def test_options_replace_what_cells_say_and_cells_alone_are_all():
    grid = Grid({}, [{"alpha": 0.9, "lr": 0.1}, {"lr": 0.2}])
    assert len(cells_of(grid)) == 2, "no cell that nobody asked for"
    changed = cells_of(override(grid, {"alpha": 0.1}))
    assert {dict(cell.recipe.loss.terms[1].parameters)["alpha"] for cell in changed} == {0.1}
    with pytest.raises(QamroError, match="no setting 'learning'"):
        cells_of(Grid({"learning": [1]}))
    assert len(cells_of(Grid({"lr": 0.1}))) == 1, "a single value is a list of one"


def test_a_default_way_to_hold_out_is_named_as_it_came_out(cache, tmp_path):
    best = ablate(
        cache, tmp_path, grid=Grid({"cv": ["", "4"]}, (), QUICK), seeds=1, axis="quality",
        resamples=0,
    )  # fmt: skip
    assert set(best["axes"]) == {"quality, cv group", "quality, cv 4"}
    table = pd.read_csv(tmp_path / "summary.csv", dtype={"cv": str})
    assert set(table["cv"]) == {"group", "4"}


def test_a_parameter_goes_to_the_losses_that_take_it():
    shared = Grid({}, [{"loss": "huber"}, {"loss": "huber+qamro"}], {"alpha": 0.4})
    assert [str(cell.recipe.loss) for cell in cells_of(shared)] == [
        "huber@raw", "huber@raw+qamro(alpha=0.4)@raw",
    ]  # fmt: skip
    with pytest.raises(QamroError, match="no loss of the grid has a parameter width"):
        cells_of(Grid({}, (), {"width": 0.4}))
    with pytest.raises(QamroError, match="no term of the loss 'huber' takes it"):
        cells_of(Grid({"alpha": [0.1, 0.2]}, (), {"loss": "huber"}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds = 'x'", "grid.toml: seeds must be a whole number, got 'x'"),
        ("axis = 1", "axis must be a list of values, got 1"),
        ("stop = true", "stop must be text, got True"),
        ("cv = 0.5", "grid.toml: .*cv must be text, got 0.5"),
        ("cells = 3", "cells must be tables"),
        ("[[cells]]\nlr = [1, 2]", "lr must be a number, got \\[1, 2\\]"),
        ("grid = 3", "grid must be a table"),
        ("[settings]\nwidths = 8", "widths must be a list of values, got 8"),
        ("[grid]\nlr = [true]", "lr must be a number, got True"),
        ("[grid]\nlr = []", "no values for lr"),
        ("[grid]\nlr = ['0.1']", "lr must be a number, got '0.1'"),
        ("[grid]\nlearning_rate = [1]", "there is no setting 'learning_rate'"),
        ("[grid]\nbatch_siz = [1]", "did you mean 'batch_size'"),
        ("[settings.widths]\na = 1", "widths must be a list of values"),
        ("x = " + "[" * 2000, "too deep"),
    ],
)
def test_what_a_grid_file_gets_wrong_is_one_line(tmp_path, text, words):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(QamroError, match=words) as found:
        ablate_request(tmp_path / "none.h5", tmp_path / "out", path, {})
    assert "\n" not in str(found.value)


def test_mistakes_are_one_line(cache, tmp_path):
    (tmp_path / "bad.toml").write_text("[grid]\ngamma = [1]\n")
    (tmp_path / "worse.toml").write_text("[grid\n")
    for arguments, words in (
        (["--grid", tmp_path / "bad.toml"], "gamma"),
        (["--grid", tmp_path / "worse.toml"], "worse.toml"),
        (
            ["--grid", "alpha_bta"],
            "losses, members, raters, recipe, systems, transfer; did you mean 'alpha_beta'?",
        ),
        (["--cv", "group,song"], "song"),
    ):
        result = run("--cache", cache, "--out", tmp_path / "out", *arguments)
        assert result.exit_code == (1 if ".toml" in str(arguments) else 2), result.output
        assert words in result.stderr.strip().splitlines()[-1]
    for values in ("x", "0.1,-1", "0.1,", "0.1,0.2)", "0.1,0.1"):
        result = run("--cache", cache, "--out", tmp_path / "out", "--alpha", values)
        assert result.exit_code == 2, (values, result.output)
        assert result.stderr.startswith("error: ")
    result = run("--cache", cache, "--out", tmp_path / "out", "--loss", "foo")
    assert (result.exit_code, "error: loss is 'foo'" in result.stderr) == (2, True)
    only_means = labels_from_means((), np.zeros((3, 0)))
    with pytest.raises(QamroError, match="only mean scores"):
        subsampled(only_means, 0, 1, 0)


def test_results_that_a_kill_left_beside_the_folder_are_found(cache, tmp_path):
    """Killed while the old and the new tables changed places, when ``done/`` has moved already."""
    out = tmp_path / "grid"
    arguments = ["--cache", cache, "--cv", "2", "--seeds", 1, "--epochs", 1, "--out", out,
                 "--axis", "quality", "--widths", "8", "--resamples", 0]  # fmt: skip
    assert run(*arguments).exit_code == 0
    beside = tmp_path / ".grid.0123abcd.old"
    beside.mkdir()
    (out / "done").rename(beside / "done")
    kept = {path.name: path.stat().st_mtime_ns for path in (beside / "done").iterdir()}
    again = run(*arguments)
    assert again.exit_code == 0, again.stderr
    assert not beside.exists()
    assert {path.name: path.stat().st_mtime_ns for path in (out / "done").iterdir()} == kept
