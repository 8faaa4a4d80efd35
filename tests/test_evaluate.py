"""`evaluate` and `qamro-evaluate` against scipy on the same files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from qamro_cache_cli.evaluate import main
from reference_metrics import reference, within_groups
from scipy import stats

from qamro_cache.datasets.registry import load_dataset
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.evaluation.files import read_predictions, read_truth
from qamro_cache.evaluation.metrics import METRICS
from qamro_cache.version import __version__


def evaluated(tmp_path, ratings, predictions, systems="abcdefghijkl"):
    """Exit code, output and notices of qamro-evaluate on some clips."""
    clips = [f"c{i}" for i in range(len(ratings))]
    frame = {"clip_id": clips, "system": list(systems[: len(clips)]), "quality": ratings}
    pd.DataFrame(frame).to_csv(tmp_path / "few.csv", index=False)
    rows = {"clip_id": clips, "axis": "quality", "prediction": predictions}
    pd.DataFrame(rows).to_csv(tmp_path / "p.csv", index=False)
    paths = ["--predictions", str(tmp_path / "p.csv"), "--labels", str(tmp_path / "few.csv")]
    done = CliRunner().invoke(main, paths)
    assert done.exit_code == 0, done.output
    return done


def test_figures_that_say_nothing_are_called_that(tmp_path):
    twelve = [1 + i % 5 for i in range(12)]
    for ratings, systems, words in (
        ([1, 3, 4], "abc", "only 3 clips and 3 systems:"),
        (twelve, "a" * 12, "only 1 system:"),
        ([3] * 12, "ab" * 6, "all 12 clips have the rating 3: there is no ranking to learn"),
    ):
        notices = evaluated(tmp_path, ratings, ratings, systems).stderr
        assert notices.count("WARNING: quality: ") == 1, notices
        assert words in notices
        assert notices.count("\n") == 2
    # Labels from a table are no cache that baselines could be made of.
    notices = evaluated(tmp_path, twelve, twelve).stderr
    assert "quality: no encoder's own score, ridge, kNN and training mean beside it" in notices
    assert notices.count("\n") == 1


def test_predictions_off_the_scale_are_counted_and_kept(tmp_path):
    ratings = [1 + i % 5 for i in range(12)]
    predictions = [float(rating) for rating in ratings]
    predictions[0], predictions[4], predictions[5] = -2.0, 5.5, 1 - 1e-9
    done = evaluated(tmp_path, ratings, predictions)
    said = "WARNING: quality: 2 of 12 predictions lie outside the scale 1 to 5; they are left"
    assert said in done.stderr
    assert done.stderr.count("\n") == 2
    error = np.mean((np.array(predictions) - ratings) ** 2)
    assert f"{error:.3f}" in done.stdout


@pytest.fixture
def files(tmp_path):
    """Predictions of two seeds for 40 clips of 8 systems, and labels in another order."""
    rng = np.random.default_rng(0)
    truth = pd.DataFrame(
        {
            "clip_id": [f"c{i:02}" for i in range(40)],
            "system": [f"S{i % 8}" for i in range(40)],
            "split": ["dev", "train"] * 20,
            "quality": rng.integers(5, 26, 40) / 5,
            "fit": rng.integers(0, 101, 40),
        }
    )
    truth.sample(frac=1, random_state=1).to_csv(tmp_path / "labels.csv", index=False)
    rows = [
        {"clip_id": c, "axis": "quality", "seed": seed, "prediction": q + rng.normal()}
        for seed in (0, 1)
        for c, q in zip(truth["clip_id"], truth["quality"], strict=True)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "predictions.csv", index=False)
    return tmp_path, truth


def test_figures_are_of_the_averaged_prediction_with_the_seeds_beside_it(files):
    folder, truth = files
    truth = truth.assign(group=[f"song {i % 10}" for i in range(40)])
    truth.to_csv(folder / "labels.csv", index=False)
    scored = evaluate(folder / "predictions.csv", folder / "labels.csv")
    scored = scored["axes"]["quality"]
    table = pd.read_csv(folder / "predictions.csv").merge(truth, on="clip_id")
    mean = table.groupby("clip_id").mean(numeric_only=True).reset_index()
    mean = mean.merge(truth[["clip_id", "system", "group"]], on="clip_id")
    rows = [mean, *(seed for _, seed in table.groupby("seed"))]
    for name, metric in METRICS.items():
        found = {"clip": [], "system": [], "group": []}
        for one in rows:
            systems = one.groupby("system")[["prediction", "quality"]].mean().to_numpy().T
            p, t = one["prediction"].to_numpy(), one["quality"].to_numpy()
            found["clip"].append(reference(name, p, t))
            found["system"].append(reference(name, *systems))
            found["group"].append(within_groups(name, p, t, one["group"].to_numpy()))
        for level in metric.levels:
            value, *seeds = found[level]
            got = scored["metrics"][f"{level}_{name}"]
            assert got["value"] == pytest.approx(value), (level, name)
            assert got["by_seed"] == pytest.approx(seeds)
            assert got["seeds_mean"] == pytest.approx(np.mean(seeds))
            assert got["seeds_std"] == pytest.approx(np.std(seeds, ddof=1))
    assert (scored["clips"], scored["systems"], scored["seeds"]) == (40, 8, 2)
    assert (scored["groups"], scored["group_word"], scored["best_of_n"]) == (10, "group", 4)
    assert scored["signature"] == (
        f"clip_srcc|n=40|systems=8|groups=10|seeds=2|ci=jackknife:systems+groups|version={__version__}"
    )


def test_a_split_leaves_the_other_clips_out(files):
    folder, _ = files
    result = evaluate(folder / "predictions.csv", folder / "labels.csv", split="dev", resamples=0)
    assert result["axes"]["quality"]["clips"] == 20
    assert (result["unpredicted"], result["unlabeled"]) == (0, 0)


def test_another_axis_needs_a_map_and_gets_no_bare_mse(files):
    folder, truth = files
    predictions, labels = folder / "predictions.csv", folder / "labels.csv"
    result = evaluate(predictions, labels, axis_map={"quality": "fit"}, resamples=0)
    scored = result["axes"]["fit"]
    assert scored["predicted_axis"] == "quality"
    assert "clip_mse" not in scored["metrics"]
    table = pd.read_csv(predictions).merge(truth, on="clip_id")
    mean = table.groupby("clip_id").mean(numeric_only=True)
    line = np.polyfit(mean["prediction"], mean["fit"], 1)
    error = np.mean((np.polyval(line, mean["prediction"]) - mean["fit"]) ** 2)
    assert scored["metrics"]["clip_mse_fit"]["value"] == pytest.approx(error)


def to_scale(values, high):
    """From 1 to 5 to a scale from 0."""
    return (values - 1) / 4 * high


@pytest.mark.parametrize(
    ("scale", "guessed", "high", "why"),
    [
        ("1..5", False, 0, ""),
        ("1..5 (guessed)", False, 0, ""),
        ("0..10", False, 10, "the predictions are on the scale 0..10, the labels on 1..5"),
        ("0..10", False, 0, "the predictions are on the scale 0..10, the labels on 1..5"),
        ("0..10", True, 0, ""),  # labels of 0 to 10 that lie from 1 to 5 by chance
        ("0..10 (guessed)", False, 0, ""),
        ("0..100", True, 100, "their predictions lie"),
        ("0..10", True, 10, "their predictions lie"),
        ("0..1 (guessed)", False, 1, "their predictions lie"),
        ("nonsense (guessed)", False, 1, "their predictions lie"),
    ],
)
def test_a_guessed_scale_is_no_reason_for_another(files, caplog, scale, guessed, high, why):
    folder, _ = files
    table = pd.read_csv(folder / "predictions.csv")
    if high:
        table["prediction"] = to_scale(table["prediction"], high)
    # A target of qamro-predict is the cache's rating, whatever the head's units.
    table.assign(scale=scale, target=3).to_csv(folder / "scaled.csv", index=False)
    truth = read_truth(folder / "labels.csv")
    axes = tuple(replace(axis, guessed=guessed) for axis in truth.labels.axes)
    truth = replace(truth, labels=replace(truth.labels, axes=axes))
    with caplog.at_level("INFO"):
        result = evaluate(folder / "scaled.csv", truth, resamples=0)
    metrics = result["axes"]["quality"]["metrics"]
    assert ("clip_mse" in metrics, "clip_mse_fit" in metrics) == (not why, True)
    said = [line for line in caplog.messages if "MSE (fit)" in line]
    assert len(said) == bool(why)
    assert why in "".join(said)


def test_seeds_of_other_clips_are_counted(files, caplog):
    folder, truth = files
    table = pd.read_csv(folder / "predictions.csv")
    table = table[(table["seed"] == 0) | (table["clip_id"] < "c20")]
    table.to_csv(folder / "p.csv", index=False)
    scored = evaluate(folder / "p.csv", folder / "labels.csv", resamples=0)["axes"]["quality"]
    said = "quality: 20 of 40 clips are scored, which have a prediction of all 2 seeds; 20 lack one"
    assert said in caplog.messages
    assert (scored["clips"], scored["partly_predicted"]) == (20, 20)
    mean = table[table["clip_id"] < "c20"].merge(truth).groupby("clip_id").mean(numeric_only=True)
    assert scored["metrics"]["clip_mse"]["value"] == pytest.approx(
        ((mean["prediction"] - mean["quality"]) ** 2).mean()
    )


def test_nothing_left_to_score_is_an_error(files, caplog):
    folder, _ = files
    table = pd.read_csv(folder / "predictions.csv")
    apart = table[(table["seed"] == 0) == (table["clip_id"] < "c20")]
    paths = ["--predictions", str(folder / "p.csv"), "--labels", str(folder / "labels.csv")]
    empty = pd.read_csv(folder / "labels.csv").assign(quality=np.nan)
    for predictions, labels in ((apart, None), (table, empty)):
        predictions.to_csv(folder / "p.csv", index=False)
        if labels is not None:
            labels.to_csv(folder / "labels.csv", index=False)
        failed = CliRunner().invoke(main, paths)
        assert failed.exit_code == 1
        assert "no clip is left to score" in failed.stderr
        assert failed.stdout == ""
    # Where another axis is left, that one is scored.
    both = pd.concat([table.assign(axis="fit"), apart])
    both.to_csv(folder / "p.csv", index=False)
    result = evaluate(folder / "p.csv", folder / "labels.csv", resamples=0)
    assert list(result["axes"]) == ["fit"]
    assert "quality: no clip has a label and a prediction of every seed" in caplog.text


def test_targets_tell_the_units_of_predictions_that_name_no_scale(files):
    folder, truth = files
    table = pd.read_csv(folder / "predictions.csv").merge(truth[["clip_id", "quality"]])
    table = table.rename(columns={"quality": "target"})
    # Another panel of the same scale, then two other scales.
    for factor, shift, bare in ((0.9, 0.5, True), (25, -25, False), (0.2, 0, False)):
        table.assign(target=table["target"] * factor + shift).to_csv(folder / "p.csv", index=False)
        scored = evaluate(folder / "p.csv", folder / "labels.csv", resamples=0)["axes"]["quality"]
        assert ("clip_mse" in scored["metrics"]) == bare


def test_rows_without_a_number_are_counted_as_unpredicted(files, caplog):
    folder, _ = files
    table = pd.read_csv(folder / "predictions.csv")
    table.loc[table["clip_id"].isin(["c03", "c04"]), "prediction"] = np.nan
    table.assign(ood=table["clip_id"] < "c10").to_csv(folder / "p.csv", index=False)
    result = evaluate(folder / "p.csv", folder / "labels.csv", resamples=0)
    assert result["unpredicted"] == 2
    assert result["axes"]["quality"]["clips"] == 38
    assert "4 rows have no prediction" in caplog.text


def test_far_clips_are_counted_among_those_scored(files):
    folder, _ = files
    table = pd.read_csv(folder / "predictions.csv")
    table = table[table["seed"] == 0].assign(ood=table["clip_id"] < "c10")
    table.to_csv(folder / "p.csv", index=False)
    result = evaluate(folder / "p.csv", folder / "labels.csv", split="dev", resamples=0)
    assert result["axes"]["quality"]["ood"] == 5


def test_published_scores_of_other_systems_are_told(files, caplog):
    folder, _ = files
    other = {"sys0": (1.0, np.nan)}
    dataset = replace(read_truth(folder / "labels.csv"), system_scores=other)
    evaluate(folder / "predictions.csv", dataset, resamples=0)
    assert "none of the 1 published system scores is of a system of its clips" in caplog.text
    assert "(they have sys0, the clips S0, S1, ...)" in caplog.text


def test_published_scores_are_the_systems_truth_and_it_says_so(files):
    folder, truth = files
    published = {"S0": (1.0, np.nan), "S3": (5.0, np.nan)}
    dataset = replace(read_truth(folder / "labels.csv"), system_scores=published)
    result = evaluate(folder / "predictions.csv", dataset, resamples=0)["axes"]["quality"]
    assert result["published_systems"] == 2
    table = pd.read_csv(folder / "predictions.csv").merge(truth, on="clip_id")
    means = table.groupby("system")[["prediction", "quality"]].mean()
    means.loc["S0", "quality"], means.loc["S3", "quality"] = 1, 5
    error = ((means["prediction"] - means["quality"]) ** 2).mean()
    assert result["metrics"]["system_mse"]["value"] == pytest.approx(error)


def test_an_answer_is_checked_against_its_list(files):
    folder, truth = files
    labels = truth.rename(columns={"quality": "overall", "fit": "textual"})
    labels.to_csv(folder / "labels.csv", index=False)
    lines = [f"{name},3,4\n" for name in truth["clip_id"]]
    (folder / "answer.txt").write_text("".join(lines))
    (folder / "list.txt").write_text("".join(f"{name}.wav\n" for name in truth["clip_id"]))
    call = ["--predictions", str(folder / "answer.txt"), "--labels", str(folder / "labels.csv")]
    call += ["--answer-list", str(folder / "list.txt"), "--resamples", "0"]
    assert CliRunner().invoke(main, call).exit_code == 0
    (folder / "answer.txt").write_text("".join([lines[1], lines[0], *lines[2:]]))
    failed = CliRunner().invoke(main, call)
    assert failed.exit_code == 1
    assert "row 1: 'c01' stands where the list has 'c00'" in failed.stderr


@pytest.mark.parametrize(
    "extra",
    [
        ["--axis-map", "quality=fit", "--axis-map", "quality=quality"],
        ["--axis-map", "quality"],
        ["--resamples", "-1"],
        ["--interval", "jackknife", "--resamples", "9"],
        ["--interval", "guess"],
    ],
)
def test_wrong_usage(files, extra):
    folder, _ = files
    call = ["--predictions", str(folder / "predictions.csv")]
    failed = CliRunner().invoke(main, [*call, "--labels", str(folder / "labels.csv"), *extra])
    assert failed.exit_code == 2


@pytest.mark.parametrize(
    ("options", "ci", "population"),
    [
        ({}, "jackknife:systems", "over systems"),
        ({"interval": "jackknife"}, "jackknife:systems", "over systems"),
        ({"interval": "bootstrap"}, "bootstrap:systems:1000", "over systems"),
        ({"resamples": 20}, "bootstrap:systems:20", "over systems"),
        ({"interval": "bootstrap", "resamples": 0}, "none", ""),
        ({"resamples": 0}, "none", ""),
        ({"over": "system"}, "jackknife:systems", "over systems"),
    ],
)
def test_what_intervals_are_asked_for(files, options, ci, population):
    folder, _ = files
    scored = evaluate(folder / "predictions.csv", folder / "labels.csv", **options)
    scored = scored["axes"]["quality"]
    assert f"|ci={ci}|" in scored["signature"]
    assert scored["population"] == population
    assert np.isfinite(scored["metrics"]["clip_srcc"]["low"]) == (ci != "none")
    call = [f"--{name}={value}" for name, value in options.items()]
    paths = ["--predictions", str(folder / "predictions.csv"), "--labels"]
    done = CliRunner().invoke(main, [*paths, str(folder / "labels.csv"), *call])
    assert done.exit_code == 0, done.output
    assert f"|ci={ci}|" in done.stdout
    assert ("95 % intervals over systems\n" in done.stdout) == (ci != "none")


def test_a_runs_folder_stands_for_its_predictions(files):
    folder, _ = files
    named = evaluate(folder, folder / "labels.csv", baseline=[folder], resamples=0)
    plain = evaluate(folder / "predictions.csv", folder / "labels.csv", resamples=0)
    assert named["axes"]["quality"]["metrics"] == plain["axes"]["quality"]["metrics"]
    assert list(named["axes"]["quality"]["baselines"]) == ["predictions.csv"]
    (folder / "none").mkdir()
    with pytest.raises(QamroError, match=r"none is a folder without predictions\.csv; name a run"):
        evaluate(folder / "none", folder / "labels.csv")


def test_intervals_over_groups_alone(files):
    folder, _ = files
    paths = folder / "predictions.csv", folder / "labels.csv"
    with pytest.raises(QamroError, match="--over group: no clip has a group or prompt; name them"):
        evaluate(*paths, over="group")
    with pytest.raises(QamroError, match="--over is for the jackknife; the bootstrap is over"):
        evaluate(*paths, over="system", resamples=20)
    table = pd.read_csv(paths[1])
    table["group"] = [f"g{k % 5}" for k in range(len(table))]
    table.to_csv(folder / "grouped.csv", index=False)
    call = ["--predictions", str(paths[0]), "--labels", str(folder / "grouped.csv")]
    done = CliRunner().invoke(main, [*call, "--over", "group"])
    assert done.exit_code == 0, done.output
    systems = table["system"].nunique()
    assert f"95 % intervals of these {systems} systems, over groups\n" in done.stdout


def test_two_predicted_axes_for_one_of_the_labels_are_refused(files):
    folder, _ = files
    table = pd.read_csv(folder / "predictions.csv")
    both = pd.concat([table, table.assign(axis="other")])
    both.to_csv(folder / "p.csv", index=False)
    pairs = {"quality": "fit", "other": "fit"}
    with pytest.raises(QamroError, match="stands for two predicted ones"):
        evaluate(folder / "p.csv", folder / "labels.csv", axis_map=pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:0], "row 2: there are no predictions"),
        (lambda t: t.assign(prediction=np.nan), "no row has a prediction"),
        (lambda t: t.drop(columns="axis"), "row 1: there is no column 'axis'"),
        (lambda t: t.assign(axis="loudness"), r"its axes \(loudness\) are not those of the labels"),
        (lambda t: t.assign(clip_id="x" + t["clip_id"]), "none of its clips is in the labels"),
        (lambda t: t.assign(seed=0), "row 42: clip 'c00' has a prediction on 'quality' already"),
        (
            lambda t: t.assign(prediction="good"),
            "rows 2, 3, 4, .* and 70 more; the first: .good. in column",
        ),
    ],
)
def test_a_bad_file_is_one_line(files, change, message):
    folder, _ = files
    change(pd.read_csv(folder / "predictions.csv")).to_csv(folder / "bad.csv", index=False)
    with pytest.raises(QamroError, match=message) as caught:
        evaluate(folder / "bad.csv", folder / "labels.csv")
    assert "\n" not in str(caught.value)


def test_the_command_prints_a_table_or_json(files):
    folder, _ = files
    call = ["--predictions", str(folder / "predictions.csv"), "--labels"]
    call.append(str(folder / "labels.csv"))
    shown = CliRunner().invoke(main, call)
    assert shown.exit_code == 0, shown.output
    assert "SRCC" in shown.output
    printed = CliRunner().invoke(main, [*call, "--json"])
    figures = json.loads(printed.stdout)["axes"]["quality"]
    assert figures["clips"] == 40
    assert figures["ceiling"] is None


def test_the_command_says_what_is_missing(files):
    folder, _ = files
    call = ["--predictions", str(folder / "none.csv"), "--labels", str(folder / "labels.csv")]
    failed = CliRunner().invoke(main, call)
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1


def test_a_random_answer_to_the_real_evaluation_set_scores_as_scipy_says(tmp_path, shared_data):
    dataset = load_dataset("aes-natural", shared_data / "labels/aes")
    test = dataset.clips["split"] == "test"
    ids = dataset.clips["clip_id"][test].to_numpy()
    systems = dataset.clips["system"][test].to_numpy()
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0, 10, (len(ids), 4))
    lines = ["sample_id,PQ,PC,CE,CU"]
    lines += [
        ",".join([i, *map(repr, map(float, row))]) for i, row in zip(ids, predicted, strict=True)
    ]
    (tmp_path / "answer.txt").write_text("\n".join(lines))
    assert len(read_predictions(tmp_path / "answer.txt")) == 4 * 3060
    result = evaluate(tmp_path / "answer.txt", dataset, split="test", resamples=0)
    for column, axis in enumerate(("PQ", "PC", "CE", "CU")):
        scored = result["axes"][axis]
        assert (scored["clips"], scored["systems"]) == (3060, 36)
        target = dataset.labels.mean[test.to_numpy(), dataset.labels.axis_index(axis)]
        means = pd.DataFrame({"s": systems, "p": predicted[:, column], "t": target})
        means = means.groupby("s").mean()
        # Sums of whole ratings are exact, so systems of equal means are tied for scipy too.
        sums = pd.Series(np.round(target * 10)).groupby(systems).sum()
        means["t"] = sums / 850
        for name, metric in METRICS.items():
            samples = {
                "clip": (predicted[:, column], target),
                "system": (means["p"].to_numpy(), means["t"].to_numpy()),
            }
            for level in metric.levels:
                # The reference compares pairs one by one: too slow for 3,060 clips.
                if level in samples and (level == "system" or "pair" not in name):
                    got = scored["metrics"][f"{level}_{name}"]["value"]
                    assert got == pytest.approx(reference(name, *samples[level]), rel=1e-12), name
    assert 0.5 < result["axes"]["PQ"]["ceiling"]["figures"]["system_srcc"] <= 1


def test_clips_that_the_head_was_trained_on_are_counted_and_figures_stand_without_them(files):
    folder, _ = files
    table = pd.read_csv(folder / "predictions.csv")
    table["trained_on"] = np.where(table["clip_id"] < "c10", "yes", "no")
    table.loc[table["clip_id"] == "c10", "trained_on"] = "near"
    table.to_csv(folder / "p.csv", index=False)
    scored = evaluate(folder / "p.csv", folder / "labels.csv", resamples=50)["axes"]["quality"]
    assert (scored["clips"], scored["trained_on"], scored["trained_on_near"]) == (40, 11, 1)
    table[table["trained_on"] == "no"].to_csv(folder / "rest.csv", index=False)
    alone = evaluate(folder / "rest.csv", folder / "labels.csv", resamples=50)["axes"]["quality"]
    assert scored["without_trained"]["clips"] == 29
    assert scored["without_trained"]["metrics"] == alone["metrics"]
    assert (alone["trained_on"], alone["without_trained"]) == (0, None)
    paths = ["--predictions", str(folder / "p.csv"), "--labels", str(folder / "labels.csv")]
    done = CliRunner().invoke(main, paths)
    assert done.exit_code == 0, done.output
    assert "not trained on" in done.stdout
    assert "the head was trained on 10 of 40 clips, and 1 more sound like one that" in done.stderr


def test_figures_of_nothing_but_clips_trained_on_are_refused(files):
    folder, _ = files
    table = pd.read_csv(folder / "predictions.csv").assign(trained_on="yes")
    # A clip without a label does not make the others unseen.
    more = table[:1].assign(clip_id="elsewhere", trained_on="no")
    pd.concat([table, more]).to_csv(folder / "p.csv", index=False)
    paths = ["--predictions", str(folder / "p.csv"), "--labels", str(folder / "labels.csv")]
    refused = CliRunner().invoke(main, paths)
    assert refused.exit_code == 1, refused.output
    assert refused.stdout == ""
    assert "the head was trained on all of these clips" in refused.stderr
    assert "--include-trained" in refused.stderr
    done = CliRunner().invoke(main, [*paths, "--include-trained"])
    assert done.exit_code == 0, done.output
    assert "the head was trained on 40 of 40 clips" in done.stderr
    # An axis that is left does not suffer by another.
    both = pd.concat([table, table.assign(axis="fit", trained_on="no")])
    both.to_csv(folder / "p.csv", index=False)
    assert list(evaluate(folder / "p.csv", folder / "labels.csv", resamples=0)["axes"]) == ["fit"]


def bare(folder: Path, scale: float, shift: float = 0.0) -> tuple[Path, Path]:
    """Write labels of one axis, 0 to 100, and a table that has no more than predictions."""
    scores = np.linspace(5, 95, 20)
    labels = pd.DataFrame({"clip_id": [f"c{k}" for k in range(20)], "quality": scores})
    labels.loc[0, "quality"], labels.loc[19, "quality"] = 0, 100
    labels.to_csv(folder / "labels.csv", index=False)
    noisy = scores[::-1] if scale < 0 else scores + np.random.default_rng(0).normal(0, 5, 20)
    table = labels[["clip_id"]].assign(prediction=abs(scale) * noisy + shift)
    table.to_csv(folder / "p.csv", index=False)
    return folder / "p.csv", folder / "labels.csv"


@pytest.mark.parametrize(
    ("scale", "shift", "why"),
    [
        (1, 0, ""),
        (-1, 0, ""),  # as bad as can be, and on the scale
        (0.04, 1, "(1.247 to 5.123) cannot be in the units"),
        (0.01, 0, "cannot be in the units of the labels' scale"),
        (10, 0, "cannot be in the units of the labels' scale"),
        (0.001, 50, ""),  # always the mean: no better, but in the units
    ],
)
def test_a_table_of_clips_and_predictions_is_enough_for_one_axis(
    scale, shift, why, tmp_path, caplog
):
    predictions, labels = bare(tmp_path, scale, shift)
    caplog.set_level("INFO")
    found = evaluate(predictions, labels, resamples=0)["axes"]["quality"]
    assert found["predicted_axis"] == "quality"
    assert ("clip_mse" in found["metrics"]) == (not why)
    assert ("cannot be in the units" in caplog.text) == bool(why)
    both = pd.merge(*map(pd.read_csv, (predictions, labels)), on="clip_id")
    expected = stats.spearmanr(both["prediction"], both["quality"]).statistic
    assert found["metrics"]["clip_srcc"]["value"] == pytest.approx(expected)


def test_of_several_axes_a_table_says_which(tmp_path):
    predictions, labels = bare(tmp_path, 1)
    two = pd.read_csv(labels)
    two.assign(beauty=two["quality"]).to_csv(labels, index=False)
    with pytest.raises(QamroError, match=r"no column 'axis', and the labels have 2 axes \(quality"):
        evaluate(predictions, labels)


def test_another_models_scores_stand_beside(files, caplog):
    """A table of scores in their own units, and another predictions.csv, on the clips of all."""
    folder, truth = files
    rng = np.random.default_rng(3)
    pesq = truth[["clip_id"]].assign(pesq=truth["quality"] / 10 + rng.normal(0, 0.3, 40))
    pesq.iloc[2:].sample(frac=1, random_state=0).to_csv(folder / "pesq.csv", index=False)
    mine = pd.read_csv(folder / "predictions.csv")
    other = mine.assign(prediction=mine["prediction"] + rng.normal(0, 9, len(mine)))
    other.to_csv(folder / "other.csv", index=False)
    names = ["pesq.csv", "other.csv"]
    one = evaluate(
        folder / "predictions.csv", folder / "labels.csv", resamples=200,
        baseline=[folder / name for name in names],
    )["axes"]["quality"]  # fmt: skip
    kept = truth.iloc[2:].set_index("clip_id")["quality"]
    mean, theirs = (
        table.groupby("clip_id")["prediction"].mean()[kept.index] for table in (mine, other)
    )
    values = [
        stats.spearmanr(scores, kept)[0]
        for scores in (mean, pesq.set_index("clip_id")["pesq"][kept.index], theirs)
    ]
    assert one["clips"] == 38
    assert one["metrics"]["clip_srcc"]["value"] == pytest.approx(values[0])
    assert list(one["baselines"]) == names
    for name, value, verdict in zip(names, values[1:], one["verdicts"], strict=True):
        figures = one["baselines"][name]
        assert figures["clips"] == 38
        assert figures["metrics"]["clip_srcc"]["value"] == pytest.approx(value)
        assert verdict["baseline"] == name
        assert verdict["difference"] == pytest.approx(values[0] - value)
    assert "clip_mse" not in one["baselines"][names[0]]["metrics"]
    error = ((theirs - kept) ** 2).mean()
    assert one["baselines"][names[1]]["metrics"]["clip_mse"]["value"] == pytest.approx(error)
    assert caplog.text.count("2 rated clips have no score in") == 1
    told = CliRunner().invoke(main, [
        "--predictions", str(folder / "predictions.csv"), "--labels", str(folder / "labels.csv"),
        "--baseline", str(folder / "pesq.csv"), "--predictions", str(folder / "other.csv"),
        "--resamples", "200",
    ])  # fmt: skip
    assert told.exit_code == 0, told.output
    for verdict in one["verdicts"]:
        assert verdict["words"] in " ".join(told.stdout.split())


def test_predictions_as_json_lines_stand_beside_too(files):
    folder, _ = files
    table = pd.read_csv(folder / "predictions.csv", dtype=str)
    table.to_json(folder / "lines.jsonl", orient="records", lines=True)
    others = [folder / "predictions.csv", folder / "lines.jsonl"]
    found = evaluate(others[0], folder / "labels.csv", baseline=others, resamples=0)
    csv, lines = found["axes"]["quality"]["baselines"].values()
    assert csv["metrics"] == lines["metrics"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clip_id,a,b\nc00,1,2\n", "row 1: a baseline has the columns clip_id and one score"),
        ("clip,a\nc00,1\n", "row 1: a baseline has the columns"),
        ("clip_id,a\nc00,1\nc00,2\n", "row 3: clip 'c00' has a score already"),
        ("clip_id,a\nc00,x\n", "row 2"),
        ("clip_id,a\nc00,\nc01,\n", "bad.csv: no row has a score in column 'a'"),
        ("clip_id,a\nzz,1\n", "none of its clips is among those that are scored"),
    ],
)
def test_a_baseline_that_cannot_be_used_is_one_line(files, text, says):
    folder, _ = files
    (folder / "bad.csv").write_text(text)
    with pytest.raises(QamroError, match=says):
        evaluate(
            folder / "predictions.csv", folder / "labels.csv", baseline=[folder / "bad.csv"],
            resamples=0,
        )  # fmt: skip
