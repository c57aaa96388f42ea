"""Masked LM's data: rows, counts, 80/10/10, and the rows on which nothing can be masked."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.transformer import build
from t5x_lite.objectives.losses import TokenLoss
from t5x_lite.objectives.mlm import MaskedLM, mlm

LENGTHS = {'targets': 8}


def batch(converter, vocabulary, documents, numbers=None, lengths=LENGTHS):
    cutter = converter.cutter(lengths, vocabulary)
    for tokens in documents:
        cutter.add({'targets': np.array(tokens, np.int32)})
    cutter.flush()
    rows = cutter.take(cutter.ready())
    if numbers is None:
        numbers = uniforms((0,), 0, len(rows.tokens), converter.draws(lengths))
    return converter.batch(rows, lengths, vocabulary, numbers)


def test_a_batch(vocabulary):
    scores = [0.0, 0.5, 0.3, 0.1, 0.4, 0.6, 0.2, 0.0]  # two lowest of text: 0.1 and 0.2
    changes = [0.0, 0.0, 0.0, 0.79, 0.0, 0.0, 0.8, 0.0]  # a mask, then the first ordinary id
    out = batch(
        MaskedLM(rate=0.25), vocabulary, [range(10, 16), [10, 11]], np.array([scores + changes] * 2)
    )
    np.testing.assert_array_equal(
        out['encoder_input_tokens'], [[3, 10, 11, 5, 13, 14, 6, 4], [3, 10, 5, 4, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['encoder_target_tokens'], [[3, 10, 11, 12, 13, 14, 15, 4], [3, 10, 11, 4, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['encoder_loss_weights'], [[0, 0, 0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['encoder_segment_ids'], [[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['encoder_positions'], [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(out['encoder_predicted_positions'], [[3, 6], [2, 0]])


def test_batches_have_the_shapes_and_types_of_spec(vocabulary):
    converter = MaskedLM()
    out = batch(converter, vocabulary, [range(6, 16)])
    found = {name: (x.shape[1:], x.dtype) for name, x in out.items()}
    assert found == converter.spec(LENGTHS)


def test_of_many_predictions_80_percent_are_masked_10_random_10_kept(vocabulary):
    lengths = {'targets': 102}
    converter = MaskedLM(rate=0.2)
    out = batch(converter, vocabulary, [[9] * 100_000], lengths=lengths)
    inputs = out['encoder_input_tokens'][out['encoder_loss_weights'] == 1]
    assert inputs.size == 20_000  # round(0.2 * 102) in each of 1,000 rows
    # a random one of the 11 ordinary ids may be the very same token
    assert abs((inputs == 5).mean() - 0.8) < 0.01
    assert abs((inputs == 9).mean() - (0.1 + 0.1 / 11)) < 0.01
    others = inputs[(inputs != 5) & (inputs != 9)]
    assert set(others) == {*range(6, 17)} - {9}
    places = np.nonzero(out['encoder_loss_weights'])[1]
    assert abs((places <= 50).mean() - 0.5) < 0.01


def test_special_tokens_are_never_predicted_nor_drawn(vocabulary):
    tokens = np.random.default_rng(0).integers(0, 20, 5_000)
    out = batch(MaskedLM(rate=0.9, random_share=0.2), vocabulary, [tokens])
    targets, inputs = out['encoder_target_tokens'], out['encoder_input_tokens']
    chosen = out['encoder_loss_weights'] > 0
    assert not vocabulary.special[targets[chosen]].any()
    changed = chosen & (inputs != targets)
    assert set(inputs[changed]) == {5, *range(6, 17)}
    np.testing.assert_array_equal(inputs[~chosen], targets[~chosen])


def test_a_row_of_special_tokens_has_no_predictions(vocabulary):
    out = batch(MaskedLM(), vocabulary, [[1, 2, 0, 19, 5, 1]])
    assert out['encoder_loss_weights'].sum() == 0
    np.testing.assert_array_equal(out['encoder_input_tokens'], [[3, 1, 2, 0, 19, 5, 1, 4]])


def test_rate_0_changes_nothing(vocabulary):
    out = batch(MaskedLM(rate=0.0), vocabulary, [range(6, 16)])
    assert out['encoder_loss_weights'].sum() == 0
    np.testing.assert_array_equal(out['encoder_input_tokens'], out['encoder_target_tokens'])


def test_short_documents(vocabulary):
    out = batch(MaskedLM(), vocabulary, [[], [6], [7, 8], range(6, 13)])
    # one token is too few; 6 + 1 tokens are a full row, and one too few
    np.testing.assert_array_equal(
        out['encoder_target_tokens'], [[3, 7, 8, 4, 0, 0, 0, 0], [3, 6, 7, 8, 9, 10, 11, 4]]
    )
    np.testing.assert_array_equal(out['encoder_loss_weights'].sum(1), [1, 1])


def test_max_predictions(vocabulary):
    out = batch(MaskedLM(rate=0.9, max_predictions=3), vocabulary, [range(6, 16)])
    assert out['encoder_loss_weights'].sum(1).tolist() == [3, 3]


@pytest.mark.parametrize(
    'lengths, parts',
    [
        ({'targets': 3}, ["lengths['targets']=3", '4 or more']),
        ({'target': 9}, ["'target'", 'nearest: targets']),
        ({}, ["must have 'targets'"]),
    ],
)
def test_bad_lengths_are_refused(lengths, parts):
    with pytest.raises(ConfigError) as error:
        mlm().converter.check(lengths)
    assert all(part in str(error.value) for part in parts)


def test_a_vocabulary_without_mask_is_refused(vocabulary):
    with pytest.raises(ConfigError, match='no mask id.*needs cls, sep, mask'):
        MaskedLM().check(LENGTHS, dataclasses.replace(vocabulary, mask=None))
    MaskedLM().check(LENGTHS, vocabulary)


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'rate': 1.5}, r'rate=1.5 must be in \[0, 1\]; try 0.15'),
        ({'mask_share': 0.95}, r'add up to 1 at most; try random_share=0.05'),
        ({'max_predictions': 0}, r'max_predictions=0 must be 1 or more'),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        mlm(**settings)


def test_equal_settings_are_equal_objectives():
    assert mlm() == mlm(rate=0.15) != mlm(rate=0.3)


@pytest.mark.parametrize('normalise', ['tokens', 'examples'])
def test_scoring_the_predicted_places_alone_changes_no_number(vocabulary, normalise):
    lengths, rng = {'targets': 24}, np.random.default_rng(0)
    documents = [rng.integers(6, 20, n) for n in (60, 9, 3)]
    found = batch(MaskedLM(rate=0.3, random_count=True), vocabulary, documents, lengths=lengths)
    model = build(ModelConfig(vocab=64, embed=8, heads=2, mlp=8, encoder_layers=1))
    outputs = {'encoder_hidden': rng.normal(size=(*found['encoder_input_tokens'].shape, 8))}
    outputs = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), outputs)
    loss = TokenLoss(side='encoder', normalise=normalise)
    alone = loss(model, None, outputs, found)
    found.pop('encoder_predicted_positions')
    for name, mean in loss(model, None, outputs, found).items():
        assert alone[name].value == pytest.approx(float(mean.value), rel=1e-6)
        assert alone[name].count == mean.count > 0
