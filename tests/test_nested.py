"""The nested estimate: against a loop, and that nothing judged has a say in the choice."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache
from qamro_cache.errors import QamroError
from qamro_cache.evaluation import nested
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.kinds import Kind
from qamro_cache.evaluation.nested import Inside, choose_by_fold, nested_choice
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.folds import make_folds
from qamro_cache.experiments.nested import inner_folds
from qamro_cache.experiments.train import train

QUICK = {"epochs": 3, "widths": [[8]], "seeds": 2, "axis": ["quality"]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("cache") / "emb.h5", split=True)


@pytest.fixture
def pooled(monkeypatch):
    """The predictions that nested estimates score, as they come."""
    real, kept = nested.pool_choices, []

    def keeping(*arguments):
        kept.append(real(*arguments))
        return kept[-1]

    monkeypatch.setattr(nested, "pool_choices", keeping)
    return kept


def loop(cells, labels, test, inner):
    """The estimate by its definition: (picks, the pooled predictions' SRCC)."""
    picks, given = [], np.full(len(labels), np.nan)
    for fold, held in enumerate(test):
        figures = []
        for m, pred in enumerate(cells):
            by = pred if inner is None else inner[m][fold]
            used = ~held & np.isfinite(labels) & np.isfinite(by)
            figures.append(spearmanr(by[used], labels[used])[0])
        picks.append(int(np.argmax(figures)))
        given[held] = cells[picks[-1]][held]
    known = np.isfinite(given) & np.isfinite(labels)
    return picks, spearmanr(given[known], labels[known])[0]


def test_both_estimates_are_what_a_loop_finds():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(6), 7)
    labels = rng.standard_normal(42)
    labels[5] = np.nan
    test = group == np.arange(6)[:, None]
    cells = labels + 2 * rng.standard_normal((4, 42))
    cells[:, 5] = 0
    inner = np.nan_to_num(labels) + 2 * rng.standard_normal((4, 6, 42))
    inner[:, test] = np.nan
    rows = [({"k": m}, cells[m], Inside(test, labels, inner[m])) for m in range(4)]
    judged = Judged(labels, group, group=group, interval=Kind("bootstrap", 0))
    found = nested_choice(rows, judged)
    assert found["cells"] == 4
    for way, by in (("approximate", None), ("exact", inner)):
        picks, value = loop(cells, labels, test, by)
        one = found[way]
        assert one["value"] == one["figures"]["clip_srcc"] == pytest.approx(value, rel=1e-12)
        assert {c["cell"]["k"]: c["folds"] for c in one["chosen"]} == {
            k: picks.count(k) for k in picks
        }
        assert one["clips"] == 41
    assert len(set(loop(cells, labels, test, inner)[0])) > 1, "folds that choose alike test little"
    assert (
        nested_choice([(n, p, i._replace(pred=None)) for n, p, i in rows], judged)["exact"] is None
    )
    # Each fold may have labels in units of its own.
    own = labels + 2 * rng.standard_normal((6, 42))
    picks = [loop(cells, one, test[[k]], inner[:, [k]])[0][0] for k, one in enumerate(own)]
    found = nested_choice([(n, p, i._replace(own=own)) for n, p, i in rows], judged)["exact"]
    assert {c["cell"]["k"]: c["folds"] for c in found["chosen"]} == {
        k: picks.count(k) for k in picks
    }
    assert picks != loop(cells, labels, test, inner)[0]
    # Of a figure that is not defined nothing is chosen; of equal ones the first is.
    alike = np.stack([np.ones(42), np.nan_to_num(labels)])
    counted = np.ones((2, 42), bool)
    assert choose_by_fold([alike, alike], counted, labels).tolist() == [-1, 0]


@pytest.mark.parametrize("cv", ["group", "system", "prompt", "4", "2", "split"])
@pytest.mark.parametrize("inner", [False, True])
def test_inner_folds_lie_inside_and_hold_everything_out_once(cache, cv, inner):
    table = open_cache(cache).clips
    known = (table["status"] == "ok").to_numpy()
    folds, _ = make_folds(table, cv, known, inner=inner)
    count = len(folds.test)
    if inner and count == 3:
        with pytest.raises(QamroError, match="use --stop fixed"):
            inner_folds(folds)
        return
    found = inner_folds(folds)
    assert len(found.serves) == (count * (count - 1) // 2 if count > 2 else 5 * count)
    judged = np.zeros(folds.test.shape, int)
    for n, served in enumerate(found.serves):
        learned = found.train[n] | found.validation[n]
        assert found.validation[n].any() == inner
        for fold in served:
            assert not (learned & folds.test[fold]).any()
            asked = found.test[n] & ~folds.test[fold]
            assert not (learned & asked).any()
            judged[fold] += asked
            if cv in ("group", "system", "prompt"):
                names = table[cv].to_numpy()
                assert not set(names[learned]) & set(names[found.test[n]])
    learned = folds.train | folds.validation
    np.testing.assert_array_equal(judged, learned.astype(int))


def test_labels_of_what_a_fold_holds_out_do_not_move_its_predictions(cache, tmp_path, pooled):
    """Permuted, they leave the nested predictions of that fold as they were, bit for bit."""
    clips, values = open_cache(cache).clips, open_cache(cache).labels.mean[:, 0]
    held = np.flatnonzero(clips["group"] == "G2")
    for name, order in (("a", held), ("b", np.roll(held, 2))):
        other = values.copy()
        other[held] = values[order]
        table = clips[["clip_id", "system", "group"]].assign(quality=other)
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        grid = {"lr": [0.05, 0.02, 0.001], "cv": "group", "scale": ["quality=0:100"]}
        ablate(
            cache, tmp_path / name, labels=tmp_path / f"{name}.csv", nested=True, **grid, **QUICK
        )
    in_fold = np.flatnonzero(clips["group"][clips["status"] == "ok"] == "G2")
    (_, a), (_, b) = pooled[:2], pooled[2:]
    np.testing.assert_array_equal(a[in_fold], b[in_fold])
    assert (np.delete(a, in_fold) != np.delete(b, in_fold)).any()


def test_what_pairs_predict_is_what_heads_without_both_groups_predict(cache, tmp_path, monkeypatch):
    """One cell and fold by another way: train() on the clips of the other groups alone."""
    kept = []
    real = nested.nested_choice
    monkeypatch.setattr(
        "qamro_cache.experiments.tables.nested_choice",
        lambda cells, *rest: kept.append(cells) or real(cells, *rest),
    )
    ablate(cache, tmp_path / "grid", lr=[0.05, 0.01], cv="group", nested=True, **QUICK)
    (_, _, inside), _ = kept[0]
    table = open_cache(cache).clips
    table = table[table["status"] == "ok"].reset_index(drop=True)
    fold = sorted(set(table["group"])).index("G1")
    # The fold G2 among the clips without G1 has learned from neither.
    options = {**QUICK, "widths": (8,)}
    train(cache, tmp_path / "one", lr=0.05, cv="group", without=["group=G1"], **options)
    out = pd.read_csv(tmp_path / "one" / "predictions.csv")
    wanted = out.groupby("clip_id")["prediction"].mean()
    for group in ("G2", "G5"):
        rows = np.flatnonzero(table["group"] == group)
        mine = inside.pred[fold, rows]
        np.testing.assert_allclose(mine, wanted[table["clip_id"][rows]], rtol=1e-4)
    assert np.isnan(inside.pred[fold, table["group"] == "G1"]).all()


def test_the_command_says_what_it_costs_and_what_it_found(cache, tmp_path):
    from qamro_cache_cli.ablate import main

    arguments = ["--cache", cache, "--out", tmp_path, "--lr", "0.05,0.01", "--epochs", 3,
                 "--widths", 8, "--seeds", 2, "--axis", "quality", "--cv", "group"]  # fmt: skip
    plain = CliRunner().invoke(main, list(map(str, arguments)))
    assert plain.exit_code == 0, plain.output
    said = " ".join(plain.stdout.split())
    assert "approximately, with each fold's cell chosen among the 2 by the other folds" in said
    again = CliRunner().invoke(main, [*map(str, arguments), "--nested"])
    assert again.exit_code == 0, again.output
    # 8 groups: 28 pairs, 2 cells, 2 seeds.
    assert (
        "--nested: 112 heads inside the folds, beside the folds' own 32: 3.5 times" in again.stderr
    )
    best = json.loads((tmp_path / "best.json").read_text())["axes"]["quality"]
    exact = best["nested"]["exact"]
    said = " ".join(again.stdout.split())
    assert f"clip_srcc {exact['value']:.3f} (" in said
    assert "chosen among the 2 without what the fold holds out" in said
    assert sum(one["folds"] for one in exact["chosen"]) == 8
    assert best["nested"]["cells"] == 2
    alone = ablate(cache, tmp_path / "alone", nested=True, cv="split", lr=0.05, **QUICK)
    assert alone["axes"]["quality"]["nested"] is None, "one cell is no choice"
    fixed = ablate(cache, tmp_path / "split", nested=True, cv="split", lr=[0.05, 0.01], **QUICK)
    found = fixed["axes"]["quality"]["nested"]
    assert found["approximate"] is None
    assert found["exact"]["chosen"][0]["folds"] == 1


def test_a_figure_says_where_defaults_were_chosen(tmp_path):
    from qamro_cache.datasets.registry import defaults_chosen_on

    assert defaults_chosen_on("codec-mushra", "demo") == []
    assert defaults_chosen_on("a+cvssp-separation") == ["cvssp-separation"]
    from qamro_cache_cli.train import main

    path = write_synthetic(tmp_path / "emb.h5", dataset="cvssp-separation")
    arguments = ["--cache", path, "--out", tmp_path / "run", "--epochs", 1, "--seeds", 1, "--cv", 3]
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    assert "synthetic data, cvssp-separation, which defaults were chosen on; fake" in " ".join(
        done.stdout.split()
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["defaults_chosen_on"] == ["cvssp-separation"]


@pytest.mark.slow
def test_the_best_of_equal_cells_flatters_itself_and_the_nested_choice_does_not():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "nested.py"
    spec = importlib.util.spec_from_file_location("benchmarks_nested", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for row in ("null 8x12", "weak 8x12"):
        gaps = module.run_row(row, 60, 5)["flatters_by"]
        best, exact = gaps["best_cell"], gaps["exact"]
        assert best["mean"] > 10 * best["standard_error"]
        assert abs(exact["mean"]) < 3 * exact["standard_error"]
        assert exact["mean"] < best["mean"] / 3
