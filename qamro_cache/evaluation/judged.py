"""The clips that models are judged by. Without torch, so that a request can look at them."""

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

logger = logging.getLogger("qamro_cache")

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

#: Fewer clips or systems than this are worth a warning. Two unrelated rankings of ten have an SRCC
#: beyond 0.65 one time in twenty (the critical value of Spearman's test, two-sided); of five, 1.0
#: one time in sixty.
FEW = 10


@dataclass(frozen=True)
class Judged:
    """The clips that models are judged by, on one axis.

    Attributes:
        target: [C] labels; NaN for a clip that is not judged.
        system: [C] each clip's system, -1 for none.
        system_truth: [S] published scores of the systems; where NaN (or not given) a system's truth
            is the mean of its clips' labels, over the same clips as its prediction.
        same_scale: whether predictions are in the labels' units. Otherwise no MSE is given but
            ``mse_fit``, the error left after the best straight line (least squares).
    """

    target: Floats
    system: Ints
    system_truth: Floats | None = None
    same_scale: bool = True


def warn_of_small_numbers(axis: str, judged: Judged) -> None:
    """Log a line where the figures of an axis say nothing, or next to nothing."""
    known = np.isfinite(judged.target)
    target, system = judged.target[known], judged.system[known]
    if len(target) and np.ptp(target) == 0:
        logger.warning(
            "%s: all %d clips have the rating %g: there is no ranking to learn or to judge, and "
            "correlations are undefined (-)",
            axis,
            len(target),
            target[0],
        )
        return
    counts = [(len(target), "clip"), (len(np.unique(system[system >= 0])), "system")]
    few = [f"{n} {noun}{'s' if n > 1 else ''}" for n, noun in counts if 0 < n < FEW]
    if few:
        logger.warning(
            "%s: only %s: correlations and intervals over so few mean little (even of ten "
            "unrelated ones, one SRCC in twenty is beyond 0.65)",
            axis,
            " and ".join(few),
        )
