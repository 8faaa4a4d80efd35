"""The stacked trainer against plain PyTorch, one head at a time."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from qamro_cache.heads.network import Architecture, prepare_rows, score_rows
from qamro_cache.heads.parameters import init_params
from qamro_cache.losses.composed import LabelStats, composed_loss
from qamro_cache.losses.loss import Loss, parse_loss
from qamro_cache.training.backend import plain_backend
from qamro_cache.training.fit import fit
from qamro_cache.training.inputs import Features, Folds, Inputs, Targets
from qamro_cache.training.net import Dropout
from qamro_cache.training.recipe import Job, Recipe, make_recipe
from qamro_cache.training.schedule import make_schedule, passes_notice, steps_per_epoch
from qamro_cache.training.stack import Stack

CLIPS, WIDTH, GROUPS = 60, 7, 6
F64 = torch.float64


def make_data(windows=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 5, (CLIPS,), generator=g) if windows else torch.ones(CLIPS).long()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    rows = torch.randn(int(offsets[-1]), WIDTH, generator=g) * torch.arange(1, WIDTH + 1) + 5
    first = rows[offsets[:-1]]
    labels = torch.stack([first[:, 0] * 10 + 40, (first[:, 1] - first[:, 2]) / 4 + 3]).double()
    labels = (labels + torch.randn(2, CLIPS, generator=g)).mul(2).round().div(2)
    labels[1, 5] = torch.nan
    weights = torch.rand(len(rows), generator=g) * 0.9 + 0.1
    features = Features(rows, offsets, weights)
    return features, Targets(labels, torch.tensor([[0.0, 100], [1, 5]]))


def make_folds():
    group = np.arange(CLIPS) % GROUPS
    test = np.stack([group == k for k in range(GROUPS)])
    stop = np.stack([group == (k + 1) % GROUPS for k in range(GROUPS)])
    stop[2] = False  # one fold trains for a fixed number of epochs
    return Folds(~test & ~stop, stop, test)


def collect(features, targets, folds, jobs, **options):
    options = {"dtype": F64, **options}
    out = [None] * len(jobs)
    for positions, result in fit(features, targets, folds, jobs, **options):
        for row, k in enumerate(positions):
            out[k] = {
                "predictions": result.predictions[row],
                "best_epoch": int(result.best_epoch[row]),
                "diverged": bool(result.diverged[row]),
                "validation_loss": result.validation_loss[:, row],
                "stability": result.stability[:, row],
                "params": {name: p[row] for name, p in result.params.items()},
                "mean": None if result.row_mean is None else result.row_mean[row],
                "std": None if result.row_std is None else result.row_std[row],
            }
    return out


def trained(head):
    """The best epoch, and how many the head was measured in: as long as it ran."""
    return head["best_epoch"], int(head["validation_loss"].isfinite().sum())


def varied_jobs(base, count=8):
    """Unequal hyperparameters, folds, targets, seeds, patience and lengths in one stack."""
    jobs = []
    for k in range(count):
        numbers = {"delta": [1.0, 0.3][k % 2], "alpha": [0.1, 0.2, 0.5][k % 3]}
        numbers["beta"] = [3.0, 7.0][k % 2]
        terms = [
            dataclasses.replace(
                term,
                weight=term.weight * [1, 0.51, 2][(k + place) % 3],
                parameters=tuple((name, numbers.get(name, x)) for name, x in term.parameters),
            )
            for place, term in enumerate(base.loss.terms)
        ]
        recipe = dataclasses.replace(
            base,
            loss=Loss(tuple(terms)),
            lr=[3e-3, 1e-2, 3e-2, 1e-4][k % 4],
            momentum=[0.9, 0.5, 0.0][k % 3] if base.momentum else 0.0,
            weight_decay=[0.0, 1e-3][k % 2],
            epochs=[50, 12, 15, 17][k % 4],
            patience=[2, 50, 3][k % 3],
        )
        jobs.append(Job(recipe, seed=k % 5, fold=k % GROUPS, target=k % 2))
    assert len({job.recipe.bucket for job in jobs}) == 1, "one stack"
    return jobs


def naive(features, targets, folds, job):
    """One head as anybody would write it: autograd and torch.optim, the same batch schedule."""
    recipe, settings = job.recipe, job.recipe.head
    rows = prepare_rows(
        settings, features.windows.double(), features.offsets, features.weights.double()
    )
    assert rows.windows is None
    y = targets.labels[job.target]
    known = y.isfinite()
    train = torch.from_numpy(folds.train[job.fold])
    stop = torch.from_numpy(folds.validation[job.fold]) & known
    seen = rows.values[train]
    x = (rows.values - seen.mean(0)) / seen.std(0, correction=0)
    train = train & known
    mean, std = y[train].mean(), y[train].std(correction=0)
    low, high = y[train].min().item(), y[train].max().item()
    stats = LabelStats(float(mean), float(std), low, high)
    loss = recipe.loss
    params = init_params(settings, (rows.values.shape[1],), [job.seed], dtype=F64)
    leaves = [p.requires_grad_() for p in params.values()]
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            leaves, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(leaves, recipe.lr, weight_decay=recipe.weight_decay)
    bounds = torch.stack([(r - mean) / std for r in targets.ranges[job.target]])[None]

    def predict(select, dropout=None):
        part = rows._replace(values=x[select])
        scores = score_rows(settings, params, part, bounds=bounds, dropout=dropout)
        return scores * std + mean

    schedule, (order,) = make_schedule(folds, targets, [job])
    best, best_epoch, kept, steps = float("inf"), 0, None, 0
    losses = []
    for epoch in range(recipe.epochs):
        for clips, valid in schedule.epoch(epoch):
            batch = torch.from_numpy(clips[order][valid[order]])
            drop = None
            if recipe.dropout:
                # The hash wants the place in the whole batch, held-out clips included.
                drop = Dropout(
                    torch.tensor([recipe.dropout], dtype=F64),
                    torch.tensor([job.seed]),
                    torch.tensor(steps),
                )
            steps += 1
            mask = train[batch]
            if not mask.any():
                continue
            pred = predict(batch, drop)
            value = composed_loss(loss, pred, y[batch].nan_to_num(), mask=mask, labels=stats)
            optimizer.zero_grad()
            value.sum().backward()
            optimizer.step()
        if stop.any():
            with torch.no_grad():
                value = composed_loss(loss, predict(stop), y[stop], labels=stats).item()
            losses.append(value)
            if value < best:
                best, best_epoch = value, epoch + 1
                kept = predict(slice(None)).detach()[0]
            if epoch + 1 - best_epoch >= recipe.patience:
                break
        elif epoch + 1 == recipe.epochs:
            best_epoch, kept = epoch + 1, predict(slice(None)).detach()[0]
    return kept, best_epoch, epoch + 1, losses


VARIANTS = {
    "linear stack": Recipe(head=Architecture(widths=(9, 5), activation="none"), batch_size=16),
    "relu, bounded": Recipe(
        head=Architecture(widths=(9, 5), activation="relu", output="bounded"), batch_size=16
    ),
    "gelu, dropout": Recipe(
        head=Architecture(widths=(9, 5), activation="gelu"), batch_size=16, dropout=0.3
    ),
    "tanh, adamw, own": Recipe(
        head=Architecture(widths=(9, 5), activation="tanh"),
        batch_size=13,
        optimizer="adamw",
        batches="own",
    ),
    "layer norm, autograd": Recipe(
        head=Architecture(widths=(9,), layer_norm=True),
        batch_size=16,
        loss=parse_loss("mse@standardized+0.5*qamro"),
    ),
    "no hidden layer, tiny batches": Recipe(
        head=Architecture(kind="linear", widths=()), batch_size=3
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_head_equals_plain_pytorch(name):
    features, targets = make_data()
    folds = make_folds()
    jobs = varied_jobs(VARIANTS[name])
    stacked = collect(features, targets, folds, jobs, chunk=len(jobs))
    stopped_early = 0
    for job, ours in zip(jobs, stacked, strict=True):
        predictions, best_epoch, epochs, losses = naive(features, targets, folds, job)
        assert not ours["diverged"]
        assert trained(ours) == (best_epoch, len(losses))
        assert len(losses) in (0, epochs)
        assert torch.allclose(ours["predictions"], predictions, rtol=1e-9, atol=1e-9)
        watched = ours["validation_loss"][: len(losses)].double()
        assert torch.allclose(watched, torch.tensor(losses, dtype=F64), rtol=1e-5)
        stopped_early += epochs < job.recipe.epochs
    assert stopped_early >= 2, "no head stopped early, so that path is not tested"


@pytest.mark.parametrize(("pooling", "chunk"), [("attention", 1), ("scores", 3), ("mean", 1)])
def test_a_head_does_not_depend_on_its_stack(pooling, chunk):
    """Windows of unequal number, unequal everything else; alone, in threes, or all together."""
    features, targets = make_data(windows=True)
    head = Architecture(widths=(6,), activation="tanh", pooling=pooling)
    jobs = varied_jobs(Recipe(head=head, batch_size=16, dropout=0.2), 7)
    together = collect(features, targets, make_folds(), jobs, chunk=7)
    apart = collect(features, targets, make_folds(), jobs, chunk=chunk)
    for a, b in zip(together, apart, strict=True):
        assert a["best_epoch"] == b["best_epoch"]
        assert torch.allclose(a["predictions"], b["predictions"], rtol=0, atol=1e-9)
        for name in a["params"]:
            assert torch.allclose(a["params"][name], b["params"][name], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "at"), [("sgd and dropout", 20), ("adamw and windows", 7)])
def test_a_stack_goes_on_from_a_snapshot_bit_by_bit(name, at, monkeypatch):
    """Other heads stop early: their results, and who still runs, are in the snapshot."""
    monkeypatch.setattr("qamro_cache.training.meter.KEEP_EVERY", 0.0)
    monkeypatch.setattr("qamro_cache.training.meter.KEEP_SHARE", 1e9)
    windows = name == "adamw and windows"
    pooling = "attention" if windows else "mean"
    base = Recipe(
        head=Architecture(widths=(6,), pooling=pooling),
        optimizer="adamw" if windows else "sgd",
        dropout=0.3,
        batch_size=16,
    )
    data = (*make_data(windows), make_folds())
    jobs = varied_jobs(base)
    kept = []

    def keep(positions, snapshot):
        kept.append((positions, {n: value.clone() for n, value in snapshot.items()}))

    whole = collect(*data, jobs, keep=keep, dtype=torch.float32)
    moment = kept[min(at, len(kept) - 1)]
    assert int(moment[1]["epoch"]) < int(kept[-1][1]["epoch"])
    seen = []
    again = collect(
        *data,
        jobs,
        begun=[moment],
        dtype=torch.float32,
        progress=lambda done, *_: seen.append(done),
    )
    assert seen[0] > int(moment[1]["epochs"].sum()), "what was done is not done again"
    for one, other in zip(whole, again, strict=True):
        for field in ("predictions", "validation_loss", "stability", "mean", "std"):
            torch.testing.assert_close(one[field], other[field], rtol=0, atol=0, equal_nan=True)
        assert trained(one) == trained(other)
        for param, value in one["params"].items():
            assert torch.equal(value, other["params"][param])
    assert any(len(moment[1]["ids"]) < len(jobs) for moment in kept), "no head went before others"


def test_a_snapshot_of_other_heads_is_passed_over(caplog):
    base = Recipe(head=Architecture(widths=(6,)), batch_size=16)
    data = (*make_data(), make_folds())
    jobs = varied_jobs(base, 2)
    wrong = ([0, 1], {"ids": torch.arange(2)})
    one, other = (collect(*data, jobs, begun=begun) for begun in ([], [wrong]))
    assert "is trained from its start" in caplog.text
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a["predictions"], b["predictions"])


def test_weights_are_left_out_where_nobody_asks():
    features, targets = make_data()
    jobs = [Job(Recipe(batch_size=16, epochs=2), 0, fold) for fold in (0, 1)]
    ((_, result),) = fit(features, targets, make_folds(), jobs, weights=False)
    assert result.params == {}
    expected = collect(features, targets, make_folds(), jobs, dtype=torch.float32)
    assert torch.equal(result.predictions[1], expected[1]["predictions"])


def test_kept_parameters_give_the_predictions():
    features, targets = make_data(windows=True)
    from qamro_cache.heads.network import forward

    for pooling in ("mean", "attention", "scores"):
        recipe = Recipe(head=Architecture(widths=(6,), pooling=pooling), epochs=5, lr=1e-2)
        jobs = [Job(recipe, seed, fold) for seed in (0, 1) for fold in (0, 2)]
        for job, head in zip(jobs, collect(features, targets, make_folds(), jobs), strict=True):
            scores = forward(
                recipe.head,
                {name: p[None] for name, p in head["params"].items()},
                features.windows.double(),
                features.offsets,
                features.weights.double(),
                mean=head["mean"],
                std=head["std"],
            )[0]
            y = targets.labels[0][torch.from_numpy(make_folds().train[job.fold])]
            expected = scores * y.std(correction=0) + y.mean()
            assert torch.allclose(head["predictions"], expected, atol=1e-5)


@pytest.mark.parametrize("batches", ["shared", "own"])
def test_held_out_labels_change_nothing(batches):
    """Bit for bit: not the predictions, not the epoch, not the weights."""
    features, targets = make_data()
    folds = make_folds()
    recipe = Recipe(batch_size=16, lr=1e-2, epochs=20, patience=3, batches=batches)
    jobs = [Job(recipe, seed, fold) for seed in (0, 1) for fold in range(GROUPS)]
    options = {"dtype": torch.float32, "chunk": 5}
    honest = collect(features, targets, folds, jobs, **options)
    for job in jobs[::5]:
        held = np.flatnonzero(folds.test[job.fold])
        changed = targets.labels.clone()
        changed[:, held] = changed[:, held[::-1].copy()] * 3 - 7
        after = collect(features, dataclasses.replace(targets, labels=changed), folds, [job])[0]
        again = collect(features, targets, folds, [job])[0]
        assert torch.equal(after["predictions"], again["predictions"])
        assert after["best_epoch"] == again["best_epoch"]
    # In a stack too: all held-out labels of one fold change, its own heads do not.
    held = np.flatnonzero(folds.test[3])
    changed = targets.labels.clone()
    changed[:, held] = changed[:, held[::-1].copy()] * 3 - 7
    after = collect(features, dataclasses.replace(targets, labels=changed), folds, jobs, **options)
    for job, a, b in zip(jobs, honest, after, strict=True):
        assert torch.equal(a["predictions"], b["predictions"]) == (job.fold == 3)


def test_a_held_out_clip_does_not_move_standardization():
    """An absurd embedding of a held-out clip changes that clip's prediction only."""
    features, targets = make_data()
    folds = make_folds()
    jobs = [Job(Recipe(batch_size=16, epochs=5), 0, fold) for fold in range(GROUPS)]
    before = collect(features, targets, folds, jobs)
    held = int(np.flatnonzero(folds.test[4])[0])
    windows = features.windows.clone()
    windows[held] = 1e4
    after = collect(features._replace(windows=windows), targets, folds, jobs)
    others = torch.arange(CLIPS) != held
    assert torch.equal(before[4]["predictions"][others], after[4]["predictions"][others])
    assert not torch.equal(before[0]["predictions"][others], after[0]["predictions"][others])


def test_a_diverging_head_leaves_the_others_untouched():
    features, targets = make_data()
    folds = make_folds()
    base = Recipe(batch_size=16, epochs=30, patience=30, lr=1e-2)
    for optimizer in ("sgd", "adamw"):
        sane = dataclasses.replace(base, optimizer=optimizer)
        absurd = dataclasses.replace(sane, lr=1e18 if optimizer == "sgd" else 1e30)
        jobs = [Job(sane, 0), Job(absurd, 1), Job(sane, 2, 2), Job(absurd, 3, 2), Job(sane, 4, 1)]
        mixed = collect(features, targets, folds, jobs, chunk=5, dtype=torch.float32)
        assert [head["diverged"] for head in mixed] == [False, True, False, True, False]
        assert mixed[1]["predictions"].isnan().all()
        # Without a validation set too it leaves when a step's loss is not finite, not at the end.
        assert [head["best_epoch"] for head in mixed[2:4]] == [30, 0]
        clean = collect(features, targets, folds, jobs[::2], chunk=5, dtype=torch.float32)
        for a, b in zip(mixed[::2], clean, strict=True):
            assert torch.allclose(a["predictions"], b["predictions"], atol=1e-4)
            assert a["best_epoch"] == b["best_epoch"]


def test_what_becomes_of_a_finished_head_is_not_told():
    """It stays in the stack until enough have finished, trained on for nothing, maybe to NaN."""
    features, targets = make_data()
    linear = Architecture(kind="linear", widths=())
    sane = Recipe(
        head=linear,
        loss=parse_loss("mse@standardized"),
        batch_size=16,
        epochs=60,
        patience=60,
        lr=1e-3,
    )
    wild = dataclasses.replace(sane, epochs=1, lr=1.0)
    for fold in (1, 2):
        jobs = [Job(wild, 0, fold), *(Job(sane, seed, 1) for seed in range(1, 6))]
        head = collect(features, targets, make_folds(), jobs, chunk=6, dtype=torch.float32)[0]
        alone = collect(features, targets, make_folds(), jobs[:1], dtype=torch.float32)[0]
        assert not alone["diverged"]
        assert not head["diverged"]
        assert torch.allclose(head["predictions"], alone["predictions"])


def test_history_is_what_the_metrics_say():
    """Stability of two epochs, from the predictions of heads that train for one and for two."""
    features, targets = make_data()
    folds = make_folds()
    held = folds.validation[1].copy()
    fixed = Folds(folds.train, folds.validation & False, folds.test)
    for target in (0, 1):
        recipe = Recipe(batch_size=16, epochs=3, patience=3, lr=1e-2)
        head = collect(features, targets, folds, [Job(recipe, 0, 1, target)])[0]
        jobs = [
            Job(dataclasses.replace(recipe, epochs=epochs), 0, 1, target) for epochs in (1, 2, 3)
        ]
        after = [one["predictions"] for one in collect(features, targets, fixed, jobs)]
        seen = torch.from_numpy(held) & targets.labels[target].isfinite()
        expected = [spearmanr(a[seen], b[seen])[0] for a, b in itertools.pairwise(after)]
        assert head["stability"][0].isnan()
        assert head["stability"][1:].tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_size", [3, 8, 64])
def test_steps_of_an_epoch_are_those_that_hold_something_of_the_fold(batch_size):
    targets, train = make_data()[1], np.arange(CLIPS) < np.array([[50], [9], [33], [2]])
    folds = Folds(train, train & False, ~train)
    recipe = Recipe(batch_size=batch_size, batches="own")
    jobs = [Job(recipe, 0, fold, 1) for fold in range(len(train))]
    schedule, orders = make_schedule(folds, targets, jobs)
    held = [[valid[order].any() for _, valid in schedule.epoch(0)] for order in orders]
    assert steps_per_epoch(folds, targets, recipe, 1).tolist() == [sum(one) for one in held]
    shared = dataclasses.replace(recipe, batches="shared")
    schedule, _ = make_schedule(folds, targets, [Job(shared, 0, 0, 1)])
    assert steps_per_epoch(folds, targets, shared, 1).tolist() == [len(schedule.epoch(0))] * 4


def test_a_small_set_is_passed_over_several_times():
    assert passes_notice(96, 64) == (
        "an epoch goes through the 96 training clips 4 times, so that it has 8 steps or more at "
        "--batch-size 64"
    )
    assert passes_notice(40, 64).startswith("an epoch goes through the 40 training clips 8 times")
    assert passes_notice(8 * 64, 64) == ""


def test_refused_settings():
    for change in (
        {"loss": "hubert"},
        {"lr": -1.0},
        {"momentum": 1.0},
        {"batch_size": 0},
        {"optimizer": "adam"},
        {"alpha": float("nan")},
    ):
        with pytest.raises(ValueError, match=next(iter(change))):
            make_recipe(change)
    features, targets = make_data()
    for precision in ("tf32", "bf16", "float16"):
        with pytest.raises(ValueError, match=f"precision must be .*'{precision}' on cpu"):
            collect(
                features, targets, make_folds(), [Job(Recipe())],
                precision=precision, dtype=torch.float32,
            )  # fmt: skip
    mask = np.ones((1, 4), bool)
    with pytest.raises(ValueError, match="two parts"):
        Folds(mask, mask, ~mask)
    with pytest.raises(ValueError, match="no training clip"):
        Folds(~mask, ~mask, mask)


@pytest.mark.parametrize("pooling", ["attention", "scores", "mean"])
def test_shapes_of_a_captured_epoch_change_nothing(pooling):
    """What a CUDA graph needs, on the CPU: padded windows, and one path for every step."""
    features, targets = make_data(windows=True)
    recipe = Recipe(head=Architecture(widths=(6,), pooling=pooling), batch_size=16, epochs=3)
    jobs = [Job(recipe, seed, fold) for fold in (0, 2) for seed in (0, 1)]
    rows = prepare_rows(
        recipe.head, features.windows.double(), features.offsets, features.weights.double()
    )
    offsets = None if rows.windows is None else features.offsets
    inputs = Inputs({0: rows}, offsets, targets, make_folds())
    plain, fixed = (Stack(inputs, jobs, plain_backend(recipe), F64) for _ in range(2))
    with torch.no_grad():
        for epoch in range(3):
            steps = plain.batches.epoch(epoch)
            plain.train_epoch(steps)
            caps = [fixed.batches.row_cap(step.clips.shape[1]) for step in steps]
            assert pooling == "mean" or all(
                cap > int(features.offsets.diff()[step.clips[0]].sum())
                for cap, step in zip(caps, steps, strict=True)
            )
            fixed.train_epoch(
                [
                    step._replace(everybody=False, row_cap=cap)
                    for step, cap in zip(steps, caps, strict=True)
                ]
            )
    for name, p in plain.params.items():
        assert torch.allclose(p, fixed.params[name], rtol=0, atol=1e-11)
    assert plain.batches.nobody_starves()
