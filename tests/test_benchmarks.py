"""The benchmarks write each figure when it is there: one that fails loses no other."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
import torch

from qamro_cache.encoders.precision import computing_in
from qamro_cache.identity import AudioPolicy, EncoderSpec

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
    module, out = script("grid", "--heads", "2,3,4,5", "--epochs", "2")
    monkeypatch.setattr(module, "ceilings", lambda device: {})
    sizes = []

    def stacked(data, heads, *rest):
        sizes.append(heads)
        if len(sizes) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(sizes) == 7:
            raise KeyboardInterrupt
        return module.Run(2.0, 1.0, 0.5)

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
    assert len(row["vmap_and_usual_seconds_in_turns"]) == 1


def test_the_encoders(script, monkeypatch):
    module, out = script("encode", "--only", "clap", "--seconds", "0.1")
    monkeypatch.setattr(module, "OURS", {"clap": Tiny})
    monkeypatch.setattr(module, "bench_files", lambda *_: 1 / 0)
    monkeypatch.setattr(module, "UPSTREAM", {"clap": ("json",), "else": ("no_such_package",)})
    monkeypatch.setattr(module.sys, "argv", [a for a in sys.argv if a not in ("--only", "clap")])

    def bench_clap(bench, folder, clips):
        bench.keep("one", 3.0, cosine=1.0)
        bench.gates["clap"] = 1.5
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "bench_clap", bench_clap)
    module.main()
    found = json.loads(out.read_text())
    assert [row["what"] for row in found["results"]] == [
        "tiny, resident, float32, batches of 4", "clap, ours, from files", "one",
        "clap, upstream's", "else, upstream's",
    ]  # fmt: skip
    _, files, _, clap, other = found["results"]
    assert files["failed"] == "ZeroDivisionError: division by zero"
    assert clap["failed"] == "OutOfMemoryError: CUDA out of memory"
    assert other["skipped"] == "no no_such_package here"
    assert found["ours_over_bare_upstream_network_float32"] == {"clap": 1.5}


def test_the_extraction(script, monkeypatch):
    pytest.importorskip("soundfile")
    module, out = script("extract", "--encoder", "mel", "--clips", "2", "--only", "decode")
    monkeypatch.setattr(module, "decoding", lambda *_: 1 / 0)

    def without_encoder(*_):
        failed = json.loads(out.read_text())["decode"]
        assert failed == {"failed": "ZeroDivisionError: division by zero"}
        return {"speedup": 2.0}

    monkeypatch.setattr(module, "without_encoder", without_encoder)
    module.main()
    assert json.loads(out.read_text())["extract_without_encoder"] == {"speedup": 2.0}


class Tiny:
    """An encoder of one product, which has memory for seven windows."""

    def __init__(self, folder):
        policy = AudioPolicy(1, 16, 16)
        self.spec = EncoderSpec("tiny", "1", policy, {"a": (3,)})
        self.network, self.device = torch.nn.Linear(16, 3), torch.device("cpu")
        self.network.compile = self.compile

    def compile(self, dynamic):
        self.network._compiled_call_impl = self.network.forward
        if self.spec.precision == "bfloat16":
            time.sleep(30)

    def networks(self):
        return [self.network]

    def encode(self, windows, valid):
        if len(windows) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        with computing_in(self.spec.precision, self.device):
            return {"a": self.network(windows)}


@pytest.mark.parametrize("forms", ["eager", "eager,compiled"])
def test_our_networks_alone(script, monkeypatch, forms):
    """Each precision and form and size is a row, whichever of them fails or takes too long."""
    lists = ("--precision", "float32,bfloat16,tf32", "--form", forms)
    module, out = script("encode", "--ours", "--batch-size", "4,8", "--seconds", "0", *lists)
    monkeypatch.setattr(module, "OURS", {"clap": Tiny})
    monkeypatch.setattr(module, "LONGEST", 3)
    module.main()
    rows = json.loads(out.read_text())["results"]
    keys = [(row["compiled"], row["batch_size"], row["precision"]) for row in rows]
    assert keys == [
        (compiled, size, precision)
        for compiled in (form == "compiled" for form in forms.split(","))
        for size in (4, 8)
        for precision in ("float32", "bfloat16", "tf32")
    ]
    for row, (compiled, size, precision) in zip(rows, keys, strict=True):
        if precision == "tf32":
            assert "needs a CUDA device" in row["failed"]
        elif compiled and precision == "bfloat16":
            assert row["failed"] == "TimeoutError: not done after 3 s"
        elif size == 8:
            assert row["failed"] == "OutOfMemoryError: CUDA out of memory"
        else:
            assert row["windows_per_second"] > 0
            assert row["error"] <= (1e-6 if precision == "float32" else 0.1)
            assert ("compile_seconds" in row) == compiled
