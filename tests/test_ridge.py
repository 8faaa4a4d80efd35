"""Ridge heads and their solver, against plain loops in float64 and scikit-learn."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.grid import Grid, cells_of
from qamro_cache.experiments.train import train
from qamro_cache.extraction.extract import extract
from qamro_cache.heads.architecture import row_blocks
from qamro_cache.heads.file import load_head
from qamro_cache.heads.ood import reference_clips
from qamro_cache.heads.ridge import PENALTIES, fit_ridge, scaling
from qamro_cache.scoring.predict import predict
from qamro_cache.training.recipe import flat_recipe, make_recipe


def scaled(x, blocks):
    """Standardized features, each divided by the root of its block's width."""
    std = np.where(x.std(0) > 0, x.std(0), 1)
    return (x - x.mean(0)) / std / np.sqrt(np.repeat(blocks, blocks))


def naive(rows, y, penalty):
    """Weights and intercept by least squares with one more row sqrt(penalty) a weight."""
    mean = rows.mean(0)
    design = np.vstack([rows - mean, np.sqrt(penalty) * np.eye(rows.shape[1])])
    answer = np.concatenate([y - y.mean(), np.zeros(rows.shape[1])])
    weights = np.linalg.lstsq(design, answer, rcond=None)[0]
    return weights, y.mean() - mean @ weights


def naive_errors(rows, y, groups, penalties):
    """The squared error of each penalty, every group held out by a fit without it."""
    errors = []
    for penalty in penalties:
        total = 0.0
        for name in np.unique(groups):
            held = groups == name
            weights, intercept = naive(rows[~held], y[~held], penalty)
            total += ((rows[held] @ weights + intercept - y[held]) ** 2).sum()
        errors.append(total)
    return np.array(errors)


def drawn(clips, blocks, seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(3, 2, (clips, sum(blocks)))
    y = 50 + 4 * x[:, 0] - 3 * x[:, -1] + generator.normal(0, 8, clips)
    return x, y, generator.integers(0, max(2, clips // 5), clips)


@given(
    clips=st.integers(4, 24),
    blocks=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    seed=st.integers(0, 999),
)
@settings(max_examples=25, deadline=None)
def test_the_penalty_is_that_of_a_loop_over_held_out_groups(clips, blocks, seed):
    x, y, groups = drawn(clips, blocks, seed)
    if len(np.unique(groups)) < 2:
        groups[0] = -1
    x[:, 0] = np.where(seed % 7 == 0, 5.0, x[:, 0])  # constant
    penalties = (100.0, 1.0, 0.01)
    rows = scaled(x, blocks)
    errors = naive_errors(rows, y, groups, penalties)
    got = fit_ridge(x, y, blocks, groups, penalties)
    # Of two that are equal to rounding either may be chosen.
    assert errors[penalties.index(got.penalty)] <= errors.min() * (1 + 1e-9)
    weights, intercept = naive(rows, y, got.penalty)
    np.testing.assert_allclose(got.predict(x), rows @ weights + intercept, rtol=1e-7)


@pytest.mark.parametrize("width", [20, 200])
@pytest.mark.parametrize("grouped", [True, False])
def test_scikit_learn_finds_the_same(width, grouped):
    linear_model = pytest.importorskip("sklearn.linear_model")
    selection = pytest.importorskip("sklearn.model_selection")
    generator = np.random.default_rng(3)
    x = generator.normal(3, 2, (60, width)) + generator.normal(0, 2, (60, 1))
    y = x @ generator.normal(0.1, 1, width) + generator.normal(0, 4 * width**0.5, 60)
    rows = scaled(x, [width])
    if grouped:
        groups = np.repeat(np.arange(12), 5)
        parts = selection.GroupKFold(12).split(rows, y, groups)
    else:
        groups = None
        part = np.argsort(np.random.default_rng(0).permutation(60)) % 5
        parts = selection.PredefinedSplit(part).split()
    theirs = linear_model.RidgeCV(
        alphas=PENALTIES, cv=list(parts), scoring="neg_mean_squared_error"
    ).fit(rows, y)
    got = fit_ridge(x, y, [width], groups)
    assert got.penalty == theirs.alpha_
    assert got.penalty not in (PENALTIES[0], PENALTIES[-1])
    np.testing.assert_allclose(got.predict(x), theirs.predict(rows), rtol=1e-10)


def test_long_parts_and_many_groups():
    """Parts of more clips than features, and more groups than are held out one at a time."""
    generator = np.random.default_rng(5)
    x = generator.normal(3, 2, (400, 4))
    y = x @ [4.0, 0, -3, 1] + generator.normal(0, 30, 400)
    rows = scaled(x, [4])
    long, many = np.repeat([3, 1], 200), generator.integers(0, 250, 400)
    some_at_a_time = np.unique(many, return_inverse=True)[1] % 100
    for groups, held in ((long, long), (many, some_at_a_time)):
        errors = naive_errors(rows, y, held, PENALTIES[::2])
        got = fit_ridge(x, y, [4], groups, PENALTIES[::2])
        assert got.penalty == PENALTIES[::2][int(errors.argmin())]


def test_few_or_equal_labels_are_predicted_by_their_mean():
    x, y, _ = drawn(8, [3], 0)
    for clips, target in ((1, y[:1]), (8, np.full(8, 7.5))):
        got = fit_ridge(x[:clips], target, [3])
        np.testing.assert_allclose(got.predict(x), target[0], rtol=1e-12)
        assert got.penalty == PENALTIES[0]
    # A single group cannot be held out: parts of it are.
    assert fit_ridge(x, y, [3], np.zeros(8, int)).penalty == fit_ridge(x, y, [3]).penalty


def test_rows_are_made_of_blocks():
    assert row_blocks("audio", (6,)) == (6,)
    assert row_blocks("concat", (6, 6, 6), 4) == (6, 6, 6, 4)
    assert row_blocks("products", (6,), 6) == (6, 6, 6, 6)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("cache") / "emb.h5")


def by_hand(cache, axis, feature, text):
    """Out-of-fold predictions of clips with a label, leave one group out, by loops."""
    data = open_cache(cache)
    windows, offsets, weights = (part.numpy() for part in data.read(feature))
    ok = np.flatnonzero(data.clips["status"] == "ok")
    rows = []
    for clip in ok:
        part = slice(offsets[clip], offsets[clip + 1])
        rows.append(np.average(windows[part].astype(float), 0, weights[part]).ravel())
    blocks = [6] * (len(rows[0]) // 6)
    rows = np.array(rows)
    if text:
        embeddings, index = data.read_text()
        rows = np.hstack([rows, embeddings.numpy()[index.numpy()[ok]]])
        blocks.append(6)
    groups = np.unique(data.clips["group"].to_numpy(str)[ok], return_inverse=True)[1]
    y = data.labels.mean[ok, data.labels.axis_index(axis)]
    out = np.empty(len(ok))
    for name in np.unique(groups):
        held = groups == name
        std = rows[~held].std(0)
        z = (rows - rows[~held].mean(0)) / np.where(std > 1e-6, std, 1)
        z /= np.sqrt(np.repeat(blocks, blocks))
        errors = naive_errors(z[~held], y[~held], groups[~held], PENALTIES)
        mine, intercept = naive(z[~held], y[~held], PENALTIES[int(errors.argmin())])
        out[held] = z[held] @ mine + intercept
    return pd.Series(out, data.clips["clip_id"].iloc[ok].to_numpy())


@pytest.mark.parametrize(
    ("feature", "inputs"), [("embedding", "audio"), ("layers", "audio"), ("embedding", "concat")]
)
def test_a_ridge_head_is_trained_saved_and_served(cache, tmp_path, feature, inputs):
    record = train(
        cache, tmp_path, head="ridge", cv="group", axis="quality", feature=feature,
        inputs=inputs, save_folds=True,
    )  # fmt: skip
    expected = by_hand(cache, "quality", feature, inputs == "concat")
    table = pd.read_csv(tmp_path / "predictions.csv").set_index("clip_id")
    np.testing.assert_allclose(table["prediction"][expected.index], expected, rtol=1e-5)
    one = record["axes"]["quality"]
    scored = one["models"]["ridge head"]
    # The baseline is the same function, and does not stand beside itself.
    assert "ridge" not in one["models"]
    assert "ridge" not in {verdict["baseline"] for verdict in one["verdicts"]}
    other = train(
        cache, tmp_path / "mlp", cv="group", axis="quality", feature=feature, inputs=inputs,
        epochs=1, seeds=1,
    )["axes"]["quality"]["models"]  # fmt: skip
    assert (scored["seeds"], scored["clips"]) == (1, 39)
    srcc = spearmanr(table["prediction"], table["target"])[0]
    assert scored["metrics"]["clip_srcc"]["value"] == pytest.approx(srcc)
    mse = other["ridge"]["metrics"]["clip_mse"]["value"]
    assert scored["metrics"]["clip_mse"]["value"] == pytest.approx(mse, rel=1e-5)
    head = load_head(tmp_path / "head.safetensors")
    assert head.axes[0].seeds == (0,)
    assert head.training["penalty"]["quality"] in PENALTIES
    assert set(head.training["recipe"]) == {"head", "pooling", "inputs"}
    for k in (0, 5):
        path = tmp_path / "folds" / f"{k}.safetensors"
        mine = table[table["fold"] == load_head(path).training["held_out"]]
        again = predict(path, cache).set_index("clip_id")["prediction"]
        np.testing.assert_allclose(again[mine.index], mine["prediction"], rtol=1e-5)
    everything = predict(tmp_path / "head.safetensors", cache)
    assert everything["prediction"].notna().sum() == 39


def test_only_clips_with_a_label_count(cache, tmp_path):
    """Axis match is known for some clips only; the other axis stays as it is."""
    data = open_cache(cache)
    labels = pd.DataFrame({"clip_id": data.clips["clip_id"]})
    labels["quality"], labels["match"] = data.labels.mean.T
    labels.loc[::3, "match"] = np.nan
    labels.to_csv(tmp_path / "some.csv", index=False)
    both = train(cache, tmp_path / "a", head="ridge", cv="group", labels=tmp_path / "some.csv")
    labels[labels["match"].notna()].to_csv(tmp_path / "fewer.csv", index=False)
    alone = train(
        cache, tmp_path / "b", head="ridge", cv="group", axis="match",
        labels=tmp_path / "fewer.csv",
    )  # fmt: skip
    assert both["axes"]["quality"]["models"]["ridge head"]["clips"] == 39
    mine, theirs = (run["axes"]["match"] for run in (both, alone))
    assert mine["models"]["ridge head"]["clips"] == labels["match"].drop(3).notna().sum()
    assert mine["median_penalty"] == theirs["median_penalty"]
    of_mine, of_theirs = (
        run["models"]["ridge head"]["metrics"]["clip_mse"]["value"] for run in (mine, theirs)
    )
    assert of_mine == pytest.approx(of_theirs, rel=1e-6)


def test_a_validation_set_is_learned_from_too(tmp_path):
    """Nothing is stopped, so a fixed split has the head that no split inside it would change."""
    cache = write_synthetic(tmp_path / "split.h5", clips=60, split=True)
    record = train(cache, tmp_path / "run", head="ridge", cv="split", axis="quality")
    mine = record["axes"]["quality"]["models"]["ridge head"]["metrics"]["clip_mse"]["value"]
    # Beside heads that do stop, and the baseline.
    ablate(
        cache, tmp_path / "grid", head=["mlp", "ridge"], cv="split", stop="inner", epochs=2,
        widths=(8,), axis="quality", seeds=1, resamples=0,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "grid" / "summary.csv")
    cell = table[(table["model"] == "head") & (table["head"] == "ridge")]
    assert cell["clip_mse"].item() == pytest.approx(mine, rel=1e-5)
    baseline = table[table["model"] == "ridge"]
    assert baseline["clip_mse"].item() == pytest.approx(mine, rel=1e-5)


def test_a_ridge_needs_no_groups_to_stop_on(cache, tmp_path):
    """A split whose training clips are of one group: heads that stop are refused, a ridge not."""
    data = open_cache(cache)
    labels = pd.DataFrame({"clip_id": data.clips["clip_id"], "quality": data.labels.mean[:, 0]})
    labels["split"] = ["train"] * 30 + ["test"] * 10
    labels["group"] = ["a"] * 30 + ["b", "c"] * 5
    labels.to_csv(tmp_path / "one.csv", index=False)
    given = {"labels": tmp_path / "one.csv", "cv": "split"}
    with pytest.raises(QamroError, match="too few groups to keep some for stopping"):
        ablate(cache, tmp_path / "grid", head="linear", **given)
    ablate(cache, tmp_path / "grid", head="ridge", resamples=0, **given)
    mine = pd.read_csv(tmp_path / "grid" / "summary.csv").set_index("model")["clip_mse"]
    record = train(cache, tmp_path / "run", head="ridge", **given)["axes"]["quality"]["models"]
    mse = record["ridge head"]["metrics"]["clip_mse"]["value"]
    assert mine[["head", "ridge"]].tolist() == pytest.approx([mse, mse], rel=1e-5)


def test_a_ridge_is_a_cell_of_a_grid(cache, tmp_path):
    given = {"cv": "group", "seeds": 2, "resamples": 0, "epochs": 2, "lr": 0.01, "widths": (8,)}
    ablate(cache, tmp_path, head=["mlp", "ridge"], **given)
    results = pd.read_csv(tmp_path / "results.csv")
    heads = results[results["model"] == "head"]
    assert heads.groupby("head").size().to_dict() == {"mlp": 4, "ridge": 2}
    ridges = heads[heads["head"] == "ridge"]
    assert (ridges["best_epoch"] == 0).all()
    assert ridges["pair_coverage"].isna().all()
    theirs = results[results["model"] == "ridge"].set_index("axis")["clip_mse"]
    np.testing.assert_allclose(ridges["clip_mse"], theirs[ridges["axis"]], rtol=1e-5)
    # Kept as other heads are: nothing is solved again.
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "done").iterdir()}
    ablate(cache, tmp_path, head=["mlp", "ridge"], **given)
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "done").iterdir()}
    assert again == kept
    # All seeds learn from the same draw of ratings, so a ridge is one head there too.
    ablate(
        cache, tmp_path / "raters", head="ridge", raters=[1, 0], cv="group", resamples=0,
        axis="quality",
    )  # fmt: skip
    results = pd.read_csv(tmp_path / "raters" / "results.csv")
    heads = results[results["model"] == "head"]
    assert heads.groupby("raters").size().to_dict() == {0: 1, 1: 1}
    assert heads["clip_mse"].nunique() == 2


def test_what_a_ridge_cannot_use_is_refused(cache, tmp_path):
    for name, value in (
        ("lr", 0.1), ("loss", "mse"), ("alpha", 0.3), ("widths", (8,)), ("epochs", 3),
        ("output", "bounded"), ("seeds", 2), ("stop", "inner"), ("precision", "float32"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=f"closed form and takes no {name}"):
            train(cache, tmp_path / "run", head="ridge", **{name: value})
        with pytest.raises(QamroError, match=f"takes no {name}"):
            ablate(cache, tmp_path / "grid", head="ridge", **{name: value})
    with pytest.raises(OptionError, match="a ridge head takes pooling"):
        train(cache, tmp_path / "run", head="ridge", pooling="attention")
    with pytest.raises(QamroError, match=r"cell head=ridge, alpha=0.1: .*takes no alpha"):
        cells_of(Grid({"head": ["mlp", "ridge"], "alpha": [0.1, 0.2]}))
    from qamro_cache_cli.train import main

    arguments = ["--cache", cache, "--out", tmp_path / "run", "--head", "ridge", "--lr", "1"]
    done = CliRunner().invoke(main, [str(one) for one in arguments])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert not list(tmp_path.iterdir())


def test_a_ridge_recipe_is_what_acts_on_it():
    recipe = make_recipe({"head": "ridge", "pooling": "max"})
    flat = json.loads(json.dumps(flat_recipe(recipe)))
    assert flat == {"head": "ridge", "pooling": "max", "inputs": "audio"}
    assert make_recipe(flat) == recipe
    assert recipe.takes("pooling")
    assert not recipe.takes("lr")


def by_scikit_learn(cache, axis):
    """What a user's own script says: leave one group out, the penalty by groups inside."""
    pipeline = pytest.importorskip("sklearn.pipeline")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    linear_model = pytest.importorskip("sklearn.linear_model")
    folds = pytest.importorskip("sklearn.model_selection").LeaveOneGroupOut()
    X, y, groups, _, clip_ids = open_cache(cache).arrays("embedding", axis)
    X, out = X.astype(np.float64), np.empty(len(y))
    for train_rows, held in folds.split(X, y, groups):
        inner = list(folds.split(X[train_rows], y[train_rows], groups[train_rows]))
        model = pipeline.make_pipeline(
            preprocessing.StandardScaler(),
            preprocessing.FunctionTransformer(lambda x: x / np.sqrt(X.shape[1])),
            linear_model.RidgeCV(PENALTIES, cv=inner, scoring="neg_mean_squared_error"),
        )
        out[held] = model.fit(X[train_rows], y[train_rows]).predict(X[held])
    return pd.Series(out, clip_ids)


def check_real(cache, axis, folder, srcc):
    """A ridge head on real ratings is the script's, and as good as ever (`srcc`, rounded down)."""
    record = train(cache, folder, head="ridge", cv="group", axis=axis)
    expected = by_scikit_learn(cache, axis)
    table = pd.read_csv(folder / "predictions.csv").set_index("clip_id")
    # The groups are of one size, so mean errors of groups rank penalties as sums do.
    np.testing.assert_allclose(table["prediction"][expected.index], expected, rtol=1e-4, atol=1e-3)
    scored = record["axes"][axis]["models"]["ridge head"]["metrics"]
    assert scored["clip_srcc"]["value"] >= srcc


@pytest.mark.slow
def test_real_separation_ratings(shared_data, tmp_path):
    pytest.importorskip("distillmos")
    folder = shared_data / "cvssp-separation"
    extract("cvssp-separation", tmp_path / "emb.h5", "distillmos", data_dir=folder, device="cpu")
    check_real(tmp_path / "emb.h5", "quality", tmp_path / "a", 0.88)
    check_real(tmp_path / "emb.h5", "interferer", tmp_path / "b", 0.86)


@pytest.mark.slow
def test_real_codec_ratings(shared_data, tmp_path):
    """Small and hard: 12 signals in 8 conditions."""
    pytest.importorskip("distillmos")
    folder = shared_data / "codec-mushra"
    rated = pd.read_csv(folder / "ratings_formated_filtered.csv")
    rated["path"] = [f"audio/{file[:-3]}flac" for file in rated["file"].fillna("none.wav")]
    rated = rated[[(folder / path).exists() for path in rated["path"]]]
    manifest = pd.DataFrame(
        {
            "clip_id": rated["path"],
            "path": rated["path"],
            "system": rated["condition"],
            "group": rated["signal"],
            "quality": [np.mean(json.loads(cell)) for cell in rated["ratings"]],
        }
    )
    manifest.to_csv(tmp_path / "clips.csv", index=False)
    extract(
        None, tmp_path / "emb.h5", "distillmos", manifest=tmp_path / "clips.csv", data_dir=folder,
        device="cpu",
    )  # fmt: skip
    check_real(tmp_path / "emb.h5", "quality", tmp_path / "run", 0.35)


def test_a_feature_that_is_constant_but_for_rounding_carries_nothing():
    """As log-mel bands at their floor, whose means differ by a few steps of float32."""
    rng = np.random.default_rng(3)
    step = np.spacing(np.float32(100))
    rows = rng.normal(-40, 3, (50, 2)).astype(np.float32)
    rows[:, 1] = -100 + step * rng.integers(-5, 6, 50)
    assert (rows[:, 1].std() / 100) > 1e-7
    mean, std, _ = scaling(rows.astype(np.float64), [2])
    assert std[0] == pytest.approx(3, rel=0.3)
    assert std[1] == 1
    near = reference_clips(torch.from_numpy(rows))
    assert near.std.tolist() == pytest.approx(std.tolist(), rel=1e-5)
    far = torch.tensor([[float(mean[0]), -100 + 9 * float(step)]])
    assert not near.is_ood(far).any()
