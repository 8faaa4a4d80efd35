"""Rows for trackers: one a cell, with the numbers of the tables."""

import json
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from click.testing import CliRunner
from qamro_cache_cli.ablate import main as ablate_command
from qamro_cache_cli.train import main as train_command
from synthetic_cache import write_synthetic

from qamro_cache import ablate, track, train
from qamro_cache.encoders import support
from qamro_cache.errors import OptionError, QamroError

QUICK = {"cv": "3", "epochs": 1, "widths": (4,)}


class Notes:
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.rows, self.open = [], None

    def init(self, *, project, name, config):
        assert self.open is None, "a row was not ended"
        self.open = {"project": project, "name": name, "config": config, "logged": []}

    def log(self, metrics):
        self.open["logged"].append(metrics)

    def finish(self):
        self.rows.append(self.open)
        self.open = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cache, a run and a grid of 3 cells, 2 seeds and 3 folds: all SYNTHETIC."""
    folder = tmp_path_factory.mktemp("tracked")
    write_synthetic(folder / "emb.h5", clips=24)
    train(folder / "emb.h5", folder / "run", seeds=2, **QUICK)
    (folder / "few.toml").write_text(
        '[grid]\nloss = "mse+qamro"\nalpha = [0.1, 0.5]\n[[cells]]\nloss = "huber"\n'
    )
    many = {"grid": folder / "few.toml", "seeds": 2}
    ablate(folder / "emb.h5", folder / "grid", **many, **QUICK)
    return folder


def test_a_grid_is_a_row_a_cell(folder):
    notes = Notes()
    assert track(folder / "grid", notes, "mine") == 3
    assert [len(row["logged"]) for row in notes.rows] == [1] * 3
    assert {row["project"] for row in notes.rows} == {"mine"}
    names = ["loss=mse+qamro, alpha=0.1", "loss=mse+qamro, alpha=0.5", "loss=huber"]
    assert [row["name"] for row in notes.rows] == names
    summary = pd.read_csv(folder / "grid" / "summary.csv")
    summary = summary[summary["model"] == "head"]
    assert len(summary) == 6, "three cells on two axes"
    for row in notes.rows:
        config, (logged,) = row["config"], row["logged"]
        mine = summary[summary["loss"] == config["loss"]]
        if "alpha" in config:
            mine = mine[mine["alpha"] == config["alpha"]]
        assert len(mine) == 2
        for _, line in mine.iterrows():
            for name in ("clip_srcc", "clip_srcc_low", "system_mse_high", "mcs_p"):
                known = logged.get(f"{line['axis']}/{name}", float("nan"))
                assert known == pytest.approx(line[name], rel=1e-12, nan_ok=True)
        assert "match/clip_srcc" in logged
        assert config["dataset"] == "tiny"
        assert config["synthetic"] == "True"
        assert (config["seeds"], config["epochs"], config["widths"]) == (2, 1, "4")


def test_a_run_is_one_row(folder):
    notes = Notes()
    assert track(folder / "run", notes) == 1
    (row,) = notes.rows
    assert (row["project"], row["name"]) == ("qamro-cache", "run")
    record = json.loads((folder / "run" / "metrics.json").read_text())
    for axis in ("quality", "match"):
        metric = record["axes"][axis]["models"]["qamro head"]["metrics"]["clip_srcc"]
        for end, part in (("", "value"), ("_low", "low"), ("_high", "high")):
            assert row["logged"][0][f"{axis}/clip_srcc{end}"] == metric[part]
    assert row["config"]["lr"] == 5e-4
    assert row["config"]["layer_norm"] == "false"


def test_tensorboard_reads_the_rows(folder, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    assert track(folder / "grid", f"tensorboard:{tmp_path}") == 3
    summary = pd.read_csv(folder / "grid" / "summary.csv").query("model == 'head'")
    files = sorted(tmp_path.rglob("events.*"))
    assert [path.parent.name for path in files] == [
        "000 loss=mse+qamro,_alpha=0.1", "001 loss=mse+qamro,_alpha=0.5", "002 loss=huber"
    ]  # fmt: skip
    lines = summary[summary["axis"] == "quality"].iterrows()
    for path, (_, line) in zip(files, lines, strict=True):
        events = EventAccumulator(str(path)).Reload()
        (scalar,) = events.Scalars("quality/clip_srcc")
        assert scalar.value == pytest.approx(line["clip_srcc"], rel=1e-6)
        said = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        hparams = HParamsPluginData.FromString(said).session_start_info.hparams
        assert hparams["loss"].string_value == line["loss"]
        assert hparams["batch_size"].number_value == 256
        if pd.notna(line["alpha"]):
            assert hparams["alpha"].number_value == line["alpha"]


@pytest.mark.parametrize("command", [train_command, ablate_command])
def test_the_commands_track(command, folder, tmp_path, monkeypatch):
    notes = Notes()
    monkeypatch.setattr(support, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "trackio", notes)
    out = tmp_path / "out"
    ridge = ["--head", "ridge", "--axis", "quality", "--cv", "3", "--resamples", "0"]
    line = ["--cache", str(folder / "emb.h5"), "--out", str(out), "--interval", "bootstrap"]
    done = CliRunner().invoke(command, [*line, *ridge, "--track", "trackio:voices"])
    assert done.exit_code == 0, done.output
    assert f"tracked: 1 row of {out}" in done.stderr
    (row,) = notes.rows
    assert (row["project"], row["config"]["head"]) == ("voices", "ridge")
    assert set(row["logged"][0]) >= {"quality/clip_srcc", "quality/clip_mse"}


def test_trackers_by_name(folder, monkeypatch):
    monkeypatch.setattr(support, "find_spec", lambda name: name)
    notes = Notes()
    monkeypatch.setitem(sys.modules, "wandb", notes)
    assert track(folder / "grid", "wandb:voices") == 3
    assert {row["project"] for row in notes.rows} == {"voices"}
    told = []
    names = ("set_experiment", "start_run", "log_params", "log_metrics", "end_run")
    module = SimpleNamespace(
        **{name: lambda *a, name=name, **k: told.append((name, a, k)) for name in names}
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    assert track(folder / "run", "mlflow") == 1
    assert [name for name, *_ in told] == list(names)
    assert told[0][1] == ("qamro-cache",)
    assert told[3][1][0]["quality/clip_srcc"] == notes_of(folder)["quality/clip_srcc"]


def notes_of(folder):
    notes = Notes()
    track(folder / "run", notes)
    return notes.rows[0]["logged"][0]


def test_what_cannot_be_tracked_is_refused_before_the_work(folder, tmp_path, monkeypatch):
    def refused(command, to, code):
        out = tmp_path / "out"
        cache = str(folder / "emb.h5")
        done = CliRunner().invoke(command, ["--cache", cache, "--out", str(out), "--track", to])
        assert done.exit_code == code, done.output
        assert not out.exists()
        (line,) = [one for one in done.stderr.splitlines() if one.startswith("error: ")]
        return line

    assert "did you mean 'tensorboard'?" in refused(train_command, "tensorbord:x", 2)
    assert "name its folder too, tensorboard:DIR" in refused(ablate_command, "tensorboard", 2)
    (tmp_path / "file").write_text("")
    refused(train_command, f"tensorboard:{tmp_path / 'file' / 'runs'}", 1)
    monkeypatch.setattr(support, "find_spec", lambda name: None)
    assert "package mlflow is not installed; run: pip install" in refused(
        train_command, "mlflow", 2
    )
    monkeypatch.setattr(support, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert "trackio cannot be loaded" in refused(train_command, "trackio", 1)
    with pytest.raises(OptionError, match="there are: tensorboard, trackio, wandb, mlflow"):
        track(folder / "run", "nothing")
    with pytest.raises(QamroError, match=r"holds neither metrics\.json nor best\.json"):
        track(tmp_path, Notes())


def test_a_tracker_that_fails_is_one_line_and_its_row_is_ended(folder):
    class Failing(Notes):
        def log(self, metrics):
            raise ConnectionError("no route\nto the server")

    failing = Failing()
    with pytest.raises(QamroError, match=r"took no row 'run' \(no route\); the results are in"):
        track(folder / "run", failing)
    assert failing.open is None
