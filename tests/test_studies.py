"""Studies: learning curves over clips, systems and raters, and heads that another test judges."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.request import ablate_request
from qamro_cache.experiments.thinned import thinned
from qamro_cache.experiments.train import train
from qamro_cache.experiments.transfer import calibrated
from qamro_cache.scoring.predict import predict

ROOT = Path(__file__).resolve().parents[1]
QUICK = {"epochs": 4, "widths": [[8]], "seeds": 2, "lr": 0.02, "axis": ["quality"]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("cache") / "emb.h5", split=True, own_score=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    return write_synthetic(folder / "other.h5", clips=60, seed=1, prefix="other", own_score=True)


def part_of(cache, tmp_path, **options):
    (part,) = ablate_request(cache, tmp_path / "none", "", {"axis": ["quality"], **options}).parts
    return part


@pytest.mark.parametrize(("cv", "stop"), [("group", "fixed"), ("split", "inner"), ("4", "inner")])
def test_smaller_subsets_lie_in_larger_ones(cache, tmp_path, cv, stop):
    part = part_of(cache, tmp_path, cv=cv, stop=stop)
    whole, clips = part.held_out.folds, part.clips
    system = clips.systems()
    learned = whole.train | whole.validation
    before = None
    for systems, count in ((2, 6), (2, 9), (3, 9), (3, 0), (0, 9), (0, 20), (0, 0)):
        folds = thinned(whole, clips, count, systems)
        np.testing.assert_array_equal(folds.test, whole.test)
        assert not (folds.train & ~whole.train).any()
        assert not (folds.validation & ~whole.validation).any()
        kept = folds.train | folds.validation
        if count:
            assert (kept.sum(1) == count).all()
        for one in kept:
            of = len(set(system[one]))
            assert of == systems if systems and not count else of <= (systems or 5)
        if before is not None and systems == before[0]:
            assert not (before[1] & ~kept).any(), "nested"
        before = systems, kept
    np.testing.assert_array_equal(before[1], learned)
    if cv == "group":
        assert len({one.tobytes() for one in thinned(whole, clips, 9, 0).train}) == len(learned)


def test_without_systems_or_clips_it_is_said(cache, tmp_path, caplog):
    caplog.set_level("INFO")
    part = part_of(cache, tmp_path, cv="group")
    none = replace(part.clips, table=part.clips.table.assign(system=""))
    with pytest.raises(QamroError, match="no clip left to learn from"):
        thinned(part.held_out.folds, none, 0, 2)
    # More than there are: as all, and not a second cell of the same where all are one already.
    parts = ablate_request(cache, tmp_path, "", {"cv": "group", "clips": [9, 500, 0]}).parts
    assert len(parts) == 2
    assert "500 clips: the folds have no more" in caplog.text
    assert part_of(cache, tmp_path, cv="group", clips=500).held_out.folds.train.sum(1).max() == 35


def test_a_cell_of_few_clips_is_a_run_on_these_clips(cache, tmp_path):
    """By another way: labels for these training clips alone."""
    options = {**QUICK, "stop": "fixed"}
    ablate(cache, tmp_path / "study", cv="split", clips=[8, 0], **options)
    part = part_of(cache, tmp_path, cv="split", stop="fixed", clips=8)
    known = (part.held_out.folds.train | part.held_out.folds.test)[0]
    table = part.clips.table[["clip_id", "system", "group", "split"]][known]
    table = table.assign(quality=part.clips.labels.mean[known, 0])
    table.to_csv(tmp_path / "few.csv", index=False)
    options |= {"widths": (8,), "labels": tmp_path / "few.csv", "scale": ["quality=0:100"]}
    alone = train(cache, tmp_path / "alone", cv="split", **options)
    models = alone["axes"]["quality"]["models"]
    study = pd.read_csv(tmp_path / "study" / "study.csv").query("x == 8 and figure == 'clip_srcc'")
    for mine, theirs in (("head", "qamro head"), ("ridge", "ridge")):
        (value,) = study["value"][study["model"] == mine]
        assert value == pytest.approx(models[theirs]["metrics"]["clip_srcc"]["value"], abs=1e-9)


def test_the_figures_data_is_that_of_the_summary(cache, tmp_path):
    grid = {"clips": [10, 0], "raters": [1, 0], **QUICK}
    ablate(cache, tmp_path, cv="group", **grid)
    study = pd.read_csv(tmp_path / "study.csv")
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert study["synthetic"].all()
    assert set(study["study"]) == {"clips", "raters"}
    one = study[study["figure"] == "group_srcc"]
    for name, few, most in (("clips", 10, 34.125), ("raters", 1, 4)):
        mine = one[(one["study"] == name) & (one["model"] == "head")]
        assert sorted(set(mine["x"])) == [few, most]
        for _, row in mine.iterrows():
            rest, value = row["cell"].split("=")
            columns = {"clips": "train_clips", "raters": "raters"}
            same = summary[(summary["model"] == "head") & (summary[columns[rest]] == int(value))]
            same = same[same[columns[name]] == (0 if row["x"] == most else few)]
            assert same["clips"].item() == 39
            assert row["value"] == same["group_srcc"].item()
            assert row["low"] == same["group_srcc_low"].item()
    # Baselines know nothing of raters; the ceiling has no x.
    assert set(one["model"][one["study"] == "raters"]) == {"head", "ceiling"}
    assert {"ridge", "kNN", "ceiling"} <= set(one["model"][one["study"] == "clips"])
    assert one["x"][one["model"] == "ceiling"].isna().all()
    # Another grid in the same folder leaves no data of this one.
    ablate(cache, tmp_path, cv="group", **{**QUICK, "lr": [0.02, 0.01]})
    assert not (tmp_path / "study.csv").exists()


def test_all_seeds_learn_from_the_same_ratings(cache, tmp_path, monkeypatch):
    """Averaged, heads of several draws would have learned from more ratings than one."""
    plans = []
    from qamro_cache.experiments import ablate as module

    real = module.make_plan
    monkeypatch.setattr(module, "make_plan", lambda *a: plans.append(real(*a)) or plans[-1])
    ablate(cache, tmp_path, cv="3", raters=[1, 0], **QUICK)
    (plan,) = plans
    rows = {(cell, job.target) for cell, job in zip(plan.cells, plan.jobs, strict=True)}
    assert len(rows) == 2
    one, every = (plan.targets.labels[row].numpy() for row in (1, 0))
    assert (one != every).mean() > 0.9


def test_another_test_judges_as_predict_and_evaluate_do(cache, other, tmp_path):
    best = ablate(cache, tmp_path / "a", grid="transfer", onto=other, calibrate=[0, 20], **QUICK)
    assert best["questions"][0]["split"] == "trained on 39 clips of tiny, judged on 59 of tiny"
    summary = pd.read_csv(tmp_path / "a" / "summary.csv")
    options = {**QUICK, "widths": (8,)}
    train(cache, tmp_path / "b", cv="3", **options)
    predict(tmp_path / "b", other, out=tmp_path / "p.csv")
    found = evaluate(tmp_path / "p.csv", other)["axes"]["quality"]
    raw = summary[(summary["head"] == "mlp") & (summary["calibrate"] == 0)]
    assert raw["seeds"].item() == 2
    for name in ("clip_srcc", "clip_mse", "system_lcc"):
        assert raw[name].item() == pytest.approx(found["metrics"][name]["value"], rel=1e-5)
    assert raw["clip_srcc_low"].item() == pytest.approx(found["metrics"]["clip_srcc"]["low"], 1e-5)
    assert {"fake mos", "ridge, trained there"} <= set(summary["model"])
    study = pd.read_csv(tmp_path / "a" / "study.csv")
    assert set(study["x"][study["model"] == "head"]) == {0, 20}
    assert set(study["cell"].dropna()) == {"head=mlp", "head=ridge"}


def test_a_line_comes_from_other_clips():
    """Against numpy's own fit; no clip's label has a say in its calibrated score."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 6)
    pred, labels = rng.standard_normal((2, 60))
    labels = 3 + 2 * pred + 0.3 * labels
    labels[7] = np.nan

    def by_line(labels, groups, count):
        both, used = calibrated(np.stack([pred - 1, pred + 1]), labels, groups, count)
        return both.mean(0), used

    found, used = by_line(labels, groups, 1000)
    assert used == pytest.approx(59 * 4 / 5)
    for group in range(10):
        mine = groups == group
        # Each part is two groups: which, is told by who shares the line.
        slope = np.polyfit(pred[mine], found[mine], 1)
        part = np.isclose(np.polyval(slope, pred), found)
        rest = ~part & np.isfinite(labels)
        assert part.sum() == 12
        np.testing.assert_allclose(slope, np.polyfit(pred[rest], labels[rest], 1), rtol=1e-9)
    changed = labels.copy()
    changed[groups == 4] += 100
    again, _ = by_line(changed, groups, 1000)
    np.testing.assert_array_equal(found[groups == 4], again[groups == 4])
    assert (found != again).any()
    for count in (2, 20):
        few, used = by_line(labels, None, count)
        assert used == count
        assert np.isfinite(few).all()
    one, _ = by_line(labels, None, 1)
    assert np.isclose(one[:, None], labels).any(1).all(), "a line through one clip is its label"
    assert np.isnan(by_line(np.full(60, np.nan), None, 5)[0]).all()


def test_what_does_not_go_together_is_one_line(cache, other, tmp_path):
    def refused(words, error=OptionError, onto=other, **options):
        given = {"onto": onto, "axis": ["quality"], **options}
        with pytest.raises(error, match=words) as found:
            ablate_request(cache, tmp_path / "out", "", given)
        assert "\n" not in str(found.value)

    refused("--calibrate is for the clips of another test", onto=None, calibrate=20)
    refused("leave --cv out", cv="group")
    refused("leave --raters out", raters=[1, 2])
    refused("leave --nested out", nested=True)
    stranger = write_synthetic(tmp_path / "stranger.h5", name="stranger", own_score=True)
    refused("embeddings of another encoder", QamroError, onto=stranger)
    table = open_cache(other).clips[["clip_id"]].assign(mos=3.0, effort=2.0)
    table.to_csv(tmp_path / "labels.csv", index=False)
    from qamro_cache.cache.edit import relabel_cache

    relabel_cache(other, tmp_path / "labels.csv", tmp_path / "named.h5")
    with pytest.raises(QamroError, match="has no axis 'quality'"):
        ablate(cache, tmp_path / "out", onto=tmp_path / "named.h5", **QUICK)


def test_the_examples_of_the_documents_run(cache, other, tmp_path, monkeypatch):
    from qamro_cache_cli.ablate import main

    text = (ROOT / "docs" / "training.md").read_text()
    (block,) = re.findall(r"## Studies\n.*?<!-- tested -->\n```sh\n(.*?)```", text, re.DOTALL)
    commands = block.replace("\\\n", " ").strip().splitlines()
    assert len(commands) == 4
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emb.h5").symlink_to(cache)
    (tmp_path / "other.h5").symlink_to(other)
    quick = ["--epochs", "1", "--widths", "4", "--seeds", "1", "--axis", "quality"]
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "qamro-ablate"
        done = CliRunner().invoke(main, [*arguments, *quick])
        assert done.exit_code == 0, done.output
        out = tmp_path / arguments[arguments.index("--out") + 1]
        assert (out / "study.csv").exists()
        assert json.loads((out / "best.json").read_text())["synthetic"]
