"""A scale of one's own: the line, the steps, what refuses them, and no look at held-out labels."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from click.testing import CliRunner
from scipy.stats import linregress
from sklearn.isotonic import IsotonicRegression
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.records import Axis
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.train import train
from qamro_cache.extraction.extract import extract
from qamro_cache.heads.calibration import (
    FEWEST,
    FEWEST_STEPS,
    NotCalibratedError,
    calibration_of,
    fit_calibration,
)
from qamro_cache.heads.file import load_head, save_head
from qamro_cache.scoring.calibrate import calibrate
from qamro_cache.scoring.predict import predict

AXIS = Axis("quality", 1.0, 5.0)
HELD = {"group": "G2", "system": "S1"}
QUICK = {"epochs": 8, "widths": (8,), "seeds": 2, "lr": 0.02, "axis": "quality"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data") / "emb.h5")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Other clips of the same encoder, and labels of theirs on another scale."""
    folder = tmp_path_factory.mktemp("other")
    path = write_synthetic(folder / "other.h5", seed=5, clips=50, prefix="new")
    data = open_cache(path)
    table = data.clips[["clip_id"]].assign(quality=1 + data.labels.mean[:, 0] / 25)
    table.dropna().to_csv(folder / "mine.csv", index=False)
    return path, folder / "mine.csv"


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(cache, folder, cv="group", **QUICK)
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A head on mel, and labels, embeddings and the folder of clips that it has not seen."""
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    parts = {}
    for part, count in (("t", 24), ("s", 14)):
        (folder / part).mkdir()
        rows = []
        for k in range(count):
            level = rng.uniform(-40, -5)
            sound = 10 ** (level / 20) * rng.uniform(-1, 1, 8000)
            sf.write(folder / part / f"{part}{k:02}.wav", sound, 8000)
            rows.append({"path": f"{part}{k:02}.wav", "quality": 50 + level + rng.normal()})
        table = pd.DataFrame(rows)
        table.to_csv(folder / part / "clips.csv", index=False)
        parts[part] = folder / f"{part}.h5"
        extract(folder / part / "clips.csv", parts[part], "mel", scale=["quality=0:100"])
    train(parts["t"], folder / "run", head="ridge", cv="4")
    mine = table.assign(clip_id=table["path"].str[:-4], quality=1 + table["quality"] / 20)
    mine[["clip_id", "quality"]].to_csv(folder / "mine.csv", index=False)
    return folder / "run", folder / "mine.csv", parts["s"], folder / "s"


def scores_and_labels(clips, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 100, clips)
    return scores, 1 + scores / 25 + 0.5 * rng.standard_normal(clips)


def test_the_line_and_its_intervals_are_those_of_scipy():
    scores, labels = scores_and_labels(40)
    scores[3], labels[7] = np.nan, np.nan
    found = fit_calibration(scores, labels, AXIS)
    known = np.isfinite(scores) & np.isfinite(labels)
    line = linregress(scores[known], labels[known])
    assert (found.slope, found.offset) == pytest.approx((line.slope, line.intercept))
    # t of 36 degrees of freedom, from a table.
    wide = 2.028 * line.stderr
    assert found.slope_low == pytest.approx(line.slope - wide, rel=1e-3)
    assert found.slope_high == pytest.approx(line.slope + wide, rel=1e-3)
    assert found.offset_high - found.offset == pytest.approx(
        2.028 * line.intercept_stderr, rel=1e-3
    )
    assert (found.clips, found.steps) == (38, None)
    assert found.apply(np.array([50.0])) == pytest.approx(line.intercept + 50 * line.slope)
    assert found.spread(np.array([50.0]), np.array([10.0])) == pytest.approx(10 * line.slope)


def test_intervals_hold_the_line_as_often_as_they_say():
    held = 0
    for seed in range(300):
        found = fit_calibration(*scores_and_labels(15, seed), AXIS)
        held += found.slope_low < 1 / 25 < found.slope_high
    assert 0.92 < held / 300 < 0.98


def test_steps_are_those_of_scikit_learn():
    scores, labels = scores_and_labels(FEWEST_STEPS)
    labels += 2 * np.tanh((scores - 50) / 5)  # two plateaus
    scores[:40] = scores[40:80]
    found = fit_calibration(scores, labels, AXIS)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    at = np.linspace(-10, 110, 500)
    np.testing.assert_allclose(found.apply(at), theirs.predict(at))
    assert np.isnan(found.apply(np.array([np.nan]))).all()
    assert len(found.steps[0]) < 100
    few = fit_calibration(scores[1:], labels[1:], AXIS)
    assert few.steps is None


def test_members_are_no_surer_where_steps_are_flat():
    scores, labels = scores_and_labels(FEWEST_STEPS)
    labels += 2 * np.tanh((scores - 50) / 5)
    found = fit_calibration(scores, labels, AXIS)
    at, std = np.array([-60.0, 30.0, 50.0, 160.0, np.nan]), np.array([4.0, 1.0, 4.0, 4.0, 4.0])
    spread = found.spread(at, std)
    line = found.slope * std
    assert spread[[0, 3]] == pytest.approx(line[[0, 3]]), "beyond the ends"
    assert (spread[:4] >= line[:4]).all()
    assert spread[2] > 2 * line[2], "where it is steep"
    assert np.isnan(found.spread(np.zeros(1), np.array([np.nan]))), "of one member"


@pytest.mark.parametrize("seed", range(3))
def test_where_labels_do_not_bend_the_line_stays(seed):
    scores, labels = scores_and_labels(1000, seed)
    assert fit_calibration(scores, labels, AXIS).steps is None


def test_too_little_is_refused():
    scores, labels = scores_and_labels(FEWEST)
    assert fit_calibration(scores, labels, AXIS).clips == FEWEST
    with pytest.raises(NotCalibratedError, match="9 clips have a score and a label, and a line"):
        fit_calibration(scores[1:], labels[1:], AXIS)
    with pytest.raises(NotCalibratedError, match="all 10 clips have the score 3"):
        fit_calibration(np.full(10, 3.0), labels, AXIS)
    with pytest.raises(NotCalibratedError, match="all 10 clips have the label 2; label other"):
        fit_calibration(scores, np.full(10, 2.0), AXIS)
    with pytest.raises(NotCalibratedError, match="but for one, all 10 clips have the score 3"):
        fit_calibration(np.r_[np.full(9, 3.0), 5], np.r_[labels[:9] / 1e3, 5], AXIS)
    with pytest.raises(NotCalibratedError, match="may be 0"):
        fit_calibration(scores, np.random.default_rng(1).standard_normal(10), AXIS)
    with pytest.raises(NotCalibratedError, match="below 0: the higher a score, the lower the"):
        fit_calibration(scores, -labels, AXIS)


def test_a_head_keeps_it_and_predicts_by_it(run, other, tmp_path):
    path, labels = other
    mine = tmp_path / "mine.safetensors"
    before = predict(run, path)
    found = calibrate(run, labels, path, out=mine, scale=["quality=1:5"])["quality"]
    after = predict(mine, path)
    truth = pd.read_csv(labels).set_index("clip_id")["quality"].drop("new003")  # has no features
    raw = before.set_index("clip_id")["prediction"]
    line = linregress(raw[truth.index], truth)
    assert found["slope"] == pytest.approx(line.slope)
    np.testing.assert_allclose(
        after["prediction"], line.intercept + line.slope * before["prediction"]
    )
    np.testing.assert_allclose(after["std"], line.slope * before["std"])
    assert set(after["scale"]) == {"1..5"}
    assert set(before["scale"]) == {"0..100"}
    # Left out one by one.
    errors = []
    for name in truth.index:
        rest = truth.drop(name)
        one = linregress(raw[rest.index], rest)
        errors.append(truth[name] - one.intercept - one.slope * raw[name])
    assert found["after"] == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert found["after"] < found["before"]
    # Again, from the scores as they came: the same.
    again = calibrate(mine, labels, path, scale=["quality=1:5"])["quality"]
    assert again == found


def test_the_command(run, other, tmp_path):
    from qamro_cache_cli.calibrate import main

    path, labels = other
    arguments = ["--head", run, "--labels", labels, "--cache", path, "--scale", "quality=1:5"]
    done = CliRunner().invoke(
        main, [*map(str, arguments), "--out", str(tmp_path / "h.safetensors")]
    )
    assert done.exit_code == 0, done.output
    assert "label = offset + slope * score" in done.stdout
    assert f"wrote {tmp_path / 'h.safetensors'}" in done.stderr

    def said(*more, labels=labels, cache=path):
        given = ["--head", run, "--labels", labels, "--cache", cache, *more]
        failed = CliRunner().invoke(main, list(map(str, given)))
        assert failed.exit_code in (1, 2)
        last = failed.stderr.splitlines()[-1]
        assert last.startswith("error: ")
        return last

    (tmp_path / "note.txt").write_text("mine")
    assert "is no head file" in said("--out", tmp_path / "note.txt")
    few = tmp_path / "few.csv"
    pd.read_csv(labels).head(7).to_csv(few, index=False)
    assert "6 clips have a score and a label, and a line needs 10" in said(labels=few)
    pd.read_csv(labels).rename(columns={"quality": "mos"}).to_csv(few, index=False)
    assert "say which column is which with --columns quality=COLUMN" in said(labels=few)
    assert f"{tmp_path / 'none.csv'}: no such file" in said(labels=tmp_path / "none.csv")


def test_audio_is_embedded_where_the_labels_say(sounds, tmp_path):
    """A folder with ids, or a manifest with paths: the same as of a cache; nobody else's file."""
    head, labels, cache, folder = sounds
    wanted = calibrate(head, labels, cache, out=tmp_path / "a.safetensors")
    found = calibrate(head, labels, out=tmp_path / "b.safetensors", audio=folder)
    assert found == wanted
    table = pd.read_csv(labels)
    table = table.assign(path=[folder / f"{name}.wav" for name in table["clip_id"]])
    table.drop(columns="clip_id").to_csv(tmp_path / "paths.csv", index=False)
    again = calibrate(head, tmp_path / "paths.csv", out=tmp_path / "c.safetensors")["quality"]
    assert again["clips"] == 14
    assert again["slope"] == pytest.approx(wanted["quality"]["slope"])
    table.assign(clip_id="x" + table["clip_id"]).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(QamroError, match=r"none of its clips \('xs00' for one\) is in"):
        calibrate(head, tmp_path / "other.csv", audio=folder)
    with pytest.raises(OptionError, match="by --cache or by --audio, not by both"):
        calibrate(head, labels, cache, audio=folder)
    with pytest.raises(OptionError, match="codec-quality comes with the package and stays"):
        calibrate("codec-quality", labels, cache)
    with pytest.raises(QamroError, match=r"no such head file; .*did you mean 'codec-quality'"):
        calibrate("codec-qualiti", labels, cache)


def test_clips_that_the_head_knows_do_not_count(cache, run, tmp_path, caplog):
    data = open_cache(cache)
    table = data.clips[["clip_id"]].assign(quality=data.labels.mean[:, 0]).dropna()
    table.to_csv(tmp_path / "same.csv", index=False)
    with pytest.raises(QamroError, match=r"0 clips have a .*\(beside 39 that the head was"):
        calibrate(run, tmp_path / "same.csv", cache, out=tmp_path / "x.safetensors")
    assert "the head was trained on 39 of the labeled clips" in caplog.text
    assert not (tmp_path / "x.safetensors").exists()


def test_clips_that_are_not_there_are_named(run, other, tmp_path, caplog):
    path, labels = other
    table = pd.read_csv(labels)
    table.loc[:1, "clip_id"] = ["typo", "other"]
    table.to_csv(tmp_path / "mine.csv", index=False)
    found = calibrate(run, tmp_path / "mine.csv", path, out=tmp_path / "x.safetensors")
    assert found["quality"]["clips"] == len(table) - 3
    # And that of new003, whose audio could not be read.
    assert "quality: 3 labeled clips have no score and do not count: typo, other, new003" in (
        caplog.text
    )
    table["clip_id"] += ".wav?"
    table.to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(QamroError, match=r"no clip that has a score is called as there \(typo.wav"):
        calibrate(run, tmp_path / "mine.csv", path, out=tmp_path / "y.safetensors")
    assert not (tmp_path / "y.safetensors").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"slope": "1"}, {"slope": -1.0}, {"clips": 3.5}, {"steps": [[1, 2], [2, 1]]},
        {"steps": [[1, 1], [1, 2]]}, {"steps": [[1], [2]]}, {"steps": [[1, 2]]},
        {"axis": {"name": "q", "low": 5, "high": 1, "guessed": False}}, {"more": 1},
    ],
)  # fmt: skip
def test_a_calibration_that_was_never_fitted_is_refused(run, tmp_path, change):
    good = fit_calibration(*scores_and_labels(20), AXIS).record()
    assert calibration_of({"quality": good}, "quality").record() == good
    head = replace(load_head(run), calibration={"quality": {**good, **change}})
    with pytest.raises(QamroError, match="damaged or not a head file"):
        save_head(tmp_path / "h.safetensors", head)


def relabeled(cache, folder, order, cv="group"):
    data = open_cache(cache)
    values, held = data.labels.mean[:, 0].copy(), np.flatnonzero(data.clips[cv] == HELD[cv])
    values[held] = values[np.roll(held, order)]
    path = folder / f"labels{order}.csv"
    data.clips[["clip_id", "system", "group"]].assign(quality=values).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("cv", ["group", "system"])
def test_held_out_labels_do_not_move_calibrated_predictions(cache, tmp_path, cv):
    tables = []
    for order in (0, 2):
        labels = relabeled(cache, tmp_path, order, cv)
        train(
            cache, tmp_path / f"{order}", labels=labels, scale=["quality=0:100"], cv=cv,
            calibrate=True, stop="inner" if cv == "system" else "fixed", **QUICK,
        )  # fmt: skip
        tables.append(pd.read_csv(tmp_path / f"{order}" / "predictions.csv"))
    held = tables[0][cv] == HELD[cv]
    assert held.any()
    np.testing.assert_array_equal(*(one["prediction"][held] for one in tables))
    assert (tables[0]["prediction"][~held] != tables[1]["prediction"][~held]).any()


def test_a_calibrated_run_is_lines_through_what_its_folds_know(cache, tmp_path):
    """One fold by another way: a run without its clips gives the line by its own held-out ones."""
    train(cache, tmp_path / "plain", cv="group", save_folds=True, **QUICK)
    record = train(cache, tmp_path / "run", cv="group", calibrate=True, save_folds=True, **QUICK)
    train(cache, tmp_path / "inside", cv="group", without=["group=G1"], **QUICK)
    inside = pd.read_csv(tmp_path / "inside" / "predictions.csv")
    known = inside.groupby("clip_id")[["prediction", "target"]].mean()
    line = linregress(known["prediction"], known["target"])
    plain, mine = (
        pd.read_csv(tmp_path / name / "predictions.csv").query("group == 'G1'")
        for name in ("plain", "run")
    )
    wanted = line.intercept + line.slope * plain["prediction"]
    np.testing.assert_allclose(mine["prediction"], wanted, rtol=1e-4)
    told = record["axes"]["quality"]["calibration"]
    assert told["folds"] == 8
    # The saved head's is by what the folds hold out; the fold's head has its own.
    everything = pd.read_csv(tmp_path / "plain" / "predictions.csv")
    everything = everything.groupby("clip_id")[["prediction", "target"]].mean()
    line = linregress(everything["prediction"], everything["target"])
    kept = load_head(tmp_path / "run").calibration["quality"]
    assert kept["slope"] == pytest.approx(line.slope, rel=1e-6)
    path = next(
        one for one in (tmp_path / "run" / "folds").iterdir()
        if load_head(one).training["held_out"] == "G1"
    )  # fmt: skip
    again = predict(path, cache).set_index("clip_id")["prediction"]
    by_clip = mine.groupby("clip_id")["prediction"].mean()
    np.testing.assert_allclose(again[by_clip.index], by_clip, rtol=1e-4)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["asked"]["calibrate"]
