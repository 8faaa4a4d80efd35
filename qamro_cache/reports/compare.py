"""The page of several runs on the same clips: paired differences, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qamro_cache.errors import QamroError
from qamro_cache.evaluation.compare import columns, paired_gap
from qamro_cache.evaluation.figures import MAIN_FIGURES
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.score import DECIDES, score_models
from qamro_cache.evaluation.verdict import Model, verdicts
from qamro_cache.reports.clips import Predicted
from qamro_cache.reports.looks import WORST, by_clip
from qamro_cache.reports.page import (
    Block,
    Estimate,
    Facts,
    Page,
    Scale,
    Section,
    Sound,
    Table,
    Value,
    Words,
    figures_first,
)
from qamro_cache.reports.read import Folder
from qamro_cache.reports.run import axis_of, kind_of
from qamro_cache.reports.scores import headline, score_blocks

#: Runs whose clips are drawn.
_DRAWN = 4


def comparison_page(folders: Sequence[Folder]) -> Page:
    """Return the page of several runs, each held against the first.

    Raises:
        QamroError: one is a grid, no axis or clip is common, or they were judged by other ratings.
    """
    for folder in folders:
        if folder.grid:
            raise QamroError(
                f"{folder.path} is of qamro-ablate, which compares its cells itself; several "
                "folders on one page are runs of qamro-train"
            )
    names = _names(folders)
    runs = dict(zip(names, folders, strict=True))
    first = folders[0]
    axes = [
        axis
        for axis in first.record["axes"]
        if all(axis in folder.record["axes"] for folder in folders)
    ]
    if not axes:
        raise QamroError(f"{', '.join(str(one.path) for one in folders)} have no axis in common")
    lead, sections = [], []
    for axis in axes:
        words, blocks = _axis(axis, runs)
        lead += words
        sections.append(Section(axis, blocks))
    return Page(
        " against ".join(names[:3]) + (", ..." if len(names) > 3 else ""),
        lead,
        [Section("What differs", _differences(runs)), *sections,
         Section("What was run", [Words([folder.command], "code") for folder in folders])],
        any(folder.record["synthetic"] for folder in folders),
        "comparison of runs",
    )  # fmt: skip


def _names(folders: Sequence[Folder]) -> list[str]:
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder.path) for folder in folders]
    if len(set(names)) < len(names):
        raise QamroError("a folder is named twice; name each run once")
    return names


def _axis(axis: str, runs: Mapping[str, Folder]) -> tuple[list[str], list[Block]]:
    found = _common(axis, {name: axis_of(folder, axis) for name, folder in runs.items()})
    (name, first), *others = found.items()
    judged = _judged(runs, first)
    scored = score_models({one: of.pred for one, of in found.items()}, judged)
    models = {
        one: Model(one, one, of.mean, columns(scored[one])[DECIDES]) for one, of in found.items()
    }
    lines = [headline(f"{axis}, {one}", scored[one]) for one in found]
    for other, _ in others:
        for said in verdicts(models[other], [models[name]], {name}, judged):
            lines.append(f"{axis}: {other} {said['words']}.")
    blocks = score_blocks(axis, scored, None, name, kind_of(runs[name]))
    blocks[1:1] = [_gaps(axis, found, judged)]
    low, high = runs[name].record["axes"][axis]["range"]
    scale = Scale(axis, low, high)
    drawn: list[Block] = [
        by_clip(f"{axis}, {one}", of, scale, held_out=True)
        for one, of in list(found.items())[:_DRAWN]
    ]
    return lines, figures_first([*blocks, *drawn, _apart(axis, found)])


def _common(axis: str, found: Mapping[str, Predicted]) -> dict[str, Predicted]:
    """Return the same clips of each run, in the same order."""
    ids = [set(of.clip_id.tolist()) for of in found.values()]
    shared = sorted(set.intersection(*ids))
    if not shared:
        raise QamroError(f"{axis}: {', '.join(found)} have no clip in common")
    cut = {
        name: of.only(np.searchsorted(of.clip_id, np.array(shared))) for name, of in found.items()
    }
    first = next(iter(cut.values()))
    for name, of in cut.items():
        if not np.allclose(of.target, first.target):
            raise QamroError(
                f"{axis}: {name} was judged by other ratings than {next(iter(cut))}; train both "
                "with the same --labels"
            )
    return cut


def _judged(runs: Mapping[str, Folder], first: Predicted) -> Judged:
    folder = next(iter(runs.values()))
    ways = {str(one.config.get("cv", "")) for one in runs.values()}
    cv = ways.pop() if len(ways) == 1 else ""
    word = "prompt" if cv == "prompt" else "group"
    return first.judged(cv, word, kind_of(folder))


def _gaps(axis: str, found: Mapping[str, Predicted], judged: Judged) -> Table:
    (name, first), *others = found.items()
    gaps = {
        (other, figure): paired_gap(of.mean, first.mean, judged, figure)
        for other, of in others
        for figure in MAIN_FIGURES
    }
    known = [f for f in MAIN_FIGURES if any(gaps[other, f] is not None for other, _ in others)]
    known = [figure for figure in known if not figure.endswith("mse_fit")]
    rows: list[list[Value]] = [
        [other, *(None if (gap := gaps[other, f]) is None else Estimate(*gap) for f in known)]
        for other, _ in others
    ]
    return Table(
        f"{axis}: differences from {name}",
        ["run", *(figure.replace("_", " ") for figure in known)],
        rows,
        paper=True,
        note="Each run's figure less the first's on the same clips, with the 95 % interval of the "
        "paired difference. An interval that holds 0 does not tell them apart; of an error less "
        "is better.",
    )


def _apart(axis: str, found: Mapping[str, Predicted]) -> Table:
    """Return the clips that the runs predict most differently."""
    means = np.stack([of.mean for of in found.values()])
    first = next(iter(found.values()))
    rows: list[list[Value]] = [
        [Sound(str(first.clip_id[k]), str(first.path[k])), str(first.system[k]),
         float(first.target[k]), *(float(v) for v in means[:, k])]
        for k in np.argsort(-np.ptp(means, axis=0), kind="stable")[:WORST]
    ]  # fmt: skip
    columns = ["clip", "system", "rated", *found]
    return Table(f"{axis}: clips that they predict most differently", columns, rows, left=2)


def _differences(runs: Mapping[str, Folder]) -> list[Block]:
    """Return the settings that are not the same in all runs."""
    settings: dict[str, dict[str, str]] = {name: _settings(one) for name, one in runs.items()}
    every = dict.fromkeys(key for one in settings.values() for key in one)
    differ = [key for key in every if len({one.get(key, "-") for one in settings.values()}) > 1]
    if not differ:
        return [Words(["No setting differs."])]
    rows: list[list[Value]] = [
        [key, *(one.get(key, "-") for one in settings.values())] for key in differ
    ]
    alike = [(key, next(iter(settings.values())).get(key, "-")) for key in every
             if key not in differ]  # fmt: skip
    return [
        Table("Settings that differ", ["setting", *runs], rows, left=1 + len(runs)),
        Facts([(key, value) for key, value in alike if key in _ORIGIN]),
    ]


_ORIGIN = ("dataset", "encoder", "feature", "cv", "seeds")


def _settings(folder: Folder) -> dict[str, str]:
    config: Mapping[str, Any] = folder.config
    found = {name: str(config.get(name, "")) for name in (*_ORIGIN, "stop")}
    given = {k: v for k, v in config.get("given", {}).items() if k not in ("device", "overwrite")}
    flat = {**config.get("recipe", {}), **given}
    return found | {name: str(value) for name, value in flat.items() if name not in found}
