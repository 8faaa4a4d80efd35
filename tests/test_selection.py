"""Which clips count: --only and --without, and the columns of a label file."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from qamro_cache_cli.evaluate import main as evaluate_command
from qamro_cache_cli.train import main as train_command
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.records import Axis, labels_from_means
from qamro_cache.datasets.selection import reference_like, select_rows
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.train import train

QUICK = {"epochs": 2, "widths": [4], "seeds": 1, "cv": "3"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("cache") / "emb.h5")


def test_rows_against_a_loop(cache):
    clips = open_cache(cache).clips
    only, without = ["system=S1", "system=S2", "prompt=a slow waltz"], ["group=G0"]
    expected = [
        clip.system in ("S1", "S2") and clip.prompt == "a slow waltz" and clip.group != "G0"
        for clip in clips.itertuples()
    ]
    assert select_rows(clips, only, without).tolist() == expected
    assert select_rows(clips, (), ()).all()


@pytest.mark.parametrize(
    ("only", "without", "words"),
    [
        (["system"], [], "not COLUMN=VALUE"),
        (["sytem=S1"], [], "no column 'sytem'; there are: .*did you mean 'system'"),
        ([], ["system=s1"], "no clip has system 's1'; did you mean 'S1'?"),
        ([], ["prompt=a slow walz"], "did you mean 'a slow waltz'"),
        (["system=S1"], ["system=S1"], "no clip is left of 40"),
    ],
)
def test_a_choice_that_cannot_be_is_one_line(cache, only, without, words):
    with pytest.raises(QamroError, match=words):
        select_rows(open_cache(cache).clips, only, without)


def test_what_is_left_out_is_neither_learned_from_nor_judged(cache, tmp_path):
    record = train(cache, tmp_path / "a", without=["system=S0"], only=["group=G1", "group=G2",
                   "group=G3", "group=G4"], **QUICK)  # fmt: skip
    assert record["split"].endswith("without system=S0 (16 clips)")
    table = pd.read_csv(tmp_path / "a" / "predictions.csv")
    assert not (table["system"] == "S0").any()
    assert set(table["group"]) == {"G1", "G2", "G3", "G4"}
    # The same as a cache that never had the others: their ratings change nothing.
    clips = open_cache(cache).clips
    labels = pd.DataFrame({"clip_id": clips["clip_id"], "quality": 50.0, "match": 3.0})
    kept = clips["group"].isin(["G1", "G2", "G3", "G4"]) & (clips["system"] != "S0")
    means = open_cache(cache).labels.mean
    labels.loc[kept, ["quality", "match"]] = means[kept.to_numpy()]
    labels.to_csv(tmp_path / "labels.csv", index=False)
    train(cache, tmp_path / "b", without=["system=S0"], only=["group=G1", "group=G2", "group=G3",
          "group=G4"], labels=tmp_path / "labels.csv", **QUICK)  # fmt: skip
    other = pd.read_csv(tmp_path / "b" / "predictions.csv")
    np.testing.assert_array_equal(table["prediction"], other["prediction"])
    ablate(cache, tmp_path / "grid", without="system=S0", axis="quality", resamples=0, **QUICK)
    assert (pd.read_csv(tmp_path / "grid" / "results.csv")["clips"] == 31).all()
    scored = evaluate(tmp_path / "a" / "predictions.csv", cache, without=["system=S1"], resamples=0)
    assert scored["axes"]["quality"]["clips"] == 12
    assert (scored["unlabeled"], scored["chosen"]) == (0, "without system=S1")


def test_the_commands_take_it_and_refuse_before_the_work(cache, tmp_path):
    base = ["--cache", str(cache), "--out", str(tmp_path / "run"), "--cv", "3", "--epochs", "1"]
    refused = CliRunner().invoke(train_command, [*base, "--without", "system=S9"])
    assert refused.exit_code == 2
    assert "there are: S0, S1" in refused.stderr
    refused = CliRunner().invoke(train_command, [*base, "--only", "group=G1", "--cv", "group"])
    assert refused.exit_code == 1
    assert "column, which has 1; use another --cv: " in refused.stderr
    assert refused.stderr.endswith("; or give the column with --labels\n")
    done = CliRunner().invoke(train_command, [*base, "--without", "system=S0", "--seeds", "1"])
    assert done.exit_code == 0, done.output
    assert "without system=S0" in done.stdout
    assert re.search(
        r"\d+ of 40 clips are left out: .*8 not chosen \(without system=S0\)\n",
        done.stderr,
    )
    asked = json.loads((tmp_path / "run" / "config.json").read_text())["asked"]
    assert asked["without"] == ["system=S0"]
    said = CliRunner().invoke(evaluate_command, [
        "--predictions", str(tmp_path / "run" / "predictions.csv"), "--labels", str(cache),
        "--without", "system=S1", "--only", "system=S2", "--resamples", "0",
    ])  # fmt: skip
    assert said.exit_code == 0, said.output
    assert "without system=S1" in said.stdout


def test_systems_that_look_like_references_and_anchors():
    clips = pd.DataFrame({"system": ["Hidden_Reference", "lp35", "good", "bad", "plain"] * 2})
    labels = labels_from_means((Axis("q", 0, 100),), np.array([[70.0], [50], [99], [1], [60]] * 2))
    assert reference_like(clips, labels) == {
        "Hidden_Reference": "by its name",
        "lp35": "by its name",
        "good": "its mean on q is 99",
        "bad": "its mean on q is 1",
    }


def test_a_label_files_systems_groups_and_splits_count(cache, tmp_path):
    """As relabel applies them: a column that stands there is not dropped without a word."""
    ids = open_cache(cache).clips["clip_id"]
    frame = pd.DataFrame({"clip_id": ids, "quality": np.linspace(1, 99, len(ids))})
    frame["system"] = [f"T{k % 4}" for k in range(len(ids))]
    frame["split"] = ["train"] * 30 + ["test"] * 10
    frame.to_csv(tmp_path / "labels.csv", index=False)
    options = {**QUICK, "labels": tmp_path / "labels.csv", "cv": ""}
    record = train(cache, tmp_path / "run", **options)
    assert record["split"].startswith("fixed split, judged on test")
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert set(table["system"]) == {"T0", "T1", "T2", "T3"}
    assert len(table) == 10
    ablate(cache, tmp_path / "grid", resamples=0, **options)
    assert (pd.read_csv(tmp_path / "grid" / "results.csv")["systems"] == 4).all()
