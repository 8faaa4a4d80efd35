"""A listening test as people export it, through the commands: extract, relabel, train, judge."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from click.testing import CliRunner, Result
from fake_encoder import INFO
from qamro_cache_cli.cache import main as cache_command
from qamro_cache_cli.evaluate import main as evaluate_command
from qamro_cache_cli.extract import main as extract_command
from qamro_cache_cli.predict import main as predict_command
from qamro_cache_cli.train import main as train_command

from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.records import Axis
from qamro_cache.encoders import registry


@pytest.fixture(autouse=True)
def fake_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.list_encoders()
    monkeypatch.setattr(registry, "list_encoders", lambda: [*known, INFO])


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments])  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty clips of noise, their ratings exported by a German spreadsheet."""
    rng = np.random.default_rng(0)
    lines = ["Dateiname;Methode;Song;Note;Take"]
    for n in range(30):
        soundfile.write(tmp_path / f"c{n}.wav", rng.standard_normal(4800) * 0.1, 48000)
        note = f"{40 + n % 7 * 5.5:g}".replace(".", ",")
        lines.append(f"c{n}.wav;M{n % 3};S{n % 5};{note};{n % 3}")
    (tmp_path / "clips.csv").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    return tmp_path


TOLD = ("--columns", "path=Dateiname,system=Methode", "--columns", "quality=note")


def test_extract_relabel_train_predict_and_evaluate(folder: Path) -> None:
    table, emb = folder / "clips.csv", folder / "emb.h5"
    ask = ("--manifest", table, "--encoder", "fake", "--out", emb, *TOLD)
    unsaid = run(extract_command, "--manifest", table, "--encoder", "fake", "--out", emb)
    assert unsaid.exit_code == 1
    assert "there is no column 'path'" in unsaid.stderr
    assert "--columns path=Dateiname" in unsaid.stderr
    done = run(extract_command, *ask, "--axis", "quality")
    assert done.exit_code == 0, done.output
    assert "scales guessed from the ratings: quality 0 to 100" in done.stderr
    cache = open_cache(emb)
    assert cache.labels.axes == (Axis("quality", 0, 100),)
    assert cache.clips["clip_id"].tolist() == [f"c{n}" for n in range(30)]
    assert cache.clips["system"].tolist() == [f"M{n % 3}" for n in range(30)]
    np.testing.assert_array_equal(cache.labels.mean[:, 0], [40 + n % 7 * 5.5 for n in range(30)])

    # The same again names the scale in the cache that is there.
    assert run(extract_command, *ask, "--axis", "quality", "--scale", "quality=0:80").exit_code == 0
    axis = open_cache(emb).labels.axes[0]
    assert (axis.high, axis.guessed) == (80, False)
    assert run(cache_command, "relabel", emb, "--scale", "quality=-10:90").exit_code == 0
    assert open_cache(emb).labels.axes == (Axis("quality", -10, 90),)
    told = ("--columns", "clip_id=Dateiname,quality=Note")
    new = folder / "new.h5"
    ask = ("relabel", emb, "--labels", table, *told, "--scale", "Take=0:7", "--out", new)
    done = run(cache_command, *ask)
    assert done.exit_code == 0, done.output
    assert open_cache(new).labels.axes == (Axis("quality", -10, 90), Axis("Take", 0, 7))
    assert "guessed" not in done.stderr

    out = folder / "run"
    train = ("--cache", emb, "--out", out, "--seeds", 1, "--epochs", 1, "--labels", table, *told)
    done = run(train_command, *train, "--axis", "quality", "--scale", "quality=0:100")
    assert done.exit_code == 0, done.output
    head = out / "head.safetensors"
    predictions = folder / "p.csv"
    ask = ("--head", head, "--manifest", table, "--out", predictions)
    done = run(predict_command, *ask, "--columns", "path=dateiname")
    assert done.exit_code == 0, done.output
    frame = pd.read_csv(predictions)
    assert set(frame["scale"]) == {"0..100"}
    assert frame["clip_id"].tolist() == [f"c{n}" for n in range(30)]
    ask = ("--predictions", predictions, "--labels", table, "--json", "--resamples", 20)
    done = run(evaluate_command, *ask, *told, "--include-trained")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["axes"]["quality"]["clips"] == 30
    for scale, found in (("-20:120", [-20, 120]), ("0:100", [0, 100])):
        done = run(
            evaluate_command, *ask, *told, "--include-trained", "--scale", f"quality={scale}"
        )
        assert json.loads(done.stdout)["axes"]["quality"]["scale"] == found


def test_wrong_usage_is_one_line(folder: Path) -> None:
    table, emb = folder / "clips.csv", folder / "emb.h5"
    ask = ("--manifest", table, "--encoder", "fake", "--out", emb, *TOLD, "--axis", "quality")
    assert run(extract_command, *ask).exit_code == 0
    train = ("--cache", emb, "--out", folder / "run")
    cases: list[tuple[object, tuple[object, ...], int, str]] = [
        (extract_command, (*ask, "--scale", "quality=9"), 2, "AXIS=LOW:HIGH"),
        (extract_command, (*ask, "--columns", "x"), 2, "NAME=COLUMN"),
        (extract_command, (*ask, "--scale", "quality=0:50"), 1,
         "the first: 51 in column 'quality'"),
        (extract_command, (*ask, "--scale", "Quality=0:100"), 2, "quality; did you mean"),
        (extract_command, (*ask[:-1], "Quality"), 2, "no column is the axis 'Quality'"),
        (extract_command, ("--manifest", "none.csv", "--encoder", "fke", "--out", emb), 2,
         "no encoder 'fke'"),
        (extract_command, ("--dataset", "demo", "--dry-run", "--columns", "a=b"), 2, "--manifest"),
        (train_command, (*train, "--scale", "quality=5:1"), 2, "AXIS=LOW:HIGH"),
        (train_command, (*train, "--columns", "a=b"), 2, "--labels FILE"),
        (train_command, (*train, "--scale", "quality=0:50"), 1, "clip 'c2' has 51 on 'quality'"),
        (cache_command, ("relabel", emb), 2, "give --labels FILE, or --scale"),
        (cache_command, ("relabel", emb, "--columns", "a=b"), 2, "--labels FILE"),
        (evaluate_command, ("--predictions", table, "--labels", emb, "--columns", "a=b"), 2,
         "--labels FILE"),
        (predict_command, ("--head", table, "--cache", emb, "--out", folder / "p", "--columns",
                           "a=b"), 2, "--manifest FILE"),
    ]  # fmt: skip
    before = emb.read_bytes()
    for command, arguments, code, words in cases:
        result = run(command, *arguments)
        assert (result.exit_code, words in result.stderr) == (code, True), result.output
        assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert emb.read_bytes() == before


def test_a_dry_run_points_out_what_is_no_rating(folder: Path) -> None:
    ask = ("--manifest", folder / "clips.csv", "--dry-run", "--json", *TOLD)
    report = json.loads(run(extract_command, *ask).stdout)
    assert list(report["axes"]) == ["quality", "Take"]
    messages = [one["message"] for one in report["problems"] if one["code"] == "no-rating"]
    assert len(messages) == 1
    assert messages[0].startswith("Take: looks like no rating: it is the same for all clips of a s")
    report = json.loads(run(extract_command, *ask, "--axis", "quality").stdout)
    assert list(report["axes"]) == ["quality"]
    assert "no-rating" not in {one["code"] for one in report["problems"]}


def test_a_real_test_as_published_and_as_exported(shared_data: Path, tmp_path: Path) -> None:
    """4,904 real ratings, a row each, against pandas' own means."""
    release = shared_data / "cvssp-separation"
    rows = pd.read_csv(release / "data" / "ratings.csv")
    rows["url"] = "site/" + rows["url"].str.replace(".wav", ".flac")
    rows.to_csv(tmp_path / "raw.csv", index=False)
    told = ["path=url,clip_id=url,system=sound,group=page,axis=experiment"]
    whole = load_manifest(tmp_path / "raw.csv", release, columns=told, scale=["quality=0:100"])
    wanted = rows.pivot_table(index="url", columns="experiment", values="rating", aggfunc="mean")
    wanted = wanted.loc[whole.clips["clip_id"]]
    names = [axis.name for axis in whole.labels.axes]
    np.testing.assert_allclose(whole.labels.mean, wanted[names].to_numpy(), rtol=1e-12)
    assert whole.labels.ratings is not None
    assert len(whole.labels.ratings.score) == len(rows)
    assert whole.labels.axes == (Axis("interferer", 0, 100), Axis("quality", 0, 100))
    assert all(Path(path).is_file() for path in whole.clips["path"])
    # And its means, as a spreadsheet of a country with decimal commas saves them.
    means = rows[rows["experiment"] == "quality"].groupby(["url", "sound"], as_index=False)
    table = means["rating"].mean().rename(columns={"url": "File Name", "sound": "Condition"})
    table.to_csv(tmp_path / "means.csv", sep=";", decimal=",", index=False, encoding="utf-8-sig")
    told = ["clip_id=File Name,quality=rating"]
    exported = load_manifest(tmp_path / "means.csv", release, columns=told)
    expected = wanted.loc[exported.clips["clip_id"], "quality"].to_numpy()
    np.testing.assert_allclose(exported.labels.mean[:, 0], expected, rtol=1e-12)
    assert exported.clips["system"].nunique() == rows["sound"].nunique()
