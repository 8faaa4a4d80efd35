"""qamro-ensemble: cells of a grid averaged, chosen without the clips that they are judged by."""

from pathlib import Path
from typing import Any

import click

from qamro_cache.experiments.options import EnsembleOptions

from .common import OneLine, notices_to_stderr, printable, version_option
from .options import NO_KERNELS, OUT_FOLDER, REPORT, File, request_options
from .report import page_of_folder, page_to_make
from .scores import begin, show_scores, show_words
from .tables import show_lines
from .training_bar import training_bar


@click.command(cls=OneLine, stopped="the same command goes on: heads are kept in the grid's folder")
@click.argument("grid", type=File, metavar="GRID")
@OUT_FOLDER
@request_options(EnsembleOptions)
@NO_KERNELS
@REPORT
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json on stdout.")
@version_option
def main(grid: Path, out: Path, report: str | None, as_json: bool, **options: Any) -> None:
    """Average cells of GRID, a folder of qamro-ablate, and save them as one head.

    Cells are chosen by heads inside each fold's training clips (qamro-ablate --nested trains the
    same), and the mean is held against the best cell on the clips that chose neither.
    """
    notices_to_stderr()
    from qamro_cache.experiments.grid_folder import ensemble_request

    request = ensemble_request(grid, out, options)
    page = page_to_make(out, report)
    from qamro_cache.experiments.ensemble import run_ensemble
    from qamro_cache.files import json_text
    from qamro_cache.reports.choice import ensemble_words

    with training_bar() as progress:
        record = run_ensemble(request, progress)
    if as_json:
        click.echo(json_text(record))
        page_of_folder(out, page)
        return
    for place, (name, axis) in enumerate(record["axes"].items()):
        if place:
            click.echo()
        show_scores(name, record, axis["models"], axis["ceiling"])
        begins = begin(name, record["axes"])
        show_words(begins, axis)
        show_lines(*(f"{begins}{line}" for line in ensemble_words(axis["ensemble"])), hang=2)
    written = f"written to {out}: head.safetensors, metrics.json, predictions.csv"
    click.echo(printable(written), err=True)
    page_of_folder(out, page)
