"""Full, broken and forbidden disks: after each fault the old files whole or the new ones whole.

A library in C, put before the system's own, makes the n-th call fail that changes a file.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from fault_runner import COMMANDS
from fuzz.commands import run
from qamro_cache_cli.ablate import main as ablate
from qamro_cache_cli.cache import main as cache
from qamro_cache_cli.extract import main as extract
from qamro_cache_cli.head import main as head
from qamro_cache_cli.predict import main as predict
from qamro_cache_cli.train import main as train
from synthetic_cache import write_synthetic

ERRORS = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO")
#: Command -> how many faults it was given, and how many it met, of the slow tests.
TRIED: dict[str, int] = {}
MET: dict[str, int] = {}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), "")
    if not compiler or sys.platform != "linux":
        pytest.skip("no C compiler here (or not Linux), which system-call faults need")
    library = tmp_path_factory.mktemp("shim") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    flags = ["-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run([compiler, *flags], check=True)
    return library


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for name, seed in (("a", 0), ("b", 1)):
        write_synthetic(folder / f"{name}.h5", clips=24, seed=seed, prefix=name)
    ids = [f"a{k:03d}" for k in range(24)]
    rows = "".join(f"{name},{k % 5}\n" for k, name in enumerate(ids))
    # SYNTHETIC: noise.
    for k in range(3):
        noise = 0.1 * np.random.default_rng(k).standard_normal(16000)
        soundfile.write(folder / f"{k}.wav", noise, 16000)
    (folder / "clips.csv").write_text("clip_id,path,mos\na,0.wav,1\nb,1.wav,2\nc,2.wav,3\n")
    (folder / "labels.csv").write_text(f"clip_id,loudness\n{rows}")
    few = ["--cv", 2, "--seeds", 1, "--epochs", 1]
    assert run(train, "--cache", folder / "a.h5", *few, "--out", folder / "run")[0] == 0
    # A challenge's axes, and an encoder that can be run.
    two = "".join(f"{name},{k % 5},{k % 3}\n" for k, name in enumerate(ids))
    (folder / "track.csv").write_text(f"clip_id,overall,textual\n{two}")
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in ids if name != "a003"))
    labels = ["--labels", folder / "track.csv", "--head", "ridge"]
    track = ["--cv", 2, *labels, "--out", folder / "track"]
    assert run(train, "--cache", folder / "a.h5", *track)[0] == 0
    mel = ["--manifest", folder / "clips.csv", "--encoder", "mel", "--out", folder / "mel.h5"]
    assert run(extract, *mel)[0] == 0
    ridge = ["--cv", 3, "--head", "ridge", "--out", folder / "mel"]
    assert run(train, "--cache", folder / "mel.h5", *ridge)[0] == 0
    head = ["--head", folder / "track", "--cache", folder / "b.h5"]
    assert run(predict, *head, "--out", folder / "old.csv")[0] == 0
    (folder / "old.txt").write_text("a000,1.0,2.0\n")
    # Scores on another scale.
    scores = pd.read_csv(folder / "old.csv").pivot(
        columns="axis", values="prediction", index="clip_id"
    )
    noise = np.random.default_rng(0).normal(0, 0.1 * scores.std(), scores.shape)
    (2 * scores + 1 + noise).dropna().to_csv(folder / "mine.csv")
    cells = ["--axis", "quality", *few, "--alpha", "0.2,0.5", "--nested", "--out", folder / "grid"]
    assert run(ablate, "--cache", folder / "a.h5", *cells)[0] == 0
    return folder


def faults(
    name: str, inputs: Path, folder: Path, shim: Path, cases: list[tuple[float, str]]
) -> int:
    script = Path(__file__).with_name("fault_runner.py")
    done = subprocess.run(
        [sys.executable, script, name, inputs, folder / "case", json.dumps(cases)],
        env={**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout)


def test_every_command_that_writes_is_tried() -> None:
    setup = (Path(__file__).resolve().parents[1] / "setup.cfg").read_text()
    names = set(re.findall(r"= qamro_cache_cli\.(\w+):main", setup))
    for group, commands in (("cache", cache.commands), ("head", head.commands)):
        names = names - {group} | {f"{group} {name}" for name in commands}
    lines = [line.split() for line in COMMANDS.values()]
    tried = {" ".join(words[: 2 if words[0] in ("cache", "head") else 1]) for words in lines}
    nothing = {"cache info", "cache verify", "cache doctor", "head info", "head verify"}
    assert names - tried - nothing == {"head push", "head pull"}, "these need a hub"


@pytest.mark.parametrize("name", ["merge", "export", "ablate", "report html"])
def test_a_few_faults(name: str, inputs: Path, tmp_path: Path, shim: Path) -> None:
    cases = [(number, ERRORS[k % 5]) for k, number in enumerate((1, 2, 5, 0, -1, -2))]
    assert faults(name, inputs, tmp_path, shim, cases) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMMANDS))
def test_faults_at_every_write(name: str, inputs: Path, tmp_path: Path, shim: Path) -> None:
    # Figures of papers and programs of heads take seconds to make.
    slow = ("report md", "report tex", "report pdf", "report png", "head export")
    count = 30 if name in slow else 60
    cases = [((k + 1) / count, ERRORS[k % 5]) for k in range(count)]
    TRIED[name] = count
    MET[name] = faults(name, inputs, tmp_path, shim, cases)
    assert MET[name] > 10, "hardly a fault was met"


@pytest.mark.slow
def test_three_hundred_faults_in_all() -> None:
    """The others' sum; ``FAULTS_OUT`` names a JSON for it."""
    if MET.keys() != COMMANDS.keys():
        pytest.skip("not every command was tried in this process")
    if "FAULTS_OUT" in os.environ:
        record = {
            "command": "make faults",
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": f"{platform.machine()}, {os.cpu_count()} processors",
            "tried": sum(TRIED.values()),
            "met by an error, the old or the new whole": MET,
            "in all": sum(MET.values()),
        }
        Path(os.environ["FAULTS_OUT"]).write_text(json.dumps(record, indent=2) + "\n")
    assert sum(MET.values()) >= 300
