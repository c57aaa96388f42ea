"""Recall at k, reciprocal rank and nDCG on literals; ties, and queries without an answer."""
# SPDX-License-Identifier: Apache-2.0

import math

import pytest

from t5x_lite.evaluation.ranking import ndcg_at, recall_at, reciprocal_rank

SCORES = [[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4]]
RELEVANT = [[0, 1, 0, 1], [0, 0, 0, 1]]  # ranks 2 and 4; 1


def test_scores_follow_their_definitions():
    assert recall_at(SCORES, RELEVANT, 1) == pytest.approx((0 + 1) / 2)
    assert recall_at(SCORES, RELEVANT, 2) == pytest.approx((0.5 + 1) / 2)
    assert reciprocal_rank(SCORES, RELEVANT) == pytest.approx((1 / 2 + 1) / 2)
    first = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    assert ndcg_at(SCORES, RELEVANT, 4) == pytest.approx((first + 1) / 2)
    assert ndcg_at(SCORES, RELEVANT, 10) == ndcg_at(SCORES, RELEVANT, 4)


def test_grades_count_in_ndcg():
    # order by score: gains 1, 3; best 3, 1
    got = (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    assert ndcg_at([[0.9, 0.5]], [[1, 3]], 2) == pytest.approx(got)


def test_a_model_that_scores_all_alike_gains_nothing():
    assert recall_at([[0.5] * 4], [[1, 0, 0, 0]], 3) == 0.0
    assert reciprocal_rank([[0.5] * 4], [[1, 0, 0, 0]]) == 1 / 4


def test_queries_without_a_relevant_document_are_left_out():
    assert reciprocal_rank(SCORES, [[0] * 4, [0, 0, 0, 1]]) == 1.0
    assert recall_at(SCORES, [[0] * 4] * 2, 1) == 0.0
