"""What masked LM predicts: units of each kind, against plain loops and published shares."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from t5x_lite.data import annotations, masking, noise, randomness, vocabularies
from t5x_lite.data.masking import Entities, Ngrams, Spans, Text, Tokens, WholeWords
from t5x_lite.errors import ConfigError

PIECES = '<pad> [CLS] [SEP] [MASK] <unk> ▁a ▁b ▁c x y . <0x0A> ▁d ▁ ##z'.split(' ')
IDS = {'pad': 0, 'eos': None, 'unk': 4, 'bos': None}
SENTENCEPIECE = vocabularies.build(PIECES, [i < 5 for i in range(15)], IDS)
WORDPIECE = vocabularies.build(
    '[PAD] [CLS] [SEP] [MASK] [UNK] ▁the ▁man ##kind ##ly ▁, ▁.'.split(),
    [i < 5 for i in range(11)],
    IDS,
    starts_word=[i in (5, 6, 9, 10) for i in range(11)],
)
CHOICES = (Tokens(), WholeWords(), Ngrams(), Spans(), Entities())


def text(pieces, vocabulary=SENTENCEPIECE, entities=None):
    """One row of these pieces."""
    tokens = np.array([[vocabulary.pieces.index(p) for p in pieces.split(' ')]], np.int32)
    marks = np.zeros_like(tokens) if entities is None else np.array([entities], np.int32)
    return Text(tokens, ~vocabulary.special[tokens], vocabulary, {'entities': marks})


def random_text(seed, rows=40, length=60):
    """Rows of pieces of all kinds between [CLS] and [SEP], with padding and entities."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 15, (rows, length)).astype(np.int32)
    marks = np.cumsum(rng.random((rows, length)) < 0.2, axis=1).astype(np.int32)
    marks *= marks % 2  # every other run is an entity
    tokens[:, 0] = 1
    ends = rng.integers(2, length, rows)
    tokens[np.arange(rows), ends] = 2
    used = np.arange(length) <= ends[:, None]
    special = SENTENCEPIECE.special[tokens]
    marks[special & (tokens != 4)] = 0
    return Text(tokens * used, used & ~special, SENTENCEPIECE, {'entities': marks * used})


def numbers(choice, rows, length, seed=0):
    u = randomness.uniforms((seed,), 0, rows, choice.numbers * length)
    return np.split(u, choice.numbers, axis=1)


def units(choice, row, budget, *uniforms):
    return choice.units(row, np.array([budget]), [np.array([u]) for u in uniforms])[0].tolist()


def test_words_begin_at_marked_pieces_after_special_tokens_and_after_newlines():
    row = text('[CLS] x ▁a x . ▁b <unk> y ▁ x <0x0A> y [SEP] <pad>')
    starts = masking.word_starts(row)[0].astype(int).tolist()
    #                CLS x  a  x  .  b  unk y  _  x  nl y  SEP pad
    assert starts == [0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 0]


def test_wordpieces_are_grouped_with_the_start_of_their_word():
    row = text('[CLS] ▁the ▁man ##kind ##ly ▁, ▁. [SEP]', WORDPIECE)
    assert masking.word_starts(row)[0].astype(int).tolist() == [0, 1, 1, 0, 0, 1, 1, 0]


def test_a_word_that_would_exceed_the_budget_is_skipped_and_a_later_one_taken():
    row = text('[CLS] ▁the ▁man ##kind ##ly ▁, ▁. [SEP]', WORDPIECE)
    order = [0.9, 0.2, 0.1, 0.0, 0.0, 0.4, 0.3, 0.0]  # man-kind-ly first, then the . ,
    assert units(WholeWords(), row, 4, order) == [-1, 1, 2, 2, 2, -1, -1, -1]
    assert units(WholeWords(), row, 2, order) == [-1, 1, -1, -1, -1, -1, 6, -1]
    assert units(WholeWords(), row, 0, order) == [-1] * 8


def test_a_row_whose_words_all_exceed_the_budget_has_no_prediction():
    assert units(WholeWords(), text('[CLS] ▁a x [SEP]'), 1, [0.5] * 4) == [-1] * 4


def test_fewer_words_are_tried_where_an_ngram_would_exceed_the_budget():
    row = text('[CLS] ▁a ▁b x ▁c ▁d [SEP]')
    first, three = [0.9, 0.1, 0.2, 0.9, 0.3, 0.4, 0.9], [0.99] * 7
    assert units(Ngrams(), row, 4, first, three) == [-1, 1, 1, 1, 1, -1, -1]  # a, b x, c
    assert units(Ngrams(), row, 3, first, three) == [-1, 1, 1, 1, -1, -1, -1]  # a, b x
    assert units(Ngrams(), row, 2, first, three) == [-1, 1, -1, -1, 4, -1, -1]  # a; c


def test_an_ngram_that_meets_a_chosen_word_is_skipped_but_a_span_ends_before_it():
    row = text('[CLS] ▁a ▁b ▁c ▁d [SEP]')
    order = [0.9, 0.2, 0.3, 0.1, 0.4, 0.9]  # c alone, then two words from a, then b
    lengths = [0.0, 0.99, 0.99, 0.0, 0.0, 0.0]
    assert units(Ngrams(most=3), row, 4, order, lengths) == [-1, -1, -1, 3, 4, -1]
    assert units(Spans(most=3), row, 4, order, lengths) == [-1, 1, 1, 3, 4, -1]


def test_runs_of_words_do_not_cross_special_tokens():
    row = text('[CLS] ▁a [SEP] ▁b ▁c [SEP]')
    order, lengths = [0.9, 0.1, 0.9, 0.2, 0.3, 0.9], [0.99] * 6
    for choice in (Ngrams(), Spans()):
        assert units(choice, row, 3, order, lengths) == [-1, 1, -1, 3, 3, -1]


def test_an_entity_is_a_unit_and_what_is_left_of_its_last_word_another():
    row = text('[CLS] ▁a ▁b x . ▁c y [SEP]', entities=[0, 0, 1, 1, 0, 2, 2, 0])
    order = [0.0, 0.1, 0.2, 0.9, 0.3, 0.4, 0.9, 0.0]
    assert units(Entities(), row, 6, order) == [-1, 1, 2, 2, 4, 5, 5, -1]
    assert units(Entities(), row, 2, order) == [-1, 1, -1, -1, 4, -1, -1, -1]
    several = text('[CLS] ▁a ▁b ▁c ▁d [SEP]', entities=[0, 1, 1, 2, 2, 0])
    assert units(Entities(), several, 3, order) == [-1, 1, 1, -1, -1, -1]


def looped(choice, row, budget, uniforms):
    """The published algorithms, a row and a candidate at a time."""
    tokens, opened = row.tokens_BxL[0], row.open_BxL[0]
    entities = row.marks['entities'][0] * isinstance(choice, Entities)
    words, last = [], None
    for i, token in enumerate(tokens):
        entity, before = entities[i], entities[i - 1] if i else 0
        begins = row.vocabulary.starts_word[token] or last is None or not opened[i - 1]
        begins = begins or before > 0 or row.vocabulary.pieces[tokens[i - 1]] == '<0x0A>'
        if entity != before if entity else begins and opened[i]:
            words.append((i, []))
            last = i
        if opened[i]:
            words[-1][1].append(i)
    words = [(begin, members) for begin, members in words if members]
    order = sorted(range(len(words)), key=lambda w: uniforms[0][0][words[w][0]])
    out, left = np.full(len(tokens), -1), budget
    for w in order:
        begin, members = words[w]
        if out[members[0]] >= 0:
            continue
        wanted = 1 if choice.numbers == 1 else choice.lengths(uniforms[1][0][begin])
        run = words[w : w + wanted]
        while run and sum(len(m) for _, m in run) > left:
            run = run[:-1]
        for k in range(1, len(run)):
            if run[k][0] != run[k - 1][1][-1] + 1:  # a special token is between
                run = run[:k]
                break
        taken = [k for k, (_, m) in enumerate(run) if out[m[0]] >= 0]
        if taken:
            run = run[: taken[0]] if isinstance(choice, Spans) else []
        for _, members in run:
            out[members] = begin
            left -= len(members)
    return out


@pytest.mark.parametrize('choice', CHOICES[1:], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize('seed', range(3))
def test_all_rows_at_once_give_what_one_candidate_at_a_time_gives(choice, seed):
    row = random_text(seed)
    budgets = np.random.default_rng(seed).integers(0, 25, 40)
    uniforms = numbers(choice, 40, 60, seed)
    found = choice.units(row, budgets, uniforms)
    for i in range(40):
        one = Text(
            row.tokens_BxL[i : i + 1],
            row.open_BxL[i : i + 1],
            row.vocabulary,
            {'entities': row.marks['entities'][i : i + 1]},
        )
        own = [u[i : i + 1] for u in uniforms]
        np.testing.assert_array_equal(found[i], looped(choice, one, budgets[i], own))
        np.testing.assert_array_equal(found[i], choice.units(one, budgets[i : i + 1], own)[0])


@pytest.mark.parametrize('choice', CHOICES, ids=lambda c: type(c).__name__)
def test_budgets_are_kept_and_special_tokens_are_never_chosen(choice):
    row = random_text(7, rows=500)
    budgets = np.random.default_rng(7).integers(0, 30, 500)
    chosen = choice.units(row, budgets, numbers(choice, 500, 60)) >= 0
    assert (chosen.sum(1) <= budgets).all() and not chosen[~row.open_BxL].any()
    assert chosen.sum() > 0.9 * np.minimum(budgets, row.open_BxL.sum(1)).sum()
    if isinstance(choice, Entities):
        assert_entities_are_whole(row.marks['entities'], row.open_BxL, chosen)


def assert_entities_are_whole(entities, opened, chosen):
    for row in range(len(entities)):
        for entity in set(entities[row]) - {0}:
            members = (entities[row] == entity) & opened[row]
            assert chosen[row][members].all() or not chosen[row][members].any()


def words_in_row(length, rows=1):
    """Rows of words of one piece each."""
    tokens = np.full((rows, length), 5, np.int32)
    return Text(tokens, np.ones(tokens.shape, bool), SENTENCEPIECE, {})


def run_lengths(choice, rows, length=4096):
    """Lengths of the units chosen in long rows at a low rate, where they seldom meet."""
    row = words_in_row(length, rows)
    found = choice.units(row, np.full(rows, length // 50), numbers(choice, rows, length))
    ids = found[found >= 0] + np.nonzero(found >= 0)[0] * length
    return np.unique(ids, return_counts=True)[1]


def test_ngrams_have_albert_s_shares():
    drawn = Ngrams().lengths(randomness.uniforms((0,), 0, 20_000, 1))
    for lengths in (drawn, run_lengths(Ngrams(), 430)):
        assert lengths.size >= 20_000
        for n, share in ((1, 6 / 11), (2, 3 / 11), (3, 2 / 11)):
            assert abs((lengths == n).mean() - share) < 0.01, n


def test_spans_have_spanbert_s_lengths():
    drawn = Spans().lengths(randomness.uniforms((0,), 0, 100_000, 1))
    assert drawn.max() == 10 and abs(drawn.mean() - 3.8) < 0.03
    for n in range(1, 11):
        assert abs((drawn == n).mean() - 0.2 * 0.8 ** (n - 1) / (1 - 0.8**10)) < 0.01
    lengths = run_lengths(Spans(), 430)
    assert lengths.size > 9_000 and 3.6 < lengths.mean() < 3.8  # some end early


def test_each_word_is_equally_likely():
    row = words_in_row(10, 20_000)
    chosen = WholeWords().units(row, np.full(20_000, 3), numbers(WholeWords(), 20_000, 10)) >= 0
    assert (chosen.sum(1) == 3).all()
    np.testing.assert_allclose(chosen.mean(0), 0.3, atol=0.01)


def test_tokens_of_a_span_are_masked_randomised_or_kept_together():
    spans, width = 20_000, 3
    found = np.tile(np.repeat([0, 3], width), (spans // 2, 1))
    uniforms = np.split(randomness.uniforms((0,), 0, spans // 2, 4 * width), 2, axis=1)
    changes = masking.shared_changes(found, uniforms, 0.8, 0.1)
    ordinary = np.arange(1000, 2000)
    out = noise.replace_chosen(
        np.full(found.shape, 7),
        found >= 0,
        changes,
        mask=3,
        ordinary=ordinary,
        mask_share=0.8,
        random_share=0.1,
    ).reshape(spans, width)
    kinds = np.where(out == 3, 0, np.where(out == 7, 2, 1))
    assert (kinds == kinds[:, :1]).all()
    shares = np.bincount(kinds[:, 0]) / spans
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.01)
    drawn = out[kinds[:, 0] == 1] - 1000
    assert abs(drawn.mean() - 499.5) < 20 and drawn.min() < 10 and drawn.max() > 989
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.1


def test_roberta_s_counts_have_the_exact_mean():
    u = randomness.uniforms((0,), 0, 20_000, 1)[:, 0]
    counts = noise.prediction_counts(np.full(20_000, 130), 0.15, None, u)  # 19.5
    assert set(counts) == {19, 20} and abs(counts.mean() - 19.5) < 0.01
    assert noise.prediction_counts([3, 3], 0.15, None, np.array([0.0, 0.9])).tolist() == [1, 1]
    assert noise.prediction_counts([300, 300], 0.0, None, np.array([0.0, 0.9])).tolist() == [0, 0]
    assert noise.prediction_counts([300], 0.15, 20, np.array([0.9])).tolist() == [20]


def test_keyed_numbers_are_uniform_and_a_function_of_the_key():
    keys = randomness.hashed(np.arange(40_000).reshape(20_000, 2))
    u = randomness.keyed(keys, 5)
    assert len(set(keys.tolist())) == 20_000 and u.min() >= 0 and u.max() < 1
    np.testing.assert_allclose(u.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(u.var(0), 1 / 12, atol=0.002)
    assert np.abs(np.corrcoef(u.T) - np.eye(5)).max() < 0.03
    np.testing.assert_array_equal(randomness.keyed(keys[7:9], 3), u[7:9, :3])
    assert randomness.hashed(np.array([[1, 2]])) != randomness.hashed(np.array([[2, 1]]))


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: Ngrams(most=0), r'Ngrams: most=0 must be an integer of 1 or more; try 3'),
        (lambda: Spans(most=2.5), r'Spans: most=2.5 must be an integer of 1 or more; try 10'),
        (lambda: Spans(p=0.0), r'Spans: p=0.0 must be in \(0, 1\]; try 0.2'),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def annotated():
    return annotations.AnnotatedChunks(3, ('entities',))


def example(tokens, entities):
    return {'targets': np.array(tokens, np.int32), 'entities': np.array(entities, np.int32)}


def test_annotations_are_cut_where_tokens_are():
    cutter = annotated()
    cutter.add(example([5, 6, 7, 8, 9], [0, 1, 1, 1, 0]))
    cutter.add(example([5], [1]))
    cutter.add(example([6, 7], [2, 0]))
    cutter.flush()
    assert (cutter.ready(), cutter.dropped) == (3, 1)
    rows, marks = cutter.take(3)
    np.testing.assert_array_equal(rows.tokens, [[5, 6, 7], [8, 9, 0], [6, 7, 0]])
    np.testing.assert_array_equal(rows.segments, [[1, 1, 1], [1, 1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(marks['entities'], [[0, 1, 1], [1, 0, 0], [2, 0, 0]])


def test_annotated_rows_go_on_from_a_saved_position():
    cutter, other = annotated(), annotated()
    cutter.add(example([5, 6, 7, 8, 9], [0, 1, 1, 1, 0]))
    cutter.take(1)
    other.restore(cutter.state())
    rows, marks = other.take(other.ready())
    np.testing.assert_array_equal(rows.tokens, [[8, 9, 0]])
    np.testing.assert_array_equal(marks['entities'], [[1, 0, 0]])


def test_annotations_that_do_not_fit_the_tokens_are_refused():
    with pytest.raises(ConfigError, match="2 numbers in 'entities' and 3 in 'targets'"):
        annotated().add(example([5, 6, 7], [0, 1]))
