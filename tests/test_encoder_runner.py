"""Batches when memory runs out or the network is compiled: the same features as without."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from qamro_cache.encoders.runner import Runner
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


def compiled(encoder, size=11) -> Runner:
    runner = Runner(encoder, "cpu")
    runner.compile(size)
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


def test_a_larger_batch_than_the_compiled_one_goes_in_parts():
    """Another size would be compiled anew."""
    encoder = Small()
    runner = compiled(encoder, 4)
    encoder.network._compiled_call_impl = encoder.network.forward
    got = runner.encode(WINDOWS, VALID)
    assert encoder.sizes == [4, 4, 4, 4]  # 4, the same without, 4, and 3 that are filled up
    torch.testing.assert_close(got["a"], encoder.network(WINDOWS).detach())
    assert torch.equal(got["valid"], VALID)


def test_memory_that_runs_out_of_a_filled_up_batch_halves_what_was_computed():
    encoder = Small(room=6)
    runner = compiled(encoder)
    encoder.network._compiled_call_impl = encoder.network.forward
    runner.encode(WINDOWS[:2], VALID[:2])
    assert encoder.sizes[:2] == [11, 5]
    assert (runner.limit, runner.batch) == (5, 5)


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
        assert "computes something else" not in caplog.text
    else:
        assert calls == [11]
        assert "encoder small computes something else when compiled" in caplog.text


def test_what_can_be_compiled(monkeypatch):
    assert Runner(Small(), "cuda").compilable
    assert not Runner(Small(), "cpu").compilable
    assert not Runner(SimpleNamespace(), "cuda").compilable
    monkeypatch.setenv("QAMRO_KERNELS", "0")
    assert not Runner(Small(), "cuda").compilable


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for torch.compile")
def test_really_compiled_gives_the_same():
    encoder = Small()
    expected = encoder.network(WINDOWS).detach()
    runner = compiled(encoder)
    torch.testing.assert_close(runner.encode(WINDOWS, VALID)["a"], expected)
    torch.testing.assert_close(runner.encode(WINDOWS[:4], VALID[:4])["a"], expected[:4])
    torch._dynamo.reset()
