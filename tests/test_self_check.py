"""Kernels are used where they agreed with plain torch, in a child that may die of them."""

import json
import logging
import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from click.testing import CliRunner

from qamro_cache import self_check
from qamro_cache.losses import pairs
from qamro_cache.self_check import FAMILIES, try_families, usable, verdicts
from qamro_cache.training import check, stopping
from qamro_cache.training.batches import EagerEpochs
from qamro_cache.training.net import LayeredNet
from qamro_cache.training.optimizer import SGD, AdamW
from qamro_cache.training.step_loss import ComposedStepLoss

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

#: A child that does to one family what a test says, and finds nothing wrong with the others.
CHILD = """
import json, os, signal, sys, time
def tell(record): print(json.dumps(record), flush=True)
assert os.environ["QAMRO_KERNELS"] == "0"
{first}
tell("ready")
for family in sys.argv[2:]:
    if family == {family!r}:
        {deed}
    tell({{"family": family, "problem": "", "error": 0.0, "seconds": 0.0}})
"""


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Write what takes the checker's place."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(self_check, "CHECKER", "stand_in")

    def write(family="", deed="pass", first=""):
        text = CHILD.format(family=family, deed=deed, first=first)
        (tmp_path / "stand_in.py").write_text(text)

    return write


@pytest.fixture
def a_gpu(monkeypatch, tmp_path):
    """A device query that answers: there is one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("QAMRO_KERNELS", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: "a stand-in")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    for cached in (self_check._agreed, self_check._verdicts):
        cached.cache_clear()
    yield tmp_path / "cache" / "qamro-cache" / "kernels"
    for cached in (self_check._agreed, self_check._verdicts):
        cached.cache_clear()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_kills_its_process_is_to_blame_alone(child, family):
    child(family, "os.kill(os.getpid(), signal.SIGSEGV)")
    found = try_families("cuda:0")
    assert {name for name, verdict in found.items() if verdict["problem"]} == {family}
    assert found[family]["problem"] == "it ended the process with code -11"
    assert {*found} == {*FAMILIES}


def test_a_family_that_never_ends_is_to_blame(child, monkeypatch):
    child("passes", "time.sleep(600)")
    monkeypatch.setattr(self_check, "PATIENCE", 3)
    found = try_families("cuda:0", ["measures", "passes", "products"])
    assert found["passes"]["problem"] == "not done after 3 s"
    assert not found["measures"]["problem"]
    assert not found["products"]["problem"]


def test_a_verdict_is_kept_until_something_changes(child, a_gpu, monkeypatch):
    child("loss", "tell({'family': family, 'problem': 'differs', 'error': 1.0}); continue")
    first = verdicts(0)
    assert first["loss"]["problem"] == "differs"
    (path,) = a_gpu.iterdir()
    assert json.loads(path.read_text())["identity"]["device"] == "a stand-in"
    child()
    assert verdicts(0) == first
    path.write_text(path.read_text()[:-40])  # cut short: tried again
    assert not verdicts(0)["loss"]["problem"]
    monkeypatch.setattr(self_check, "_KERNELS", ("losses/fused.py",))
    child("loss", "sys.exit('no')")
    assert "no" in verdicts(0)["loss"]["problem"]
    assert len(list(a_gpu.iterdir())) == 2


@pytest.mark.parametrize(
    "first", ["sys.exit('all devices are busy')", "import no_such_module"], ids=["busy", "broken"]
)
def test_a_device_that_the_child_cannot_reach_says_nothing_of_a_kernel(child, a_gpu, first):
    child(first=first)
    assert not any(usable(family, CUDA) for family in FAMILIES)
    assert not a_gpu.exists()
    self_check._agreed.cache_clear()
    self_check._verdicts.cache_clear()
    child()
    assert usable("loss", CUDA)


def test_a_refusal_is_one_notice(child, a_gpu, caplog):
    child("step loss", "raise SystemExit('no C compiler')")
    with caplog.at_level(logging.WARNING, "qamro_cache"):
        answers = [usable(family, CUDA) for family in FAMILIES for _ in range(2)]
    assert answers.count(False) == 2
    (said,) = caplog.messages
    assert "a stand-in: its kernels for 'step loss' are not used" in said
    assert "no C compiler" in said


def test_a_folder_that_cannot_be_written_is_no_error(child, a_gpu):
    child()
    a_gpu.parent.mkdir(parents=True)
    a_gpu.write_text("a file")
    assert usable("graph", CUDA)


def test_switched_off_nothing_is_asked(child, a_gpu, monkeypatch):
    child(first="raise SystemExit")
    monkeypatch.setenv("QAMRO_KERNELS", "0")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not any(usable(family, device) for family in FAMILIES for device in (CUDA, CPU))
    monkeypatch.delenv("QAMRO_KERNELS")
    assert [family for family in FAMILIES if not usable(family, CPU)] == ["graph"]
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not any(usable(family, CPU) for family in FAMILIES)


class OneLossUp(ComposedStepLoss):
    def step(self, scores, batch):
        grad, mask = super().step(scores, batch)
        return grad * 1.2, mask


class RowMissed(LayeredNet):
    """Its kernel never looks at what comes after the first block of inputs."""

    def forward(self, params, groups, bounds, dropout):
        groups = [
            group._replace(rows=group.rows._replace(values=group.rows.values.clone()))
            for group in groups
        ]
        for group in groups:
            group.rows.values[:, 64:] = 0
        return super().forward(params, groups, bounds, dropout)


class SameBatches(EagerEpochs):
    def run(self, number):
        super().run(0)


def of_last_missed(problem):
    value, grad = pairs.value_and_grad(problem)
    grad[:, -1] = torch.nan
    return value, grad


def seams():
    """Where each family comes in: what it may be, and what it may not."""
    pytest.importorskip("triton")
    from qamro_cache.losses import fused
    from qamro_cache.training.gpu import graph, judge, kernel_net, passes, ranks, step_loss

    good = {
        "graph": [(graph, "GraphEpochs", EagerEpochs)],
        "loss": [(fused, "value_and_grad", pairs.value_and_grad)],
        "measures": [
            (ranks, "stability", stopping.stability), (judge, "judge", stopping.judge),
        ],
        "passes": [
            (passes, "keep", stopping.keep_best), (kernel_net, "PassNet", LayeredNet),
            (kernel_net, "StepAdamW", AdamW),
        ],
        "step loss": [(step_loss, "FusedStepLoss", ComposedStepLoss)],
        "products": [
            (kernel_net, "KernelNet", LayeredNet), (kernel_net, "KernelSGD", SGD),
            (kernel_net, "KernelAdamW", AdamW),
        ],
    }  # fmt: skip
    bad = {
        "graph": SameBatches,
        "loss": of_last_missed,
        "measures": lambda *given: stopping.stability(*given) * 0.99,
        "passes": lambda best, p, better: best.copy_(p),
        "step loss": OneLossUp,
        "products": RowMissed,
    }
    return good, bad


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_computes_something_else_is_found_out(monkeypatch, family):
    """With plain torch in its kernels' place it passes; so it is what they compute that fails."""
    good, bad = seams()
    for module, name, part in good[family]:
        monkeypatch.setattr(module, name, part)
    found = check.judge(family, CPU)
    assert not found["problem"], found
    assert found["error"] < 1e-4
    module, name, _ = good[family][0]
    monkeypatch.setattr(module, name, bad[family])
    assert "differs by" in check.judge(family, CPU)["problem"]
    monkeypatch.setattr(module, name, lambda *given, **options: 1 / 0)
    assert check.judge(family, CPU)["problem"] == "ZeroDivisionError: division by zero"


def test_out_of_memory_is_no_verdict(monkeypatch):
    def none_left(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(check, "errors", none_left)
    assert check.judge("loss", CPU)["passing"]


#: The checker with two heads a trial, since the interpreter takes a head at a time.
FEW = """
import sys
from qamro_cache.training import check
check.SHAPES = [(2, *shape[1:]) for shape in check.SHAPES]
check.main(sys.argv[1:])
"""


def run_checker(families, how=("-m", self_check.CHECKER), **environment):
    code = subprocess.run(
        [sys.executable, *how, "cpu", *families],
        env={**os.environ, "QAMRO_KERNELS": "0", **environment},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert code.returncode == 0, code.stderr
    ready, *found = map(json.loads, code.stdout.splitlines())
    assert ready == "ready"
    return {verdict["family"]: verdict for verdict in found}


def test_without_a_usable_triton_every_family_but_the_graph_is_refused(tmp_path):
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise ImportError('no Triton here')")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    families = [family for family in FAMILIES if family != "graph"]
    found = run_checker(families, PYTHONPATH=paths)
    assert {verdict["problem"] for verdict in found.values()} == {"ImportError: no Triton here"}


@pytest.mark.slow
def test_the_kernels_pass_when_interpreted():
    """But for bfloat16, whose bits the interpreter multiplies as if they were integers."""
    pytest.importorskip("triton")
    families = ["loss", "measures", "passes", "step loss"]
    found = run_checker(families, ("-c", FEW), TRITON_INTERPRET="1")
    assert not [verdict for verdict in found.values() if verdict["problem"]]


@pytest.mark.parametrize("command", ["train", "ablate"])
def test_a_command_switches_kernels_off(monkeypatch, tmp_path, command):
    monkeypatch.setenv("QAMRO_KERNELS", "1")
    main = import_module(f"qamro_cache_cli.{command}").main
    missing = ["--cache", str(tmp_path / "none.h5"), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(main, missing).exit_code
    assert os.environ["QAMRO_KERNELS"] == "1"
    said = CliRunner().invoke(main, [*missing, "--no-kernels"]).output
    assert "none.h5" in said
    assert os.environ["QAMRO_KERNELS"] == "0"
