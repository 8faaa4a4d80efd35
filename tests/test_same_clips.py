"""All models of a table are judged on the same clips, whatever became of a head; as it is shown."""

import numpy as np
import pandas as pd
import torch
from qamro_cache_cli.scores import show_scores
from synthetic_cache import write_synthetic

from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.score import score_models
from qamro_cache.experiments import fitting
from qamro_cache.experiments.train import train


def test_a_diverged_head_counts_with_its_training_mean_and_takes_no_clip(
    tmp_path, monkeypatch, caplog
):
    cache = write_synthetic(tmp_path / "emb.h5")
    real, calls = fitting.fit, []

    def one_diverges(features, targets, folds, jobs, **options):
        calls.append(len(jobs))
        for where, result in real(features, targets, folds, jobs, **options):
            # The first head of the estimate: axis 0, seed 0, fold 0.
            if len(calls) == 1 and 0 in where:
                row = where.index(0)
                predictions = result.predictions.clone()
                predictions[row] = torch.nan
                diverged = result.diverged.clone()
                diverged[row] = True
                result = result._replace(predictions=predictions, diverged=diverged)
            yield where, result

    monkeypatch.setattr(fitting, "fit", one_diverges)
    record = train(
        cache, tmp_path / "run", cv="group", seeds=2, epochs=3, widths="8", lr=0.01, device="cpu"
    )
    axis = record["axes"]["quality"]
    assert axis["diverged"] == 1
    assert "1 of 32 heads diverged and count with the mean of their training labels" in caplog.text
    for model, scored in axis["models"].items():
        assert (scored["clips"], scored["left_out"]) == (39, 0), model
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    table = table[(table["axis"] == "quality") & (table["seed"] == 0)]
    fold = sorted(set(table["fold"]))[0]
    held = table["fold"] == fold
    mean = table.loc[~held, "target"].mean()
    np.testing.assert_allclose(table.loc[held, "prediction"], mean, rtol=1e-6)
    assert table.loc[~held, "prediction"].nunique() > 10


def test_a_table_fits_80_columns(capsys):
    random = np.random.default_rng(0)
    group = np.tile(np.arange(60), 17)
    target = random.uniform(0, 100, 1020)
    # The last group has one clip: it is in no group row, and said to be.
    group[group == 59] = np.r_[59, np.full(16, -1)]
    pred = target + random.normal(0, 100, (3, 1020))
    models = {"qamro head": pred, "train mean": -pred[:1], "ridge": pred[:1].copy()}
    models["ridge"][0, 7] = np.nan
    judged = Judged(target, np.repeat(np.arange(17), 60), group=group, cv="group")
    ceiling = {"figures": {"clip_srcc": 0.9, "group_srcc": 0.8}, "clips": 1019, "raters": 24}
    ceiling |= {"lower_bound": False, "panels": 0.0156}
    origin = {"dataset": "made up", "synthetic": True, "defaults_chosen_on": False}
    origin |= {"encoder": "mel", "feature": "embedding", "split": "leave one group out"}
    show_scores("quality", origin, score_models(models, judged), ceiling)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert "rated clips in no row, because some model has no prediction: 1" in lines
    whole = "ceiling: of 24 raters; not all rated the same clips (1.6 % of the variance)"
    assert whole in lines
    assert "groups in no group row, because of one clip or one label: 1" in lines
    population = (
        "95 % intervals over systems and groups (16 clips without a group: each stands for one); "
        "of these heads, trained on the same systems: expect worse on new ones"
    )
    assert population in " ".join(lines[2:4])
    assert lines[-1].startswith("clip_srcc|n=1019|systems=17|groups=59|cv=group|seeds=3|ci=jackk")
    assert any(line.startswith("qamro head, mean SRCC of single seeds: clip ") for line in lines)
