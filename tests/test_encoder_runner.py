"""Batches when memory runs out or the network is compiled: the same features as without."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from qamro_cache.encoders.runner import COMPILE_FROM, Runner
from qamro_cache.errors import QamroError


class Small:
    """An encoder of one product that has memory for ``room`` windows."""

    def __init__(self, room: int = 1000) -> None:
        self.spec = SimpleNamespace(name="small")
        self.network, self.room, self.sizes = nn.Linear(3, 2), room, []

    def networks(self):
        return [self.network]

    def encode(self, windows, valid):
        self.sizes.append(len(windows))
        if len(windows) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        with torch.inference_mode():
            return {"a": self.network(windows), "valid": valid}

    def encode_text(self, prompts):
        return {}


WINDOWS, VALID = torch.randn(11, 3, generator=torch.Generator().manual_seed(0)), torch.arange(11)


def test_halves_until_it_fits_and_remembers(caplog):
    encoder = Small(room=3)
    runner = Runner(encoder, "cpu")
    got = runner.encode(WINDOWS, VALID)
    assert torch.equal(got["valid"], VALID)
    torch.testing.assert_close(got["a"], encoder.network(WINDOWS).detach())
    assert encoder.sizes == [11, 5, 2, 2, 2, 2, 2, 1]
    assert [r.message for r in caplog.records] == [
        "memory ran out; going on with batches of 5 windows",
        "memory ran out; going on with batches of 2 windows",
    ]
    encoder.sizes.clear()
    assert torch.equal(runner.encode(WINDOWS, VALID)["a"], got["a"])
    assert max(encoder.sizes) == 2


def test_one_window_that_does_not_fit_is_an_error():
    with pytest.raises(QamroError, match="one window of encoder small does not fit"):
        Runner(Small(room=0), "cpu").encode(WINDOWS, VALID)


def test_nothing_is_compiled_for_little_work_or_without_a_gpu():
    for windows in (0, COMPILE_FROM):
        encoder = Small()
        assert Runner(encoder, "cpu", windows).batch == 0
        assert encoder.network._compiled_call_impl is None


def test_work_that_comes_in_parts_is_judged_as_a_whole(tmp_path, monkeypatch):
    """A Ray worker is given a few units at a time; whether compiling pays, all of them decide."""
    pytest.importorskip("soundfile")
    from extraction_support import make_clips
    from fake_encoder import FakeEncoder

    from qamro_cache.extraction import pipeline
    from qamro_cache.extraction.stats import Stats
    from qamro_cache.extraction.units import plan_units

    made = []

    def record(encoder, device, windows):
        made.append(windows)
        return Runner(encoder, device, windows)

    monkeypatch.setattr(pipeline, "Runner", record)
    clips = make_clips(tmp_path, 8).clips
    units, paths = plan_units(clips, (), 4), clips["path"].tolist()
    parts = pipeline.Pipeline(FakeEncoder(), "cpu", 4, 1, "float32", paths)
    for unit in units:
        assert len(list(parts.run([unit], Stats(), COMPILE_FROM))) == 1
    whole = pipeline.Pipeline(FakeEncoder(), "cpu", 4, 1, "float32", paths)
    assert len(list(whole.run(units, Stats()))) == 2
    assert made == [COMPILE_FROM, 8]


def compiled(encoder) -> Runner:
    runner = Runner(encoder, "cpu")
    runner.compile()
    return runner


def test_a_compiled_batch_has_one_size():
    encoder = Small()
    calls = []
    encoder.network.compile = lambda **options: calls.append(options)
    runner = compiled(encoder)
    assert calls == [{"dynamic": False}]
    first = runner.encode(WINDOWS, VALID)
    rest = runner.encode(WINDOWS[:4], VALID[:4])
    assert encoder.sizes == [11, 11, 11]  # the first is compared with the same without
    assert torch.equal(rest["a"], first["a"][:4])
    assert torch.equal(rest["valid"], VALID[:4])


def test_goes_on_without_where_compiling_fails(caplog):
    encoder = Small()

    def fail(*args, **kwargs):
        raise RuntimeError("no compiler here")

    runner = compiled(encoder)
    encoder.network._compiled_call_impl = fail
    got = runner.encode(WINDOWS, VALID)["a"]
    torch.testing.assert_close(got, encoder.network(WINDOWS).detach())
    assert "cannot be compiled here (no compiler here)" in caplog.text
    assert runner.batch == 0


@pytest.mark.parametrize("wrong", ["a row", "NaN", "nothing"])
def test_a_compiled_network_that_computes_something_else_is_not_used(caplog, wrong):
    encoder = Small()
    runner = compiled(encoder)
    calls = []

    def network(windows):
        calls.append(len(windows))
        result = encoder.network.forward(windows)
        if wrong != "nothing":
            result[-1] = result[-1] * 1.2 if wrong == "a row" else torch.nan
        return result

    encoder.network._compiled_call_impl = network
    for part in (slice(0, 11), slice(0, 4)):
        got = runner.encode(WINDOWS[part], VALID[part])["a"]
        torch.testing.assert_close(got, encoder.network.forward(WINDOWS[part]).detach())
    if wrong == "nothing":
        assert calls == [11, 11]
        assert not caplog.messages
    else:
        assert calls == [11]
        assert "encoder small computes something else when compiled" in caplog.text


def test_nothing_is_compiled_where_kernels_are_switched_off(monkeypatch):
    monkeypatch.setattr(Runner, "compile", lambda self: setattr(self, "batch", -1))
    assert Runner(Small(), "cuda", COMPILE_FROM).batch == -1
    monkeypatch.setenv("QAMRO_KERNELS", "0")
    assert Runner(Small(), "cuda", COMPILE_FROM).batch == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for torch.compile")
def test_really_compiled_gives_the_same():
    encoder = Small()
    expected = encoder.network(WINDOWS).detach()
    runner = compiled(encoder)
    torch.testing.assert_close(runner.encode(WINDOWS, VALID)["a"], expected)
    torch.testing.assert_close(runner.encode(WINDOWS[:4], VALID[:4])["a"], expected[:4])
    torch._dynamo.reset()
