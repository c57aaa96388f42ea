"""Prefix LM's data: where the prefix ends, who sees whom, what is scored; in one stack or two."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.transformer import build
from t5x_lite.objective import decode
from t5x_lite.objectives.prefix_lm import (
    PrefixLM,
    PrefixSeq2Seq,
    prefix_lengths,
    prefix_lm,
    prefix_seq2seq,
)
from t5x_lite.optim import AdamW

ONE, TWO = {'targets': 6}, {'inputs': 6, 'targets': 6}


def batch(converter, vocabulary, documents, lengths, draws):
    cutter = converter.cutter(lengths, vocabulary)
    for tokens in documents:
        cutter.add({'targets': np.array(tokens, np.int32)})
    rows = cutter.take(cutter.ready())
    return converter.batch(rows, lengths, vocabulary, np.array(draws)[:, None])


def test_a_batch_for_a_decoder_alone(vocabulary):
    documents = [[6, 7, 8, 9, 10], [11, 12, 13], [14]]  # n = 1 has no prefix and a rest: skipped
    out = batch(PrefixLM(), vocabulary, documents, ONE, [0.3, 0.99])
    arrays = {
        'decoder_target_tokens': [[6, 7, 8, 9, 10, 1], [11, 12, 13, 1, 0, 0]],
        'decoder_input_tokens': [[0, 6, 7, 8, 9, 10], [0, 11, 12, 13, 0, 0]],
        'decoder_causal_attention': [[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]],  # BOS, two tokens
        'decoder_loss_weights': [[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0]],
        'decoder_segment_ids': [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]],
        'decoder_positions': [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 0, 0]],
    }
    for name, expected in arrays.items():
        np.testing.assert_array_equal(out[name], expected, err_msg=name)


def test_a_batch_for_an_encoder_and_a_decoder(vocabulary):
    documents = [[6, 7, 8, 9, 10], [11, 12, 13]]
    out = batch(PrefixSeq2Seq(), vocabulary, documents, TWO, [0.3, 0.0])
    arrays = {
        'encoder_input_tokens': [[6, 7, 1, 0, 0, 0], [11, 1, 0, 0, 0, 0]],
        'encoder_segment_ids': [[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]],
        'decoder_target_tokens': [[8, 9, 10, 1, 0, 0], [12, 13, 1, 0, 0, 0]],
        'decoder_input_tokens': [[0, 8, 9, 10, 0, 0], [0, 12, 13, 0, 0, 0]],
        'decoder_loss_weights': [[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]],
    }
    for name, expected in arrays.items():
        np.testing.assert_array_equal(out[name], expected, err_msg=name)


def test_the_prefix_can_be_scored_too(vocabulary):
    out = batch(PrefixLM(score_prefix=True), vocabulary, [[6, 7, 8]], ONE, [0.0])
    np.testing.assert_array_equal(out['decoder_loss_weights'], [[1, 1, 1, 1, 0, 0]])


@pytest.mark.parametrize('converter, lengths', [(PrefixLM(), ONE), (PrefixSeq2Seq(), TWO)])
def test_batches_have_the_shapes_and_types_of_spec(converter, lengths, vocabulary):
    out = batch(converter, vocabulary, [range(6, 17)], lengths, [0.5, 0.5])
    assert {n: (x.shape[1:], x.dtype) for n, x in out.items()} == {
        n: (shape, np.dtype(kind)) for n, (shape, kind) in converter.spec(lengths).items()
    }


def test_prefixes_are_uniform_on_1_to_n_minus_1():
    draws = np.random.default_rng(0).random(40_000)
    found = prefix_lengths(np.full(40_000, 5), draws)
    assert np.bincount(found, minlength=6)[1:5] / 40_000 == pytest.approx(0.25, abs=0.01)
    assert found.min() == 1 and found.max() == 4
    assert prefix_lengths(np.array([2, 2]), np.array([0.0, 1 - 1e-16])).tolist() == [1, 1]


def test_the_prefix_sees_both_ways_and_no_target_sees_itself(vocabulary):
    """Changing a token moves what may see it: all of the prefix's places, or the later ones."""
    config = ModelConfig(vocab=20, embed=16, heads=2, mlp=32, decoder_layers=2)
    model = build(config, seed=3)

    def hidden(documents):
        out = batch(PrefixLM(), vocabulary, documents, ONE, [0.3])  # two tokens of prefix
        return decode(model, {k: jnp.asarray(x) for k, x in out.items()})['decoder_hidden'][0]

    before = hidden([[6, 7, 8, 9, 10]])
    moved = lambda tokens: (jnp.abs(hidden([tokens]) - before).max(-1) > 1e-6).tolist()
    assert moved([6, 11, 8, 9, 10]) == [True] * 6  # of the prefix: seen by BOS, too
    assert moved([6, 7, 11, 9, 10]) == [False, False, False, True, True, True]
    assert moved([6, 7, 8, 9, 11]) == [False] * 5 + [True]


@pytest.mark.parametrize(
    'objective, lengths, message',
    [
        (prefix_lm(), {'targets': 2}, "'targets'.=2 must be 3 or more"),
        (prefix_lm(), {'inputs': 8, 'targets': 8}, "unknown feature 'inputs'"),
        (prefix_seq2seq(), {'targets': 8}, "must have 'inputs'"),
    ],
)
def test_bad_lengths_are_refused(objective, lengths, message):
    with pytest.raises(ConfigError, match=message):
        objective.converter.check(lengths)


def test_a_vocabulary_without_eos_is_refused(vocabulary):
    for converter, lengths in ((PrefixLM(), ONE), (PrefixSeq2Seq(), TWO)):
        with pytest.raises(ConfigError, match='no eos id'):
            converter.check(lengths, dataclasses.replace(vocabulary, eos=None))


@pytest.mark.one
@pytest.mark.parametrize('stacks', [(0, 2), (2, 2)])
def test_it_overfits_a_batch(stacks):
    import test_step

    objective = prefix_seq2seq() if stacks[0] else prefix_lm()
    lengths = {'inputs': 12, 'targets': 12} if stacks[0] else {'targets': 16}
    model = ModelConfig(
        vocab=64, embed=64, heads=4, mlp=128, encoder_layers=stacks[0], decoder_layers=stacks[1]
    )
    stream = Stream(mixture='none', objective=objective, lengths=lengths, batch_size=16)
    experiment = Experiment(
        model=model, streams={'p': stream}, optimizer=AdamW(learning_rate=3e-3, clip=1.0), steps=9
    )
    (data,) = fixtures.batches(experiment, 1)
    values, _ = test_step.run(experiment, [data] * 150)
    assert values[0]['p/nll'] > 3.5 and values[-1]['p/nll'] < 0.05
