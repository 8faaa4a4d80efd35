"""The sorted form: value and gradient exactly, in O(N log N) time and O(N) memory.

With s = alpha * y - p the loss is a dominance sum: i is charged for every j with y_j < y_i and
s_j < s_i. Count those j for each i, and weigh those i for each j, and the gradient and (by
Euler) the value are known. The samples, listed by ascending s, are split by label into a better
and a worse half; two running sums count every pair across the halves, and each half is split
again. The halves of all nodes of a level, and of all rows, are done at once. The idea is that
of Airola et al. (2011), linear ranking SVMs in linearithmic time, with a stable partition in
the place of their search tree; docs/loss.md has an example.
"""

import torch
from torch import Tensor

from qamro_cache.losses.problem import RankingProblem, finish

# A node of at most this many samples (a power of two) is compared pair by pair.
_LEAF = 16
# Nodes that together hold so many samples are finished before the next, to stay in the cache.
_CACHED = 1 << 16
# From this length on, one radix sort a row beats a comparison sort of all rows at once.
_RADIX = 1 << 14


def value_and_grad(problem: RankingProblem) -> tuple[Tensor, Tensor]:
    """Loss [R] and its gradient with respect to the predictions [R, N], summed in float64.

    Raises:
        ValueError: the problem has standard errors, which give each pair a weight of its own.
    """
    if problem.stderr is not None:
        raise ValueError(
            "method is 'sorted': stderr gives each pair a weight of its own, use method='pairs'"
        )
    scores, mask = problem.scores(), problem.mask
    heads, n = scores.shape
    if n == 0:
        return finish(scores, scores, scores.new_zeros(heads))
    # A masked sample is the best of all, and of weight 0: it is charged nothing and is worse
    # than nobody.
    y = problem.y if mask is None else torch.where(mask, problem.y, torch.inf)
    listed, place, pairs = _orders(scores, y.expand(heads, n))
    weight = (1 + (problem.beta - 1) * problem.quality()).expand(heads, n)
    if mask is not None:
        weight = weight * mask
    # Running sums cross rows: in units of a row's largest weight, no row's drown another's.
    unit = weight.amax(-1, keepdim=True)
    unit = torch.where(unit > 0, unit, 1)
    weight = weight / unit
    across = torch.zeros_like(scores).view(-1)
    if problem.bins is not None:
        bins = _take(problem.bins.index(y).expand(heads, n), listed)
        across[listed] = _across_bins(problem, bins.view(heads, n), listed).view(-1)
        # Better bins come first from here on, so that nobody is charged for another bin.
        order = argsort(-bins.view(heads, n).float())
        listed, place = listed.index_select(0, order), place.index_select(0, order)
    charges = _dominance(place.view(heads, n), _take(weight, listed).view(heads, n))
    within = torch.empty_like(across).scatter_(0, listed, _take(charges, place))
    return finish(scores, across.view(heads, n) + unit * within.view(heads, n), pairs)


def argsort(x: Tensor) -> Tensor:
    """Stable ascending order of each row of [R, N] floats, as indices into the flat tensor."""
    rows, n = x.shape
    integer = {torch.float64: torch.int64, torch.float32: torch.int32}.get(x.dtype)
    if x.is_cuda or n < _RADIX or integer is None:
        order = torch.sort(x, dim=-1, stable=True).indices
    else:
        # Integers of the same order, which torch sorts by radix. Adding 0 makes -0.0 into 0.0.
        bits = (x + 0.0).view(integer)
        bits = bits ^ ((bits >> (torch.iinfo(integer).bits - 1)) & torch.iinfo(integer).max)
        order = torch.stack([torch.sort(row, stable=True).indices for row in bits])
    return (order + _row_starts(rows, n, x.device)).view(-1)


def _row_starts(rows: int, n: int, device: torch.device) -> Tensor:
    return torch.arange(0, rows * n, n, device=device).unsqueeze(1)


def _take(x: Tensor, index: Tensor) -> Tensor:
    return x.reshape(-1).index_select(0, index)


def _orders(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The samples by ascending score, the place by label of each listed one, and the pairs.

    The first two are flat indices; places count from the best label. The third is the number
    of pairs of each row. Ties are ordered so that exactly the pairs with both a strictly better
    label and a strictly higher score come earlier in place and later in the list: equal labels
    are placed as they are listed, and equal scores are listed from the best label on.
    """
    heads, n = scores.shape
    listed = argsort(scores)
    by_score, labels = _take(scores, listed), _take(y, listed)
    if bool(((by_score[1:] == by_score[:-1]) & (labels[1:] != labels[:-1])).any()):
        presorted = argsort(-y)
        listed = _take(presorted, argsort(_take(scores, presorted).view(heads, n)))
        labels = _take(y, listed)
    by_label = argsort(-labels.view(heads, n))
    place = torch.empty_like(by_label)
    place.scatter_(0, by_label, torch.arange(heads * n, device=y.device))
    return listed, place, _pairs(_take(labels, by_label).view(heads, n))


def _pairs(y: Tensor) -> Tensor:
    """The number of pairs of different labels in each row [R, N] of labels in descending order.

    The infinite ones are masked and do not count.
    """
    position = torch.arange(y.shape[-1], device=y.device).expand_as(y)
    starts = torch.zeros_like(position)
    starts[:, 1:] = torch.where(y[:, 1:] != y[:, :-1], position[:, 1:], 0)
    higher = torch.cummax(starts, dim=-1).values
    masked = y.isinf()
    return (higher - masked.sum(-1, keepdim=True)).masked_fill_(masked, 0).sum(-1)


def _dominance(place: Tensor, weight: Tensor) -> Tensor:
    """The slope of each sample, by place [R, P >= N], from (place, weight) by ascending score.

    A sample's slope is its weight times the number of samples listed before it at a later
    place, less the weights of those listed after it at an earlier place.
    """
    heads, n = place.shape
    leaf, levels = n, 0
    while leaf > _LEAF:
        leaf, levels = (leaf + 1) // 2, levels + 1
    padded = leaf << levels
    device = place.device
    place = (place - _row_starts(heads, n, device)).to(torch.int32)
    if padded > n:
        # At the last places and the end of the list: no one is charged for the padding.
        last = torch.arange(n, padded, dtype=torch.int32, device=device).expand(heads, -1)
        place = torch.cat([place, last], dim=1)
        weight = torch.nn.functional.pad(weight, (0, padded - n))
    # Each leaf's places start at a multiple of _LEAF, so that a bit tells the halves of a node.
    code = (place + place.div(leaf, rounding_mode="floor") * (_LEAF - leaf)).view(-1)
    code, slope = _sweep(code, weight.reshape(-1), torch.zeros_like(weight).view(-1), leaf, levels)
    place = (code - (code // _LEAF) * (_LEAF - leaf)).view(heads, padded)
    flat = (place + _row_starts(heads, padded, device)).view(-1)
    by_place = torch.empty_like(slope).scatter_(0, flat, slope)
    return by_place.view(heads, padded)[:, :n]


def _sweep(
    code: Tensor, weight: Tensor, slope: Tensor, leaf: int, levels: int
) -> tuple[Tensor, Tensor]:
    """Charge all pairs within each run of ``leaf << levels`` samples; the codes, and slopes."""
    while levels > 0:
        node = leaf << levels
        if node <= _CACHED and len(code) >= 2 * _CACHED and not code.is_cuda:
            parts = [x.split(node * (_CACHED // node)) for x in (code, weight, slope)]
            swept = [_sweep(c, w, s, leaf, levels) for c, w, s in zip(*parts, strict=True)]
            return torch.cat([code for code, _ in swept]), torch.cat([slope for _, slope in swept])
        levels -= 1
        code, weight, slope = _split(code, weight, slope, leaf << levels, _LEAF << levels)
    return code, slope + _leaves(code.view(-1, leaf), weight.view(-1, leaf)).reshape(-1)


def _split(
    code: Tensor, weight: Tensor, slope: Tensor, half: int, bit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Charge the pairs across the halves of each node, and move its better half to the front.

    `bit` of a sample's code is set in the worse half of its node; each half has `half` samples.
    """
    nodes, size = len(code) // (2 * half), 2 * half
    column = torch.arange(size, dtype=torch.int32, device=code.device)
    node = torch.arange(nodes, dtype=torch.int32, device=code.device).unsqueeze(1)
    worse = (code & bit) >> (bit.bit_length() - 1)
    # One running sum over all nodes: half of each earlier node's samples is in it.
    worse_so_far = torch.cumsum(worse, 0, dtype=torch.int32).view(nodes, size) - node * half
    worse = worse.view(nodes, size)
    is_worse = worse.to(weight.dtype)
    weight = weight.view(nodes, size)
    better_weight = torch.addcmul(weight, weight, is_worse, value=-1)
    so_far = torch.cumsum(better_weight.view(-1), 0).view(nodes, size)
    slope = torch.addcmul(slope.view(nodes, size), better_weight, worse_so_far.to(weight.dtype))
    slope.addcmul_(so_far[:, -1:] - so_far, is_worse, value=-1)
    # A stable partition: the worse go to half + worse_so_far - 1, the others to column -
    # worse_so_far.
    target = torch.sub(column, worse_so_far)
    target.addcmul_(worse, torch.add(half - 1 - column, worse_so_far, alpha=2))
    index = (target + node.long() * size).view(-1)
    code, weight, slope = (
        torch.empty_like(x).scatter_(0, index, x)
        for x in (code, weight.reshape(-1), slope.view(-1))
    )
    return code, weight, slope


def _leaves(code: Tensor, weight: Tensor) -> Tensor:
    """The slopes [M, leaf] from the pairs within each leaf, every pair compared."""
    code, weight = code.t().contiguous(), weight.t().contiguous()
    slope = torch.zeros_like(weight)
    for gap in range(1, len(code)):
        charged = torch.empty_like(weight[gap:])
        torch.lt(code[gap:], code[:-gap], out=charged)  # a better place, later in the list
        charged *= weight[gap:]
        slope[gap:] += charged
        slope[:-gap] -= charged
    return slope.t()


def _across_bins(problem: RankingProblem, bins: Tensor, listed: Tensor) -> Tensor:
    """The slopes, as listed [R, N], from the pairs of samples in different bins.

    All labels of one bin exceed those of another, and the pair's weight is the same for all, so
    running counts over the list suffice, one a bin.
    """
    assert problem.bins is not None
    heads, n = bins.shape
    extra = problem.beta - 1
    quality = _take(problem.quality().expand(heads, n), listed).view(heads, n)
    counts = torch.ones_like(bins, dtype=torch.bool)
    if problem.mask is not None:
        counts = _take(problem.mask.expand(heads, n), listed).view(heads, n)
    slope = torch.zeros_like(quality)
    for number, value in enumerate(problem.bins.normalized()):
        so_far = torch.cumsum((bins == number) & counts, dim=-1).double()
        beaten = so_far * (bins > number) - (so_far[:, -1:] - so_far) * (bins < number)
        slope += beaten * (1 + extra * quality.clamp(min=value))
    return slope * counts
