"""Take the pictures of `docs/pictures` anew: pages of both real listening tests, in Chromium.

    python docs/make_pictures.py --work pictures

Embeds the tests that lie in ``../shared/data`` (or ``QAMRO_SHARED_DATA``) with distillmos into the
folder ``--work``, where the next time goes on, trains as `docs/report.md` says, and takes what
that page shows. Needs ``pip install '.[distillmos,report,test]'``, chromium and its driver.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from qamro_cache import ablate, extract, report, train
from qamro_cache.datasets.registry import load_dataset
from qamro_cache.reports.dataset import dataset_page
from qamro_cache.reports.report import write_page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from report_browser import Browser  # noqa: E402

DATA = Path(os.environ.get("QAMRO_SHARED_DATA", ROOT.parent / "shared" / "data")).resolve()
SETS = ("codec-mushra", "cvssp-separation")
GRID = {"alpha": [0.1, 0.2, 0.5, 1.0], "beta": [1.0, 3.0, 7.0, 10.0], "seeds": 2, "epochs": 20}

#: Pixels across of a page on a desk and on a phone, and of a picture of the first.
DESK, PHONE, SHOWN = 1440, 390, 900


class Part(NamedTuple):
    """A part of a page, from the top or the block of one title, to that of another."""

    page: str
    width: int
    dark: bool
    first: str
    last: str


PICTURES = {
    "report-cvssp-separation": [
        Part("cvssp-separation-run/report.html", DESK, False, "", "quality: systems")
    ],
    "report-codec-mushra": [
        Part("codec-mushra-run/report.html", DESK, True, "", "quality: ranks within each signal")
    ],
    "report-grid": [
        Part("codec-mushra-grid/report.html", DESK, False, "", "quality: cells and baselines")
    ],
    "report-players": [
        Part(
            "cvssp-separation-grid/report.html",
            DESK,
            False,
            "interferer: the largest errors",
            "interferer: pairs of one song ranked the wrong way round",
        )
    ],
    "report-set": [
        Part("cvssp-separation-set.html", DESK, True, "", "quality: means of clips"),
    ],
    "report-phone": [
        Part("codec-mushra-grid/report.html", PHONE, False, "", "quality: cells and baselines"),
        Part(
            "cvssp-separation-run/report.html",
            PHONE,
            True,
            "quality: clips",
            "quality: ranks within each song",
        ),
    ],
}


def make_pages() -> None:
    """Make the pages of both sets in the folder that the process is in."""
    for name in SETS:
        dataset = load_dataset(name, DATA / name)
        write_page(dataset_page(dataset), Path(f"{name}-set.html"))
        extract(dataset, f"{name}.h5", "distillmos")
        train(f"{name}.h5", f"{name}-run", cv="group", overwrite=True)
        ablate(f"{name}.h5", f"{name}-grid", cv="group", **GRID)
        for kind in ("run", "grid"):
            report(f"{name}-{kind}")


def take(browser: Browser, part: Part) -> Image.Image:
    """Take a picture of a part of a page."""
    browser.open(Path(part.page).resolve(), part.width, part.dark)
    top, bottom = browser.run(
        """
        const box = (title) => [...document.querySelectorAll("figure, .card")]
            .find((one) => one.querySelector("h3").textContent === title).getBoundingClientRect();
        return [arguments[0] ? box(arguments[0]).top - 16 : 0, box(arguments[1]).bottom + 16];""",
        part.first,
        part.last,
    )
    browser.picture("part.png", int(top), int(bottom - top))
    return Image.open("part.png").convert("RGB")


def beside(pictures: list[Image.Image]) -> Image.Image:
    """Put pictures beside each other, cut to the shortest; one of a desk is made smaller."""
    if len(pictures) == 1:
        (one,) = pictures
        return one.resize((SHOWN, round(one.height * SHOWN / one.width)), Image.Resampling.LANCZOS)
    high = min(one.height for one in pictures)
    sheet = Image.new("RGB", (sum(one.width for one in pictures), high))
    at = 0
    for one in pictures:
        sheet.paste(one, (at, 0))
        at += one.width
    return sheet


def main() -> None:
    """Make the pages, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="Folder of caches and pages.")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(args.work)
    make_pages()
    browser = Browser()
    for name, parts in PICTURES.items():
        picture = beside([take(browser, part) for part in parts])
        few = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(ROOT / "docs" / "pictures" / f"{name}.png", optimize=True)
    browser.close()


if __name__ == "__main__":
    main()
