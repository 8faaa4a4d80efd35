"""Make a report of what the commands left in their folders."""

import logging
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from qamro_cache.errors import OptionError, QamroError
from qamro_cache.files import (
    refuse_other,
    replace_folder,
    replaceable_folder,
    write_file,
    write_text,
)
from qamro_cache.paths import PathLike, as_list, as_path
from qamro_cache.reports.page import Page

if TYPE_CHECKING:
    from qamro_cache.reports.read import Folder

logger = logging.getLogger("qamro_cache")

#: What a report is written as, and whether players link to the audio or hold it.
FORMS = ("html", "md", "tex", "pdf", "png")
AUDIO = ("link", "embed", "none")

#: What every report says of itself.
_OURS = b"made by qamro_cache"


def report(
    folders: PathLike | Sequence[PathLike],
    out: PathLike = "",
    *,
    form: str = "html",
    audio: str = "link",
) -> Path:
    """Make a page of the folder of a run or a grid, or one that compares several of them.

    Args:
        folders: that ``qamro-train`` or ``qamro-ablate`` wrote.
        out: the file; empty: ``report.html`` in the (first) folder. A report is replaced, any
            other file is kept.
        form: one of `FORMS`. ``md`` and ``tex`` hold the tables, their figures lie in a folder
            beside them; ``pdf`` holds both; ``png`` is a folder of figures.
        audio: ``link`` players to the audio, where it is at hand; ``embed`` the sounds in the
            page; or ``none``.

    Returns:
        The file.

    Raises:
        QamroError: a folder holds neither, several are not of the same clips, or the file
            cannot be written.
    """
    page, place = report_page(folders, out, form)
    return write_page(page, place, form, audio)


def report_page(
    folders: PathLike | Sequence[PathLike], out: PathLike = "", form: str = "html"
) -> tuple[Page, Path]:
    """Return the page of folders and where it is to lie; see `report`."""
    from qamro_cache.reports.read import read_folder

    refuse_form(form)
    found = [read_folder(as_path(one, "a folder")) for one in as_list(folders)]
    if not found:
        raise OptionError("name a folder that qamro-train or qamro-ablate wrote")
    place = as_path(out) if out else usual_place(found[0].path, form)
    try:
        return _page_of(found), place
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, StopIteration) as error:
        names = ", ".join(str(one.path) for one in found)
        raise QamroError(
            f"{names}: its files do not fit each other or this version ({type(error).__name__}: "
            f"{error}); run the command that wrote them again"
        ) from error


def refuse_form(form: str) -> None:
    """Refuse a form that is none, or that is figures alone where nothing can draw them.

    Tables need nothing: of ``md`` and ``tex`` the figures are left out then.
    """
    if form not in FORMS:
        raise OptionError(f"form is one of {', '.join(FORMS)}, not {form!r}")
    if form == "html" or find_spec("matplotlib") is not None:
        return
    from qamro_cache.encoders.support import install_line

    how = f"matplotlib, which is not installed; {install_line('report')}"
    if form in ("pdf", "png"):
        raise QamroError(f"figures in files of their own need {how}")
    logger.warning("tables alone: figures beside them need %s", how)


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
    if audio not in AUDIO:
        raise OptionError(f"audio is one of {', '.join(AUDIO)}, not {audio!r}")
    if form == "png":
        _figures(page, out, "png")
        return out
    refuse_other(out, "report", is_report)
    if form == "html":
        from qamro_cache.reports.html import html_of

        write_text(out, html_of(page, out.absolute().parent, audio))
    elif form == "pdf":
        from qamro_cache.reports.plots import pdf_of
        from qamro_cache.reports.tables import MADE_BY

        data = pdf_of(page, MADE_BY)
        write_file(out, lambda file: file.write(data))
    else:
        from qamro_cache.reports.tables import markdown_of, tex_of

        folder = out.with_name(f"{out.stem}_figures")
        ending, write = ("png", markdown_of) if form == "md" else ("pdf", tex_of)
        files = {} if find_spec("matplotlib") is None else _figures(page, folder, ending)
        write_text(out, write(page, {key: f"{folder.name}/{name}" for key, name in files.items()}))
    return out


def _figures(page: Page, folder: Path, ending: str) -> dict[int, str]:
    """Write a page's figures into a folder; return the file of each, by the figure's ``id``."""
    from qamro_cache.reports.plots import plot

    replaceable_folder(folder)
    named = re.compile(rf"\d\d-[-a-z0-9]*\.{ending}")
    there = [path.name for path in folder.glob("*") if named.fullmatch(path.name)]
    figures, files = list(page.figures()), {}
    for place, figure in enumerate(figures, 1):
        letters = re.sub(r"[^a-z0-9]+", "-", figure.title.lower()).strip("-")[:40]
        files[id(figure)] = f"{place:02}-{letters}.{ending}"
    with replace_folder(folder, {*there, *files.values()}) as new:
        for figure in figures:
            (new / files[id(figure)]).write_bytes(plot(figure, ending))
    return files


def usual_place(folder: Path, form: str = "html") -> Path:
    """Return where the report of a folder lies where nobody said."""
    return folder / ("report_figures" if form == "png" else f"report.{form}")


def is_report(path: Path) -> bool:
    """Tell whether a file is a page of ours."""
    return _OURS in path.read_bytes()
