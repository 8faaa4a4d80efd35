"""On a GPU: the CPU's features, in every precision, plain and compiled, whatever the memory."""

import copy
from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers")

from clap_reference import sound
from random_networks import make_audiobox, make_clap

from qamro_cache.encoders.runner import Runner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

#: Largest error of a row as a share of the median distance between rows. With these weights
#: Audiobox errs by .015 in float16, on a processor too: it is no precision for `auto`.
LIMITS = {"float32": 1e-4, "tf32": 2e-2, "float16": 2e-2, "bfloat16": 1.5e-1}


@pytest.fixture(scope="module", params=[make_clap, make_audiobox])
def case(request, tmp_path_factory):
    """An encoder on the CPU, windows, valid and the CPU's features."""
    encoder = request.param(tmp_path_factory.mktemp("checkpoint"))
    size = encoder.spec.audio.window
    windows = torch.stack([torch.from_numpy(sound(seed, size)) for seed in range(4)])
    valid = torch.tensor([size, size, size // 2, size // 3])
    return encoder, windows, valid, encoder.encode(windows, valid)


def on_gpu(encoder, precision="float32"):
    """The same encoder on the GPU."""
    encoder = copy.deepcopy(encoder)
    encoder.network.to("cuda")
    encoder.device = torch.device("cuda")
    encoder.spec = replace(encoder.spec, precision=precision)
    return encoder


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    got, expected = got.cpu().double().flatten(1), expected.double().flatten(1)
    return float((got - expected).norm(dim=1).max() / torch.pdist(expected).median())


@pytest.mark.parametrize("precision", list(LIMITS))
@pytest.mark.parametrize("compiled", [False, True])
def test_equals_the_cpu(case, precision, compiled):
    encoder, windows, valid, expected = case
    torch._dynamo.reset()
    runner = Runner(on_gpu(encoder, precision), "cuda")
    if compiled:
        runner.compile(len(windows))
    got = runner.encode(windows.cuda(), valid.cuda())
    if compiled:
        assert runner.batch == len(windows), "it fell back to running without"
    for feature, value in expected.items():
        assert error(got[feature], value) < LIMITS[precision], feature


def test_does_not_change_the_process_settings(case):
    encoder, windows, valid, _ = case
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    on_gpu(encoder, "tf32").encode(windows.cuda(), valid.cuda())
    assert before == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)


def test_halves_when_memory_runs_out(case, caplog):
    encoder, windows, valid, expected = case
    encoder = on_gpu(encoder)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    encoder.encode(windows[:1].cuda(), valid[:1].cuda())
    one = torch.cuda.max_memory_reserved()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    rows = torch.arange(256) % 4
    try:
        torch.cuda.set_per_process_memory_fraction(min(1.0, 4 * one / total))
        runner = Runner(encoder, "cuda")
        got = runner.encode(windows[rows].cuda(), valid[rows].cuda())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 0 < runner.limit < 256
    assert "memory ran out" in caplog.text
    for feature, value in expected.items():
        assert error(got[feature], value[rows]) < LIMITS["float32"]
