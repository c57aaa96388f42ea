"""Answers known by characters are found in tokens, of vocabularies of several kinds."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import seqio

from t5x_lite.data import vocabularies
from t5x_lite.data.answer_places import locate

TEXT = 'Die Straße führt nach Köln, "über den Fluß".\nDann 1,024 Meter – weiter.'


@pytest.mark.parametrize('kind', ['bundled', 'bytes'])
@pytest.mark.parametrize('answer', ['Straße', 'Köln', '1,024 Meter', 'weiter', 'Die', 'ß'])
def test_the_tokens_found_hold_the_answer_and_little_more(kind, answer):
    vocabulary = vocabularies.bundled() if kind == 'bundled' else seqio.ByteVocabulary()
    tokens = np.array(vocabulary.encode(TEXT))
    begin = TEXT.index(answer)
    info = vocabularies.describe(vocabulary)
    first, last = locate(TEXT, tokens, info, begin, begin + len(answer))
    held = vocabulary.decode(tokens[first:last].tolist())
    assert answer in held
    shorter = [tokens[first + 1 : last], tokens[first : last - 1]]
    assert all(answer not in vocabulary.decode(x.tolist()) for x in shorter)
    if kind == 'bytes':
        assert held == answer


def test_wordpiece_is_found_without_its_white_space():
    info = vocabularies.build(
        ['[PAD]', '[UNK]', 'the', '▁' + 'cat', '##s', 'sat', '.'],
        [True, True, *[False] * 5],
        {'pad': 0, 'unk': 1, 'eos': None, 'bos': None},
    )
    text, tokens = 'The  cats sat.', np.array([2, 3, 4, 5, 6])
    assert locate(text, tokens, info, 5, 9) == (1, 3)
    assert locate(text, tokens, info, 10, 14) == (3, 5)
    assert locate(text, tokens, info, 3, 5) is None  # white space alone


def test_what_cannot_be_found_is_none():
    info = vocabularies.describe(seqio.ByteVocabulary())
    tokens = np.array(seqio.ByteVocabulary().encode('abc'))
    assert locate('xyz', tokens, info, 0, 1) is None
    assert locate('abc', np.append(tokens[:1], info.unk), info, 0, 1) is None
