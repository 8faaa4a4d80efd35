"""On a GPU chunks are trained in turn: halved where memory ends, in torch where kernels fail.

The GPU is a stand-in: what it would do to a stack is done to one on the CPU.
"""

import types

import numpy as np
import pytest
import torch
from test_train_stack import collect, make_data, make_folds, trained, varied_jobs

from qamro_cache import self_check
from qamro_cache.errors import QamroError
from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.network import Rows
from qamro_cache.training import chunks, fit
from qamro_cache.training.inputs import Folds, Inputs, Targets
from qamro_cache.training.recipe import Job, Recipe
from qamro_cache.training.stack import Stack
from qamro_cache.training.turns import in_turn

RECIPE = Recipe(head=Architecture(widths=(5,)), batch_size=16, epochs=4, patience=4)


@pytest.fixture
def turns(monkeypatch):
    monkeypatch.setattr(fit, "side_by_side", lambda plan, train, stop: in_turn(plan, train))
    monkeypatch.setattr(self_check, "_given_up", [])


def failing(monkeypatch, fail):
    """Let ``fail`` decide before each epoch; return the sizes of the stacks that began."""
    sizes, real = [], Stack.train_epoch

    def train_epoch(self, batches):
        if not int(self.epoch):
            sizes.append(len(self.jobs))
        fail(self)
        real(self, batches)

    monkeypatch.setattr(Stack, "train_epoch", train_epoch)
    return sizes


def run(jobs, **options):
    features, targets = make_data()
    return collect(features, targets, make_folds(), jobs, **options)


def equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert trained(a) == trained(b)
        assert torch.allclose(a["predictions"], b["predictions"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("epoch", [0, 2])
def test_memory_that_runs_out_halves_the_chunk(monkeypatch, turns, caplog, epoch):
    jobs = varied_jobs(RECIPE, 7)
    whole = run(jobs, chunk=7)

    def fail(stack):
        if len(stack.jobs) > 2 and int(stack.epoch) >= epoch:
            raise torch.OutOfMemoryError("CUDA out of memory")

    sizes = failing(monkeypatch, fail)
    told = []
    ours = run(jobs, chunk=7, progress=lambda *figures: told.append(figures))
    equal(ours, whole)
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    assert caplog.messages[0] == "the GPU's memory ran out; going on with 4 heads at once"
    done, total, running = told[-1]
    assert (done, running) == (total, 0)
    assert max(one[0] for one in told) == total


def test_memory_that_takes_no_head_is_one_line(monkeypatch, turns):
    def fail(stack):
        raise torch.OutOfMemoryError("CUDA out of memory")

    failing(monkeypatch, fail)
    with pytest.raises(QamroError, match="one head does not fit into the memory of the GPU"):
        run(varied_jobs(RECIPE, 2), chunk=2)


def test_a_kernel_that_fails_at_last_makes_all_go_on_without(monkeypatch, turns, caplog):
    """From the chunk's start; whatever Triton calls, a C compiler too, is its own failure."""
    triton = types.ModuleType("triton.runtime.build")
    exec("def build():\n    raise FileNotFoundError('no cc')", triton.__dict__)
    jobs = varied_jobs(RECIPE, 5)
    whole = run(jobs, chunk=2)
    monkeypatch.setenv("TRITON_INTERPRET", "1")

    def fail(stack):
        if int(stack.epoch) == 1 and self_check.usable("passes", torch.device("cpu")):
            triton.build()

    sizes = failing(monkeypatch, fail)
    equal(run(jobs, chunk=2), whole)
    assert sizes == [1, 1, 2, 2]
    assert "a kernel failed (no cc); going on in plain torch" in caplog.text


def test_a_gpu_that_fails_is_one_line_and_a_mistake_of_ours_is_not(monkeypatch, turns):
    for error, seen in (
        (RuntimeError("CUDA error: an illegal memory access"), QamroError),
        (RuntimeError("size mismatch"), RuntimeError),
        (ZeroDivisionError(), ZeroDivisionError),
    ):

        def fail(stack, error=error):
            raise error

        with monkeypatch.context() as patch:
            failing(patch, fail)
            with pytest.raises(seen) as raised:
                run(varied_jobs(RECIPE, 2))
        assert type(raised.value) is seen
        assert seen is not QamroError or "--no-kernels" in str(raised.value)


def gpu_inputs(clips, width, folds, held=0):
    stop = np.zeros((folds, clips), bool)
    stop[:, :held] = True
    targets = Targets(torch.zeros(1, clips), torch.zeros(1, 2))
    parts = Folds(~stop, stop, np.zeros_like(stop))
    return Inputs({0: Rows(torch.zeros(clips, width))}, None, targets, parts)


def size(monkeypatch, inputs, heads, free, reserved=0, allocated=0):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
    recipe = Recipe(head=Architecture(widths=(256, 64)))
    device = torch.device("cuda")
    jobs = [Job(recipe, fold=k % len(inputs.folds.train)) for k in range(heads)]
    return chunks.chunk_size(jobs, inputs, torch.float32, device)


def test_a_chunk_on_a_gpu_takes_what_is_free(monkeypatch, caplog):
    few = gpu_inputs(2000, 512, 1)
    usual = size(monkeypatch, few, 1000, 10 << 30)
    assert usual > 500
    # What an earlier stack left to the allocator is free.
    assert size(monkeypatch, few, 1000, 1 << 30, 10 << 30, 1 << 30) == usual
    # A validation set is scored at once, whatever its size.
    held = gpu_inputs(50_000, 512, 1, held=40_000)
    none = gpu_inputs(50_000, 512, 1)
    assert size(monkeypatch, held, 1000, 10 << 30) < size(monkeypatch, none, 1000, 10 << 30) / 5
    # Many folds: a stack has those of its own heads.
    folds = gpu_inputs(2748, 4096, 400)
    assert not caplog.messages
    assert 100 < size(monkeypatch, folds, 4000, 10 << 30) < 4000
    assert not caplog.messages
    assert size(monkeypatch, folds, 4000, 10 << 20) == 1
    assert "0.0 GB are free on the GPU" in caplog.text


def test_stacks_of_a_cpu_can_be_shared_by_its_cores():
    assert chunks.heads_a_core(60, 21) == 15
    assert chunks.heads_a_core(12, 21) == 12
    assert chunks.heads_a_core(20, 21) == 10
    for count in range(1, 300):
        for most in range(4, 40):
            size = chunks.heads_a_core(count, most)
            parts = chunks.evenly(list(range(count)), size)
            assert [k for part in parts for k in part] == list(range(count))
            assert max(map(len, parts)) <= most
            assert len(parts) == -(-count // most) or min(map(len, parts)) >= 8
