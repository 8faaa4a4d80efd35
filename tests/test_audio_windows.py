"""Windows of a clip: against a naive plan on whole clips."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qamro_cache.audio.windows import WindowCutter, fill_window, plan_windows
from qamro_cache.errors import ClipError
from qamro_cache.identity import AudioPolicy

POLICY = AudioPolicy(sample_rate=10, window=100, hop=100, min_tail=10)


@pytest.mark.parametrize(
    ("size", "plan"),
    [
        (1, [(0, 1)]),
        (99, [(0, 99)]),
        (100, [(0, 100)]),
        (109, [(0, 100)]),  # a tail under min_tail is dropped
        (110, [(0, 100), (10, 100)]),  # a longer one is moved back
        (200, [(0, 100), (100, 100)]),
        (250, [(0, 100), (100, 100), (150, 100)]),
    ],
)
def test_plan_by_hand(size: int, plan: list[tuple[int, int]]) -> None:
    assert plan_windows(size, POLICY) == plan


def test_plan_of_padded_tails_is_audioboxs() -> None:
    # Upstream: for start in range(0, size, hop), whatever is left of the window.
    policy = replace(POLICY, tail="pad", min_tail=0)
    for size in range(1, 450):
        expected = [(start, min(100, size - start)) for start in range(0, size, 100)]
        assert plan_windows(size, policy) == expected


def test_overlapping_windows_cover_the_clip_once_more_only_if_needed() -> None:
    policy = replace(POLICY, hop=50, min_tail=0)
    assert plan_windows(150, policy) == [(0, 100), (50, 100)]
    assert plan_windows(151, policy) == [(0, 100), (50, 100), (51, 100)]


def test_empty_and_short_clips_are_named() -> None:
    with pytest.raises(ClipError) as empty:
        plan_windows(0, POLICY)
    assert empty.value.code == "empty"
    with pytest.raises(
        ClipError, match=r"0\.300 s of audio; this encoder needs at least 0\.500"
    ) as e:
        plan_windows(3, replace(POLICY, min_clip=5))
    assert e.value.code == "too-short"


@given(
    size=st.integers(1, 700),
    hop=st.integers(1, 150),
    tail=st.sampled_from(["shift", "pad"]),
    min_tail=st.integers(0, 40),
    padding=st.sampled_from(["repeat", "zero", "reflect"]),
    cuts=st.lists(st.integers(0, 700), max_size=6),
)
def test_the_cutter_gives_the_planned_windows_for_any_blocks(
    size: int, hop: int, tail: str, min_tail: int, padding: str, cuts: list[int]
) -> None:
    policy = AudioPolicy(10, 100, hop, tail, min_tail, padding=padding)  # type: ignore[arg-type]
    audio = np.arange(1, size + 1, dtype=np.float32)
    cutter = WindowCutter(policy)
    found = []
    edges = [0, *sorted(min(cut, size) for cut in cuts), size]
    for first, last in pairwise(edges):
        found += list(cutter.push(audio[first:last]))
    found += list(cutter.finish())
    plan = plan_windows(size, policy)
    assert [(window.start, window.valid) for window in found] == plan
    for window in found:
        assert window.samples.shape == (100,)
        np.testing.assert_array_equal(
            window.samples[: window.valid], audio[window.start : window.start + window.valid]
        )


def test_padding_by_hand() -> None:
    audio = np.array([1, 2, 3], np.float32)
    for padding, expected in {
        "zero": [1, 2, 3, 0, 0, 0, 0, 0],
        "repeat": [1, 2, 3, 1, 2, 3, 0, 0],
        "reflect": [1, 2, 3, 2, 1, 2, 3, 2],
    }.items():
        policy = AudioPolicy(10, 8, 8, padding=padding)  # type: ignore[arg-type]
        assert fill_window(audio, policy).tolist() == expected
    one = AudioPolicy(10, 3, 3, padding="reflect")
    assert fill_window(np.array([5], np.float32), one).tolist() == [5, 0, 0]
