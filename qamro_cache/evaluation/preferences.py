"""How well scores predict held-out verdicts on pairs: figures with two-way intervals.

Every figure is made of sums over rows, so that what it is without a fold or a rater takes O(rows).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from qamro_cache.datasets.preferences import Pairs
from qamro_cache.evaluation.intervals import spread
from qamro_cache.evaluation.judged import Bools, Floats, Ints
from qamro_cache.evaluation.ways import FEWEST_LABELS, Way, Ways, make_ways

#: Bins of the calibration error, of equal width from 0 to 1.
BINS = 10


@dataclass(frozen=True)
class HeldPairs:
    """Held-out pairs, a row for each fold that holds one of its clips out.

    Attributes:
        pair: [R] place among the pairs.
        fold: [R] whose heads see the row.
        winner: [R] 1, 0 or -1, as `Pairs.winner`.
        rater: [R] -1 where not known.
        weight: [R] the pair's weight, shared among its rows.
        within: [R] whether the fold holds out both clips; else the pair straddles.
        clips: [R, 2] the pair's clips.
    """

    pair: Ints
    fold: Ints
    winner: Ints
    rater: Ints
    weight: Floats
    within: Bools
    clips: Ints

    def ways(self) -> tuple[Ways, Ints]:
        """Say what intervals are over: what is held out, and raters; of one fold, clips and raters.

        Returns:
            The ways, and the row that each of their entries is of: where clips are one, each row
            is there for both of its clips.
        """
        ways = make_ways(len(self.pair), ("fold", self.fold), ("rater", self.rater))
        _, first, place = np.unique(self.pair, return_index=True, return_inverse=True)

        def of_pairs(way: Way) -> Way:
            # A pair has one rater, known or not, in all its rows.
            label = np.unique(way.label[first][place], return_inverse=True)[1]
            unknown = int((self.rater[first] < 0).sum()) if way.alone else 0
            return Way(way.noun, label, int(label.max(initial=-1)) + 1, unknown)

        rows = np.arange(len(self.pair))
        folds = [way for way in ways.over if way.noun == "fold"]
        raters = [of_pairs(way) for way in ways.over if way.noun == "rater"]
        if folds:
            return replace(ways, over=(*folds, *raters)), rows
        clips = make_ways(
            2 * len(rows), ("clip", np.unique(self.clips.T, return_inverse=True)[1].ravel())
        )
        raters = [way._replace(label=np.tile(way.label, 2)) for way in raters]
        fixed = *clips.fixed, *(way for way in ways.fixed if way.noun == "rater")
        # Verdicts on the same two clips tell nothing of others.
        over = [] if clips.fixed and raters else clips.over[:1]
        if clips.fixed and not raters:
            over = [Way("pair", np.zeros(2 * len(rows), np.int64), 1)]
        return Ways((*over, *raters), fixed), np.tile(rows, 2)

    def counts(self) -> dict[str, int]:
        """Count the held-out pairs, those within a fold, straddling ones, ties and raters."""
        _, first = np.unique(self.pair, return_index=True)
        within = np.unique(self.pair[self.within])
        return {
            "held_out": len(first),
            "within": len(within),
            "straddling": len(first) - len(within),
            "ties": int((self.winner[first] == 0).sum()),
            "raters": len(np.unique(self.rater[self.rater >= 0])),
        }


class Said(NamedTuple):
    """What a model says of held-out pairs.

    Attributes:
        gap: [R] score of clip a less that of clip b.
        tau, tie: [R] of the heads that made the row's scores; NaN of those that learned no pairs.
    """

    gap: Floats
    tau: Floats
    tie: Floats

    def chances(self) -> Floats:
        """Return the probabilities [R, 3] that a wins, of a tie, and that b wins."""
        with np.errstate(over="ignore"):
            half = self.gap / self.tau / 2
            parts = np.stack([half, np.log(np.maximum(self.tie, 1e-300)), -half], 1)
        parts = np.exp(parts - parts.max(1, keepdims=True))
        found: Floats = parts / parts.sum(1, keepdims=True)
        return found


def held_pairs(pairs: Pairs, test: Bools) -> HeldPairs:
    """Return the pairs of one axis that some fold holds out; ``test`` [F, C] says which clips."""
    fold, pair = np.nonzero(pairs.touching(test))
    times = np.bincount(pair, minlength=len(pairs))
    return HeldPairs(
        pair.astype(np.int64),
        fold.astype(np.int64),
        pairs.winner[pair],
        pairs.rater[pair],
        pairs.weight[pair] / times[pair],
        pairs.within(test)[fold, pair],
        pairs.clips[pair],
    )


class _Figure(NamedTuple):
    """A figure of sums.

    Attributes:
        terms: what is summed of each row [R, K].
        combine: the figure [...] of sums [..., K].
        learned: whether it needs tau and the tie parameter.
        most: that it can be.
    """

    terms: Callable[[HeldPairs, Said], Floats]
    combine: Callable[[Floats], Floats]
    learned: bool = True
    most: float = 1.0


def _share(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = sums[..., 0] / sums[..., 1]
    return found


def _hits(rows: HeldPairs, said: Said) -> Floats:
    """Of pairs that are no ties: right, half right where the scores are equal."""
    right = (1 + np.sign(said.gap) * rows.winner) / 2
    weight = rows.weight * (rows.winner != 0)
    return np.stack([weight * right, weight], 1)


def _surprise(rows: HeldPairs, said: Said) -> Floats:
    """Minus the logarithm of the verdict's probability; where no tie can be, it is half a win."""
    chances = np.log(np.maximum(said.chances(), 1e-300))
    cost = -np.take_along_axis(chances, 1 - rows.winner[:, None], 1)[:, 0]
    halves = -(chances[:, 0] + chances[:, 2]) / 2
    cost = np.where((rows.winner == 0) & (said.tie == 0), halves, cost)
    return np.stack([rows.weight * cost, rows.weight], 1)


def _binned(rows: HeldPairs, said: Said) -> Floats:
    """Weight, expected and given score of clip a (a tie is half) in each bin of the expected."""
    chances = said.chances()
    expected, given = chances[:, 0] + chances[:, 1] / 2, (1 + rows.winner) / 2
    place = np.minimum((expected * BINS).astype(np.int64), BINS - 1)
    sums = np.zeros((len(place), 2, BINS))
    at = np.arange(len(place))
    sums[at, 0, place] = rows.weight
    sums[at, 1, place] = rows.weight * (expected - given)
    return sums.reshape(len(place), -1)


def _miscalibration(sums: Floats) -> Floats:
    parts = sums.reshape(*sums.shape[:-1], 2, BINS)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.abs(parts[..., 1, :]).sum(-1) / parts[..., 0, :].sum(-1)
    return found


#: Figures by name. ``calibration_error``: the mean distance, over bins of the expected score, of
#: what was expected and what was given.
FIGURES = {
    "accuracy": _Figure(_hits, _share, learned=False),
    "log_loss": _Figure(_surprise, _share, most=np.inf),
    "calibration_error": _Figure(_binned, _miscalibration),
}


def pair_figures(rows: HeldPairs, said: Said) -> dict[str, dict[str, float]]:
    """Return each figure that a model has, with its 95 % interval: ``value``, ``low``, ``high``.

    Those that need tau are of the rows whose heads have one.
    """
    found = {}
    for name, figure in FIGURES.items():
        mine = _with_tau(rows, said) if figure.learned else (rows, said)
        if len(mine[0].pair):
            found[name] = _told(*_left_out(figure, mine[0], [mine[1]]), most=figure.most)
    return found


def known_rows(rows: HeldPairs, said: Said, known: Bools) -> tuple[HeldPairs, Said]:
    """Return some rows [R] and what is said of them."""
    kept = {one.name: getattr(rows, one.name)[known] for one in fields(rows)}
    return HeldPairs(**kept), Said(*(part[known] for part in said))


def _with_tau(rows: HeldPairs, said: Said) -> tuple[HeldPairs, Said]:
    return known_rows(rows, said, np.isfinite(said.tau))


def pair_difference(name: str, rows: HeldPairs, ours: Said, theirs: Said) -> dict[str, float]:
    """Return a figure of ours less that of theirs on the same rows, with its 95 % interval."""
    return _told(*_left_out(FIGURES[name], rows, [ours, theirs]), least=-np.inf, most=np.inf)


def _left_out(
    figure: _Figure, rows: HeldPairs, models: Sequence[Said]
) -> tuple[float, list[Floats] | None]:
    """Return a figure, or the difference of two models', and the same without each cluster.

    A cluster goes with all rows of its pairs: one that straddles is judged in two folds, and what
    either holds out shows in both. A clip goes with every pair that it is in.
    """
    ways, of = rows.ways()
    few = min((way.labels for way in ways.over), default=0) < FEWEST_LABELS
    signs = (1.0, -1.0)[: len(models)]
    value, parts = 0.0, [np.zeros(int(label.max(initial=0)) + 1) for label in ways.clusters()]
    _, pair = np.unique(rows.pair, return_inverse=True)
    size = int(pair.max(initial=-1)) + 1
    touched = [np.unique(label * size + pair[of]) for label in ways.clusters()]
    for sign, said in zip(signs, models, strict=True):
        terms = figure.terms(rows, said)
        total, whole = terms.sum(0), np.zeros((size, terms.shape[1]))
        np.add.at(whole, pair, terms)
        value += sign * float(figure.combine(total))
        for each, part in zip(touched, parts, strict=True):
            mine = np.zeros((len(part), terms.shape[1]))
            np.add.at(mine, each // size, whole[each % size])
            part += sign * figure.combine(total - mine)
    return value, None if few else parts


def _told(
    value: float, parts: list[Floats] | None, least: float = 0.0, most: float = np.inf
) -> dict[str, float]:
    half = np.nan
    if parts is not None:
        half = float(np.sqrt(spread([part[None] for part in parts], loss=1))[0])
    # NaN, where there are too few units, stays NaN: no interval.
    low, high = np.maximum(least, value - half), np.minimum(most, value + half)
    return {"value": value, "low": float(low), "high": float(high)}


def words_of(record: dict[str, Any]) -> str:
    """Return what was found of a model on held-out pairs as a sentence; see `pair_record`."""
    counts, shown = record["counts"], []
    for name, one in record["figures"].items():
        between = f" [{one['low']:.3f}, {one['high']:.3f}]" if np.isfinite(one["low"]) else ""
        shown.append(f"{name.replace('_', ' ')} {one['value']:.3f}{between}")
    bare = counts["without_tau"] if "log_loss" in record["figures"] else 0
    without = f"; {bare:,} in folds whose heads have no tau, without log loss" if bare else ""
    return (
        f"{counts['held_out']:,} held-out pairs ({counts['within']:,} with both clips held out, "
        f"{counts['straddling']:,} straddling; {counts['ties']:,} ties{without}): "
        f"{', '.join(shown)} ({record['population']})"
    )


def pair_record(rows: HeldPairs, said: Said) -> dict[str, Any]:
    """Return what is found of a model on held-out pairs.

    Returns:
        ``counts`` of `HeldPairs.counts`, and as ``without_tau`` the pairs in folds whose heads have
        none, as they learned from no pair; ``figures`` of `pair_figures`, the ``population`` that
        intervals are over, and the ``words``. JSON types.
    """
    figures = pair_figures(rows, said) if len(rows.pair) else {}
    bare = len(np.unique(rows.pair[np.isnan(said.tau)]))
    record: dict[str, Any] = {
        "counts": {**rows.counts(), "without_tau": bare},
        "figures": figures,
        "population": rows.ways()[0].population if len(rows.pair) else "",
    }
    return {**record, "words": words_of(record)}
