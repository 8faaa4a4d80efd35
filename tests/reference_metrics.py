"""What each metric is by numpy and scipy: name -> function of predictions and targets."""

from itertools import combinations

import numpy as np
import scipy.stats


def correlation(function):
    """NaN where it is undefined: of fewer than two samples, or of a constant side."""

    def defined(pred, target):
        if len(pred) < 2 or np.ptp(pred) == 0 or np.ptp(target) == 0:
            return np.nan
        return function(pred, target).statistic

    return defined


def line(pred, target):
    """Slope and intercept of the labels over the predictions; NaN for constant predictions."""
    if len(pred) == 0 or np.ptp(pred) == 0:
        return np.nan, np.nan
    centered = pred - pred.mean()
    slope = np.linalg.lstsq(centered[:, None], target - target.mean(), rcond=None)[0][0]
    return slope, target.mean() - slope * pred.mean()


def mse_fit(pred, target):
    slope, _ = line(pred, target)
    fitted = 0 if np.isnan(slope) else slope * (pred - pred.mean())
    return np.mean((target - target.mean() - fitted) ** 2)


def ccc(pred, target):
    if np.ptp(pred) == 0 and np.ptp(target) == 0:
        return np.nan
    if np.ptp(pred) == 0 or np.ptp(target) == 0:
        return 0.0
    both = np.cov(pred, target, bias=True)
    return 2 * both[0, 1] / (both[0, 0] + both[1, 1] + (pred.mean() - target.mean()) ** 2)


def rmse(pred, target):
    return np.sqrt(np.mean((pred - target) ** 2)) if len(pred) else np.nan


def rmse_of_third(third):
    def error(pred, target):
        # Which third holds the middle of a clip's ranks.
        middle = 2 * scipy.stats.rankdata(target) - 1
        n = 2 * len(target)
        inside = [3 * middle < n, (3 * middle >= n) & (3 * middle <= 2 * n), 3 * middle > 2 * n]
        return rmse(pred[inside[third]], target[inside[third]])

    return error


def pair_accuracy(far):
    def share(pred, target):
        margin = np.std(target) * (1 + 1e-12) if far else 0
        right = []
        for i, j in combinations(range(len(pred)), 2):
            gap = target[i] - target[j]
            if abs(gap) > margin:
                right.append((1 + np.sign(gap) * np.sign(pred[i] - pred[j])) / 2)
        return np.mean(right) if right else np.nan

    return share


def best_regret(pred, target):
    return target.max() - target[pred == pred.max()].mean()


def best_hit(pred, target):
    return np.mean(target[pred == pred.max()] == target.max())


REFERENCES = {
    "mse": lambda pred, target: np.mean((pred - target) ** 2),
    "rmse": rmse,
    "mae": lambda pred, target: np.mean(np.abs(pred - target)),
    "mse_fit": mse_fit,
    "ccc": ccc,
    "lcc": correlation(scipy.stats.pearsonr),
    "srcc": correlation(scipy.stats.spearmanr),
    "ktau": correlation(scipy.stats.kendalltau),
    "pair_accuracy": pair_accuracy(far=False),
    "far_pair_accuracy": pair_accuracy(far=True),
    "slope": lambda pred, target: line(pred, target)[0],
    "intercept": lambda pred, target: line(pred, target)[1],
    "rmse_low": rmse_of_third(0),
    "rmse_mid": rmse_of_third(1),
    "rmse_high": rmse_of_third(2),
    "best_regret": best_regret,
    "best_hit": best_hit,
}


def reference(name, pred, target):
    """Return one metric of one sample; NaN for an empty one."""
    if len(pred) == 0:
        return np.nan
    return float(REFERENCES[name](pred, target))


def within_groups(name, pred, target, group):
    """Return the mean over groups of two or more clips whose labels differ."""
    found = []
    for g in sorted(set(group) - {-1}):
        p, t = pred[group == g], target[group == g]
        if len(t) < 2 or np.ptp(t) == 0:
            continue
        value = reference(name, p, t)
        found.append(0.0 if np.isnan(value) and np.ptp(p) == 0 else value)
    return np.mean(found) if found else np.nan
