"""qamro-train: a cache to heads, with an honest estimate of how good they are."""

from pathlib import Path
from typing import Any

import click

from .common import (
    notices_to_stderr,
    one_line_errors,
    printable,
    show_scores,
    usable_device,
    version_option,
)
from .recipe_options import given_settings, recipe_options, training_bar

File = click.Path(path_type=Path)


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
@click.option("--axis", multiple=True, help="Axis to train for; may repeat [all].")
@click.option("--labels", type=File, help="Ratings to use instead of the cache's.")
@click.option("--feature", default="", help="Of the cache [its first].")
@click.option("--text-feature", default="", help="Of the prompts [the cache's first].")
@click.option("--seeds", default=5, show_default=True, help="Heads of different initialisation.")
@click.option(
    "--cv",
    default="",
    metavar="system|group|prompt|split|K",
    help="How clips are held out [the split column, else group, else 5].",
)
@click.option(
    "--stop",
    type=click.Choice(["inner", "fixed"]),
    help="Stop on a part of the training clips, or after --epochs [fixed; inner for a split].",
)
@click.option("--save-folds", is_flag=True, help="Keep the heads of every fold too.")
@click.option("--init", type=File, help="Published Audiobox checkpoint to start from.")
@click.option(
    "--device", callback=usable_device, default="", help="Torch device [a GPU if there is one]."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "tf32"]),
    default="float32",
    show_default=True,
    help="Of products on a GPU.",
)
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json on stdout.")
@recipe_options
@version_option
@one_line_errors
def main(caches: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Train heads on cached embeddings with the QAMRO recipe.

    Heads are judged on clips that they were not trained on (--cv); the saved head is then trained
    on all clips, one member a seed. Defaults stand in brackets.
    """
    notices_to_stderr()
    from qamro_cache.evaluation.score import json_text
    from qamro_cache.training.train import train

    settings = given_settings(options)
    options["stop"] = options["stop"] or ""
    with training_bar() as progress:
        record = train(caches, out, progress=progress, **options, **settings)
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
