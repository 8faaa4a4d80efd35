"""Fixed windows of a clip: where they start, and how a short one is filled.

The plan depends on the number of samples and the policy alone, so it can be tested without
audio; the cutter follows it while the samples arrive, holding about one window in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qamro_cache.errors import ClipError
from qamro_cache.identity import AudioPolicy

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """One window of a clip.

    Attributes:
        start: first sample, at the policy's rate.
        valid: samples of audio; the rest is padding.
        samples: [window] float32.
    """

    start: int
    valid: int
    samples: Samples


def plan_windows(size: int, policy: AudioPolicy) -> list[tuple[int, int]]:
    """Return (start, valid) of each window of a clip of ``size`` samples.

    Windows follow one another by the hop while they are full of audio. What they leave uncovered
    is the tail: dropped when shorter than ``min_tail``, else one more window, moved back to be
    full (``shift``) or filled up (``pad``). A clip shorter than a window is one filled window.

    Raises:
        ClipError: ``empty`` or ``too-short``.
    """
    if size == 0:
        raise ClipError("empty", "the file holds no audio")
    if size < policy.min_clip:
        raise ClipError(
            "too-short",
            f"{size / policy.sample_rate:.3f} s of audio; this encoder needs at least "
            f"{policy.min_clip / policy.sample_rate:.3f} s",
        )
    window, hop = policy.window, policy.hop
    if size < window:
        return [(0, size)]
    full = (size - window) // hop + 1
    plan = [(index * hop, window) for index in range(full)]
    uncovered = size - max((full - 1) * hop + window, min(full * hop, size))
    if uncovered == 0 or uncovered < policy.min_tail:
        return plan
    start = size - window if policy.tail == "shift" else full * hop
    return [*plan, (start, min(window, size - start))]


def fill_window(audio: Samples, policy: AudioPolicy) -> Samples:
    """Fill ``audio`` [n] up to [window] by the policy's padding."""
    missing = policy.window - len(audio)
    if missing == 0:
        return audio
    if policy.padding == "reflect" and len(audio) > 1:
        return np.pad(audio, (0, missing), mode="reflect")
    if policy.padding == "repeat":
        # Whole repetitions, then zeros: laion_clap's "repeatpad".
        audio = np.tile(audio, policy.window // len(audio))
    return np.pad(audio, (0, policy.window - len(audio)))


class WindowCutter:
    """Cut windows out of samples that arrive in blocks of any size."""

    def __init__(self, policy: AudioPolicy) -> None:
        self.policy = policy
        self._held: Samples = np.zeros(0, np.float32)
        self._first = 0  # of the held samples
        self._next = 0  # start of the next full window
        self._size = 0  # samples so far

    def push(self, samples: Samples) -> Iterator[Window]:
        """Take the next samples and yield the windows that are full of audio."""
        policy = self.policy
        self._held = np.concatenate([self._held, samples])
        self._size += len(samples)
        while self._next + policy.window <= self._size:
            yield self._cut(self._next, policy.window)
            self._next += policy.hop
        # A shifted tail may reach back by a whole window.
        keep = max(min(self._next, self._size - policy.window), self._first)
        self._held = self._held[keep - self._first :]
        self._first = keep

    def finish(self) -> Iterator[Window]:
        """Yield what is left once the clip's length is known.

        Raises:
            ClipError: ``empty`` or ``too-short``.
        """
        cut_already = self._next // self.policy.hop
        for start, valid in plan_windows(self._size, self.policy)[cut_already:]:
            yield self._cut(start, valid)

    def _cut(self, start: int, valid: int) -> Window:
        first = start - self._first
        audio = self._held[first : first + valid]
        return Window(start, valid, fill_window(audio.copy(), self.policy))
