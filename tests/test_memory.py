"""What would not fit in memory is refused with its estimate, before it is taken."""

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.commands import run
from qamro_cache_cli.ablate import main as ablate_command
from qamro_cache_cli.evaluate import main as evaluate_command
from qamro_cache_cli.train import main as train_command
from synthetic_cache import write_synthetic

from qamro_cache import memory
from qamro_cache.errors import QamroError
from qamro_cache.experiments.grid import Grid, cells_of


def test_the_process_own_limit_counts() -> None:
    """A real limit, in a process of its own."""
    code = "from qamro_cache.memory import free_memory; print(free_memory())"
    limit = 3 << 30

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=restrict, capture_output=True, check=True
    )
    assert 0 < float(done.stdout) < limit
    assert memory.free_memory() > 0


def test_the_line_has_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 2e9)
    memory.refuse_memory(1.9e9, "it", "ask for less")
    words = "it would take about 3.5 GB of memory, and 2.0 GB are free; ask for less"
    with pytest.raises(QamroError, match=words):
        memory.refuse_memory(3.5e9, "it", "ask for less")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seeds", 100), ("heads", "GB")),
        (("--seeds", 1, "--widths", "300-300"), ("heads", "GB")),
        (("--seeds", 1, "--cv", 23, "--resamples", 10_000), ("GB",)),
    ],
)
def test_a_run_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], words: object
) -> None:
    cache = write_synthetic(tmp_path / "emb.h5", clips=24)
    monkeypatch.setattr(memory, "free_memory", lambda: 1e6)
    usual = ("--cache", cache, "--out", tmp_path / "out", "--epochs", 1, "--widths", "4")
    for command in (train_command, ablate_command):
        if command is train_command and "--resamples" in arguments:
            continue
        code, _ = run(command, *usual, *arguments, words=words)  # type: ignore[arg-type]
        assert code == 1
        assert not (tmp_path / "out" / "head.safetensors").exists()
        assert not (tmp_path / "out" / "done").exists()


def test_resamples_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = write_synthetic(tmp_path / "emb.h5", clips=24)
    table = "".join(f"clip{k:03d},quality,{k}\n" for k in range(24))
    (tmp_path / "p.csv").write_text(f"clip_id,axis,prediction\n{table}")
    files = ("--predictions", tmp_path / "p.csv", "--labels", cache)
    monkeypatch.setattr(memory, "free_memory", lambda: 1e6)
    assert run(evaluate_command, *files, "--resamples", 1000, words=["0.0 GB"])[0] == 0
    code, _ = run(evaluate_command, *files, "--resamples", 10_000, words=["10,000 resamples", "GB"])
    assert code == 1


def test_a_grid_is_counted_before_it_is_multiplied_out() -> None:
    values = [float(k) for k in range(1000)]
    grid = Grid({"alpha": values, "beta": values, "lr": values, "dropout": values})
    with pytest.raises(QamroError, match="1,000,000,000,000 cells; at most 10,000"):
        cells_of(grid)


def test_memory_that_runs_out_all_the_same_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real allocation that fails, of torch and of Python."""
    import torch

    from qamro_cache.experiments import train

    cache = write_synthetic(tmp_path / "emb.h5", clips=24)
    for take in (lambda *_: torch.empty(1 << 60), lambda *_: bytearray(1 << 60)):
        monkeypatch.setattr(train, "run_train", take)
        code, _ = run(
            train_command, "--cache", cache, "--out", tmp_path / "out", words=["memory ran out"]
        )
        assert code == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc's malloc")
@pytest.mark.parametrize("extracting", [False, True])
def test_a_decoding_thread_takes_its_memory_once(extracting: bool) -> None:
    """An array that it frees and takes again costs a page fault for each of its 4 KB, or none."""
    code = """
import resource, sys, threading
import numpy as np
from qamro_cache.extraction.decoding import Decoding
from qamro_cache.extraction.stats import Stats

if sys.argv[1] == "True":
    Decoding(None, 1, None, threading.Event(), Stats()).close()

def work():
    for round in range(20):
        if round == 10:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        arrays = [np.ones(1 << 20, np.float32) for _ in range(3)]
        del arrays
    print(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(extracting)], capture_output=True, text=True, check=True
    )
    # 10 rounds of 3 arrays of 4 MB.
    assert (int(done.stdout) < 100) == extracting
