"""How far the best of equal cells flatters itself, and whether the nested estimate does.

    python benchmarks/nested.py --out benchmarks/results/nested-cpu.json     # minutes of a core

All data is simulated: clips of some groups, whose labels have an effect of the group, and cells
that are equal by construction. Each cell has features of its own, of which one number carries the
same share of the label (none in the rows ``null``). Heads are ridge with a fixed penalty, by
leave-one-group-out and, inside, by leave-two-groups-out. Since no cell is better than another, what
a cell chosen by anything but the judged labels reaches is the mean over the cells; the difference
from it is what an estimate flatters by.

Three things can lift a choice above the mean cell without any label having leaked, and each is
measured: the heads of one cell may have learned more by luck, which clips of new groups show
(``fresh``), and predictions of several cells in one ranking are ranked otherwise than those of one
(``mixed``: the exact choices, with the cells exchanged at random). ``within`` is the exact choice
by the SRCC within groups, which knows neither pooling nor the mean that a group left out lowers.
``centered`` chooses and judges predictions of which each fold's training mean is taken away: that
mean is lower where a good group is left out, so a figure of nothing is below 0, and some cells'
predictions hide it more than others'. What choosing gains by that is no leak, and gone here.
"""

import argparse
import datetime
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.evaluation.figures import figures_of
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.nested import choose_by_fold, pool_choices
from qamro_cache.evaluation.score import DECIDES
from qamro_cache.experiments.nested import inner_folds
from qamro_cache.training.inputs import Folds

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CELLS, WIDTH, PENALTY = 12, 10, 10.0
#: Clips of new groups that chosen heads are judged by, and exchanges of the cells.
FRESH, EXCHANGES = 300, 20
#: name -> groups, clips a group, share of the label in one feature, std of the groups.
ROWS = {
    "null 8x12": (8, 12, 0.0, 0.5),
    "null 20x5": (20, 5, 0.0, 0.5),
    "weak 8x12": (8, 12, 0.4, 0.5),
    "weak 20x5": (20, 5, 0.4, 0.5),
}


def heads(features: Floats, labels: Floats, train: Bools) -> Floats:
    """Predict all clips [F, C] by a ridge of each fold's training clips [F, C]."""
    weight = train.astype(np.float64)
    x = np.concatenate([features, np.ones((len(features), 1))], 1)
    penalty = np.diag([PENALTY] * WIDTH + [0.0])
    gram = np.einsum("fc,ci,cj->fij", weight, x, x, optimize=True) + penalty
    solved = np.linalg.solve(gram, (weight * labels @ x)[..., None])[..., 0]
    return np.asarray(solved @ x.T)


def one_grid(row: str, seed: int) -> dict[str, float]:
    """Return the figures of one simulated grid: of the mean cell, the best, and both choices."""
    groups, size, share, spread = ROWS[row]
    random = np.random.default_rng([seed, list(ROWS).index(row)])
    group = np.repeat(np.arange(groups), size)
    labels = spread * random.standard_normal(groups)[group] + random.standard_normal(len(group))
    features = random.standard_normal((CELLS, len(group), WIDTH))
    features[:, :, 0] += share * labels
    test = group == np.arange(groups)[:, None]
    folds = Folds(~test, np.zeros_like(test), test, (), group)
    inside = inner_folds(folds)
    outer = np.zeros((CELLS, len(group)))
    inner = np.full((CELLS, *test.shape), np.nan)
    lowered = np.full(test.shape, np.nan)
    for cell, own in enumerate(features):
        outer[cell] = heads(own, labels, folds.train)[group, np.arange(len(group))]
        for pred, train, held, served in zip(
            heads(own, labels, inside.train), inside.train, inside.test, inside.serves, strict=True
        ):
            for fold in served:
                where = held & ~test[fold]
                inner[cell, fold, where] = pred[where]
                lowered[fold, where] = labels[train].mean()
    judged = Judged(labels, group, group=group)
    values = np.array(figures_of(outer, judged, only=[DECIDES])[DECIDES])
    ways = {"approximate": (outer, ~test), "exact": (inner, np.isfinite(inner).all(0))}
    found = {"mean_cell": float(values.mean()), "best_cell": float(values.max())}
    for name, (chosen_by, counted) in ways.items():
        picks = choose_by_fold(chosen_by, counted, labels)
        pooled = pool_choices(picks, outer, test)
        found[name] = figures_of(pooled[None], judged, only=[DECIDES])[DECIDES][0]
    within = figures_of(np.stack([pooled, *outer]), judged, only=["group_srcc"])["group_srcc"]
    found["within"] = found["mean_cell"] + within[0] - float(np.mean(within[1:]))
    found["centered"] = found["mean_cell"] + centered_gain(
        outer - np.array([labels[train].mean() for train in folds.train])[group],
        inner - lowered,
        judged,
        test,
    )
    orders = [random.permutation(CELLS)[picks] for _ in range(EXCHANGES)]
    mixed = np.stack([pool_choices(order, outer, test) for order in orders])
    found["mixed"] = float(np.mean(figures_of(mixed, judged, only=[DECIDES])[DECIDES]))
    new = on_new_groups(features, labels, folds.train, (share, spread), random)
    found["fresh"] = (
        float((new[picks, np.arange(groups)] - new.mean(0)).mean()) + found["mean_cell"]
    )
    return found


def centered_gain(outer: Floats, inner: Floats, judged: Judged, test: Bools) -> float:
    """Return what the exact choice has above the mean cell."""
    picks = choose_by_fold(inner, np.isfinite(inner).all(0), judged.target)
    pred = np.stack([pool_choices(picks, outer, test), *outer])
    chosen, *cells = figures_of(pred, judged, only=[DECIDES])[DECIDES]
    return float(chosen - np.mean(cells))


def on_new_groups(
    features: Floats,
    labels: Floats,
    train: Bools,
    row: tuple[float, float],
    random: np.random.Generator,
) -> Floats:
    """Return the clip SRCC of each cell's heads [CELLS, F] on clips of as many new groups."""
    share, spread = row
    fresh = spread * random.standard_normal(FRESH) + random.standard_normal(FRESH)
    known = np.concatenate([train, np.zeros((len(train), FRESH), np.bool_)], 1)
    judged = Judged(fresh, np.full(FRESH, -1))
    found = []
    for own in features:
        new = random.standard_normal((FRESH, WIDTH))
        new[:, 0] += share * fresh
        pred = heads(np.concatenate([own, new]), np.concatenate([labels, fresh]), known)
        found.append(figures_of(pred[:, len(labels) :], judged, only=[DECIDES])[DECIDES])
    return np.array(found)


def run_row(row: str, grids: int, seed: int) -> dict[str, Any]:
    """Return the mean figure of each estimate, and by how much it flatters, with its error."""
    found = [one_grid(row, seed + k) for k in range(grids)]
    means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    result: dict[str, Any] = {"grids": grids, "cells": CELLS, DECIDES: means, "flatters_by": {}}
    for name in ("best_cell", "approximate", "exact", "centered", "within", "fresh", "mixed"):
        gaps = np.array([one[name] - one["mean_cell"] for one in found])
        error = float(gaps.std(ddof=1) / np.sqrt(grids))
        result["flatters_by"][name] = {"mean": float(gaps.mean()), "standard_error": error}
    return result


def main() -> None:
    """Run, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--grids", type=int, default=1000, help="Simulated grids a row.")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--row", choices=ROWS, action="append", help="Only this one.")
    parser.add_argument("--out", type=Path, help="JSON to write.")
    arguments = parser.parse_args()
    rows = arguments.row or list(ROWS)
    result: dict[str, Any] = {
        "command": "python benchmarks/nested.py"
        + "".join(f' --row "{row}"' for row in arguments.row or ())
        + f" --grids {arguments.grids} --seed {arguments.seed}",
        "date": datetime.date.today().isoformat(),
        "device": f"cpu, {platform.machine()}",
        "synthetic": True,
        "rows": {row: run_row(row, arguments.grids, arguments.seed) for row in rows},
    }
    for row, one in result["rows"].items():
        gaps = one["flatters_by"].items()
        shown = ", ".join(f"{n} {v['mean']:+.4f} ({v['standard_error']:.4f})" for n, v in gaps)
        print(f"{row}: mean cell {one[DECIDES]['mean_cell']:.3f}; flatters by {shown}")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
