"""qamro-cache doctor: lines, whatever is missing or broken on a machine."""

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from qamro_cache_cli.cache import main

from qamro_cache import self_check
from qamro_cache.doctor import examine, probes
from qamro_cache.doctor.advice import advice
from qamro_cache.errors import QamroError
from qamro_cache.self_check import FAMILIES

CPU = torch.device("cpu")
GPU = {"name": "a stand-in", "capability": "9.0", "memory_bytes": 80e9, "free_bytes": 79e9}
MACHINE = {
    "torch": "2.11.0", "torch_gpu": "13.0", "triton": "3.6.0", "python": "3.12.3",
    "driver": "NVRM version: 580", "compiler": "/usr/bin/cc", "headers": True, "system": "Linux",
    "processor": "a stand-in", "instructions": "AVX512", "cores": 16, "threads": 16,
    "free_memory_bytes": 1e11, "missing": [], "cache_folder": "/cache", "cache_problem": "",
}  # fmt: skip
#: What a probe measured, if nothing is in its way.
FOUND = {
    "gpus": {"gpus": [GPU]}, "copy": {"gbyte_s": 3000.0},
    "transfer": {"gbyte_s": {"to_gpu": 50.0, "to_gpu_unpinned": 5.0, "from_gpu": 50.0}},
    "products": {"tflop_s": {"float32": 50.0, "tf32": 400.0}}, "compile": {"error": 1e-7},
    "graph": {"us_a_launch": {"eager": 5.0, "graph": 1.0}},
    "step float32": {"ms_a_step": 2.0}, "step tf32": {"ms_a_step": 1.0},
    "step bf16": {"ms_a_step": 1.9}, "decode": {"audio_seconds_a_second": 1000.0},
}  # fmt: skip
CHILD = """
import json, os, sys, time
print(json.dumps("ready"), flush=True)
found = json.loads({found!r})
for name in sys.argv[2:]:
    if name == {bad!r}:
        {deed}
    record = {{"family": name, "problem": "", "seconds": 1.0, "notices": [], **found[name]}}
    print(json.dumps(record), flush=True)
"""


@pytest.fixture
def a_machine(monkeypatch, tmp_path):
    """A machine with a GPU on which one probe goes wrong."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("QAMRO_KERNELS", raising=False)
    monkeypatch.setattr(examine, "PROBES", "stand_in")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(examine, "machine", lambda: MACHINE)
    agreed = {"family": "", "problem": "", "error": 1e-7, "seconds": 3.0}
    monkeypatch.setattr(self_check, "verdicts", lambda index: dict.fromkeys(FAMILIES, agreed))

    def write(bad="", deed="pass"):
        text = CHILD.format(found=json.dumps(FOUND), bad=bad, deed=deed)
        (tmp_path / "stand_in.py").write_text(text)

    write()
    return write


def test_a_gpu_is_measured_and_shown(a_machine):
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["device"] == "cuda:0"
    assert {*record["measured"]} == {*examine.ON_NEW_GPU}
    assert record["measured"]["step tf32"]["ms_a_step"] == 1.0
    assert {*record["kernels"]} == {*FAMILIES}
    assert "--precision tf32 takes 1 ms a step instead of 2" in record["advice"]
    assert not [line for line in record["advice"] if "bf16" in line]
    shown = CliRunner().invoke(main, ["doctor"]).stdout
    whole = "a stand-in, compute capability 9.0, 80 GB, 79 free"
    for words in ("GPU 0", whole, "to gpu unpinned", "step loss", "yes", "training in tf32", "580"):
        assert words in shown
    assert "GFLOP/s" not in shown
    # 16 cores x 1,000 s of audio.
    assert "1,600 clips of 10 s a second" in shown.replace("\n", " ")


@pytest.mark.parametrize("deed", ["os._exit(3)", "os.abort()", "raise SystemExit('bus error')"])
def test_a_probe_that_ends_its_process_is_a_line(a_machine, deed):
    a_machine("graph", deed)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 0, done.output
    assert "CUDA graphs cannot be used here (it ended the process" in done.stdout
    assert "a step of training in bf16" in done.stdout
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "deed", ["os._exit(11)", "time.sleep(600)", "raise SystemExit('CUDA error: unknown error')"]
)
def test_a_broken_driver_leaves_the_processor(a_machine, monkeypatch, deed):
    monkeypatch.setitem(FOUND, "products", {"tflop_s": {"float32": 0.08}})
    a_machine("gpus", deed)
    monkeypatch.setattr(self_check, "PATIENCE", 3)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 0, done.output
    said = done.stdout.replace("\n", " ")
    assert "measured on cpu" in said
    assert "80 GFLOP/s" in " ".join(said.split())
    assert "no GPU is used, though an NVIDIA driver is here (" in said
    assert "nvidia-smi" in said


def test_kernels_that_cannot_even_be_asked_for_are_lines(a_machine, monkeypatch):
    monkeypatch.setattr(self_check, "verdicts", lambda index: 1 / 0)
    assert "kernels not used: graph, loss" in "\n".join(examine.doctor()["advice"])
    monkeypatch.setenv("QAMRO_KERNELS", "0")
    found = examine.doctor()["kernels"]
    assert {one["problem"] for one in found.values()} == {"switched off by QAMRO_KERNELS=0"}


def test_without_pytorch_it_is_one_line(monkeypatch):
    def broken(name):
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(examine.importlib, "import_module", broken)
    with pytest.raises(QamroError, match=r"PyTorch cannot be loaded \(libcudart"):
        examine.doctor()


def lines(measured=(), machine=(), **changes):
    names = examine.ON_NEW_GPU if changes.get("gpus", True) else examine.ON_CPU
    there = {name: {"problem": "", **FOUND[name]} for name in names}
    record = {
        "machine": {**MACHINE, **dict(machine)}, "gpus": [GPU], "gpu_problem": "", "kernels": {},
        "measured": {**there, **dict(measured)}, **changes,
    }  # fmt: skip
    return "\n".join(advice(record))


def test_what_is_slow_has_its_line_and_what_is_not_has_none():
    usual = lines()
    assert len(usual.splitlines()) == 3  # what training takes, tf32, decoding
    # 2 ms x 8 steps x 100 epochs x 1000/64 stacks
    assert "for 100 epochs in 25.0 s" in usual
    no_triton = {name: {"problem": "ImportError: no Triton"} for name in FAMILIES}
    found = lines(machine={"triton": None, "compiler": None, "headers": False}, kernels=no_triton)
    for need in ("pip install triton", "apt-get install gcc", "apt-get install python3-dev"):
        assert need in found
    assert found.count("ImportError: no Triton") == 1
    assert "1.5 GB/s" in lines({"transfer": {"problem": "", "gbyte_s": {"to_gpu": 1.5}}})
    assert "holds 60 of the GPU's 80 GB" in lines(gpus=[{**GPU, "free_bytes": 20e9}])
    assert "capability 7.5 has no TF32" in lines(gpus=[{**GPU, "capability": "7.5"}])
    assert "encoders are not compiled here (no g++)" in lines({"compile": {"problem": "no g++"}})
    assert "'copy' could not be measured (gone)" in lines({"copy": {"problem": "gone"}})
    slow = {"problem": "", "ms_a_step": 2.0, "notices": ["without a CUDA graph"]}
    assert "while 'step float32' was measured: without a CUDA graph" in lines(
        {"step float32": slow}
    )


def test_on_a_processor_it_says_what_keeps_a_gpu_away():
    cpu = {"gpus": [], "gpu_problem": "RuntimeError: Found no NVIDIA driver on your system."}
    found = lines(machine={"driver": "", "threads": 1}, **cpu)
    assert "no NVIDIA driver is here: all is done on the processor" in found
    assert "PyTorch uses 1 of 16 cores: unset OMP_NUM_THREADS" in found
    assert "python install_torch.py cuda" in lines(machine={"torch_gpu": None}, **cpu)
    unread = {"decode": {"problem": "ModuleNotFoundError: No module named 'soundfile'"}}
    found = lines(unread, {"missing": ["soundfile", "soxr"], "cache_problem": "no"}, **cpu)
    assert "no sound can be decoded (ModuleNotFoundError" in found
    assert "pip install soundfile soxr" in found
    assert "set XDG_CACHE_HOME" in found


def test_this_machine():
    found = examine.machine()
    assert found["torch"] == torch.__version__
    assert found["cores"] >= 1
    assert found["missing"] == []


@pytest.mark.parametrize("name", ["copy", "products", "step float32", "decode"])
def test_probes_of_a_processor(monkeypatch, name):
    for constant, value in {"COPIED": 1 << 12, "SIDE": {"cpu": 32}, "HEADS": 2, "CLIPS": 90,
                            "SECONDS": 11}.items():  # fmt: skip
        monkeypatch.setattr(probes, constant, value)
    found = probes.measure(name, CPU)
    assert found["problem"] == ""
    (figure,) = {*FOUND[name]} & {*found}
    values = found[figure].values() if isinstance(found[figure], dict) else [found[figure]]
    assert all(0 < value < 1e9 for value in values)


def test_what_a_probe_lacks_is_its_problem(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert "soundfile" in probes.measure("decode", CPU)["problem"]
    assert probes.measure("step tf32", CPU)["problem"].startswith("ValueError: precision must be")
    if not torch.cuda.is_available():
        assert probes.measure("gpus", CPU)["problem"]
        assert probes.measure("graph", torch.device("cuda"))["problem"]

    def none_left(device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(probes, "PROBES", {"copy": none_left})
    assert probes.measure("copy", CPU)["problem"] == "no memory is free for it"


@pytest.mark.slow
def test_the_whole_command_here():
    done = subprocess.run(
        [sys.executable, "-c", "from qamro_cache_cli.cache import main; main()", "doctor",
         "--json"], capture_output=True, text=True, timeout=600, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert not [name for name, found in record["measured"].items() if found["problem"]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", [*examine.ON_GPU, "gpus"])
def test_probes_of_a_gpu(name):
    found = probes.measure(name, torch.device("cuda", 0))
    if name != "decode":
        assert found["problem"] == ""
