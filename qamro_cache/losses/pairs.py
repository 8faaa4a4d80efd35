"""The pair form: every pair compared, a block at a time, so that memory stays O(rows * N)."""

import torch
from torch import Tensor

from qamro_cache.losses.problem import RankingProblem

# Elements of one block's comparison matrix; a few blocks of float32 stay in the L2 cache.
_BLOCK = 1 << 18


def value_and_grad(problem: RankingProblem) -> tuple[Tensor, Tensor]:
    """Loss [R] and its gradient with respect to the predictions [R, N].

    Static shapes and no reading of values on the host, so a CUDA graph can capture it.
    """
    s, n = problem.s, problem.s.shape[-1]
    rows = max(1, _BLOCK // max(1, n * n))
    columns = max(1, _BLOCK // max(1, n))
    value = s.new_empty(s.shape[0])
    grad = torch.empty_like(s)
    for start in range(0, s.shape[0], rows):
        part = problem.rows(start, start + rows)
        value[start : start + rows], grad[start : start + rows] = _some_rows(part, columns)
    return value, grad


def _some_rows(problem: RankingProblem, columns: int) -> tuple[Tensor, Tensor]:
    """All better samples `i` against `columns` worse samples `j` at a time."""
    s, y, mask = problem.s, problem.y, problem.mask
    wide = torch.promote_types(s.dtype, torch.float64 if s.shape[-1] > 4096 else s.dtype)
    total = s.new_zeros(s.shape[0], dtype=wide)
    count = s.new_zeros(s.shape[0], dtype=wide)
    grad = torch.zeros_like(s, dtype=wide)
    slope = (problem.beta - 1).unsqueeze(-1)
    for j in range(0, s.shape[-1], columns):
        block = slice(j, j + columns)
        valid = y.unsqueeze(-1) > y[:, None, block]
        if mask is not None:
            valid = valid & mask.unsqueeze(-1) & mask[:, None, block]
        count += valid.sum((-2, -1))
        hinge = torch.where(valid, s.unsqueeze(-1) - s[:, None, block], 0).clamp_(min=0)
        quality = torch.maximum(problem.quality.unsqueeze(-1), problem.quality[:, None, block])
        weight = 1 + slope * quality
        if problem.stderr is not None:
            weight = weight * reliability(problem, block)
        total += (hinge * weight).sum((-2, -1))
        active = torch.where(hinge > 0, weight, 0)
        grad -= active.sum(-1)
        grad[:, block] += active.sum(-2)
    count = count.clamp_(min=1)
    return (total / count).to(s.dtype), (grad / count.unsqueeze(-1)).to(s.dtype)


def reliability(problem: RankingProblem, block: slice) -> Tensor:
    """How surely the labels of a pair differ: 2 * Phi(z) - 1, [1 | R, N, block].

    z = |y_i - y_j| / sqrt(se_i^2 + se_j^2) is the statistic of Welch (1947), and Phi(z) the
    probability that i is the better one in Thurstone's (1927) case III. Two labels without
    any error are surely different.
    """
    assert problem.stderr is not None
    y, variance = problem.y, problem.stderr.square()
    difference = (y.unsqueeze(-1) - y[:, None, block]).abs()
    spread = (variance.unsqueeze(-1) + variance[:, None, block]).sqrt()
    exact = spread == 0
    z = difference / torch.where(exact, 1, spread)
    return torch.where(exact, 1, torch.erf(z * 0.5**0.5)).to(problem.s.dtype)
