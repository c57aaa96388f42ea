"""Span QA: windows on literals, best spans, answers over windows, learning, what is refused."""
# SPDX-License-Identifier: Apache-2.0

import itertools

import jax.numpy as jnp
import labelled
import numpy as np
import pytest
from test_classification import batch

from t5x_lite.errors import ConfigError
from t5x_lite.interop.families import bert as bert_files
from t5x_lite.objectives.span_loss import SpanLoss, best_spans
from t5x_lite.objectives.span_qa import span_qa

SMALL = dict(stride=2, question_length=2, answers=2)
EXAMPLE = dict(question=[10, 11, 16], context=[12, 13, 14, 15, 16, 10], answers=[2, 4])


def test_a_long_context_goes_on_in_windows_and_the_answer_is_where_all_of_it_is(vocabulary):
    out, _ = batch(span_qa(**SMALL), [EXAMPLE], vocabulary, length=8)
    np.testing.assert_array_equal(
        out['encoder_input_tokens'],
        [
            [3, 10, 11, 4, 12, 13, 14, 4],
            [3, 10, 11, 4, 14, 15, 16, 4],
            [3, 10, 11, 4, 16, 10, 4, 0],
        ],
    )
    np.testing.assert_array_equal(out['token_type_ids'][2], [0, 0, 0, 0, 1, 1, 1, 0])
    np.testing.assert_array_equal(out['span_begins'], [0, 4, 0])
    np.testing.assert_array_equal(out['span_ends'], [0, 5, 0])
    np.testing.assert_array_equal(out['span_weights'], [0, 1, 0])
    np.testing.assert_array_equal(out['window_first'], [1, 0, 0])
    np.testing.assert_array_equal(out['window_offsets'], [0, 2, 4])
    np.testing.assert_array_equal(out['window_begins'], [4, 4, 4])
    np.testing.assert_array_equal(out['window_answers'][0], [[2, 4], [-1, -1]])


def test_rows_without_the_answer_learn_to_be_silent_if_questions_may_have_none(vocabulary):
    none = EXAMPLE | dict(answers=[], context=[12, 13])
    out, _ = batch(span_qa(**SMALL, unanswerable=True), [EXAMPLE, none], vocabulary)
    np.testing.assert_array_equal(out['span_weights'], [1, 1, 1, 1])
    np.testing.assert_array_equal(out['span_begins'], [0, 4, 0, 0])


def test_a_context_that_fits_is_one_window(vocabulary):
    out, dropped = batch(span_qa(**SMALL), [EXAMPLE, EXAMPLE | dict(context=[])], vocabulary, 11)
    assert len(out['span_begins']) == 1 and dropped == 1


def test_the_best_span_is_the_best_of_all_that_are_allowed():
    draw = np.random.default_rng(0)
    begin, end = draw.normal(size=(2, 20, 7)).astype(np.float32)
    allowed = draw.random((20, 7)) < 0.7
    allowed[:, 3] = True
    found = best_spans(jnp.array(begin), jnp.array(end), jnp.array(allowed), 3)
    for b in range(20):
        scores = {
            (i, j): begin[b, i] + end[b, j]
            for i, j in itertools.product(range(7), repeat=2)
            if i <= j < i + 3 and allowed[b, i] and allowed[b, j]
        }
        best = max(scores, key=scores.get)
        assert (int(found['begin'][b]), int(found['end'][b])) == best
        assert float(found['score'][b]) == pytest.approx(scores[best], rel=1e-5)


def rows(vocabulary, best, score, none, **settings):
    """What `predict` would give for the windows of EXAMPLE, then a row of padding."""
    out, _ = batch(span_qa(**SMALL, **settings), [EXAMPLE], vocabulary, length=8)
    found = {n: out[n] for n in out if n.startswith('window')}
    found |= {n: out[f'encoder_{n}'] for n in ('input_tokens', 'segment_ids')}
    found |= {'begin': best, 'end': best, 'score': score, 'none': none}
    arrays = {n: np.asarray(x) for n, x in found.items()}
    return {n: np.concatenate([x, np.zeros_like(x[:1])]) for n, x in arrays.items()}


def test_a_questions_answer_is_the_best_of_its_windows(vocabulary):
    answer = lambda *scores: SpanLoss().collect(
        rows(vocabulary, [4, 5, 4], list(scores), [0.0] * 3), vocabulary
    )
    # Ids 12, 15 and 16 are 'A', 'D', 'E' ('▁' for the space); the answer is 14 15.
    word = lambda *ids: vocabulary.text(ids).strip()
    assert answer(3.0, 1.0, 2.0) == ([word(12)], [[word(14, 15)]])
    assert answer(1.0, 2.0, 1.0)[0] == [word(15)]
    assert answer(1.0, 2.0, 3.0)[0] == [word(16)]


def test_silence_must_score_higher_in_all_windows(vocabulary):
    loss = SpanLoss(unanswerable=True)
    answer = lambda none: loss.collect(
        rows(vocabulary, [4, 5, 4], [1.0, 2.0, 0.0], none), vocabulary
    )
    assert answer([3.0, 3.0, 3.0])[0] == ['']
    assert answer([3.0, 3.0, 1.0])[0] != ['']


def test_the_head_is_that_of_published_files():
    assert span_qa().terms['span'].head == bert_files.FAMILY.heads['span'].build(2)


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda: span_qa(stride=0), ['stride=0', '1 or more']),
        (lambda: span_qa(longest_answer=0), ['longest_answer=0']),
        (lambda: span_qa(marks='eos', unanswerable=True), ['unanswerable=True', "marks='cls'"]),
        (lambda: span_qa().converter.check({'inputs': 128}), ['195 or more', 'stride=128']),
    ],
)
def test_settings_that_cannot_work_are_refused(make, words):
    with pytest.raises(ConfigError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize('answers', [[2, 7], [3, 3], [-1, 2]])
def test_answers_outside_the_context_are_refused(answers, vocabulary):
    with pytest.raises(ConfigError, match='of a context of 6'):
        batch(span_qa(**SMALL), [EXAMPLE | dict(answers=answers)], vocabulary)


def test_span_qa_overfits_a_batch():
    draw = np.random.default_rng(0)
    examples = []
    for begin in range(8):
        texts = dict(question=labelled.words(draw, 2), context=labelled.words(draw, 9))
        examples.append(texts | dict(answers=np.array([begin, begin + 1 + begin % 2])))
    run = labelled.experiment(span_qa(**SMALL), {'inputs': 14})
    first, last, _ = labelled.overfitted(run, examples, 80)
    assert first['s/accuracy'] < 0.5 and last['s/accuracy'] == 1.0
