"""The raters' ceiling: what a perfect predictor would reach against the labels of these raters.

A perfect predictor knows each clip's mean over all raters that there could be. The labels are means
over the few who rated, so even it does not agree with them fully. A rating is taken as

    score = clip + rater's offset + rest,

the rest (a rater's opinion of a clip, and chance) independent of all others. The variances of the
offsets and of the rest follow from the ratings by Henderson's third method (Biometrics 9, 1953): no
clip's or system's mean is assumed to be random, and who rated what may be unbalanced. Offsets that
all clips share move no correlation; those of panels that differ do, and count as far as they
differ.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import lsqr

from qamro_cache.evaluation.judged import Floats, Ints, Judged, Rated
from qamro_cache.evaluation.metrics import METRICS
from qamro_cache.evaluation.within import blocks_of, mean_over_groups

#: Correlations that a ceiling is given for.
_CORRELATIONS = ("lcc", "srcc", "ktau")

#: True scores are drawn until this many clips were drawn, in no fewer and no more draws than these:
#: the mean's standard error is then about .002.
_CLIPS_DRAWN, _FEWEST, _MOST = 40_000, 12, 400

#: Steps of EM that a number of units affords, the most, and the points that it works on.
_UNITS_A_STEP, _MOST_STEPS, _POINTS = 15, 12, 200


class Components(NamedTuple):
    """Variances of a rating, in squared label units.

    Attributes:
        raters: of the raters' offsets.
        rest: of what clip and rater together leave over.
    """

    raters: float
    rest: float


class _Units(NamedTuple):
    """What is ranked: clips, or systems.

    Attributes:
        mean: [U] labels.
        weights: [U, R] each rater's share in a label.
        rest: [U] variance of a label's share of the rest, over a rating's.
        block: [U] those of one number are ranked among each other; -1: left out.
        within: whether correlations are the mean of the blocks' own.
    """

    mean: Floats
    weights: sparse.csr_array
    rest: Floats
    block: Ints
    within: bool = False


def components(rated: Rated) -> Components:
    """Estimate the variances of one axis' ratings by the method of moments.

    Where no rater rated two clips that others connect, offsets cannot be told from the rest, and
    the rest holds both. Needs a clip of two ratings.
    """
    _, clip = np.unique(rated.clip, return_inverse=True)
    _, rater = np.unique(rated.rater, return_inverse=True)
    ones, row = np.ones(len(clip)), np.arange(len(clip))
    of_clip, of_rater = (
        sparse.csr_array((ones, (row, code)), (len(clip), int(code.max()) + 1))
        for code in (clip, rater)
    )
    size = of_clip.sum(0)
    score = rated.score - ((of_clip.T @ rated.score) / size)[clip]
    within, free = float(score @ score), len(clip) - len(size)
    table = of_clip.T @ of_rater
    graph = sparse.block_array([[None, table], [table.T, None]])
    rank = sum(table.shape) - connected_components(graph, directed=False)[0]
    left = len(clip) - rank
    if left == 0:
        return Components(0.0, within / free)
    # Clips' means are taken out of both sides: what offsets explain is told from what clips do.
    inside = of_rater - of_clip @ (sparse.diags_array(1 / size) @ table)
    solved = lsqr(inside, score, atol=1e-10, btol=1e-10)[0]
    residual = score - inside @ solved
    rest = float(residual @ residual) / left
    spread = len(clip) - float((table.power(2).sum(1) / size).sum())
    return Components(max(0.0, (within - free * rest) / spread), rest)


def ceiling(judged: Judged) -> dict[str, Any] | None:
    """Return what a perfect predictor of the clips judged would be given, or None.

    Its LCC over clips and systems is the root of the share that true scores have in the labels'
    variance; the other correlations are means over true scores drawn as they may stand behind the
    labels. Where raters are not known a panel's offsets count as if no two clips shared a rater:
    correlations are then a lower bound.

    Args:
        judged: with single ratings; None is returned without any, or where fewer than two clips
            have two ratings.

    Returns:
        ``figures``: by name LCC, SRCC and KTAU of each level, and the MSE of clips and systems,
        which no predictor gets below on average. Systems have none where their published score is
        the truth. ``clips`` and ``raters`` counted (0 raters: not known), ``lower_bound``,
        ``variance`` of ``raters`` and ``rest`` as in `Components`, and ``panels``: the share of
        the labels' variance that comes of panels that differ.
    """
    rated = judged.ratings
    if rated is None:
        return None
    rated = rated.only(judged.known[rated.clip])
    if (np.bincount(rated.clip) >= 2).sum() < 2:
        return None
    named = bool((rated.rater >= 0).all())
    if not named:
        rated = rated._replace(rater=np.arange(len(rated.clip)))
    found = components(rated) if named else Components(0.0, _within(rated))
    rows, clips = _clips(rated)
    levels = {"clip": clips}
    has_system = judged.system[rows] >= 0
    if has_system.any() and (judged.system_truth is None or np.isnan(judged.system_truth).all()):
        levels["system"] = _systems(clips, judged.system[rows])
    if judged.group is not None:
        levels["group"] = clips._replace(block=judged.group[rows], within=True)
    generator = np.random.default_rng(0)
    figures: dict[str, float] = {}
    for level, units in levels.items():
        if level != "group":
            figures[f"{level}_mse"] = float(_noise(units, found).mean())
        reached = _correlations(units, found, generator)
        figures |= {f"{level}_{name}": value for name, value in reached.items()}
    spread = _squares(clips.mean, clips.block)
    return {
        "figures": figures,
        "clips": len(rows),
        "raters": len(np.unique(rated.rater)) if named else 0,
        "lower_bound": not named,
        "variance": found._asdict(),
        "panels": _apart(clips, found._replace(rest=0.0)) / spread if spread else 0.0,
    }


def _within(rated: Rated) -> float:
    """Return the variance of ratings about their clips' means."""
    _, clip, size = np.unique(rated.clip, return_inverse=True, return_counts=True)
    mean = np.bincount(clip, rated.score) / size
    return float(((rated.score - mean[clip]) ** 2).sum() / (len(clip) - len(size)))


def _clips(rated: Rated) -> tuple[Ints, _Units]:
    """Return the clips that have ratings, by number, and as units."""
    rows, clip, size = np.unique(rated.clip, return_inverse=True, return_counts=True)
    _, rater = np.unique(rated.rater, return_inverse=True)
    weights = sparse.csr_array((1 / size[clip], (clip, rater)))
    mean = np.bincount(clip, rated.score) / size
    block = np.zeros(len(rows), np.int64)
    return rows, _Units(mean, weights, 1 / size, block)


def _systems(clips: _Units, system: Ints) -> _Units:
    """Average clips into systems."""
    some = np.flatnonzero(system >= 0)
    _, of, size = np.unique(system[some], return_inverse=True, return_counts=True)
    take = sparse.csr_array((1 / size[of], (of, some)), (len(size), len(system)))
    rest = take.power(2) @ clips.rest
    return _Units(take @ clips.mean, take @ clips.weights, rest, np.zeros(len(size), np.int64))


def _noise(units: _Units, found: Components) -> Floats:
    """Return the variance of each unit's label about its true score [U]."""
    noise: Floats = found.raters * units.weights.power(2).sum(1) + found.rest * units.rest
    return noise


def _apart(units: _Units, found: Components) -> float:
    """Return the sum of squares about the blocks' means that noise is expected to make."""
    some = np.flatnonzero(units.block >= 0)
    _, block, size = np.unique(units.block[some], return_inverse=True, return_counts=True)
    total = sparse.csr_array((np.ones(len(some)), (block, some)), (len(size), len(units.mean)))
    shared = found.raters * (total @ units.weights).power(2).sum(1)
    shared = shared + found.rest * (total @ units.rest)
    return float(_noise(units, found)[some].sum() - (shared / size).sum())


def _squares(mean: Floats, block: Ints) -> float:
    """Return the sum of squares about the blocks' means."""
    return float(((mean - _block_means(mean, block))[block >= 0] ** 2).sum())


def _block_means(mean: Floats, block: Ints) -> Floats:
    """Return the mean of each unit's block [U]."""
    _, code = np.unique(block, return_inverse=True)
    means: Floats = (np.bincount(code, mean) / np.bincount(code))[code]
    return means


def _correlations(
    units: _Units, found: Components, generator: np.random.Generator
) -> dict[str, float]:
    """Return the mean correlation of likely true scores with the labels; NaN where undefined."""
    some = np.flatnonzero(units.block >= 0)
    block, mean = units.block[some], units.mean[some]
    squares = _squares(mean, block)
    if squares == 0:
        return dict.fromkeys(_CORRELATIONS, float("nan"))
    apart = _apart(units, found)
    if apart >= squares:
        return dict.fromkeys(_CORRELATIONS, 0.0)
    # As of labels that were not brought about their blocks' means, which takes a degree of freedom
    # of each block: true scores are drawn one by one.
    free = len(mean) - len(np.unique(block))
    noise = _noise(units, found)[some]
    noise = noise * (apart / noise.mean() / free)
    draws = int(np.clip(_CLIPS_DRAWN // len(mean), _FEWEST, _MOST))
    deviation = (mean - _block_means(mean, block)) * np.sqrt(len(mean) / free)
    true = _true_scores(deviation, noise, (squares - apart) / free, draws, generator)
    pred, target = torch.as_tensor(true), torch.as_tensor(mean)
    blocks = blocks_of(torch.as_tensor(block)) if units.within else None
    reached = {}
    for name in _CORRELATIONS:
        function = METRICS[name].function
        if blocks is None:
            values = function(pred, target)
        else:
            values = mean_over_groups(function, pred, target, None, blocks)
        reached[name] = float(values.nanmean())
    if blocks is None:
        reached["lcc"] = float(np.sqrt(1 - apart / squares))
    return reached


def _true_scores(
    labels: Floats, noise: Floats, variance: float, draws: int, generator: np.random.Generator
) -> Floats:
    """Draw true scores that may stand behind labels [draws, U].

    Of their posterior, under a distribution of true scores that starts as a normal one and is
    brought nearer to the labels by a few steps of EM (Laird, JASA 73, 1978), for scores that lie in
    clusters; many steps would find clusters in chance.

    Args:
        labels: [U] about 0.
        noise: [U] variances of the labels about the true scores.
        variance: of the true scores.
        draws: how many.
        generator: of random numbers.
    """
    reach = np.abs(labels).max() + 1e-12
    grid = np.linspace(-1.2 * reach, 1.2 * reach, _POINTS)
    noise = np.maximum(noise, (grid[1] - grid[0]) ** 2)
    likely = -((labels[:, None] - grid) ** 2) / (2 * noise[:, None])
    likely = np.exp(likely - likely.max(1, keepdims=True))
    prior = np.exp(-(grid**2) / (2 * variance))
    for _ in range(1 + min(len(labels) // _UNITS_A_STEP, _MOST_STEPS)):
        of_label = likely * prior
        of_label /= of_label.sum(1, keepdims=True)
        prior = of_label.mean(0)
    through = of_label.cumsum(1)
    chance = generator.uniform(size=(draws, len(labels)))
    return np.stack([np.interp(c, t, grid) for c, t in zip(chance.T, through, strict=True)], 1)
