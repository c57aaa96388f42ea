"""Cutters and sentences: nothing lost, segments and positions, positions saved in mid-row."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from types import SimpleNamespace

import fixtures
import numpy as np
import pytest

from t5x_lite.data import packing, sentences

PIECES = '\n . ." ) ▁Mr ▁He ▁saw ▁it ▁Bennet ▁" ▁he ▁J ? </s>'.split(' ')
VOCABULARY = SimpleNamespace(
    pieces=PIECES,
    special=np.array([p == '</s>' for p in PIECES]),
    starts_word=np.array([p.startswith('▁') for p in PIECES]),
)


def ids(text):
    return np.array([PIECES.index(piece) for piece in text.split(' ')], np.int32)


def fill(cutter, *documents):
    for tokens in documents:
        cutter.add({'targets': np.array(tokens, np.int32)})
    cutter.flush()
    return cutter


def concatenated(*documents, **settings):
    cutter = fill(packing.Concatenate(**settings), *documents)
    return cutter, cutter.take(cutter.ready())


def test_documents_are_joined_with_eos_and_cut():
    _, rows = concatenated([5, 6], [7, 8, 9, 10], [0, 11], length=5, eos=1, separate=True)
    np.testing.assert_array_equal(
        rows.tokens, [[5, 6, 1, 7, 8], [9, 10, 1, 0, 11], [1, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        rows.segments, [[1, 1, 1, 2, 2], [1, 1, 1, 2, 2], [1, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        rows.positions, [[0, 1, 2, 0, 1], [0, 1, 2, 0, 1], [0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(rows.lengths, [5, 5, 1])
    assert {x.dtype for x in rows} == {np.dtype(np.int32)}


def test_one_stream_has_one_segment_per_row():
    _, rows = concatenated([5, 6], [7, 8], length=3, eos=None, separate=False)
    np.testing.assert_array_equal(rows.tokens, [[5, 6, 7], [8, 0, 0]])
    np.testing.assert_array_equal(rows.segments, [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(rows.positions, [[0, 1, 2], [0, 0, 0]])


def test_empty_documents_and_a_short_last_row_are_dropped_and_counted():
    cutter, rows = concatenated([], [5, 6, 7, 8], length=3, eos=None, separate=False, min_tokens=2)
    np.testing.assert_array_equal(rows.tokens, [[5, 6, 7]])
    assert cutter.dropped == cutter.state()['dropped'] == 2


@pytest.mark.parametrize('size', [8, 9])  # exactly two rows, and one token over
def test_eos_is_never_lost(size):
    _, rows = concatenated(range(10, 10 + size - 1), length=4, eos=1, separate=True)
    assert rows.tokens[rows.segments > 0].tolist() == [*range(10, 10 + size - 1), 1]


def test_chunks_are_one_per_row_and_single_tokens_are_dropped():
    cutter = fill(packing.Chunks(3), [5, 6, 7, 8, 9], [0, 1, 2, 3], [], [4])
    assert cutter.ready() == 3 and cutter.dropped == 3
    rows = cutter.take(3)
    np.testing.assert_array_equal(rows.tokens, [[5, 6, 7], [8, 9, 0], [0, 1, 2]])
    np.testing.assert_array_equal(rows.segments, [[1, 1, 1], [1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(rows.positions, [[0, 1, 2], [0, 1, 0], [0, 1, 2]])


@pytest.mark.parametrize(
    'text, starts',
    [
        ('▁He ▁saw . ▁He', [0, 3]),
        ('▁He ▁saw ." ▁He', [0, 3]),
        ('▁He ▁saw . ) ▁He', [0, 4]),
        ('▁He ▁saw ? ▁" ▁He', [0, 3]),
        ('▁He ▁saw ? ▁he ▁saw', [0]),  # "Is it?" he asked
        ('▁He ▁saw ▁Mr . ▁Bennet', [0]),
        ('▁He ▁saw ▁J . ▁Bennet', [0]),
        ('▁He ▁saw \n \n ▁it', [0, 4]),
        ('\n ▁it', [1]),
        ('\n \n', []),
        (') ▁He', [0]),
    ],
)
def test_sentences_start_after_final_marks_and_newlines(text, starts):
    found = sentences.boundaries(ids(text), sentences.marks(VOCABULARY))
    assert np.flatnonzero(found).tolist() == starts


@pytest.mark.parametrize(
    'text, lengths',
    [
        ('▁He ▁saw ▁it . ▁He ▁saw ▁it ?', [4, 4]),
        ('▁He . ▁He ▁saw ▁it ? ▁He ▁saw ▁it .', [6, 4]),  # goes with the next
        ('▁He ▁saw ▁it . ▁He .', [6]),  # the last with the one before
        ('▁He ▁saw \n ▁He ▁saw ▁it .', [6]),  # the newline is no part of it
        ('▁He ▁saw .', []),
        ('\n', []),
    ],
)
def test_short_sentences_are_merged(text, lengths):
    tokens, found = sentences.split(ids(text), sentences.marks(VOCABULARY), min_tokens=4)
    assert found.tolist() == lengths
    expected = [i for i in ids(text) if PIECES[i] != '\n'] if lengths else []
    assert tokens.tolist() == expected


def test_sentences_are_one_per_row_and_cut_to_fit():
    first, second = ids('▁He ▁saw ▁it ▁it ▁it .'), ids('▁He ▁saw ▁it ?')
    cutter = fill(packing.Sentences(5, VOCABULARY), [*first, *second], ids('▁He'), [])
    rows = cutter.take(cutter.ready())
    np.testing.assert_array_equal(rows.tokens, [first[:5], [*second, 0]])
    np.testing.assert_array_equal(rows.lengths, [5, 4])
    assert cutter.dropped == 2


CUTTERS = [
    lambda: packing.Concatenate(7, eos=1, separate=True),
    lambda: packing.Concatenate(7, eos=None, separate=False, min_tokens=2),
    lambda: packing.Chunks(7),
    lambda: packing.Sentences(7, VOCABULARY),
]


@pytest.mark.parametrize('make', CUTTERS)
def test_restored_in_mid_row_gives_the_rows_of_an_uninterrupted_run(make):
    random = np.random.default_rng(0)
    documents = [random.integers(0, 13, random.integers(0, 40)) for _ in range(40)]

    def rows(interrupt):
        cutter, taken = make(), []
        for i, tokens in enumerate(documents):
            cutter.add({'targets': tokens.astype(np.int32)})
            if interrupt and i % 3 == 0:
                state = {name: np.array(value) for name, value in cutter.state().items()}
                cutter = make()
                cutter.restore(state)
            taken.append(cutter.take(min(2, cutter.ready())))
        cutter.flush()
        taken.append(cutter.take(cutter.ready()))
        return cutter.dropped, [np.concatenate(x) for x in zip(*taken, strict=True)]

    (dropped, whole), (dropped_again, parts) = rows(False), rows(True)
    assert dropped == dropped_again > 0
    assert len(whole[0]) > 50
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('separate', [True, False])
def test_concatenation_loses_nothing(separate):
    random = np.random.default_rng(1)
    documents = [random.integers(0, 99, random.integers(1, 50)) for _ in range(60)]
    _, rows = concatenated(*documents, length=16, eos=1, separate=separate)
    expected = np.concatenate([np.append(tokens, 1) for tokens in documents])
    np.testing.assert_array_equal(rows.tokens[rows.segments > 0], expected)


def test_rows_are_framed_and_shifted():
    vocabulary = fixtures.vocabulary()  # pad 0, cls 3, sep 4, no bos
    framed = packing.frame(fill(packing.Chunks(3), [5, 6, 7, 8, 9]).take(2), vocabulary)
    np.testing.assert_array_equal(framed.tokens, [[3, 5, 6, 7, 4], [3, 8, 9, 4, 0]])
    np.testing.assert_array_equal(framed.segments, [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(framed.positions, [[0, 1, 2, 3, 4], [0, 1, 2, 3, 0]])
    _, rows = concatenated([5, 6], [7], length=6, eos=1, separate=True)
    np.testing.assert_array_equal(packing.shift_right(rows, vocabulary), [[0, 5, 6, 0, 7, 0]])
    begun = packing.shift_right(rows, dataclasses.replace(vocabulary, bos=2))
    np.testing.assert_array_equal(begun, [[2, 5, 6, 2, 7, 0]])


def test_rows_are_closed_with_eos_at_any_width():
    segments, positions = packing.extents(np.array([3, 1]), 3)
    rows = packing.Rows(np.array([[7, 8, 9], [7, 0, 0]], np.int32), segments, positions)
    assert packing.close(rows, 1, 5).tokens.tolist() == [[7, 8, 9, 1, 0], [7, 1, 0, 0, 0]]
    closed = packing.close(rows, 1, 4)
    assert closed.tokens.tolist() == [[7, 8, 9, 1], [7, 1, 0, 0]]
    assert closed.segments.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert closed.positions.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    with pytest.raises(IndexError):  # never without its EOS
        packing.close(rows, 1, 3)
