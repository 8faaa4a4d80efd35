"""In plain torch too, an epoch reads no value on the host, so that a CUDA graph can capture it."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qamro_cache.heads.architecture import Architecture
from qamro_cache.losses import qamro
from qamro_cache.losses.loss import parse_loss
from qamro_cache.losses.qamro import static_shapes
from qamro_cache.training import stack as stack_module
from qamro_cache.training.backend import plain_backend
from qamro_cache.training.fit import _Data
from qamro_cache.training.inputs import Features, Folds, Targets
from qamro_cache.training.recipe import Job, Recipe
from qamro_cache.training.stack import Stack

#: Operations whose result, or its shape, is known only once the device is done.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")
#: From here on the loss sorts where it may, which looks for ties.
MANY = qamro.SORTED_FROM + 10


class Waits(TorchDispatchMode):
    """Lists what would wait for a device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        masked = any(x is not None and x.dtype == torch.bool for x in indices)
        if name.startswith(WAITING) or masked:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def make_stack(recipe, clips, held):
    g = torch.Generator().manual_seed(0)
    pooled = recipe.head.pooling != "mean"
    offsets = torch.arange(clips + 1) * (2 if pooled else 1)
    x = torch.randn(int(offsets[-1]), 5, generator=g)
    y = x[:: 2 if pooled else 1, 0].double()[None].mul(4).round()
    stop = np.arange(clips) < held
    folds = Folds(~stop[None], stop[None], np.zeros((1, clips), bool))
    data = _Data(
        Features(x, offsets, torch.ones(len(x))),
        Targets(y, torch.tensor([[-20.0, 20.0]])),
        folds, 0, torch.device("cpu"),
    )  # fmt: skip
    jobs = [Job(recipe, seed) for seed in range(2)]
    return Stack(data.inputs(jobs), jobs, plain_backend(recipe))


def waits(stack):
    batches = [
        batch._replace(row_cap=stack.batches.row_cap(batch.clips.shape[1]))
        for batch in stack.batches.epoch(0)[:2]
    ]
    with torch.no_grad(), Waits() as seen:
        stack.train_epoch(batches)
    return seen.found


RECIPES = {
    "sgd": Recipe(head=Architecture(widths=(4,))),
    "adamw, dropout": Recipe(head=Architecture(widths=(4,)), optimizer="adamw", dropout=0.2),
    "autograd": Recipe(head=Architecture(widths=(4,), layer_norm=True)),
    "windows": Recipe(head=Architecture(widths=(4,), pooling="attention")),
    "own batches": Recipe(head=Architecture(widths=(4,)), batches="own"),
    "every loss": Recipe(
        head=Architecture(widths=(4,)),
        loss=parse_loss("qamro+margin+ranknet+listnet+listmle+approx_ndcg+spearman+huber+ccc"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_an_epoch_in_plain_torch_reads_nothing(name):
    with static_shapes():
        assert not waits(make_stack(RECIPES[name], 90, 30))


@pytest.mark.parametrize("where", ["batch", "validation set"])
def test_nor_does_one_of_many_clips(where):
    recipe = Recipe(head=Architecture(widths=(4,)), batch_size=MANY if where == "batch" else 16)
    held = 20 if where == "batch" else MANY
    stack = make_stack(recipe, MANY + 50, held)
    assert waits(stack)  # sorted, where it may
    with static_shapes():
        assert not waits(stack)


@pytest.mark.parametrize("kernels", [False, True])
def test_auto_never_sorts_in_a_capture(monkeypatch, kernels):
    """Of a stand-in for a GPU; also where nobody has said `static_shapes`."""
    capturing = False
    monkeypatch.setattr(qamro, "usable", lambda family, device: kernels and family == "loss")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)

    def form(heads, n, stderr=None):
        pred = SimpleNamespace(shape=(heads, n), is_cuda=True, device=torch.device("cuda"))
        return qamro._fastest(SimpleNamespace(pred=pred, stderr=stderr))

    small = "fused" if kernels else "pairs"
    assert form(12, 256) == small
    assert form(1, 1 << 17) == form(4096, 2048) == "sorted"
    assert form(1, 1 << 17, stderr=1) == small
    assert form(1000, 2000) == ("fused" if kernels else "sorted")
    with static_shapes():
        assert form(4096, 1 << 17) == small
    capturing = True
    assert form(4096, 1 << 17) == small


def test_what_is_stored_is_scored_in_the_precision_of_scoring(monkeypatch):
    inside = []

    @contextmanager
    def scoring():
        inside.append(True)
        yield
        inside.pop()

    seen = []
    real = stack_module.score_rows
    monkeypatch.setattr(
        stack_module, "score_rows", lambda *a, **k: (seen.append(bool(inside)), real(*a, **k))[1]
    )
    stack = make_stack(RECIPES["sgd"], 60, 20)
    stack.backend = replace(stack.backend, scoring=scoring)
    stack.state.finished.fill_(True)
    assert stack.retire() == 0
    assert seen
    assert all(seen)
