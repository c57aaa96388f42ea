"""Scores of classes and numbers: on literals, and against scipy where it is there."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest

from t5x_lite.evaluation.classes import (
    accuracy,
    f1_binary,
    f1_macro,
    f1_micro,
    matthews,
    pearson,
    spearman,
)

FOUND, TRUE = [1, 1, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0]  # right 2, found 3, true 3


def test_binary_scores_follow_their_definitions():
    assert accuracy(FOUND, TRUE) == pytest.approx(4 / 6)
    assert f1_binary(FOUND, TRUE) == pytest.approx(2 * 2 / (3 + 3))
    # tp 2, tn 2, fp 1, fn 1: (4 - 1) / sqrt(3 * 3 * 3 * 3)
    assert matthews(FOUND, TRUE) == pytest.approx(3 / 9)


def test_macro_f1_is_the_mean_over_classes_that_occur():
    found, true = [0, 0, 1, 3], [0, 1, 1, 0]
    # class 0: 1 of 2 and 2; class 1: 1 of 1 and 2; class 3: 0 of 1 and 0
    assert f1_macro(found, true) == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert f1_micro(found, true) == accuracy(found, true) == 0.5


def test_micro_f1_of_several_classes_per_example_counts_all_decisions():
    assert f1_micro([[1, 0, 1], [0, 0, 0]], [[1, 1, 0], [0, 0, 1]]) == pytest.approx(2 / (2 + 3))


def test_matthews_of_three_classes_is_r_k():
    found, true = [0, 0, 1, 2, 2], [0, 1, 1, 2, 0]
    # c 3, s 5; found 2 1 2, true 2 2 1: (15 - 8) / sqrt((25 - 9) (25 - 9))
    assert matthews(found, true) == pytest.approx(7 / 16)


def test_scores_of_one_class_alone_are_no_nan():
    assert matthews([1, 1], [1, 0]) == 0.0
    assert f1_binary([0, 0], [0, 0]) == 0.0
    assert pearson([1.0, 1.0], [1.0, 2.0]) == 0.0


def test_correlations_on_literals():
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert pearson([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert spearman([1, 10, 100], [3, 5, 6]) == pytest.approx(1.0)
    # ranks 1.5 1.5 3 against 1 2 3
    assert math.isnan(spearman([math.nan, 1, 2], [1, 2, 3]))
    assert spearman([7, 7, 9], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)


@pytest.mark.all
def test_correlations_equal_scipys_with_ties():
    stats = pytest.importorskip('scipy.stats', reason='scipy is not installed')
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 6, (2, 200))
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y)[0])
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0])
