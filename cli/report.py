"""qamro-report: runs and grids as a page to look at."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qamro_cache.reports.report import AUDIO, FORMS

from .common import OneLine, notices_to_stderr, printable, version_option
from .options import USUAL_PLACE, File
from .tables import show_lines

if TYPE_CHECKING:
    from qamro_cache.reports.page import Page


def page_to_make(out: Path, wanted: str | None) -> Path | None:
    """Return the page that a command is to make at its end, looked at before the work.

    A page that is in the folder already is made anew: it would tell of what was there before.

    Args:
        out: the folder of the run or grid.
        wanted: of ``--report``: `USUAL_PLACE` for that, None where it was not given.
    """
    from qamro_cache.files import refuse_other
    from qamro_cache.reports.report import is_report, usual_place

    page = usual_place(out) if wanted in (None, USUAL_PLACE) else Path(wanted)
    if wanted is None:
        return page if page.is_file() and is_report(page) else None
    refuse_other(page, "report", is_report)
    return page


def page_of(page: "Page", place: Path) -> None:
    """Write a page, and say where it is."""
    from qamro_cache.reports.report import write_page

    click.echo(printable(f"a page to look at: {write_page(page, place)}"), err=True)


def page_of_folder(out: Path, page: Path | None) -> None:
    """Make the page of a folder, or say how; see `page_to_make`."""
    if page is None:
        click.echo(printable(f"a page to look at: qamro-report {shlex.quote(str(out))}"), err=True)
        return
    from qamro_cache.reports.report import report

    click.echo(printable(f"a page to look at: {report(out, page)}"), err=True)


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
    """Show what qamro-train or qamro-ablate found, as one page that needs no network.

    Several folders are held against the first by paired differences.
    """
    notices_to_stderr()
    from qamro_cache.reports.report import report_page, write_page

    page, place = report_page(list(folders), out or "", form)
    made = write_page(page, place, form, audio)
    show_lines(*page.lead, hang=2)
    click.echo(printable(f"written: {made}"), err=True)
