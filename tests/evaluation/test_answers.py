"""Exact match and F1 of answers, by SQuAD's normalisation; on literals."""
# SPDX-License-Identifier: Apache-2.0

import pytest

from t5x_lite.evaluation.answers import answer_f1, exact_match, normalised


def test_normalisation_is_squads():
    assert normalised('The  U.S.A., an "army"') == 'usa army'
    assert normalised('theory of a the') == 'theory of'
    assert normalised('Über-Straße!') == 'überstraße'


def test_the_best_right_answer_counts():
    found = ['the cat', 'a black dog', 'x']
    true = [['Cat.'], ['dog', 'big black dog'], ['y']]
    assert exact_match(found, true) == pytest.approx(1 / 3)
    # 1, then of 'black dog' and 'big black dog' 2 * 2 / (2 + 3), then 0
    assert answer_f1(found, true) == pytest.approx((1 + 0.8) / 3)


def test_words_that_repeat_count_as_often_as_both_have_them():
    assert answer_f1(['b b c'], [['b b b']]) == pytest.approx(2 * 2 / 6)


def test_a_question_without_an_answer_asks_for_silence():
    assert exact_match(['', 'x'], [[], []]) == answer_f1(['', 'x'], [[], []]) == 0.5
    assert exact_match(['', 'x'], [[''], ['']]) == answer_f1(['', 'x'], [[''], ['']]) == 0.5
