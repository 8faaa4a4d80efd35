"""Whether raters agree: each against the others, and what a perfect predictor would reach."""

import math

import numpy as np

from qamro_cache.datasets.records import Dataset
from qamro_cache.evaluation.ceiling import ceiling
from qamro_cache.evaluation.judged import Floats, Rated, judged_of, rated
from qamro_cache.reports.numbers import number
from qamro_cache.reports.page import Block, Table, Value, Words


def rater_blocks(dataset: Dataset, index: int) -> list[Block]:
    """Return what is known of the raters of an axis; nothing without single ratings."""
    labels, axis = dataset.labels, dataset.labels.axes[index]
    ratings = rated(labels, index)
    if ratings is None or not len(ratings.score):
        return []
    blocks: list[Block] = []
    of_axis = dataset.clips, labels.mean[:, index]
    judged = judged_of(*of_axis, group_kind=dataset.group_kind, ratings=ratings)
    if found := ceiling(judged):
        shown = {
            "clips": found["figures"].get("clip_srcc"),
            "systems": found["figures"].get("system_srcc"),
            f"clips within {judged.group_noun}s": found["figures"].get("group_srcc"),
        }
        words = ", ".join(f"{number(v)} over {k}" for k, v in shown.items() if number(v) != "-")
        bound = ", a lower bound since it is not known who rated what" * found["lower_bound"]
        variance = found["variance"]
        blocks.append(Words([
            f"A perfect predictor would reach an SRCC of {words}{bound}: these labels are means "
            f"over few. Std of a rating: {number(variance['raters'] ** 0.5)} between raters, "
            f"{number(variance['rest'] ** 0.5)} within."
        ]))  # fmt: skip
    if labels.ratings is not None and labels.ratings.raters and (ratings.rater >= 0).any():
        blocks.append(_table(axis.name, ratings, labels.ratings.raters))
    return blocks


def _table(axis: str, ratings: Rated, names: tuple[str, ...]) -> Table:
    from scipy.stats import rankdata

    others = mean_of_others(ratings)
    rows: list[list[Value]] = []
    order: list[tuple[bool, float]] = []
    for rater, name in enumerate(names):
        mine = ratings.rater == rater
        if not mine.any():
            continue
        known = mine & np.isfinite(others)
        srcc = float("nan")
        if known.sum() > 2 and np.ptp(ratings.score[known]) and np.ptp(others[known]):
            both = (rankdata(ratings.score[known]), rankdata(others[known]))
            srcc = float(np.corrcoef(*both)[0, 1])
        score = ratings.score[mine]
        offset = float(np.mean(ratings.score[known] - others[known])) if known.any() else None
        rows.append([name, str(int(mine.sum())), float(score.mean()), float(score.std()), offset,
                     srcc])  # fmt: skip
        order.append((math.isnan(srcc), srcc))
    columns = ["rater", "ratings", "mean", "std", "above the others by", "SRCC with the others"]
    note = "The others: the mean of all other ratings of the same clip. Who agrees least is first."
    ranked = [row for _, row in sorted(zip(order, rows, strict=True), key=lambda one: one[0])]
    return Table(f"{axis}: raters", columns, ranked, note=note)


def mean_of_others(ratings: Rated) -> Floats:
    """Return for each rating [R] the mean of other raters' ratings of its clip, NaN for none."""
    clips = int(ratings.clip.max()) + 1
    total = np.bincount(ratings.clip, ratings.score, clips)
    count = np.bincount(ratings.clip, minlength=clips)
    # A rater's own ratings of a clip, several of them where there are replicates.
    key = ratings.clip.astype(np.int64) * (int(ratings.rater.max()) + 2) + ratings.rater + 1
    _, place = np.unique(key, return_inverse=True)
    own, times = np.bincount(place, ratings.score)[place], np.bincount(place)[place]
    left = count[ratings.clip] - times
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = np.where(left > 0, (total[ratings.clip] - own) / left, np.nan)
    return mean
