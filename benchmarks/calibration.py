"""From how many labeled clips a monotone function is better than a line, where labels bend or not.

    python benchmarks/calibration.py --out benchmarks/results/calibration-cpu.json     # seconds

Simulated: scores of a normal distribution, labels a function of theirs with an error as large as
the function's own spread (a correlation of about .7). `chosen` is what held-out labels decide, from
any number of clips on. The error is that of the calibrated scores
from the function itself, root mean squared over new clips, in units of the labels' error; and how
often the line's intervals hold its true slope where the function is a line.
"""

import argparse
import datetime
import json
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.datasets.records import Axis
from qamro_cache.heads import calibration
from qamro_cache.heads.calibration import NotCalibratedError, fit_calibration

Floats = npt.NDArray[np.float64]

AXIS = Axis("quality", 0.0, 1.0)
CLIPS = (10, 20, 50, 100, 200, 300, 500, 1000)
CURVES: dict[str, Callable[[Floats], Floats]] = {
    "line": lambda x: x,
    "saturating": lambda x: 1.6 * np.tanh(x),
    "two plateaus": lambda x: np.tanh(3 * x),
}


def errors(curve: str, clips: int, draws: int, seed: int) -> dict[str, float]:
    """Return the mean error of line, steps and who was chosen; how often the line was refused."""
    random = np.random.default_rng([seed, clips, list(CURVES).index(curve)])
    new = random.standard_normal(2000)
    truth, refused, held = CURVES[curve](new), 0, []
    missed: dict[str, list[float]] = {"line": [], "steps": [], "chosen": []}
    for _ in range(draws):
        scores = random.standard_normal(clips)
        labels = CURVES[curve](scores) + random.standard_normal(clips)
        try:
            found = fit_calibration(scores, labels, AXIS)
        except NotCalibratedError:
            refused += 1
            continue
        held.append(found.slope_low < 1 < found.slope_high)
        straight = replace(found, steps=None)
        bent = replace(found, steps=calibration._steps(scores, labels))
        for kept, one in zip(missed.values(), (straight, bent, found), strict=True):
            kept.append(float(np.sqrt(((one.apply(new) - truth) ** 2).mean())))
    result = {name: float(np.mean(values)) for name, values in missed.items()}
    result["refused"] = refused / draws
    if curve == "line":
        result["slope_held"] = float(np.mean(held))
    return result


def main() -> None:
    """Run, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, help="JSON to write.")
    given = parser.parse_args()
    # Steps of any number of clips, to see from where they are worth it.
    calibration.FEWEST_STEPS = 2
    rows: dict[str, Any] = {}
    for curve in CURVES:
        for clips in CLIPS:
            rows[f"{curve}, {clips} clips"] = one = errors(curve, clips, given.draws, given.seed)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in one.items())
            print(f"{curve}, {clips} clips: {shown}")
    result = {
        "command": f"python benchmarks/calibration.py --draws {given.draws} --seed {given.seed}",
        "date": datetime.date.today().isoformat(),
        "device": f"cpu, {platform.machine()}",
        "synthetic": True,
        "rows": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
