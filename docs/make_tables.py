"""Write into the documents what follows from the code: tables of options, and the map of files.

    python docs/make_tables.py

Tables of options stand between ``<!-- options: NAME -->`` and ``<!-- end of options -->``, that of
losses between ``<!-- losses -->`` and ``<!-- end of losses -->``, that of metrics between
``<!-- metrics -->`` and ``<!-- end of metrics -->``, the words of CONTRIBUTING.md elsewhere between
``<!-- words -->`` and ``<!-- end of words -->``, its map between ``<!-- map -->`` and
``<!-- end of map -->``.
"""

import ast
import re
from collections.abc import Mapping
from pathlib import Path

from qamro_cache.datasets.options import RelabelOptions
from qamro_cache.evaluation.metrics import METRICS
from qamro_cache.evaluation.options import EvaluateOptions
from qamro_cache.experiments.grid import Cell
from qamro_cache.experiments.options import AblateOptions, EnsembleOptions, TrainOptions
from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.losses.terms import TERMS
from qamro_cache.scoring.options import CalibrateOptions, PredictOptions
from qamro_cache.settings import Setting, settings_of
from qamro_cache.training.recipe import RECIPE

TABLES: Mapping[str, Mapping[str, Setting]] = {
    "recipe": RECIPE,
    "train": settings_of(TrainOptions),
    "cell": settings_of(Cell),
    "ablate": settings_of(AblateOptions),
    "ensemble": settings_of(EnsembleOptions),
    "evaluate": settings_of(EvaluateOptions),
    "calibrate": settings_of(CalibrateOptions),
    "predict": settings_of(PredictOptions),
    "extract": settings_of(ExtractRequest),
    "relabel": settings_of(RelabelOptions),
}

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Folders of the map, and what they are installed as where that is another name.
FOLDERS = {"qamro_cache": "", "cli": "qamro_cache_cli", "benchmarks": ""}

_PLACE = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end of options -->)", re.DOTALL)
_LOSSES = re.compile(r"(<!-- losses -->\n).*?(<!-- end of losses -->)", re.DOTALL)
_METRICS = re.compile(r"(<!-- metrics -->\n).*?(<!-- end of metrics -->)", re.DOTALL)
_WORDS = re.compile(r"(<!-- words -->\n).*?(<!-- end of words -->)", re.DOTALL)
_MAP = re.compile(r"(<!-- map -->\n).*?(<!-- end of map -->)", re.DOTALL)


def table(settings: Mapping[str, Setting]) -> str:
    """Return a table of options in Markdown."""
    rows = ["| option | default | what |", "|---|---|---|"]
    for one in settings.values():
        rule = ", ".join(f"`{choice}`" for choice in one.choices if choice) or one.rule
        what = f"{one.help} {rule[:1].upper()}{rule[1:]}".strip()
        rows.append(_row(f"`{one.name}`", one.default_text, what))
    return "\n".join(rows) + "\n"


def _row(*cells: str) -> str:
    """Return a row of a table; a bar within a cell would end it."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def losses() -> str:
    """Return a table of the losses in Markdown."""
    rows = ["| name | kind | what | parameters |", "|---|---|---|---|"]
    for name, info in TERMS.items():
        ours = ", ".join(f"`{one.name}` {one.default_text}" for one in info.parameters)
        rows.append(_row(f"`{name}`", info.kind, info.description, ours))
    return "\n".join(rows) + "\n"


def metrics() -> str:
    """Return a table of the metrics in Markdown."""
    rows = ["| metric | what | of | |", "|---|---|---|---|"]
    for name, metric in METRICS.items():
        of = ", ".join(f"`{level}`" for level in metric.levels)
        notes = ["interval"] * metric.main + ["same units only"] * metric.same_scale
        rows.append(f"| `{name}` | {metric.about} | {of} | {', '.join(notes)} |")
    return "\n".join(rows) + "\n"


def words() -> str:
    """Return the table of words that CONTRIBUTING.md has."""
    section = PAGES[0].read_text().split("\n## Words\n\n")[1]
    return section.split("\n\n")[0] + "\n"


def the_map() -> str:
    """Return a table a folder: each file, and the first line of its docstring."""
    parts = []
    for top, installed in FOLDERS.items():
        folders = sorted({path.parent for path in (ROOT / top).rglob("*.py")})
        for folder in folders:
            name = f"`{folder.relative_to(ROOT)}/`"
            rows = [f"### {name}{f' (installed as `{installed}`)' if installed else ''}", ""]
            rows += ["| file | what it is for |", "|---|---|"]
            for path in sorted(folder.glob("*.py")):
                first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
                if path.name != "__init__.py" or folder == ROOT / top:
                    rows.append(_row(f"`{path.name}`", first.rstrip(".")))
            parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def filled(text: str) -> str:
    """Return a document with its tables, and its map, written anew."""
    text = _LOSSES.sub(lambda found: found[1] + losses() + found[2], text)
    text = _METRICS.sub(lambda found: found[1] + metrics() + found[2], text)
    text = _WORDS.sub(lambda found: found[1] + words() + found[2], text)
    text = _PLACE.sub(lambda found: found[1] + table(TABLES[found[2]]) + found[3], text)
    return _MAP.sub(lambda found: found[1] + the_map() + found[2], text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
