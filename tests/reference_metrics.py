"""What each metric is by numpy and scipy: name -> function of predictions and targets."""

import numpy as np
import scipy.stats

REFERENCES = {
    "mse": lambda pred, target: np.mean((pred - target) ** 2),
    "lcc": lambda pred, target: scipy.stats.pearsonr(pred, target).statistic,
    "srcc": lambda pred, target: scipy.stats.spearmanr(pred, target).statistic,
    "ktau": lambda pred, target: scipy.stats.kendalltau(pred, target).statistic,
}
