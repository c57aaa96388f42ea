"""Rows of several kinds: exact shares, nothing lost, and a position saved in mid-cycle."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from t5x_lite.data.mixed_rows import ConcatenateByKind

SIZES, SHARES = [4, 7, 5], [2, 3, 1]
TEXT = np.arange(1, 1001, dtype=np.int32)


def fill(*documents, seed=(3,), sizes=SIZES, shares=SHARES):
    cutter = ConcatenateByKind(sizes, shares, seed)
    for tokens in documents:
        cutter.add({'targets': np.asarray(tokens, np.int32)})
    return cutter


def everything(cutter, at_once=None):
    """Kinds, and each row's tokens without padding, of all rows that are ready."""
    kinds, rows = [], []
    while ready := cutter.ready():
        taken = cutter.take(min(ready, at_once or ready))
        assert all(not t[n:].any() for t, n in zip(taken.tokens, taken.lengths, strict=True))
        kinds += taken.kinds.tolist()
        rows += [t[:n].tolist() for t, n in zip(taken.tokens, taken.lengths, strict=True)]
    return kinds, rows


def test_rows_have_their_kinds_lengths_and_hold_the_text_in_order():
    kinds, rows = everything(fill(TEXT))
    assert [len(row) for row in rows] == [SIZES[kind] for kind in kinds]
    np.testing.assert_array_equal(np.concatenate(rows), TEXT[: sum(map(len, rows))])


@pytest.mark.parametrize('at_once', [1, 4, 64])
def test_how_rows_are_taken_and_documents_arrive_changes_no_row(at_once):
    expected = everything(fill(TEXT))
    pieces = np.split(TEXT, [1, 2, 100, 101, 350, 900])
    assert everything(fill(TEXT), at_once) == expected
    assert everything(fill(*pieces), at_once) == expected
    cutter, kinds, rows = fill(), [], []
    for piece in pieces:  # rows are taken as soon as they are ready
        cutter.add({'targets': piece})
        more = everything(cutter, at_once)
        kinds, rows = kinds + more[0], rows + more[1]
    assert (kinds, rows) == expected


def test_shares_are_exact_in_every_cycle_and_the_order_differs():
    cutter = fill(np.ones(200_000), sizes=[2, 3, 4], shares=[2, 10, 3])
    kinds = cutter.take(60_000).kinds.reshape(-1, 15)
    assert all((np.bincount(cycle, minlength=3) == [2, 10, 3]).all() for cycle in kinds)
    assert len(np.unique(kinds, axis=0)) > 1000
    # At each place of a cycle every kind is as likely as its share.
    for kind, share in enumerate([2, 10, 3]):
        np.testing.assert_allclose((kinds == kind).mean(0), share / 15, atol=0.03)


def test_another_seed_has_another_order():
    one, two = (fill(TEXT, seed=seed).take(60).kinds for seed in ((3, 0), (3, 1)))
    assert (one != two).any()
    np.testing.assert_array_equal(np.bincount(one), np.bincount(two))


@pytest.mark.parametrize('taken', [0, 1, 7, 50])
def test_a_position_saved_in_mid_cycle_goes_on_with_the_same_rows(taken):
    cutter = fill(TEXT[:500])
    cutter.take(taken)
    saved = {name: np.asarray(value) for name, value in cutter.state().items()}
    other = ConcatenateByKind(SIZES, SHARES, (3,))
    other.restore(saved)
    for each in (cutter, other):
        each.add({'targets': TEXT[500:]})
        each.flush()
    assert everything(other) == everything(cutter)


def test_the_end_makes_a_last_partial_row():
    coming = fill(TEXT).take(5)
    whole = int(coming.lengths[:4].sum())
    cutter = fill(TEXT[: whole + 3])  # the shortest kind has four tokens
    cutter.take(4)
    assert cutter.ready() == 0
    cutter.flush()
    assert cutter.ready() == 1
    last = cutter.take(1)
    assert (last.lengths.tolist(), last.kinds[0]) == ([3], coming.kinds[4])
    np.testing.assert_array_equal(last.tokens[0, :4], [whole + 1, whole + 2, whole + 3, 0])
    assert cutter.ready() == 0 and cutter.dropped == 0


def test_what_is_too_short_is_dropped_and_counted():
    cutter = fill([], [5, 6, 7], [8], [9], sizes=[3], shares=[1])
    cutter.take(1)
    cutter.add({'targets': TEXT[:2]})
    cutter.flush()  # one row of three, and one token
    assert (cutter.ready(), cutter.dropped) == (1, 2)
    np.testing.assert_array_equal(cutter.take(1).tokens, [[8, 9, 1]])
    assert cutter.ready() == 0 and cutter.state()['dropped'] == 2
    assert cutter.take(0).tokens.shape == (0, 3)
