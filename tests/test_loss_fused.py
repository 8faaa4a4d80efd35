"""The Triton kernel: by Triton's interpreter on the CPU, and on a GPU where there is one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_loss_qamro import dense

from qamro_cache.losses.composed import LabelStats, value_and_grad
from qamro_cache.losses.loss import parse_loss
from qamro_cache.losses.qamro import qamro_loss, qamro_value_and_grad

gpu = pytest.mark.gpu
cuda_only = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.slow
def test_the_kernel_passes_the_tests_of_every_form_when_interpreted():
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "fused",
         str(Path(__file__).with_name("test_loss_qamro.py"))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
    # Two have thousands of samples, which would take the interpreter hours.
    counts = re.search(r"^(\d+) passed, 2 skipped, \d+ deselected", run.stdout, re.MULTILINE)
    assert counts is not None, run.stdout[-3000:]
    assert int(counts[1]) >= 15


def test_a_cpu_tensor_is_refused():
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match="'fused': pred is on cpu"):
        qamro_loss(torch.zeros(3), torch.arange(3.0), method="fused")


@pytest.mark.parametrize(("masked", "noisy"), [(False, False), (True, False), (True, True)])
def test_the_kernel_compiles_for_a_gpu_without_atomics_or_fused_products(masked, noisy):
    """For an H100, which need not be here."""
    triton = pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter compiles nothing")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from qamro_cache.losses.fused import LAUNCH, MOST_ROWS, SAMPLES_PER_WARP, UNROLL, _kernel

    constants = {"MASKED": masked, "RANGED": False, "BINNED": False, "NOISY": noisy,
                 "DTYPE": triton.language.float32, "ROWS": MOST_ROWS, "ALONE": True,
                 "UNROLL": UNROLL}  # fmt: skip
    doubles = ("alpha_of", "beta_of", "low_of", "high_of", "values")
    singles = ("pred", "y", "table", "stderr", "slopes", "scores", "qualities", "labels")
    types = dict.fromkeys(_kernel.arg_names, "i32") | dict.fromkeys(doubles, "*fp64")
    types |= dict.fromkeys(singles, "*fp32")
    types |= {"mask": "*u8", "counts": "*i64"} | dict.fromkeys(constants, "constexpr")
    places = {(_kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(_kernel, types, constexprs=places)
    options = {**LAUNCH, "num_warps": MOST_ROWS // SAMPLES_PER_WARP}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    code = made.asm["ptx"]
    assert not {"atom", "red"} & {word.partition(".")[0] for word in code.split()}
    # A score is a product and a difference, each rounded: no fused product of doubles but those
    # of divisions and of the standard errors.
    assert "mul.rn.f64" in code
    assert ("fma.rn.f64" in code) == noisy


def stack(heads=64, size=256, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(4, 21, (size,), generator=generator).double() / 4
    pred = target + torch.randn(heads, size, generator=generator, dtype=torch.float64)
    mask = torch.rand(heads, size, generator=generator) < 0.8
    alpha = torch.linspace(0.1, 0.5, heads, dtype=torch.float64)
    beta = torch.linspace(1, 10, heads, dtype=torch.float64)
    return pred.to(dtype), target, mask, alpha, beta


@gpu
@cuda_only
@pytest.mark.parametrize("method", ["fused", "pairs", "sorted", "auto"])
@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 256, 1000, 5000])
def test_every_form_on_the_gpu(method, size):
    pred, target, mask, alpha, beta = stack(3, size, torch.float64)
    value, grad = qamro_value_and_grad(
        pred.cuda(), target.cuda(), alpha=alpha.cuda(), beta=beta.cuda(), mask=mask.cuda(),
        method=method,
    )  # fmt: skip
    expected = qamro_value_and_grad(pred, target, alpha=alpha, beta=beta, mask=mask, method="pairs")
    torch.testing.assert_close((value.cpu(), grad.cpu()), expected, rtol=1e-10, atol=1e-10)


@gpu
@cuda_only
def test_ties_on_the_gpu_are_the_same_ties():
    pred, target, mask, _, _ = stack(3, 300, torch.float64)
    pred = (pred * 20).round() / 20  # many margins of 0.2 * (y_i - y_j) are met exactly
    expected = qamro_value_and_grad(pred, target, mask=mask, method="pairs")
    value, grad = qamro_value_and_grad(pred.cuda(), target.cuda(), mask=mask.cuda(), method="fused")
    torch.testing.assert_close((value.cpu(), grad.cpu()), expected, rtol=1e-10, atol=1e-10)


@gpu
@cuda_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_on_the_gpu(dtype):
    pred, target, mask, alpha, beta = stack(8, 256, dtype)
    value, grad = qamro_value_and_grad(
        pred.cuda(), target.cuda(), alpha=alpha.cuda(), beta=beta.cuda(), mask=mask.cuda(),
        method="fused",
    )  # fmt: skip
    for row in range(8):
        expected, expected_grad = dense(pred[row], target, alpha[row], beta[row], mask[row])
        assert value[row].item() == pytest.approx(expected.item(), rel=1e-5)
        assert (grad[row].cpu().double() - expected_grad).norm() < 1e-3 * expected_grad.norm()


@gpu
@cuda_only
def test_a_cuda_graph_captures_the_composed_loss():
    pred, target, mask, alpha, beta = (x.cuda() for x in stack())
    loss = parse_loss("huber+qamro")
    one = torch.ones_like(alpha)
    options = {
        "mask": mask, "labels": LabelStats(low=1.0, high=5.0),
        "numbers": torch.stack([one, one, one, alpha, beta], -1),
    }  # fmt: skip
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected = value_and_grad(loss, pred, target, **options)
    stream.synchronize()
    static = torch.zeros_like(pred)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = value_and_grad(loss, static, target, **options)
    static.copy_(pred)
    graph.replay()
    torch.testing.assert_close(result, expected)
