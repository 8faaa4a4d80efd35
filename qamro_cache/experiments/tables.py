"""The tables of a grid: a row a cell and seed, a row a cell, and which cell is really best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from qamro_cache.evaluation.bootstrap import draw_clusters, interval
from qamro_cache.evaluation.metrics import srcc, system_means
from qamro_cache.evaluation.score import json_text, score
from qamro_cache.experiments.files import write_text

Floats = npt.NDArray[np.float64]

METRIC_NAMES = tuple(
    f"{level}_{name}" for level in ("clip", "system") for name in ("mse", "lcc", "srcc", "ktau")
)

#: Systems from which the system level decides which cell is best.
MIN_SYSTEMS = 10


@dataclass(frozen=True)
class Outcome:
    """One cell (or baseline) on one axis.

    Attributes:
        names: the cell's settings by name.
        model: ``head``, ``ridge`` or ``train mean``.
        axis: name.
        seeds: K seeds.
        predictions: [K, C] held-out predictions of all folds together.
        target: [C] labels, NaN where no fold holds the clip out.
        systems: [C] int64, -1 for none.
        details: per seed columns [K]: ``best_epoch`` (median over the folds), ``diverged``
            (heads), ``stability`` (mean SRCC of an epoch's predictions of the validation set with
            those of the epoch before), and ``pair_coverage`` (share of comparable training pairs
            that meet in a pass over the clips).
    """

    names: Mapping[str, Any]
    model: str
    axis: str
    seeds: Sequence[int]
    predictions: Floats
    target: Floats
    systems: npt.NDArray[np.int64]
    details: Mapping[str, Floats]


def write_tables(
    out: Path, outcomes: Sequence[Outcome], synthetic: bool, resamples: int
) -> dict[str, Any]:
    """Write ``results.csv``, ``summary.csv`` and ``best.json``; return what the last one holds."""
    results, summary = [], []
    # The settings of all cells stand first, empty where a cell does not set one.
    settings = dict.fromkeys(name for outcome in outcomes for name in outcome.names)
    for outcome in outcomes:
        head = {**settings, **outcome.names, "model": outcome.model, "axis": outcome.axis}
        scored = score(outcome.predictions, outcome.target, outcome.systems, resamples=resamples)
        counts = {name: scored[name] for name in ("clips", "systems")}
        for row, seed in enumerate(outcome.seeds):
            one = score(outcome.predictions[row : row + 1], outcome.target, outcome.systems,
                        resamples=0)  # fmt: skip
            figures = {name: _value(one, name) for name in METRIC_NAMES}
            details = {name: values[row] for name, values in outcome.details.items()}
            results.append({**head, "seed": seed, **figures, **counts, **details})
        figures = {}
        for name in METRIC_NAMES:
            figures[name] = _value(scored, name)
            for part in ("std", "low", "high"):
                figures[f"{name}_{part}"] = _value(scored, name, part)
        details = {
            name: float(values.sum() if name == "diverged" else values.mean())
            for name, values in outcome.details.items()
        }
        seeds = len(outcome.seeds)
        summary.append({**head, "seeds": seeds, **counts, **figures, **details})
    for name, rows in (("results", results), ("summary", summary)):
        table = pd.DataFrame(rows)
        if synthetic:
            table["synthetic"] = True
        write_text(out / f"{name}.csv", table.to_csv(index=False).rstrip("\n"))
    # Cells that hold out other clips answer another question: no best one among them.
    asked: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.model == "head":
            asked.setdefault(question(outcome.axis, outcome.names.get("cv")), []).append(outcome)
    best = {name: _best(cells, resamples) for name, cells in asked.items()}
    record = {"synthetic": synthetic, "axes": best}
    write_text(out / "best.json", json_text(record))
    return record


def question(axis: str, cv: str | None) -> str:
    """Return what a best cell is named by: the axis, and how clips are held out if that varies."""
    return axis if cv is None else f"{axis}, cv {cv}"


def _value(scored: Mapping[str, Any], name: str, part: str = "value") -> float:
    metric = scored["metrics"].get(name)
    return float(metric[part]) if metric else float("nan")


def _best(outcomes: Sequence[Outcome], resamples: int) -> dict[str, Any]:
    """Find the cell of the highest SRCC, and those that a paired bootstrap cannot tell from it."""
    usable = [o for o in outcomes if np.isfinite(o.predictions[:, np.isfinite(o.target)]).all()]
    if not usable:
        return {"cell": None, "reason": "every cell has heads that diverged"}
    first = usable[0]
    known = np.isfinite(first.target)
    systems = len(np.unique(first.systems[known & (first.systems >= 0)]))
    level = "system" if systems >= MIN_SYSTEMS else "clip"
    metric = f"{level}_srcc"
    values = [_value(score(o.predictions, o.target, o.systems, resamples=0), metric)
              for o in usable]  # fmt: skip
    if not np.isfinite(values).any():
        return {"cell": None, "reason": f"{metric} is undefined"}
    place = int(np.nanargmax(values))
    winner = usable[place]
    alike = []
    for other, value in zip(usable, values, strict=True):
        if other is winner:
            continue
        gap = _gap(winner, other, metric, resamples)
        if gap is None or not gap[0] > 0:
            alike.append({"cell": dict(other.names), metric: value, "gap_95": gap})
    return {
        "metric": metric,
        "cell": dict(winner.names),
        metric: values[place],
        "systems": systems,
        "clearly_best": len(usable) > 1 and not alike,
        "not_told_apart": alike,
        "note": "chosen on the clips it is reported on, so the figure flatters it",
    }


def _gap(
    winner: Outcome, other: Outcome, metric: str, resamples: int
) -> tuple[float, float] | None:
    """Return the 95 % interval of the difference on the same resamples; None without draws."""
    both = np.isfinite(winner.target) & np.isfinite(other.target)
    if len(both) == 0 or resamples == 0:
        return None
    systems = winner.systems
    if (systems >= 0).any():
        both &= systems >= 0
        cluster = np.unique(systems[both], return_inverse=True)[1]
    else:
        cluster = np.arange(int(both.sum()))
    counts = torch.as_tensor(draw_clusters(int(cluster.max()) + 1, resamples))
    differences = _srcc(winner, both, cluster, counts, metric) - _srcc(
        other, both, cluster, counts, metric
    )
    found = interval(float("nan"), differences)
    return found.low, found.high


def _srcc(
    outcome: Outcome,
    known: npt.NDArray[np.bool_],
    cluster: npt.NDArray[np.int64],
    counts: torch.Tensor,
    metric: str,
) -> torch.Tensor:
    """Return the SRCC of each resample [R], the mean over seeds; only this figure is compared."""
    pred, target = torch.as_tensor(outcome.predictions[:, known]), outcome.target[known]
    truth, place = torch.as_tensor(target), torch.as_tensor(cluster)
    if metric == "system_srcc":
        pred = system_means(pred, place, counts.shape[1]).mean
        truth, clips = system_means(truth, place, counts.shape[1])
        weights = counts * (clips > 0)
    else:
        weights = counts[:, place]
    parts = [srcc(pred[:, None], truth, part) for part in weights.split(64)]
    return torch.cat(parts, -1).mean(0)
