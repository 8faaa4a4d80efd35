"""Whether compiling an encoder pays is decided from the work done and the clips left."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qamro_cache.extraction import compiling
from qamro_cache.extraction.compiling import COMPILE_SECONDS, STRETCH, Compiling, seconds_saved
from qamro_cache.extraction.stats import Stats

RATE = 2_000  # windows a second
WINDOWS = 3  # of a clip


def work(clips, waiting=0.0):
    seconds = WINDOWS * clips / RATE
    return Stats(
        clips_done=clips,
        windows=WINDOWS * clips,
        encode_seconds=seconds,
        wait_seconds=seconds * waiting,
    )


def test_what_is_saved_is_the_time_left_without_the_time_left_compiled():
    # 400,000 windows take 200 s at 2,000 a second, and 100 s at twice that.
    assert seconds_saved(work(1_000), 400_000 // WINDOWS, 2.0) == pytest.approx(100, rel=1e-4)
    assert seconds_saved(work(1_000), 400_000, 1.0) == 0
    # An encoder that waits for audio would wait longer.
    assert seconds_saved(work(1_000, waiting=0.2), 10**9, 2.0) == 0
    assert seconds_saved(Stats(), 10**9, 2.0) == 0


@given(st.integers(1, 10**4), st.integers(0, 10**8), st.floats(1, 10))
def test_against_both_times(clips, left, speedup):
    before = left * WINDOWS / RATE
    saved = before - left * WINDOWS / (RATE * speedup)
    assert seconds_saved(work(clips), left, speedup) == pytest.approx(saved, rel=1e-6, abs=1e-6)


class Runner:
    def __init__(self, precision="float16", compilable=True):
        self.encoder = SimpleNamespace(spec=SimpleNamespace(name="clap", precision=precision))
        self.compilable, self.compiled = compilable, []

    def compile(self, size):
        self.compiled.append(size)


def extract(runner, clips, waiting=0.0, calls=1):
    """Let clips be encoded at RATE, 256 at once, in several calls with counters of their own."""
    chosen, done = Compiling(runner, 64, clips), 0
    for _ in range(calls):
        stats = Stats()
        for _ in range(0, clips // calls, 256):
            one = work(256, waiting)
            counted = {name: getattr(one, name) for name in compiling.COUNTED}
            stats.add(**counted)
            chosen.note(256, stats)
            done += 256
            if runner.compiled:
                return done
    return None


def test_a_large_set_is_compiled_as_soon_as_it_is_clear(caplog):
    caplog.set_level("INFO")
    runner = Runner()
    done = extract(runner, 1_000_000)
    assert runner.compiled == [64]
    assert STRETCH * RATE / WINDOWS <= done < 1.2 * STRETCH * RATE / WINDOWS + 2 * 256
    (line,) = caplog.messages
    assert line.startswith("encoder clap is compiled: that takes about 50 s and saves 4")
    assert "at 2000 windows/s, 0 % of the time waiting for audio" in line


def test_a_set_that_comes_in_parts_is_judged_as_a_whole():
    """A Ray worker is given a few units at a time."""
    runner = Runner()
    assert extract(runner, 1_000_000, calls=1_000)
    assert runner.compiled == [64]


@pytest.mark.parametrize("what", ["few clips", "float32", "waits", "no GPU"])
def test_what_does_not_pay_is_not_compiled(caplog, what):
    caplog.set_level("INFO")
    # So many that half precision saves 0.9 of what compiling takes.
    few = int(0.9 * COMPILE_SECONDS * RATE / WINDOWS / (1 - 1 / 1.4))
    clips = few if what == "few clips" else int(1.5 * few)
    waiting = 0.5 if what == "waits" else 0.0
    runner = Runner("float32" if what == "float32" else "float16", what != "no GPU")
    assert extract(runner, clips, waiting) is None
    assert runner.compiled == []
    # Said once.
    assert [("is not compiled" in line) for line in caplog.messages] == [True] * (what != "no GPU")


def test_work_of_less_than_a_stretch_says_nothing(caplog):
    caplog.set_level("INFO")
    extract(Runner(), 2_000)
    assert not caplog.messages
