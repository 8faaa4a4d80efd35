"""Whether the gain that an ensemble prints is the gain on fresh clips, and what it is on real sets.

    python benchmarks/ensembles.py --out benchmarks/results/ensembles-cpu.json        # simulated
    python benchmarks/ensembles.py --set codec-mushra=emb.h5 --out FILE               # a real set
    python benchmarks/ensembles.py --set codec-mushra=emb.h5 --grid members --out FILE

Simulated: clips of some groups, whose labels have an effect of the group; each cell is a ridge with
a fixed penalty on features of its own, of which one number carries a share of the label that
differs by cell (none at all in ``null``; in ``identical`` all cells have the same features). The
printed gain is that of `qamro_cache.evaluation.ensembles` by leave-one-group-out, the choice by
leave-two-groups-out; systems are the groups. The gain on fresh clips is that of the same folds'
ensembles on clips of new groups, pooled as the held-out ones are: each fold scores as many new
groups as it holds out, many times. ``clip_srcc`` is what is not printed: the gain in the pooled
rank correlation of predictions as they come, from which no fold's training mean is taken away.
``saved`` is the gain of the ensemble which is saved, chosen by the held-out predictions and
refitted on all clips, over the cell that is best by them.

A real set: ``qamro-ablate --head ridge,knn,svr --context none,group --cv group --nested`` and
``qamro-ensemble`` on a cache, for each way to choose; the gains of ``metrics.json`` are kept. With
``--grid members`` the nine cells of the grid of that name in their place, MLP heads of five seeds
among them.
"""

import argparse
import datetime
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.evaluation.ensembles import ERRORS, RANKS, Chooser, average, gains, weighted
from qamro_cache.evaluation.figures import figures_of
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.nested import Inside
from qamro_cache.experiments.nested import inner_folds
from qamro_cache.training.inputs import Folds

Floats = npt.NDArray[np.float64]

CELLS, WIDTH, PENALTY = 12, 10, 10.0
#: Draws of fresh clips, each of as many new groups.
FRESH = 8
#: name -> groups, clips a group, lowest and highest share of the label in a cell's feature.
ROWS = {
    "null 8x12": (8, 12, 0.0, 0.0),
    "equal 8x12": (8, 12, 0.4, 0.4),
    "uneven 8x12": (8, 12, 0.1, 0.7),
    "uneven 20x5": (20, 5, 0.1, 0.7),
    "identical 8x12": (8, 12, 0.4, 0.4),
}
SPREAD = 0.5


def heads(features: Floats, labels: Floats, train: npt.NDArray[np.bool_], every: Floats) -> Floats:
    """Predict clips ``every`` [N, D] by a ridge of each fold's training clips: [F, N]."""
    weight = train.astype(np.float64)
    x = np.concatenate([features, np.ones((len(features), 1))], 1)
    penalty = np.diag([PENALTY] * WIDTH + [0.0])
    gram = np.einsum("fc,ci,cj->fij", weight, x, x, optimize=True) + penalty
    solved = np.linalg.solve(gram, (weight * labels @ x)[..., None])[..., 0]
    return np.asarray(solved @ np.concatenate([every, np.ones((len(every), 1))], 1).T)


def drawn(
    random: np.random.Generator, row: str, group: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Return labels [C] and each cell's features [CELLS, C, D] of clips of some groups."""
    _, _, low, high = ROWS[row]
    labels = SPREAD * random.standard_normal(int(group.max()) + 1)[group]
    labels = labels + random.standard_normal(len(group))
    features = random.standard_normal((CELLS, len(group), WIDTH))
    features[:, :, 0] += np.linspace(low, high, CELLS)[:, None] * labels
    if row.startswith("identical"):
        features[:] = features[0]
    return labels, features


def one_set(row: str, seed: int, chooser: Chooser) -> dict[str, float]:
    """Return the printed gain of one simulated set, and those on fresh clips."""
    groups, size, *_ = ROWS[row]
    random = np.random.default_rng([seed, list(ROWS).index(row)])
    group = np.repeat(np.arange(groups), size)
    labels, features = drawn(random, row, group)
    test = group == np.arange(groups)[:, None]
    folds = Folds(~test, np.zeros_like(test), test, (), group)
    inside = inner_folds(folds)
    outer = np.zeros((CELLS, len(group)))
    inner = np.full((CELLS, *test.shape), np.nan)
    for cell, own in enumerate(features):
        outer[cell] = heads(own, labels, folds.train, own)[group, np.arange(len(group))]
        every = heads(own, labels, inside.train, own)
        for pred, held, served in zip(every, inside.test, inside.serves, strict=True):
            for fold in served:
                where = held & ~test[fold]
                inner[cell, fold, where] = pred[where]
    found, _ = average(list(outer), [Inside(test, labels, one) for one in inner], chooser)
    judged = Judged(labels, group, group=group)
    printed = {name: one["gain"] for name, one in gains(found, judged).items()}
    printed["clip_srcc"] = gain(found.pred, found.single, judged, found.mean)["clip_srcc"]
    result = {f"printed_{name}": value for name, value in printed.items()}
    fresh, saved = [], []
    whole = np.ones((1, len(group)), np.bool_)
    times = chooser.choose(outer, labels)
    best = int(Chooser("top", 1).choose(outer, labels).argmax())
    for _ in range(FRESH):
        truth, new = drawn(random, row, group)
        scores = [heads(a, labels, folds.train, b) for a, b in zip(features, new, strict=True)]
        ours, theirs = np.zeros(len(group)), np.zeros(len(group))
        for fold in range(groups):
            mine = group == fold
            ours[mine], _ = weighted([one[fold, mine] for one in scores], found.times[fold])
            theirs[mine] = scores[found.best[fold]][fold, mine]
        there = Judged(truth, group, group=group)
        fresh.append(gain(ours, theirs, there, found.mean))
        last = [heads(a, labels, whole, b)[0] for a, b in zip(features, new, strict=True)]
        saved.append(gain(weighted(last, times)[0], last[best], there, 0 * found.mean))
    for name, many in (("fresh", fresh), ("saved", saved)):
        for figure in many[0]:
            result[f"{name}_{figure}"] = float(np.mean([one[figure] for one in many]))
    return result


def gain(ours: Floats, theirs: Floats, judged: Judged, mean: Floats) -> dict[str, float]:
    """Return the difference of each figure: of ranks less ``mean`` [C], and of errors."""
    both = np.stack([ours, theirs])
    found = figures_of(both, judged, only=("clip_srcc", *ERRORS))
    for name, values in figures_of(both - mean, judged, only=RANKS).items():
        found[f"centered_{name}"] = values
    return {name: float(mine - other) for name, (mine, other) in found.items()}


def run_row(row: str, sets: int, seed: int, chooser: Chooser) -> dict[str, Any]:
    """Return mean gains, and printed less fresh ones with their standard error."""
    found = [one_set(row, seed + k, chooser) for k in range(sets)]
    result: dict[str, Any] = {"sets": sets, "gain": {}, "printed_less": {}}
    for name in found[0]:
        result["gain"][name] = float(np.mean([one[name] for one in found]))
    for against in ("fresh", "saved"):
        for figure in ("clip_srcc", *(f"centered_{name}" for name in RANKS), *ERRORS):
            apart = [one[f"printed_{figure}"] - one[f"{against}_{figure}"] for one in found]
            error = float(np.std(apart, ddof=1) / np.sqrt(sets))
            result["printed_less"][f"{against}_{figure}"] = {
                "mean": float(np.mean(apart)),
                "standard_error": error,
            }
    return result


def simulate(sets: int, seed: int, rows: list[str]) -> dict[str, Any]:
    """Run, print and return all rows, by both ways to choose."""
    found: dict[str, Any] = {}
    for row in rows:
        for way in ("top", "greedy"):
            one = run_row(row, sets, seed, Chooser(way, 5))
            found[f"{row}, {way}"] = one
            shown = ", ".join(
                f"{name} {v['mean']:+.4f} ({v['standard_error']:.4f})"
                for name, v in one["printed_less"].items()
            )
            print(
                f"{row}, {way}: gain {one['gain']['printed_centered_clip_srcc']:+.4f}; less {shown}"
            )
    return found


def real(name: str, cache: Path, cells: str) -> dict[str, Any]:
    """Train six cells, or those of a grid, on a cache, and choose of them."""
    from qamro_cache import ablate, ensemble

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "grid"
        asked: dict[str, Any] = {"cv": "group", "nested": True}
        if cells:
            asked |= {"grid": cells}
        else:
            asked |= {"head": ["ridge", "knn", "svr"], "context": ["none", "group"]}
        ablate(cache, grid, **asked)
        for way in ("top", "greedy"):
            for calibrate in (False, True):
                out = Path(folder) / f"{way}-{calibrate}"
                record = ensemble(grid, out, choose=way, calibrate=calibrate)
                for axis, one in record["axes"].items():
                    models = {
                        model: {n: v["value"] for n, v in scored["metrics"].items()}
                        for model, scored in one["models"].items()
                    }
                    words = f"{axis}, {way}{', calibrated' if calibrate else ''}"
                    found[words] = {**one["ensemble"], "models": models}
                    print(name, words, json.dumps(one["ensemble"]["gain"]))
    return found


def main() -> None:
    """Run, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=200, help="Simulated sets a row.")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--row", choices=ROWS, action="append", help="Only this one.")
    parser.add_argument("--set", action="append", metavar="NAME=CACHE", help="A real set.")
    parser.add_argument("--grid", default="", help="Of a real set: the cells of this grid.")
    parser.add_argument("--out", type=Path, help="JSON to write.")
    given = parser.parse_args()
    command = "python benchmarks/ensembles.py"
    if given.set:
        pairs = [one.partition("=")[::2] for one in given.set]
        found = {name: real(name, Path(path), given.grid) for name, path in pairs}
        command += "".join(f" --set {name}={name}.h5" for name, _ in pairs)
        command += f" --grid {given.grid}" if given.grid else ""
    else:
        found = simulate(given.sets, given.seed, given.row or list(ROWS))
        command += f" --sets {given.sets} --seed {given.seed}"
    result = {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "device": f"cpu, {platform.machine()}",
        "synthetic": not given.set,
        "rows": found,
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
