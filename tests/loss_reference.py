"""The QAMRO loss as a plain double loop over Python floats, written from the paper's formula."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st

# Multiples of a power of two, so that every margin, hinge and tie is exact in both codes.
ALPHAS = (0.0, 0.25, 1.0, 1024.0)
BETAS = (0.0, 0.5, 1.0, 7.0, 1e6)


def naive_qamro(
    pred: Sequence[float],
    target: Sequence[float],
    *,
    alpha: float = 0.2,
    beta: float = 7.0,
    label_range: tuple[float, float] | None = None,
    table: tuple[Sequence[float], Sequence[float]] | None = None,
    stderr: Sequence[float] | None = None,
    mask: Sequence[bool] | None = None,
) -> tuple[float, list[float]]:
    """Value and gradient; `label_range` None normalizes over the batch."""
    n = len(pred)
    keep = [i for i in range(n) if mask is None or mask[i]]
    quality = {}
    if table is not None:
        edges, values = table
        low, high = min(values), max(values)
        for i in keep:
            for k, value in enumerate(values):
                last = k == len(values) - 1
                if edges[k] <= target[i] < edges[k + 1] or (last and target[i] == edges[-1]):
                    quality[i] = (value - low) / (high - low)
        keep = [i for i in keep if i in quality]
    else:
        labels = [target[i] for i in keep]
        low, high = label_range or (min(labels, default=0.0), max(labels, default=0.0))
        for i in keep:
            share = (target[i] - low) / (high - low) if high > low else 0.0
            quality[i] = min(1.0, max(0.0, share))
    total, count, grad = 0.0, 0, [0.0] * n
    for i in keep:
        for j in keep:
            if not target[i] > target[j]:
                continue
            count += 1
            weight = 1 + (beta - 1) * max(quality[i], quality[j])
            if stderr is not None:
                spread = math.sqrt(stderr[i] ** 2 + stderr[j] ** 2)
                if spread > 0:
                    z = (target[i] - target[j]) / spread
                    weight *= math.erf(z / math.sqrt(2))
            hinge = alpha * (target[i] - target[j]) - (pred[i] - pred[j])
            if hinge > 0:
                total += weight * hinge
                grad[i] -= weight
                grad[j] += weight
    count = max(count, 1)
    return total / count, [g / count for g in grad]


@st.composite
def problems(draw: st.DrawFn, max_rows: int = 3, max_size: int = 9) -> dict[str, Any]:
    """Rows of quantized labels and predictions, with alpha, beta and mask of their own."""
    rows, size = draw(st.integers(1, max_rows)), draw(st.integers(0, max_size))
    label_levels = draw(st.integers(1, 40))
    pred_levels = draw(st.integers(0, 12))

    def table(elements: st.SearchStrategy[Any]) -> list[list[Any]]:
        row = st.lists(elements, min_size=size, max_size=size)
        return draw(st.lists(row, min_size=rows, max_size=rows))

    shared = draw(st.booleans())
    target = table(st.integers(0, label_levels).map(lambda k: 1 + k / 4))
    return {
        "pred": table(st.integers(-pred_levels, pred_levels).map(lambda k: k / 8)),
        "target": [target[0]] * rows if shared else target,
        "mask": draw(st.one_of(st.none(), st.just(table(st.booleans())))),
        "alpha": draw(st.lists(st.sampled_from(ALPHAS), min_size=rows, max_size=rows)),
        "beta": draw(st.lists(st.sampled_from(BETAS), min_size=rows, max_size=rows)),
        "label_range": draw(st.sampled_from([None, (1.0, 5.0), (2.0, 3.0)])),
        "shared": shared,
        "stderr": table(st.sampled_from([0.0, 0.25, 1.0])),
    }


def naive_rows(problem: dict[str, Any], **extra: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """`naive_qamro` of every row of a problem."""
    mask = problem["mask"]
    results = [
        naive_qamro(
            problem["pred"][row],
            problem["target"][row],
            alpha=problem["alpha"][row],
            beta=problem["beta"][row],
            label_range=problem["label_range"],
            mask=None if mask is None else mask[row],
            **{name: value[row] if name == "stderr" else value for name, value in extra.items()},
        )
        for row in range(len(problem["pred"]))
    ]
    size = len(problem["pred"][0])
    value = torch.tensor([value for value, _ in results], dtype=torch.float64)
    grad = torch.tensor([grad for _, grad in results], dtype=torch.float64)
    return value, grad.reshape(len(results), size)


def tensors(problem: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `qamro_loss` in float64; a shared target is given as [N]."""
    rows, size = len(problem["pred"]), len(problem["pred"][0])

    def shape(x: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.tensor(x, dtype=dtype).reshape(rows, size)

    target = shape(problem["target"])
    return {
        "pred": shape(problem["pred"]),
        "target": target[0] if problem["shared"] else target,
        "mask": None if problem["mask"] is None else shape(problem["mask"], torch.bool),
        "alpha": torch.tensor(problem["alpha"], dtype=torch.float64),
        "beta": torch.tensor(problem["beta"], dtype=torch.float64),
        "label_range": problem["label_range"],
        "normalize": "batch" if problem["label_range"] is None else "scale",
    }
