"""The tables of a grid: a row a cell and seed, a row a cell, and which cell is really best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.evaluation.ceiling import ceiling
from qamro_cache.evaluation.compare import PARTS, best_of, columns, seed_columns
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.nested import Inside, nested_choice
from qamro_cache.evaluation.score import DECIDES, common, score_models
from qamro_cache.evaluation.verdict import Model, verdicts
from qamro_cache.experiments.paired import pair_columns
from qamro_cache.experiments.study import ceiling_rows, study_rows
from qamro_cache.files import write_json, write_table

Floats = npt.NDArray[np.float64]

#: Columns of ``predictions.csv``; where ways to hold clips out are compared, ``cv`` too.
_PREDICTED = ["clip_id", "system", "group", "fold", "axis", "seed", "prediction", "target"]

#: What stands behind the figures of a row.
_COUNTS = ("clips", "systems", "groups", "left_out")
#: Settings whose names are those of counts, as columns.
RENAMED = {"clips": "train_clips", "systems": "train_systems"}


@dataclass(frozen=True)
class Outcome:
    """One cell (or baseline) on one axis.

    Attributes:
        names: the cell's settings by name.
        model: ``head``, or a baseline's name.
        axis: name.
        seeds: K seeds.
        predictions: [K, C] held-out predictions of all folds together.
        judged: the labels of the clips that some fold holds out; not in ``same_scale`` for the
            encoder's own score.
        details: per seed columns [K]: ``best_epoch`` (median over the folds), ``diverged``
            (heads), ``stability`` (mean SRCC of an epoch's predictions of the validation set with
            those of the epoch before), and ``pair_coverage`` (share of comparable training pairs
            that meet in a pass over the clips; NaN of a ridge head, which is not trained in
            batches).
        trained: whether some head did not diverge; otherwise it is no candidate for the best cell.
        inside: what a cell can be chosen by for each fold; None of a baseline.
        clips: [C] of a cell: ``clip_id``, ``system``, ``group`` and ``fold`` of the clips.
        amounts: how much the model learned from, see `learned_from`.
        pairs: what it is worth on the held-out pairs of the axis (`pair_record`); None without.
    """

    names: Mapping[str, Any]
    model: str
    axis: str
    seeds: Sequence[int]
    predictions: Floats
    judged: Judged
    details: Mapping[str, Floats]
    trained: bool = True
    inside: Inside | None = None
    clips: pd.DataFrame | None = None
    amounts: Mapping[str, float] = field(default_factory=dict)
    pairs: Mapping[str, Any] | None = None


def write_tables(
    out: Path,
    outcomes: Sequence[Outcome],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``results.csv``, ``summary.csv`` and ``best.json``; return what the last one holds.

    And ``predictions.csv``, of the highest cells, and ``study.csv``, where cells differ in how much
    their heads learn from. ``about`` is of ``best.json``: the set and whether it is ``synthetic``,
    and the ``questions``, what the ways to hold out ask of a model, with the copies found in each.
    """
    results, summary, study = [], [], []
    paired = any(one.pairs is not None for one in outcomes)
    # Cells that hold out other clips answer another question: no common clips, no best one.
    asked: dict[str, list[Outcome]] = {}
    for one in outcomes:
        asked.setdefault(question(one.axis, one.names.get("cv")), []).append(one)
    best: dict[str, Any] = {}
    scores: dict[int, dict[str, Any]] = {}
    ceilings: list[tuple[Outcome, dict[str, Any]]] = []
    chosen = []
    for name, same in asked.items():
        found, best[name] = _compare(same)
        chosen += [_predictions(one) for one in same if _is_cell(one, best[name]["cell"])]
        if best[name]["ceiling"]:
            ceilings.append((same[0], best[name]["ceiling"]))
        scores |= {id(one): scored for one, scored in zip(same, found, strict=True)}
    # The settings of all cells stand first, empty where a cell does not set one.
    settings = dict.fromkeys(name for outcome in outcomes for name in _columns(outcome.names))
    for one in outcomes:
        scored = scores[id(one)]
        head = {**settings, **_columns(one.names), "model": one.model, "axis": one.axis}
        counts = {name: scored[name] for name in _COUNTS}
        results += [{**head, **row, **counts} for row in _rows_of_seeds(one, scored)]
        figures = _figures(one, scored) | (pair_columns(one.pairs) if paired else {})
        summary.append({**head, "seeds": len(one.seeds), **counts, **figures})
        study += study_rows(one.names, one.model, one.axis, one.amounts, scored)
    studied = list(dict.fromkeys(row["study"] for row in study))
    for one, bound in ceilings:
        cv = {name: value for name, value in one.names.items() if name == "cv"}
        head = {**dict.fromkeys(settings), **cv, "model": "ceiling", "axis": one.axis}
        summary.append({**head, "seeds": 0, **_bound(scores[id(one)], bound)})
        study += ceiling_rows(one.axis, cv.get("cv", ""), studied, bound)
    for name, rows in (("results", results), ("summary", summary), ("study", study)):
        if not rows:
            continue
        table = pd.DataFrame(rows)
        if about["synthetic"]:
            table["synthetic"] = True
        write_table(out / f"{name}.csv", table)
    table = pd.concat(chosen) if chosen else pd.DataFrame(columns=_PREDICTED)
    write_table(out / "predictions.csv", table)
    record = {**about, "axes": best}
    write_json(out / "best.json", record)
    return record


def _is_cell(outcome: Outcome, names: Mapping[str, Any] | None) -> bool:
    return outcome.model == "head" and outcome.trained and dict(outcome.names) == names


def _predictions(outcome: Outcome) -> pd.DataFrame:
    """Return the rows of ``predictions.csv``: a clip that is judged and seed each."""
    assert outcome.clips is not None
    known = outcome.judged.known
    cv = {name: value for name, value in outcome.names.items() if name == "cv"}
    clips = outcome.clips[known].assign(axis=outcome.axis, **cv)
    target = outcome.judged.target[known]
    return pd.concat(
        clips.assign(seed=seed, prediction=row[known], target=target)
        for seed, row in zip(outcome.seeds, outcome.predictions, strict=True)
    )


def _columns(names: Mapping[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(name, name): value for name, value in names.items()}


def _compare(
    outcomes: Sequence[Outcome],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Score the cells and baselines of one question on the same clips; find the best cell.

    It is ``clearly_best`` only where it beats the highest baseline too.
    """
    models = {k: one.predictions for k, one in enumerate(outcomes)}
    own = {k for k, one in enumerate(outcomes) if not one.judged.same_scale}
    whole = replace(outcomes[0].judged, same_scale=True)
    scored = score_models(models, whole, own_units=own)
    places = [k for k, one in enumerate(outcomes) if one.model == "head" and one.trained]
    cells = [(outcomes[k].names, outcomes[k].predictions.mean(0), scored[k]) for k in places]
    judged = common(models.values(), whole)
    best, bound = best_of(cells, judged), ceiling(judged)
    for k, p in zip(places, best.mcs_p, strict=True):
        scored[k]["mcs_p"] = float(p)
    if best.record["cell"] is None:
        nothing: dict[str, Any] = {"baseline": None, "verdicts": [], "ceiling": bound}
        return list(scored.values()), {**best.record, "nested": None, **nothing}
    ours = next(
        Model("", "", pred, columns(found)[DECIDES])
        for names, pred, found in cells
        if dict(names) == best.record["cell"]
    )
    baselines = [
        Model(_name(one), one.model, models[k].mean(0), columns(scored[k])[DECIDES])
        for k, one in enumerate(outcomes)
        if one.model != "head"
    ]
    always = {"ridge", *(outcomes[k].model for k in own)}
    found = verdicts(ours, baselines, always, judged)
    highest = next((one for one in found if one["highest"]), None)
    beaten = highest is None or bool(highest["beats"])
    return list(scored.values()), {
        **best.record,
        "clearly_best": best.record["clearly_best"] and beaten,
        "nested": _nested([outcomes[k] for k in places], judged),
        "baseline": highest,
        "verdicts": found,
        "ceiling": bound,
    }


def _nested(cells: Sequence[Outcome], judged: Judged) -> dict[str, Any] | None:
    """Say what the best of several cells is worth where it is not chosen by the clips judged."""
    found = [(c.names, c.predictions.mean(0), c.inside) for c in cells if c.inside is not None]
    return nested_choice(found, judged) if len(found) > 1 else None


def _name(baseline: Outcome) -> str:
    """Name a baseline, with what it reads where that varies."""
    if not baseline.judged.same_scale:
        return baseline.model
    origin = ", ".join(f"{name}={value}" for name, value in baseline.names.items() if name != "cv")
    return f"{baseline.model} ({origin})" if origin else baseline.model


def _bound(scored: Mapping[str, Any], bound: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of ``summary.csv`` that holds the raters' ceiling."""
    counts = {name: scored[name] for name in _COUNTS}
    return {**counts, "clips": bound["clips"], **bound["figures"]}


def question(axis: str, cv: str | None) -> str:
    """Return what a best cell is named by: the axis, and how clips are held out if that varies."""
    return axis if cv is None else f"{axis}, cv {cv}"


def _rows_of_seeds(outcome: Outcome, scored: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the columns of ``results.csv`` that are figures, a row a seed."""
    return [
        {
            "seed": seed,
            **seed_columns(scored, row),
            **{name: values[row] for name, values in outcome.details.items()},
        }
        for row, seed in enumerate(outcome.seeds)
    ]


def _figures(outcome: Outcome, scored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of ``summary.csv`` that are figures."""
    details = {
        name: float(values.sum() if name == "diverged" else values.mean())
        for name, values in outcome.details.items()
    }
    found = {**columns(scored, parts=PARTS), "mcs_p": scored.get("mcs_p", np.nan), **details}
    return {**found, "population": scored["population"], "signature": scored["signature"]}
