"""Rows of many small groups, copied for each head: the same as a product for each group."""

import pytest
import torch
from test_train_stack import collect, make_data, make_folds, trained, varied_jobs

from qamro_cache.heads.network import Architecture
from qamro_cache.training import net, views
from qamro_cache.training.fit import fit
from qamro_cache.training.recipe import Recipe

RECIPES = {
    "sgd": Recipe(head=Architecture(widths=(9, 5)), batch_size=16),
    "adamw, own": Recipe(
        head=Architecture(widths=(9,), activation="gelu"), batch_size=13, optimizer="adamw",
        batches="own",
    ),
    "linear, dropout": Recipe(head=Architecture(kind="linear", widths=()), dropout=0.2),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_copied_rows_equal_shared_ones(name, monkeypatch):
    features, targets = make_data()
    jobs = varied_jobs(RECIPES[name])
    shared = collect(features, targets, make_folds(), jobs, chunk=len(jobs))
    asked = []

    def always(some):
        asked.append(len(some))
        return len(some) > 1

    monkeypatch.setattr(net, "stand_in_small_groups", always)
    copied = collect(features, targets, make_folds(), jobs, chunk=len(jobs))
    assert max(asked) > 1
    for a, b in zip(shared, copied, strict=True):
        assert trained(a) == trained(b)
        assert torch.allclose(a["predictions"], b["predictions"], rtol=1e-9, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_copied_rows_equal_shared_ones_on_a_gpu(precision, monkeypatch):
    features, targets = make_data()
    jobs = varied_jobs(RECIPES["sgd"])
    copies, real = [], net.RowTable.take
    monkeypatch.setattr(net.RowTable, "take", lambda *given: copies.append(1) or real(*given))

    def train():
        parts = fit(features, targets, make_folds(), jobs, device="cuda", precision=precision)
        return torch.cat([result.predictions for _, result in parts])

    copied, times = train(), len(copies)
    monkeypatch.setattr(views, "FEW_HEADS", 0)
    shared = train()
    assert len(copies) == times > 0
    deviation = targets.labels[0].std()
    assert (copied - shared).abs().max() < (1e-3 if precision == "float32" else 2e-2) * deviation
