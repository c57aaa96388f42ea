"""Orders: uniform over all there are, of the places that move only, each row by its own numbers."""
# SPDX-License-Identifier: Apache-2.0

from collections import Counter

import fixtures
import numpy as np
import pytest

from t5x_lite.data import sentences, shuffling
from t5x_lite.data.randomness import uniforms


def test_shuffled_places_take_tokens_in_the_order_of_their_scores():
    moved = np.array([[1, 0, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
    scores = np.array([[0.8, 0.0, 0.2, 0.9, 0.1]] * 2)
    order = shuffling.shuffle(moved, scores)
    assert order.tolist() == [[4, 1, 2, 0, 3], [0, 1, 2, 3, 4]]


def test_all_orders_are_equally_likely_the_unchanged_one_too():
    rows = 20_000
    order = shuffling.shuffle(np.tile([True, True, False, True], (rows, 1)), numbers(rows, 4))
    found = Counter(map(tuple, order.tolist()))
    assert len(found) == 6 and (0, 1, 2, 3) in found
    assert all(count / rows == pytest.approx(1 / 6, abs=0.01) for count in found.values())


def numbers(rows, width):
    return uniforms((0,), 0, rows, width)


def test_sentences_change_places_whole():
    starts = np.array([[1, 0, 0, 1, 0, 1, 0, 0]], bool)
    moved = np.array([[1, 1, 1, 1, 1, 1, 0, 0]], bool)  # two of padding
    scores = np.array([[0.5, 0.0, 0.0, 0.7, 0.0, 0.1, 0.0, 0.0]])
    order = shuffling.shuffle_sentences(starts, moved, scores)
    assert order.tolist() == [[5, 0, 1, 2, 3, 4, 6, 7]]


def test_special_tokens_stay_when_sentences_move():
    starts = np.array([[1, 0, 0, 1, 0]], bool)
    moved = np.array([[1, 0, 1, 1, 1]], bool)
    order = shuffling.shuffle_sentences(starts, moved, np.array([[0.5, 0.0, 0.0, 0.1, 0.0]]))
    assert order.tolist() == [[3, 1, 4, 0, 2]]


def test_sentences_are_in_each_order_equally_often():
    rows = 20_000
    starts = np.tile(np.array([1, 0, 1, 1, 0, 0], bool), (rows, 1))
    order = shuffling.shuffle_sentences(starts, np.ones_like(starts), numbers(rows, 6))
    found = Counter(map(tuple, order.tolist()))
    assert len(found) == 6
    assert all(count / rows == pytest.approx(1 / 6, abs=0.01) for count in found.values())


def test_rotation_begins_at_each_token_equally_often():
    moved = np.array([[1, 1, 1, 0, 1, 0]], bool)
    turned = lambda pivot: shuffling.rotate(moved, np.array([pivot])).tolist()[0]
    assert turned(0.0) == [0, 1, 2, 3, 4, 5]
    assert turned(0.3) == [1, 2, 4, 3, 0, 5]
    assert turned(0.999) == [4, 0, 1, 3, 2, 5]
    first = shuffling.rotate(np.tile(moved, (20_000, 1)), numbers(20_000, 1)[:, 0])[:, 0]
    shares = np.bincount(first, minlength=5) / 20_000
    assert shares == pytest.approx([0.25, 0.25, 0.25, 0, 0.25], abs=0.01)


def test_rows_of_nothing_that_moves_are_left():
    none = np.zeros((2, 3), bool)
    for order in (
        shuffling.shuffle(none, numbers(2, 3)),
        shuffling.shuffle_sentences(none, none, numbers(2, 3)),
        shuffling.rotate(none, np.array([0.5, 0.5])),
    ):
        assert order.tolist() == [[0, 1, 2]] * 2


def test_a_rows_sentences_and_orders_depend_on_that_row_only():
    info = fixtures.vocabulary()
    rng = np.random.default_rng(0)
    tokens = rng.integers(6, 12, (8, 30)).astype(np.int32)  # many full stops
    table, draws = sentences.marks(info), numbers(8, 30)

    def order(part):
        starts = shuffling.sentence_starts(tokens[part], table, info.eos)
        moved = shuffling.text_ids(info)[tokens[part]]
        return shuffling.shuffle_sentences(starts, moved, draws[part])

    together = order(slice(None))
    for i in range(8):
        np.testing.assert_array_equal(order(slice(i, i + 1))[0], together[i])


def test_unknown_words_are_text_that_may_move():
    info = fixtures.vocabulary()
    text = shuffling.text_ids(info)
    assert text[:8].tolist() == [False, False, True, False, False, False, True, True]
    assert not text[-8:].any()
    assert info.special[2]  # the vocabulary is left as it was
