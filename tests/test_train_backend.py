"""What is chosen to compute a stack, for devices that need not be here."""

import dataclasses

import pytest
import torch

from qamro_cache.devices import float32_products
from qamro_cache.encoders.precision import check_precision, computing_in
from qamro_cache.errors import QamroError
from qamro_cache.heads.architecture import Architecture
from qamro_cache.losses.loss import parse_loss
from qamro_cache.self_check import FAMILIES
from qamro_cache.training import backend, stopping
from qamro_cache.training.backend import choose_backend
from qamro_cache.training.batches import EagerEpochs
from qamro_cache.training.net import AutogradNet, LayeredNet
from qamro_cache.training.optimizer import SGD, AdamW
from qamro_cache.training.recipe import Recipe
from qamro_cache.training.step_loss import ComposedStepLoss

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PLAIN = {
    stopping.stability, stopping.judge, stopping.keep_best, EagerEpochs, ComposedStepLoss,
    LayeredNet,
}  # fmt: skip


def parts(chosen):
    """The functions and classes of a backend, whatever they are given."""
    fields = (getattr(chosen, item.name) for item in dataclasses.fields(chosen)[:-2])
    return {getattr(part, "func", part) for part in fields}


@pytest.fixture
def new_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))


def test_a_cpu_gets_plain_torch():
    assert parts(choose_backend(Recipe(), CPU)) == PLAIN | {SGD}
    assert parts(choose_backend(Recipe(optimizer="adamw"), CPU)) == PLAIN | {AdamW}
    deep = Recipe(head=Architecture(layer_norm=True))
    assert parts(choose_backend(deep, CPU)) == PLAIN - {LayeredNet} | {AutogradNet, SGD}


@pytest.fixture
def agreed(monkeypatch, new_gpu):
    """The families of kernels that agreed with plain torch on the stand-in."""
    families = {*FAMILIES}
    monkeypatch.setattr(
        backend, "usable", lambda family, device: device.type == "cuda" and family in families
    )
    return families


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("graph", [False, True])
def test_a_gpu_without_triton_gets_plain_torch(agreed, precision, graph):
    """In a graph, where one can be captured."""
    from qamro_cache.training.gpu.graph import GraphEpochs

    agreed &= {"graph"} if graph else set()
    chosen = choose_backend(Recipe(), CUDA, precision=precision)
    plain = PLAIN - {LayeredNet, EagerEpochs} | {GraphEpochs if graph else EagerEpochs}
    net = AutogradNet if precision == "bf16" else LayeredNet
    assert parts(chosen) == plain | {net, SGD}
    if precision == "bf16":
        assert chosen.net().half
    with chosen.products():
        expected = "highest" if precision == "float32" else "high"
        assert torch.get_float32_matmul_precision() == expected


def test_a_gpu_with_triton_gets_kernels(agreed):
    pytest.importorskip("triton")
    from qamro_cache.training.gpu import graph, judge, kernel_net, passes, ranks, step_loss

    every = {ranks.stability, judge.judge, passes.keep, graph.GraphEpochs}
    assert parts(choose_backend(Recipe(), CUDA, torch.float64)) == every | {
        LayeredNet,
        SGD,
        ComposedStepLoss,
    }
    every |= {step_loss.FusedStepLoss}
    adam = Recipe(optimizer="adamw")
    assert parts(choose_backend(adam, CUDA)) == every | {kernel_net.PassNet, kernel_net.StepAdamW}
    lower = {"precision": "tf32"}
    between = {kernel_net.PassNet, kernel_net.StepAdamW}
    assert parts(choose_backend(adam, CUDA, **lower)) == every | between
    lower = {"precision": "bf16"}
    ours = {kernel_net.KernelNet, kernel_net.KernelAdamW}
    assert parts(choose_backend(adam, CUDA, **lower)) == every | ours
    assert parts(choose_backend(Recipe(), CUDA, **lower)) == every | {
        kernel_net.KernelNet,
        kernel_net.KernelSGD,
    }
    other = dataclasses.replace(adam, loss=parse_loss("mse"), dropout=0.2)
    assert parts(choose_backend(other, CUDA, **lower)) == every - {step_loss.FusedStepLoss} | {
        AutogradNet,
        kernel_net.StepAdamW,
        ComposedStepLoss,
    }
    windows = choose_backend(Recipe(head=Architecture(pooling="scores")), CUDA, windows=True)
    assert ComposedStepLoss in parts(windows)
    assert AutogradNet in parts(windows)


@pytest.mark.parametrize("refused", [family for family in FAMILIES if family != "loss"])
def test_a_refused_family_is_taken_back_alone(agreed, refused):
    pytest.importorskip("triton")
    from qamro_cache.training.gpu import graph, judge, kernel_net, passes, ranks, step_loss

    recipe = Recipe(optimizer="adamw")
    before = parts(choose_backend(recipe, CUDA, precision="bf16"))
    agreed.remove(refused)
    after = parts(choose_backend(recipe, CUDA, precision="bf16"))
    instead = {
        "graph": ({graph.GraphEpochs}, {EagerEpochs}),
        "measures": ({ranks.stability, judge.judge}, {stopping.stability, stopping.judge}),
        "passes": ({passes.keep}, {stopping.keep_best}),
        "step loss": ({step_loss.FusedStepLoss}, {ComposedStepLoss}),
        # The optimizer still is one pass.
        "products": (
            {kernel_net.KernelNet, kernel_net.KernelAdamW},
            {AutogradNet, kernel_net.StepAdamW},
        ),
    }
    gone, come = instead[refused]
    assert before - after == gone
    assert after - before == come


def test_bfloat16_is_what_heads_without_kernels_compute_in_too(agreed):
    for changes in ({"dropout": 0.2}, {"head": Architecture(kind="linear", widths=())}):
        recipe = dataclasses.replace(Recipe(), **changes)
        net = choose_backend(recipe, CUDA, precision="bf16").net()
        assert isinstance(net, AutogradNet)
        assert net.half


def test_an_old_gpu_has_float32_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for precision in ("tf32", "bf16"):
        with pytest.raises(QamroError, match=r"needs a GPU of compute capability 8\.0.* has 7\.5"):
            choose_backend(Recipe(), CUDA, precision=precision)
    for precision in ("tf32", "bfloat16"):
        with pytest.raises(QamroError, match=r"needs a GPU of compute capability 8\.0"):
            check_precision(precision, "cuda")
    for precision in ("float32", "float16"):
        check_precision(precision, "cuda")
    check_precision("bfloat16", "cpu")


def test_the_precision_of_products_is_given_back(agreed):
    before = torch.get_float32_matmul_precision()
    for precision, inside in (("float32", "highest"), ("tf32", "high"), ("bf16", "high")):
        with choose_backend(Recipe(), CUDA, precision=precision).products():
            assert torch.get_float32_matmul_precision() == inside
            # Stored predictions are those of the stored weights, to the last bit of float32.
            with choose_backend(Recipe(), CUDA, precision=precision).scoring():
                assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == before
    with choose_backend(Recipe(), CPU).products():
        assert torch.get_float32_matmul_precision() == before


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="has one interface alone"
)
@pytest.mark.parametrize("chosen", ["tf32", "ieee"])
def test_a_precision_that_was_chosen_by_the_newer_interface_is_given_back(chosen):
    """Reading the older one raises then, and so would a product while both differ."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    try:
        products.fp32_precision = convolutions.fp32_precision = chosen
        with float32_products(tf32=False):
            assert products.fp32_precision == "ieee"
            assert torch.get_float32_matmul_precision() == "highest"
        assert products.fp32_precision == chosen
        for precision, inside in (("tf32", "tf32"), ("float32", "ieee")):
            with computing_in(precision, CPU):
                assert products.fp32_precision == inside
                if chosen == "ieee":
                    assert convolutions.fp32_precision == inside
            assert products.fp32_precision == convolutions.fp32_precision == chosen
    finally:
        torch.set_float32_matmul_precision("highest")
        convolutions.fp32_precision = "tf32"


@pytest.mark.parametrize("better", [[True, False, False], [False] * 3, [True] * 3])
def test_the_best_weights_are_kept(better):
    """NaN too: a head's weights may have become so since."""
    best, p = torch.rand(3, 2, 4), torch.rand(3, 2, 4)
    p[1] = torch.nan
    expected = torch.stack([p[h] if better[h] else best[h] for h in range(3)])
    stopping.keep_best(best, p, torch.tensor(better))
    assert torch.equal(best.nan_to_num(9), expected.nan_to_num(9))
