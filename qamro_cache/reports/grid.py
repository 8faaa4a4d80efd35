"""The page of a grid of ``qamro-ablate``."""

import math
from typing import Any

import pandas as pd

from qamro_cache.evaluation.by_system import by_system as system_records
from qamro_cache.reports.cells import Question, estimate, key_of, questions, shown
from qamro_cache.reports.choice import choice_words, nested_words
from qamro_cache.reports.grid_figures import grid_figures
from qamro_cache.reports.looks import by_system, looks
from qamro_cache.reports.page import (
    Block,
    Facts,
    Page,
    Scale,
    Section,
    Table,
    Value,
    Words,
    figures_first,
)
from qamro_cache.reports.read import Folder
from qamro_cache.reports.run import noun_of

#: Columns of the table of all cells, with intervals where there are some.
_SHOWN = ("clip_mse", "clip_lcc", "clip_srcc", "system_srcc", "group_srcc")


def grid_page(folder: Folder) -> Page:
    """Return the page of a grid."""
    record, config = folder.record, folder.config
    lead, sections = [], []
    for one in questions(folder):
        lead += _words(one)
        sections.append(Section(one.name, _blocks(one)))
        if one.record["cell"] is not None:
            sections.append(Section(f"{one.name}: the highest cell's clips", _best(one, folder)))
    lead += [f"How clips were held out: {asks['split']}." for asks in record["questions"]]
    materials = config.get("materials", [])
    named = dict.fromkeys(
        f"{one['dataset']}, {one['encoder']} {one['feature']}" for one in materials
    )
    return Page(
        "; ".join(named) or folder.name,
        lead,
        [*sections, Section("What was run", [*_facts(folder), Words([folder.command], "code")])],
        bool(record["synthetic"]),
        "grid of qamro-ablate",
    )


def _words(one: Question) -> list[str]:
    """Say which cell is best, whether that can be told, what it beats and what that is worth."""
    lines = [choice_words(one.name, one.record)]
    lines += [f"{one.name}: {words}" for words in nested_words(one.record)]
    lines += [f"{one.name}: this cell {said['words']}" for said in one.record["verdicts"]]
    if one.record["cell"] is not None and one.record["cells"] > 1:
        lines.append(f"{one.name}: {one.record['note']}")
    return [f"{line}." for line in lines]


def _blocks(one: Question) -> list[Block]:
    population = next((row["population"] for row in one.rows if row.get("population")), "")
    signature = next((row["signature"] for row in one.rows if row.get("signature")), "")
    words = f"95 % intervals {population}." if population else "There are no intervals."
    return [
        *grid_figures(one),
        _table(one),
        Words([line for line in (words, str(signature)) if line]),
    ]


def _best(one: Question, folder: Folder) -> list[Block]:
    """Return what the highest cell predicts of the clips that it did not learn from."""
    of = folder.predicted(one.name)
    cv = str(one.rows[0].get("cv", folder.cv))
    noun = _noun(folder, cv)
    scale = Scale(one.name, float(of.target.min()), float(of.target.max()))
    means = system_records(of.mean, of.judged(cv, "", ""), of.system)
    systems = by_system(one.name, means, scale)
    cell = ", ".join(f"{name}={value}" for name, value in one.record["cell"].items())
    words = f"Predictions of {cell or 'the only cell'}."
    if one.record["cells"] > 1:
        words += f" It is one of {one.record['cells']} cells, {one.record['note']}."
    shown = looks(one.name, of, noun, scale, held_out=True)
    return [Words([words]), *figures_first([*systems[:1], *shown, *systems[1:]])]


def _noun(folder: Folder, cv: str) -> str:
    """Return what a group is called where clips were held out so."""
    return noun_of(folder, "prompt" if cv == "prompt" else "group")


def _table(one: Question) -> Table:
    names = [name for name in one.names if any(key_of(row[name]) for row in one.rows)]
    figures = [name for name in _SHOWN if any(key_of(row.get(name, "")) for row in one.rows)]
    extra = ["clip_srcc_seeds_std", "mcs_p"]
    rows: list[list[Value]] = []
    for row in one.rows:
        cells: list[Value] = [
            str(row["model"]),
            *(shown(name, key_of(row[name])) for name in names),
        ]
        for figure in figures:
            found = estimate(row, figure)
            cells.append(found if math.isfinite(found.value) else None)
        cells += [None if row.get(name, "") == "" else float(row[name]) for name in extra]
        cells.append(key_of(row.get("diverged", "")))
        rows.append(cells)
    columns = ["model", *names, *(name.replace("_", " ") for name in figures), "std of seeds",
               "mcs_p", "diverged"]  # fmt: skip
    return Table(
        f"{one.name}: every cell",
        columns,
        rows,
        left=1,
        strong=frozenset(k for k, row in enumerate(one.rows) if one.mark(row) == "best"),
        paper=len(rows) <= 60,
        note="Intervals are 95 %. mcs_p: the share of null draws that reach what a cell falls "
        "behind the highest by; cells above .05 cannot be told from it.",
    )


def _facts(folder: Folder) -> list[Block]:
    config = folder.config
    facts = []
    for one in config.get("materials", []):
        facts += [
            ("data", f"{one['dataset']}{' (synthetic)' if one['synthetic'] else ''}"),
            ("encoder", f"{one['encoder']}, feature {one['feature']}"),
            ("identity", one["identity_sha256"]),
            ("held out", one["split"]),
            ("heads", f"{one['heads']:,}"),
        ]
    assert folder.summary is not None
    first: pd.Series[Any] = folder.summary.iloc[0]
    groups = f"{_noun(folder, folder.cv)}s"
    facts += [
        (
            "counts",
            f"{first['clips']} clips, {first['systems']} systems, {first['groups']} {groups}",
        ),
        ("cells", str(len(config.get("cells", [])))),
        ("seeds", str(config.get("seeds", ""))),
        ("computed on", f"{config.get('device', '')}, {config.get('precision', '')}"),
        ("folder", str(folder.path)),
    ]
    return [Facts(list(dict.fromkeys(facts)))]
