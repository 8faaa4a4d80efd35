"""Try families of kernels on a device against plain torch in float64.

``python -m qamro_cache.training.check DEVICE FAMILY...``, by `qamro_cache.self_check`. A family is
tried as it is used: in a stack whose other parts are plain torch, on shapes that no block divides
and on shapes that all do.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from qamro_cache.errors import words_of
from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.network import Rows
from qamro_cache.losses import pairs
from qamro_cache.losses.loss import parse_loss
from qamro_cache.losses.problem import RankingProblem, prepare
from qamro_cache.losses.qamro import choose_form
from qamro_cache.training.backend import Backend, backend_of, plain_backend
from qamro_cache.training.inputs import Folds, Inputs, Targets
from qamro_cache.training.recipe import Job, Recipe
from qamro_cache.training.stack import Stack

#: Largest error of a tensor relative to its norm, by the precision of products. An H100's bfloat16
#: comes to .08: a rounding moves a number over the kink of an activation, and Adam has no scale.
LIMITS = {"float32": 1e-3, "bf16": 0.15}
#: Heads of two folds, input width, hidden widths and batch: such as no block divides, and such as
#: all do. Every loop of a product turns twice and every layer has two tiles; the second has as many
#: heads as are given larger blocks.
SHAPES = ((3, 84, (97, 17), 150), (64, 160, (192, 64), 256))
OPTIMIZERS = ("sgd", "adamw")
CLIPS = 400

Judge = Callable[[str, torch.device], Mapping[str, object]]


def errors(family: str, device: torch.device) -> Iterator[tuple[float, float]]:
    """Yield each trial's largest error and its limit."""
    if family == "loss":
        yield from _of_the_loss(device)
        return
    # Where a pair is charged or not, a rounding makes a step: products are tried without ranking.
    loss = parse_loss("mse") if family == "products" else Recipe().loss
    precision = "bf16" if family == "products" else "float32"
    # Most of a trial is compilation: one for each optimizer.
    for (heads, width, widths, batch), optimizer in zip(SHAPES, OPTIMIZERS, strict=True):
        head = Architecture(widths=widths)
        recipe = Recipe(head=head, loss=loss, optimizer=optimizer, batch_size=batch)
        chosen = backend_of(recipe, device, precision=precision, uses=family.__eq__)
        _poison(device)
        ours = _train(recipe, heads, width, chosen, device, torch.float32)
        plain = plain_backend(recipe)
        theirs = _train(recipe, heads, width, plain, torch.device("cpu"), torch.float64)
        yield _difference(ours, theirs), LIMITS[precision]


def _of_the_loss(device: torch.device) -> Iterator[tuple[float, float]]:
    for heads, n in ((3, 70), (4, 256), (2, 300)):
        g = torch.Generator().manual_seed(n)
        y = torch.randint(4, 21, (n,), generator=g).double() / 4
        pred = (y + torch.randn(heads, n, generator=g)).float()
        mask = torch.rand(heads, n, generator=g) < 0.8
        _poison(device)
        here = _problem(*(x.to(device) for x in (pred, y, mask)))
        ours = choose_form(here, "fused")(here)
        theirs = pairs.value_and_grad(_problem(pred.double(), y, mask))
        for a, b in zip(ours, theirs, strict=True):
            yield _difference({"": a.double().cpu()}, {"": b}), LIMITS["float32"]


def _problem(pred: Tensor, y: Tensor, mask: Tensor) -> RankingProblem:
    return prepare(
        pred, y, alpha=0.2, beta=7.0, normalize="batch", label_range=None, weights=None,
        stderr=None, mask=mask,
    )  # fmt: skip


def _train(
    recipe: Recipe,
    heads: int,
    width: int,
    backend: Backend,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Return all that a few epochs change in a tiny stack, in float64."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(CLIPS, width, generator=g)
    y = (x[:, :3].sum(1) + torch.randn(CLIPS, generator=g)).double()
    # Of the second fold's validation set the opposite is true: its heads get worse.
    y[1::4] *= -1
    targets = Targets(y[None].to(device), torch.tensor([[-9.0, 9.0]]).double().to(device))
    held = np.arange(CLIPS) % 4 == np.arange(2)[:, None]
    inputs = Inputs({0: Rows(x.to(device))}, None, targets, Folds(~held, held, np.zeros_like(held)))
    jobs = [Job(recipe, seed=h % 3, fold=int(h > heads // 2)) for h in range(heads)]
    stack = Stack(inputs, jobs, backend, dtype)
    runner = backend.epochs(stack.train_epoch, stack.batches)
    with torch.no_grad(), backend.products():
        # The second is captured where graphs are, the third is another's batches in it.
        for number in range(3):
            runner.run(number)
    if getattr(runner, "eager", False):
        raise RuntimeError("an epoch cannot be captured")
    changed = {name: value.double().cpu() for name, value in stack.snapshot().items()}
    return {name: value for name, value in changed.items() if not name.startswith("results/")}


def _poison(device: torch.device) -> None:
    """Leave NaN in the memory that is taken next, so that what nobody writes is seen."""
    for size in (1 << 10, 1 << 14, 1 << 18):
        del [torch.full((size,), torch.nan, device=device) for _ in range(4)][:]


def _difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Return the largest distance of a tensor from what it should be, relative to its norm."""
    worst = 0.0
    for name, expected in theirs.items():
        known = expected.isfinite()
        if ours[name].shape != expected.shape or not known.equal(ours[name].isfinite()):
            return float("inf")
        far = (ours[name] - expected)[known].norm() / expected[known].norm().clamp_min(1e-3)
        worst = max(worst, float(far))
    return worst


def judge(family: str, device: torch.device) -> dict[str, object]:
    """Return what is found of a family: its largest error, its seconds and what is wrong."""
    start = time.perf_counter()
    record: dict[str, object] = {"family": family, "problem": ""}
    worst = 0.0
    try:
        for error, limit in errors(family, device):
            worst = max(worst, error)
            if not error <= limit:
                record["problem"] = f"differs by {error:.1g}, where {limit:g} is allowed"
                break
    except torch.OutOfMemoryError:
        record |= {"problem": "no memory is free to try it", "passing": True}
    except Exception as error:  # whatever a compiler or a driver has to say
        record["problem"] = f"{type(error).__name__}: {words_of(error)}"
    # JSON has no infinity.
    figure = worst if worst < float("inf") else None
    return record | {"error": figure, "seconds": round(time.perf_counter() - start, 2)}


def main(arguments: list[str], judge: Judge = judge) -> None:
    """Try the families and write a line for each at once: the next may end the process."""

    def tell(record: object) -> None:
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()

    device = torch.device(arguments[0])
    float(torch.ones(1, device=device).sum())
    tell("ready")
    for family in arguments[1:]:
        tell(judge(family, device))


if __name__ == "__main__":
    main(sys.argv[1:])
