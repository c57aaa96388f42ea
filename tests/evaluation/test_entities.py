"""Entities of BIO tags and their scores, as conlleval counts them; on literals."""
# SPDX-License-Identifier: Apache-2.0

import pytest

from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.entities import (
    check_tags,
    entities,
    entity_f1,
    entity_precision,
    entity_recall,
    tag_accuracy,
)

# By the rules of conlleval.pl: which of two tags in a row ends and begins a chunk.
CASES = {
    'B-a I-a O': {(0, 2, 'a')},
    'B-a B-a': {(0, 1, 'a'), (1, 2, 'a')},
    'I-a I-a': {(0, 2, 'a')},
    'O I-a': {(1, 2, 'a')},
    'B-a I-b I-b': {(0, 1, 'a'), (1, 3, 'b')},
    'I-a B-a I-a': {(0, 1, 'a'), (1, 3, 'a')},
    'B-a O I-a': {(0, 1, 'a'), (2, 3, 'a')},
    'O O': set(),
    '': set(),
    'B-x-y I-x-y': {(0, 2, 'x-y')},
}


@pytest.mark.parametrize('tags', CASES)
def test_entities_are_conllevals_chunks(tags):
    assert entities(tags.split()) == CASES[tags]


def test_an_entity_is_right_if_place_and_type_are():
    true = [t.split() for t in ('B-a I-a O B-b', 'O B-a', 'O O')]
    found = [t.split() for t in ('B-a O O B-b', 'O B-b', 'B-a O')]
    # right: B-b of the first; found 4, true 3
    assert entity_precision(found, true) == pytest.approx(1 / 4)
    assert entity_recall(found, true) == pytest.approx(1 / 3)
    assert entity_f1(found, true) == pytest.approx(2 / 7)
    assert tag_accuracy(found, true) == pytest.approx(5 / 8)


def test_an_entity_does_not_go_on_in_the_next_sentence():
    assert entity_f1([['B-a'], ['I-a']], [['B-a'], ['I-a']]) == 1.0
    assert entity_recall([['B-a'], ['O']], [['B-a'], ['I-a']]) == 0.5


def test_no_entities_are_no_nan():
    assert entity_f1([['O']], [['O']]) == entity_precision([['O']], [['B-a']]) == 0.0


def test_other_tags_are_refused():
    check_tags('tagging', ('O', 'B-a', 'I-a'))
    for tag in ('E-a', 'B', 'person', 'B-'):
        with pytest.raises(ConfigError, match=f"'{tag}'.*'B-TYPE'"):
            check_tags('tagging', ('O', tag))
