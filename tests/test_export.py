"""Exported heads against predict: what goes in is made by loops over the cache's windows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from qamro_cache_cli.head import main as command
from synthetic_cache import write_synthetic

from qamro_cache import export_head, open_cache, predict, train
from qamro_cache.cache.edit import relabel_cache
from qamro_cache.datasets.records import Axis
from qamro_cache.encoders import support
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments import train as training
from qamro_cache.heads.averaged import scale_of
from qamro_cache.heads.calibration import Calibration
from qamro_cache.heads.file import load_head, save_head
from qamro_cache.heads.head import Ensemble
from qamro_cache.integrations.program import HeadProgram

QUICK = {"cv": "2", "epochs": 2, "lr": 0.01, "widths": (5,), "seeds": 3}
RIDGE = {"cv": "2", "head": "ridge"}
#: How a head is trained, by what is special about it.
HEADS = {
    "plain": {**QUICK},
    "one member": {**RIDGE, "inputs": "concat"},
    "bounded": {**QUICK, "output": "bounded", "layer_norm": True, "activation": "gelu"},
    "gaussian": {**QUICK, "output": "gaussian", "inputs": "products", "activation": "tanh"},
    "largest": {**QUICK, "pooling": "max", "head": "linear", "widths": ()},
    "layers": {**QUICK, "feature": "layers"},
    "mixed": {**QUICK, "feature": "layers", "layers": "mixed"},
    "scores": {**QUICK, "pooling": "scores", "inputs": "concat"},
    "attention": {**QUICK, "feature": "layers", "layers": "mixed", "pooling": "attention"},
    "audiobox": {**QUICK, "feature": "layers", "head": "audiobox"},
    "reference": {**RIDGE, "context": "reference"},
    "both": {**QUICK, "context": "both"},
    "project": {
        **QUICK,
        "context": "group",
        "feature": "project(fake.embedding + std(fake.layers), 4) + other.embedding + "
        "fake.embedding",
    },
    "knn": {"cv": "2", "head": "knn"},
    "svr": {"cv": "2", "head": "svr", "pooling": "max", "inputs": "concat"},
    # What is made of them: see `made_of`.
    "line": {},
    "steps": {},
    "ensemble": {},
}
#: What an ensemble's heads are, and how often each counts.
MEMBERS = {"plain": 3, "knn": 1, "both": 2, "project": 1}
#: Of which heads the clips' vectors are, where these are not of the name.
LIKE = {"line": "plain", "steps": "plain"}


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Two encoders' caches of the same clips, each with its group's first clip for reference."""
    folder = tmp_path_factory.mktemp("caches")
    made = []
    for name, seed in (("fake", 0), ("other", 0)):
        path = write_synthetic(folder / f"{name}.h5", name=name, seed=seed, factor=1 + seed)
        clips = open_cache(path).clips
        first = clips[clips["system"] == "S0"].set_index("group")["clip_id"]
        table = pd.DataFrame({"clip_id": clips["clip_id"], "reference": clips["group"].map(first)})
        table.to_csv(folder / "labels.csv", index=False)
        relabel_cache(path, folder / "labels.csv", folder / f"{name}-named.h5")
        made.append(folder / f"{name}-named.h5")
    return made


def pooled(cache, feature, how):
    """Each clip's windows by a loop: mean, max or std [C, ...], NaN for a clip without any."""
    windows, offsets, weights = (part.double().numpy() for part in cache.read(feature))
    out = np.full((len(offsets) - 1, *windows.shape[1:]), np.nan)
    for k in range(len(out)):
        part, share = windows[int(offsets[k]) : int(offsets[k + 1])], weights
        share = weights[int(offsets[k]) : int(offsets[k + 1])]
        if len(part):
            share = (share / share.sum()).reshape(-1, *[1] * (part.ndim - 1))
            mean = (share * part).sum(0)
            spread = np.sqrt((share * (part - mean) ** 2).sum(0))
            out[k] = {"mean": mean, "max": part.max(0), "std": spread}[how]
    return out


def padded(cache, feature, flat):
    """Every clip's windows [C, most, ...] and their weights, 0 where it has fewer."""
    windows, offsets, weights = (part.double().numpy() for part in cache.read(feature))
    counts = np.diff(offsets).astype(int)
    shares = np.zeros((len(counts), counts.max()))
    out = np.zeros((*shares.shape, *windows.shape[1:]))
    for k, count in enumerate(counts):
        start = int(offsets[k])
        out[k, :count] = windows[start : start + count]
        shares[k, :count] = weights[start : start + count]
    return (out.reshape(*shares.shape, -1) if flat else out), shares


def made_of(name, runs):
    """A calibrated head, or an ensemble; by a line of quality, by steps of both."""
    if name == "ensemble":
        heads = [replace(load_head(runs(one)), trained=None) for one in MEMBERS]
        axes = tuple(one.axis for one in heads[0].axes)
        times = tuple((count, 1) for count in MEMBERS.values())
        return Ensemble(tuple(heads), times, axes, calibration=calibration(quality=None))
    head = load_head(runs(LIKE[name]))
    if name == "line":
        return replace(head, calibration=calibration(quality=None))
    labels = (1.0, 2.0, 2.0, 4.0, 7.0)
    of = {"quality": (20.0, 45.0, 50.0, 51.0, 80.0), "match": (1.5, 2.5, 2.9, 3.1, 4.5)}
    return replace(head, calibration=calibration(**{k: (of[k], labels) for k in of}))


def calibration(**steps):
    line = (0.06, 0.05, 0.07, 1.0, 0.5, 1.5)
    return {
        axis: Calibration(Axis("mine", 1.0, 7.0), 40, *line, one).record()
        for axis, one in steps.items()
    }


def given(name, caches):
    """What goes into a head, by name, and the ids of its clips."""
    if name == "ensemble":
        both, clips = given("both", caches)
        more, _ = given("project", caches)
        return {**both, "clip_2": more["clip"], "group_2": more["group"]}, clips
    name = LIKE.get(name, name)
    fake, other = map(open_cache, caches)
    clips, asked = fake.clips, HEADS[name]
    feature = "layers" if asked.get("feature") == "layers" else "embedding"
    mixes = asked.get("layers") == "mixed" or asked.get("head") == "audiobox"
    found = {}
    if name in ("scores", "attention", "audiobox"):
        found["clip"], found["weights"] = padded(fake, feature, not mixes)
    else:
        how = "max" if asked.get("pooling") == "max" else "mean"
        values = pooled(fake, feature, how)
        found["clip"] = values if mixes else values.reshape(len(clips), -1)
    if name == "project":
        spread = pooled(fake, "layers", "std").reshape(len(clips), -1)
        found["clip"] = np.hstack([found["clip"], spread, pooled(other, "embedding", "mean")])
    vectors, kind = found["clip"], asked.get("context", "none")
    there = clips["status"] == "ok"
    ids = clips["clip_id"].tolist()
    named = [ids.index(one) for one in clips["reference"]]
    if kind in ("reference", "both"):
        found["reference"] = vectors[named]
    if kind in ("group", "both"):
        rows = []
        for k, group in enumerate(clips["group"]):
            others = [j for j in range(len(ids)) if clips["group"][j] == group and j != k
                      and there[j] and j not in named]  # fmt: skip
            rows.append(vectors[others].mean(0) if others else vectors[k])
        found["group"] = np.stack(rows)
    if asked.get("inputs", "audio") != "audio":
        texts, index = fake.read_text("text")
        found["prompt"] = texts.numpy()[index.numpy()]
    return {key: value[there].astype(np.float32) for key, value in found.items()}, clips[there]


@pytest.fixture(scope="module")
def runs(caches, tmp_path_factory):
    """Return the folder of a run by its name, trained when it is first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name):
        if not HEADS[name]:
            head = made_of(name, run)
            (folder / name).mkdir(exist_ok=True)
            save_head(folder / name / "head.safetensors", head)
        if not (folder / name).exists():
            used = caches if name == "project" else caches[:1]
            with pytest.MonkeyPatch.context() as patch:
                # How good they are takes longer than to train them.
                patch.setattr(training, "judge", lambda *_, **__: {})
                train(used, folder / name, **HEADS[name])
        return folder / name

    return run


def expected(name, caches, runs):
    """What predict says [C, axes]: mean, std, and the width of each scale."""
    several = name in ("project", "ensemble")
    table = predict(runs(name), caches if several else caches[:1])
    table = table[table["reason"] == ""]
    axes = list(dict.fromkeys(table["axis"]))
    parts = [table.pivot(index="clip_id", columns="axis", values=one)[axes].to_numpy(float)
             for one in ("prediction", "std")]  # fmt: skip
    scales = [scale_of(load_head(runs(name)), axis) for axis in axes]
    widths = [one.high - one.low for one in scales]
    return *parts, np.array(widths)


def same(found, wanted):
    """Hold outputs to those of predict: 1e-5 of the scale's width."""
    *parts, widths = wanted
    for one, other in zip(found, parts, strict=True):
        one = np.asarray(one)
        assert one.shape == other.shape
        assert (np.isnan(one) == np.isnan(other)).all()
        assert np.nanmax(np.abs(one - other) / widths, initial=0) < 1e-5
    assert np.ptp(parts[0], axis=0).min() > 1e-3, "all clips are alike"


QUICKLY = ("plain", "one member", "attention", "knn", "svr", "line", "steps", "ensemble")


@pytest.mark.parametrize(
    "name", [one if one in QUICKLY else pytest.param(one, marks=pytest.mark.slow) for one in HEADS]
)
def test_the_program_of_every_head_is_predict(name, caches, runs):
    inputs, _ = given(name, caches)
    program = HeadProgram(load_head(runs(name)))
    assert list(program.inputs) == list(inputs)
    for key, one in program.inputs.items():
        assert [size for size in one.shape if isinstance(size, int)] == [
            size for size, of in zip(inputs[key].shape, one.shape, strict=True)
            if isinstance(of, int)
        ]  # fmt: skip
    same(program(**{key: torch.from_numpy(v) for key, v in inputs.items()}),
         expected(name, caches, runs))  # fmt: skip


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """Return the folder of a head in both forms by its name, and what it says of itself."""
    folder, told = tmp_path_factory.mktemp("exported"), {}

    def export(name):
        if name not in told:
            (folder / name).mkdir()
            told[name] = export_head(runs(name), folder / name / "head.pt2")
            assert export_head(runs(name), folder / name / "head.onnx") == told[name]
        return folder / name, told[name]

    return export


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_exported_heads_are_predict(name, caches, runs, exported):
    pytest.importorskip("onnxscript")
    onnx, onnxruntime = map(pytest.importorskip, ("onnx", "onnxruntime"))
    inputs, clips = given(name, caches)
    assert len(clips) > 30
    wanted, (folder, _) = expected(name, caches, runs), exported(name)
    program = torch.export.load(folder / "head.pt2").module()
    same(program(**{key: torch.from_numpy(value) for key, value in inputs.items()}), wanted)
    onnx.checker.check_model(onnx.load(folder / "head.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(folder / "head.onnx")
    same(session.run(None, inputs), wanted)
    shapes = {
        name: list(one.shape) for name, one in HeadProgram(load_head(runs(name))).inputs.items()
    }
    assert {one.name: one.shape for one in session.get_inputs()} == shapes
    assert [one.shape for one in session.get_outputs()] == [["clips", 2]] * 2
    assert [one.name for one in session.get_outputs()] == ["prediction", "prediction_std"]
    # Of any number of clips, and of windows.
    few = {key: value[:1] for key, value in inputs.items()}
    whole = session.run(["prediction"], inputs)[0]
    assert session.run(["prediction"], few)[0] == pytest.approx(whole[:1], rel=1e-5)
    if "weights" in inputs:
        longer = {key: np.concatenate([v, np.zeros_like(v[:, :2])], 1) if key != "prompt" else v
                  for key, v in inputs.items()}  # fmt: skip
        assert session.run(["prediction"], longer)[0] == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
def test_of_equally_near_clips_the_first_counts_everywhere(caches, runs, tmp_path):
    """Each clip is there twice, with two labels: which of them counts is no accident."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    head = load_head(runs("knn"))
    axes = []
    for one in head.axes:
        points, labels = one.params["points"], one.params["labels"]
        twice = {
            "points": torch.cat([points, points], 1),
            "labels": torch.cat([labels, -labels], 1),
        }
        axes.append(replace(one, params={**twice, "shares": torch.full((1, 3), 1 / 3)}))
    head = replace(head, axes=tuple(axes))
    inputs, clips = given("knn", caches)
    # The nearest of a clip is itself, twice, and then the first of its neighbor.
    first = axes[0]
    rows = (inputs["clip"] - first.row_mean.numpy()) / first.row_std.numpy()
    kept = first.params["points"][0].double().numpy()
    wanted = []
    for row in rows.astype(float):
        near = sorted(range(len(kept)), key=lambda k: (np.sum((row - kept[k]) ** 2), k))[:3]
        wanted.append(first.params["labels"][0][near].double().mean().item())
    wanted = first.label_mean + first.label_std * np.array(wanted)
    table = predict(head, caches[0]).query("axis == 'quality'").set_index("clip_id")
    found = table.loc[clips["clip_id"], "prediction"]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    export_head(head, tmp_path / "head.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx")
    np.testing.assert_allclose(session.run(None, inputs)[0][:, 0], wanted, atol=1e-4)


@pytest.mark.slow
def test_a_file_says_what_it_is_and_not_where_it_was_made(exported):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    folder, about = exported("both")
    stored = {one.key: one.value for one in onnx.load(folder / "head.onnx").metadata_props}
    more = {"qamro_cache.head": ""}
    torch.export.load(folder / "head.pt2", extra_files=more)
    for text in (stored["qamro_cache.head"], more["qamro_cache.head"]):
        assert json.loads(text) == about
    assert about["record"]["training"]["synthetic"]
    assert [one["name"] for one in about["axes"]] == ["quality", "match"]
    assert about["axes"][0]["high"] == 100
    assert about["inputs"]["group"]["shape"] == ["clips", 6]
    for path in folder.iterdir():
        data = path.read_bytes()
        for word in (str(Path(torch.__file__).parents[1]), str(Path(__file__).parents[1])):
            assert word.encode() not in data, f"{path.name} names {word}"


def test_what_cannot_be_exported_is_one_line(runs, tmp_path, monkeypatch):
    run = runs("both")
    (tmp_path / "mine.pt2").write_bytes(b"mine")
    with pytest.raises(QamroError, match="is there already, is no exported head, and is kept"):
        export_head(run, tmp_path / "mine.pt2")
    assert (tmp_path / "mine.pt2").read_bytes() == b"mine"
    with pytest.raises(OptionError, match=r"ends in \.onnx \(ONNX\) or \.pt2 \(torch\.export\)"):
        export_head(run, tmp_path / "head.pt")
    data = bytearray((run / "head.safetensors").read_bytes())
    data[-9] ^= 1
    (tmp_path / "head.safetensors").write_bytes(data)
    done = CliRunner().invoke(
        command, ["export", str(tmp_path), "--out", str(tmp_path / "head.pt2")]
    )
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "damaged" in line
    assert not (tmp_path / "head.pt2").exists()
    monkeypatch.setattr(support, "find_spec", lambda name: None)
    with pytest.raises(QamroError, match="package onnx is not installed; run: pip install"):
        export_head(run, tmp_path / "head.onnx")


def test_the_command(caches, runs, tmp_path):
    out = tmp_path / "head.pt2"
    line = ["export", str(runs("both")), "--out", str(out)]
    done = CliRunner().invoke(command, line)
    assert done.exit_code == 0, done.output
    assert "in   clip [clips, 6]: embedding; a clip's windows by their weighted mean" in done.stdout
    assert "in   reference [clips, 6]: the vector of its reference" in done.stdout
    assert "axes quality 0 to 100, match 1 to 5" in done.stdout
    inputs, _ = given("both", caches)
    program = torch.export.load(out).module()
    found = program(**{key: torch.from_numpy(value) for key, value in inputs.items()})
    same(found, expected("both", caches, runs))
    # The same head is replaced, by the same bytes.
    first = out.read_bytes()
    again = CliRunner().invoke(command, [*line, "--json"])
    assert json.loads(again.stdout)["outputs"]["prediction_std"]["shape"] == ["clips", 2]
    assert out.read_bytes() == first
