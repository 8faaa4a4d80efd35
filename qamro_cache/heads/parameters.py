"""The parameters of stacked heads: their shapes, and what they are at first."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod

import torch
from torch import Tensor

from qamro_cache.devices import pinned
from qamro_cache.heads.architecture import KEEP_CLIPS, Architecture
from qamro_cache.heads.point_scores import point_shapes

SEEDS = 16  # that a thread draws from at once: to hand out one takes longer


def parameter_shapes(
    architecture: Architecture, row: Sequence[int], points: tuple[int, int] = (0, 0)
) -> dict[str, tuple[int, ...]]:
    """Return each parameter's shape for one head whose rows have shape ``row``, in a fixed order.

    Layer k is ``k.weight`` [in, out] and ``k.bias`` [out] (with ``k.norm.weight`` and
    ``k.norm.bias``), the last one ``output.weight`` and ``output.bias``; ``layers`` [L] are the
    logits of the layers' weights in a mix, ``attention`` [D] those of attention pooling. Heads
    that keep training clips have `point_shapes`, of ``points``.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    width = row[-1]
    if architecture.kind in KEEP_CLIPS:
        return point_shapes(architecture.kind, width, points)
    if architecture.mixes:
        shapes["layers"] = (row[0],)
    if architecture.pooling == "attention":
        shapes["attention"] = (width,)
    for k, out in enumerate(architecture.widths):
        shapes[f"{k}.weight"], shapes[f"{k}.bias"] = (width, out), (out,)
        if architecture.layer_norm:
            shapes[f"{k}.norm.weight"], shapes[f"{k}.norm.bias"] = (out,), (out,)
        width = out
    last = 2 if architecture.output == "gaussian" else 1
    shapes["output.weight"], shapes["output.bias"] = (width, last), (last,)
    return shapes


def init_params(
    architecture: Architecture,
    row: Sequence[int],
    seeds: Sequence[int],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Initialize as torch.nn.Linear does, uniform in 1/sqrt(in), head k from seeds[k] alone.

    Layer-weight and attention logits start at 0 (equal shares), norms at the identity.
    """
    shapes = parameter_shapes(architecture, row)
    unique = {seed: k for k, seed in enumerate(sorted(set(seeds)))}
    position = torch.tensor([unique[seed] for seed in seeds], device=device)
    fixed = {name for name in shapes if name in ("layers", "attention") or ".norm." in name}
    sizes = {name: prod(shape) for name, shape in shapes.items() if name not in fixed}
    whole = torch.empty(len(unique), sum(sizes.values()), device=device)
    stream = torch.cuda.current_stream(device) if whole.device.type == "cuda" else None

    def draw(start: int) -> None:
        some = list(unique)[start : start + SEEDS]
        rows = whole[start : start + SEEDS]
        # A GPU copies them while others are drawn.
        room = pinned(rows.shape, rows.dtype) if stream else rows
        for row, seed in zip(room, some, strict=True):
            generator = torch.Generator().manual_seed(seed)
            for part in row.split(list(sizes.values())):
                part.uniform_(generator=generator)
        if stream:
            with torch.cuda.stream(stream):
                rows.copy_(room, non_blocking=True)

    with ThreadPoolExecutor() as pool:
        list(pool.map(draw, range(0, len(unique), SEEDS)))
    parts = dict(zip(sizes, whole.split(list(sizes.values()), 1), strict=True))
    params = {}
    for name, shape in shapes.items():
        if name in fixed:
            first = float(name.endswith("norm.weight"))
            params[name] = torch.full((len(seeds), *shape), first, dtype=dtype, device=device)
        else:
            fan_in = shapes[name.replace("bias", "weight")][0]
            value = parts[name][position].mul_(2).sub_(1).mul_(fan_in**-0.5)
            params[name] = value.to(dtype).view(-1, *shape)
    return params
