"""Tagging: tags on first pieces, long sentences in several rows, learning, what is refused."""
# SPDX-License-Identifier: Apache-2.0

import labelled
import numpy as np
import pytest
from test_classification import batch

from t5x_lite.data.cells import rows as shown
from t5x_lite.errors import ConfigError
from t5x_lite.interop.families import bert as bert_files
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.objectives.tagging import TagLoss, tagging

TAGS = ('O', 'B-a', 'I-a')
OBJECTIVE = tagging(tags=TAGS)
WORDS = dict(inputs=[10, 11, 12, 13, 14], words=[0, 0, 1, 2, 2], tags=[1, 2, 0])


def test_a_words_first_piece_has_its_tag_and_the_others_no_weight(vocabulary):
    out, _ = batch(OBJECTIVE, [WORDS], vocabulary)
    np.testing.assert_array_equal(out['encoder_input_tokens'], [[3, 10, 11, 12, 13, 14, 4, 0]])
    np.testing.assert_array_equal(out['tag_labels'], [[0, 1, 0, 2, 0, 0, 0, 0]])
    np.testing.assert_array_equal(out['tag_weights'], [[0, 1, 0, 1, 1, 0, 0, 0]])
    (row,) = shown(out, vocabulary, 1)
    assert {'tag_labels', 'tag_weights'} < set(row.groups[0].lines)


def test_a_long_sentence_goes_on_in_a_row_that_begins_with_a_word(vocabulary):
    out, _ = batch(OBJECTIVE, [WORDS, WORDS], vocabulary, length=6)
    two = [[3, 10, 11, 12, 4, 0], [3, 13, 14, 4, 0, 0]]
    np.testing.assert_array_equal(out['encoder_input_tokens'], two * 2)
    np.testing.assert_array_equal(out['tag_begins'], [1, 0, 1, 0])
    assert out['tag_weights'].sum() == 6


def test_a_word_longer_than_a_row_is_cut_and_the_next_row_begins_after_it(vocabulary):
    example = dict(inputs=[10, 11, 12, 13, 14], words=[0, 0, 0, 0, 1], tags=[1, 2])
    out, _ = batch(OBJECTIVE, [example], vocabulary, length=4)
    np.testing.assert_array_equal(out['encoder_input_tokens'], [[3, 10, 11, 4], [3, 14, 4, 0]])
    np.testing.assert_array_equal(out['tag_labels'], [[0, 1, 0, 0], [0, 2, 0, 0]])
    np.testing.assert_array_equal(out['tag_weights'], [[0, 1, 0, 0], [0, 1, 0, 0]])


def test_rows_of_a_sentence_are_joined_and_padding_is_left_out():
    rows = {
        'predictions': np.array([[9, 1, 9], [2, 9, 9], [0, 9, 9], [0, 0, 0]]) % 9,
        'targets': np.array([[0, 1, 0], [0, 0, 0], [2, 0, 0], [0, 0, 0]]),
        'weights': np.array([[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]),
        'begins': np.array([1, 0, 1, 0]),
    }
    found, true = TagLoss(tags=TAGS).collect(rows, None)
    assert found == [['B-a', 'I-a'], ['O']] and true == [['B-a', 'O'], ['I-a']]


def test_the_head_is_that_of_published_files():
    head = OBJECTIVE.terms['tagger'].head
    assert head == bert_files.FAMILY.heads['tagger'].build(3)


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(tags=[1, 3, 0]), "'tags' holds 3, but labels=3 knows 0 to 2"),
        (dict(tags=[1, 2]), '2 tags for 3 words'),
        (dict(words=[0, 0, 1, 2]), '5 pieces, the words of 4'),
        (dict(words=[0, 0, 2, 3, 3]), 'must number them 0, 1'),
    ],
)
def test_examples_that_do_not_fit_are_refused(change, words, vocabulary):
    with pytest.raises(ConfigError, match=words):
        batch(OBJECTIVE, [WORDS | change], vocabulary)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match='labels=3, as many as tags'):
        tagging(tags=TAGS, head=ClassifierHead(labels=2))
    with pytest.raises(ConfigError, match="'person'"):
        tagging(tags=('O', 'person'))
    with pytest.raises(ConfigError, match=r"lengths\['inputs'\]=2"):
        OBJECTIVE.converter.check({'inputs': 2})


def test_tagging_overfits_a_batch():
    draw = np.random.default_rng(0)
    words = np.array([0, 0, 1, 2, 2, 3])
    examples = [
        dict(inputs=labelled.words(draw, 6), words=words, tags=draw.integers(0, 3, 4))
        for _ in range(8)
    ]
    run = labelled.experiment(OBJECTIVE, {'inputs': 9})
    first, last, _ = labelled.overfitted(run, examples, 60)
    assert first['s/accuracy'] < 0.8 and last['s/accuracy'] == 1.0
