"""The Triton kernels of training: by Triton's interpreter here, compiled for an H100, on a GPU."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_stack import collect, make_data, make_folds, trained, varied_jobs

from qamro_cache.evaluation import metrics
from qamro_cache.heads.network import Architecture, Rows
from qamro_cache.heads.parameters import init_params
from qamro_cache.losses.loss import parse_loss
from qamro_cache.training import check, stopping
from qamro_cache.training.batches import Batch
from qamro_cache.training.net import Dropout, LayeredNet
from qamro_cache.training.recipe import Job, Recipe
from qamro_cache.training.state import HeadState
from qamro_cache.training.step_loss import ComposedStepLoss
from qamro_cache.training.views import Group

pytest.importorskip("triton")
import triton

from qamro_cache.training.gpu import judge, kernels, passes, ranks, step_loss
from qamro_cache.training.gpu.epilogue import ACTIVATIONS

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
#: The patch below reaches into a private class, and was written for these versions of it.
PATCHED = triton.__version__.startswith("3.6.")
interpreted = pytest.mark.skipif(
    not (INTERPRETED and PATCHED), reason="run by the test below, interpreted"
)
if INTERPRETED and PATCHED:
    # Their interpreter multiplies the bits of bfloat16 operands as if they were integers.
    import triton.language as tl
    from triton.runtime import interpreter

    class _Builder(interpreter.InterpreterBuilder):
        def create_dot(self, a, b, *rest):
            a, b = (self.cast_impl(x, tl.float32) if x.dtype.is_bf16() else x for x in (a, b))
            return super().create_dot(a, b, *rest)

    interpreter.interpreter_builder.__class__ = _Builder

F32, BF16 = torch.float32, torch.bfloat16
#: Relative to the norm of what is expected. The interpreter's TF32 is float32; it cuts bfloat16.
LIMITS = {F32: 1e-5, BF16: 2e-2}


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="is that run")
@pytest.mark.skipif(
    not PATCHED,
    reason=f"the patch of Triton's interpreter is for Triton 3.6, this is {triton.__version__}: "
    "see whether it is still needed, and name this version beside it",
)
def test_the_kernels_when_interpreted():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted",
         __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
    # This one alone is skipped there.
    counts = re.search(r"^(\d+) passed, 1 skipped, \d+ deselected", run.stdout, re.MULTILINE)
    assert counts is not None, run.stdout[-3000:]
    assert int(counts[1]) >= 20


def near(ours, expected, dtype=F32):
    return (ours.double() - expected).norm() <= LIMITS[dtype] * expected.norm().clamp_min(1e-3)


def derivative(activation, y):
    return {"none": torch.ones_like(y), "relu": (y > 0).double(), "tanh": 1 - y * y}[activation]


shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 150), st.integers(1, 80), st.integers(1, 140)
)  # heads, rows, inputs, outputs: over and under every block


class Drawn:
    """Random factors of a product, and groups of heads."""

    def __init__(self, shape, dtype, shared, seed=0):
        self.shape = heads, rows, inner, width = shape
        g = torch.Generator().manual_seed(seed)
        self.group = torch.randint(2, (heads,), generator=g) if shared else None
        self.x = torch.randn(2 if shared else heads, rows, inner, generator=g).to(dtype)
        self.weight = torch.randn(heads, inner, width, generator=g)
        self.bias = torch.randn(heads, width, generator=g)
        self.dz = torch.randn(heads, rows, width, generator=g).to(dtype)
        self.generator = g

    @property
    def each(self):
        """Every head's own rows in float64."""
        x = self.x.double()
        return x if self.group is None else x[self.group]


@interpreted
@given(shapes, st.sampled_from([F32, BF16]), st.booleans(), st.sampled_from(ACTIVATIONS))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_products_interpreted(shape, dtype, shared, activation):
    heads, rows, inner, width = shape
    d = Drawn(shape, dtype, shared)
    out = torch.full((heads, rows, width), torch.nan, dtype=dtype)
    kernels.forward(d.x, d.group, d.weight, d.bias, out, activation)
    z = d.each @ d.weight.to(dtype).double() + d.bias.double().unsqueeze(1)
    expected = {"none": z, "relu": z.relu(), "tanh": z.tanh()}[activation]
    assert near(out, expected, dtype)
    kept = torch.randn(heads, rows, inner, generator=d.generator).to(dtype)
    back = torch.full_like(kept, torch.nan)
    sums = kernels.backward(d.dz, d.weight, kept, back, activation)
    dh = d.dz.double() @ d.weight.to(dtype).double().transpose(1, 2)
    expected = dh * derivative(activation, kept.double())
    assert near(back, expected, dtype)
    assert near(sums.sum(1), expected.sum(1), dtype)


def reference_step(adam, p, first, second, grad, rates):
    """The step in float64, as optimizer.py has it."""
    r = [rates.double()[:, k].reshape(-1, *[1] * (p.ndim - 1)) for k in range(4)]
    p, first, second = p.double(), first.double(), second.double()
    if adam:
        first = first + 0.1 * r[0] * (grad - first)
        second = second + 0.001 * r[0] * (grad * grad - second)
        return p * r[1] - first * r[2] / (second.sqrt() * r[3] + 1e-8), first, second
    first = r[0] * first + grad + r[1] * p
    return p - r[2] * first, first, second


def make_layer(d, adam):
    weight, bias = d.weight.clone(), d.bias.clone()
    first, second = (
        tuple(torch.rand(p.shape, generator=d.generator) for p in (weight, bias)) for _ in range(2)
    )
    return kernels.Layer(weight, bias, first, second if adam else None), second


def check_step(layer, unused, adam, before, grads, rates, dtype):
    for k, (p, grad) in enumerate(zip((layer.weight, layer.bias), grads, strict=True)):
        got = p, layer.first[k], unused[k]
        for ours, expected in zip(got, reference_step(adam, *before[k], grad, rates), strict=True):
            # A weight may nearly vanish in its step.
            error, size = (ours.double() - expected).norm(), expected.norm() + before[k][0].norm()
            assert error <= LIMITS[dtype] * size


def copies(layer, second):
    return [
        (p.clone(), layer.first[k].clone(), second[k].clone())
        for k, p in enumerate((layer.weight, layer.bias))
    ]


@interpreted
@given(shapes, st.sampled_from([F32, BF16]), st.booleans(), st.booleans())
@settings(max_examples=8, deadline=None, derandomize=True)
def test_steps_interpreted(shape, dtype, shared, adam):
    d = Drawn(shape, dtype, shared)
    rates = torch.rand(shape[0], 4, generator=d.generator)
    layer, second = make_layer(d, adam)
    before = copies(layer, second)
    parts = d.dz.float().tensor_split(3, 1)
    sums = torch.stack([part.sum(1) for part in parts], 1)
    kernels.update(d.x, d.group, d.dz, sums, layer, rates)
    grads = d.each.transpose(1, 2) @ d.dz.double(), d.dz.double().sum(1)
    check_step(layer, second, adam, before, grads, rates, F32)


@interpreted
@given(shapes, st.sampled_from([F32, BF16]), st.booleans(), st.sampled_from(ACTIVATIONS))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_output_layer_interpreted(shape, dtype, adam, activation):
    heads, rows, inner, _ = shape
    d = Drawn((heads, rows, inner, 1), dtype, shared=False)
    rates = torch.rand(heads, 4, generator=d.generator)
    scores = torch.full((heads, rows), torch.nan)
    kernels.score(d.x, d.weight, d.bias, scores)
    assert near(scores, (d.each @ d.weight.double()).squeeze(2) + d.bias.double())
    layer, second = make_layer(d, adam)
    before = copies(layer, second)
    grad, dz = torch.randn(heads, rows, generator=d.generator), torch.empty_like(d.x)
    sums = kernels.score_update(d.x, grad, dz, layer, rates, activation)
    g = grad.double().unsqueeze(2)
    check_step(layer, second, adam, before, (d.each.transpose(1, 2) @ g, g.sum(1)), rates, F32)
    expected = g * d.weight.double().transpose(1, 2) * derivative(activation, d.x.double())
    assert near(dz, expected, dtype)
    assert near(sums.squeeze(1), expected.sum(1))


@interpreted
@pytest.mark.parametrize("size", [(1,), (70, 31)])
def test_passes_interpreted(size):
    """The passes over memory that remain: keeping the best weights, and AdamW in float32."""
    g = torch.Generator().manual_seed(0)
    p, first, second, grad, best = (torch.rand(4, *size, generator=g) for _ in range(5))
    better = torch.tensor([True, False, False, True])
    expected = torch.where(better.reshape(-1, *[1] * len(size)), p, best)
    passes.keep(best, p, better)
    assert torch.equal(best, expected)
    rates = torch.rand(4, 4, generator=g)
    expected = reference_step(True, p, first, second, grad.double(), rates)
    passes.adamw(p, first, second, grad, rates)
    assert all(near(a, b) for a, b in zip((p, first, second), expected, strict=True))


class Recorder(dict):
    """Takes gradients as an optimizer would."""

    def add(self, name, grad):
        self[name] = grad.clone()

    def add_product(self, name, heads, left, right):
        self.setdefault(name, []).append(left @ right)


@interpreted
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_pass_between_products_interpreted(activation):
    """Scores and gradients of float32 heads, with dropout: as without the kernels."""
    from qamro_cache.training.gpu.kernel_net import PassNet

    head = Architecture(widths=(70, 9), activation=activation)
    params = init_params(head, (7,), range(3))
    rows = torch.randn(2, 21, 7, generator=torch.Generator().manual_seed(0))
    groups = [Group(Rows(rows[0]), slice(0, 1)), Group(Rows(rows[1]), slice(1, 3))]
    drop = Dropout(torch.full((3,), 0.2), torch.arange(3), torch.tensor(4))
    outcomes = []
    for net in (PassNet(head), LayeredNet(head)):
        gradients = Recorder()
        scores = net.forward(params, groups, torch.zeros(3, 2), drop)
        net.backward(torch.linspace(-1, 1, 63).reshape(3, 21), gradients)
        outcomes.append((scores, dict(gradients)))
    torch.testing.assert_close(*outcomes, rtol=1e-5, atol=1e-6)


@interpreted
def test_stability_interpreted():
    """Ties, masks, a constant, NaN and no sample at all: as the metrics have it."""
    heads, clips = 6, 70
    g = torch.Generator().manual_seed(0)
    pred, before = (torch.randint(1, 9, (heads, clips), generator=g) / k for k in (3, 1))
    mask = torch.rand(heads, clips, generator=g) < 0.8
    pred[1] = 2.5
    pred[2, 7], mask[2, 7] = torch.nan, True
    pred[3, 7], mask[3, 7] = torch.nan, False
    mask[4] = False
    mask[5, 1:] = False
    ours = ranks.stability(pred, before, mask)
    expected = metrics.srcc(pred, before, mask.double())
    assert expected.isfinite().tolist() == [True, False, False, True, False, False]
    assert torch.allclose(ours, expected, rtol=1e-12, atol=0, equal_nan=True)


def drawn_state(heads, seed):
    """Heads in every state of training, some with a loss that is NaN, infinite or the best yet."""
    g = torch.Generator().manual_seed(seed)

    def bits():
        return torch.rand(heads, generator=g) < 0.6

    def whole(high):
        return torch.randint(high, (heads,), generator=g)

    values = dict.fromkeys(item.name for item in dataclasses.fields(HeadState))
    values |= {name: bits() for name in ("has_validation", "finite", "diverged", "finished")}
    values |= {"max_epochs": whole(8), "patience": whole(4), "best_epoch": whole(6)}
    values["best_loss"] = torch.rand(heads, generator=g)
    loss, stability = torch.rand(heads, generator=g), torch.rand(heads, generator=g).double()
    loss[::7], loss[3::7] = torch.nan, torch.inf
    ids = torch.randperm(heads + 5, generator=g)[:heads]
    history = torch.full((9, 2, heads + 5), torch.nan)
    epochs = torch.zeros(heads + 5, dtype=torch.int64)
    progress = stopping.Progress(torch.tensor(5), ids, epochs, history)
    return HeadState(**values), progress, loss, stability


@interpreted
@pytest.mark.parametrize("watched", [True, False])
def test_judge_interpreted(watched):
    outcomes = []
    for form in (judge.judge, stopping.judge):
        state, progress, *seen = drawn_state(200, 0)
        better = form(state, progress, *(seen if watched else (None, None)))
        changed = {"finite", "diverged", "finished", "best_loss", "best_epoch"}
        outcomes.append([better, *progress, *(getattr(state, name) for name in sorted(changed))])
    assert 0 < outcomes[0][0].sum() < 200
    for ours, expected in zip(*outcomes, strict=True):
        assert torch.equal(ours.nan_to_num(-9), expected.nan_to_num(-9))


@interpreted
@pytest.mark.parametrize("normalize", ["batch", "train"])
@pytest.mark.parametrize("clips", [1, 70, 300])
def test_step_loss_interpreted(clips, normalize):
    """A step and a validation: as from PyTorch's operations, with clips that do not count."""
    heads, total = 3, 400
    g = torch.Generator().manual_seed(clips)
    values = dict.fromkeys(item.name for item in dataclasses.fields(HeadState))
    target = torch.randint(4, 21, (heads, total), generator=g) / 4
    ranking = f"0.5*qamro(alpha=0.3,beta=5,normalize={normalize})@standardized"
    loss = parse_loss(f"huber(delta=0.7)@standardized + {ranking}")
    assert step_loss.fuses(loss)
    validation = torch.rand(heads, clips, generator=g) < 0.7
    values |= {
        "loss_numbers": torch.tensor([loss.numbers] * heads),
        "label_mean": torch.tensor([2.0, 3.0, 4.0]), "label_std": torch.tensor([1.0, 0.5, 2.0]),
        "label_low": torch.tensor([1.0, 2.0, 1.5]), "label_high": torch.tensor([5.0, 4.0, 4.5]),
        "target": target, "train": torch.rand(heads, total, generator=g) < 0.8,
        "source": torch.zeros(heads, 0, dtype=torch.int16),
        "order": torch.tensor([0, 1, 0]), "finite": torch.ones(heads, dtype=torch.bool),
        "validation_target": target[:, :clips], "validation_mask": validation,
    }  # fmt: skip
    state = HeadState(**values)
    order = torch.stack([torch.randperm(total, generator=g)[:clips] for _ in range(2)])
    batch = Batch(order, torch.rand(2, clips, generator=g) < 0.9, everybody=False)
    scores = torch.randn(heads, clips, generator=g)
    outcomes = []
    for form in (step_loss.FusedStepLoss(state, loss), ComposedStepLoss(state, loss)):
        outcomes.append((*form.step(scores, batch), form.validation(scores)))
    (grad, mask, value), (grad_2, mask_2, value_2) = outcomes
    assert torch.equal(mask, mask_2)
    assert near(grad, grad_2.double())
    assert near(value, value_2.double())
    scores[1, 0] = torch.nan
    state.train[1], batch.valid[1] = True, True
    step_loss.FusedStepLoss(state, loss).step(scores, batch)
    assert state.finite.tolist() == [True, False, True]


RECIPES = {
    "sgd": Recipe(head=Architecture(widths=(9, 5)), batch_size=3),
    "adamw, own": Recipe(
        head=Architecture(widths=(9, 6, 5), activation="tanh", output="bounded"),
        batch_size=13, optimizer="adamw", batches="own",
    ),
}  # fmt: skip


def short_jobs(name):
    """Unequal in everything; one leaves the stack early; in some tiny batches a head rests."""
    return [
        dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, epochs=epochs))
        for job, epochs in zip(varied_jobs(RECIPES[name], 2), (2, 1), strict=True)
    ]


@interpreted
@pytest.mark.parametrize("name", RECIPES)
def test_a_stack_interpreted(name, monkeypatch):
    """Equals the torch path to 1e-5 of the labels' deviation, alone or with neighbors."""
    from qamro_cache.training.gpu.kernel_net import KernelNet

    # What is left of bfloat16 would hide a mistake.
    monkeypatch.setattr(KernelNet, "stored", F32)
    features, targets = make_data()
    jobs = short_jobs(name)
    options = {"dtype": F32, "chunk": len(jobs)}
    ours = collect(features, targets, make_folds(), jobs, precision="bf16", **options)
    theirs = collect(features, targets, make_folds(), jobs, **options)
    for job, a, b in zip(jobs, ours, theirs, strict=True):
        assert trained(a) == trained(b)
        deviation = targets.labels[job.target].nan_to_num(50).std()
        assert (a["predictions"] - b["predictions"]).abs().max() < 1e-5 * deviation
        for name in ("validation_loss", "stability"):
            assert torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-3, equal_nan=True)
    if name == "sgd":
        return  # many steps, slowly
    alone = collect(features, targets, make_folds(), jobs[:1], precision="bf16", dtype=F32)[0]
    for key, p in alone["params"].items():
        assert torch.allclose(p, ours[0]["params"][key], rtol=1e-5, atol=1e-6)


@interpreted
@pytest.mark.parametrize("kind", [0, 1])
def test_self_check_of_products_interpreted(monkeypatch, kind):
    """As it is tried on a GPU, but with few heads, and bfloat16 cut and not rounded."""
    monkeypatch.setattr(kernels, "FEW_HEADS", 2)
    monkeypatch.setattr(check, "SHAPES", [(2, *shape[1:]) for shape in check.SHAPES[kind:][:1]])
    monkeypatch.setattr(check, "OPTIMIZERS", check.OPTIMIZERS[kind:][:1])
    found = check.judge("products", torch.device("cpu"))
    assert not found["problem"], found
    assert 1e-3 < found["error"] < check.LIMITS["bf16"]


@interpreted
def test_bfloat16_interpreted():
    """Near the float32 path: to 3 % of the labels' deviation after an epoch."""
    features, targets = make_data()
    recipe = dataclasses.replace(RECIPES["sgd"], epochs=1, lr=3e-3, batch_size=16)
    jobs = [Job(recipe, 0, 0)]
    ours = collect(features, targets, make_folds(), jobs, precision="bf16", dtype=F32)
    theirs = collect(features, targets, make_folds(), jobs, dtype=F32)
    for a, b in zip(ours, theirs, strict=True):
        difference = (a["predictions"] - b["predictions"]).abs().max()
        assert 0 < difference < 3e-2 * targets.labels[0].std()


STEP = {"B1": 0.9, "B2": 0.999, "EPS_": 1e-8}
UPDATE = {**STEP, "BM": 64, "BN": 64, "BK": 128}
FORWARD = {"SHARED": True, "BACKWARD": False, "ACTIVATION": "relu", "BN": 64}
#: What a grid of MLP 256-64-1 on 512 inputs with batch 256 launches, and with what options.
COMPILED = {
    "forward": (
        kernels._product, {**FORWARD, "BM": 256, "BK": 32}, {"num_warps": 8, "num_stages": 4}
    ),
    "few": (kernels._product, {**FORWARD, "BM": 128, "BK": 64}, {}),
    "backward": (
        kernels._product,
        {**FORWARD, "SHARED": False, "BACKWARD": True, "BM": 128, "BK": 64},
        {"num_stages": 1},
    ),
    "sgd": (kernels._update, {"SHARED": True, "ADAM": False, **UPDATE}, {"num_stages": 2}),
    "adamw": (kernels._update, {"SHARED": True, "ADAM": True, **UPDATE}, {"num_stages": 2}),
    "output": (
        kernels._score_update,
        {"ADAM": True, "ACTIVATION": "relu", **STEP, "BM": 64, "BN": 64},
        {},
    ),
}  # fmt: skip


def compiled(name, capability, aligned=True):
    """A kernel compiled for a GPU that need not be here; ``aligned``: sizes are multiples of 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, constants, options = COMPILED[name]
    names = kernel.arg_names
    # Widths of the grid, or such as a user may name; going back the weight is read across.
    inner, width = (512, 256) if aligned else (500, 100)
    widths = {"inner": inner, "width": width, "w_inner": width, "w_outer": 1}
    if constants.get("BACKWARD"):
        widths |= {"w_inner": 1, "w_outer": inner}
    constants = constants | {key: widths[key] for key in names if key in widths}
    types = dict.fromkeys(names, "*fp32") | dict.fromkeys(("x", "dz", "kept", "out"), "*bf16")
    sizes = ("rows", "parts")
    types |= dict.fromkeys(sizes, "i32")
    types |= {"group": "*i64"} | dict.fromkeys(constants, "constexpr")
    places = {(names.index(key),): value for key, value in constants.items()}
    divisible = {
        (k,): [["tt.divisibility", 16]]
        for k, key in enumerate(names)
        if (k,) not in places and (aligned or key not in sizes)
    }
    source = ASTSource(kernel, {key: types[key] for key in names}, places, divisible)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def spills(made, folder):
    (folder / "cubin").write_bytes(made.asm["cubin"])
    used = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "-res-usage", folder / "cubin"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return "STACK:0 " not in used.stdout + used.stderr


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("name", COMPILED)
def test_compiles_for_a_gpu_without_spilling(name, tmp_path):
    """For an H100, in bfloat16: on tensor cores, in registers alone."""
    made = compiled(name, 90)
    assert not re.search(r"\b(atom|red)\.", made.asm["ptx"])
    assert ("wgmma" in made.asm["ptx"]) == (name != "output")
    assert not spills(made, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("capability", [80, 86, 90, 120])
@pytest.mark.parametrize("name", COMPILED)
def test_compiles_for_every_gpu(name, capability, aligned, tmp_path):
    """In the 99 KB that a block may have on the smallest, and on sizes that no block divides."""
    made = compiled(name, capability, aligned)
    assert made.metadata.shared <= 99 << 10
    code = made.asm["ptx"]
    assert not re.search(r"\b(atom|red)\.", code)
    assert name == "output" or re.search(r"mma\S*\.bf16", code)
    assert not aligned or not spills(made, tmp_path)


#: Pointers of the kernels that are few and small, by name; every other argument is a number.
POINTERS = {
    "*fp32": "x y z bias dh kept total best p first second grad rates target scores ranking slopes"
    " values before pred labels qualities loss best_loss history",
    "*u8": "mask train valid better finite validated diverged finished",
    "*i32": "clips",
    "*i64": "order max_epochs patience best_epoch epoch ids epochs",
    "*fp64": "out numbers ranges stability",
}
SMALL = {
    "srcc": (ranks._srcc, {"BLOCK": 64}),
    "loss": (step_loss._loss, {"STEP": True, "RANGED": False, "ROWS": 256, "UNROLL": 4}),
    "activate": (passes._activate, {"ACTIVATION": "relu", "BLOCK": 1024}),
    "differentiate": (passes._differentiate, {"ACTIVATION": "tanh", "BM": 64, "BN": 64}),
    "judge": (judge._judge, {"WATCHED": True, "BLOCK": 128}),
    "keep": (passes._keep, {"BLOCK": 1024}),
    "adamw": (passes._adamw, {**STEP, "BLOCK": 1024}),
}


def compiled_small(name, one, capability):
    """A small kernel for a GPU that need not be here; ``one``: sizes of 1, constants to Triton."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, constants = SMALL[name]
    names = kernel.arg_names
    types = dict.fromkeys(names, "constexpr" if one else "i32") | {
        pointer: kind
        for kind, pointers in POINTERS.items()
        for pointer in pointers.split()
        if pointer in names
    }
    places = {(k,): 1 for k, key in enumerate(names) if types[key] == "constexpr"}
    places |= {(names.index(key),): value for key, value in constants.items()}
    types |= dict.fromkeys(constants, "constexpr")
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(ASTSource(kernel, types, places), target=target)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_small_kernels_compile_for_a_gpu(name, one):
    """The interpreter takes what a compiler refuses."""
    assert not re.search(r"\b(atom|red)\.", compiled_small(name, one, 90).asm["ptx"])


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [75, 80, 86, 90, 120])
@pytest.mark.parametrize("name", SMALL)
def test_small_kernels_compile_for_every_gpu(name, capability, tmp_path):
    made = compiled_small(name, False, capability)
    assert made.metadata.shared <= 48 << 10
    assert not spills(made, tmp_path)


gpu = pytest.mark.gpu
cuda_only = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
#: Largest difference from float32 after 20 epochs, in the labels' deviation.
TOLERANCES = {"tf32": 1e-1, "bf16": 2e-1}


def gpu_jobs(optimizer):
    recipe = Recipe(
        head=Architecture(widths=(100, 33)), batch_size=16, epochs=20, patience=20, lr=1e-3,
        optimizer=optimizer,
    )  # fmt: skip
    return [Job(recipe, seed, fold) for fold in range(6) for seed in range(3)]


@gpu
@cuda_only
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", TOLERANCES)
def test_lower_precision_on_the_gpu(precision, optimizer):
    features, targets = make_data()
    jobs = gpu_jobs(optimizer)
    options = {"dtype": F32, "device": "cuda", "chunk": len(jobs)}
    ours = collect(features, targets, make_folds(), jobs, precision=precision, **options)
    theirs = collect(features, targets, make_folds(), jobs, **options)
    alone = collect(features, targets, make_folds(), jobs[4:5], precision=precision, **options)
    std = targets.labels[0].std()
    # The vendor may take another product, which rounds otherwise, when there are fewer heads.
    itself = (alone[0]["predictions"] - ours[4]["predictions"]).abs().max() / std
    pairs = zip(ours, theirs, strict=True)
    other = max(float((a["predictions"] - b["predictions"]).abs().max()) for a, b in pairs) / std
    print(f"{precision}, {optimizer}: alone {itself:.2g}, from float32 {other:.2g}")
    assert itself < {"tf32": TOLERANCES["tf32"], "bf16": 1e-5}[precision]
    assert other < TOLERANCES[precision]


@gpu
@cuda_only
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_float32_on_the_gpu_equals_float64_on_the_cpu(optimizer):
    """To 1e-3 of the labels' deviation after 20 epochs."""
    features, targets = make_data()
    jobs = gpu_jobs(optimizer)
    ours = collect(features, targets, make_folds(), jobs, dtype=F32, device="cuda")
    theirs = collect(features, targets, make_folds(), jobs)
    for a, b in zip(ours, theirs, strict=True):
        difference = (a["predictions"].double() - b["predictions"]).abs().max()
        assert difference < 1e-3 * targets.labels[0].std()


@gpu
@cuda_only
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("name", RECIPES)
def test_a_replayed_graph_of_kernels_equals_eager(monkeypatch, name, precision):
    from qamro_cache.training.gpu import graph

    features, targets = make_data()
    jobs = varied_jobs(RECIPES[name])
    options = {"device": "cuda", "dtype": F32, "chunk": len(jobs), "precision": precision}
    replayed = collect(features, targets, make_folds(), jobs, **options)
    monkeypatch.setattr(graph.GraphEpochs, "_capture", lambda self: None)
    eager = collect(features, targets, make_folds(), jobs, **options)
    for a, b in zip(replayed, eager, strict=True):
        assert a["best_epoch"] == b["best_epoch"]
        assert torch.equal(a["params"]["0.weight"], b["params"]["0.weight"])
