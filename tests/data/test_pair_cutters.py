"""Pair cutters: literal rows, nothing lost, published rates, positions saved, what is refused."""
# SPDX-License-Identifier: Apache-2.0

import fixtures
import numpy as np
import pytest

from t5x_lite.data.sentence_pairs import NextSentence, SentenceOrder, front, kept
from t5x_lite.errors import ConfigError

VOCABULARY = fixtures.vocabulary(4096)  # 6 is a full stop, every word from 7 on may open a sentence
ONE, TWO, THREE = [7, 8, 9, 6], [10, 11, 12, 6], [13, 14, 15, 16, 6]


def fill(cutter, *documents):
    for tokens in documents:
        cutter.add({'targets': np.array(tokens, np.int32)})
    return cutter


def rows_of(cutter, *documents):
    fill(cutter, *documents).flush()
    return cutter.take(cutter.ready())


def text(count: int, sentences: int = 20, words: int = 7):
    """Documents in which no word is used twice: word and document are one to one."""
    start = 7
    for _ in range(count):
        tokens = np.arange(start, start + sentences * (words + 1), dtype=np.int32)
        tokens[words :: words + 1] = 6
        start += len(tokens)
        yield tokens


def sides(rows):
    """(A, B, label) of each row, checked to be `[CLS] A [SEP] B [SEP]`."""
    for tokens, types, length, label in zip(*rows, strict=True):
        first, second = np.flatnonzero(tokens == 4)
        assert tokens[0] == 3 and second == length - 1 and not tokens[length:].any()
        assert types.tolist() == [0] * (first + 1) + [1] * (second - first) + [0] * (
            len(tokens) - length
        )
        yield tokens[1:first].tolist(), tokens[first + 1 : second].tolist(), int(label)


def test_two_sentences_are_in_order_or_swapped():
    found = {}
    for seed in range(20):
        rows = rows_of(SentenceOrder(14, VOCABULARY, (seed,), short_share=0.0), ONE + THREE)
        assert {x.dtype for x in rows} == {np.dtype(np.int32)}
        found[int(rows.labels[0])] = [x.tolist() for x in rows]
    assert found == {
        0: [
            [[3, 7, 8, 9, 6, 4, 13, 14, 15, 16, 6, 4, 0, 0]],
            [[0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0]],
            [12],
            [0],
        ],
        1: [
            [[3, 13, 14, 15, 16, 6, 4, 7, 8, 9, 6, 4, 0, 0]],
            [[0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0]],
            [12],
            [1],
        ],
    }


def test_b_is_the_next_sentence_or_of_the_other_document():
    documents, found = (ONE + TWO, THREE + TWO[::-1][1:] + [6]), set()
    for seed in range(40):
        cutter = NextSentence(16, VOCABULARY, (seed,), short_share=0.0)
        found |= {(str(a), str(b), y) for a, b, y in sides(rows_of(cutter, *documents))}
    last = [12, 11, 10, 6]
    assert {(b, y) for a, b, y in found if a == str(ONE)} == {
        (str(TWO), 0),
        (str(THREE + last), 1),  # until the target, 13 tokens, or the document's end
        (str(last), 1),
    }
    # The last sentence alone is a chunk of one sentence, whose B is always random.
    assert {y for a, b, y in found if a == str(TWO)} == {1}


def test_what_was_to_follow_a_goes_back_to_the_text():
    """A's, and B's that are true, are all of a document in its order, nothing lost or repeated."""
    documents = list(text(10))
    rows = rows_of(NextSentence(2000, VOCABULARY, (1,), short_share=0.5), *documents)
    own = {int(word): i for i, d in enumerate(documents) for word in d if word != 6}
    seen = [[] for _ in documents]
    for a, b, label in sides(rows):
        assert (own[a[0]] != own[b[0]]) == label
        seen[own[a[0]]] += a if label else a + b
    assert seen == [d.tolist() for d in documents]
    assert 0 < rows.labels.mean() < 1


def test_sentence_order_uses_every_sentence_once():
    documents = list(text(10))
    cutter = SentenceOrder(2000, VOCABULARY, (1,), short_share=0.0)
    seen = [b + a if label else a + b for a, b, label in sides(rows_of(cutter, *documents))]
    assert seen == [d.tolist() for d in documents]
    assert cutter.dropped == 0


def test_rates_of_20000_chunks_are_the_published_ones():
    order = SentenceOrder(5 * 4 + 3, VOCABULARY, (0,), short_share=0.0)
    rows = rows_of(order, np.tile(ONE, 5 * 20_000))
    assert len(rows.labels) == 20_000
    assert rows.labels.mean() == pytest.approx(0.5, abs=0.01)
    first = (rows.tokens == 4).argmax(1) - 1
    first = np.where(rows.labels == 1, 20 - first, first)
    shares = np.bincount(first // 4, minlength=6)[1:5] / 20_000
    assert shares == pytest.approx(0.25, abs=0.01)  # 1 to 4 of 5 sentences

    others = [np.tile([20 + i, 20 + i, 20 + i, 6], 4) for i in range(4)]
    following = NextSentence(5 * 4 + 3, VOCABULARY, (0,), short_share=0.0)
    rows = rows_of(following, *others, np.tile(ONE, 160_000))
    rows = [(b, label) for a, b, label in sides(rows) if 7 in a]
    drawn = [b for b, label in rows if label]
    assert len(drawn) > 20_000
    assert len(drawn) / len(rows) == pytest.approx(0.5, abs=0.01)
    source = np.array([b[0] - 20 for b in drawn])
    assert np.bincount(source, minlength=4) / len(source) == pytest.approx(0.25, abs=0.01)
    # B starts at sentence 0 to 3 of 4, and goes on for what A, of 1 to 4, leaves or there is.
    sizes = np.bincount([len(b) // 4 for b in drawn], minlength=5)[1:] / len(drawn)
    expected = [min(4 - start, 5 - a) for start in range(4) for a in range(1, 5)]
    assert sizes == pytest.approx(np.bincount(expected)[1:] / 16, abs=0.01)


def test_a_tenth_of_the_targets_are_short_and_uniform():
    words = np.tile([7, 8, 9, 10, 11, 6], 400_000 // 6)
    cutter = SentenceOrder(300 + 3, VOCABULARY, (5,), min_tokens=1)
    rows = rows_of(cutter, words, words, words, words, words, words, words, words, words)
    tokens = rows.lengths - 3
    short = tokens[tokens < 300]
    assert len(short) / len(tokens) == pytest.approx(0.1, abs=0.01)
    assert np.median(short) == pytest.approx(150, abs=12)


def one_at_a_time(first: int, second: int, most: int) -> tuple[int, int]:
    while first + second > most:
        if first > second:
            first -= 1
        else:
            second -= 1
    return first, second


def test_the_longer_side_is_cut_as_if_one_at_a_time():
    cases = [(a, b, most) for a in range(1, 14) for b in range(1, 14) for most in range(2, 28)]
    for case in cases:
        assert kept(*case) == one_at_a_time(*case) and min(kept(*case)) > 0, case


def test_tokens_go_from_the_front_as_heads_of_fair_coins():
    draws = (np.arange(3200) + 0.5) / 3200
    counts = np.bincount([front(5, draw) for draw in draws], minlength=6)
    assert counts.tolist() == [100, 500, 1000, 1000, 500, 100]
    assert front(0, 0.9) == 0
    assert [front(3, draw) for draw in (0.0, 1 - 1e-16)] == [0, 3]
    many = [front(4000, draw) for draw in (np.arange(1000) + 0.5) / 1000]
    assert np.mean(many) == pytest.approx(2000, abs=1)
    assert np.std(many) == pytest.approx(1000**0.5, rel=0.02)


@pytest.mark.parametrize('words, length', [(4, 13), (4, 12), (20, 5)])
def test_a_pair_of_exactly_the_length_is_whole_and_one_over_loses_a_token(words, length):
    a, b = np.arange(10, 10 + words), np.arange(50, 50 + words)
    a[-1] = b[-1] = 6
    for seed in range(8):
        cutter = SentenceOrder(length, VOCABULARY, (seed,), short_share=0.0, min_tokens=1)
        # the chunk's first sentence may reach its target alone: then no pair can be made
        found = list(sides(rows_of(cutter, np.concatenate([a, b]))))
        if words >= length - 3:
            assert not found and cutter.dropped == 2
            continue
        ((x, y, label),) = found
        x, y = (y, x) if label else (x, y)
        lost = 2 * words - (length - 3)
        assert len(x) + len(y) == 2 * words - max(lost, 0)
        assert str(x)[1:-1] in str(a.tolist()) and str(y)[1:-1] in str(b.tolist())


@pytest.mark.parametrize('kind', [SentenceOrder, NextSentence])
@pytest.mark.parametrize('added', [0, 1, 2, 7])
def test_a_restored_cutter_goes_on_with_the_same_rows(kind, added):
    documents = list(text(12))
    make = lambda: kind(40, VOCABULARY, (3, 4))
    cutter = fill(make(), *documents[:added])
    cutter.take(min(3, cutter.ready()))
    again = make()
    again.restore({name: value.copy() for name, value in cutter.state().items()})
    for one, other in zip(
        rows_of(cutter, *documents[added:]), rows_of(again, *documents[added:]), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert cutter.dropped == again.dropped


@pytest.mark.parametrize('kind', [SentenceOrder, NextSentence])
def test_rows_do_not_depend_on_when_they_are_taken_and_do_on_the_seed(kind):
    documents = list(text(6))
    whole = rows_of(kind(40, VOCABULARY, (0,)), *documents)
    cutter, parts = kind(40, VOCABULARY, (0,)), []
    for tokens in documents:
        fill(cutter, tokens)
        parts += [cutter.take(1) for _ in range(cutter.ready())]
    np.testing.assert_array_equal(np.concatenate([p.tokens for p in parts]), whole.tokens)
    other = rows_of(kind(40, VOCABULARY, (1,)), *documents)
    assert other.tokens.shape != whole.tokens.shape or (other.tokens != whole.tokens).any()


def test_a_document_is_no_negative_of_its_copy_in_another_epoch():
    documents = list(text(2, sentences=6))
    cutter = NextSentence(40, VOCABULARY, (0,))
    for a, b, label in sides(rows_of(cutter, *documents * 50)):
        assert label == ((max(a) < documents[1][0]) != (max(b) < documents[1][0]))


def test_only_the_last_documents_are_remembered():
    documents = list(text(9, sentences=4))
    cutter = fill(NextSentence(40, VOCABULARY, (0,), documents=3), *documents)
    np.testing.assert_array_equal(cutter.state()['recent_tokens'], np.concatenate(documents[-3:]))


def test_the_first_document_waits_for_a_second():
    first, second = text(2)
    cutter = fill(NextSentence(40, VOCABULARY), first)
    assert cutter.ready() == 0
    assert fill(cutter, second).ready() > 0


def test_one_document_has_no_negatives_and_is_refused():
    (document,) = text(1)
    with pytest.raises(ConfigError, match='nsp: the data is one document only.*more documents'):
        fill(NextSentence(40, VOCABULARY), document, document).flush()
    with pytest.raises(ConfigError, match='nsp: the first 100 documents are one document only'):
        fill(NextSentence(40, VOCABULARY), *[document] * 200)


def test_empty_and_short_documents_are_dropped_and_counted():
    cutter = fill(NextSentence(40, VOCABULARY), [], [7, 8, 6])
    cutter.flush()
    assert (cutter.ready(), cutter.dropped) == (0, 2)


def test_a_chunk_of_one_sentence_makes_no_pair_in_order_and_a_random_one_else():
    order = fill(SentenceOrder(40, VOCABULARY), ONE, THREE)
    assert (order.ready(), order.dropped) == (0, 2)
    rows = rows_of(NextSentence(40, VOCABULARY), ONE, THREE)
    assert list(sides(rows)) == [(ONE, THREE, 1), (THREE, ONE, 1)]
