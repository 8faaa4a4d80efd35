"""Heads that mix layers, and heads of a distribution, against naive modules one at a time."""

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_cache import write_synthetic
from torch import nn
from torch.distributions import Normal

from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.raters import subsampled
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.train import train
from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.file import load_head
from qamro_cache.heads.network import forward
from qamro_cache.heads.parameters import init_params
from qamro_cache.losses import gaussian
from qamro_cache.scoring.predict import predict
from qamro_cache.training.backend import backend_of
from qamro_cache.training.fit import fit
from qamro_cache.training.inputs import Features, Folds, Targets
from qamro_cache.training.net import AutogradNet
from qamro_cache.training.recipe import Job, Recipe, flat_recipe, make_recipe
from qamro_cache.training.step_loss import ComposedStepLoss, LikelihoodStepLoss

CLIPS, LAYERS, WIDTH, EPOCHS, STEPS = 24, 3, 5, 2, 8
F64 = torch.float64


class Naive(nn.Module):
    """One head as its definition has it, a clip's windows [W, L, D] at a time."""

    def __init__(self, head, params, k):
        super().__init__()
        self.head = head
        for name, value in params.items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(value[k].clone()))

    def linear(self, name, x):
        return x @ getattr(self, f"{name}_weight") + getattr(self, f"{name}_bias")

    def forward(self, x, weights):
        x = x.flatten(1) if self.head.layers == "joined" else (
            self.layers.softmax(0)[None, :, None] * x).sum(1)  # fmt: skip
        share = weights / weights.sum()
        if self.head.pooling == "attention":
            power = weights * (x @ self.attention).exp()
            x = (x * (power / power.sum())[:, None]).sum(0, keepdim=True)
        for k in range(len(self.head.widths)):
            x = self.linear(str(k), x)
            if self.head.layer_norm:
                x = (x - x.mean(-1, keepdim=True)) / (
                    x.var(-1, correction=0, keepdim=True) + 1e-5
                ).sqrt()
            x = x.relu()
        x = self.linear("output", x)
        return (x * share[:, None]).sum(0) if self.head.pooling == "scores" else x[0]


@pytest.fixture(scope="module")
def data():
    """Windows with layers, two targets of single ratings, and folds with and without stopping."""
    g = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 4, (CLIPS,), generator=g)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    total = int(offsets[-1])
    windows = torch.randn(total, LAYERS, WIDTH, generator=g) * torch.arange(1, 4)[:, None] + 2
    weights = torch.rand(total, generator=g) * 0.9 + 0.1
    truth = windows[offsets[:-1], 1, :2].T * 10 + 50
    ratings = [
        [truth[t, c] + 8 * torch.randn(1 + c % 5, generator=g, dtype=F64) for c in range(CLIPS)]
        for t in range(2)
    ]
    ratings[1][4] = torch.empty(0, dtype=F64)
    labels = torch.tensor([[float(r.mean()) for r in row] for row in ratings], dtype=F64)
    spread = [[[len(r), float(np.var(r.numpy())) if len(r) else 0] for r in row] for row in ratings]
    targets = Targets(labels, torch.tensor([[0.0, 100], [0, 100]]), torch.tensor(spread).double())
    group = np.arange(CLIPS) % 5
    test = np.stack([group == k for k in range(2)])
    stop = np.stack([group == 3, np.zeros(CLIPS, bool)])
    folds = Folds(~test & ~stop, stop, test)
    return Features(windows, offsets, weights), targets, folds, ratings


def pooled(head, features):
    """A clip's windows [W, L, D] with their weights, pooled where that comes first."""
    for clip in (slice(a, b) for a, b in pairwise(features.offsets.tolist())):
        x, w = features.windows[clip].double(), features.weights[clip].double()
        if head.pooling == "mean":
            x, w = (x * (w / w.sum())[:, None, None]).sum(0, keepdim=True), w.new_ones(1)
        elif head.pooling == "max":
            x, w = x.max(0, keepdim=True).values, w.new_ones(1)
        yield x, w


@pytest.mark.parametrize("pooling", ["mean", "max", "attention", "scores"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_mixed_layers_equal_a_module_per_head_and_clip(data, pooling, layer_norm):
    features = data[0]
    head = Architecture(layers="mixed", pooling=pooling, layer_norm=layer_norm, widths=(4, 3))
    params = init_params(head, (LAYERS, WIDTH), [3, 11, 3], dtype=F64)
    g = torch.Generator().manual_seed(1)
    for name in {"layers", "attention"} & params.keys():
        params[name] = torch.randn(params[name].shape, generator=g, dtype=F64)
    mean, std = (torch.rand(LAYERS, WIDTH, generator=g, dtype=F64) + 0.5 for _ in range(2))
    windows, weights = features.windows.double(), features.weights.double()
    scores = forward(head, params, windows, features.offsets, weights, mean=mean, std=std)
    for k in range(3):
        naive = Naive(head, params, k)
        for c, (x, w) in enumerate(pooled(head, features)):
            assert scores[k, c].item() == pytest.approx(
                naive((x - mean) / std, w).item(), abs=1e-12
            )


def one_by_one(job, data):
    """Train a job's head as anybody would, in full batches of the clips that it learns from."""
    (features, targets, folds, ratings), recipe = data, job.recipe
    clips = list(pooled(recipe.head, features))
    train = folds.train[job.fold]
    rows = torch.cat([x for c, (x, _) in enumerate(clips) if train[c]])
    if recipe.head.layers == "joined":
        rows = rows.flatten(1)
    mean, std = rows.mean(0), rows.std(0, correction=0)
    mean, std = mean.view(LAYERS, WIDTH), std.view(LAYERS, WIDTH)
    labels = targets.labels[job.target]
    learned = [c for c in range(CLIPS) if train[c] and labels[c].isfinite()]
    of_labels = labels[learned].mean(), labels[learned].std(correction=0)
    row = (LAYERS, WIDTH) if recipe.head.mixes else (LAYERS * WIDTH,)
    naive = Naive(recipe.head, init_params(recipe.head, row, [job.seed], dtype=F64), 0)
    sgd = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    make = torch.optim.SGD if recipe.optimizer == "sgd" else torch.optim.AdamW
    options = sgd if recipe.optimizer == "sgd" else {"weight_decay": recipe.weight_decay}
    optimizer = make(naive.parameters(), recipe.lr, **options)

    def output(c):
        x, w = clips[c]
        return naive((x - mean) / std, w)

    def loss(some):
        total, count = 0, 0
        for c in some:
            out = output(c)
            if recipe.head.output == "gaussian":
                scale = 0.05 + nn.functional.softplus(out[1] + np.log(np.expm1(0.95)))
                rated = (ratings[job.target][c] - of_labels[0]) / of_labels[1]
                total -= Normal(out[0], scale).log_prob(rated).sum()
                count += len(rated)
            else:
                total += (out[0] - (labels[c] - of_labels[0]) / of_labels[1]) ** 2
                count += 1
        return total / count

    stopping = [c for c in np.flatnonzero(folds.validation[job.fold]) if labels[c].isfinite()]
    watched = []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(learned).backward()
            optimizer.step()
        with torch.no_grad():
            watched.append(float(loss(stopping)) if stopping else np.nan)
            predicted = [of_labels[0] + of_labels[1] * output(c)[0] for c in range(CLIPS)]
    return torch.stack(predicted), watched


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "shape",
    [
        {"layers": "mixed"},
        {"layers": "mixed", "pooling": "attention"},
        {"output": "gaussian"},
        {"output": "gaussian", "pooling": "scores"},
        {"layers": "mixed", "output": "gaussian", "pooling": "attention"},
    ],
)
def test_a_stack_equals_heads_trained_one_by_one(data, shape, optimizer):
    features, targets, folds, _ = data
    head = Architecture(widths=(4,), **shape)
    jobs = []
    for k in range(4):
        given = {"optimizer": optimizer, "epochs": EPOCHS, "patience": 9, "batch_size": CLIPS}
        given |= {"lr": [0.01, 0.03][k % 2], "weight_decay": 1e-3}
        recipe = make_recipe({} if head.output == "gaussian" else {"loss": "mse@standardized"})
        jobs.append(Job(dataclasses.replace(recipe, head=head, **given), k, k % 2, k // 2))
    ((places, result),) = fit(features, targets, folds, jobs, dtype=F64)
    for row, place in enumerate(places):
        expected, watched = one_by_one(jobs[place], data)
        assert result.validation_loss[:, row].numpy() == pytest.approx(watched, nan_ok=True)
        if result.best_epoch[row] == EPOCHS:
            assert result.predictions[row].numpy() == pytest.approx(expected.numpy(), rel=1e-6)
    assert (result.best_epoch == EPOCHS).sum() >= 2, "a head is compared in each fold"


def test_ratings_that_are_held_out_change_nothing(data):
    features, targets, folds, _ = data
    recipe = make_recipe({"layers": "mixed", "output": "gaussian", "widths": (4,), "epochs": 3})
    held = torch.from_numpy(np.flatnonzero(folds.test[0]))
    labels, spread = targets.labels.clone(), targets.spread.clone()
    labels[:, held], spread[:, held] = labels[:, held.roll(1)] + 3, spread[:, held.roll(1)] * 2
    found = []
    for one in (targets, dataclasses.replace(targets, labels=labels, spread=spread)):
        ((_, result),) = fit(features, one, folds, [Job(recipe)])
        found.append(result.predictions)
    assert torch.equal(*found)


def test_likelihood_is_that_of_single_ratings_and_its_gradient(data):
    ratings = data[3]
    g = torch.Generator().manual_seed(2)
    outputs = torch.randn(2, CLIPS, 2, generator=g, dtype=F64, requires_grad=True)
    mask = torch.rand(2, CLIPS, generator=g) < 0.7
    target, spread = data[1].labels.nan_to_num(0), data[1].spread.nan_to_num(0)
    value, grad = gaussian.value_and_grad(outputs, target, spread, mask)
    for h in range(2):
        expected, std = [], gaussian.deviation(outputs[h].detach())
        for c in np.flatnonzero(mask[h]):
            expected += (-Normal(outputs[h, c, 0], std[c]).log_prob(ratings[h][c])).tolist()
        assert value[h].item() == pytest.approx(np.mean(expected))
    given = (target, spread, mask)
    assert torch.autograd.gradcheck(lambda x: gaussian.value_and_grad(x, *given)[0], (outputs,))
    by_autograd = torch.autograd.grad(value.sum(), outputs)[0]
    assert torch.allclose(grad, by_autograd, atol=1e-12)
    nobody = gaussian.value_and_grad(outputs, *given[:2], torch.zeros_like(mask))
    assert not any(part.any() for part in nobody)


def test_spread_of_all_and_of_a_few_ratings(tmp_path):
    labels = open_cache(write_synthetic(tmp_path / "emb.h5")).labels
    few = subsampled(labels, 1, 3, seed=0)
    whole = labels.ratings
    for c in range(3):
        mine = whole.score[(whole.clip == c) & (whole.axis == 1)]
        assert labels.spread[c, 1] == pytest.approx([4, mine.var()])
        kept = few.ratings.score[few.ratings.clip == c]
        assert set(kept) <= set(mine)
        assert few.spread[c, 0] == pytest.approx([3, kept.var()])
    assert subsampled(labels, 1, 1, seed=0).spread[0, 0].tolist() == [1, 0]


QUICK = {"widths": (6,), "epochs": 4, "lr": 0.01, "seeds": 2}


def test_both_are_dimensions_of_a_grid_and_saved(tmp_path):
    cache = write_synthetic(tmp_path / "emb.h5")
    grid = {"layers": ["joined", "mixed"], "output": ["linear", "gaussian"], "raters": [0, 2]}
    ablate([cache], tmp_path / "grid", feature="layers", axis="quality", cv="group",
           **grid, **QUICK)  # fmt: skip
    found = pd.read_csv(tmp_path / "grid" / "results.csv").dropna(subset=["layers"])
    assert len(found[["layers", "output", "raters"]].drop_duplicates()) == 8
    assert found["clip_srcc"].nunique() == len(found), "each cell is another head"
    kind = {"feature": "layers", "layers": "mixed", "output": "gaussian"}
    train([cache], tmp_path / "run", cv="group", save_folds=True, **kind, **QUICK)
    head = load_head(tmp_path / "run")
    shape = (2, LAYERS), (LAYERS, 6)
    assert (head.axes[0].params["layers"].shape, head.axes[0].row_mean.shape) == shape
    assert "loss" not in head.training["recipe"]
    assert predict(tmp_path / "run", cache)["prediction"].notna().sum() == 2 * 39
    # The heads of a fold say of its clips again what they said in the run.
    table = predict(tmp_path / "run" / "folds" / "0.safetensors", cache)
    ours = pd.read_csv(tmp_path / "run" / "predictions.csv")
    ours = ours[ours["fold"] == ours["fold"].iloc[0]]
    ours = ours.groupby(["clip_id", "axis"], as_index=False)["prediction"].mean()
    both = ours.merge(table, on=["clip_id", "axis"])
    assert len(both) == 2 * 4
    assert np.allclose(both["prediction_x"], both["prediction_y"], rtol=1e-5)


def test_what_cannot_be_is_one_line(tmp_path):
    cache = write_synthetic(tmp_path / "emb.h5")
    bare = tmp_path / "means.csv"
    clips, labels = open_cache(cache).clips, open_cache(cache).labels
    bare.write_text("clip_id,quality\n" + "".join(
        f"{name},{value}\n" for name, value in zip(clips["clip_id"], labels.mean[:, 0], strict=True)
    ))  # fmt: skip
    refused = [
        ({"layers": "mixed"}, r"mixes layers takes \[L, D\], got \[6\]"),
        ({"layers": "mixed", "feature": "layers", "context": "group"}, r"got \[54\]"),
        ({"layers": "mixed", "feature": "layers", "head": "ridge"}, "takes no layers"),
        ({"layers": "mixed", "feature": "layers", "head": "audiobox"}, "mixes layers as it is"),
        ({"layers": "mixed", "feature": "layers", "inputs": "concat"}, "inputs='audio'"),
        ({"output": "gaussian", "loss": "mse"}, "by its likelihood: no loss"),
        ({"output": "gaussian", "alpha": 0.3}, "by its likelihood: no alpha"),
        ({"output": "gaussian", "labels": bare}, "single ratings, and of axis 'quality' only mean"),
    ]
    for given, words in refused:
        with pytest.raises((OptionError, QamroError), match=words) as said:
            train([cache], tmp_path / "run", cv="group", **given)
        assert "\n" not in str(said.value)


def test_kernels_decline_them(monkeypatch):
    pytest.importorskip("triton")
    for head in (Architecture(layers="mixed"), Architecture(output="gaussian")):
        recipe = Recipe(head=head)
        assert make_recipe(flat_recipe(recipe)) == recipe
        chosen = backend_of(recipe, torch.device("cuda"), uses=lambda family: family != "graph")
        assert chosen.net.func is AutogradNet
        plain = LikelihoodStepLoss if head.output == "gaussian" else ComposedStepLoss
        if head.output == "gaussian":
            assert chosen.loss is plain
