"""``qamro-calibrate``: a head brought to a scale of one's own, by the labels of a few clips."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from qamro_cache.reports.numbers import number, span
from qamro_cache.scoring.options import CalibrateOptions

from .common import OneLine, notices_to_stderr, printable, version_option
from .extraction_bar import ExtractionBar
from .options import EMBEDDINGS, File, request_options
from .tables import show_table


@click.command(cls=OneLine)
@click.option(
    "--head",
    type=File,
    metavar="PATH",
    required=True,
    help="A head file, the folder of a run, or a name such as codec-quality.",
)
@click.option(
    "--labels",
    type=File,
    metavar="FILE",
    required=True,
    help="Clips and their scores, a column an axis of the head; without --cache and --audio a "
    "manifest, whose audio is embedded.",
)
@EMBEDDINGS
@request_options(CalibrateOptions)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@version_option
def main(head: Path, labels: Path, cache: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Bring a head's scores to the scale of a few labeled clips; the head file keeps how.

    A line is fitted to the clips, with its interval; of many clips a function that never falls is
    used in its place. Refused where the clips are too few, or the line may be flat.
    """
    notices_to_stderr()
    from qamro_cache.scoring.calibrate import calibrate_request, run_calibrate

    request = calibrate_request(head, labels, cache or None, options)
    with nullcontext() if request.clips is None else ExtractionBar() as bar:
        found = run_calibrate(request, None if bar is None else bar.show)
    if as_json:
        from qamro_cache.files import json_text

        click.echo(json_text(found))
    else:
        rows = [
            [
                axis,
                str(one["clips"]),
                number(one["slope"]),
                span(one["slope_low"], one["slope_high"], like=one["slope"]),
                number(one["offset"]),
                span(one["offset_low"], one["offset_high"], like=one["offset"]),
                "line" if one["steps"] is None else f"{len(one['steps'][0])} steps",
                number(one["before"]),
                number(one["after"]),
            ]
            for axis, one in found.items()
        ]
        columns = [
            "axis",
            "clips",
            "slope",
            "95 %",
            "offset",
            "95 %",
            "used",
            "RMSE",
            "by the line",
        ]
        show_table(columns, rows, title="label = offset + slope * score")
    click.echo(printable(f"wrote {request.out}"), err=True)
