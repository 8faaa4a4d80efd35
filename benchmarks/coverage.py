"""How often 95 % intervals hold the truth: simulated listening tests whose truth is known.

    python benchmarks/coverage.py                        # all rows, 400 tests each: half an hour
    python benchmarks/coverage.py --tests 100 --rows "sys 8x12" --rows ridge
    python benchmarks/coverage.py --cost                 # the time of intervals and of the choice

All data is simulated. Systems and groups (songs, prompts) are crossed, with an effect each on the
quality of a clip and on the error, the slope and the spread of its prediction; labels carry rater
noise, lie on a grid of 0.2 and are clipped to 1..5; predictions are the mean of five seeds. Truth
is a large simulation of what `qamro_cache.evaluation.intervals` says an interval is of. Rows are
``REGIME SxG``: ``sys``, where systems differ most, ``grp``, where groups do. With ``--out`` each is
written when it is there, and a run that was cut off goes on: a test's numbers depend on the seed,
its row and its number alone.
"""

import argparse
import datetime
import functools
import json
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qamro_cache.evaluation import metrics
from qamro_cache.evaluation.baselines import View, by_fold
from qamro_cache.evaluation.choice import confidence_set, evidence, gap
from qamro_cache.evaluation.intervals import Figure, intervals
from qamro_cache.evaluation.metrics import lcc, srcc
from qamro_cache.evaluation.ways import Sample, make_sample
from qamro_cache.heads.ridge import fit_ridge

SEEDS = 5
REGIMES = {"sys": (0.7, 0.2), "grp": (0.35, 0.6)}
SIZES = [(31, 60), (24, 12), (24, 8), (10, 20), (8, 12), (5, 40)]
ROWS = [f"{regime} {s}x{g}" for regime in REGIMES for s, g in SIZES]
#: Rows of the choice among twelve equal cells.
CHOICES = ["sys 31x60", "sys 24x12", "sys 10x20", "grp 24x8", "grp 8x12"]
CELLS = 12


#: Every figure here has an interval, whatever the commands' tables show.
METRICS = {
    "mse": "error",
    "rmse": "error",
    "mae": "error",
    "mse_fit": "error",
    "lcc": "correlation",
    "ccc": "correlation",
    "srcc": "correlation",
    "ktau": "correlation",
}


def _figure(level: str, name: str) -> Figure:
    return Figure(level, name, metrics.METRICS[name].function, METRICS[name])


FIGURES = [
    *(_figure(level, name) for level in ("clip", "system") for name in METRICS),
    _figure("group", "srcc"),
]
#: What equal models are compared by.
COMPARED = [f for f in FIGURES if f.metric in ("mse", "lcc", "srcc")]


def simulate(
    rng: np.random.Generator,
    regime: str,
    of_system: tuple[int, ...],
    of_group: tuple[int, ...],
    models: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels and the averaged predictions of models that are equal in expectation.

    Args:
        rng: of the draws.
        regime: of `REGIMES`.
        of_system: the shape of what a system has of its own; with ``of_group`` it broadcasts to
            that of the clips: (S, 1) and (1, G) cross them, (n,) twice gives each clip its own.
        of_group: likewise.
        models: M; they share half of the variance of their errors, as heads on one encoder do.

    Returns:
        Predictions [M, ...] and labels [...] of the clips.
    """
    clip = np.broadcast_shapes(of_system, of_group)
    of_systems, of_groups = REGIMES[regime]

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape)

    def error(shape: tuple[int, ...]) -> np.ndarray:
        common = draw(shape)
        return np.stack([(common + draw(shape)) / np.sqrt(2) for _ in range(models)])

    quality = of_systems * draw(of_system) + of_groups * draw(of_group) + 0.15 * draw(clip)
    label = np.clip(np.round((3 + quality + 0.25 * draw(clip)) / 0.2) * 0.2, 1, 5)
    slope = 0.8 + 0.15 * error(of_system) + 0.15 * error(of_group)
    spread = 0.3 * np.exp(0.3 * draw(of_system) + 0.3 * draw(of_group))
    pred = 3.1 + slope * quality + 0.25 * error(of_system) + 0.2 * error(of_group)
    pred = pred + spread * error(clip)
    # What differs by the seed, averaged.
    for m in range(models):
        for _ in range(SEEDS):
            seed = 0.15 * draw(of_system) + 0.1 * draw(of_group) + 0.2 * draw(clip)
            pred[m] += seed / SEEDS
    return pred, label


def crossed(
    rng: np.random.Generator, regime: str, systems: int, groups: int, models: int = 1
) -> tuple[np.ndarray, Sample]:
    """A test of every system on every group: predictions [M, S G] and the sample."""
    pred, label = simulate(rng, regime, (systems, 1), (1, groups), models)
    system = np.repeat(np.arange(systems), groups)
    group = np.tile(np.arange(groups), systems)
    return pred.reshape(models, -1), make_sample(label.ravel(), system, ("song", group))


@functools.cache
def truth(regime: str, groups: int) -> dict[str, float]:
    """What each figure is in the population."""
    rng = np.random.default_rng(987654321)
    found = {}
    pred, label = simulate(rng, regime, (400_000,), (400_000,))
    p, t = torch.as_tensor(pred[0]), torch.as_tensor(label)
    for figure in FIGURES:
        if figure.level == "clip" and figure.metric != "ktau":
            found[figure.name] = float(figure.function(p, t, None))
    found["clip_ktau"] = _tau(pred[0], label)
    within = []
    for _ in range(40):
        pred, label = simulate(rng, regime, (50, 1500), (50, 1))
        within += srcc(torch.as_tensor(pred[0]), torch.as_tensor(label)).tolist()
    found["group_srcc"] = float(np.mean(within))
    sets: list[dict[str, float]] = []
    for _ in range(100):
        pred, label = simulate(rng, regime, (2000, 1), (1, groups))
        p, t = torch.as_tensor(pred[0].mean(-1)), torch.as_tensor(label.mean(-1))
        one = {
            figure.name: float(figure.function(p, t, None))
            for figure in FIGURES
            if figure.level == "system" and figure.metric != "ktau"
        }
        sets.append({**one, "system_ktau": _tau(p.numpy(), t.numpy())})
    return found | {name: float(np.mean([one[name] for one in sets])) for name in sets[0]}


def _tau(p: np.ndarray, t: np.ndarray) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(p, t).statistic)


def one_test(task: tuple[str, int, int]) -> dict[str, Any]:
    """Intervals and a paired comparison of one simulated test."""
    torch.set_num_threads(1)
    row, seed, number = task
    if row == "ridge":
        return ridge_test(seed, number)
    regime, size = row.split()
    systems, groups = map(int, size.split("x"))
    rng = np.random.default_rng([seed, ROWS.index(row), number])
    pred, sample = crossed(rng, regime, systems, groups, 2)
    found = intervals(pred[:1], sample, FIGURES)
    result: dict[str, Any] = {
        "intervals": {k: (float(e.low[0]), float(e.high[0])) for k, e in found.items()}
    }
    result["apart"] = {}
    for figure in COMPARED:
        told = evidence(figure, pred, sample)
        between = gap(told, 0, 1)
        result["apart"][figure.name] = bool(between.low > 0 or between.high < 0)
    return result


def one_grid(task: tuple[str, int, int]) -> dict[str, bool]:
    """Whether any of twelve equal cells is put out, by each figure."""
    torch.set_num_threads(1)
    row, seed, number = task
    regime, size = row.split()
    systems, groups = map(int, size.split("x"))
    rng = np.random.default_rng([seed, 1000 + ROWS.index(row), number])
    pred, sample = crossed(rng, regime, systems, groups, CELLS)
    result = {}
    for figure in COMPARED:
        told = evidence(figure, pred, sample)
        chosen = confidence_set(told, higher=figure.scale == "correlation")
        result[figure.name] = bool(not chosen.left.all())
    return result


# --- Heads that learn: ridge by leave-one-group-out, 24 systems x 12 groups, 32 features. ---------

RIDGE = (24, 12, 32)
RIDGE_FIGURES = [f for f in FIGURES if f.name in ("clip_srcc", "clip_lcc", "clip_mse")]


class Task:
    """Features and labels of clips: both come of what a system and a group are."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.of_system, self.of_group = rng.normal(size=(2, RIDGE[2])) / np.sqrt(RIDGE[2])

    def draw(
        self, rng: np.random.Generator, systems: np.ndarray, groups: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [S, G, D] and labels [S, G] of given systems [S, D] on new groups."""
        songs = rng.normal(size=(groups, RIDGE[2]))
        quality = 0.6 * (systems @ self.of_system)[:, None] + 0.4 * songs @ self.of_group
        seen = systems[:, None] + songs + rng.normal(size=(len(systems), groups, RIDGE[2]))
        label = 3 + quality + 0.3 * rng.normal(size=quality.shape)
        return seen, np.clip(np.round(label / 0.2) * 0.2, 1, 5)

    def systems(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """What systems are [S, D]."""
        return rng.normal(size=(count, RIDGE[2]))

    def run(self, rng: np.random.Generator, heads: int = RIDGE[1]) -> dict[str, Any]:
        """One study: held-out predictions, and those of fresh clips by some of its heads."""
        S, G, D = RIDGE
        systems = self.systems(rng, S)
        x, y = self.draw(rng, systems, G)
        fresh = {
            "known systems": self.draw(rng, systems, 60),
            "new systems": self.draw(rng, self.systems(rng, 60), 24),
        }
        group = np.tile(np.arange(G), S)
        held_out = group == np.arange(G)[:, None]
        view = View(x.reshape(-1, D), ~held_out, held_out, [D], group)
        pred = by_fold(fit_ridge, view, y.ravel())
        judged = {}
        for name, (new, label) in fresh.items():
            both = np.concatenate([x.reshape(-1, D), new.reshape(-1, D)])
            known = np.concatenate([y.ravel(), label.ravel()])
            test = np.arange(len(known)) >= S * G
            groups = np.concatenate([group, np.full(label.size, G)])
            # Each group's head on the fresh clips, one after the other: pooled as held out.
            rows = []
            for one in held_out[:heads]:
                learned = ~test.copy()
                learned[: S * G] &= ~one
                view = View(both, learned[None], test[None], [D], groups)
                rows.append(by_fold(fit_ridge, view, known)[test])
            judged[name] = (np.stack(rows), label.ravel())
        return {"pred": pred, "label": y.ravel(), "group": group, "fresh": judged}


def _of_fresh(pred: np.ndarray, label: np.ndarray) -> dict[str, float]:
    p, t = (
        torch.as_tensor(pred.ravel()),
        torch.as_tensor(np.tile(label, len(pred) if pred.ndim > 1 else 1)),
    )
    return {f.name: float(f.function(p, t, None)) for f in RIDGE_FIGURES}


def ridge_truth(studies: int = 300) -> dict[str, dict[str, float]]:
    """What the recipe reaches over many studies, by what is judged."""
    task, rng = Task(), np.random.default_rng(77)
    pooled: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for _ in range(studies):
        study = task.run(rng, heads=1)
        for name, (pred, label) in study["fresh"].items():
            pooled.setdefault(name, []).append((pred[0], label))
    return {
        name: _of_fresh(np.concatenate([p for p, _ in rows]), np.concatenate([t for _, t in rows]))
        for name, rows in pooled.items()
    }


def ridge_test(seed: int, number: int) -> dict[str, Any]:
    """Intervals of one study, and what its own heads do with fresh clips."""
    rng = np.random.default_rng([seed, 99, number])
    study = Task().run(rng)
    S, G, _ = RIDGE
    sample = make_sample(study["label"], np.repeat(np.arange(S), G), ("song", study["group"]))
    found = intervals(study["pred"][None], sample, RIDGE_FIGURES)
    return {
        "intervals": {k: (float(e.low[0]), float(e.high[0])) for k, e in found.items()},
        "heads": {name: _of_fresh(*fresh) for name, fresh in study["fresh"].items()},
    }


# --- The run. ------------------------------------------------------------------------------------


def coverage_of(tests: Sequence[dict[str, Any]], known: dict[str, float]) -> dict[str, float]:
    """The share of intervals that hold the truth; one that is not there holds nothing."""
    return {
        name: float(
            np.mean([t["intervals"][name][0] <= value <= t["intervals"][name][1] for t in tests])
        )
        for name, value in known.items()
    }


Map = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]


def run_row(row: str, tests: int, seed: int, over: Map) -> dict[str, Any]:
    """All figures of a row, its tests spread by ``over``: `map`, or that of a pool."""
    done = list(over(one_test, [(row, seed, k) for k in range(tests)]))
    if row == "ridge":
        recipe = ridge_truth()
        found = {f"recipe, {name}": coverage_of(done, one) for name, one in recipe.items()}
        for name in recipe:
            each = [coverage_of([one], one["heads"][name]) for one in done]
            found[f"these heads, {name}"] = {
                f.name: float(np.mean([one[f.name] for one in each])) for f in RIDGE_FIGURES
            }
        return {"tests": tests, "truth": recipe, "coverage": found}
    regime, size = row.split()
    known = truth(regime, int(size.split("x")[1]))
    widths = {
        name: float(np.median([t["intervals"][name][1] - t["intervals"][name][0] for t in done]))
        for name in known
    }
    apart = {f.name: float(np.mean([t["apart"][f.name] for t in done])) for f in COMPARED}
    return {
        "tests": tests,
        "truth": known,
        "coverage": coverage_of(done, known),
        "width": widths,
        "type_1": apart,
    }


def outside(result: dict[str, Any], slack: float) -> list[str]:
    """What is not within the limits, with so much slack for chance."""
    found = []
    for row, one in result["rows"].items():
        if row == "ridge":
            continue
        for name, share in one["coverage"].items():
            low, high = (0.93, 1.0) if name.startswith("system") else (0.90, 0.99)
            if not low - slack <= share <= high + slack:
                found.append(f"{row}: {name} covers {share:.3f}")
        found += [
            f"{row}: {name} tells equal models apart {share:.3f}"
            for name, share in one["type_1"].items()
            if share > 0.08 + slack
        ]
    equal = [share for one in result["rows"].values() for share in one.get("type_1", {}).values()]
    if equal and np.mean(equal) > 0.06 + slack:
        found.append(f"equal models are told apart {np.mean(equal):.3f} on average")
    for row, one in result["choices"].items():
        found += [
            f"{row}: {name} puts out equal cells in {share:.3f}"
            for name, share in one["put_out"].items()
            if share > 0.09 + slack
        ]
    return found


def cost() -> dict[str, float]:
    """Seconds of one core: 120 heads x 1,860 clips with intervals, and the set of 200 cells."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    names = ("clip_srcc", "group_srcc", "clip_lcc", "clip_mse", "system_mse", "system_lcc",
             "system_srcc", "system_ktau")  # fmt: skip
    wanted = [f for f in FIGURES if f.name in names]
    one, sample = crossed(rng, "sys", 31, 60)
    heads = one + 0.2 * rng.normal(size=(200, one.shape[1]))
    intervals(heads[:1], sample, wanted)
    seconds = {}
    for figure in wanted:
        start = time.process_time()
        intervals(heads[:120], sample, [figure])
        seconds[figure.name] = time.process_time() - start
    start = time.process_time()
    intervals(heads[:120], sample, wanted)
    seconds["120 heads, all of these"] = time.process_time() - start
    told = evidence(Figure("clip", "lcc", lcc, "correlation"), heads, sample)
    start = time.process_time()
    confidence_set(told)
    seconds["confidence set of 200 cells"] = time.process_time() - start
    return seconds


def show(row: str, one: dict[str, Any]) -> None:
    """Print a row."""
    if row == "ridge":
        for what, shares in one["coverage"].items():
            print(f"ridge ({what}): " + "  ".join(f"{k} {v:.3f}" for k, v in shares.items()))
        return
    for part in ("coverage", "type_1", "put_out"):
        if part in one:
            print(f"{row} {part}: " + "  ".join(f"{k} {v:.3f}" for k, v in one[part].items()))


def keep(result: dict[str, Any], out: Path | None) -> None:
    """Write what is there."""
    result["outside"] = outside(result, 0.0)
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Run, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tests", type=int, default=400, help="Simulated tests a row.")
    parser.add_argument("--grids", type=int, help="Grids of equal cells a row (5/8 of the tests).")
    parser.add_argument("--rows", action="append", help="Which rows; all, and ridge, by default.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--cost", action="store_true", help="Time it instead.")
    parser.add_argument("--out", type=Path, help="JSON to write, or to go on with.")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "command": "python benchmarks/coverage.py",
        "date": datetime.date.today().isoformat(),
        "device": f"cpu, {platform.machine()}",
        "synthetic": True,
    }
    out = arguments.out
    if arguments.cost:
        result |= {"command": f"{result['command']} --cost", "seconds": cost()}
        for name, value in result["seconds"].items():
            print(f"{name}: {value:.2f} s")
        if out:
            out.write_text(json.dumps(result, indent=1) + "\n")
        return
    tests = arguments.tests
    grids = tests * 5 // 8 if arguments.grids is None else arguments.grids
    result["command"] += f" --tests {tests} --grids {grids} --seed {arguments.seed}"
    result |= {"nominal": 0.95, "rows": {}, "choices": {}, "outside": []}
    if out and out.exists():
        before = json.loads(out.read_text())
        if before["command"] != result["command"]:
            parser.error(f"{out} is of another run: {before['command']}")
        result = before
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        over = functools.partial(pool.imap_unordered, chunksize=2)
        for row in arguments.rows or [*ROWS, "ridge"]:
            if row not in result["rows"]:
                result["rows"][row] = run_row(row, tests, arguments.seed, over)
                show(row, result["rows"][row])
                keep(result, out)
            if row in CHOICES and row not in result["choices"] and grids:
                done = list(over(one_grid, [(row, arguments.seed, k) for k in range(grids)]))
                shares = {f.name: float(np.mean([d[f.name] for d in done])) for f in COMPARED}
                result["choices"][row] = {"grids": grids, "put_out": shares}
                show(row, result["choices"][row])
                keep(result, out)
    print("\n".join(result["outside"]) or "all within the limits")


if __name__ == "__main__":
    main()
