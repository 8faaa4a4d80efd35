"""The pair form: every pair compared, a block at a time, so that memory stays O(rows * N).

With s = alpha * y - p the hinge of a pair is relu(s_i - s_j), so the slope at s_i is the weight
of the violated pairs that i is the better half of, less that of those it is the worse half of:
row and column sums of the weighted comparison matrix.
"""

import torch
from torch import Tensor

from qamro_cache.losses.problem import RankingProblem, finish

# Elements of a block's comparison matrix: some for a CPU's cache, more to keep a GPU busy. A
# row's part of it never exceeds 2^24, up to which float32 counts exactly.
_BLOCK = {"cpu": 1 << 19, "cuda": 1 << 26}
_EXACT = 1 << 24


def value_and_grad(problem: RankingProblem) -> tuple[Tensor, Tensor]:
    """Loss [R] and its gradient with respect to the predictions [R, N].

    Static shapes and no reading of values on the host, so a CUDA graph can capture it.
    """
    scores, n = problem.scores(), problem.pred.shape[-1]
    s, mask = scores.to(problem.dtype), problem.mask
    # A masked sample is below all as the better half and above all as the worse half.
    better = s if mask is None else torch.where(mask, s, -torch.inf)
    worse = s if mask is None else torch.where(mask, s, torch.inf)
    extra = (problem.beta - 1).to(s.dtype).expand(len(s), 1)
    weight = (1 + (problem.beta - 1) * problem.quality()).to(s.dtype).expand(s.shape)
    # Sums of thousands of weights need double precision.
    wide = torch.float64 if n > 4096 else s.dtype
    slope, pairs = torch.zeros_like(s, dtype=wide), s.new_zeros(len(s), dtype=wide)

    block = _BLOCK.get(s.device.type, _BLOCK["cpu"])
    width = max(1, min(n, min(block, _EXACT) // max(n, 1)))
    rows = max(1, block // max(1, width * n))
    # One buffer for all blocks: fresh memory would cost more than the comparison itself.
    buffer = s.new_empty(min(rows, len(s)) * width * n)
    for i in range(0, n, width):
        here = slice(i, i + width)
        shared = _label_matrices(problem, here) if problem.shares_labels else None
        if shared:
            pairs += _count(shared[0], mask, here)
        for row in range(0, len(s), rows):
            part = slice(row, row + rows)
            labels = shared
            if labels is None:
                some = problem.rows(part)
                labels = _label_matrices(some, here)
                pairs[part] += _count(labels[0], some.mask, here)
            _, ordered, binned = labels
            i_better = better[part, here, None]
            violated = buffer[: i_better.numel() * n].view(len(i_better), -1, n)
            # Compared straight into numbers: several times faster than by way of bool.
            torch.gt(i_better, worse[part, None, :], out=violated)
            if binned is None:
                violated *= ordered
                w = weight[part, here]
                slope[part, here] += w * violated.sum(-1)
                # No matrix product: under TF32 it would round the weights to ten bits.
                violated *= w.unsqueeze(-1)
                slope[part] -= violated.sum(-2)
            else:
                plain = violated * ordered
                violated *= binned
                slope[part, here] += plain.sum(-1) + extra[part] * violated.sum(-1)
                slope[part] -= plain.sum(-2) + extra[part] * violated.sum(-2)
    return finish(scores, slope, pairs)


def _label_matrices(problem: RankingProblem, here: slice) -> tuple[Tensor, Tensor, Tensor | None]:
    """What the labels say of the pairs (here, all), as numbers [1 | R, here, N].

    Which pairs are in order, that times the pair's reliability, and that times the larger
    weight of the two bins (None without bins).
    """
    y, dtype = problem.y, problem.dtype
    valid = y.new_empty(*y[:, here].shape, y.shape[-1], dtype=dtype)
    torch.gt(y[:, here, None], y[:, None, :], out=valid)
    ordered = valid
    if problem.stderr is not None:
        # Chosen, not multiplied: a masked label may be NaN.
        ordered = torch.where(valid > 0, reliability(y, problem.stderr, here).to(dtype), 0)
    if problem.bins is None:
        return valid, ordered, None
    quality = problem.quality().to(dtype)
    return valid, ordered, ordered * torch.maximum(quality[:, here, None], quality[:, None, :])


def _count(valid: Tensor, mask: Tensor | None, here: slice) -> Tensor:
    """The number of unmasked pairs of each row [1 | R]."""
    if mask is None:
        return valid.sum((-2, -1))
    counted = mask.to(valid.dtype)
    if valid.shape[0] == 1:
        worse = counted[:, here] @ valid[0]
    else:
        worse = torch.bmm(counted[:, here].unsqueeze(1).expand(len(valid), -1, -1), valid)[:, 0]
    return (worse * counted).sum(-1)


def reliability(y: Tensor, stderr: Tensor, here: slice) -> Tensor:
    """How surely the labels of the pairs (here, all) differ: 2 Phi(z) - 1, [1 | R, here, N].

    z = |y_i - y_j| / sqrt(se_i^2 + se_j^2) is the statistic of Welch (1947), and Phi(z) the
    probability that i is the better one in Thurstone's (1927) case III. Two labels without
    any error are surely different.
    """
    y, variance = y.double(), stderr.double().square()
    difference = (y[:, here, None] - y[:, None, :]).abs()
    std = (variance[:, here, None] + variance[:, None, :]).sqrt()
    exact = ~(std > 0)  # a masked standard error may be NaN
    z = difference / torch.where(exact, 1, std)
    return torch.where(exact, 1, torch.erf(z * 0.5**0.5))
