"""The Makefile takes the build of torch that the machine can use; wheels are stubs, no network."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PINNED = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
)
NAMES = ("torch", "torchaudio", "torchvision")

pytestmark = [
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="one build of torch here"
    ),
    pytest.mark.skipif(shutil.which("make") is None, reason="no make here"),
]


def write_wheel(folder: Path, name: str, version: str) -> None:
    """Write a wheel of nothing but its metadata."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def venv(tmp_path_factory):
    """An environment with pip and nothing else."""
    path = tmp_path_factory.mktemp("install") / "venv"
    subprocess.run([sys.executable, "-m", "venv", path], check=True, capture_output=True)
    return path


class Machine:
    """A machine with an index of stub wheels, and a driver or none."""

    def __init__(self, tmp_path: Path, venv: Path) -> None:
        self.venv, self.index, self.programs = venv, tmp_path / "index", tmp_path / "bin"
        self.index.mkdir()
        self.programs.mkdir()
        for name in NAMES:
            write_wheel(self.index, name, PINNED[name])
        for package in self.packages.glob("torch*"):
            shutil.rmtree(package)
        for stamp in venv.glob(".torch-*"):
            stamp.unlink()

    @property
    def packages(self) -> Path:
        return next(self.venv.glob("lib/python*/site-packages"))

    def offer_cpu(self, *names: str) -> None:
        for name in names or NAMES:
            write_wheel(self.index, name, f"{PINNED[name]}+cpu")
        # Another release's is none of ours.
        write_wheel(self.index, "torch", "99.0+cpu")

    def add_driver(self) -> None:
        (self.programs / "nvidia-smi").write_text("#!/bin/sh\n")
        (self.programs / "nvidia-smi").chmod(0o755)

    def make(self, torch: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        environment = {
            **kept,
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.index),
        }
        stamp = self.venv / f".torch-{torch}"
        command = ["make", "-C", ROOT, f"VENV={self.venv}", f"TORCH={torch}", stamp]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def installed(self) -> dict[str, str]:
        found = self.packages.glob("torch*.dist-info")
        return dict(path.name.removesuffix(".dist-info").split("-") for path in found)


@pytest.fixture
def machine(tmp_path, venv):
    return Machine(tmp_path, venv)


def build(label: str) -> dict[str, str]:
    return {name: PINNED[name] + label for name in NAMES}


no_driver = pytest.mark.skipif(
    Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi", path="/usr/bin:/bin"),
    reason="this machine has an NVIDIA driver",
)


@no_driver
@pytest.mark.slow
def test_without_a_driver_the_cpu_build_is_taken_and_can_be_replaced(machine):
    machine.offer_cpu()
    done = machine.make("auto")
    assert done.returncode == 0, done.stderr
    assert machine.installed() == build("+cpu")
    assert "CUDA" not in done.stderr
    assert machine.make("cuda").returncode == 0
    assert machine.installed() == build("")
    # What is there stays, whoever chose it.
    assert machine.make("auto").returncode == 0
    assert machine.installed() == build("")


@no_driver
@pytest.mark.slow
def test_without_a_cpu_build_the_cost_is_said_before_the_download(machine):
    machine.offer_cpu("torch", "torchvision")  # torchaudio of another build could not be loaded
    done = machine.make("auto")
    assert done.returncode == 0, done.stderr
    assert "takes about 6 GB of disk, of which 4 are CUDA" in done.stderr
    assert "PIP_EXTRA_INDEX_URL" in done.stderr
    assert machine.installed() == {}
    refused = machine.make("cpu")
    assert refused.returncode != 0
    assert (
        f"error: the index that pip uses has no CPU build of torch {PINNED['torch']}"
        in refused.stderr
    )


@pytest.mark.slow
def test_with_a_driver_the_cpu_build_is_left_alone(machine):
    machine.offer_cpu()
    machine.add_driver()
    done = machine.make("auto")
    assert done.returncode == 0, done.stderr
    assert machine.installed() == build("")
    refused = machine.make("rocm")
    assert "error: TORCH=rocm: there are auto, cpu and cuda" in refused.stderr
    assert refused.returncode != 0


@pytest.mark.parametrize(
    ("build", "driver", "installed", "offered", "chosen"),
    [
        ("auto", False, "", NAMES, "cpu"),
        ("auto", False, "", NAMES[:2], ""),
        ("auto", True, "", NAMES, "cuda"),
        ("auto", False, PINNED["torch"], NAMES, ""),
        ("auto", False, "1.0", NAMES, "cpu"),
        ("cpu", True, PINNED["torch"], NAMES, "cpu"),
        ("cuda", False, PINNED["torch"], NAMES, "cuda"),
    ],
)
def test_the_choice(build, driver, installed, offered, chosen, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("install_torch", ROOT / "install_torch.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    there = [f"{name}=={PINNED[name]}+cpu" for name in offered]
    monkeypatch.setattr(script, "has_driver", lambda: driver)
    monkeypatch.setattr(script, "version", lambda name: installed)
    monkeypatch.setattr(script, "is_offered", lambda name, wanted: f"{name}=={wanted}" in there)
    assert script.choose(build, script.pinned()) == chosen
    told = "of which 4 are CUDA" in capsys.readouterr().err
    assert told == (build == "auto" and len(offered) < 3)
