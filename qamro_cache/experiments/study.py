"""The data of a learning curve's figure: how good heads are by how much they learn from."""

from collections.abc import Mapping, Sequence
from typing import Any

from qamro_cache.evaluation.compare import PARTS
from qamro_cache.evaluation.figures import MAIN_FIGURES

#: Settings of a cell that say how much its heads learn from; 0: all there is.
STUDIES = ("clips", "systems", "raters", "calibrate")


def study_rows(
    names: Mapping[str, Any],
    model: str,
    axis: str,
    amounts: Mapping[str, float],
    scored: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the rows of ``study.csv`` of one cell or baseline, a row a study and figure.

    Args:
        names: what the cell sets, of what the grid varies.
        model: ``head`` or a baseline's name.
        axis: name.
        amounts: of `learned_from`.
        scored: of `score`.
    """
    rows = []
    for study in STUDIES:
        if study not in names or study not in amounts:
            continue
        others = ", ".join(f"{n}={v}" for n, v in names.items() if n not in (study, "cv"))
        head = {"axis": axis, "cv": names.get("cv", ""), "study": study, "model": model}
        head |= {"cell": others, "x": amounts[study]}
        found: Mapping[str, Any] = scored["metrics"]
        rows += [
            {**head, "figure": name, **{part: found[name][part] for part in ("value", *PARTS)}}
            for name in MAIN_FIGURES
            if name in found
        ]
    return rows


def ceiling_rows(
    axis: str, cv: str, studies: Sequence[str], bound: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows of ``study.csv`` of the raters' ceiling, which has no x."""
    return [
        {"axis": axis, "cv": cv, "study": study, "model": "ceiling", "figure": name, "value": value}
        for study in studies
        for name, value in bound["figures"].items()
        if name in MAIN_FIGURES
    ]
