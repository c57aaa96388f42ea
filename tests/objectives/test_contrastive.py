"""Contrastive data: one framed sentence per row, alone or masked; and the terms' settings."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import numpy as np
import pytest

from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError
from t5x_lite.model.heads import MaskedLMHead, SentenceHead
from t5x_lite.objectives.contrastive import Sentences, mlm_simcse, simcse
from t5x_lite.objectives.similarity import pool_mean

LENGTHS = {'targets': 7}
# ▁Mr . ▁A ▁a .   ▁B ▁b ▁b ▁a ▁a ▁b .   newline ▁C ▁a ▁b .
DOCUMENT = [8, 7, 12, 10, 7, 13, 11, 11, 10, 10, 11, 7, 6, 14, 10, 11, 7]


def batch(converter, vocabulary):
    cutter = converter.cutter(LENGTHS, vocabulary)
    cutter.add({'targets': np.array(DOCUMENT, np.int32)})
    cutter.add({'targets': np.array([], np.int32)})
    assert cutter.dropped == 1
    rows = cutter.take(cutter.ready())
    numbers = uniforms((0,), 0, len(rows.tokens), converter.draws(LENGTHS))
    return converter.batch(rows, LENGTHS, vocabulary, numbers)


def test_a_batch(vocabulary):
    out = batch(Sentences(), vocabulary)
    np.testing.assert_array_equal(
        out['encoder_input_tokens'],
        [[3, 8, 7, 12, 10, 7, 4], [3, 13, 11, 11, 10, 10, 4], [3, 14, 10, 11, 7, 4, 0]],
    )
    np.testing.assert_array_equal(
        out['encoder_segment_ids'], [[1] * 7, [1] * 7, [1, 1, 1, 1, 1, 1, 0]]
    )
    np.testing.assert_array_equal(
        out['encoder_positions'], [range(7), range(7), [0, 1, 2, 3, 4, 5, 0]]
    )
    found = {name: (x.shape[1:], x.dtype) for name, x in out.items()}
    assert found == Sentences().spec(LENGTHS)


def test_masked_sentences_are_the_same_rows(vocabulary):
    out = batch(mlm_simcse(rate=0.3).converter, vocabulary)
    plain = batch(Sentences(), vocabulary)['encoder_input_tokens']
    np.testing.assert_array_equal(out['encoder_target_tokens'], plain)
    np.testing.assert_array_equal(out['encoder_loss_weights'].sum(1), [2, 2, 2])
    changed = out['encoder_input_tokens'] != plain
    assert changed.any() and (out['encoder_loss_weights'][changed] == 1).all()


def test_terms_have_the_settings_given():
    (term,) = simcse(temperature=0.1, pool=pool_mean, mlp=False).terms.values()
    assert (term.loss.temperature, term.loss.pool, term.head) == (0.1, pool_mean, None)
    assert simcse().terms['simcse'].head == SentenceHead()
    both = mlm_simcse(mlm_weight=0.2)
    assert both.terms['mlm'].weight == 0.2 and both.terms['mlm'].head == MaskedLMHead()
    assert both.terms['simcse'].batchwide and not both.terms['mlm'].batchwide
    assert both.forward.needs == ('encoder',)


def test_bad_lengths_and_vocabularies_are_refused(vocabulary):
    with pytest.raises(ConfigError, match='3 or more'):
        simcse().converter.check({'targets': 2})
    without = dataclasses.replace(vocabulary, cls=None)
    with pytest.raises(ConfigError, match='no cls id'):
        simcse().converter.check(LENGTHS, without)
    with pytest.raises(ConfigError, match='no cls id'):
        mlm_simcse().converter.check(LENGTHS, without)
    simcse().converter.check(LENGTHS, vocabulary)
