"""Write the tables of options into the documents, from the declarations that the commands use.

    python docs/make_tables.py

A table stands between ``<!-- options: NAME -->`` and ``<!-- end of options -->``.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from qamro_cache.evaluation.request import EvaluateOptions
from qamro_cache.experiments.grid import Cell
from qamro_cache.experiments.request import AblateOptions, TrainOptions
from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.scoring.request import PredictOptions
from qamro_cache.settings import Setting, settings_of
from qamro_cache.training.recipe import RECIPE

TABLES: Mapping[str, Mapping[str, Setting]] = {
    "recipe": RECIPE,
    "train": settings_of(TrainOptions),
    "cell": settings_of(Cell),
    "ablate": settings_of(AblateOptions),
    "evaluate": settings_of(EvaluateOptions),
    "predict": settings_of(PredictOptions),
    "extract": settings_of(ExtractRequest),
}

_PLACE = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end of options -->)", re.DOTALL)


def table(settings: Mapping[str, Setting]) -> str:
    """Return a table of options in Markdown."""
    rows = ["| option | default | what |", "|---|---|---|"]
    for one in settings.values():
        choices = ", ".join(f"`{choice}`" for choice in one.choices if choice)
        what = f"{one.help} {choices}".strip()
        rows.append(f"| `{one.name}` | {one.default_text} | {what.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def filled(text: str) -> str:
    """Return a document with its tables written anew."""
    return _PLACE.sub(lambda found: found[1] + table(TABLES[found[2]]) + found[3], text)


if __name__ == "__main__":
    for page in Path(__file__).parent.glob("*.md"):
        page.write_text(filled(page.read_text()))
