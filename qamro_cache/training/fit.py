"""Train any list of heads in memory: into buckets of one shape, into chunks, each a stack."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from threading import Event, Lock
from typing import NamedTuple

import torch
from torch import Tensor

from qamro_cache.heads.network import Architecture, Rows, parameter_shapes, prepare_rows
from qamro_cache.training.problem import Problem
from qamro_cache.training.recipe import Folds, Job, Recipe
from qamro_cache.training.result import Result
from qamro_cache.training.stack import EVAL_CLIPS, Stack

#: (head-epochs done, of how many at most, heads that still run)
ProgressCallback = Callable[[int, int, int], None]

#: Weights, momenta and activations of a chunk on a CPU. `benchmarks/grid.py --chunks`
#: on two cores: heads of 256-64-1 by fours take a third longer than by sixteens, and by 10, 15 and
#: 30 alike.
CPU_CHUNK_BYTES = 64 << 20
#: On a GPU, the share of the free memory that the heads may take.
GPU_SHARE = 0.7
#: Steps between two looks at a GPU's finished heads, in epochs.
GPU_LOOK = 10


class Features(NamedTuple):
    """One feature of a cache in memory.

    Attributes:
        windows: [W, ...].
        offsets: [C+1] int64, the windows of each clip; every clip has one.
        weights: [W], the fraction of each window that is audio.
        text: [C, T] each clip's prompt embedding, or None.
    """

    windows: Tensor
    offsets: Tensor
    weights: Tensor
    text: Tensor | None = None


@dataclass(frozen=True)
class Labeled:
    """Labels and the clips' systems.

    Attributes:
        targets: [T, C] labels in their own units, NaN where a clip has none.
        ranges: [T, 2] the rating scales.
        systems: [C] int64, -1 for a clip of none.
    """

    targets: Tensor
    ranges: Tensor
    systems: Tensor


def fit(
    features: Features,
    labels: Labeled,
    folds: Folds,
    jobs: Sequence[Job],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    precision: str = "float32",
    order_seed: int = 0,
    initial: Mapping[int, Mapping[str, Tensor]] | None = None,
    chunk: int | None = None,
    weights: bool = True,
    progress: ProgressCallback | None = None,
) -> Iterator[tuple[list[int], Result]]:
    """Train every job's head; yield (positions among the jobs, results) chunk by chunk.

    Head k of a stack equals the same head trained alone with the same folds: nothing about a
    head depends on its neighbors. Everything is in memory; no file is read or written.

    Args:
        features: of the clips, on any device.
        labels: of the same clips.
        folds: masks over the same clips.
        jobs: the heads.
        device: where to train.
        dtype: of weights and activations.
        precision: of a GPU's float32 products: ``float32``; ``tf32``, which is faster and rounds
            their operands to 10 bits; or ``bf16``, to 7 bits, which also stores activations so.
            Weights, the optimizer's state and sums stay float32.
        order_seed: of the batches.
        initial: target -> parameters of one head to start from in place of random ones, for
            rows as the head sees them and scores in label units.
        chunk: heads in a stack at most; None: as the device's memory and caches suggest.
        weights: whether the results have the heads' weights; a grid that is only compared needs
            none, and those of a thousand heads are much to copy from a GPU.
        progress: called after every epoch of a chunk, from the thread that trains it.

    Raises:
        ValueError: a recipe that does not fit the features, or a precision without a GPU.
    """
    device = torch.device(device)
    lower = precision in ("tf32", "bf16") and dtype == torch.float32 and _runs_kernels(device)
    if precision != "float32" and not lower:
        raise ValueError(
            "precision must be float32, or tf32 or bf16 for float32 heads on a GPU, "
            f"got {precision!r} on {device.type}"
        )
    rows: dict[tuple[str, str, bool], Rows] = {}
    plan: list[tuple[list[int], Problem]] = []
    placed = [t.to(device) for t in (labels.targets.double(), labels.ranges.double())]
    systems = labels.systems.to(device)
    offsets = features.offsets.to(device)
    for positions in _buckets(jobs):
        recipe = jobs[positions[0]].recipe
        head = recipe.head
        # What `prepare_rows` looks at.
        key = (head.pooling, head.inputs, head.kind == "audiobox")
        if key not in rows:
            rows[key] = _rows(head, features, device)
        ragged = None if rows[key].windows is None else offsets
        problem = Problem(rows[key], ragged, placed[0], placed[1], folds, systems, order_seed)
        size = chunk or chunk_size(recipe, rows[key].values, len(folds.train), dtype, device)
        plan += [(part, problem) for part in _evenly(positions, size)]
    meter = _Meter(jobs, progress)

    def train(positions: list[int], problem: Problem) -> Result:
        chosen = [jobs[k] for k in positions]
        stack = Stack(problem, chosen, dtype, initial or {}, precision, weights)
        if device.type == "cuda":
            return _train_on_gpu(stack, meter)
        return _train(stack, meter)

    if device.type == "cuda":
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
        try:
            for positions, problem in plan:
                yield positions, train(positions, problem)
        finally:
            torch.set_float32_matmul_precision(before)
        return
    yield from _in_threads(plan, train, meter)


def chunk_size(
    recipe: Recipe, values: Tensor, folds: int, dtype: torch.dtype, device: torch.device
) -> int:
    """Return how many heads of a recipe to train in one stack on a device.

    On a GPU as many as its free memory takes beside each fold's standardized ``values``; on a CPU
    as many as its cache takes.
    """
    per_head = bytes_per_head(recipe, tuple(values.shape[1:]), len(values), dtype)
    if device.type == "cuda":
        # Scoring all clips at the end, and each head's labels and masks.
        widest = max([*recipe.head.widths, values.shape[-1] if values.ndim > 2 else 1])
        per_head += dtype.itemsize * (2 * min(EVAL_CLIPS, len(values)) * widest + 6 * len(values))
        free, _ = torch.cuda.mem_get_info(device)
        free -= folds * values.numel() * dtype.itemsize
        return max(1, int(GPU_SHARE * free / per_head))
    return max(4, CPU_CHUNK_BYTES // per_head)


def bytes_per_head(recipe: Recipe, row: tuple[int, ...], rows: int, dtype: torch.dtype) -> int:
    """Estimate the memory of one head in training: weights, optimizer, activations, loss."""
    shapes = parameter_shapes(recipe.head, row)
    weights = sum(torch.Size(shape).numel() for shape in shapes.values())
    copies = 3 if recipe.optimizer == "sgd" else 6
    units = sum(recipe.head.widths) + 2
    if recipe.head.kind == "audiobox":
        units += 3 * row[-1]
    batch = min(recipe.batch_size, rows)
    return dtype.itemsize * (copies * weights + 4 * batch * units + 8 * batch)


def _runs_kernels(device: torch.device) -> bool:
    """Whether Triton kernels can run: on a GPU, or by Triton's interpreter, slowly, in tests."""
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def _rows(head: Architecture, features: Features, device: torch.device) -> Rows:
    text = None if features.text is None else features.text.to(device)
    return prepare_rows(
        head,
        features.windows.to(device).float(),
        features.offsets.to(device),
        features.weights.to(device).float(),
        text,
    )


def _buckets(jobs: Sequence[Job]) -> list[list[int]]:
    """Group jobs that can share a stack, those that see the same rows side by side."""
    buckets: dict[tuple[object, ...], list[int]] = {}
    for k, job in enumerate(jobs):
        buckets.setdefault(job.recipe.bucket, []).append(k)
    return [
        sorted(positions, key=lambda k: (jobs[k].fold, jobs[k].seed))
        for positions in buckets.values()
    ]


def _evenly(positions: list[int], size: int) -> list[list[int]]:
    """Cut into chunks of at most ``size``, of nearly equal length."""
    chunks = -(-len(positions) // size)
    edges = [k * len(positions) // chunks for k in range(chunks + 1)]
    return [positions[a:b] for a, b in pairwise(edges)]


class _Meter:
    """Adds up the head-epochs of all stacks for the progress callback, and carries the stop."""

    def __init__(self, jobs: Sequence[Job], progress: ProgressCallback | None) -> None:
        self.total = sum(job.recipe.epochs for job in jobs)
        self.running = len(jobs)
        self.done = 0
        self.progress = progress
        self.lock = Lock()
        self.stop = Event()

    def advance(self, head_epochs: int, finished: int) -> None:
        with self.lock:
            self.done += head_epochs
            self.running -= finished
            if self.progress is not None:
                self.progress(self.done, self.total, self.running)


def _train(stack: Stack, meter: _Meter) -> Result:
    """Train a stack on the CPU, where looking at a result costs nothing."""
    reported, gone = 0, 0
    total = sum(job.recipe.epochs for job in stack.jobs)
    with torch.no_grad():
        epoch = 0
        while True:
            batches = stack.batches(epoch)
            stack.train_epoch(batches, [None] * len(batches))
            epoch += 1
            finished = len(stack.jobs) - int((~stack.heads["finished"]).sum())
            running = stack.retire()
            done = total if not running else int(stack.epochs.sum())
            meter.advance(done - reported, finished - gone)
            reported, gone = done, finished
            if not running:
                return stack.finish()
            if meter.stop.is_set():
                raise KeyboardInterrupt


def _train_on_gpu(stack: Stack, meter: _Meter) -> Result:
    """Train a stack on a GPU: one captured graph an epoch, a look at the heads now and then."""
    from qamro_cache.training.gpu.graph import EpochGraph

    total = sum(job.recipe.epochs for job in stack.jobs)
    reported, gone, epoch = 0, 0, 0
    with torch.no_grad():
        graph = EpochGraph(stack)
        while True:
            for _ in range(min(GPU_LOOK, stack.max_epochs - epoch)):
                graph.run(epoch)
                epoch += 1
            before = len(stack.keys)
            finished = len(stack.jobs) - int((~stack.heads["finished"]).sum())
            running = stack.retire()
            done = total if not running else int(stack.epochs.sum())
            meter.advance(done - reported, finished - gone)
            reported, gone = done, finished
            if not running:
                return stack.finish()
            if len(stack.keys) < before:
                graph = EpochGraph(stack)


def _in_threads(
    plan: Sequence[tuple[list[int], Problem]],
    train: Callable[[list[int], Problem], Result],
    meter: _Meter,
) -> Iterator[tuple[list[int], Result]]:
    """Train chunks side by side, one thread each.

    A stack's products are many and small: a core to a chunk keeps its weights in that core's
    cache and waits for nobody. It also makes a result independent of the number of cores.
    """
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(plan)))
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(
        workers, "qamro-train", initializer=torch.set_num_threads, initargs=(1,)
    )
    waiting = list(reversed(plan))
    running: dict[Future[Result], list[int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                positions, problem = waiting.pop()
                running[pool.submit(train, positions, problem)] = positions
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        meter.stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
