"""Scores of rankings: recall at k, mean reciprocal rank, nDCG."""
# SPDX-License-Identifier: Apache-2.0
# Functions take scores and relevance, Q queries by D documents; the mean is over queries of which
# some document is relevant. Of equal scores the less relevant document is ranked first: a model
# that scores all alike gains nothing.

import numpy as np


def _ranked(scores_QxD, relevance_QxD) -> np.ndarray:
    """Relevance in the order of the scores, best first, of queries that have some; [q, D]."""
    scores, relevance = (np.asarray(x, np.float64) for x in (scores_QxD, relevance_QxD))
    some_Q = (relevance > 0).any(1)
    order = np.lexsort((relevance[some_Q], -scores[some_Q]), axis=-1)
    return np.take_along_axis(relevance[some_Q], order, axis=1)


def _mean(values_Q: np.ndarray) -> float:
    return float(values_Q.mean()) if len(values_Q) else 0.0


def recall_at(scores_QxD, relevance_QxD, k: int) -> float:
    """The mean share of a query's relevant documents that are among its first k."""
    relevant_QxD = _ranked(scores_QxD, relevance_QxD) > 0
    return _mean(relevant_QxD[:, :k].sum(1) / relevant_QxD.sum(1))


def reciprocal_rank(scores_QxD, relevance_QxD) -> float:
    """The mean of 1 / the rank of the first relevant document (MRR)."""
    return _mean(1.0 / (1 + (_ranked(scores_QxD, relevance_QxD) > 0).argmax(1)))


def ndcg_at(scores_QxD, relevance_QxD, k: int) -> float:
    """The mean of the first k documents' gain over the best possible one; gains are linear.

    Source: Jarvelin & Kekalainen 2002, each rank r counting 1 / log2(1 + r).
    """
    ranked_QxD = _ranked(scores_QxD, relevance_QxD)
    ideal_QxD = -np.sort(-ranked_QxD, axis=1)
    discount_D = 1.0 / np.log2(2 + np.arange(min(k, ranked_QxD.shape[1])))
    gain = lambda x_QxD: x_QxD[:, :k] @ discount_D
    return _mean(gain(ranked_QxD) / gain(ideal_QxD))
