"""Tau and the tie parameter of a head that is done: the likeliest for its scores, by Newton."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Tau at most, in gaps (their root mean square): of scores that tell nothing of the verdicts.
MOST = 1e3
_STEPS, _CLOSE = 200, 1e-12


def best_preference(gap: Floats, winner: Ints, weight: Floats) -> tuple[float, float]:
    """Return the tau and tie parameter under which verdicts are the likeliest, given the scores.

    Bradley and Terry's model with Davidson's ties, as `losses.preferences.bt` has it. Where the
    scores tell every verdict rightly, tau would be 0 and a head certain: then they count by
    Laplace's rule, as if of n such verdicts one in n + 2 had gone the other way.

    Args:
        gap: [P] score of clip a less that of clip b.
        winner: [P] 1, 0 or -1; without a tie among them the tie parameter is 0.
        weight: [P] above 0.

    Returns:
        Both; NaN without pairs, or of scores that are not finite.
    """
    unit = float(np.sqrt(np.mean(np.square(gap)))) if len(gap) else np.nan
    if not np.isfinite(unit):
        return np.nan, np.nan
    tie = winner == 0
    nu = tie_parameter(float(weight[tie].sum() / weight.sum()))
    if unit == 0:
        return 1.0, nu
    # The likelihood is concave in 1 / tau and log nu; at 1 / tau = 0 it rises by half of this.
    if (weight * winner * gap).sum() <= 0:
        return MOST * unit, nu
    told = winner * gap
    if told[~tie].min() >= np.abs(gap[tie]).max(initial=0):
        won = np.flatnonzero(~tie)
        gap = np.concatenate([gap, gap[won]])
        winner = np.concatenate([winner, -winner[won]])
        weight = np.concatenate([weight, weight[won] / (len(won) + 1)])
    start = np.array([1.0, np.log(nu)]) if nu else np.ones(1)
    slope, *log_nu = _newton(gap / unit, winner, weight / weight.sum(), start)
    tau = unit / slope if slope * MOST > 1 else MOST * unit
    return float(tau), float(np.exp(log_nu[0])) if nu else 0.0


def tie_parameter(share: float) -> float:
    """Return the tie parameter under which equals tie with a probability, of 0.99 at most."""
    # nu / (2 + nu) is that probability.
    return 2 * share / max(1 - share, 0.01)


def _newton(gap: Floats, winner: Ints, weight: Floats, start: Floats) -> Floats:
    """Return the slope, and with ties log nu, of the least cost."""
    at, (cost, grad, curve) = start, _cost(gap, winner, weight, start)
    for _ in range(_STEPS):
        step = -np.linalg.lstsq(curve, grad, rcond=None)[0]
        # By halves until it gains what the slope promises: from anywhere it comes to the optimum.
        while (found := _cost(gap, winner, weight, at + step))[0] > cost + 1e-4 * grad @ step:
            step = step / 2
            if np.abs(step).max() < _CLOSE:
                return at
        at, (cost, grad, curve) = at + step, found
        if np.abs(step).max() < _CLOSE * (1 + np.abs(at).max()):
            break
    return at


def _cost(gap: Floats, winner: Ints, weight: Floats, at: Floats) -> tuple[float, Floats, Floats]:
    """Return the mean negative log-likelihood, its gradient and its second derivatives."""
    half, tie = at[0] * gap / 2, winner == 0
    log_sum = np.logaddexp(half, -half)
    if len(at) > 1:
        log_sum = np.logaddexp(log_sum, at[1])
    won, lost = np.exp(half - log_sum), np.exp(-half - log_sum)
    # d and d2: of log_sum by half; a gap's part in it is gap / 2.
    d, part = won - lost, gap / 2
    cost = weight @ (log_sum - winner * half)
    of_slope = weight @ (part * (d - winner))
    bend = weight @ (part**2 * (won + lost - d**2))
    if len(at) == 1:
        return float(cost), np.array([of_slope]), np.array([[bend]])
    even = np.exp(at[1] - log_sum)
    cross = -weight @ (part * d * even)
    grad = np.array([of_slope, weight @ (even - tie)])
    curve = np.array([[bend, cross], [cross, weight @ (even * (1 - even))]])
    return float(cost - weight @ tie * at[1]), grad, curve
