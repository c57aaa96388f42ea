"""Causal LM's data: packed documents, shifted inputs, and no way to see one's own target."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import numpy as np
import pytest

from t5x_lite.errors import ConfigError
from t5x_lite.objectives.causal_lm import CausalLM, causal_lm

LENGTHS = {'targets': 5}


def batch(converter, vocabulary, documents, lengths=LENGTHS):
    cutter = converter.cutter(lengths, vocabulary)
    for tokens in documents:
        cutter.add({'targets': np.array(tokens, np.int32)})
    cutter.flush()
    rows = cutter.take(cutter.ready())
    return converter.batch(rows, lengths, vocabulary, np.zeros((len(rows.tokens), 0)))


def test_a_batch_of_separate_documents(vocabulary):
    out = batch(CausalLM(), vocabulary, [[6, 7], [8, 9, 10, 11], []])
    np.testing.assert_array_equal(
        out['decoder_target_tokens'], [[6, 7, 1, 8, 9], [10, 11, 1, 0, 0]]
    )
    np.testing.assert_array_equal(out['decoder_input_tokens'], [[0, 6, 7, 0, 8], [0, 10, 11, 0, 0]])
    np.testing.assert_array_equal(out['decoder_loss_weights'], [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(out['decoder_segment_ids'], [[1, 1, 1, 2, 2], [1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(out['decoder_positions'], [[0, 1, 2, 0, 1], [0, 1, 2, 0, 0]])


def test_a_batch_of_one_stream(vocabulary):
    out = batch(CausalLM(separate=False), vocabulary, [[6, 7], [8, 9, 10, 11]])
    np.testing.assert_array_equal(out['decoder_input_tokens'], [[0, 6, 7, 1, 8], [0, 10, 11, 0, 0]])
    np.testing.assert_array_equal(out['decoder_segment_ids'], [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(out['decoder_positions'], [[0, 1, 2, 3, 4], [0, 1, 2, 0, 0]])


def test_batches_have_the_shapes_and_types_of_spec(vocabulary):
    out = batch(CausalLM(), vocabulary, [range(6, 16)])
    found = {name: (x.shape[1:], x.dtype) for name, x in out.items()}
    assert found == CausalLM().spec(LENGTHS)


def test_bos_begins_each_segment_where_the_vocabulary_has_one(vocabulary):
    with_bos = dataclasses.replace(vocabulary, bos=2)
    out = batch(CausalLM(), with_bos, [[6, 7], [8, 9]])
    np.testing.assert_array_equal(out['decoder_input_tokens'], [[2, 6, 7, 2, 8], [2, 0, 0, 0, 0]])


def test_changing_a_target_changes_no_input_up_to_it(vocabulary):
    documents = [[6, 7, 8], [9, 10, 11, 12, 13], [14, 15]]
    before = batch(CausalLM(), vocabulary, documents)
    documents[1][2] = 16
    after = batch(CausalLM(), vocabulary, documents)
    targets, inputs = (
        np.flatnonzero(before[name].ravel() != after[name].ravel())
        for name in ('decoder_target_tokens', 'decoder_input_tokens')
    )
    assert targets.tolist() == [6] and inputs.tolist() == [7]


@pytest.mark.parametrize(
    'lengths, message', [({'targets': 1}, '2 or more'), ({'inputs': 8}, 'nearest|known: targets')]
)
def test_bad_lengths_are_refused(lengths, message):
    with pytest.raises(ConfigError, match=message):
        causal_lm().converter.check(lengths)


def test_a_vocabulary_without_eos_is_refused(vocabulary):
    with pytest.raises(ConfigError, match='no eos id'):
        CausalLM().check(LENGTHS, dataclasses.replace(vocabulary, eos=None))
    CausalLM().check(LENGTHS, vocabulary)
