"""qamro-extract: audio, prompts and ratings to a cache."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click

from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.settings import from_options

from .common import OneLine, notices_to_stderr, printable, version_option
from .completion import complete
from .extract_output import (
    show_encoder_check,
    show_encoders,
    show_findings,
    show_summary,
)
from .extraction_bar import ExtractionBar
from .options import File, Name, PlainFile, request_options


@click.command(
    cls=OneLine,
    stopped="the same command goes on: finished clips are kept in OUT.parts",
    epilog="\b\nFor example:\n"
    "  qamro-extract --manifest clips.csv --encoder distillmos --out emb.h5\n"
    "Then:\n"
    "  qamro-train --cache emb.h5 --out run",
)
@click.option(
    "--dataset",
    type=Name(),
    metavar="NAME",
    shell_complete=complete,
    help="A known set (demo, ...) or a description (.toml).",
)
@click.option(
    "--manifest",
    type=PlainFile,
    help="Your own clips: a table with path and, if known, clip_id, system, group, prompt, split, "
    "rater and a column an axis.",
)
@click.option(
    "--encoder",
    type=Name(),
    metavar="NAME",
    shell_complete=complete,
    help="See --list-encoders; demo uses distillmos.",
)
@click.option("--out", type=PlainFile, help="Cache file to make.")
@request_options(ExtractRequest)
@click.option("--dry-run", is_flag=True, help="Only check the set; no encoder, no output.")
@click.option("--report", type=File, metavar="FILE", help="With --dry-run: make a page of the set.")
@click.option("--list-encoders", is_flag=True, help="Show the encoders and what they lack.")
@click.option("--check", is_flag=True, help="Test --encoder here and say what it lacks.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@version_option
def main(
    dataset: str | None,
    manifest: Path | None,
    encoder: str | None,
    out: Path | None,
    dry_run: bool,
    report: Path | None,
    list_encoders: bool,
    check: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Encode every clip of a set once, into one cache file.

    Stopped at any moment, the same command goes on where it was. Exit code 3: the cache is
    complete and usable, but more clips failed than --max-failures allows.
    """
    notices_to_stderr()
    if check and encoder is None:
        raise click.UsageError("give --encoder NAME with --check (--list-encoders shows them)")
    if report and not dry_run:
        raise click.UsageError("--report goes with --dry-run; after it, qamro-report has pages")
    if list_encoders or check or dry_run:
        request: ExtractRequest = from_options(ExtractRequest, options)
        if list_encoders:
            show_encoders(request.encoder_options, as_json)
        elif check:
            show_encoder_check(str(encoder), request, as_json)
        else:
            show_findings(dataset, manifest, request, report, as_json)
        return
    signal.signal(signal.SIGTERM, _stop)
    from qamro_cache.extraction.extract import extract

    with ExtractionBar() as bar:
        summary = extract(
            dataset, out, encoder or "", manifest=manifest, progress=bar.show, **options
        )
    show_summary(summary, as_json)
    if summary.too_many_failures:
        click.echo(
            f"{summary.failures} clips failed, more than --max-failures {summary.max_failures}; "
            f"{printable(str(summary.out))} is complete and holds the other {summary.ok}",
            err=True,
        )
        sys.exit(3)


def _stop(number: int, frame: FrameType | None) -> None:
    # A batch system's polite request to end is treated as Ctrl-C: finished clips are kept.
    raise KeyboardInterrupt
