"""Span corruption's data: literal rows, exact lengths, EOS, and the sentinel budget."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import numpy as np
import pytest

from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError
from t5x_lite.objectives.span_corruption import SpanCorruption, span_corruption

LENGTHS = {'inputs': 7, 'targets': 7}
CONVERTER = SpanCorruption(density=0.5, mean_span=2.0)  # 8 tokens make 7 inputs and 7 targets


def batch(converter, vocabulary, documents, lengths=LENGTHS, numbers=None):
    cutter = converter.cutter(lengths, vocabulary)
    for tokens in documents:
        cutter.add({'targets': np.array(tokens, np.int32)})
    cutter.flush()
    rows = cutter.take(cutter.ready())
    if numbers is None:
        numbers = uniforms((0,), 0, len(rows.tokens), converter.draws(lengths))
    return converter.batch(rows, lengths, vocabulary, numbers)


def test_a_batch(vocabulary):
    # Cuts before the second noise token, and before the third token of text.
    numbers = np.array([[0.9, 0.1, 0.5, 0.5, 0.9, 0.5, 0.1, 0.5]] * 2)
    out = batch(
        CONVERTER, vocabulary, [[6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16]], LENGTHS, numbers
    )
    np.testing.assert_array_equal(
        out['encoder_input_tokens'], [[6, 7, 19, 9, 10, 18, 1], [14, 19, 1, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['decoder_target_tokens'], [[19, 8, 18, 11, 12, 13, 1], [19, 15, 16, 1, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['decoder_input_tokens'], [[0, 19, 8, 18, 11, 12, 13], [0, 19, 15, 16, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['decoder_loss_weights'], [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['encoder_segment_ids'], [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['encoder_positions'], [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['decoder_segment_ids'], [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['decoder_positions'], [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 0, 0, 0]]
    )


def test_batches_have_the_shapes_and_types_of_spec(vocabulary):
    out = batch(CONVERTER, vocabulary, [range(6, 16)])
    found = {name: (x.shape[1:], x.dtype) for name, x in out.items()}
    assert found == CONVERTER.spec(LENGTHS)


@pytest.mark.parametrize('inputs, targets', [(512, 114), (1024, 229)])
def test_full_rows_fill_inputs_and_targets_exactly(vocabulary, inputs, targets):
    many = dataclasses.replace(vocabulary, sentinels=tuple(range(299, 199, -1)))
    lengths = {'inputs': inputs, 'targets': targets}
    out = batch(SpanCorruption(), many, [np.full(5000, 9)], lengths)
    assert (out['encoder_input_tokens'][:-1, -1] == 1).all()
    assert (out['decoder_target_tokens'][:-1, -1] == 1).all()
    assert out['encoder_segment_ids'][:-1].all() and out['decoder_loss_weights'][:-1].all()


def test_inputs_and_targets_put_together_are_the_text(vocabulary):
    tokens = np.random.default_rng(0).integers(6, 17, 4 * 8 + 3)
    out = batch(CONVERTER, vocabulary, [tokens[:20], tokens[20:]])
    found = []
    for inputs, targets in zip(
        out['encoder_input_tokens'], out['decoder_target_tokens'], strict=True
    ):
        hidden = {}
        for token in targets[: list(targets).index(1)]:
            if token in vocabulary.sentinels:
                span = hidden[token] = []
            else:
                span.append(token)
        for token in inputs[: list(inputs).index(1)]:
            found += hidden.pop(token, [token])
        assert not hidden
    np.testing.assert_array_equal(found, tokens)


def test_one_token_is_skipped_and_two_are_the_least(vocabulary):
    assert batch(CONVERTER, vocabulary, [[6]])['encoder_input_tokens'].shape == (0, 7)
    out = batch(CONVERTER, vocabulary, [[6], [], [7]])
    np.testing.assert_array_equal(out['encoder_input_tokens'], [[6, 19, 1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(out['decoder_target_tokens'], [[19, 7, 1, 0, 0, 0, 0]])


def test_the_closing_sentinel_is_the_next_one(vocabulary):
    converter = dataclasses.replace(CONVERTER, closing_sentinel=True)
    out = batch(converter, vocabulary, [range(6, 14), [6, 7]], {'inputs': 7, 'targets': 8})
    targets = out['decoder_target_tokens']
    np.testing.assert_array_equal(targets[0, -2:], [17, 1])
    np.testing.assert_array_equal(targets[1], [19, 7, 18, 1, 0, 0, 0, 0])


def test_density_0_hides_and_scores_nothing(vocabulary):
    converter = SpanCorruption(density=0.0, closing_sentinel=True)
    converter.check(LENGTHS, vocabulary)
    out = batch(converter, vocabulary, [range(6, 12)])
    np.testing.assert_array_equal(out['encoder_input_tokens'], [[6, 7, 8, 9, 10, 11, 1]])
    np.testing.assert_array_equal(out['decoder_target_tokens'], [[1, 0, 0, 0, 0, 0, 0]])
    assert out['decoder_loss_weights'].sum() == 0


@pytest.mark.parametrize(
    'lengths, settings, parts',
    [
        ({'inputs': 512, 'targets': 113}, {}, ["lengths['targets']=113", '114 or more']),
        ({'inputs': 512, 'targets': 114}, {'closing_sentinel': True}, ['115 or more']),
        ({'inputs': 2, 'targets': 9}, {}, ["lengths['inputs']=2", '3 or more']),
        ({'inputs': 9, 'target': 9}, {}, ["'target'", 'nearest: targets']),
        ({'inputs': 9}, {}, ["must have 'targets'"]),
    ],
)
def test_bad_lengths_are_refused(lengths, settings, parts):
    with pytest.raises(ConfigError) as error:
        span_corruption(**settings).converter.check(lengths)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    'inputs, density, needed', [(512, 0.5, 128), (2048, 0.15, 114), (512, 0.15, 28)]
)
def test_too_few_sentinels_are_refused_with_both_numbers(vocabulary, inputs, density, needed):
    converter = SpanCorruption(density=density)
    lengths = {'inputs': inputs, 'targets': 600}
    with pytest.raises(ConfigError, match=f'need {needed} sentinels.* has {needed - 1}'):
        converter.check(lengths, dataclasses.replace(vocabulary, sentinels=(9,) * (needed - 1)))
    converter.check(lengths, dataclasses.replace(vocabulary, sentinels=(9,) * needed))


def test_a_vocabulary_without_eos_is_refused(vocabulary):
    with pytest.raises(ConfigError, match='no eos id'):
        CONVERTER.check(LENGTHS, dataclasses.replace(vocabulary, eos=None))


@pytest.mark.parametrize('settings', [{'density': 1.0}, {'density': -0.1}, {'mean_span': 0.5}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ConfigError, match='must be'):
        span_corruption(**settings)
