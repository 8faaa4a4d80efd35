"""On a GPU: the CPU's features, in every precision, plain and compiled, whatever the memory."""

import pytest
import torch

pytest.importorskip("transformers")

from clap_reference import sound

from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.encoders.runner import Runner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

#: Largest error of a row as a share of the median distance between rows.
LIMITS = {"float32": 1e-4, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 1e-1}


@pytest.fixture(scope="module", params=["clap", "audiobox"])
def case(request):
    """Encoder's name, its checkpoint's options, windows, valid and the CPU's features."""
    reference = request.getfixturevalue(f"{request.param}_reference")
    if request.param == "clap":
        options = {"checkpoint": str(reference.checkpoint), "tokenizer": "none"}
    else:
        options = {"checkpoint": str(reference.file)}
    encoder = load_encoder(request.param, EncoderOptions(**options))
    size = encoder.spec.audio.window
    windows = torch.stack([torch.from_numpy(sound(seed, size)) for seed in range(4)])
    valid = torch.tensor([size, size, size // 2, size // 3])
    return request.param, options, windows, valid, encoder.encode(windows, valid)


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    got, expected = got.cpu().double().flatten(1), expected.double().flatten(1)
    return float((got - expected).norm(dim=1).max() / torch.pdist(expected).median())


@pytest.mark.parametrize("precision", list(LIMITS))
@pytest.mark.parametrize("compiled", [False, True])
def test_equals_the_cpu(case, precision, compiled):
    name, options, windows, valid, expected = case
    encoder = load_encoder(name, EncoderOptions(**options, precision=precision), "cuda")
    runner = Runner(encoder, "cuda")
    if compiled:
        runner.compile()
    got = runner.encode(windows.cuda(), valid.cuda())
    if compiled:
        assert runner.batch == len(windows), "it fell back to running without"
    for feature, value in expected.items():
        assert error(got[feature], value) < LIMITS[precision], feature


def test_does_not_change_the_process_settings(case):
    name, options, windows, valid, _ = case
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    encoder = load_encoder(name, EncoderOptions(**options, precision="tf32"), "cuda")
    encoder.encode(windows.cuda(), valid.cuda())
    assert before == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)


def test_halves_when_memory_runs_out(case, caplog):
    name, options, windows, valid, expected = case
    encoder = load_encoder(name, EncoderOptions(**options), "cuda")
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
