"""The benchmarks write each figure when it is there: one that fails loses no other."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Load a benchmark that is told to write into a temporary file."""

    def load(name, *arguments):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setattr(sys, "path", [*sys.path])
        spec.loader.exec_module(module)
        out = tmp_path / f"{name}.json"
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--device", "cpu", "--out", str(out)])
        return module, out

    return load


def test_the_loss(script, monkeypatch):
    module, out = script("loss", "--seconds", "0")
    monkeypatch.setattr(
        module, "cases", lambda *_: [("pairs", 1, 8), ("dense", 1, 16), ("sorted", 2, 8), ("no",)]
    )
    real = module.measure

    def measure(run, *rest):
        if not out.exists():
            return real(run, *rest)
        if len(json.loads(out.read_text())["rows"]) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(run, *rest)

    monkeypatch.setattr(module, "measure", measure)
    with pytest.raises(ValueError, match="unpack"):
        module.main()
    found = json.loads(out.read_text())["rows"]
    assert [(row["form"], row["seconds"] is None) for row in found] == [
        ("pairs", False), ("dense", True), ("sorted", False),
    ]  # fmt: skip


def test_the_grid(script, monkeypatch):
    module, out = script("grid", "--heads", "2,3,4,5")
    monkeypatch.setattr(module, "ceilings", lambda device: {})
    sizes = []

    def stacked(data, heads, *rest):
        sizes.append(heads)
        if len(sizes) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(sizes) == 7:
            raise KeyboardInterrupt
        return 2.0, 1.0

    monkeypatch.setattr(module, "stacked", stacked)
    with pytest.raises(KeyboardInterrupt):
        module.main()
    first, second, third = json.loads(out.read_text())["stacked"]
    assert first["heads_per_second"] == 1
    assert second["error"] == "CUDA out of memory"
    assert third["seconds"] == 2


def test_the_grid_to_its_end(script, monkeypatch):
    module, out = script("grid", "--heads", "2", "--epochs", "2", "--usual", "1")
    monkeypatch.setattr(module, "ceilings", lambda device: {})
    module.main()
    found = json.loads(out.read_text())
    (row,) = found["stacked"]
    assert row["times_faster_than_usual"] > 0
    assert row["times_faster_than_vmap"] > 0
    assert found["vmap"]["measured_share"] == 0.5


def test_the_encoders(script, monkeypatch):
    for package in ("transformers", "soundfile"):
        pytest.importorskip(package)
    module, out = script("encode", "--only", "clap")

    def bench_clap(bench, folder, clips):
        bench.keep("one", 3.0, cosine=1.0)
        bench.gates["clap"] = 1.5
        bench.keep("two", 4.0)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "bench_clap", bench_clap)
    with pytest.raises(torch.OutOfMemoryError):
        module.main()
    found = json.loads(out.read_text())
    assert [row["what"] for row in found["results"]] == ["one", "two"]
    assert found["ours_over_bare_upstream_network_float32"] == {"clap": 1.5}
