"""qamro-train: a cache to heads, with an honest estimate of how good they are."""

from pathlib import Path
from typing import Any

import click

from .common import (
    notices_to_stderr,
    one_line_errors,
    printable,
    show_scores,
    version_option,
)
from .recipe_options import File, given_settings, recipe_options, run_options, training_bar


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--cache",
    "caches",
    type=File,
    required=True,
    multiple=True,
    help="From qamro-extract; may repeat.",
)
@click.option("--out", type=File, required=True, help="Folder for the results.")
@click.option("--feature", default="", help="Of the cache [its first].")
@click.option("--text-feature", default="", help="Of the prompts [the cache's first].")
@click.option(
    "--seeds",
    default=5,
    show_default=True,
    type=click.IntRange(min=1),
    help="Heads of different initialization.",
)
@click.option(
    "--cv",
    default="",
    metavar="system|group|prompt|split|K",
    help="How clips are held out [the split column, else group, else 5].",
)
@click.option("--save-folds", is_flag=True, help="Keep the heads of every fold too.")
@click.option("--init", type=File, help="Published Audiobox checkpoint to start from.")
@click.option("--overwrite", is_flag=True, help="Replace another run in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json on stdout.")
@run_options
@recipe_options
@version_option
@one_line_errors
def main(caches: tuple[Path, ...], out: Path, device: str, as_json: bool, **options: Any) -> None:
    """Train heads on cached embeddings with the QAMRO recipe.

    Heads are judged on clips that they were not trained on (--cv); the saved head is then trained
    on all clips, one member a seed. Defaults stand in brackets.
    """
    notices_to_stderr()
    from qamro_cache.experiments.early import check_train

    settings: Any = given_settings(options)
    options["stop"] = options["stop"] or ""
    cache, _ = check_train(caches, out, settings=settings, **options)
    from qamro_cache.evaluation.score import json_text
    from qamro_cache.experiments.train import train

    with training_bar() as progress:
        record = train(cache, out, device=device, progress=progress, **options, **settings)
    if as_json:
        click.echo(json_text(record))
        return
    origin = f"{record['dataset']}, {record['encoder']}"
    if record["synthetic"]:
        origin = f"synthetic data: {origin}"
    for name, axis in record["axes"].items():
        show_scores(f"{name} ({origin}); {record['split']}", axis["models"], None)
    click.echo(
        printable(f"written to {out}: head.safetensors, metrics.json, predictions.csv"), err=True
    )
