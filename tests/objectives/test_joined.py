"""An encoder-decoder's objective in a decoder alone: literal rows, who sees whom, refusals."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.transformer import build
from t5x_lite.objective import decode
from t5x_lite.objectives.joined import Joined, join, joined
from t5x_lite.objectives.pairs import dual_encoder
from t5x_lite.objectives.prefix_lm import PrefixLM, PrefixSeq2Seq, prefix_lm, prefix_seq2seq
from t5x_lite.objectives.span_corruption import SpanCorruption, span_corruption

LENGTHS = {'inputs': 5, 'targets': 4}
PREFIX = Joined(converter=PrefixSeq2Seq())


def batch(converter, vocabulary, documents, lengths, numbers=None):
    cutter = converter.cutter(lengths, vocabulary)
    for tokens in documents:
        cutter.add({'targets': np.array(tokens, np.int32)})
    cutter.flush()
    rows = cutter.take(cutter.ready())
    if numbers is None:
        numbers = uniforms((0,), 0, len(rows.tokens), converter.draws(lengths))
    return converter.batch(rows, lengths, vocabulary, np.array(numbers))


def test_a_batch(vocabulary):
    # Prefixes of two and one; of [6, 7, 8] and [11, 12].
    out = batch(PREFIX, vocabulary, [[6, 7, 8], [11, 12]], LENGTHS, [[0.5], [0.0]])
    arrays = {
        'decoder_target_tokens': [[6, 7, 8, 1, 0, 0, 0, 0, 0], [11, 12, 1, 0, 0, 0, 0, 0, 0]],
        'decoder_input_tokens': [[0, 6, 7, 8, 0, 0, 0, 0, 0], [0, 11, 12, 0, 0, 0, 0, 0, 0]],
        'decoder_causal_attention': [[1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0]],
        'decoder_loss_weights': [[0, 0, 1, 1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0, 0]],
        'decoder_segment_ids': [[1, 1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0]],
        'decoder_positions': [[0, 1, 2, 3, 0, 0, 0, 0, 0], [0, 1, 2, 0, 0, 0, 0, 0, 0]],
    }
    for name, expected in arrays.items():
        np.testing.assert_array_equal(out[name], expected, err_msg=name)


def test_prefix_lm_joined_is_the_prefix_lm_of_a_decoder(vocabulary):
    documents = [[6, 7, 8, 9, 10], [11, 12, 13], [14, 15]]
    draws = [[0.3], [0.9], [0.0]]
    one = batch(PrefixLM(), vocabulary, documents, {'targets': 6}, draws)
    two = batch(PREFIX, vocabulary, documents, {'inputs': 6, 'targets': 6}, draws)
    assert one.keys() == two.keys()
    for name, expected in one.items():
        np.testing.assert_array_equal(two[name][:, :6], expected, err_msg=name)
        assert not two[name][:, 6:].any()


def test_span_corruption_is_joined_after_its_last_text(vocabulary):
    converter = Joined(converter=SpanCorruption(density=0.5, mean_span=2.0))
    numbers = [[0.9, 0.1, 0.5, 0.5, 0.9, 0.5, 0.1, 0.5]]
    lengths = {'inputs': 7, 'targets': 7}
    out = batch(converter, vocabulary, [range(6, 14)], lengths, numbers)
    text, spans = [6, 7, 19, 9, 10, 18], [19, 8, 18, 11, 12, 13, 1]
    np.testing.assert_array_equal(out['decoder_target_tokens'], [[*text, *spans, 0]])
    np.testing.assert_array_equal(out['decoder_loss_weights'], [[0] * 6 + [1] * 7 + [0]])
    np.testing.assert_array_equal(out['decoder_causal_attention'], [[1] * 7 + [0] * 7])


def test_rows_that_do_not_end_in_eos_lose_nothing():
    both = {
        'encoder_input_tokens': np.array([[6, 7, 8], [6, 7, 1], [6, 0, 0]], np.int32),
        'encoder_segment_ids': np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0]], np.int32),
        'decoder_target_tokens': np.array([[9, 1], [9, 1], [0, 0]], np.int32),
        'decoder_segment_ids': np.array([[1, 1], [1, 1], [0, 0]], np.int32),
    }
    rows, begins = join(both, eos=1)
    np.testing.assert_array_equal(rows.tokens, [[6, 7, 8, 9, 1], [6, 7, 9, 1, 0], [6, 0, 0, 0, 0]])
    assert begins.tolist() == [[3], [2], [1]]
    assert rows.lengths.tolist() == [5, 4, 1]


@pytest.mark.parametrize('inner', [PrefixSeq2Seq(), SpanCorruption()])
def test_batches_have_the_shapes_and_types_of_spec(inner, vocabulary):
    converter, lengths = Joined(converter=inner), {'inputs': 9, 'targets': 9}
    converter.check(lengths, vocabulary)
    out = batch(converter, vocabulary, [range(6, 17)], lengths)
    assert {n: (x.shape[1:], x.dtype) for n, x in out.items()} == converter.spec(lengths)
    assert out['decoder_input_tokens'].shape[1] == 18
    assert converter.features == ('targets',) and converter.longest == inner.longest


def test_inputs_are_seen_both_ways_and_no_target_sees_itself(vocabulary):
    config = ModelConfig(vocab=20, embed=16, heads=2, mlp=32, decoder_layers=2)
    model = build(config, seed=3)

    def hidden(tokens):  # two tokens of prefix, two of rest, EOS
        out = batch(PREFIX, vocabulary, [tokens], {'inputs': 5, 'targets': 5}, [[0.4]])
        return decode(model, {k: jnp.asarray(x) for k, x in out.items()})['decoder_hidden'][0, :5]

    before = hidden([6, 7, 8, 9])
    moved = lambda tokens: (jnp.abs(hidden(tokens) - before).max(-1) > 1e-6).tolist()
    assert moved([6, 11, 8, 9]) == [True] * 5
    assert moved([6, 7, 11, 9]) == [False, False, False, True, True]
    assert moved([6, 7, 8, 11]) == [False, False, False, False, True]


def test_an_objective_keeps_its_terms():
    old = span_corruption(weight=0.5, z_loss=1e-4)
    new = joined(old)
    assert new.forward is decode and new.terms == old.terms
    assert new.converter == Joined(converter=old.converter)


@pytest.mark.parametrize(
    'refused, message',
    [
        (lambda _: joined(prefix_lm()), 'forward=decode must be encode_decode'),
        (lambda _: joined(joined(prefix_seq2seq())), 'forward=decode must be encode_decode'),
        (lambda _: joined(dual_encoder()), 'forward=EncodePairs must be encode_decode'),
        (
            lambda _: Joined(converter=PrefixLM()).check({'targets': 8}),
            'converter=PrefixLM makes decoder_input_tokens.* of an encoder and a decoder',
        ),
        (lambda _: PREFIX.check({'targets': 8}), "must have 'inputs'"),
        (
            lambda known: PREFIX.check(LENGTHS, dataclasses.replace(known, eos=None)),
            'no eos id',
        ),
        (
            lambda _: join(
                {
                    'encoder_input_tokens': np.ones((1, 2), np.int32),
                    'encoder_segment_ids': np.array([[1, 2]]),
                    'decoder_target_tokens': np.ones((1, 2), np.int32),
                    'decoder_segment_ids': np.array([[1, 2]]),
                },
                1,
            ),
            'one segment in each row; join first, then pack',
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(refused, message, vocabulary):
    with pytest.raises(ConfigError, match=message):
        refused(vocabulary)
