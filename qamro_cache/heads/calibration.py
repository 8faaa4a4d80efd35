"""A scale of one's own: scores brought to the labels of a few clips, by a line or by steps."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.datasets.records import Axis

Floats = npt.NDArray[np.float64]

#: Fewest clips of a line: its interval is twice as wide as of many (t of 8 degrees of freedom, the
#: error's own error aside), and a single odd clip is a tenth of it.
FEWEST = 10
Steps = tuple[tuple[float, ...], tuple[float, ...]]

#: Fewest clips of a monotone function in place of the line, where labels bend: of fewer it bends
#: where their errors do (`benchmarks/calibration.py`).
FEWEST_STEPS = 200


class NotCalibratedError(ValueError):
    """The labels say too little; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Calibration:
    """label = offset + slope * score, with 95 % intervals, and steps where there are enough clips.

    Attributes:
        axis: of the labels.
        clips: N behind it.
        slope: of the labels over the scores, least squares.
        slope_low: of its interval (t with N - 2 degrees of freedom).
        slope_high: likewise.
        offset: the label at a score of 0.
        offset_low: of its interval.
        offset_high: likewise.
        steps: scores and labels of a function that never falls, where it is closer than the line:
            between two a line, beyond the ends the end's label; None: the line is used.
    """

    axis: Axis
    clips: int
    slope: float
    slope_low: float
    slope_high: float
    offset: float
    offset_low: float
    offset_high: float
    steps: Steps | None = None

    def apply(self, scores: Floats) -> Floats:
        """Return labels of scores, NaN of NaN."""
        if self.steps is None:
            return self.offset + self.slope * scores
        found: Floats = np.interp(scores, *self.steps)
        return np.where(np.isfinite(scores), found, np.nan)

    def spread(self, scores: Floats, std: Floats) -> Floats:
        """Return the standard deviations of calibrated scores, of theirs before.

        The line's at least: where steps are flat, as beyond their ends, no label tells how far
        members are apart, and none of that makes them agree.
        """
        line = abs(self.slope) * std
        if self.steps is None:
            return line
        return np.maximum(line, (self.apply(scores + std) - self.apply(scores - std)) / 2)

    def record(self) -> dict[str, Any]:
        """Return it as JSON types."""
        found = asdict(self)
        if self.steps is not None:
            found["steps"] = [list(part) for part in self.steps]
        return found


def fit_calibration(
    scores: Floats, labels: Floats, axis: Axis, *, bends: bool = True
) -> Calibration:
    """Fit labels [N] by scores [N]; clips without the one or the other do not count.

    Args:
        scores: of a head.
        labels: of the same clips.
        axis: of the labels.
        bends: whether steps may stand in the line's place.

    Raises:
        NotCalibratedError: too few clips, equal scores or labels, or a slope that may be 0: the
            scores do not tell these clips apart, and a line through them would be the mean label.
    """
    from scipy.stats import linregress, t

    known = np.isfinite(scores) & np.isfinite(labels)
    x, y = scores[known], labels[known]
    if len(x) < FEWEST:
        raise NotCalibratedError(
            f"{len(x)} clips have a score and a label, and a line needs {FEWEST}; label more clips"
        )
    if np.ptp(x) == 0:
        raise NotCalibratedError(f"all {len(x)} clips have the score {x[0]:g}; label other clips")
    if np.ptp(y) == 0:
        raise NotCalibratedError(f"all {len(x)} clips have the label {y[0]:g}; label other clips")
    apart = (x - x.mean()) ** 2
    if apart.max() / apart.sum() + 1 / len(x) > 1 - 1e-9:
        raise NotCalibratedError(
            f"but for one, all {len(x)} clips have the score {np.median(x):g}; label other clips"
        )
    line = linregress(x, y)
    wide = float(t.ppf(0.975, len(x) - 2))
    low, high = line.slope - wide * line.stderr, line.slope + wide * line.stderr
    if not low > 0:
        why = "which may be 0: the scores do not tell these clips apart; label more clips"
        if high < 0:
            why = "below 0: the higher a score, the lower the label; take a head of such clips"
        raise NotCalibratedError(
            f"the slope over {len(x)} clips is {line.slope:.3g} (95 % {low:.3g} to {high:.3g}), "
            f"{why}"
        )
    steps = _steps(x, y) if bends and len(x) >= FEWEST_STEPS and _bends(x, y) else None
    offset, error = float(line.intercept), wide * float(line.intercept_stderr)
    slopes = float(line.slope), float(low), float(high)
    return Calibration(axis, len(x), *slopes, offset, offset - error, offset + error, steps)


def _steps(x: Floats, y: Floats) -> Steps:
    """Return scores and labels of the closest function that never falls."""
    from scipy.optimize import isotonic_regression

    places, at = np.unique(x, return_inverse=True)
    count = np.bincount(at)
    fitted = isotonic_regression(np.bincount(at, y) / count, weights=count)
    # The ends of each stretch of one label say all.
    ends = np.flatnonzero(np.diff(fitted.x) > 0)
    kept = np.unique(np.concatenate([[0], ends, ends + 1, [len(places) - 1]]))
    return tuple(places[kept].tolist()), tuple(fitted.x[kept].tolist())


def _bends(x: Floats, y: Floats) -> bool:
    """Whether steps come closer than a line to labels that neither has seen, a fifth at a time."""
    part = np.empty(len(x), int)
    part[np.argsort(x, kind="stable")] = np.arange(len(x)) % 5
    line, steps = np.empty_like(y), np.empty_like(y)
    for one in range(5):
        held = part == one
        line[held] = np.polyval(np.polyfit(x[~held], y[~held], 1), x[held])
        steps[held] = np.interp(x[held], *_steps(x[~held], y[~held]))
    return bool(((steps - y) ** 2).mean() < ((line - y) ** 2).mean())


def calibration_of(record: Mapping[str, Any] | None, axis: str) -> Calibration | None:
    """Return an axis' calibration from what a head keeps by axis; None where there is none.

    Raises:
        ValueError: it is none that could have been fitted.
    """
    if record is None or axis not in record:
        return None
    one = dict(record[axis])
    ends = one.pop("axis")
    numbers = ("slope", "slope_low", "slope_high", "offset", "offset_low", "offset_high")
    steps = one.pop("steps")
    if one.keys() != {"clips", *numbers} or type(one["clips"]) is not int:
        raise ValueError("its calibration has other fields than this format's")
    if steps is not None:
        steps = tuple(tuple(_number(value) for value in part) for part in steps)
        _check_steps(steps)
    for name in numbers:
        one[name] = _number(one[name])
    low, high = _number(ends["low"]), _number(ends["high"])
    if ends.keys() != {"name", "low", "high", "guessed"} or not low < high or one["slope"] <= 0:
        raise ValueError("its calibration is to no scale")
    return Calibration(
        Axis(str(ends["name"]), low, high, bool(ends["guessed"])), **one, steps=steps
    )


def check_calibration(record: Mapping[str, Any] | None, axes: Collection[str]) -> None:
    """Refuse what is no calibration of these axes.

    Raises:
        ValueError: says what is wrong.
    """
    for axis in record or ():
        if axis not in axes:
            raise ValueError(f"it is calibrated on an axis {axis[:40]!r} that it has not")
        calibration_of(record, axis)


def _check_steps(steps: tuple[tuple[float, ...], ...]) -> None:
    if len(steps) != 2 or not 2 <= len(steps[0]) == len(steps[1]):
        raise ValueError("its calibration's steps are not two rows of one length")
    if not ((np.diff(steps[0]) > 0).all() and (np.diff(steps[1]) >= 0).all()):
        raise ValueError("its calibration's steps fall")


def _number(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError("its calibration has a value that is no number")
    return float(value)  # type: ignore[arg-type]
