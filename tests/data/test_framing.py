"""Texts in one row, cut longest first; the cutter of finished rows and its position."""
# SPDX-License-Identifier: Apache-2.0

import itertools

import fixtures
import numpy as np
import pytest

from t5x_lite.data import framing
from t5x_lite.data.finished import Finished

VOCABULARY = fixtures.vocabulary()
A, B = np.arange(10, 15), np.arange(20, 22)


@pytest.mark.parametrize('texts', [1, 2, 3])
def test_longest_first_is_taking_one_off_the_longest_again_and_again(texts):
    for lengths in itertools.product(range(6), repeat=texts):
        for room in range(sum(lengths) + 2):
            expected = list(lengths)
            while sum(expected) > room:
                expected[max(range(texts), key=lambda i: (expected[i], i))] -= 1
            assert framing.longest_first(lengths, room) == expected


def test_a_pair_keeps_all_its_marks_when_it_is_cut():
    row = framing.frame([A, B], 8, VOCABULARY)
    np.testing.assert_array_equal(row.tokens, [3, 10, 11, 12, 4, 20, 21, 4])
    np.testing.assert_array_equal(row.types, [0, 0, 0, 0, 0, 1, 1, 1])
    assert (row.used, row.begins) == (8, (1, 5))


def test_two_marks_stand_between_texts_if_asked():
    row = framing.frame([A[:1], B], 9, VOCABULARY, between=2)
    np.testing.assert_array_equal(row.tokens, [3, 10, 4, 4, 20, 21, 4, 0, 0])
    np.testing.assert_array_equal(row.types, [0, 0, 0, 0, 1, 1, 1, 0, 0])


def test_without_cls_each_text_ends_with_eos():
    row = framing.frame([A, B], 7, VOCABULARY, marks='eos')
    np.testing.assert_array_equal(row.tokens, [10, 11, 12, 1, 20, 21, 1])
    arrays = framing.frame([B], 4, VOCABULARY, marks='eos').arrays('decoder')
    np.testing.assert_array_equal(arrays['decoder_input_tokens'], [20, 21, 1, 0])
    np.testing.assert_array_equal(arrays['decoder_segment_ids'], [1, 1, 1, 0])
    np.testing.assert_array_equal(arrays['decoder_positions'], [0, 1, 2, 0])


def test_finished_rows_wait_in_order_and_a_saved_position_goes_on_with_them():
    spec = {'x': ((2,), np.int32), 'y': ((), np.float32)}
    rows = lambda e: ({'x': [i, i], 'y': i / 2} for i in range(int(e['n'])))
    first, second = Finished(rows, spec), Finished(rows, spec)
    for n in (2, 0, 3):
        first.add({'n': n})
    assert (first.ready(), first.dropped) == (5, 1)
    np.testing.assert_array_equal(first.take(1)['x'], [[0, 0]])
    second.restore(first.state())
    assert second.dropped == 1
    for cutter in (first, second):
        cutter.add({'n': 1})
        out = cutter.take(5)
        np.testing.assert_array_equal(out['y'], np.float32([0.5, 0, 0.5, 1, 0]))
        assert out['x'].dtype == np.int32 and out['x'].shape == (5, 2)
    second.restore(first.state())
    assert second.ready() == 0
