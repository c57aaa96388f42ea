"""Scores of rankings: recall at k, mean reciprocal rank, nDCG."""
# SPDX-License-Identifier: Apache-2.0
# Functions take scores and relevance, Q queries by D documents; the mean is over queries of which
# some document is relevant. Of equal scores the less relevant document is ranked first: a model
# that scores all alike gains nothing. `Ranked` is what they are computed from, for a search that
# knows the first documents alone.

from typing import NamedTuple

import numpy as np


class Ranked(NamedTuple):
    """What was found for each query, best first, and what there was to be found.

    Attributes:
      found: [Q, K] relevance of the first K documents, 0 where there is none.
      ideal: [Q, R] relevance of the query's relevant documents, highest first, then 0.
    """

    found: np.ndarray
    ideal: np.ndarray

    def recall(self, k: int) -> float:
        """The mean share of a query's relevant documents that are among its first k."""
        self = self._answerable()
        return _mean((self.found[:, :k] > 0).sum(1) / (self.ideal > 0).sum(1))

    def reciprocal_rank(self, k: int | None = None) -> float:
        """The mean of 1 / the rank of the first relevant document; 0 if it is not among k."""
        relevant_QxK = self._answerable().found[:, :k] > 0
        return _mean(relevant_QxK.any(1) / (1 + relevant_QxK.argmax(1)))

    def ndcg(self, k: int) -> float:
        """The mean of the first k documents' gain over the best possible one; gains are linear.

        Source: Jarvelin & Kekalainen 2002, each rank r counting 1 / log2(1 + r).
        """
        self = self._answerable()
        return _mean(_gain(self.found, k) / _gain(self.ideal, k))

    def _answerable(self) -> 'Ranked':
        some_Q = (self.ideal > 0).any(1)
        return Ranked(self.found[some_Q], self.ideal[some_Q])


def _gain(relevance_QxK: np.ndarray, k: int) -> np.ndarray:
    """Discounted cumulative gain of the first k, [Q]."""
    first_QxK = relevance_QxK[:, :k]
    return first_QxK @ (1.0 / np.log2(2 + np.arange(first_QxK.shape[1])))


def _mean(values_Q: np.ndarray) -> float:
    return float(values_Q.mean()) if len(values_Q) else 0.0


def ranked(scores_QxD, relevance_QxD) -> Ranked:
    """All documents in the order of their scores."""
    scores, relevance = (np.asarray(x, np.float64) for x in (scores_QxD, relevance_QxD))
    order = np.lexsort((relevance, -scores), axis=-1)
    return Ranked(np.take_along_axis(relevance, order, axis=1), -np.sort(-relevance, axis=1))


def recall_at(scores_QxD, relevance_QxD, k: int) -> float:
    """`Ranked.recall` of all documents."""
    return ranked(scores_QxD, relevance_QxD).recall(k)


def reciprocal_rank(scores_QxD, relevance_QxD) -> float:
    """`Ranked.reciprocal_rank` of all documents (MRR)."""
    return ranked(scores_QxD, relevance_QxD).reciprocal_rank()


def ndcg_at(scores_QxD, relevance_QxD, k: int) -> float:
    """`Ranked.ndcg` of all documents."""
    return ranked(scores_QxD, relevance_QxD).ndcg(k)
