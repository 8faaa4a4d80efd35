"""The page of several runs and grids on the same clips: paired differences, side by side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qamro_cache.errors import QamroError
from qamro_cache.evaluation.compare import columns, paired_gap
from qamro_cache.evaluation.figures import MAIN_FIGURES
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.kinds import JACKKNIFE, Kind
from qamro_cache.evaluation.score import DECIDES, score_models
from qamro_cache.evaluation.verdict import Model, verdicts
from qamro_cache.reports.choice import nested_words
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
from qamro_cache.reports.run import kind_of
from qamro_cache.reports.scores import headline, score_blocks

#: Runs whose clips are drawn, and values of a setting that are listed.
_DRAWN, _LISTED = 4, 6


def comparison_page(folders: Sequence[Folder]) -> Page:
    """Return the page of several runs, each held against the first; a grid is its highest cell.

    Raises:
        QamroError: no axis or clip is common, or they were judged by other ratings.
    """
    names = _names(folders)
    runs = dict(zip(names, folders, strict=True))
    first = folders[0]
    axes = [
        axis for axis in first.record["axes"] if all(_answers(folder, axis) for folder in folders)
    ]
    if not axes:
        asked = "; ".join(f"{one.path}: {', '.join(one.record['axes'])}" for one in folders)
        raise QamroError(f"these have predictions of no axis in common ({asked})")
    lead, sections = [], []
    for axis in axes:
        words, blocks = _axis(axis, runs)
        lead += words
        sections.append(Section(axis, blocks))
    if len({folder.interval for folder in folders}) > 1:
        kinds = "; ".join(f"{name}: {one.interval.words}" for name, one in runs.items())
        lead.insert(0, f"Their own intervals are of different kinds ({kinds}); those of this page "
                    f"are of one: {JACKKNIFE.words}.")  # fmt: skip
    if len({folder.cv for folder in folders}) > 1:
        ways = ", ".join(f"{name}: {one.cv}" for name, one in runs.items())
        lead.insert(0, f"Clips were held out in different ways ({ways}): no verdict.")
    return Page(
        " against ".join(names[:3]) + (", ..." if len(names) > 3 else ""),
        lead,
        [Section("What differs", _differences(runs)), *sections,
         Section("What was run", [Words([folder.command], "code") for folder in folders])],
        any(folder.record["synthetic"] for folder in folders),
        "comparison",
    )  # fmt: skip


def _answers(folder: Folder, axis: str) -> bool:
    """Tell whether there are predictions of an axis: a grid may have no highest cell."""
    found = folder.record["axes"].get(axis)
    return found is not None and (not folder.grid or found["cell"] is not None)


def _names(folders: Sequence[Folder]) -> list[str]:
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder.path) for folder in folders]
    if len(set(names)) < len(names):
        raise QamroError("a folder is named twice; name each once")
    return names


def _axis(axis: str, runs: Mapping[str, Folder]) -> tuple[list[str], list[Block]]:
    found = _common(axis, {name: folder.predicted(axis) for name, folder in runs.items()})
    (name, first), *others = found.items()
    judged = _judged(runs, first)
    scored = score_models({one: of.pred for one, of in found.items()}, judged)
    models = {
        one: Model(one, one, of.mean, columns(scored[one])[DECIDES]) for one, of in found.items()
    }
    lines = [headline(f"{axis}, {one}", scored[one]) for one in found]
    # One that saw a clip's group in training may be ahead for that.
    alike = len({folder.cv for folder in runs.values()}) == 1
    for other, _ in others if alike else ():
        for said in verdicts(models[other], [models[name]], {name}, judged):
            lines.append(f"{axis}: {other} {said['words']}.")
    lines += [words for one, folder in runs.items() for words in _choice(axis, one, folder)]
    beside = _beside(axis, runs, first, judged.interval)
    blocks = score_blocks(axis, {**scored, **beside}, None, name, kind_of(runs[name]))
    blocks[1:1] = [_gaps(axis, found, judged)]
    scale = Scale(axis, float(judged.target.min()), float(judged.target.max()))
    drawn: list[Block] = [
        by_clip(f"{axis}, {one}", of, scale, held_out=True)
        for one, of in list(found.items())[:_DRAWN]
    ]
    return lines, figures_first([*blocks, *drawn, _apart(axis, found)])


def _beside(
    axis: str, runs: Mapping[str, Folder], first: Predicted, interval: Kind
) -> dict[str, Mapping[str, Any]]:
    """Return the baselines of the runs, as these scored them, where that was on the same clips.

    One that several runs have alike is there once; one that differs is called by its run.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name, folder in runs.items():
        models = dict(folder.record["axes"][axis].get("models", {}))
        same = folder.interval == interval and folder.cv == next(iter(runs.values())).cv
        clips = {one["clips"] for one in models.values()}
        if not same or clips != {len(first.clip_id)}:
            continue
        for model in [*models][1:]:
            values = [metric["value"] for metric in models[model]["metrics"].values()]
            there = found.get(model)
            if there is None:
                found[model] = models[model]
            elif values != [metric["value"] for metric in there["metrics"].values()]:
                found[f"{model} of {name}"] = models[model]
    return found


def _choice(axis: str, name: str, folder: Folder) -> list[str]:
    """Say which cell a grid stands for, and what choosing it is worth."""
    record = folder.record["axes"][axis]
    if not folder.grid or record["cells"] < 2:
        return []
    cell = ", ".join(f"{key}={value}" for key, value in record["cell"].items())
    lines = [f"{axis}: {name} stands for its highest cell, {cell}, {record['note']}."]
    return lines + [f"{axis}, {name}: {words}." for words in nested_words(record)]


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
    ways = {one.cv for one in runs.values()}
    cv = ways.pop() if len(ways) == 1 else ""
    word = "prompt" if cv == "prompt" else "group"
    kinds = {one.interval for one in runs.values()}
    interval = kinds.pop() if len(kinds) == 1 else JACKKNIFE
    return replace(first.judged(cv, word, kind_of(folder)), interval=interval)


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
        [
            figure.replace("_", " "),
            *(None if (gap := gaps[o, figure]) is None else Estimate(*gap) for o, _ in others),
        ]
        for figure in known
    ]
    return Table(
        f"{axis}: differences from {name}",
        ["figure", *(other for other, _ in others)],
        rows,
        paper=True,
        note=f"Its figure less that of {name} on the same clips, with the 95 % interval of the "
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
    """Return the settings that are not the same in all."""
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
        Facts([(key, value) for key, value in alike if key in (*_ORIGIN, "cv", "seeds")]),
    ]


_ORIGIN = ("dataset", "encoder", "feature")


def _settings(folder: Folder) -> dict[str, str]:
    """Return what a folder's heads were made with; of a grid all values of its cells."""
    config: Mapping[str, Any] = folder.config
    origins: Sequence[Mapping[str, Any]] = config.get("materials", [config])
    found = {name: _values(one.get(name, "") for one in origins) for name in _ORIGIN}
    found |= {"cv": folder.cv, "seeds": str(config.get("seeds", ""))}
    cells = config.get("cells", [config])
    recipes = [one["recipe"] for one in cells]
    for name in dict.fromkeys(name for one in recipes for name in one):
        found[name] = _values(one[name] for one in recipes if name in one)
    for name, value in config.get("given", {}).items():
        if name not in (*found, "device", "overwrite", "grid"):
            found[name] = _values(value if isinstance(value, list) else [value])
    return found


def _values(values: Iterable[Any]) -> str:
    found = dict.fromkeys(map(str, values))
    return ", ".join(found) if len(found) <= _LISTED else f"{len(found)} values"
