"""Pages of `qamro-report` in a real browser: nothing fails, nothing is fetched, all can be used."""

import base64
import itertools
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import soundfile
from report_browser import Browser, axe_source, rename_clips
from synthetic_cache import write_synthetic

from qamro_cache import ablate, report, train
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.evaluation.evaluate import run_evaluate
from qamro_cache.evaluation.request import evaluate_request
from qamro_cache.reports.dataset import dataset_page
from qamro_cache.reports.evaluation import evaluation_page
from qamro_cache.reports.page import Page, Section, Table
from qamro_cache.reports.report import write_page

pytestmark = pytest.mark.slow

PAGES = ["run", "grid", "hostile", "comparison", "set", "evaluation"]
QUICK = {"epochs": 4, "widths": "8", "lr": 0.01, "seeds": 2, "cv": "group"}


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A run's page with players, and a grid's."""
    folder = tmp_path_factory.mktemp("pages")
    cache = write_synthetic(folder / "emb.h5", own_score=True)
    train(cache, folder / "run", **QUICK)
    ablate(cache, folder / "grid", axis="quality", alpha=[0.1, 0.2, 0.5], beta=[3, 7], **QUICK)
    config = json.loads((folder / "run" / "config.json").read_text())
    for k, clip in enumerate(config["audio"]):
        config["audio"][clip] = str(folder / f"sound {k}.wav")
        soundfile.write(config["audio"][clip], np.zeros(4000), 8000)
    (folder / "run" / "config.json").write_text(json.dumps(config))
    shutil.copytree(folder / "run", folder / "hostile")
    rename_clips(folder / "hostile")
    train(cache, folder / "other", **QUICK, loss="huber@standardized")
    rng, rows = np.random.default_rng(0), []
    for k in range(10):
        soundfile.write(folder / f"{k}.wav", rng.normal(0, 0.01 * (k + 1), 800 + 80 * k), 8000)
        rows += [(f"{k}.wav", f"s{k % 3}", r, float(rng.integers(1, 6))) for r in ("ann", "bo")]
    table = pd.DataFrame(rows, columns=["path", "system", "rater", "mos"])
    table.to_csv(folder / "clips.csv", index=False)
    evaluation = evaluate_request(folder / "run" / "predictions.csv", cache, {})
    return {
        "hostile": report(folder / "hostile"),
        "comparison": report(
            [folder / "run", folder / "other", folder / "grid"], folder / "compared.html"
        ),
        "set": write_page(dataset_page(load_manifest(folder / "clips.csv")), folder / "set.html"),
        "evaluation": write_page(
            evaluation_page(evaluation, run_evaluate(evaluation)), folder / "evaluation.html"
        ),
        "run": report(folder / "run"),
        "embedded": report(folder / "run", folder / "embedded.html", audio="embed"),
        "grid": report(folder / "grid"),
        "long": write_page(long_page(), folder / "long.html"),
    }


def long_page():
    rows = [[f"row {k}", float(k)] for k in range(150)]
    return Page("long", ["long"], [Section("long", [Table("long", ["first", "second"], rows)])])


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    list(itertools.product(PAGES, [390, 1440], [False, True])),
)
def test_a_page_is_whole_at_any_width_light_and_dark(browser, pages, name, dark, width):
    axe = axe_source()
    browser.requests()
    browser.open(pages[name], width, dark)
    assert browser.requests() == [pages[name].as_uri()]
    assert not browser.complaints()
    assert browser.run("return document.documentElement.scrollWidth") <= width
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 22, 26)" if dark else "rgb(255, 255, 255)")
    browser.run(axe)
    found = browser.driver.execute_async_script("axe.run().then(arguments[0])")
    grave = [
        (one["id"], one["nodes"][0]["html"][:200])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert not grave


def test_every_figure_has_its_points(browser, pages):
    browser.open(pages["run"])
    figures = browser.run("""
        return [...document.querySelectorAll("figure")].map((figure) => ({
            title: figure.querySelector("h3").textContent,
            marks: JSON.parse(figure.querySelector(".data").textContent).marks.length,
            dots: [...figure.querySelectorAll("svg [data-s]")].map(
                (path) => path.getAttribute("d").split("h0").length - 1),
            squares: figure.querySelectorAll("svg .square").length,
        }))""")
    by_title = {one["title"]: one for one in figures}
    for axis in ("quality", "match"):
        clips = by_title[f"{axis}: clips"]
        # 40 clips, of which one has no features.
        assert sum(clips["dots"]) == clips["marks"] == 39
        assert len(clips["dots"]) == 5
        assert sum(by_title[f"{axis}: systems"]["dots"]) == 5
        assert by_title[f"{axis}: ranks within each group"]["squares"] == 39
    browser.open(pages["grid"])
    squares = browser.run("""
        return Object.fromEntries([...document.querySelectorAll("figure")].map((one) =>
            [one.querySelector("h3").textContent, one.querySelectorAll(".square").length]))""")
    assert squares["quality: alpha x beta"] == 6
    assert squares["quality: ranks within each group"] == 39


def test_tables_sort_by_click_and_by_key(browser, pages):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.open(pages["run"])

    def column():
        return browser.run("""
            return [...document.querySelectorAll("table tbody")][0].rows.length
                && [...document.querySelector("table").tBodies[0].rows].map(
                    (row) => row.cells[3].dataset.v ?? row.cells[3].textContent)""")

    def numbers():
        return [float(text) for text in column() if text not in ("", "nan")]

    before = column()
    button = browser.driver.find_elements(By.CSS_SELECTOR, "table th button")[3]
    button.click()
    assert numbers() == sorted(numbers())
    assert sorted(column()) == sorted(before)
    heading = button.find_element(By.XPATH, "..")
    assert heading.get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert numbers() == sorted(numbers(), reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    empty = [text in ("", "nan") for text in column()]
    assert empty == sorted(empty), "what has no value stands last"


def test_marks_speak_to_the_pointer_and_to_the_keys(browser, pages):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.open(pages["run"])
    figure = next(
        one
        for one in browser.driver.find_elements(By.TAG_NAME, "figure")
        if one.find_element(By.TAG_NAME, "h3").text == "quality: clips"
    )
    svg = figure.find_element(By.TAG_NAME, "svg")
    readout = figure.find_element(By.CLASS_NAME, "readout")
    marks = browser.run(
        "return JSON.parse(arguments[0].querySelector('.data').textContent).marks", figure
    )
    svg.send_keys(Keys.HOME)
    assert readout.text == marks[0][2]
    svg.send_keys(Keys.ARROW_RIGHT)
    assert readout.text == marks[1][2]
    x, y, words = max(marks)
    at = browser.run(
        "const p = new DOMPoint(arguments[1], arguments[2])"
        ".matrixTransform(arguments[0].getScreenCTM());"
        "const box = arguments[0].getBoundingClientRect();"
        "return [p.x - box.x - box.width / 2, p.y - box.y - box.height / 2]", svg, x, y
    )  # fmt: skip
    ActionChains(browser.driver).move_to_element_with_offset(svg, *map(round, at)).perform()
    assert readout.text == words
    system = figure.find_element(By.CSS_SELECTOR, "option:nth-child(2)")
    system.click()
    assert len(figure.find_elements(By.CSS_SELECTOR, "path.dim")) == 4


@pytest.mark.parametrize("name", PAGES)
def test_no_table_is_cut_on_paper(browser, pages, name):
    browser.open(pages[name], 680)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    cut = browser.run("""
        return [...document.querySelectorAll("table")].filter((table) =>
            table.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
            .map((table) => table.innerText.slice(0, 200))""")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert not cut


def test_a_table_repeats_its_header_on_each_page_of_paper(browser, pages, tmp_path):
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext is not installed (poppler-utils)")
    browser.open(pages["long"])
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    (tmp_path / "a.pdf").write_bytes(base64.b64decode(printed["data"]))
    text = subprocess.run(["pdftotext", "-layout", tmp_path / "a.pdf", "-"], capture_output=True,
                          text=True, check=True).stdout  # fmt: skip
    sheets = [one for one in text.split("\f") if re.search(r"^ *row \d+ ", one, re.MULTILINE)]
    assert len(sheets) > 1
    for sheet in sheets:
        assert re.search("first +second", sheet)
    assert re.search(r"row 99 ", text)
    assert not re.search(r"row 100 ", text)
    assert "The first 100 rows" in text


@pytest.mark.parametrize("kind", ["run", "grid"])
def test_a_page_of_many_clips_and_cells_is_below_5_megabytes(browser, tmp_path, kind):
    from benchmarks.report import made_grid, made_run

    {"run": made_run, "grid": made_grid}[kind](tmp_path)
    page = report(tmp_path)
    assert page.stat().st_size < 5e6
    browser.open(page)
    assert not browser.complaints()


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", ["run", "embedded"])
def test_players_play(browser, pages, name, width):
    browser.open(pages[name], width)
    wide = browser.run(
        "return [...document.querySelectorAll('audio')].map((one) => one.offsetWidth)"
    )
    assert min(wide) >= 190, "there is room for the button that plays"
    browser.requests()
    played = browser.driver.execute_async_script("""
        const done = arguments[0], player = document.querySelector("audio");
        player.addEventListener("ended", () => done([player.currentTime, player.preload]));
        player.addEventListener("error", () => done(player.error.message));
        player.play().catch((error) => done(String(error)));""")
    assert played == [pytest.approx(0.5, abs=0.05), "none"]
    asked = browser.requests()
    assert all(url.endswith(".wav") for url in asked)
    assert len(asked) == 0 or name == "run"
