"""Make a report of what the commands left in their folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qamro_cache.errors import OptionError
from qamro_cache.files import refuse_other, write_text
from qamro_cache.paths import PathLike, as_list, as_path
from qamro_cache.reports.page import Page

if TYPE_CHECKING:
    from qamro_cache.reports.read import Folder

#: What a report is written as, and whether players link to the audio or hold it.
FORMS = ("html",)
AUDIO = ("link", "embed", "none")

#: What every page says of itself, early.
_OURS = b'<meta name="generator" content="qamro_cache'


def report(
    folders: PathLike | Sequence[PathLike],
    out: PathLike = "",
    *,
    form: str = "html",
    audio: str = "link",
) -> Path:
    """Make a page of the folder of a run or a grid, or one that compares several runs.

    Args:
        folders: that ``qamro-train`` or ``qamro-ablate`` wrote.
        out: the file; empty: ``report.html`` in the (first) folder. A report is replaced, any
            other file is kept.
        form: one of `FORMS`.
        audio: ``link`` players to the audio, where it is at hand; ``embed`` the sounds in the
            page; or ``none``.

    Returns:
        The file.

    Raises:
        QamroError: a folder holds neither, several are no runs of the same clips, or the file
            cannot be written.
    """
    from qamro_cache.reports.read import read_folder

    found = [read_folder(as_path(one, "a folder")) for one in as_list(folders)]
    if not found:
        raise OptionError("name a folder that qamro-train or qamro-ablate wrote")
    place = as_path(out) if out else usual_place(found[0].path, form)
    return write_page(_page_of(found), place, form, audio)


def _page_of(folders: Sequence["Folder"]) -> Page:
    if len(folders) > 1:
        from qamro_cache.reports.compare import comparison_page

        return comparison_page(folders)
    if folders[0].grid:
        from qamro_cache.reports.grid import grid_page

        return grid_page(folders[0])
    from qamro_cache.reports.run import run_page

    return run_page(folders[0])


def write_page(page: Page, out: Path, form: str = "html", audio: str = "link") -> Path:
    """Write a page; see `report`."""
    for value, choices, name in ((form, FORMS, "form"), (audio, AUDIO, "audio")):
        if value not in choices:
            raise OptionError(f"{name} is one of {', '.join(choices)}, not {value!r}")
    if form == "html":
        from qamro_cache.reports.html import html_of

        refuse_other(out, "report", is_report)
        write_text(out, html_of(page, out.absolute().parent, audio))
    return out


def usual_place(folder: Path, form: str = "html") -> Path:
    """Return where the report of a folder lies where nobody said."""
    return folder / f"report.{form}"


def is_report(path: Path) -> bool:
    """Tell whether a file is a page of ours."""
    with path.open("rb") as file:
        return _OURS in file.read(2000)
