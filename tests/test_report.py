"""Pages of runs and grids: what they say is what the files say, whatever clips are called."""

import base64
import importlib.util
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import soundfile
from click.testing import CliRunner
from qamro_cache_cli.report import main
from report_browser import HOSTILE, rename_clips
from scipy.stats import spearmanr
from synthetic_cache import write_synthetic

from qamro_cache import ablate, report, train
from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.checks import check_dataset
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.compare import paired_gap
from qamro_cache.evaluation.judged import Rated, judged_of
from qamro_cache.evaluation.kinds import Kind
from qamro_cache.reports.clips import predicted_of, ranked_groups, worst_pairs
from qamro_cache.reports.looks import by_system
from qamro_cache.reports.numbers import compact, number
from qamro_cache.reports.page import Scale, Scatter
from qamro_cache.reports.plots import plot
from qamro_cache.reports.raters import mean_of_others, rater_blocks
from qamro_cache.reports.read import read_folder
from qamro_cache.reports.run import noun_of, run_page
from qamro_cache.reports.sounds import Sounds
from qamro_cache.reports.svg import heat_color
from qamro_cache.reports.tables import markdown_of, tex_of

HEAD = {"epochs": 4, "widths": "8", "lr": 0.01, "seeds": 2}
QUICK = {**HEAD, "cv": "group"}


class Found(HTMLParser):
    """Collects elements, and the text of a page outside scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.words, self.scripts = [], [], [], []
        self.titles = re.findall("<figcaption><h3><bdi>(.*?)</bdi>", page)
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        (self.scripts if self.inside in ("script", "style") else self.words).append(data)

    @property
    def text(self):
        return " ".join(self.words)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    cache = write_synthetic(folder / "emb.h5", own_score=True)
    train(cache, folder / "run", **QUICK)
    grid = {**QUICK, "alpha": [0.1, 0.2], "beta": [3, 7, 9]}
    ablate(cache, folder / "grid", axis="quality", **grid)
    return folder


def page_of(*folders, **options):
    return Found(report(list(folders), **options).read_text())


def test_a_page_of_a_run_says_what_its_files_say(made, tmp_path):
    page = page_of(made / "run", out=tmp_path / "a.html")
    record = json.loads((made / "run" / "metrics.json").read_text())
    for axis in record["axes"].values():
        for scored in axis["models"].values():
            for level in ("clip", "system", "group"):
                for part in ("value", "low", "high"):
                    value = scored["metrics"][f"{level}_srcc"][part]
                    assert number(value) in page.text
            assert scored["population"] in page.text
        for verdict in axis["verdicts"]:
            assert verdict["words"] in page.text
        for one in axis["diagnostics"]:
            assert one["evidence"] in page.text
        for line in axis["error_sources"]["words"]:
            assert f"{line[0].upper()}{line[1:]}." in page.text
    assert "Synthetic data" in page.text
    assert "--cv group" in page.text
    assert "identity" in page.text


def test_a_page_of_a_grid_has_every_cell(made, tmp_path):
    page = page_of(made / "grid", out=tmp_path / "a.html")
    summary = pd.read_csv(made / "grid" / "summary.csv")
    cells = summary[summary["model"] == "head"]
    for _, cell in cells.iterrows():
        for part in ("", "_low", "_high"):
            assert number(cell[f"clip_srcc{part}"]) in page.text
    best = json.loads((made / "grid" / "best.json").read_text())["axes"]["quality"]
    assert f"alpha {best['cell']['alpha']:g}, beta {best['cell']['beta']:g}" in page.text
    nested = json.loads((made / "grid" / "best.json").read_text())["axes"]["quality"]["nested"]
    assert f"clip_srcc {number(nested['approximate']['value'])}" in page.text
    marks = [json.loads(text) for text in page.scripts if text.startswith('{"marks"')]
    assert len(cells) in [len(one["marks"]) for one in marks]


def test_the_highest_cell_of_a_grid_is_shown_clip_by_clip(made, tmp_path):
    best = json.loads((made / "grid" / "best.json").read_text())["axes"]["quality"]["cell"]
    train(made / "emb.h5", tmp_path / "run", **QUICK, axis="quality", **best)
    page, of_run = page_of(made / "grid", out=tmp_path / "a.html"), page_of(tmp_path / "run")
    for title in ("systems", "clips", "ranks within each group", "SRCC within each group"):
        marks = [[said for *_, said in figures(one)[f"quality: {title}"]] for one in (page, of_run)]
        assert marks[0] == marks[1]
        assert len(marks[0]) in (5, 8, 39)
    for title in ("the largest errors", "pairs of one group ranked the wrong way round"):
        assert f"quality: {title}" in page.text
    assert "It is one of 6 cells, chosen on the clips" in page.text


def test_groups_of_another_test_are_not_called_as_those_of_the_first(made):
    folder = read_folder(made / "grid")
    record = {**folder.record, "dataset": "codec-mushra"}
    assert noun_of(replace(folder, record=record), "group") == "signal"
    config = {**folder.config, "given": {"onto": "other.h5"}}
    assert noun_of(replace(folder, record=record, config=config), "group") == "group"


def figures(page):
    """What can be pointed at, by the figure's title."""
    titles = [text for text in page.titles if text]
    data = [json.loads(text)["marks"] for text in page.scripts if text.startswith('{"marks"')]
    return dict(zip(titles, data, strict=True))


def test_a_page_names_files_as_they_were_given(made, tmp_path, monkeypatch):
    monkeypatch.chdir(made)
    ridge = {"axis": "quality", "head": "ridge", "cv": "group"}
    train("emb.h5", tmp_path / "a", **ridge)
    ablate("emb.h5", tmp_path / "b", **ridge)
    monkeypatch.chdir(tmp_path)
    for name, command in (("a", "train"), ("b", "ablate")):
        page = report(name).read_text()
        assert re.search(rf">qamro-{command} --cache emb.h5 .*--out {name}\n", page)
        assert str(tmp_path) not in page
        assert str(made) not in page


def test_the_loss_by_epoch_is_there_where_a_validation_set_was_watched(made, tmp_path):
    axis = json.loads((made / "run" / "metrics.json").read_text())["axes"]["quality"]
    assert "validation_loss" not in axis
    record = train(made / "emb.h5", tmp_path / "run", **QUICK, stop="inner", axis="quality")
    epochs = record["axes"]["quality"]["validation_loss"]
    assert len(epochs) == 4
    assert all(one["low"] <= one["median"] <= one["high"] for one in epochs)
    assert epochs[0]["heads"] == record["axes"]["quality"]["folds"] * 2
    page = page_of(tmp_path / "run")
    assert "quality: loss of the validation sets" in page.text
    assert number(epochs[-1]["median"]) in " ".join(page.scripts)


def test_a_study_has_its_learning_curve(made, tmp_path):
    options = {**QUICK, "epochs": 2}
    ablate(made / "emb.h5", tmp_path / "grid", axis="quality", clips=[8, 16, 0], **options)
    page = page_of(tmp_path / "grid")
    study = pd.read_csv(tmp_path / "grid" / "study.csv")
    study = study[(study["figure"] == "clip_srcc") & (study["model"] == "head")]
    assert len(study) == 3
    assert "quality: learning curve, clips" in page.text
    drawn = " ".join(page.scripts)
    for _, row in study.iterrows():
        words = f"head, clips learned from, at the mean over the folds {compact(row['x'])}: "
        assert words + number(row["value"]) in drawn
    assert "train_clips all" in drawn
    assert page.text.count("learning curve") == 1


def count_of(page):
    return page.tags.count("figure")


@pytest.mark.slow
def test_papers_have_tables_with_intervals_and_figures(made, tmp_path):
    pytest.importorskip("matplotlib")
    figures = count_of(page_of(made / "run", out=tmp_path / "a.html"))
    record = json.loads((made / "run" / "metrics.json").read_text())
    text = {form: report(made / "run", tmp_path / f"b.{form}", form=form).read_text()
            for form in ("md", "tex")}  # fmt: skip
    for axis in record["axes"].values():
        for scored in axis["models"].values():
            for level in ("clip", "system"):
                value, low, high = (
                    scored["metrics"][f"{level}_srcc"][part] for part in ("value", "low", "high")
                )
                between = f" [{number(low)}, {number(high)}]" if low is not None else ""
                for found in text.values():
                    plain = found.replace("\\[", "[").replace("\\]", "]")
                    assert f"{number(value)}{between}" in plain
    for form, ending in (("md", "png"), ("tex", "pdf")):
        files = sorted((tmp_path / "b_figures").glob(f"*.{ending}"))
        assert len(files) == figures
        assert all(f"b_figures/{file.name}" in text[form] for file in files)
        start = {"png": b"\x89PNG", "pdf": b"%PDF"}[ending]
        assert all(file.read_bytes().startswith(start) for file in files)
    pdf = report(made / "run", tmp_path / "b.pdf", form="pdf").read_bytes()
    assert b"/CreationDate" not in pdf
    tables = text["tex"].count("begin{table}")
    assert len(re.findall(rb"/Type /Page\b", pdf)) == figures + tables
    compiles(tmp_path / "b.tex")
    pictures = report(made / "run", tmp_path / "pictures", form="png")
    (pictures / "mine.txt").write_text("mine")
    report(made / "run", pictures, form="png")
    assert sorted(path.suffix for path in pictures.iterdir()) == [".png"] * figures + [".txt"]
    report(made / "grid", tmp_path / "grid.pdf", form="pdf")
    hostile = Scatter("$x$ _^ \u05e9", "", Scale("a$", 0, 1), Scale("b", 0, 1), [(0, 1)], ("$",))
    assert plot(hostile, "png").startswith(b"\x89PNG")
    again = report(made / "run", tmp_path / "b.md", form="md")
    assert again.read_text() == text["md"]


def compiles(file):
    """Hold that LaTeX makes pages of a file with no line wider than they are, where it is there."""
    if not shutil.which("pdflatex"):
        return
    whole = file.with_name("whole.tex")
    words = [r"\documentclass{article}", r"\usepackage{booktabs,graphicx}", r"\begin{document}",
             rf"\input{{{file.name}}}", r"\end{document}"]  # fmt: skip
    whole.write_text("\n".join(words))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", whole.name]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_names_are_text_whatever_they_are(made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    count = pd.read_csv(run / "predictions.csv")["clip_id"].nunique()
    rename_clips(run)
    page, plain = page_of(run), page_of(made / "run", out=tmp_path / "b.html")
    assert page.tags.count("script") == plain.tags.count("script")
    assert not {"img", "b"} & set(page.tags)
    assert HOSTILE[0] in page.text
    for k, name in enumerate(HOSTILE):
        assert any(f"{name}{j}" in page.text for j in range(k, count, len(HOSTILE)))
    assert "49" not in page.text.split("${x}")[1][:12]
    for text in page.scripts:
        if text.startswith("{"):
            json.loads(text)
    said = run_page(read_folder(run))
    files = {id(figure): "b_figures/a.png" for figure in said.figures()}
    text = tex_of(said, files)
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    bare = re.sub(r"\\[\\{}$&#%_]", "", "\n".join(lines))
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[#_<>]", re.sub(r"\\includegraphics.*", "", bare))
    marked = markdown_of(said, files)
    assert not re.search(r"(?<!\\)<(?!b_figures|!-- made)", marked)


def test_nothing_is_loaded_but_audio(made, tmp_path):
    sound = tmp_path / "a clip #1%.wav"
    soundfile.write(sound, np.zeros(800), 8000)
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    config = json.loads((run / "config.json").read_text())
    assert config["audio"]["clip000"] == "/sounds/0.wav"
    config["audio"] = dict.fromkeys(config["audio"], str(sound))
    (run / "config.json").write_text(json.dumps(config))
    linked = page_of(run, out=tmp_path / "a.html")
    files = {link for link in linked.links if not link.startswith(("#", "data:"))}
    assert files == {"a%20clip%20%231%25.wav"}
    embedded = page_of(run, out=tmp_path / "b.html", audio="embed")
    assert not [link for link in embedded.links if not link.startswith(("#", "data:"))]
    held = [text for text in embedded.scripts if text.startswith('["data:audio/wav;base64,')]
    assert len(json.loads(held[0])) == 1, "one file is held once"
    assert "audio" not in page_of(run, out=tmp_path / "c.html", audio="none").tags


def test_sounds_that_browsers_do_not_play_are_put_in_as_flac(tmp_path):
    samples = np.linspace(-0.5, 0.5, 800)
    soundfile.write(tmp_path / "a.aiff", samples, 8000)
    soundfile.write(tmp_path / "a.flac", samples, 8000)
    (tmp_path / "b.aiff").write_text("no sound")
    sounds = Sounds("embed", tmp_path)
    assert sounds.player(str(tmp_path / "a.aiff")) == {"number": "0"}
    kind, data = sounds.embedded[0].split(";base64,")
    assert kind == "data:audio/flac"
    found, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    np.testing.assert_allclose(found, samples, atol=1e-4)
    assert rate == 8000
    for name in ("b.aiff", "none.wav", ""):
        assert sounds.player(str(tmp_path / name) if name else "") == {}
    assert sounds.player(str(tmp_path / "a.aiff")) == {"number": "0"}, "once"


def test_worst_pairs_and_ranks_against_a_double_loop():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "clip_id": [f"c{k:02d}" for k in range(30)],
            "system": "s",
            "group": [f"g{k % 4}" for k in range(30)],
            "seed": 0,
            "prediction": rng.normal(size=30),
            "target": rng.integers(0, 5, 30),
        }
    )
    of = predicted_of(table, {})
    wrong = [
        (of.target[a] - of.target[b] + of.mean[b] - of.mean[a], a, b)
        for a in range(30)
        for b in range(30)
        if of.group[a] == of.group[b] and of.target[a] > of.target[b] and of.mean[a] < of.mean[b]
    ]
    assert worst_pairs(of, 5)[0] == max(wrong)[1:]
    chosen = [clip for pair in worst_pairs(of, 30) for clip in pair]
    assert len(chosen) == len(set(chosen))
    assert {(a, b) for a, b in worst_pairs(of, 30)} <= {(a, b) for _, a, b in wrong}
    for one in ranked_groups(of):
        rows = of.group == one.name
        assert np.isclose(one.srcc, spearmanr(of.mean[rows], of.target[rows]).statistic)
        assert (
            of.mean[one.clips].argsort()[::-1][one.place - 1] == np.arange(len(one.clips))
        ).all()


def test_words_on_every_color_have_the_contrast_of_wcag():
    def luminance(color):
        parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    shades = []
    for share in np.linspace(0, 1, 101):
        color, words = heat_color(share)
        ink = 0.0 if words == "dark" else 1.0
        high, low = sorted((luminance(color), ink), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5
        shades.append(luminance(color))
    assert (np.diff(shades) > -1e-3).all(), "a printed or color-blind reader sees the order too"


def test_train_and_ablate_end_with_a_page(made, tmp_path):
    def run(command, *words):
        from qamro_cache_cli import ablate, train

        main = {"train": train, "ablate": ablate}[command].main
        words = ["--cache", made / "emb.h5", "--out", tmp_path / command, *words]
        words += [w for n, v in QUICK.items() for w in (f"--{n}", v)]
        return CliRunner().invoke(main, [*map(str, words), "--axis", "quality"])

    for command in ("train", "ablate"):
        page = tmp_path / command / "report.html"
        done = run(command)
        assert f"qamro-report {tmp_path / command}" in done.stderr
        assert not page.exists()
        done = run(command, "--json", "--report")
        assert str(page) in done.stderr
        json.loads(done.stdout)
        page.write_text(page.read_text()[:3000])
        run(command)
        assert page.stat().st_size > 10_000, "a page of what was there before is made anew"
        other = tmp_path / "mine.html"
        other.write_text("mine")
        shutil.rmtree(tmp_path / command)
        assert "is no report" in run(command, "--report", other).output
        assert not (tmp_path / command).exists(), "said before the work"
        assert run(command, "--report", tmp_path / f"{command}.html").exit_code == 0
        assert (tmp_path / f"{command}.html").stat().st_size > 10_000


def test_the_command_and_its_mistakes(made, tmp_path):
    def run(*words):
        return CliRunner().invoke(main, [str(word) for word in words])

    done = run(made / "run", "--out", tmp_path / "new" / "a.html")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new" / "a.html").stat().st_size > 10_000
    assert "quality: SRCC over " in done.stdout, "what the page says first is printed"
    assert "neither metrics.json nor best.json" in run(tmp_path).output
    other = tmp_path / "letter.html"
    other.write_text("<p>mine")
    assert "is no report" in run(made / "run", "--out", other).output
    assert other.read_text() == "<p>mine"
    assert run(made / "run", "--out", tmp_path / "new" / "a.html").exit_code == 0
    broken = tmp_path / "broken"
    shutil.copytree(made / "run", broken)
    (broken / "predictions.csv").write_text("clip_id,axis\n")
    with pytest.raises(QamroError, match="no column 'seed'"):
        report(broken)
    for text in ("{}", '{"axes": 3}', '{"axes": {"quality": {}}}', "[]", "{"):
        (broken / "metrics.json").write_text(text)
        shutil.copy(made / "run" / "predictions.csv", broken)
        said = run(broken)
        assert said.exit_code == 1
        assert str(broken) in said.output
        assert said.output.count("\n") == 1


def test_tables_need_no_matplotlib(made, tmp_path, monkeypatch, caplog):
    find = importlib.util.find_spec

    def without(name):
        return None if name == "matplotlib" else find(name)

    monkeypatch.setattr("qamro_cache.reports.report.find_spec", without)
    text = report(made / "run", tmp_path / "a.md", form="md").read_text()
    assert "| model | MSE |" in text
    assert "![" not in text
    assert not (tmp_path / "a_figures").exists()
    assert "begin{table}" in report(made / "run", tmp_path / "a.tex", form="tex").read_text()
    assert "tables alone: figures beside them need matplotlib" in caplog.text
    # What is figures alone is refused before a folder is looked at.
    for form in ("pdf", "png"):
        with pytest.raises(QamroError, match="files of their own need matplotlib, which is"):
            report(tmp_path / "none", form=form)


def test_evaluations_of_anybodys_predictions_have_a_page(made, tmp_path):
    from qamro_cache_cli.evaluate import main as evaluate

    cache = open_cache(made / "emb.h5")
    labels = pd.DataFrame({"clip_id": cache.clips["clip_id"], "quality": cache.labels.mean[:, 0],
                           "system": cache.clips["system"]}).dropna()  # fmt: skip
    labels.to_csv(tmp_path / "labels.csv", index=False)
    rng = np.random.default_rng(0)
    theirs = labels[["clip_id"]].assign(prediction=labels["quality"] / 20 - rng.random(len(labels)))
    theirs.iloc[5:].to_csv(tmp_path / "theirs.csv", index=False)
    words = ["--predictions", tmp_path / "theirs.csv", "--labels", tmp_path / "labels.csv"]
    words += ["--report", tmp_path / "a.html", "--json", "--without", "system=S1"]
    done = CliRunner().invoke(evaluate, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    scored = json.loads(done.stdout)["axes"]["quality"]
    page = Found((tmp_path / "a.html").read_text())
    srcc = number(scored["metrics"]["clip_srcc"]["value"])
    assert f"SRCC over {scored['clips']} clips {srcc}" in page.text
    assert f"{scored['clips']} clips." in page.text, "the figure has the clips that were chosen"
    assert "on another scale" in page.text
    records = [{"system": "a", "clips": 2, "rated": 20.0, "predicted": 1.5},
               {"system": "b", "clips": 2, "rated": 90.0, "predicted": 4.0}]  # fmt: skip
    figure, table = by_system("quality", records, Scale("quality", 0, 100))
    assert not figure.diagonal
    assert 4 < figure.y.high < 6, "its own scale"
    assert figure.x.high > 90
    assert "error" not in table.columns


def test_a_set_has_a_page_before_it_is_extracted(tmp_path):
    from qamro_cache_cli.extract import main as extract

    rng = np.random.default_rng(0)
    rows = []
    for k in range(12):
        name = f"{k}.wav"
        soundfile.write(tmp_path / name, rng.normal(0, 0.01 * (k + 1), 800 * (k + 1)), 8000)
        rows += [(name, f"s{k % 3}", r, float(rng.integers(1, 6))) for r in ("ann", "bo", "cy")]
    shutil.copy(tmp_path / "3.wav", tmp_path / "11.wav")
    table = pd.DataFrame(rows, columns=["path", "system", "rater", "mos"])
    table.to_csv(tmp_path / "clips.csv", index=False)
    words = ["--manifest", tmp_path / "clips.csv", "--dry-run", "--report", tmp_path / "a.html"]
    done = CliRunner().invoke(extract, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    page = Found((tmp_path / "a.html").read_text())
    assert "12 clips of 3 systems" in page.text
    assert "36 ratings on a scale" in page.text
    assert "1 files are copies of another" in page.text
    *_, raters = rater_blocks(load_manifest(tmp_path / "clips.csv"), 0)
    agreement = [row[-1] for row in raters.rows]
    assert agreement == sorted(agreement), "who agrees least is first"
    assert len(set(agreement)) == 3
    problems = check_dataset(load_manifest(tmp_path / "clips.csv"))["problems"]
    assert problems
    for one in problems:
        assert f"{one['code']}: {one['message']}" in page.text
    bars = [json.loads(text)["marks"] for text in page.scripts if text.startswith('{"marks"')]
    counted = sum(int(words.rsplit(" ", 2)[1]) for *_, words in bars[0])
    assert counted == 36
    seconds = [float(text) for text in page.words if text == "1.100"]
    assert seconds, "the longest but one, by its header (the longest is a copy of a shorter one)"
    refused = CliRunner().invoke(extract, [*map(str, words[:2]), "--report", "b.html"])
    assert refused.exit_code == 2


def test_raters_are_held_against_the_others_alone():
    rated = Rated(np.array([0, 0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 0, 1, 0, -1]),
                  np.array([5.0, 1.0, 3.0, 4.0, 2.0, 1.0, 2.0]))  # fmt: skip
    wanted = [2.0, 5.0, 5.0, 2.0, 4.0, 2.0, 1.0]
    np.testing.assert_allclose(mean_of_others(rated), wanted)


def test_grids_are_compared_with_runs_and_grids_by_their_highest_cells(made, tmp_path):
    ablate(made / "emb.h5", tmp_path / "ridge", axis="quality", head="ridge", cv="group")
    folders = [made / "grid", tmp_path / "ridge", made / "run"]
    page = page_of(*folders, out=tmp_path / "a.html")
    of = [read_folder(one).predicted("quality") for one in folders]
    judged = of[0].judged("group", "group", "")
    for other in of[1:]:
        for value in paired_gap(other.mean, of[0].mean, judged, "clip_srcc"):
            assert number(value) in page.text
    assert "grid stands for its highest cell" in page.text
    assert "ridge stands for" not in page.text, "one cell was not chosen"
    assert "match" not in page.text
    ablate(made / "emb.h5", tmp_path / "ways", axis="match", cv=["group", "3"], **HEAD)
    with pytest.raises(QamroError, match="no axis in common"):
        report([made / "run", tmp_path / "ways"], tmp_path / "b.html")


def test_clips_held_out_in_different_ways_get_no_verdict(made, tmp_path):
    train(made / "emb.h5", tmp_path / "parts", **{**QUICK, "cv": "3"})
    page = page_of(made / "run", tmp_path / "parts", out=tmp_path / "a.html")
    assert "held out in different ways (run: group, parts: 3): no verdict" in page.text
    assert "parts beats" not in page.text


def test_intervals_of_compared_runs_are_those_that_the_runs_have(made, tmp_path):
    plain = {"axis": "quality", "cv": "group"}
    for name, over in (("one", "group"), ("two", "group"), ("three", "system")):
        head = "knn" if name == "two" else "ridge"
        train(made / "emb.h5", tmp_path / name, head=head, over=over, **plain)
    folders = [tmp_path / "one", tmp_path / "two"]
    text = page_of(*folders, out=tmp_path / "a.html").text
    for name, one in zip(("ridge head", "kNN head"), folders, strict=True):
        scored = json.loads((one / "metrics.json").read_text())["axes"]["quality"]["models"][name]
        for figure in ("clip_srcc", "group_srcc"):
            for end in ("low", "high"):
                assert number(scored["metrics"][figure][end]) in text
        assert scored["population"] in text
    of = [read_folder(one).predicted("quality") for one in folders]
    judged = replace(of[0].judged("group", "group", ""), interval=Kind(over="group"))
    for value in paired_gap(of[1].mean, of[0].mean, judged, "clip_srcc"):
        assert number(value) in text
    assert "ci=jackknife:groups|" in text
    assert "different kinds" not in text
    own = json.loads((folders[0] / "metrics.json").read_text())["axes"]["quality"]["models"]
    for end in ("value", "low", "high"):
        assert number(own["fake mos"]["metrics"]["clip_srcc"][end]) in text
    text = page_of(folders[0], tmp_path / "three", out=tmp_path / "b.html").text
    said = "different kinds (one: jackknife over groups; three: jackknife over systems); those of"
    assert f"{said} this page are of one: jackknife over systems and groups." in text
    assert "ci=jackknife:systems+groups|" in text


def test_runs_are_compared_by_paired_differences(made, tmp_path):
    train(made / "emb.h5", tmp_path / "huber", **QUICK, loss="huber@standardized")
    folders = [made / "run", tmp_path / "huber"]
    page = page_of(*folders, out=tmp_path / "a.html")
    for axis, index in (("quality", 0), ("match", 1)):
        table = [pd.read_csv(one / "predictions.csv") for one in folders]
        means = [one[one["axis"] == axis].groupby("clip_id")["prediction"].mean() for one in table]
        cache = open_cache(made / "emb.h5")
        clips = cache.clips[cache.clips["status"] == "ok"].sort_values("clip_id")
        judged = judged_of(clips, cache.labels.mean[clips.index, index])
        gap = paired_gap(means[1].to_numpy(), means[0].to_numpy(), judged, "clip_srcc")
        for value in gap:
            assert number(value) in page.text
    assert "huber beats run" in page.text
    assert "Settings that differ" in page.text
    with pytest.raises(QamroError, match="named twice"):
        report([made / "run", made / "run"], tmp_path / "b.html")
    labels = pd.DataFrame({"clip_id": clips["clip_id"], "quality": range(len(clips))})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    train(made / "emb.h5", tmp_path / "other", **QUICK, labels=tmp_path / "labels.csv")
    with pytest.raises(QamroError, match="judged by other ratings"):
        report([made / "run", tmp_path / "other"], tmp_path / "b.html")
