"""What ``--context group`` would give, by ridge on the same folds: told where it is cheap."""

from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.errors import QamroError
from qamro_cache.evaluation.baselines import by_fold
from qamro_cache.evaluation.compare import paired_gap
from qamro_cache.evaluation.figures import figures_of
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.score import DECIDES
from qamro_cache.evaluation.verdict import bare
from qamro_cache.experiments.clips import HeldOut
from qamro_cache.experiments.data import Material, load_material
from qamro_cache.heads.ridge import fit_ridge

#: Most multiplications of ridge's products, over all folds: some seconds.
_CHEAP = 2e10


def group_gain(
    material: Material,
    held_out: HeldOut,
    target: int,
    alone: npt.NDArray[np.float64],
    judged: Judged,
) -> dict[str, Any] | None:
    """Compare ridge with and without the company of a clip's group.

    Args:
        material: of heads that look at a clip alone.
        held_out: how clips are held out.
        target: the axis.
        alone: [C] what ridge predicts of the clips alone.
        judged: the clips.

    Returns:
        Both figures, their difference with its paired 95 % interval, and a sentence; None where
        there are no groups, or it would take long.
    """
    folds, clips = material.folds, material.clips
    rows, width = len(clips.rows), 3 * material.seen(0).windows[0].numel()
    small = min(rows, width)
    dear = len(folds.train) * small * small * max(rows, width) > _CHEAP
    apart = clips.several or not (clips.table["group"] != "").any()
    if dear or apart or material.seen(0).text is not None:
        return None
    read = material.sources, clips, folds, material.expression, "group", held_out.cv
    try:
        heard = load_material(*read)
    except QamroError:  # no company: a group of references, say
        return None
    truth, beside = clips.labels.mean[:, target], np.full(rows, np.nan)
    for view in heard.by_view():
        pred = by_fold(fit_ridge, view, truth)
        beside = np.where(np.isfinite(pred), pred, beside)
    gap = paired_gap(beside, alone, judged, DECIDES)
    if gap is None or np.isnan(gap.low):
        return None
    (both,) = figures_of(np.stack([alone, beside]), judged, only=[DECIDES]).values()
    words = (
        f"--head ridge --context group would have a {DECIDES.replace('_', ' ')} of {bare(both[1])} "
        f"where ridge alone has {bare(both[0])} (difference {bare(gap.value)}, {bare(gap.low)} to "
        f"{bare(gap.high)}): a score that compares a clip with its group's others"
    ).replace("srcc", "SRCC")
    found = {"alone": both[0], "group": both[1], "gap": gap.value, "low": gap.low, "high": gap.high}
    return {**{name: float(value) for name, value in found.items()}, "words": words}
