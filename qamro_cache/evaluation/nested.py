"""What choosing among cells is worth: each fold's cell is chosen without the clips it is judged by.

The highest of many figures flatters itself (Cawley and Talbot, "On over-fitting in model selection
and subsequent selection bias in performance evaluation", JMLR 2010). Here each fold's held-out
clips are predicted by the cell that is highest on other clips, and these predictions are scored as
those of one model.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from qamro_cache.evaluation.compare import columns
from qamro_cache.evaluation.intervals import figure_of
from qamro_cache.evaluation.judged import Bools, Floats, Ints, Judged
from qamro_cache.evaluation.score import DECIDES, score


class Inside(NamedTuple):
    """What a cell can be chosen by, fold by fold.

    Attributes:
        test: [F, C] the clips that each fold holds out.
        labels: [C] of all clips, those that no fold holds out too.
        pred: [F, C] predictions of each fold's training clips by heads that have learned neither
            these nor the fold's held-out clips, the seeds averaged; NaN where there is none. None
            where no such heads were trained.
        own: [F, C] labels in the units of ``pred``, where each fold has its own: those that its
            training clips give several listening tests. None: ``labels``.
        mean: [F] of the labels that each fold's heads have learned from, which are not ``labels``
            where raters are modeled. None: that of the clips that the fold chooses by.
    """

    test: Bools
    labels: Floats
    pred: Floats | None = None
    own: Floats | None = None
    mean: Floats | None = None

    def only(self, clips: Bools) -> "Inside":
        """Return what some clips [C] alone would choose."""
        own = None if self.own is None else np.where(clips, self.own, np.nan)
        return self._replace(labels=np.where(clips, self.labels, np.nan), own=own)


def nested_choice(
    cells: Sequence[tuple[Mapping[str, Any], Floats, Inside]],
    judged: Judged,
) -> dict[str, Any]:
    """Estimate what the best cell reaches where it was not chosen by the clips it is judged by.

    Args:
        cells: of M cells the names, the held-out predictions [C], and what to choose by.
        judged: the clips that all cells predict; see `common`.

    Returns:
        ``cells``: how many there were to choose from. ``exact``: chosen by the inner heads, None
        without them. ``approximate``: chosen by the predictions of the clips that other folds hold
        out, whose heads have learned the labels judged here; None where there is one fold. Of each
        the ``value``, ``low`` and ``high`` of the figure that decides, all ``figures``, and in
        ``chosen`` for how many folds each ``cell`` was taken. JSON types.
    """
    names, outer = [dict(one) for one, *_ in cells], np.stack([pred for _, pred, _ in cells])
    test, labels, own = cells[0][2].test, cells[0][2].labels, cells[0][2].own
    inner = [inside.pred for *_, inside in cells if inside.pred is not None]
    ways: dict[str, tuple[Sequence[Floats], Bools]] = {}
    if len(test) > 1:
        ways["approximate"] = list(outer), ~test & np.isfinite(outer).all(0)
    if len(inner) == len(cells):
        ways["exact"] = inner, np.logical_and.reduce([np.isfinite(one) for one in inner])
    found: dict[str, Any] = {"cells": len(cells), "approximate": None, "exact": None}
    for way, (chosen_by, counted) in ways.items():
        truth = own if way == "exact" and own is not None else labels
        picks = choose_by_fold(chosen_by, counted, truth)
        scored = score(pool_choices(picks, outer, test)[None], judged)
        if DECIDES not in scored["metrics"]:
            continue
        taken, folds = np.unique(picks[picks >= 0], return_counts=True)
        order = np.argsort(-folds, kind="stable")
        found[way] = {
            **{part: scored["metrics"][DECIDES][part] for part in ("value", "low", "high")},
            "figures": {name: value for name, value in columns(scored).items() if value == value},
            "clips": scored["clips"],
            "chosen": [{"cell": names[taken[k]], "folds": int(folds[k])} for k in order],
        }
    return found


def choose_by_fold(chosen_by: Sequence[Floats], counted: Bools, labels: Floats) -> Ints:
    """Return for each fold the cell whose figure is highest on the fold's own clips for choosing.

    Args:
        chosen_by: of M cells predictions [C], or [F, C] where each fold has its own.
        counted: [F, C] the clips that each fold chooses by.
        labels: [C] of all clips, or [F, C] likewise; those without a label do not count.

    Returns:
        [F] cells, of equal ones the first; -1 where no cell has a figure.
    """
    weights = torch.as_tensor(counted & np.isfinite(labels)).double()
    truth, function = torch.as_tensor(labels), figure_of(DECIDES).function
    figures = [function(torch.as_tensor(pred), truth, weights) for pred in chosen_by]
    values = torch.stack(figures).nan_to_num(-torch.inf).numpy()
    picks: Ints = np.where(np.isfinite(values).any(0), values.argmax(0), -1)
    return picks


def pool_choices(picks: Ints, outer: Floats, test: Bools) -> Floats:
    """Return [C] predictions, each fold's by the cell [M, C] that it chose; NaN where none was."""
    pooled = np.full(outer.shape[1], np.nan)
    for pick, held in zip(picks, test, strict=True):
        if pick >= 0:
            pooled[held] = outer[pick, held]
    return pooled
