"""Heads that leave a stack make no kernel compile again: Triton has a variant for each kind of
number (1, a multiple of 16) and for each alignment."""

import pytest
import torch
from test_train_stack import make_data, make_folds

pytest.importorskip("triton")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime import jit

from qamro_cache.heads.architecture import Architecture
from qamro_cache.losses import fused
from qamro_cache.losses.problem import prepare
from qamro_cache.training.backend import backend_of
from qamro_cache.training.fit import _Data
from qamro_cache.training.gpu import kernel_net, passes, ranks, step_loss
from qamro_cache.training.recipe import Job, Recipe
from qamro_cache.training.stack import Stack

#: Loaded before the interpreter is asked for, so that they are what is compiled.
KERNELS = (kernel_net, passes, ranks, step_loss)

pytestmark = pytest.mark.skipif(
    not triton.__version__.startswith("3.6.") or not hasattr(fused._kernel, "signature"),
    reason="written for the compiler of Triton 3.6, not its interpreter",
)


@pytest.fixture
def variants(monkeypatch):
    """What would be compiled for an H100; nothing is launched."""
    found, backend = set(), make_backend(GPUTarget("cuda", 90, 32))

    def run(self, *args, grid, warmup, **options):
        bind = jit.create_function_from_signature(self.signature, self.params, backend)
        _, kinds, rest = bind(*args, **options)
        found.add((self.__name__, str(kinds), str(rest)))

    monkeypatch.setattr(jit.JITFunction, "run", run)
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # a CPU's tensors are welcome
    return found


def test_the_loss_has_one_variant_whatever_the_number_of_heads(variants):
    numbers = torch.rand(40, 5, dtype=torch.float64)
    for heads in (40, 17, 16, 2, 1):
        columns = [numbers[:heads, k] for k in range(4)]
        for each in (True, False):
            shape = (heads, 70) if each else (70,)
            problem = prepare(
                torch.rand(heads, 70), torch.rand(heads, 70), alpha=columns[1], beta=columns[2],
                normalize="train", label_range=(columns[0], columns[3]), weights=None,
                stderr=None, mask=torch.ones(shape, dtype=torch.bool),
            )  # fmt: skip
            fused.value_and_grad(problem)
    assert len(variants) == 1


RECIPES = {
    "sgd": Recipe(head=Architecture(widths=(33, 17)), batch_size=13),
    "adamw": Recipe(head=Architecture(widths=(32, 16)), batch_size=16, optimizer="adamw"),
}


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_smaller_stack_needs_no_other_variant(monkeypatch, variants, name, precision):
    monkeypatch.setattr("qamro_cache.losses.qamro._fastest", lambda problem: "fused")
    device, recipe = torch.device("cpu"), RECIPES[name]
    backend = backend_of(recipe, device, precision=precision, uses=lambda one: one != "graph")
    data = _Data(*make_data(), make_folds(), 0, device)
    jobs = [Job(recipe, seed, fold) for fold in range(2) for seed in range(4)]

    def train(chosen):
        stack = Stack(data.inputs(jobs), jobs, backend)
        if chosen is not None:
            stack._select(torch.tensor(chosen))
        # Products that autograd computes need real numbers of the autocast's device.
        with torch.no_grad():
            stack.train_epoch(stack.batches.epoch(0)[:2])

    train(None)
    whole = set(variants)
    assert len(whole) > 3
    for chosen in ([1], [4, 5], [1, 2, 3, 6, 7]):
        train(chosen)
        assert variants == whole, chosen
