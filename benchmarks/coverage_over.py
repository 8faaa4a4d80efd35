"""How often intervals over one way alone hold the truth: of these systems on new songs, say.

    python benchmarks/coverage_over.py --out benchmarks/results/coverage-over-cpu.json

As `coverage.py` simulates listening tests, but what stays (`--over group`: the systems) stays in
the truth too: each test's own figure on many new songs of its systems. All data is simulated.
"""

import argparse
import datetime
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coverage import REGIMES, _figure, simulate

from qamro_cache.evaluation.choice import evidence, gap
from qamro_cache.evaluation.intervals import intervals
from qamro_cache.evaluation.ways import make_sample

#: Labels of the way that differs, in what stands for all of them.
MANY = 400
ROWS = [f"{regime} {size} over {over}" for over in ("group", "system") for regime in REGIMES
        for size in ("24x12", "8x12")]  # fmt: skip
FIGURES = [_figure("clip", name) for name in ("mse", "mae", "lcc", "srcc", "ccc")]


def one_test(row: str, seed: int, number: int) -> dict[str, bool]:
    """Whether each interval, and each of a difference, of a simulated test holds its truth."""
    regime, size, _, over = row.split()
    systems, groups = map(int, size.split("x"))
    rng = np.random.default_rng([seed, ROWS.index(row), number])
    shape = (systems, groups + MANY) if over == "group" else (systems + MANY, groups)
    pred, label = simulate(rng, regime, (shape[0], 1), (1, shape[1]), 2)
    seen = np.s_[:systems, :groups]
    rest = np.s_[:, groups:] if over == "group" else np.s_[systems:]
    system, group = (one.ravel() for one in np.indices((systems, groups)))
    ours = np.stack([one[seen].ravel() for one in pred])
    sample = make_sample(label[seen].ravel(), system, ("song", group), over=over)
    found = intervals(ours, sample, FIGURES)
    holds = {}
    for figure in FIGURES:
        truth = [
            float(figure.function(torch.as_tensor(one[rest].ravel()),
                                  torch.as_tensor(label[rest].ravel())))
            for one in pred
        ]  # fmt: skip
        one = found[figure.name]
        holds[figure.name] = bool(one.low[0] <= truth[0] <= one.high[0])
        told = evidence(figure, ours, sample)
        assert told is not None
        between = gap(told, 0, 1)
        holds[f"{figure.name} difference"] = between.low <= truth[0] - truth[1] <= between.high
    return holds


def main() -> None:
    """Run, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tests", type=int, default=400, help="Simulated tests a row.")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, help="JSON to write.")
    asked = parser.parse_args()
    result: dict[str, Any] = {
        "command": f"python benchmarks/coverage_over.py --tests {asked.tests} --seed {asked.seed}",
        "date": datetime.date.today().isoformat(),
        "device": f"cpu, {platform.machine()}",
        "synthetic": True,
        "nominal": 0.95,
        "rows": {},
    }
    torch.set_num_threads(1)
    for row in ROWS:
        done = [one_test(row, asked.seed, k) for k in range(asked.tests)]
        shares = {name: float(np.mean([one[name] for one in done])) for name in done[0]}
        result["rows"][row] = shares
        print(f"{row}: " + "  ".join(f"{name} {share:.3f}" for name, share in shares.items()))
        if asked.out:
            asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
