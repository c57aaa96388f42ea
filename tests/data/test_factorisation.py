"""Factorisation orders: spans, their statistics and budgets, and ranks within blocks."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from t5x_lite.data.factorisation import Factorisation, ranked, span_scores, span_sizes, walk
from t5x_lite.data.randomness import uniforms

SHARES = 1 / np.arange(1, 6) / (1 / np.arange(1, 6)).sum()  # p(n) in proportion to 1/n


def spans(words: str, sizes, numbers, **settings):
    """What walk says of one strip, in which capitals begin words: [(begin, end)]."""
    starts_SxP = np.array([[letter.isupper() for letter in words]])
    begins, ends = walk(
        starts_SxP, np.array([len(words)]), np.array([sizes]), np.array([numbers]), **settings
    )
    return [(b, e) for b, e in zip(begins[0], ends[0], strict=True) if b < len(words)]


def test_spans_are_words_each_in_its_context():
    # One on the left, `Bc`, one on the right; `E F`, four on the right; `Kl`, the last.
    out = spans('ABcDEFGhIJKl', [1, 2, 1], [0.5, 0.0, 0.0], group=2)
    assert out == [(1, 3), (4, 6), (10, 12)]
    assert spans('AbcdEf', [1, 1], [0.5, 0.0], group=2) == [(4, 6)]


def test_spans_can_be_tokens_from_the_start_of_a_word():
    out = spans('ABcDEFGhIJKl', [1, 2, 1], [0.5, 0.0, 0.0], group=2, whole_words=False)
    assert out == [(1, 2), (3, 5), (9, 10)]


def test_a_span_that_does_not_fit_ends_the_walk():
    assert spans('ABCD', [5, 1], [0.0, 0.0], group=2) == []
    assert spans('abcd', [1, 1], [0.0, 0.0], group=2) == []  # no word begins
    # `De` is the last word: two do not fit
    assert spans('ABCDe', [1, 2], [0.0, 0.0], group=2) == [(0, 1)]


def test_span_sizes_have_shares_in_proportion_to_1_over_n():
    sizes, rest = span_sizes(np.random.default_rng(0).random(20_000), 5)
    assert np.bincount(sizes, minlength=6)[1:] / 20_000 == pytest.approx(SHARES, abs=0.01)
    assert np.histogram(rest, 4, (0, 1))[0] / 20_000 == pytest.approx(0.25, abs=0.01)
    assert span_sizes(np.array([0.0, 1 - 1e-16]), 5)[0].tolist() == [1, 5]


@pytest.mark.parametrize('whole_words', [True, False])
def test_of_20_000_spans_in_text_p_of_n_is_in_proportion_to_1_over_n(whole_words):
    random = np.random.default_rng(0)
    starts_SxP = random.random((100, 4_096)) < 0.8
    draws = random.random((100, 220))
    sizes, numbers = span_sizes(draws, 5)
    lengths = np.full(100, 4_096)
    begins, ends = walk(starts_SxP, lengths, sizes, numbers, group=6, whole_words=whole_words)
    found = (begins < 4_096) & (np.arange(220) < 200)  # long spans fit less often at the very end
    assert found.sum() == 20_000
    words = np.pad(np.cumsum(starts_SxP, 1), ((0, 0), (1, 0)))
    s = np.arange(100)[:, None]
    assert starts_SxP[s, begins % 4_096][found].all()
    lengths = ends - begins if not whole_words else words[s, ends] - words[s, begins]
    shares = np.bincount(lengths[found], minlength=6)[1:] / 20_000
    assert shares == pytest.approx(SHARES, abs=0.01)
    assert (begins[:, 1:] > ends[:, :-1])[found[:, 1:]].all()  # apart
    # n tokens in the span, 6 * n around it: about one in seven (words have 1.25 tokens here)
    assert 0.12 < (ends - begins)[found].sum() / ends[:, 199].sum() < 0.2


def test_whole_spans_are_chosen_first_by_priority_and_cut_at_the_right():
    begins, ends = np.array([[1, 5, 9]]), np.array([[3, 8, 9]])  # the third is none
    scores = span_scores(begins, ends, np.array([[0.7, 0.2, 0.0]]), np.full((1, 9), 0.5))
    assert np.argsort(scores[0], kind='stable').tolist() == [5, 6, 7, 1, 2, 0, 3, 4, 8]


def test_85_of_512_tokens_are_predicted_43_in_the_first_half():
    plan = Factorisation(length=512)
    assert (plan.targets, plan.blocks, plan.width) == (85, 2, 256)
    lengths = np.array([512, 511, 300, 256, 12, 5, 4])
    budgets = plan.budgets(lengths)
    assert budgets.tolist() == [[43, 42], [43, 42], [43, 7], [42, 0], [2, 0], [1, 0], [1, 0]]
    assert Factorisation(length=128).targets == 21
    assert Factorisation(length=512, perm_size=None).blocks == 1


@pytest.mark.parametrize('whole_words', [True, False])
def test_a_sixth_is_predicted_alike_at_all_places(whole_words):
    plan, rows = Factorisation(length=512, whole_words=whole_words), 1_000
    starts_BxL = np.random.default_rng(0).random((rows, 512)) < 0.7
    numbers = uniforms((0,), 0, rows, plan.draws)
    out = plan.draw(np.ones((rows, 512), bool), starts_BxL, np.full(rows, 512), numbers)
    assert out.used.all() and out.places.shape == (rows, 85)
    assert (out.places[:, :43] < 256).all() and (out.places[:, 43:] >= 256).all()
    assert (np.diff(out.places, axis=1) > 0).all()
    shares = np.bincount(out.places.ravel(), minlength=512).reshape(8, 64).mean(1) / rows
    assert shares == pytest.approx(1 / 6, abs=0.01)


def test_a_row_uses_its_own_numbers_only():
    plan = Factorisation(length=96, perm_size=32)
    numbers = uniforms((3,), 0, 4, plan.draws)
    args = np.ones((4, 96), bool), np.ones((4, 96), bool), np.array([96, 40, 7, 96])
    together = plan.draw(*args, numbers)
    for row in range(4):
        alone = plan.draw(*(x[row : row + 1] for x in args), numbers[row : row + 1])
        for x, y in zip(together, alone, strict=True):
            np.testing.assert_array_equal(x[row : row + 1], y)


def test_ranks_are_uniform_within_blocks_and_blocks_follow_each_other():
    chosen = np.zeros((20_000, 8), bool)
    chosen[:, [0, 2, 3, 5, 6]] = True
    out = ranked(chosen, 4, np.random.default_rng(0).random((20_000, 6)))
    assert out.places[0].tolist() == [0, 2, 3, 5, 6, 0]
    assert out.used[0].tolist() == [True] * 5 + [False]
    assert (out.ranks[:, 5] == 0).all()
    first, second = out.ranks[:, :3], out.ranks[:, 3:5]
    assert (np.sort(first, 1) == [1, 2, 3]).all() and (np.sort(second, 1) == [4, 5]).all()
    orders, counts = np.unique(first, axis=0, return_counts=True)
    assert len(orders) == 6
    assert counts / 20_000 == pytest.approx(1 / 6, abs=0.01)
    assert (second[:, 0] == 4).mean() == pytest.approx(0.5, abs=0.01)


def test_ranks_of_literal_numbers():
    chosen = np.array([[True, False, True, True], [False, False, True, False]])
    out = ranked(chosen, 4, np.array([[0.5, 0.9, 0.1], [0.5, 0.1, 0.0]]))
    assert out.places.tolist() == [[0, 2, 3], [2, 0, 0]]
    assert out.ranks.tolist() == [[2, 3, 1], [1, 0, 0]]
