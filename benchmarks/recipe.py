"""Whether another recipe should be the default: candidates named beforehand, both real sets.

    python benchmarks/recipe.py CACHES --out benchmarks/results/recipe-cpu.json

CACHES is a folder with ``cvssp-separation.h5`` and ``codec-mushra.h5``, as `listening_tests.py
--caches` makes it. A candidate is judged beside today's default on three axes (quality and
interferer of the first set, quality of the second), one group left out at a time, by clip SRCC and
clip RMSE of five seeds' averaged prediction. Differences are paired, with 95 % intervals by the
jackknife over systems and groups; their p-values are corrected by Holm (1979) over all of them.

The candidates, named before they were run: ``small``, 64 hidden units, learning rate 2e-3, weight
decay 0.1, dropout 0.5; and both recipes with ``--calibrate``, a line or steps fitted inside each
fold's training clips. The rule: the default changes only where some figure of some axis is better
by a difference that is clear of 0 after Holm, and none is worse by more than .01 (SRCC) or 2 %
(RMSE).
"""

import argparse
import datetime
import json
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from qamro_cache.evaluation.choice import evidence, gap
from qamro_cache.evaluation.intervals import Figure, figure_of
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.metrics import METRICS
from qamro_cache.evaluation.ways import sample_of
from qamro_cache.experiments.request import train_request
from qamro_cache.experiments.train import train

SETS = {"cvssp-separation": ("quality", "interferer"), "codec-mushra": ("quality",)}
SMALL: dict[str, Any] = {"widths": (64,), "lr": 2e-3, "weight_decay": 0.1, "dropout": 0.5}
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "small": SMALL,
    "default calibrated": {"calibrate": True},
    "small calibrated": SMALL | {"calibrate": True},
}
SEEDS = 5
#: What decides, and by how much a figure may be worse: absolutely, or as a share.
FIGURES = {
    "clip_srcc": (figure_of("clip_srcc"), 0.01),
    "clip_rmse": (Figure("clip", "rmse", METRICS["rmse"].function, "error"), 0.02),
}


def predicted(folder: Path, name: str) -> Iterator[tuple[str, Judged, np.ndarray]]:
    """Yield each axis of a set: its name, its labels, and predictions [recipes, C]."""
    cache, common = folder / f"{name}.h5", {"cv": "group", "axis": list(SETS[name])}
    tables = []
    with tempfile.TemporaryDirectory() as out:
        for recipe, settings in RECIPES.items():
            train(cache, Path(out) / recipe, **common, **settings, seeds=SEEDS, device="cpu")
            table = pd.read_csv(Path(out) / recipe / "predictions.csv", dtype={"clip_id": str})
            tables.append(table.groupby(["axis", "clip_id"])["prediction"].mean())
    request = train_request(cache, folder / "none", common)
    for clips, held_out in request.groups:
        for target, axis in enumerate(clips.axes):
            pred = np.stack([table[axis.name].reindex(clips.table["clip_id"]) for table in tables])
            yield f"{name} {axis.name}", clips.judged(target, held_out.folds, held_out.cv), pred


def compared(axis: str, judged: Judged, pred: np.ndarray) -> list[dict[str, Any]]:
    """Hold every candidate against the default by every figure."""
    rows = []
    for name, (figure, slack) in FIGURES.items():
        told = evidence(figure, pred[:, judged.known], sample_of(judged))
        assert told is not None
        values = told.drops.value
        for k, recipe in enumerate(RECIPES):
            row = {"axis": axis, "figure": name, "recipe": recipe, "value": float(values[k])}
            if k:
                between = gap(told, k, 0)
                std = float(np.sqrt(told.variances(0)[k]))
                row |= {"difference": between.value, "low": between.low, "high": between.high}
                row["p"] = float(2 * student.sf(abs(between.value) / std, told.freedom))
                better = between.value if name == "clip_srcc" else -between.value
                row["better"] = better > 0
                row["too_much_worse"] = bool(
                    better < -slack * (1 if name == "clip_srcc" else values[0])
                )
            rows.append(row)
    return rows


def holm(p: list[float]) -> list[float]:
    """Correct p-values for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.array(p)[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(stepped, 1)
    return [float(one) for one in out]


def verdict(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """Say of each candidate whether the rule would make it the default."""
    held = [row for row in rows if "p" in row]
    for row, corrected in zip(held, holm([row["p"] for row in held]), strict=True):
        row["p_holm"] = corrected
    names = dict.fromkeys(row["recipe"] for row in held)
    return {
        name: any(r["better"] and r["p_holm"] < 0.05 for r in held if r["recipe"] == name)
        and not any(r["too_much_worse"] for r in held if r["recipe"] == name)
        for name in names
    }


def main() -> None:
    """Run, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("caches", type=Path, help="folder of the caches of both sets")
    parser.add_argument("--out", type=Path, help="JSON to write.")
    arguments = parser.parse_args()
    rows = [
        row
        for name in SETS
        for axis, judged, pred in predicted(arguments.caches, name)
        for row in compared(axis, judged, pred)
    ]
    becomes = verdict(rows)
    for row in rows:
        line = f"{row['axis']}: {row['figure']} of {row['recipe']} {row['value']:.4g}"
        if "p" in row:
            line += f" ({row['difference']:.3g}, {row['low']:.3g} to {row['high']:.3g}"
            line += f"; Holm's p {row['p_holm']:.2g})"
        print(line)
    print("would become the default:", [name for name, yes in becomes.items() if yes] or "none")
    record = {
        "command": "python benchmarks/recipe.py CACHES",
        "date": datetime.date.today().isoformat(),
        "device": f"cpu, {platform.machine()}",
        "seeds": SEEDS,
        "recipes": RECIPES,
        "becomes_default": becomes,
        "rows": rows,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
