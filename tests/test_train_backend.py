"""What is chosen to compute a stack, for devices that need not be here."""

import dataclasses

import pytest
import torch

from qamro_cache.heads.architecture import Architecture
from qamro_cache.losses.loss import parse_loss
from qamro_cache.training import backend, stopping
from qamro_cache.training.backend import choose_backend
from qamro_cache.training.batches import EagerEpochs
from qamro_cache.training.net import AutogradNet, LayeredNet
from qamro_cache.training.optimizer import SGD, AdamW
from qamro_cache.training.recipe import Recipe
from qamro_cache.training.step_loss import ComposedStepLoss

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PLAIN = {stopping.stability, stopping.keep_best, EagerEpochs, ComposedStepLoss, LayeredNet}


def parts(chosen):
    """The functions and classes of a backend, whatever they are given."""
    fields = (getattr(chosen, item.name) for item in dataclasses.fields(chosen)[:-1])
    return {getattr(part, "func", part) for part in fields}


@pytest.fixture
def new_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))


def test_a_cpu_gets_plain_torch():
    assert parts(choose_backend(Recipe(), CPU)) == PLAIN | {SGD}
    assert parts(choose_backend(Recipe(optimizer="adamw"), CPU)) == PLAIN | {AdamW}
    deep = Recipe(head=Architecture(layer_norm=True))
    assert parts(choose_backend(deep, CPU)) == PLAIN - {LayeredNet} | {AutogradNet, SGD}


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_gpu_without_triton_gets_plain_torch(monkeypatch, new_gpu, precision):
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    chosen = choose_backend(Recipe(), CUDA, precision=precision)
    net = AutogradNet if precision == "bf16" else LayeredNet
    assert parts(chosen) == PLAIN - {LayeredNet} | {net, SGD}
    if precision == "bf16":
        assert chosen.net().half


def test_a_gpu_with_triton_gets_kernels(new_gpu):
    pytest.importorskip("triton")
    from qamro_cache.training.gpu import graph, kernel_net, passes, ranks, step_loss

    every = {ranks.stability, passes.keep, graph.GraphEpochs}
    assert parts(choose_backend(Recipe(), CUDA, torch.float64)) == every | {
        LayeredNet,
        SGD,
        ComposedStepLoss,
    }
    every |= {step_loss.FusedStepLoss}
    adam = Recipe(optimizer="adamw")
    assert parts(choose_backend(adam, CUDA)) == every | {kernel_net.PassNet, kernel_net.StepAdamW}
    lower = {"precision": "tf32"}
    ours = {kernel_net.KernelNet, kernel_net.KernelAdamW}
    assert parts(choose_backend(adam, CUDA, **lower)) == every | ours
    assert parts(choose_backend(Recipe(), CUDA, **lower)) == every | {
        kernel_net.KernelNet,
        kernel_net.KernelSGD,
    }
    other = dataclasses.replace(adam, loss=parse_loss("mse"), dropout=0.2)
    assert parts(choose_backend(other, CUDA, **lower)) == every - {step_loss.FusedStepLoss} | {
        kernel_net.PassNet,
        kernel_net.StepAdamW,
        ComposedStepLoss,
    }
    windows = choose_backend(Recipe(head=Architecture(pooling="scores")), CUDA, windows=True)
    assert ComposedStepLoss in parts(windows)
    assert AutogradNet in parts(windows)


def test_bfloat16_is_what_heads_without_kernels_compute_in_too(new_gpu):
    for changes in ({"dropout": 0.2}, {"head": Architecture(kind="linear", widths=())}):
        recipe = dataclasses.replace(Recipe(), **changes)
        net = choose_backend(recipe, CUDA, precision="bf16").net()
        assert isinstance(net, AutogradNet)
        assert net.half


def test_an_old_gpu_has_float32_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ValueError, match=r"needs a GPU of compute capability 8\.0"):
        choose_backend(Recipe(), CUDA, precision="tf32")


def test_the_precision_of_products_is_given_back(new_gpu):
    before = torch.get_float32_matmul_precision()
    for precision, inside in (("float32", "highest"), ("tf32", "high"), ("bf16", "high")):
        with choose_backend(Recipe(), CUDA, precision=precision).products():
            assert torch.get_float32_matmul_precision() == inside
        assert torch.get_float32_matmul_precision() == before
    with choose_backend(Recipe(), CPU).products():
        assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("better", [[True, False, False], [False] * 3, [True] * 3])
def test_the_best_weights_are_kept(better):
    """NaN too: a head's weights may have become so since."""
    best, p = torch.rand(3, 2, 4), torch.rand(3, 2, 4)
    p[1] = torch.nan
    expected = torch.stack([p[h] if better[h] else best[h] for h in range(3)])
    stopping.keep_best(best, p, torch.tensor(better))
    assert torch.equal(best.nan_to_num(9), expected.nan_to_num(9))
