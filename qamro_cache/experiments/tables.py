"""The tables of a grid: a row a cell and seed, a row a cell, and which cell is really best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.evaluation.compare import PARTS, best_of, columns
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.score import score
from qamro_cache.files import write_json, write_table

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """One cell (or baseline) on one axis.

    Attributes:
        names: the cell's settings by name.
        model: ``head``, or a baseline's name.
        axis: name.
        seeds: K seeds.
        predictions: [K, C] held-out predictions of all folds together.
        judged: the labels of the clips that some fold holds out.
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
    judged: Judged
    details: Mapping[str, Floats]


def write_tables(
    out: Path,
    outcomes: Sequence[Outcome],
    synthetic: bool,
    resamples: int,
    questions: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Write ``results.csv``, ``summary.csv`` and ``best.json``; return what the last one holds.

    ``questions`` are what the ways to hold out ask of a model, with the copies found in each.
    """
    results, summary = [], []
    all_scored = [score(one.predictions, one.judged, resamples=resamples) for one in outcomes]
    # The settings of all cells stand first, empty where a cell does not set one.
    settings = dict.fromkeys(name for outcome in outcomes for name in outcome.names)
    for outcome, scored in zip(outcomes, all_scored, strict=True):
        head = {**settings, **outcome.names, "model": outcome.model, "axis": outcome.axis}
        counts = {name: scored[name] for name in ("clips", "systems")}
        results += [{**head, **row, **counts} for row in _rows_of_seeds(outcome)]
        summary.append({**head, "seeds": len(outcome.seeds), **counts, **_figures(outcome, scored)})
    for name, rows in (("results", results), ("summary", summary)):
        table = pd.DataFrame(rows)
        if synthetic:
            table["synthetic"] = True
        write_table(out / f"{name}.csv", table)
    # Cells that hold out other clips answer another question: no best one among them.
    asked: dict[str, list[tuple[Outcome, dict[str, Any]]]] = {}
    for outcome, scored in zip(outcomes, all_scored, strict=True):
        if outcome.model == "head":
            name = question(outcome.axis, outcome.names.get("cv"))
            asked.setdefault(name, []).append((outcome, scored))
    best = {
        name: best_of(
            [(cell.names, cell.predictions, scored) for cell, scored in cells],
            cells[0][0].judged,
            resamples,
        )
        for name, cells in asked.items()
    }
    record = {"synthetic": synthetic, "questions": list(questions), "axes": best}
    write_json(out / "best.json", record)
    return record


def question(axis: str, cv: str | None) -> str:
    """Return what a best cell is named by: the axis, and how clips are held out if that varies."""
    return axis if cv is None else f"{axis}, cv {cv}"


def _rows_of_seeds(outcome: Outcome) -> list[dict[str, Any]]:
    """Return the columns of ``results.csv`` that are figures, a row a seed."""
    rows = []
    for row, seed in enumerate(outcome.seeds):
        scored = score(outcome.predictions[row : row + 1], outcome.judged, resamples=0)
        details = {name: values[row] for name, values in outcome.details.items()}
        rows.append({"seed": seed, **columns(scored), **details})
    return rows


def _figures(outcome: Outcome, scored: Mapping[str, Any]) -> dict[str, float]:
    """Return the columns of ``summary.csv`` that are figures."""
    details = {
        name: float(values.sum() if name == "diverged" else values.mean())
        for name, values in outcome.details.items()
    }
    return {**columns(scored, parts=PARTS), **details}
