"""Scores of classes and numbers: accuracy, F1, Matthews, Pearson, Spearman."""
# SPDX-License-Identifier: Apache-2.0
# Every function takes what was predicted and what is true, one entry for each example.

import numpy as np


def accuracy(predictions, targets) -> float:
    """The share of examples whose class is the true one."""
    return float(np.mean(np.asarray(predictions) == np.asarray(targets)))


def f1_binary(predictions, targets) -> float:
    """F1 of class 1: the harmonic mean of precision and recall; 0 if it is neither found nor there.

    Source: van Rijsbergen 1979.
    """
    return f1(*_counts(np.asarray(predictions) == 1, np.asarray(targets) == 1))


def f1_macro(predictions, targets) -> float:
    """The plain mean of the F1 of each class that is predicted or true at least once."""
    p_B, t_B = np.asarray(predictions), np.asarray(targets)
    classes = np.union1d(p_B, t_B)
    return float(np.mean([f1(*_counts(p_B == c, t_B == c)) for c in classes]))


def f1_micro(predictions, targets) -> float:
    """F1 of all decisions counted together.

    Of one class per example, [B], this is the accuracy. Of any number of classes, 0 or 1 each in
    [B, C], it is not.
    """
    p, t = np.asarray(predictions), np.asarray(targets)
    if p.ndim == 1:
        return accuracy(p, t)
    return f1(*_counts(p == 1, t == 1))


def _counts(found, true) -> tuple[int, int, int]:
    return int((found & true).sum()), int(found.sum()), int(true.sum())


def f1(right: int, found: int, true: int) -> float:
    """F1 from how many were found rightly, found, and there to be found; 0 if none was either."""
    return 2.0 * right / (found + true) if found + true else 0.0


def matthews(predictions, targets) -> float:
    """Matthews' correlation of two or more classes; 0 if either side is of one class alone.

    Source: Gorodkin 2004, R_K; of two classes that of Matthews 1975.
    """
    p_B, t_B = np.asarray(predictions), np.asarray(targets)
    classes = np.union1d(p_B, t_B)
    found_C = (p_B[:, None] == classes).sum(0).astype(np.float64)
    true_C = (t_B[:, None] == classes).sum(0).astype(np.float64)
    count, right = float(len(p_B)), float((p_B == t_B).sum())
    spread = (count**2 - found_C @ found_C) * (count**2 - true_C @ true_C)
    return float((right * count - found_C @ true_C) / np.sqrt(spread)) if spread else 0.0


def pearson(predictions, targets) -> float:
    """Pearson's correlation; 0 if either side is constant."""
    p_B, t_B = (np.asarray(x, np.float64) for x in (predictions, targets))
    p_B, t_B = p_B - p_B.mean(), t_B - t_B.mean()
    spread = np.sqrt((p_B @ p_B) * (t_B @ t_B))
    return float(p_B @ t_B / spread) if spread else 0.0


def spearman(predictions, targets) -> float:
    """Spearman's correlation: Pearson's of ranks, in which equal numbers share their mean rank.

    nan if a number is.
    """
    if np.isnan(predictions).any() or np.isnan(targets).any():
        return float('nan')
    return pearson(_ranks(predictions), _ranks(targets))


def _ranks(values) -> np.ndarray:
    _, place_B, count = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2.0)[place_B]
