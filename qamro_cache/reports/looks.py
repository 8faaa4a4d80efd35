"""Predictions of one axis, to look at and to listen to: figures, and tables of what is worst."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qamro_cache.evaluation.judged import Floats
from qamro_cache.reports.clips import (
    Predicted,
    Ranked,
    largest_errors,
    ranked_groups,
    worst_pairs,
)
from qamro_cache.reports.numbers import compact, number
from qamro_cache.reports.page import (
    Block,
    Estimate,
    Figure,
    Forest,
    Heat,
    Row,
    Scale,
    Scatter,
    Sound,
    Square,
    Table,
    Value,
    Words,
)
from qamro_cache.reports.scores import value_of

#: Clips of a table of the worst, and groups and clips of a figure of ranks, at most.
WORST, GROUPS, LONGEST = 10, 30, 24


def looks(
    axis: str, of: Predicted, noun: str, scale: Scale, *, held_out: bool = False
) -> list[Block]:
    """Return the figures and tables of the clips of an axis.

    Args:
        axis: its name.
        of: its clips.
        noun: what clips are compared within (``song``).
        scale: the range of the axis.
        held_out: whether it is known that no clip is predicted by heads that learned its label.
    """
    figures: list[Figure] = [by_clip(axis, of, scale, held_out=held_out)]
    groups = ranked_groups(of)
    if groups:
        figures += _ranks(axis, of, groups, noun)
    return [*figures, _errors(axis, of, noun), *_pairs(axis, of, noun)]


def _ends(scale: Scale, values: Floats) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    low, high = float(known.min(initial=scale.high)), float(known.max(initial=scale.low))
    room = 0.03 * (high - low) or 1.0
    return low - room, high + room


def _both(label: str, scale: Scale, values: Floats) -> tuple[Scale, Scale]:
    low, high = _ends(scale, values)
    return Scale("rated", low, high), Scale(label, low, high)


def by_system(axis: str, records: Sequence[Mapping[str, Any]], scale: Scale) -> list[Block]:
    """Return the systems' means as a figure and a table.

    Args:
        axis: its name.
        records: of `qamro_cache.evaluation.by_system.by_system`.
        scale: the range of the axis.
    """
    if len(records) < 2:
        return []
    spans = {
        name: [[value_of(one, f"{name}{end}") for end in ("", "_low", "_high")] for one in records]
        for name in ("rated", "predicted")
    }
    # An interval from two clips may be far longer than the scale: it is cut at the figure's ends.
    known = np.array([*spans["rated"], *spans["predicted"]])
    inside = known[(known >= scale.low) & (known <= scale.high)]
    x, y = _both("predicted", scale, np.concatenate([inside.ravel(), known[:, 0]]))
    same_scale = "error" in records[0]
    if not same_scale:
        rated, predicted = (np.array(one) for one in spans.values())
        inside = rated[(rated >= scale.low) & (rated <= scale.high)]
        x = Scale(x.label, *_ends(scale, np.concatenate([inside, rated[:, 0]])))
        low, high = _ends(scale, predicted[:, 0])
        y = Scale(y.label, 1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low)
    names = tuple(f"{one['system']} ({one['clips']} clips)" for one in records)
    figure = Scatter(
        f"{axis}: systems",
        f"{len(names)} systems, each the mean over its clips; bars are 95 % intervals of that mean "
        "over the clips (Student's t), which say nothing of other systems.",
        x,
        y,
        [(a[0], b[0]) for a, b in zip(*spans.values(), strict=True)],
        names,
        errors=[
            (_or(a[1], a[0]), _or(a[2], a[0]), _or(b[1], b[0]), _or(b[2], b[0]))
            for a, b in zip(*spans.values(), strict=True)
        ],
        diagonal=same_scale,
    )
    shown = ["rated", "predicted", *(["error"] if same_scale else [])]
    rows: list[list[Value]] = [
        [
            str(one["system"]),
            str(one["clips"]),
            *(Estimate(*(value_of(one, f"{n}{e}") for e in ("", "_low", "_high"))) for n in shown),
        ]
        for one in records
    ]
    return [figure, Table(f"{axis}: means by system", ["system", "clips", *shown], rows)]


def _or(value: float, other: float) -> float:
    return value if np.isfinite(value) else other


def by_clip(axis: str, of: Predicted, scale: Scale, *, held_out: bool) -> Scatter:
    """Return predictions against ratings, a point a clip."""
    systems = sorted(set(of.system.tolist()))
    place = {name: k for k, name in enumerate(systems)}
    x, y = _both("predicted", scale, np.concatenate([of.target, of.mean]))
    known = ", each predicted by heads that did not learn its label" if held_out else ""
    return Scatter(
        f"{axis}: clips",
        f"{len(of.target)} clips{known}.",
        x,
        y,
        list(zip(of.target.tolist(), of.mean.tolist(), strict=True)),
        tuple(of.clip_id.tolist()),
        [place[name] for name in of.system.tolist()],
        [name or "(no system)" for name in systems] if len(systems) > 1 else [],
    )


def _ranks(axis: str, of: Predicted, groups: Sequence[Ranked], noun: str) -> list[Figure]:
    shown = groups[:GROUPS]
    few = f"the {len(shown)} worst ranked of {len(groups)}" if len(shown) < len(groups) else "all"
    rows = [Row(one.name, Estimate(one.srcc)) for one in shown]
    srcc = [one.srcc for one in groups if np.isfinite(one.srcc)]
    low = min([0.0, *srcc])
    figures: list[Figure] = [
        Forest(
            f"{axis}: SRCC within each {noun}",
            f"{len(groups)} {noun}s ({few} are shown), the worst ranked first; mean "
            f"{number(np.mean(srcc)) if srcc else '-'}.",
            Scale(f"SRCC within a {noun}", low, 1.0),
            rows,
        )
    ]
    longest = max(len(one.clips) for one in shown)
    if longest > LONGEST:
        return figures
    squares = [
        [
            Square(
                float(place),
                str(place),
                f"{of.clip_id[clip]}: rated {compact(of.target[clip])}, place {k + 1} of "
                f"{len(one.clips)}; predicted {compact(of.mean[clip])}, place {place}",
            )
            for k, (clip, place) in enumerate(zip(one.clips, one.place.tolist(), strict=True))
        ]
        + [None] * (longest - len(one.clips))
        for one in shown
    ]
    figures.append(
        Heat(
            f"{axis}: ranks within each {noun}",
            "From left to right the clips as listeners ranked them, the best first; the number is "
            "the place that the prediction gives. A row ranked as by listeners counts 1, 2, 3.",
            "place by listeners",
            noun,
            [str(k + 1) for k in range(longest)],
            [one.name for one in shown],
            squares,
            Scale("place by prediction", 1.0, float(longest)),
        )
    )
    return figures


def _errors(axis: str, of: Predicted, noun: str) -> Table:
    std = of.pred.std(0, ddof=1) if len(of.pred) > 1 else None
    rows: list[list[Value]] = [
        [
            Sound(str(of.clip_id[k]), str(of.path[k])),
            str(of.system[k]),
            str(of.group[k]),
            float(of.target[k]),
            float(of.mean[k]),
            float(of.mean[k] - of.target[k]),
            *([] if std is None else [float(std[k])]),
        ]
        for k in largest_errors(of, WORST)
    ]
    columns = ["clip", "system", noun, "rated", "predicted", "error"]
    columns += [] if std is None else ["std of seeds"]
    return Table(f"{axis}: the largest errors", columns, rows, left=3)


def _pairs(axis: str, of: Predicted, noun: str) -> list[Block]:
    pairs = worst_pairs(of, WORST)
    within = f"of one {noun} " if (of.group != "").any() else ""
    if not pairs:
        return [Words([f"{axis}: every pair {within}is ranked as listeners ranked it."], "good")]
    rows: list[list[Value]] = [
        [
            str(of.group[a]),
            Sound(str(of.clip_id[a]), str(of.path[a])),
            Sound(str(of.clip_id[b]), str(of.path[b])),
            *(float(values[k]) for values in (of.target, of.mean) for k in (a, b)),
        ]
        for a, b in pairs
    ]
    columns = [noun, "preferred by listeners", "preferred by predictions", "rated",
               "the other rated", "predicted", "the other predicted"]  # fmt: skip
    note = "The widest first: the gap of the ratings and that of the predictions together."
    title = f"{axis}: pairs {within}ranked the wrong way round"
    return [Table(title, columns, rows, left=3, note=note)]
