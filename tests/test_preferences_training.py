"""Heads trained on given pairs: against choix, scipy and a plain loop, and what must not leak."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize

from qamro_cache.datasets.preferences import Pairs
from qamro_cache.experiments.plan import _keys
from qamro_cache.losses.loss import parse_loss
from qamro_cache.losses.preferences import Verdicts, preference_loss
from qamro_cache.training.fit import fit
from qamro_cache.training.inputs import Features, Folds, Targets
from qamro_cache.training.optimizer import SGD, AdamW
from qamro_cache.training.preferences import LEARNED
from qamro_cache.training.recipe import Job, make_recipe
from qamro_cache.training.schedule import make_schedule, steps_per_epoch
from qamro_cache.training.verdicts import best_preference

F64 = torch.float64


def verdicts(heads=3, count=40, seed=0, ties=True):
    g = torch.Generator().manual_seed(seed)
    winner = torch.randint(-1, 2, (heads, count), generator=g).double()
    winner = winner if ties else torch.where(winner == 0, 1, winner)
    weight = torch.rand(heads, count, generator=g, dtype=F64)
    weight[:, ::5] = 0
    learned = torch.randn(heads, 2, generator=g, dtype=F64)
    gap = 3 * torch.randn(heads, count, generator=g, dtype=F64)
    return Verdicts(gap, winner, weight, learned, torch.full((heads,), ties))


def likelihood(gap, learned, winner, weight):
    """The mean negative log-likelihood [H] as Davidson has it: strengths and their root."""
    a, b = (gap / learned[:, :1].exp()).exp(), torch.ones_like(gap)
    even = learned[:, 1:].exp() * (a * b).sqrt()
    chosen = torch.where(winner > 0, a, torch.where(winner < 0, b, even))
    return -(weight * (chosen / (a + b + even)).log()).sum(1) / weight.sum(1)


def test_bt_is_davidsons_likelihood_and_its_gradients():
    one = verdicts()
    gap, learned = one.gap.clone().requires_grad_(), one.learned.clone().requires_grad_()
    expected = likelihood(gap, learned, one.winner, one.weight)
    expected.sum().backward()
    value, of_gap, of_learned = preference_loss(parse_loss("bt"), one)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(of_gap, gap.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(of_learned, learned.grad, rtol=1e-10, atol=1e-12)


class Wrapped(torch.autograd.Function):
    """A loss on pairs with its own gradients, for gradcheck."""

    @staticmethod
    def forward(ctx, gap, learned, text, one, numbers):
        mine = Verdicts(gap.detach(), one.winner, one.weight, learned.detach(), one.ties)
        value, of_gap, of_learned = preference_loss(parse_loss(text), mine, numbers)
        ctx.save_for_backward(of_gap, of_learned)
        return value

    @staticmethod
    def backward(ctx, grad):
        of_gap, of_learned = ctx.saved_tensors
        return grad[:, None] * of_gap, grad[:, None] * of_learned, None, None, None


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("text", ["bt", "ranknet_pairs", "0.5*bt+2*ranknet_pairs(temperature=3)"])
def test_gradients_by_gradcheck(text, ties):
    one = verdicts(count=9, ties=ties)
    loss = parse_loss(text)
    numbers = torch.tensor([loss.numbers] * 3, dtype=F64) * torch.tensor([[1.0], [2], [0.7]])
    gap, learned = one.gap.requires_grad_(), one.learned.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda g, p: Wrapped.apply(g, p, text, one, numbers), (gap, learned)
    )


def test_extreme_gaps_and_no_pairs_are_finite():
    far = Verdicts(
        torch.tensor([[800.0, -800, 0], [1, 1, 1]]), torch.tensor([[1.0, 1, 0]]),
        torch.tensor([[1.0, 1, 1], [0, 0, 0]]), torch.zeros(2, 2), torch.tensor([True, True]),
    )  # fmt: skip
    for text in ("bt", "ranknet_pairs"):
        value, of_gap, of_learned = preference_loss(parse_loss(text), far)
        for one in (value, of_gap, of_learned):
            assert one.isfinite().all()
            assert not one[1].any()


def make_pairs(clips, count, seed=0, ties=0.2, axes=1):
    """Verdicts by hidden scores, with ties."""
    random = np.random.default_rng(seed)
    hidden = random.normal(size=clips)
    first = random.integers(0, clips, count)
    ends = np.stack([first, (first + random.integers(1, clips, count)) % clips], 1)
    gap = hidden[ends[:, 0]] - hidden[ends[:, 1]]
    winner = np.where(random.random(count) < 1 / (1 + np.exp(-gap)), 1, -1)
    winner[random.random(count) < ties] = 0
    weight = random.uniform(0.5, 2, count)
    return Pairs(ends, random.integers(0, axes, count), winner, np.full(count, -1), weight), hidden


def one_hot(clips):
    offsets = torch.arange(clips + 1)
    return Features(torch.eye(clips), offsets, torch.ones(clips))


def all_train(clips):
    nothing = np.zeros((1, clips), np.bool_)
    return Folds(~nothing, nothing, nothing)


def estimates(pairs, clips, loss="bt"):
    """Scores over tau, and the tie parameter, of a linear head on one-hot rows at its optimum."""
    targets = Targets(
        torch.full((1, clips), torch.nan, dtype=F64), torch.full((1, 2), torch.nan), pairs=pairs
    )
    given = {"head": "linear", "loss": loss, "lr": 1.0, "epochs": 40, "batch_size": 1 << 14}
    jobs = [Job(make_recipe(given))]
    ((_, result),) = fit(one_hot(clips), targets, all_train(clips), jobs, dtype=F64)
    scores = result.predictions[0].numpy() / float(result.preference[0, 0])
    return scores - scores.mean(), float(result.preference[0, 1])


def test_without_ties_bradley_terry_equals_choix():
    import choix

    pairs, _ = make_pairs(8, 300, ties=0)
    plain = Pairs(pairs.clips, pairs.axis, pairs.winner, pairs.rater, np.ones(300))
    data = [tuple(ends if won > 0 else ends[::-1]) for ends, won in
            zip(pairs.clips, pairs.winner, strict=True)]  # fmt: skip
    expected = choix.opt_pairwise(8, data, alpha=0, tol=1e-12)
    found, ties = estimates(plain, 8)
    np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-4)
    assert ties == 0


def test_with_ties_it_equals_scipy_on_the_likelihood():
    pairs, _ = make_pairs(8, 400, ties=0.25, seed=1)

    def cost(x):
        gap = x[pairs.clips[:, 0]] - x[pairs.clips[:, 1]]
        a, even = np.exp(gap), np.exp(x[-1] + gap / 2)
        chosen = np.choose(pairs.winner + 1, [np.ones_like(a), even, a])
        return -(pairs.weight * np.log(chosen / (a + 1 + even))).sum() / pairs.weight.sum()

    best = minimize(cost, np.zeros(9), method="BFGS", options={"gtol": 1e-9}).x
    found, ties = estimates(pairs, 8)
    np.testing.assert_allclose(found, best[:8] - best[:8].mean(), atol=1e-4)
    np.testing.assert_allclose(ties, np.exp(best[8]), atol=1e-4)


@pytest.mark.parametrize("ties", [0, 0.3])
@pytest.mark.parametrize("unit", [1e-4, 1, 1e4])
def test_tau_is_the_likeliest_for_the_scores(ties, unit):
    """However far it is from 1: hardly any step of the weights' size would come there."""
    pairs, hidden = make_pairs(9, 200, ties=ties, seed=4)
    gap = unit * (hidden[pairs.clips[:, 0]] - hidden[pairs.clips[:, 1]])
    tau, tie = best_preference(gap, pairs.winner, pairs.weight)
    given = [torch.from_numpy(one)[None].double() for one in (pairs.winner, pairs.weight)]

    def cost(x):
        learned = torch.tensor([[x[0], x[1] if ties else -torch.inf]])
        return float(likelihood(torch.from_numpy(gap / unit)[None], learned, *given))

    tight = {"xatol": 1e-11, "fatol": 1e-16}
    best = minimize(cost, [0.0, 0], method="Nelder-Mead", options=tight).x
    assert tau / unit == pytest.approx(np.exp(best[0]), rel=1e-6)
    assert tie == pytest.approx(np.exp(best[1]) if ties else 0, rel=1e-6)


def test_tau_without_an_optimum_is_bounded():
    gap, weight = np.array([3.0, 1, -2, 0.5]), np.ones(4)
    right = np.array([1, 1, -1, 1])
    tau, tie = best_preference(gap, right, weight)
    # Laplace's rule: the mean gap by the chance that a verdict goes the other way, 1 in 6.
    chance = 1 / (1 + np.exp(-np.abs(gap) / tau))
    assert (np.abs(gap) * (chance - 5 / 6)).sum() == pytest.approx(0, abs=1e-9)
    assert tie == 0
    size = np.sqrt((gap**2).mean())
    # Scores that tell the contrary, or nothing: no more than an even chance.
    for winner in (-right, np.array([1, -1, 1, -1])):
        tau, tie = best_preference(gap, winner, weight)
        assert (tau, tie) == (pytest.approx(1e3 * size), 0)
    # Ties between the closest ones, and nothing but ties.
    for winner in (np.array([1, 1, -1, 0]), np.zeros(4, np.int64)):
        tau, tie = best_preference(gap, winner, weight)
        assert 0.1 < tau <= 1e3 * size
        assert 0 < tie < 1e3
    assert best_preference(0 * gap, right, weight) == (1, 0)
    for none in (gap[:0], gap * np.nan):
        assert np.isnan(best_preference(none, right[: len(none)], weight[: len(none)])).all()


CLIPS = 40


def material(seed=0, axes=2, count=160):
    """Features, labels on two axes of which some are unknown, pairs, and folds of five."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(CLIPS, 6, generator=g)
    labels = torch.stack([rows[:, 0] * 10 + 50, rows[:, 1] + 3]).double()
    labels[0, ::3] = torch.nan
    labels[1, 1::3] = torch.nan
    features = Features(rows, torch.arange(CLIPS + 1), torch.ones(CLIPS))
    pairs, _ = make_pairs(CLIPS, count, seed, axes=axes)
    part = np.arange(CLIPS) % 5
    test = np.stack([part == k for k in range(5)])
    stop = np.stack([part == (k + 1) % 5 for k in range(5)])
    stop[2] = False
    targets = Targets(labels, torch.tensor([[0.0, 100], [1, 5]]), pairs=pairs)
    return features, targets, Folds(~test & ~stop, stop, test)


def jobs_of(loss, **given):
    settings = {"widths": (8,), "loss": loss, "epochs": 3, "batch_size": 64, "lr": 0.01, **given}
    return [
        Job(make_recipe({**settings, "lr": [0.01, 0.03][k % 2]}), seed=k, fold=k % 5, target=k % 2)
        for k in range(7)
    ]


def run(features, targets, folds, jobs, **options):
    found = {}
    for positions, result in fit(features, targets, folds, jobs, dtype=F64, **options):
        for row, k in enumerate(positions):
            found[k] = (result.predictions[row], result.preference[row], result.best_epoch[row])
    return found


LOSSES = ["huber@standardized+0.5*bt", "bt", "ranknet_pairs(temperature=0.7)"]
#: The first is quick enough for every day.
TAKEN = [LOSSES[0], *(pytest.param(one, marks=pytest.mark.slow) for one in LOSSES[1:])]
BATCHES = ["shared", pytest.param("own", marks=pytest.mark.slow)]


@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("loss", TAKEN)
def test_a_head_of_a_stack_equals_it_alone(loss, batches):
    data, jobs = material(), jobs_of(loss, batches=batches)
    together = run(*data, jobs)
    for k, job in enumerate(jobs):
        alone = run(*data, [job])[0]
        for a, b in zip(together[k], alone, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batches", ["shared", "own"])
@pytest.mark.parametrize("loss", LOSSES[:2])
def test_an_axis_learns_the_same_beside_another(loss, batches):
    """Neither the labels nor the pairs of the other axis tell it anything, not even an order."""
    features, targets, folds = material()
    jobs = [job for job in jobs_of(loss, batches=batches) if job.target == 0]
    beside = run(features, targets, folds, jobs_of(loss, batches=batches))
    pairs = targets.pairs.on([0])
    alone = run(features, Targets(targets.labels[:1], targets.ranges[:1], pairs=pairs), folds, jobs)
    for k in range(len(jobs)):
        for a, b in zip(alone[k], beside[2 * k], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_steps_of_an_epoch_are_those_that_hold_a_clip_or_a_pair_of_the_fold(loss):
    _, targets, folds = material()
    train = folds.train & (np.arange(CLIPS) % [[1], [4], *[[1]] * (len(folds.train) - 2)] == 0)
    folds = Folds(train, train & False, train & False)
    jobs = [job for job in jobs_of(loss, batches="own", batch_size=4) if job.target == 0]
    jobs = list({job.fold: job for job in jobs}.values())
    schedule, orders = make_schedule(folds, targets, jobs)
    held = [sum(valid[k].any() for _, valid in schedule.epoch(0)) for k in orders]
    steps = steps_per_epoch(folds, targets, jobs[0].recipe, 0)
    assert [steps[job.fold] for job in jobs] == held
    assert len(set(held)) > 1


@pytest.mark.parametrize("loss", ["huber@standardized", *LOSSES[:2]])
def test_a_result_is_named_by_the_clips_and_pairs_that_batches_are_drawn_from(loss):
    """A grid reuses what other batches have not touched, and nothing else."""
    features, targets, folds = material()
    table = pd.DataFrame({"clip_id": map(str, range(CLIPS)), "system": "s"})
    of = SimpleNamespace(
        sources=SimpleNamespace(identity_sha256="1"), feature="f", text_feature="",
        origin=lambda: {"context": ""}, clips=SimpleNamespace(table=table), features=[features],
        folds=folds,
    )  # fmt: skip
    # Batches that hold all clips would be the same for both.
    jobs = [job for job in jobs_of(loss, batch_size=16) if job.target == 0][:1]

    def known(labels, pairs):
        now = Targets(labels, targets.ranges, pairs=pairs, axes=(0, 1))
        ((_, result),) = fit(features, now, folds, jobs, dtype=F64)
        (key,) = _keys(of, now, jobs, "float32")
        return key, result.predictions

    labels, other = targets.labels, targets.labels.clone()
    # Clips that have a label on the second axis alone.
    other[1, :7] = torch.nan
    pairs = targets.pairs
    fewer = pairs.only((pairs.axis == 0) | (np.arange(len(pairs)) % 2 == 0))
    key, first = known(labels, pairs)
    for changed in ((other, pairs), (labels, fewer)):
        again, predictions = known(*changed)
        # Sums in another order round otherwise.
        assert (again == key) == torch.allclose(predictions, first, rtol=0, atol=1e-9)
    assert (known(other, pairs)[0] == key) == ("bt" in loss)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("pooling", ["mean", pytest.param("attention", marks=pytest.mark.slow)])
def test_it_is_what_anybody_would_write(loss, pooling):
    """One head by autograd and torch.optim, over the same entries."""
    features, targets, folds = material()
    given = {"pooling": pooling} if pooling != "mean" else {}
    (job,) = [job for job in jobs_of(loss, momentum=0.5, **given) if job.seed == 2]
    assert not folds.validation[job.fold].any()
    ours, preference, _ = run(features, targets, folds, [job])[0]

    from qamro_cache.heads.network import prepare_rows, score_rows
    from qamro_cache.heads.parameters import init_params

    recipe, head, pairs = job.recipe, job.recipe.head, targets.pairs
    rows = prepare_rows(
        head, features.windows.double(), features.offsets, features.weights.double()
    )
    train = torch.from_numpy(folds.train[job.fold])
    seen = rows.values[train]
    rows = rows._replace(values=(rows.values - seen.mean(0)) / seen.std(0, correction=0))
    labels = targets.labels[job.target]
    counted = train & labels.isfinite()
    mine = torch.from_numpy(pairs.axis == job.target) & train[pairs.clips].all(1)
    winner, weight = torch.from_numpy(pairs.winner), torch.from_numpy(pairs.weight) * mine
    a, b = torch.from_numpy(pairs.clips.T)
    params = init_params(head, (6,), [job.seed], dtype=F64)
    share = float((weight * (winner == 0)).sum() / weight.sum())
    learned = torch.tensor([[0.0, np.log(2 * share / (1 - share))]], dtype=F64)
    leaves = [p.requires_grad_() for p in (*params.values(), learned)]
    optimizer = torch.optim.SGD(leaves, recipe.lr, recipe.momentum)
    labeled, soft = "huber" in loss, "ranknet" in loss
    mean, std = (labels[counted].mean(), labels[counted].std(correction=0)) if labeled else (0, 1)
    schedule, _ = make_schedule(folds, targets, [job])
    steps = 0
    for epoch in range(recipe.epochs):
        for (entries,), _ in schedule.epoch(epoch):
            steps += 1
            optimizer.zero_grad()
            score = score_rows(head, params, rows)[0]
            clips, held = entries[entries < CLIPS], entries[entries >= CLIPS] - CLIPS
            cost = 0
            clips = torch.from_numpy(clips)
            clips = clips[counted[clips]]
            if labeled and len(clips):
                error = score[clips] - (labels[clips] - mean) / std
                cost = torch.nn.functional.huber_loss(error, torch.zeros_like(error))
            pick = torch.from_numpy(held)
            pick = pick[weight[pick] > 0]
            gap = (score[a[pick]] - score[b[pick]])[None]
            if soft and len(pick):
                want = (winner[pick] + 1) / 2
                each = torch.nn.functional.binary_cross_entropy_with_logits(
                    gap[0] / 0.7, want, reduction="none"
                )
                cost = cost + (weight[pick] * each).sum() / weight[pick].sum()
            elif len(pick):
                own = likelihood(gap, learned, winner[pick][None], weight[pick][None])[0]
                cost = cost + (0.5 if labeled else 1) * own
            cost.backward()
            optimizer.step()
    assert steps >= 3 * 8
    score = score_rows(head, params, rows)[0].detach()
    pick = weight > 0
    gap, kept = (score[a] - score[b])[None, pick], (winner[None, pick], weight[None, pick])
    best = minimize(
        lambda x: float(likelihood(gap, torch.tensor(x)[None], *kept)), [0.0, 0],
        method="Nelder-Mead", options={"xatol": 1e-11, "fatol": 1e-16},
    )  # fmt: skip
    tau, tie = torch.from_numpy(best.x).exp()
    tau = tau.clamp_max(1e3 * gap.square().mean().sqrt())
    if soft:
        tau, tie = torch.tensor(0.7, dtype=F64), torch.tensor(0.0, dtype=F64)
    if labeled:
        expected, tau = score * std + mean, tau * std
    else:
        heard = torch.zeros(CLIPS, dtype=torch.bool)
        heard[a[weight > 0]] = heard[b[weight > 0]] = True
        size = score[heard].std(correction=0)
        expected, tau = (score - score[heard].mean()) / size, tau / size
    torch.testing.assert_close(ours, expected[:CLIPS], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(preference, torch.stack([tau, tie]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_decay_is_for_weights(optimizer):
    """Of no gradient only the network moves; tau and the tie parameter stay where they are."""
    heads = torch.tensor([0.1, 0.2], dtype=F64)
    params = {name: torch.ones(2, 3, dtype=F64) for name in ("output.bias", LEARNED)}
    state = SimpleNamespace(lr=heads, momentum=0 * heads, weight_decay=3 * heads)
    one = optimizer(params, state)
    one.begin(None)
    for name, p in params.items():
        one.add(name, torch.zeros_like(p))
    one.step()
    torch.testing.assert_close(params["output.bias"][:, 0], 1 - 3 * heads**2)
    assert (params[LEARNED] == 1).all()


@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("loss", TAKEN)
def test_no_held_out_pair_tells_anything(loss, batches):
    """Other verdicts and weights of pairs with a held-out clip: the same to the last bit."""
    features, targets, folds = material()
    jobs = jobs_of(loss, batches=batches)
    before = run(features, targets, folds, jobs)
    random = np.random.default_rng(5)
    changed = 0
    for k, job in list(enumerate(jobs))[:2]:
        out = targets.pairs.touching(folds.test[job.fold])
        straddling = out & ~targets.pairs.within(folds.test[job.fold])
        assert straddling.any()
        winner, weight = targets.pairs.winner.copy(), targets.pairs.weight.copy()
        winner[out] = random.permutation(winner[out])
        weight[out] = random.permutation(weight[out])
        other = Pairs(targets.pairs.clips, targets.pairs.axis, winner, targets.pairs.rater, weight)
        labels = targets.labels.clone()
        held = torch.from_numpy(folds.test[job.fold])
        labels[:, held] = 7 + 0 * labels[:, held]
        again = run(features, Targets(labels, targets.ranges, pairs=other), folds, jobs)
        assert all(torch.equal(a, b) for a, b in zip(before[k], again[k], strict=True))
        changed += any(not torch.equal(before[j][0], again[j][0]) for j in range(7))
    assert changed == 2, "other folds did learn from them"


@pytest.mark.slow
def test_from_pairs_alone_labels_do_not_matter_and_units_are_standard():
    features, targets, folds = material()
    jobs = jobs_of("bt")
    before = run(features, targets, folds, jobs)
    labels = torch.where(targets.labels.isfinite(), -targets.labels * 7, torch.nan)
    again = run(features, Targets(labels, targets.ranges, pairs=targets.pairs), folds, jobs)
    for k, job in enumerate(jobs):
        assert all(torch.equal(a, b) for a, b in zip(before[k], again[k], strict=True))
        learned = targets.pairs.only(targets.pairs_of(job.target, folds.train[job.fold]))
        scores = before[k][0][torch.from_numpy(learned.named(CLIPS))]
        torch.testing.assert_close(scores.mean(), torch.zeros((), dtype=F64), atol=1e-9, rtol=0)
        torch.testing.assert_close(scores.std(correction=0), torch.ones((), dtype=F64))


@pytest.mark.slow
def test_heads_stop_by_the_pairs_of_their_validation_set():
    features, targets, folds = material()
    jobs = jobs_of("bt", epochs=60, patience=3, lr=0.1)
    epochs = [int(epoch) for _, _, epoch in run(features, targets, folds, jobs).values()]
    stopped = [epoch for k, epoch in enumerate(epochs) if folds.validation[jobs[k].fold].any()]
    assert min(stopped) < 60, epochs
    mine = targets.pairs_of(jobs[0].target, folds.validation[jobs[0].fold])
    winner = np.where(mine, -targets.pairs.winner, targets.pairs.winner)
    pairs = targets.pairs
    other = Pairs(pairs.clips, pairs.axis, winner, pairs.rater, pairs.weight)
    again = run(features, Targets(targets.labels, targets.ranges, pairs=other), folds, jobs)
    assert int(again[0][2]) != epochs[0]


def test_a_fold_without_a_training_pair_is_refused():
    features, targets, folds = material()
    few = targets.pairs.only(targets.pairs.touching(folds.test[0]))
    with pytest.raises(ValueError, match="fold 0 has no training pair of target 0"):
        run(features, Targets(targets.labels, targets.ranges, pairs=few), folds, jobs_of("bt"))


def test_a_begun_stack_goes_on_as_if_it_had_not_stopped():
    features, targets, folds = material()
    jobs = [job for job in jobs_of("huber@standardized+bt") if job.target == 0]
    from qamro_cache.heads.network import Rows
    from qamro_cache.training.backend import plain_backend
    from qamro_cache.training.inputs import Inputs
    from qamro_cache.training.stack import Stack

    inputs = Inputs({0: Rows(features.windows)}, None, targets, folds)
    stacks = [Stack(inputs, jobs, plain_backend(jobs[0].recipe), F64) for _ in range(2)]
    with torch.no_grad():
        for epoch in range(2):
            stacks[0].train_epoch(stacks[0].batches.epoch(epoch))
        stacks[1].restore({name: x.clone() for name, x in stacks[0].snapshot().items()})
        for stack in stacks:
            stack.train_epoch(stack.batches.epoch(2))
    for name, value in stacks[0].snapshot().items():
        torch.testing.assert_close(value, stacks[1].snapshot()[name], equal_nan=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("batches", ["shared", "own"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_gpu_says_the_same_of_pairs(loss, batches, optimizer):
    """In float64 the same program; in TF32, with its passes, the same heads for all one sees."""
    data = material()
    jobs = jobs_of(loss, batches=batches, optimizer=optimizer, weight_decay=0.01)
    expected, found = run(*data, jobs), run(*data, jobs, device="cuda")
    for k in expected:
        for a, b in zip(expected[k], found[k], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
    for positions, result in fit(*data, jobs, device="cuda", precision="tf32"):
        for row, k in enumerate(positions):
            torch.testing.assert_close(
                result.preference[row].double().cpu(), expected[k][1], rtol=0.05, atol=0.02
            )
