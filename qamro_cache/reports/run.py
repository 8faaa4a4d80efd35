"""The page of a run of ``qamro-train`` or ``qamro-ensemble``."""

from collections.abc import Mapping, Sequence
from typing import Any

from qamro_cache.datasets.registry import group_kind
from qamro_cache.reports.choice import ensemble_blocks, gain_words
from qamro_cache.reports.looks import by_system, looks
from qamro_cache.reports.numbers import compact
from qamro_cache.reports.page import (
    Block,
    Curve,
    Estimate,
    Facts,
    Line,
    Page,
    Scale,
    Section,
    Words,
    figures_first,
)
from qamro_cache.reports.read import Folder
from qamro_cache.reports.scores import headline, score_blocks, source_words, value_of
from qamro_cache.training.recipe import RECIPE


def run_page(folder: Folder) -> Page:
    """Return the page of a run."""
    record, config = folder.record, folder.config
    lead, sections = [], []
    for axis, found in record["axes"].items():
        if "pairs" in found:
            lead.append(f"{axis}: {found['pairs']['words']}.")
            for one in found["pairs"]["baselines"].values():
                lead.append(f"{axis}, pair accuracy: {one['words']}.")
        if "models" not in found:
            continue
        ours = next(iter(found["models"]))
        lead.append(headline(axis, found["models"][ours]))
        if "ensemble" in found:
            lead.append(f"{axis}: {gain_words(found['ensemble'])}.")
        lead += [f"{axis}: {one['words']}." for one in found["verdicts"]]
        of = folder.predicted(axis)
        scale = Scale(axis, *found["range"])
        noun = noun_of(folder, found["models"][ours]["group_word"])
        blocks = findings(found["diagnostics"]) + source_words(found["error_sources"])
        blocks += score_blocks(axis, found["models"], found["ceiling"], ours, noun)
        if "ensemble" in found:
            blocks += ensemble_blocks(axis, found["ensemble"])
        systems = by_system(axis, found["by_system"], scale)
        blocks += [*systems[:1], *looks(axis, of, noun, scale, held_out=True), *systems[1:]]
        blocks += _watched(axis, found.get("validation_loss", []))
        sections.append(Section(axis, figures_first(blocks)))
    lead.append(f"How clips were held out: {record['split']}.")
    return Page(
        f"{record['dataset']}, {record['encoder']} {record['feature']}",
        lead,
        [*sections, Section("What was run", [Facts(_facts(folder)), *_recipe(config),
                                             Words([folder.command], "code")])],
        bool(record["synthetic"]),
        f"run of {folder.command.split()[0]}",
    )  # fmt: skip


def noun_of(folder: Folder, word: str) -> str:
    """Return what a group is called in a sentence: ``song``, ``prompt``, else ``group``."""
    kind = kind_of(folder) if word == "group" else ""
    return kind if kind.isalpha() else word


def kind_of(folder: Folder) -> str:
    """Return what the set's description calls its groups; of another's, nothing is known."""
    given = folder.config.get("given", {})
    if given.get("labels") or given.get("onto"):
        return ""
    return group_kind(folder.record["dataset"])


def findings(found: Sequence[Mapping[str, str]]) -> list[Block]:
    """Return diagnostics in words."""
    lines = [f"{one['evidence']}. To try: {one['suggestion']}." for one in found]
    return [Words(lines, "warning")] if lines else [Words(["Nothing stands out about it."], "good")]


def _facts(folder: Folder) -> list[tuple[str, str]]:
    record, config = folder.record, folder.config
    judged = [found["models"] for found in record["axes"].values() if "models" in found]
    first = next(iter(judged[0].values())) if judged else None
    counts = (
        "judged by pairs alone"
        if first is None
        else (
            f"{first['clips']} clips, {first['systems']} systems, {first['groups']} "
            f"{noun_of(folder, first['group_word'])}s on the first axis"
        )
    )
    versions = ", ".join(f"{name} {value}" for name, value in config.get("versions", {}).items())
    rows = {
        "data": f"{record['dataset']}{' (synthetic)' if record['synthetic'] else ''}: {counts}",
        "encoder": f"{record['encoder']}, feature {record['feature']}",
        "identity": config.get("identity_sha256", ""),
        "held out": record["split"],
        "seeds": str(config.get("seeds", "")),
        "stopping": config.get("stop", ""),
        "saved head": f"trained on {config.get('refit_clips', '?')} clips",
        "computed on": f"{config.get('device', '')}, {config.get('precision', '')}",
        "versions": versions,
        "folder": str(folder.path),
    }
    return [(name, value) for name, value in rows.items() if value]


def _recipe(config: Mapping[str, Any]) -> list[Block]:
    """Return the recipe's settings, those that are not the default's first."""
    rows = []
    for name, value in config.get("recipe", {}).items():
        declared = RECIPE.get(name)
        shown = declared.show(value) if declared is not None else str(value)
        usual = declared is not None and shown == declared.show(declared.default)
        rows.append((usual, name, shown + ("" if usual else " (not the default)")))
    rows = [row for row in rows if row[1] != "loss"] + [
        (False, name, value.removesuffix(" (not the default)"))
        for _, name, value in rows
        if name == "loss"
    ]
    return [Facts([(name, value) for _, name, value in sorted(rows, key=lambda row: row[0])])]


def _watched(axis: str, epochs: Sequence[Mapping[str, float]]) -> list[Block]:
    """Return the validation sets' loss by epoch, where early stopping watched one."""
    if len(epochs) < 2:
        return []
    points = [
        (float(k + 1), Estimate(*(value_of(one, name) for name in ("median", "low", "high"))))
        for k, one in enumerate(epochs)
    ]
    last = epochs[-1]["heads"]
    about = (
        f"The median over the heads that are still in training ({epochs[0]['heads']:.0f} at first, "
        f"{last:.0f} at epoch {len(epochs)}), from {compact(points[0][1].value)} to "
        f"{compact(points[-1][1].value)}; the band holds half of them. Heads that stop leave."
    )
    line = [Line("median and quartiles", points)]
    return [Curve(f"{axis}: loss of the validation sets", about, "epoch", "loss", line)]
