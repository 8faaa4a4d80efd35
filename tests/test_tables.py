"""Tables explain themselves: what they are of stands above them, and means by system below."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from qamro_cache_cli.ablate import main as ablate_command
from qamro_cache_cli.evaluate import main as evaluate_command
from qamro_cache_cli.extract import main as extract_command
from qamro_cache_cli.tables import show_cells
from qamro_cache_cli.train import main as train_command
from scipy import stats
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache
from qamro_cache.evaluation.by_system import by_system
from qamro_cache.evaluation.judged import Judged

QUICK = ("--seeds", "2", "--epochs", "2", "--widths", "4")


def said(command, *arguments: object) -> str:
    done = CliRunner().invoke(command, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_synthetic(folder / "emb.h5")
    return folder


@pytest.fixture(scope="module")
def trained(folder) -> str:
    ask = ("--cache", folder / "emb.h5", "--out", folder / "run", "--cv", "3", *QUICK)
    return said(train_command, *ask, "--without", "system=S0", "--by", "system")


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_a_table_says_what_it_is_of(folder, trained):
    heading = (
        "quality: synthetic data, tiny; fake embedding; 31 clips; 2 seeds 3 random parts of "
        "the clips; a held-out clip's system and group and prompt may be seen; "
        "without system=S0 (31 clips) "
        "95 % intervals over systems and groups; of these heads, trained on the same systems"
    )
    assert one_line(trained).startswith(heading)
    first, second = trained.split("\n\nmatch: synthetic data, ")
    for part in (first, second):
        assert re.search(r"\n {20,}MSE +RMSE +LCC +SRCC +KTAU +SRCC, 95 %\n", part)
        assert "\nqamro head, mean SRCC of single seeds: clip " in part
        assert "\nclip_srcc|n=31|" in part
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    figures = metrics["axes"]["quality"]["models"]["qamro head"]["metrics"]
    row = re.search(r"qamro head +31 clips +(\S+) +(\S+)", first)
    assert float(row[1]) == pytest.approx(figures["clip_mse"]["value"], rel=1e-2)
    assert float(row[2]) == pytest.approx(figures["clip_mse"]["value"] ** 0.5, rel=1e-2)


def test_what_is_printed_fits_eighty_columns(folder, trained):
    ask = ("--predictions", folder / "run", "--labels", folder / "emb.h5")
    grid = ("--cache", folder / "emb.h5", "--out", folder / "narrow", *QUICK, "--axis", "quality")
    demo = ("--dataset", "demo", "--data-dir", folder / "demo", "--dry-run")
    printed = [
        trained,
        said(evaluate_command, *ask, "--by", "system"),
        said(extract_command, *demo),
        said(ablate_command, *grid, "--lr", "0.01,0.1"),
    ]
    assert "this cell beats ridge" in printed[-1]
    long = [
        line
        for text in printed
        for line in text.splitlines()
        if len(line) > 80 and not line.startswith("clip_srcc|")  # a word to paste
    ]
    assert not long


def test_a_table_of_many_settings_fits_eighty_columns(capsys):
    columns = ["alpha", "model", "loss", "widths", "clip_mse", "clip_srcc", "95 %"]
    head = ["0.2", "head", "huber@standardized+qamro@standardized", "64-" * 9, "9.1", "0.4", "-"]
    show_cells(columns, [head, ["", "ridge", "", "", "9.2", "0.3", "-"]], 4)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines[2:]).split()) == (
        "head, alpha=0.2, loss=huber@standardized+qamro@standardized, 9.1 0.4 - "
        f"widths={'64-' * 9} ridge 9.2 0.3 -"
    )
    show_cells(columns[:2] + columns[4:], [[*head[:2], *head[4:]]], 2)
    line = capsys.readouterr().out.splitlines()[1]
    assert " ".join(line.split()) == "alpha model mse srcc 95 %"


def test_an_evaluation_says_how_the_run_held_out(folder, trained):
    ask = ("--labels", folder / "emb.h5", "--only", "system=S1", "--only", "system=S2")
    text = said(evaluate_command, "--predictions", folder / "run" / "predictions.csv", *ask)
    assert one_line(text).startswith(
        "quality: synthetic data, tiny; fake embedding; 16 clips; 2 seeds 3 random parts"
    )
    assert "(31 clips); judged: only system=S1, only system=S2" in one_line(text)
    assert "\n\nmatch: synthetic" in text
    assert "\n95 % intervals of these 2 systems, over groups\n" in text
    # Of another file it is not known.
    other = folder / "other.csv"
    other.write_bytes((folder / "run" / "predictions.csv").read_bytes())
    text = said(evaluate_command, "--predictions", other, "--labels", folder / "emb.h5")
    assert one_line(text).startswith(
        f"quality: synthetic data, tiny; 31 clips; 2 seeds predictions of {other} 95 %"
    )
    broken = folder / "broken"
    broken.mkdir()
    (broken / "predictions.csv").write_bytes(other.read_bytes())
    (broken / "metrics.json").write_text('["encoder"]')
    ask = ("--predictions", broken / "predictions.csv", "--labels", folder / "emb.h5", "--json")
    assert json.loads(said(evaluate_command, *ask))["encoder"] == ""


def test_clips_that_the_run_left_out_are_called_so(folder, trained):
    ask = ("--predictions", folder / "run", "--labels", folder / "emb.h5")
    done = CliRunner().invoke(evaluate_command, [str(one) for one in ask])
    assert re.search(r"(?m)^\d+ clips were not judged in the run and are not counted$", done.stderr)
    assert "have no prediction" not in done.stderr
    assert "in no row" not in done.stdout
    assert re.search(r"\nqamro head +31 clips ", done.stdout)


def test_clips_far_from_their_training_clips_are_counted_by_the_training(folder, trained):
    table = pd.read_csv(folder / "run" / "predictions.csv")
    axes = json.loads((folder / "run" / "metrics.json").read_text())["axes"]
    for axis, part in table.groupby("axis"):
        assert axes[axis]["ood"] == part[part["ood"]]["clip_id"].nunique()


def test_a_grid_says_the_same_above_each_table(folder):
    ask = ("--cache", folder / "emb.h5", "--out", folder / "grid", *QUICK, "--head", "mlp,ridge")
    text = said(ablate_command, *ask, "--cv", "3,group", "--axis", "quality")
    parts = text.split("\n\n")
    assert [one_line(part).partition("95 %")[0] for part in parts] == [
        "quality, cv 3: synthetic data, tiny; fake embedding; 39 clips; 2 seeds 3 random "
        "parts of the clips; a held-out clip's system and group and prompt may be seen ",
        "quality, cv group: synthetic data, tiny; fake embedding; 39 clips; 2 seeds leave "
        "one group out, 8 folds; a held-out clip's system and prompt may be seen ",
    ]
    for part in parts:
        assert re.search(
            r"\n +clip +clip +clip +mcs +system *\n.*mse +rmse +srcc +95 % +p +srcc +div", part
        )


def test_means_by_system_are_those_of_the_predictions(folder, trained):
    table = pd.read_csv(folder / "run" / "predictions.csv")
    table = table.groupby(["axis", "system", "clip_id"], as_index=False).mean(numeric_only=True)
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    ask = ("--labels", folder / "emb.h5", "--by", "system")
    scored = said(evaluate_command, "--predictions", folder / "run" / "predictions.csv", *ask)
    for axis, of_axis in table.groupby("axis"):
        records = {one["system"]: one for one in metrics["axes"][axis]["by_system"]}
        assert set(records) == {"S1", "S2", "S3", "S4"}
        order = [one["rated"] for one in metrics["axes"][axis]["by_system"]]
        assert order == sorted(order, reverse=True)
        for system, part in of_axis.groupby("system"):
            error = part["prediction"] - part["target"]
            for name, values in (("predicted", part["prediction"]), ("rated", part["target"]),
                                 ("error", error)):  # fmt: skip
                wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
                found = [records[system][f"{name}{end}"] for end in ("", "_low", "_high")]
                np.testing.assert_allclose(found, [values.mean(), *wanted], rtol=1e-9)
            shown = records[system]["predicted"]
            decimals = 1 if axis == "quality" else 3
            row = rf"{system} +{len(part)} +{shown:.{decimals}f} "
            for text in (trained, scored):
                below = text.split(f"\n\n{axis} by system: mean predicted, mean rated, ")[1]
                assert re.search(row, below.split("\n\n")[0])


def test_by_system_of_other_units_and_of_clips_that_are_not_judged():
    judged = Judged(np.array([1.0, 2, np.nan, 4]), np.zeros(4, np.int64), same_scale=False)
    found = by_system(np.array([10.0, np.nan, 30, 40]), judged, ["a", "a", "a", ""])
    assert [(one["system"], one["clips"], one["predicted"], one["rated"]) for one in found] == [
        ("a", 1, 10.0, 1.0)
    ]
    assert np.isnan(found[0]["rated_low"])
    assert not [name for name in found[0] if name.startswith("error")]
    assert by_system(np.array([1.0]), Judged(np.array([1.0]), np.array([-1])), [""]) == []


def test_a_wrong_table_is_one_line_with_the_nearest(folder):
    ask = ["--cache", str(folder / "emb.h5"), "--out", str(folder / "new"), "--by", "sistem"]
    failed = CliRunner().invoke(train_command, ask)
    assert (failed.exit_code, "did you mean 'system'" in failed.stderr) == (2, True)
    assert open_cache(folder / "emb.h5").clips["system"].nunique() == 5


def test_clips_far_from_their_folds_training_clips_are_no_alarm(folder, trained):
    """Held-out predictions are judged with them; those of a finished head are another matter."""
    table = pd.read_csv(folder / "run" / "predictions.csv").assign(ood=True)
    far = folder / "far"
    far.mkdir()
    table.to_csv(far / "predictions.csv", index=False)
    for beside, words in (
        (False, "of the head's training set; do not rely on their predictions"),
        (True, "of their fold's training clips; the figures count them"),
    ):
        if beside:
            (far / "metrics.json").write_bytes((folder / "run" / "metrics.json").read_bytes())
        ask = ("--predictions", far / "predictions.csv", "--labels", folder / "emb.h5")
        done = CliRunner().invoke(evaluate_command, [str(one) for one in ask])
        assert f"quality: 31 of 31 clips are out of the distribution {words}\n" in done.stderr
