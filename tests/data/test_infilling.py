"""Spans: their lengths' shares, the budget to the word, uniform places, never one over another."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections import Counter

import numpy as np
import pytest

from t5x_lite.data import infilling
from t5x_lite.data.infilling import Spans
from t5x_lite.data.randomness import uniforms


@pytest.mark.parametrize('mean', [3.0, 3.5])
def test_lengths_have_the_shares_of_poissons_distribution(mean):
    lengths = infilling.draw_lengths(infilling.poisson(mean), uniforms((0,), 0, 200, 100))
    found = np.bincount(lengths.ravel(), minlength=30) / lengths.size
    for k in range(30):
        share = math.exp(-mean) * mean**k / math.factorial(k)
        assert found[k] == pytest.approx(share, abs=0.01)


def test_lengths_are_the_inverse_of_the_distribution():
    e = math.exp(-3)  # P(0) = e, P(1) = 3e, P(2) = 4.5e
    draws = np.array([[0.0, e - 1e-9, e + 1e-9, 4 * e - 1e-9, 4 * e + 1e-9, 1 - 2**-53]])
    lengths = infilling.draw_lengths(infilling.poisson(3.0), draws)
    assert lengths[0, :5].tolist() == [0, 0, 1, 1, 2] and 20 < lengths[0, 5] < 50


@pytest.mark.parametrize('mean', [1.0, 3.0, 64.0, 1000.0])
def test_the_distribution_ends_at_1_and_has_its_mean(mean):
    cumulative = infilling.poisson(mean)
    assert cumulative[-1] == pytest.approx(1, abs=1e-12)
    assert (1 - cumulative).sum() == pytest.approx(mean, rel=1e-9)


def test_ngrams_are_of_1_to_3_in_proportion_to_1_over_n():
    lengths = infilling.draw_lengths(infilling.ngrams(3), uniforms((0,), 0, 200, 100))
    shares = np.bincount(lengths.ravel(), minlength=4) / lengths.size
    assert shares == pytest.approx(np.array([0, 6, 3, 2]) / 11, abs=0.01)
    ends = infilling.draw_lengths(infilling.ngrams(3), np.array([[0.0, 1 - 2**-53]]))
    assert ends.tolist() == [[1, 3]]


def test_budgets_round_up_and_know_thirds_of_floating_point():
    assert infilling.budgets(np.array([0, 1, 10, 11, 100]), 0.3).tolist() == [0, 1, 3, 4, 30]
    assert infilling.budgets(np.array([30]), 0.1).tolist() == [3]  # 30 * 0.1 > 3
    assert infilling.budgets(np.array([7, 7]), 1.0).tolist() == [7, 7]


def test_the_last_span_is_cut_to_the_budget():
    spans = infilling.trim(np.array([[2, 0, 4, 3]] * 4), np.array([5, 2, 0, 20]), np.full(4, 99))
    assert spans.lengths.tolist() == [[2, 0, 3, 0], [2, 0, 0, 0], [0] * 4, [2, 0, 4, 14]]
    assert spans.used.tolist() == [
        [True, True, True, False],
        [True, False, False, False],
        [False] * 4,
        [True] * 4,  # too few numbers: the last is stretched
    ]


def test_spans_of_length_0_are_left_out_where_there_is_no_room():
    spans = infilling.trim(np.array([[0, 1, 0, 0, 1]] * 3), np.full(3, 2), np.array([2, 3, 9]))
    assert spans.used.tolist() == [
        [False, True, False, False, True],
        [True, True, False, False, True],
        [True, True, True, True, True],
    ]


@pytest.mark.parametrize('mean', [1.0, 3.0, 3.5])
@pytest.mark.parametrize('budget', [1, 5, 154])
def test_there_are_always_enough_numbers_for_the_budget(mean, budget):
    count = infilling.spans_enough(budget, mean)
    drawn = infilling.draw_lengths(infilling.poisson(mean), uniforms((0,), 0, 5_000, count))
    assert (drawn.sum(1) >= budget).all()


def test_places_of_three_spans():
    spans = Spans(np.array([[0, 2, 1]]), np.ones((1, 3), bool))
    scores = np.array([[0.5, 0.1, 0.2, 0.9, 0.3, 0.0]])  # 2 words stay: 5 items, the last unused
    covered, before = infilling.place(spans, np.array([5]), 6, scores)
    # word, span of 0, span of 2, word, span of 1
    assert covered.tolist() == [[False, True, True, False, True, False]]
    assert before.tolist() == [[0, 2, 0, 0, 1, 0, 0]]


def test_every_arrangement_of_spans_and_words_is_equally_likely():
    rows = 40_000
    spans = Spans(np.tile([2, 1], (rows, 1)), np.ones((rows, 2), bool))
    covered, before = infilling.place(spans, np.full(rows, 6), 6, uniforms((0,), 0, rows, 6))
    assert (covered.sum(1) == 3).all() and (before.sum(1) == 2).all()  # spans do not overlap
    ends = np.pad(covered, ((0, 0), (0, 1)))
    found = Counter(zip(map(bytes, ends), map(bytes, before.astype(np.uint8)), strict=True))
    assert len(found) == 20  # 5 items, of which two are the spans
    assert all(count / rows == pytest.approx(1 / 20, abs=0.01) for count in found.values())


def test_words_are_pieces_up_to_the_next_start_and_special_tokens_part_them():
    starts = np.array([False, True, False])  # 0 goes on, 1 starts a word, 2 is special
    tokens = np.array([[0, 0, 1, 0, 2, 0, 1]])
    text = tokens != 2
    found = infilling.word_starts(tokens, text, starts)
    assert found.astype(int).tolist() == [[1, 0, 1, 0, 0, 1, 1]]
    assert infilling.word_starts(tokens, text, None).tolist() == text.tolist()


def test_a_covered_word_is_all_its_tokens_and_none_that_is_special():
    starts = np.array([[1, 0, 1, 0, 0, 1]], bool)
    text = np.array([[1, 1, 1, 1, 0, 1]], bool)
    covered = np.array([[False, True, True, False, False, False]])
    before = np.array([[0, 2, 0, 1, 0, 0, 0]])
    found, inserted = infilling.at_tokens(covered, before, starts, text)
    assert found.astype(int).tolist() == [[0, 0, 1, 1, 0, 1]]
    assert inserted.tolist() == [[0, 0, 2, 0, 0, 0, 1]]


def test_spans_after_the_last_word_come_before_padding():
    starts = text = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool)
    before = np.array([[0, 0, 3, 0, 0], [2, 0, 0, 0, 0]])
    _, inserted = infilling.at_tokens(np.zeros((2, 4), bool), before, starts, text)
    assert inserted.tolist() == [[0, 0, 3, 0, 0], [2, 0, 0, 0, 0]]


def test_rows_are_filled():
    tokens = np.array([[7, 8, 9], [7, 8, 9]], np.int32)
    kept = np.array([[1, 0, 1], [0, 0, 0]], bool)
    rows = infilling.fill(tokens, kept, np.array([[1, 0, 2, 1], [0, 0, 0, 0]]), 7)
    assert rows.tokens.tolist() == [[-1, 7, -1, -1, 9, -1, 0], [0] * 7]
    assert rows.segments.tolist() == [[1] * 6 + [0], [0] * 7]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 4, 5, 0], [0] * 7]
