"""qamro-train: a cache to heads, with an honest estimate of how good they are."""

from pathlib import Path
from typing import Any

import click

from qamro_cache.experiments.options import TrainOptions
from qamro_cache.training.recipe import RECIPE

from .common import OneLine, notices_to_stderr, printable, version_option, wrapped
from .options import (
    BY,
    CACHES,
    NO_KERNELS,
    OUT_FOLDER,
    REPORT,
    TRACK,
    option_of,
    request_options,
    setting_options,
)
from .report import page_of_folder, page_to_make
from .scores import SYSTEM_COLUMNS, begin, far_words, show_scores, show_systems, show_words
from .tables import show_lines
from .tracking import give_rows, tracker_wanted
from .training_bar import training_bar


@click.command(
    cls=OneLine,
    epilog="\b\nFor example:\n"
    "  qamro-train --cache emb.h5 --without system=Reference --over group --out run\n"
    "Then:\n"
    "  qamro-report run\n"
    "  qamro-predict --head run --audio FOLDER --out scores.csv",
)
@CACHES
@OUT_FOLDER
@request_options(TrainOptions)
@setting_options(RECIPE, flag=False)
@option_of(BY)
@NO_KERNELS
@REPORT
@TRACK
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json on stdout.")
@version_option
def main(
    cache: tuple[Path, ...],
    out: Path,
    by: str | None,
    report: str | None,
    track: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train heads on cached embeddings with the QAMRO recipe.

    Heads are judged on clips that they were not trained on (--cv); the saved head is then trained
    on all clips (--refit), one member a seed. Defaults stand in brackets.
    """
    notices_to_stderr()
    from qamro_cache.experiments.request import train_request

    request = train_request(cache, out, options)
    page, tracker = page_to_make(out, report), tracker_wanted(track)
    from qamro_cache.experiments.train import run_train
    from qamro_cache.files import json_text

    with training_bar() as progress:
        record = run_train(request, progress)
    if as_json:
        click.echo(json_text(record))
    else:
        _show(out, record, by)
    page_of_folder(out, page)
    give_rows(out, tracker)


def _show(out: Path, record: dict[str, Any], by: str | None) -> None:
    """Print ``metrics.json`` for a person, a table an axis."""
    for place, (name, axis) in enumerate(record["axes"].items()):
        if place:
            click.echo()
        if "models" not in axis:
            continue
        show_scores(name, record, axis["models"], axis["ceiling"])
        if "without_references" in axis:
            beside = axis["without_references"]
            title = f"{name} without references, which their context gives away"
            show_scores(title, record, beside["models"], beside["ceiling"])
        for source, beside in axis.get("by_source", {}).items():
            click.echo()
            show_scores(f"{name} of {source}", record, beside["models"], beside["ceiling"])
        if "by_modeled_labels" in axis:
            beside = axis["by_modeled_labels"]
            click.echo()
            title = f"{name} by modeled labels ({beside['labels']}); above by plain means"
            show_scores(title, record, beside["models"], None)
        begins = begin(name, record["axes"])
        show_words(begins, axis)
        for one in axis["diagnostics"]:
            show_lines(f"{begins}{one['evidence']}. To try: {one['suggestion']}", hang=2)
        if axis["ood"]:
            show_lines(begins + far_words(axis["ood"], axis["models"]), hang=2)
        if by == "system":
            show_systems(name, axis["by_system"], SYSTEM_COLUMNS)
    for name, axis in record["axes"].items():
        begins = begin(name, record["axes"])
        if "pairs" in axis:
            of = axis["pairs"]
            more = (f"pair accuracy: {one['words']}" for one in of["baselines"].values())
            show_lines(*(f"{begins}{line}" for line in (of["words"], *more)), hang=2)
        if "context_group" in axis:
            show_lines(f"{begins}{axis['context_group']['words']}", hang=2)
    written = (
        f"written to {out}: head.safetensors, metrics.json (every figure, with its interval), "
        "predictions.csv"
    )
    click.echo(wrapped(printable(written)), err=True)
