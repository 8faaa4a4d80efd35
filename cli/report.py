"""qamro-report: runs and grids as a page to look at."""

from pathlib import Path

import click

from qamro_cache.reports.report import AUDIO, FORMS

from .common import OneLine, notices_to_stderr, printable, version_option
from .options import File


@click.command(cls=OneLine)
@click.argument("folders", nargs=-1, required=True, type=File, metavar="DIR...")
@click.option("--out", type=File, help="The page to make.  [report.html in DIR]")
@click.option("--format", "form", type=click.Choice(FORMS), default="html", help="Written as.")
@click.option(
    "--audio",
    type=click.Choice(AUDIO),
    default="link",
    help="Players that link to the audio files, or sounds in the page itself, or none.",
)
@version_option
def main(folders: tuple[Path, ...], out: Path | None, form: str, audio: str) -> None:
    """Show what qamro-train or qamro-ablate found, as one page that needs no network."""
    notices_to_stderr()
    from qamro_cache.reports.report import report

    made = report(list(folders), out or "", form=form, audio=audio)
    click.echo(printable(f"written: {made}"))
