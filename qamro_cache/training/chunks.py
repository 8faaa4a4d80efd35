"""Which heads train in one stack: buckets of one shape, in chunks that fit the device."""

import logging
from collections.abc import Sequence
from itertools import pairwise

import torch

from qamro_cache.heads.parameters import parameter_shapes
from qamro_cache.training.inputs import Features, Inputs
from qamro_cache.training.recipe import Job, Recipe
from qamro_cache.training.stack import EVAL_CLIPS

logger = logging.getLogger("qamro_cache")

#: Weights, momenta and activations of a chunk on a CPU. `benchmarks/grid.py --chunks`
#: on two cores: heads of 256-64-1 by fours take a third longer than by sixteens, and by 10, 15 and
#: 30 alike.
CPU_CHUNK_BYTES = 64 << 20
#: Stacks come in multiples of this, of so many heads at least: of 60 heads in three stacks one of
#: two cores trains two, and they take 1.3 times as long as in four.
CPU_STACKS, CPU_FEWEST = 4, 8
#: On a GPU, the share of the free memory that the heads may take.
GPU_SHARE = 0.7


def buckets(jobs: Sequence[Job], kinds: Sequence[object]) -> list[list[int]]:
    """Group jobs that can share a stack, those that see the same rows side by side.

    Args:
        jobs: the heads.
        kinds: of each view: those of one kind can share a stack.
    """
    found: dict[tuple[object, ...], list[int]] = {}
    for k, job in enumerate(jobs):
        # Pairs of different axes make batches of different sizes.
        target = job.target if job.recipe.loss.on_pairs.terms else None
        found.setdefault((kinds[job.view], target, *job.recipe.bucket), []).append(k)
    return [
        sorted(positions, key=lambda k: (jobs[k].view, jobs[k].fold, jobs[k].seed))
        for positions in found.values()
    ]


def evenly(positions: list[int], size: int) -> list[list[int]]:
    """Cut into chunks of at most ``size``, of nearly equal length."""
    chunks = -(-len(positions) // size)
    edges = [k * len(positions) // chunks for k in range(chunks + 1)]
    return [positions[a:b] for a, b in pairwise(edges)]


def kinds_of(views: Sequence[Features]) -> list[object]:
    """Return a kind for each view: those of one have windows of one shape, as many a clip."""
    kinds = [(tuple(one.windows.shape[1:]), tuple(one.offsets.tolist())) for one in views]
    return [kinds.index(kind) for kind in kinds]


def pieces(jobs: Sequence[Job], views: Sequence[Features], count: int) -> list[list[int]]:
    """Cut each bucket of jobs into so many pieces at most, the same on every machine."""
    cut = (evenly(one, -(-len(one) // count)) for one in buckets(jobs, kinds_of(views)))
    return [piece for bucket in cut for piece in bucket]


def chunk_size(
    jobs: Sequence[Job], inputs: Inputs, dtype: torch.dtype, device: torch.device
) -> int:
    """Return how many of a bucket's ``jobs`` to train in one stack on a device.

    On a GPU as many as its free memory takes beside the standardized rows of their folds; on a CPU
    as many as its cache takes.
    """
    recipe, values = jobs[0].recipe, next(iter(inputs.rows.values())).values
    per_head = bytes_per_head(recipe, tuple(values.shape[1:]), len(values), dtype)
    if device.type != "cuda":
        return heads_a_core(len(jobs), max(4, CPU_CHUNK_BYTES // per_head))
    rows_a_clip, validation = len(values) / inputs.num_clips, inputs.folds.validation.sum(1).max()
    # All clips are scored at the end, a block at a time; a validation set at once, every epoch.
    scored = max(min(EVAL_CLIPS, inputs.num_clips), int(validation)) * rows_a_clip
    widest = max([*recipe.head.widths, values.shape[-1] if values.ndim > 2 else 1])
    # Labels and masks of each head too.
    numbers = 2 * scored * widest + 6 * inputs.num_clips + 8 * int(validation)
    # Where folds are many, each head and each fold has its batch's rows, of a pair those of both
    # clips, and all rows are laid out once more.
    entries = min(recipe.batch_size, len(values)) * (2 if recipe.loss.on_pairs.terms else 1)
    numbers += 2 * entries * values.shape[-1]
    if recipe.loss.on_pairs.terms and inputs.targets.pairs is not None:
        numbers += 4 * len(inputs.targets.pairs)
    # Heads stand by folds: a stack of a part of the heads has that part of the folds, and one more.
    fold = values.numel() * dtype.itemsize * 2
    folds = len({(job.view, job.fold) for job in jobs})
    share = per_head + dtype.itemsize * numbers + fold * folds / len(jobs)
    free = free_on_gpu(device) - fold
    if GPU_SHARE * free < share:
        logger.warning(
            "%.1f GB are free on the GPU, hardly enough for one head of this test: heads are "
            "trained one after another", max(0, free + fold) / 1e9,
        )  # fmt: skip
    return max(1, int(GPU_SHARE * free / share))


def heads_a_core(count: int, most: int) -> int:
    """Return how many of ``count`` heads a stack of a CPU takes, at most ``most``.

    The same on every machine: as many stacks as few or many cores can share among them.
    """
    stacks = -(-count // most)
    shared = min(-(-stacks // CPU_STACKS) * CPU_STACKS, count // CPU_FEWEST)
    return -(-count // max(stacks, shared))


def free_on_gpu(device: torch.device) -> int:
    """Return the bytes that are free, those too that earlier stacks left to PyTorch's allocator."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def bytes_per_head(recipe: Recipe, row: tuple[int, ...], rows: int, dtype: torch.dtype) -> int:
    """Estimate the memory of one head in training: weights, optimizer, activations, loss."""
    shapes = parameter_shapes(recipe.head, row)
    weights = sum(torch.Size(shape).numel() for shape in shapes.values())
    copies = 3 if recipe.optimizer == "sgd" else 6
    units = sum(recipe.head.widths) + 2
    if recipe.head.mixes:
        units += 3 * row[-1]
    # A pair has the rows of two clips.
    batch = min(recipe.batch_size, rows) * (2 if recipe.loss.on_pairs.terms else 1)
    return dtype.itemsize * (copies * weights + 4 * batch * units + 8 * batch)
