"""Which heads train in one stack: buckets of one shape, in chunks that fit the device."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from qamro_cache.heads.network import parameter_shapes
from qamro_cache.training.recipe import Job, Recipe
from qamro_cache.training.stack import EVAL_CLIPS

#: Weights, momenta and activations of a chunk on a CPU. `benchmarks/grid.py --chunks`
#: on two cores: heads of 256-64-1 by fours take a third longer than by sixteens, and by 10, 15 and
#: 30 alike.
CPU_CHUNK_BYTES = 64 << 20
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
        found.setdefault((kinds[job.view], *job.recipe.bucket), []).append(k)
    return [
        sorted(positions, key=lambda k: (jobs[k].view, jobs[k].fold, jobs[k].seed))
        for positions in found.values()
    ]


def evenly(positions: list[int], size: int) -> list[list[int]]:
    """Cut into chunks of at most ``size``, of nearly equal length."""
    chunks = -(-len(positions) // size)
    edges = [k * len(positions) // chunks for k in range(chunks + 1)]
    return [positions[a:b] for a, b in pairwise(edges)]


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
        # What an earlier stack left to PyTorch's allocator is free too.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
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
