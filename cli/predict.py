"""``qamro-predict``: scores for new clips from a head file."""

import re
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qamro_cache.reports.numbers import number
from qamro_cache.scoring.options import PredictOptions

from .common import OneLine, fail, notices_to_stderr, printable, version_option
from .extraction_bar import ExtractionBar
from .options import EMBEDDINGS, File, request_options
from .scores import show_systems
from .tables import show_lines, show_table

if TYPE_CHECKING:
    import pandas as pd

    from qamro_cache.heads.head import AnyHead
    from qamro_cache.scoring.request import PredictRequest

_FAILURES_SHOWN = 5
_SYSTEMS_NAMED = 10
#: Most of a license that is looked at: a stranger's head may say anything.
_LICENSE = 1000


@click.command(
    cls=OneLine,
    stopped="the same command goes on: embeddings of audio are kept beside --out until all is done",
)
@click.option(
    "--head",
    type=File,
    metavar="PATH",
    required=True,
    help="head.safetensors of a qamro-train run, the run's folder, or a name such as "
    "codec-quality (qamro-head info lists them).",
)
@EMBEDDINGS
@request_options(PredictOptions)
@click.option("--summary", is_flag=True, help="Show count, mean and percentiles of axes alone.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print predictions as JSON lines on stdout; with --summary that, as one record.",
)
@version_option
def main(head: Path, cache: tuple[Path, ...], summary: bool, as_json: bool, **options: Any) -> None:
    """Predict mean opinion scores with a trained head.

    Clips come from a cache (--cache), or from a folder of audio (--audio) or a manifest
    (--manifest), which are embedded with the encoder that the head was trained on.
    """
    notices_to_stderr()
    if options["out"] is None and not (summary or as_json):
        raise click.UsageError(
            "give --out FILE for the predictions, or --json or --summary to see them"
        )
    from qamro_cache.scoring.request import predict_request

    request = predict_request(head, cache or None, None, options)
    # Loads torch, which takes seconds: a wrong name has been refused by now.
    from qamro_cache.heads.file import load_head
    from qamro_cache.scoring.predict import run_predict

    loaded = load_head(head)
    with nullcontext() if request.sources is not None else ExtractionBar() as bar:
        table = run_predict(replace(request, head=loaded), None if bar is None else bar.show)
    title = _title(loaded, head, request)
    _refuse_nothing(table, request.options.out)
    if summary:
        _show_summary(table, title, as_json)
    elif as_json:
        from qamro_cache.scoring.table import json_lines

        for line in json_lines(table):
            click.echo(line)
    else:
        _show(table, title)
    for path in (request.options.out, request.options.answer):
        if path is not None:
            click.echo(printable(f"wrote {path}"), err=True)


def _title(loaded: "AnyHead", named: Path, request: "PredictRequest") -> str:
    """Return what was scored by which head, and under which licenses that is."""
    from qamro_cache.heads.head import members_of
    from qamro_cache.heads.info import describe_head

    about = describe_head(loaded)
    told = "synthetic data" if about["synthetic"] else about["dataset"]
    encoders = " + ".join(about["encoders"])
    under = "; ".join(f"{what} {_brief(words)}" for what, words in about["licenses"].items())
    first, *others = members_of(loaded)
    what = f"a head of {len(first.axes[0].seeds)} seeds on {encoders} {first.feature}"
    if others:
        what = f"an ensemble of {1 + len(others)} heads on {encoders}"
    return (
        f"{request.source}: {len(request.clip_ids)} clips by {named}, {what}"
        f"{f', trained on {told}' if told else ''}{f' (licenses: {under})' if under else ''}"
    )


def _brief(license: object) -> str:
    """Return a license without what stands in brackets: whom to name, as the card does."""
    words, left = str(license)[:_LICENSE], ""
    while words != left:
        words, left = re.sub(r"\s*\([^()]*\)", "", words), words
    return words


def _show_summary(table: "pd.DataFrame", title: str, as_json: bool) -> None:
    from qamro_cache.files import json_text
    from qamro_cache.scoring.summary import summarize

    found = summarize(table)
    if as_json:
        click.echo(json_text(found))
        return
    names = list(next(iter(found.values())))
    counts = ("count", "failed", "ood")
    rows = [
        [axis, *(str(one[n]) if n in counts else number(one[n]) for n in names)]
        for axis, one in found.items()
    ]
    show_table(["axis", *names], rows, title=title)


def _refuse_nothing(table: "pd.DataFrame", out: Path | None) -> None:
    """Say which clips have no prediction, and leave where none has one."""
    failed = table.drop_duplicates("clip_id")
    failed = failed[failed["reason"] != ""]
    named = list(zip(failed["clip_id"], failed["reason"], strict=True))
    for clip_id, reason in named[:_FAILURES_SHOWN]:
        click.echo(printable(f"no prediction for {clip_id}: {reason}"), err=True)
    if len(failed) > _FAILURES_SHOWN:
        more = len(failed) - _FAILURES_SHOWN
        click.echo(printable(f"and {more} more; {out or 'the table'} has the reasons"), err=True)
    if len(failed) and len(failed) == len(set(table["clip_id"])):
        fail("no clip could be used")


def _explained(table: "pd.DataFrame") -> list[str]:
    """Say what the columns of a table count, and of which systems, where they count some."""
    lines = []
    if (table["trained_on"] == "near").any():
        lines.append("near: clips that sound like one that the head was trained on")
    far = table[table["ood"]]
    if len(far):
        lines.append(
            "ood: out of distribution, farther from the clips that the head was trained on than "
            "99 % of those are from each other; do not rely on their predictions"
        )
    for axis, part in far[far["system"] != ""].groupby("axis", sort=False):
        clips = Counter(part["system"])
        counts = clips.most_common(_SYSTEMS_NAMED)
        named = ", ".join(f"{system} {count}" for system, count in counts)
        more = f" and {len(clips) - len(counts)} more" * (len(clips) > len(counts))
        lines.append(f"ood on {axis}, by system: {named}{more}")
    return lines


def _show(table: "pd.DataFrame", title: str) -> None:
    """Print a row an axis, and a row a system."""
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
    show_lines(*_explained(table), hang=2)
    for axis, means in system_means(table).groupby("axis", sort=False):
        show_systems(str(axis), means.to_dict("records"), ["prediction"])
