"""``qamro-predict``: scores for new clips from a head file."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qamro_cache.reports.numbers import number
from qamro_cache.scoring.options import PredictOptions

from .common import OneLine, fail, notices_to_stderr, printable, version_option
from .extraction_bar import ExtractionBar
from .options import File, given, request_options
from .tables import show_systems, show_table

if TYPE_CHECKING:
    import pandas as pd

_FAILURES_SHOWN = 5


@click.command(
    cls=OneLine,
    stopped="the same command goes on: embeddings of audio are kept beside --out until all is done",
)
@click.option(
    "--head",
    type=File,
    metavar="PATH",
    required=True,
    help="head.safetensors of a qamro-train run, or the run's folder.",
)
@click.option(
    "--cache",
    type=File,
    metavar="FILE",
    multiple=True,
    help="Embeddings of the clips; may repeat: parts of one, or one for each encoder.",
)
@request_options(PredictOptions)
@version_option
def main(head: Path, cache: tuple[Path, ...], **options: Any) -> None:
    """Predict mean opinion scores with a trained head.

    Clips come from a cache (--cache), or from a folder of audio (--audio) or a manifest
    (--manifest), which are embedded with the encoder that the head was trained on.
    """
    notices_to_stderr()
    if options["out"] is None:
        raise click.UsageError("give --out FILE for the predictions")
    from qamro_cache.scoring.request import predict_request

    request = predict_request(head, cache or None, None, given(options))
    # Loads torch, which takes seconds: a wrong name has been refused by now.
    from qamro_cache.heads.file import load_head
    from qamro_cache.scoring.predict import run_predict

    loaded = load_head(head)
    with nullcontext() if request.sources is not None else ExtractionBar() as bar:
        table = run_predict(replace(request, head=loaded), None if bar is None else bar.show)
    training = loaded.training
    told = "synthetic data" if training.get("synthetic") else training.get("dataset", "")
    encoders = " + ".join(str(one["name"]) for one in loaded.identities)
    title = (
        f"{request.source}: {len(request.clip_ids)} clips by {head}, a head of "
        f"{len(loaded.axes[0].seeds)} seeds on {encoders} {loaded.feature}"
        f"{f', trained on {told}' if told else ''}"
    )
    _show(table, title, request.options.out)
    for path in (request.options.out, request.options.answer):
        if path is not None:
            click.echo(printable(f"wrote {path}"), err=True)


def _show(table: "pd.DataFrame", title: str, out: Path | None) -> None:
    """Print a row an axis, a row a system, and the first clips that have no prediction."""
    failed = table.drop_duplicates("clip_id")
    failed = failed[failed["reason"] != ""]
    for clip_id, reason in list(zip(failed["clip_id"], failed["reason"], strict=True))[
        :_FAILURES_SHOWN
    ]:
        click.echo(printable(f"no prediction for {clip_id}: {reason}"), err=True)
    if len(failed) > _FAILURES_SHOWN:
        more = len(failed) - _FAILURES_SHOWN
        click.echo(printable(f"and {more} more; {out} has the reasons"), err=True)
    if len(failed) and len(failed) == len(set(table["clip_id"])):
        fail("no clip could be used")
    from qamro_cache.evaluation.by_system import system_means
    from qamro_cache.heads.trained import KNOWN

    rows = []
    for axis, part in table.groupby("axis", sort=False):
        known = part["prediction"].notna()
        rows.append(
            [
                str(axis),
                f"{known.sum()}",
                f"{(~known).sum()}",
                *(f"{(part['trained_on'] == word).sum()}" for word in KNOWN),
                f"{part['ood'].sum()}",
                number(part["prediction"].mean()),
                number(part["std"].mean()),
                str(part["scale"].iloc[0]),
            ]
        )
    columns = [
        "axis",
        "clips",
        "failed",
        "trained on",
        "near",
        "ood",
        "mean",
        "seeds' std",
        "scale",
    ]
    show_table(columns, rows, title=title)
    for axis, means in system_means(table).groupby("axis", sort=False):
        show_systems(str(axis), means.to_dict("records"), ["prediction"])
