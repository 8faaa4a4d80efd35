"""Baselines beside predictions, from the cache of their labels, on the predictions' own folds."""

import logging
import shutil

import pandas as pd
import pytest
from synthetic_cache import write_synthetic

from qamro_cache.errors import QamroError
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.experiments.train import train

QUICK = {"epochs": 2, "widths": [4], "seeds": 2, "axis": "quality"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A cache, and a run of leave-one-group-out on it."""
    folder = tmp_path_factory.mktemp("run")
    write_synthetic(folder / "emb.h5", clips=60, own_score=True)
    record = train(folder / "emb.h5", folder / "run", cv="group", over="group", **QUICK)
    return folder, record["axes"]["quality"]


def figures(model):
    return {name: found["value"] for name, found in model["metrics"].items()}


def test_they_are_those_of_the_training(run):
    folder, trained = run
    found = evaluate(folder / "run" / "predictions.csv", folder / "emb.h5")["axes"]["quality"]
    assert set(found["baselines"]) == set(trained["models"]) - {"qamro head"}
    for name, model in found["baselines"].items():
        expected = figures(trained["models"][name])
        assert figures(model) == pytest.approx(expected, rel=1e-5, nan_ok=True), name
    said = {one["baseline"]: one["beats"] for one in found["verdicts"]}
    assert said == {one["baseline"]: one["beats"] for one in trained["verdicts"]}


def test_intervals_are_those_of_the_run_where_nobody_says_otherwise(run, caplog):
    folder, trained = run
    file, cache = folder / "run" / "predictions.csv", folder / "emb.h5"
    with caplog.at_level(logging.INFO, logger="qamro_cache"):
        found = evaluate(file, cache)["axes"]["quality"]
    # Of a run whose cv is not known here its populations say less.
    for name, model in {found["model"]: found, **found["baselines"]}.items():
        assert trained["models"][name]["population"].startswith(model["population"]), name
        for figure, metric in model["metrics"].items():
            for end in ("low", "high"):
                expected = trained["models"][name]["metrics"][figure][end]
                assert metric[end] == pytest.approx(expected, rel=1e-5, nan_ok=True), (name, figure)
    gaps = [one[end] for one in found["verdicts"] for end in ("low", "high")]
    expected = [one[end] for one in trained["verdicts"] for end in ("low", "high")]
    assert gaps == pytest.approx(expected, rel=1e-5)
    assert found["model"] == "qamro head"
    assert "as the predictions' run has them (jackknife over groups)" in caplog.text
    for option, over in (({"over": "system"}, "systems"), ({"interval": "jackknife"}, "both")):
        told = evaluate(file, cache, **option)["axes"]["quality"]
        words = {"systems": "ci=jackknife:systems|", "both": "ci=jackknife:systems+groups|"}
        assert words[over] in told["signature"]
    other = pd.read_csv(file)[["clip_id", "axis", "prediction"]].drop_duplicates("clip_id")
    theirs = evaluate(other, cache)["axes"]["quality"]
    assert theirs["model"] == "predictions"
    assert "ci=jackknife:systems+groups|" in theirs["signature"]


def test_a_part_of_the_clips_is_judged_by_the_same_predictions(run):
    folder, _ = run
    file, cache = folder / "run" / "predictions.csv", folder / "emb.h5"
    table = pd.read_csv(file)
    system = table["system"].iloc[0]
    found = evaluate(file, cache, only=[f"system={system}"])["axes"]["quality"]
    assert found["baselines"]["ridge"]["clips"] == found["clips"] < 60
    # Whoever judges one system still lets ridge learn from the others: not the mean of few labels.
    whole = evaluate(file, cache)["axes"]["quality"]["baselines"]["train mean"]
    part = found["baselines"]["train mean"]
    assert part["metrics"]["clip_mse"]["value"] != whole["metrics"]["clip_mse"]["value"]
    labels = table.drop_duplicates("clip_id").set_index("clip_id")
    mean = pd.Series(
        {c: labels["target"][labels["fold"] != row["fold"]].mean() for c, row in labels.iterrows()}
    )
    mine = labels["system"] == system
    error = ((mean[mine] - labels["target"][mine]) ** 2).mean()
    assert part["metrics"]["clip_mse"]["value"] == pytest.approx(error, rel=1e-9)


def test_a_line_says_why_they_are_not_there(run, tmp_path, caplog):
    folder, _ = run
    caplog.set_level(logging.INFO, "qamro_cache")

    def said(file, labels):
        caplog.clear()
        found = evaluate(file, labels, resamples=0)["axes"]["quality"]["baselines"]
        assert not {"ridge", "kNN", "train mean"} & set(found)
        lines = [one.message for one in caplog.records if "training mean beside" in one.message]
        assert len(lines) == 1
        return lines[0]

    table = pd.read_csv(folder / "run" / "predictions.csv")
    labels = table.drop_duplicates("clip_id")[["clip_id", "target"]]
    labels.set_axis(["clip_id", "quality"], axis=1).to_csv(tmp_path / "labels.csv", index=False)
    file = tmp_path / "predictions.csv"
    table.to_csv(file, index=False)
    assert "the labels are no cache" in said(file, tmp_path / "labels.csv")
    table.drop(columns="fold").to_csv(file, index=False)
    assert "do not say by which folds" in said(file, folder / "emb.h5")
    table.to_csv(file, index=False)
    shutil.copy(folder / "run" / "metrics.json", tmp_path)
    text = (tmp_path / "metrics.json").read_text()
    (tmp_path / "metrics.json").write_text(text.replace('"feature": "', '"feature": "other'))
    assert "no feature 'other" in said(file, folder / "emb.h5")


def test_features_that_are_not_finite_are_refused_in_one_line(run):
    folder, _ = run
    write_synthetic(folder / "inf.h5", clips=60, own_score=True, factor=float("inf"))
    with pytest.raises(QamroError, match="'embedding' has values that are not finite"):
        evaluate(folder / "run" / "predictions.csv", folder / "inf.h5")


def test_all_models_are_judged_by_the_clips_that_the_labels_cache_could_read(run, caplog):
    folder, _ = run
    # Predictions of another cache: clip 3 was read there, and is a failed one here.
    table = pd.read_csv(folder / "run" / "predictions.csv")
    more = table[table["clip_id"] == "clip004"].assign(clip_id="clip003", prediction=60.0)
    file = pd.concat([table, more], ignore_index=True)
    found = evaluate(file, folder / "emb.h5")["axes"]["quality"]
    counts = {name: one["clips"] for name, one in found["baselines"].items()}
    assert set(counts.values()) == {found["clips"]} == {59}
    assert found["left_out"] == 1
    assert "1 clips that not every baseline" in caplog.text
    assert figures(found) == figures(evaluate(table, folder / "emb.h5")["axes"]["quality"])
