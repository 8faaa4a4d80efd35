"""The captured epoch on a GPU: like the CPU, like eager, in chunks, and without a wait a step."""

import pytest
import torch
from test_train_stack import collect, make_data, make_folds, trained, varied_jobs

from qamro_cache.heads.network import Architecture
from qamro_cache.training import chunks
from qamro_cache.training.fit import fit
from qamro_cache.training.recipe import Job, Recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

RECIPES = {
    "sgd": Recipe(head=Architecture(widths=(9, 5)), batch_size=16),
    "adamw, dropout": Recipe(
        head=Architecture(widths=(9,), activation="gelu"), batch_size=16, optimizer="adamw",
        dropout=0.2,
    ),
    "windows": Recipe(head=Architecture(widths=(9,), pooling="scores"), batch_size=16),
    "attention": Recipe(head=Architecture(widths=(9,), pooling="attention"), batch_size=16),
    "own batches": Recipe(head=Architecture(widths=(9,)), batch_size=13, batches="own"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_gpu_equals_cpu(name):
    """Float64 on both: the graph, the masks and the stopping are the same program."""
    features, targets = make_data(windows=name in ("windows", "attention"))
    jobs = varied_jobs(RECIPES[name])
    ours = collect(features, targets, make_folds(), jobs, device="cuda", chunk=len(jobs))
    theirs = collect(features, targets, make_folds(), jobs, chunk=len(jobs))
    for a, b in zip(ours, theirs, strict=True):
        assert trained(a) == trained(b)
        assert torch.allclose(a["predictions"], b["predictions"], rtol=1e-7, atol=1e-7)


def test_a_replayed_graph_equals_eager(monkeypatch):
    from qamro_cache.training.gpu import graph

    features, targets = make_data()
    jobs = varied_jobs(RECIPES["sgd"])
    options = {"device": "cuda", "dtype": torch.float32, "chunk": len(jobs)}
    replayed = collect(features, targets, make_folds(), jobs, **options)
    monkeypatch.setattr(graph.GraphEpochs, "_capture", lambda self: None)
    eager = collect(features, targets, make_folds(), jobs, **options)
    for a, b in zip(replayed, eager, strict=True):
        assert a["best_epoch"] == b["best_epoch"]
        assert torch.allclose(a["predictions"], b["predictions"], rtol=1e-5, atol=1e-5)


def test_float32_head_equals_itself_alone():
    """Stated tolerance on a GPU in float32: 1e-3 of the labels' deviation after 50 epochs."""
    features, targets = make_data()
    jobs = varied_jobs(RECIPES["sgd"])
    options = {"device": "cuda", "dtype": torch.float32}
    together = collect(features, targets, make_folds(), jobs, chunk=len(jobs), **options)
    alone = collect(features, targets, make_folds(), jobs, chunk=1, **options)
    for job, a, b in zip(jobs, together, alone, strict=True):
        deviation = targets.labels[job.target].nan_to_num(50).std()
        assert (a["predictions"] - b["predictions"]).abs().max() < 1e-3 * deviation


def test_a_grid_larger_than_memory_is_cut(monkeypatch):
    features, targets = make_data()
    jobs = [Job(RECIPES["sgd"], seed, seed % 6) for seed in range(7)]
    monkeypatch.setattr(chunks, "bytes_per_head", lambda *_: torch.cuda.mem_get_info()[0] // 3)
    sizes = [len(where) for where, _ in fit(features, targets, make_folds(), jobs, device="cuda")]
    assert sum(sizes) == 7
    assert max(sizes) <= 2


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_an_epoch_never_waits_for_the_device(precision):
    from qamro_cache.training.stack import Stack

    features, targets = make_data()
    stacks = []
    real = Stack.train_epoch

    def guarded(self, batches):
        torch.cuda.set_sync_debug_mode("error")
        try:
            real(self, batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        stacks.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stack, "train_epoch", guarded)
        collect(
            features, targets, make_folds(), varied_jobs(RECIPES["sgd"]),
            device="cuda", dtype=torch.float32, precision=precision,
        )  # fmt: skip
    assert stacks
