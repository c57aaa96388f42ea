"""ROUGE on literals worked out by hand; BLEU and chrF are sacrebleu's, where it is installed."""
# SPDX-License-Identifier: Apache-2.0

import importlib.util

import pytest

from t5x_lite.errors import ConfigError
from t5x_lite.evaluation import overlap

SACREBLEU = importlib.util.find_spec('sacrebleu') is not None


def test_words_are_lower_case_letters_and_digits():
    assert overlap.words("The U.S.'s 1,024 naïve-ish cats!") == (
        ['the', 'u', 's', 's', '1', '024', 'na', 've', 'ish', 'cats']
    )


def test_rouge_counts_shared_words_and_pairs():
    found, true = ['the cat sat the mat'], ['the cat was on the mat']
    # words shared: the x 2, cat, mat; of 5 and 6
    assert overlap.rouge_1(found, true) == pytest.approx(2 * 4 / (5 + 6))
    # pairs shared: the cat, the mat; of 4 and 5
    assert overlap.rouge_2(found, true) == pytest.approx(2 * 2 / (4 + 5))
    # the cat .. the mat
    assert overlap.rouge_l(found, true) == pytest.approx(2 * 4 / (5 + 6))


def test_rouge_l_asks_for_order():
    assert overlap.rouge_l(['c b a'], ['a b c']) == pytest.approx(1 / 3)
    assert overlap.rouge_1(['c b a'], ['a b c']) == 1.0


def test_rouge_l_sum_unites_the_lines_of_lins_example():
    # Lin 2004, section 3.2: w1..w5 against w1 w2 w6 w7 w8 and w1 w3 w8 w9 w5; 4 of 5 are hit.
    true, found = 'w1 w2 w3 w4 w5', 'w1 w3 w8 w9 w5\nw1 w2 w6 w7 w8'
    assert overlap.rouge_l_sum([found], [true]) == pytest.approx(2 * 4 / (10 + 5))
    assert overlap.rouge_l([found], [true]) == pytest.approx(2 * 3 / (10 + 5))


def test_rouge_l_sum_counts_a_word_only_as_often_as_both_have_it():
    assert overlap.rouge_l_sum(['a'], ['a\na\na']) == pytest.approx(2 * 1 / (1 + 3))


def test_empty_texts_score_nothing_and_scores_are_means():
    for rouge in (overlap.rouge_1, overlap.rouge_2, overlap.rouge_l, overlap.rouge_l_sum):
        assert rouge(['', 'a b'], ['a b', 'a b']) == 0.5
        assert rouge([''], ['']) == 0.0


@pytest.mark.skipif(SACREBLEU, reason='sacrebleu is installed')
def test_without_sacrebleu_bleu_says_what_to_install():
    for metric in (overlap.bleu, overlap.bleu_zh, overlap.chrf):
        with pytest.raises(ConfigError, match=r'pip install .t5x_lite\[metrics\]'):
            metric(['a'], ['a'])


@pytest.mark.skipif(not SACREBLEU, reason='sacrebleu is not installed: t5x_lite[metrics]')
def test_bleu_and_chrf_of_the_reference_itself_are_100():
    texts = ['The cat sat on the mat today.', 'Nothing else is to be said of it.']
    assert overlap.bleu(texts, texts) == pytest.approx(100)
    assert overlap.chrf(texts, texts) == pytest.approx(100)
    assert overlap.bleu_zh(['按快捷键时可以'], ['按快捷键时可以']) == pytest.approx(100)
    assert overlap.bleu(['x y z'] * 2, texts) < 1
