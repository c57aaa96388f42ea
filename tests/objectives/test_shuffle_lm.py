"""Shuffled tokens: literal rows, which tokens move, uniform orders, targets that are the text."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections import Counter

import fixtures
import numpy as np
import pytest

from t5x_lite import config, printing
from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.objectives.shuffle_lm import Deshuffle, PermutedTokens, deshuffle, permuted_tokens
from t5x_lite.optim import AdamW

TWO, ONE = {'inputs': 7, 'targets': 7}, {'targets': 8}


def batch(converter, vocabulary, documents, lengths, numbers=None):
    cutter = converter.cutter(lengths, vocabulary)
    for tokens in documents:
        cutter.add({'targets': np.array(tokens, np.int32)})
    rows = cutter.take(cutter.ready())
    if numbers is None:
        numbers = uniforms((0,), 0, len(rows.tokens), converter.draws(lengths))
    return converter.batch(rows, lengths, vocabulary, np.array(numbers))


def check(out, arrays):
    assert set(out) == set(arrays)
    for name, expected in arrays.items():
        np.testing.assert_array_equal(out[name], expected, err_msg=name)


def test_a_batch_of_shuffled_tokens(vocabulary):
    numbers = [[0.6, 0.5, 0.1, 0.3, 0.2, 0.4], [0.9, 0.8, 0.7, 0.0, 0.0, 0.0]]
    documents = [[6, 7, 8, 9, 10, 11], [12, 13, 14], [15]]  # one token: nothing to shuffle
    check(
        batch(Deshuffle(), vocabulary, documents, TWO, numbers),
        {
            'encoder_input_tokens': [[8, 10, 9, 11, 7, 6, 1], [14, 13, 12, 1, 0, 0, 0]],
            'encoder_segment_ids': [[1] * 7, [1, 1, 1, 1, 0, 0, 0]],
            'encoder_positions': [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 0, 0, 0]],
            'decoder_target_tokens': [[6, 7, 8, 9, 10, 11, 1], [12, 13, 14, 1, 0, 0, 0]],
            'decoder_input_tokens': [[0, 6, 7, 8, 9, 10, 11], [0, 12, 13, 14, 0, 0, 0]],
            'decoder_loss_weights': [[1] * 7, [1, 1, 1, 1, 0, 0, 0]],
            'decoder_segment_ids': [[1] * 7, [1, 1, 1, 1, 0, 0, 0]],
            'decoder_positions': [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 0, 0, 0]],
        },
    )


def test_with_a_density_a_choice_exchanges_places(vocabulary):
    order, choice = [0.6, 0.5, 0.1, 0.3, 0.2, 0.4], [0.9, 0.1, 0.8, 0.2, 0.7, 0.3]
    out = batch(Deshuffle(density=0.5), vocabulary, [range(6, 12)], TWO, [order + choice])
    assert out['encoder_input_tokens'].tolist() == [[6, 9, 8, 11, 10, 7, 1]]  # 7, 9 and 11
    assert out['decoder_loss_weights'].sum() == 7


def test_as_many_tokens_move_as_the_density_says(vocabulary):
    lengths = {'inputs': 41, 'targets': 41}
    documents = np.random.default_rng(0).permuted(np.tile(np.arange(100), (500, 1)), axis=1)
    info = fixtures.vocabulary(200)
    out = batch(Deshuffle(density=0.3), info, documents[:, :40] + 7, lengths)
    inputs, targets = out['encoder_input_tokens'], out['decoder_target_tokens']
    moved = (inputs != targets).sum(1)
    assert moved.max() == 12 and moved.mean() == pytest.approx(11, abs=0.2)  # one stays by chance
    np.testing.assert_array_equal(np.sort(inputs, axis=1), np.sort(targets, axis=1))
    two = batch(Deshuffle(density=0.01), info, documents[:, :40] + 7, lengths)
    assert (two['encoder_input_tokens'] != two['decoder_target_tokens']).sum(1).max() == 2


def test_all_orders_are_equally_likely_and_the_texts_own_is_one(vocabulary):
    out = batch(Deshuffle(), vocabulary, [[6, 7, 8]] * 20_000, {'inputs': 4, 'targets': 4})
    found = Counter(map(tuple, out['encoder_input_tokens'].tolist()))
    assert len(found) == 6 and (6, 7, 8, 1) in found
    assert all(n / 20_000 == pytest.approx(1 / 6, abs=0.01) for n in found.values())
    assert (out['decoder_target_tokens'] == [6, 7, 8, 1]).all()


def test_density_0_changes_and_scores_nothing(vocabulary):
    out = batch(Deshuffle(density=0.0), vocabulary, [range(6, 12)], TWO)
    np.testing.assert_array_equal(out['encoder_input_tokens'], out['decoder_target_tokens'])
    assert out['decoder_loss_weights'].sum() == 0


@pytest.mark.parametrize('density', [0.5, 1.0])
def test_targets_are_the_text_eos_stays_last_and_special_tokens_stay(density, vocabulary):
    documents = np.random.default_rng(0).integers(2, 20, (300, 11))
    out = batch(Deshuffle(density=density), vocabulary, documents, {'inputs': 14, 'targets': 12})
    inputs, targets = out['encoder_input_tokens'][:, :12], out['decoder_target_tokens']
    np.testing.assert_array_equal(targets, np.pad(documents, ((0, 0), (0, 1)), constant_values=1))
    fixed = vocabulary.special[targets] & (targets != vocabulary.unk)
    np.testing.assert_array_equal(inputs[fixed], targets[fixed])
    np.testing.assert_array_equal(np.sort(inputs, axis=1), np.sort(targets, axis=1))
    assert (inputs != targets).any()


# 14 tokens of 16 in the row: round(0.15 * 16) = 2 of them
FEW = {'targets': 16}


def test_a_batch_of_exchanged_tokens(vocabulary):
    places = np.linspace(0.5, 0.9, 16)
    places[[3, 8]] = 0.1, 0.2  # two n-grams of 1: with 10 words that stay they are words 3 and 8
    order = np.zeros(16)
    order[[4, 9]] = 0.9, 0.1  # in the frame
    numbers = [[0.5, 0.5, *places, *order]] * 2
    text = [6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 6, 7, 8]
    check(
        batch(PermutedTokens(), vocabulary, [text, [12, 13]], FEW, numbers),
        {
            'encoder_input_tokens': [
                [3, 6, 7, 8, 14, 10, 11, 12, 13, 9, 15, 16, 6, 7, 8, 4],
                [3, 12, 13, 4] + [0] * 12,
            ],
            'encoder_target_tokens': [[3, *text, 4], [3, 12, 13, 4] + [0] * 12],
            'encoder_loss_weights': [
                [0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
                [0, 1, 0, 0] + [0] * 12,  # one token, which can only stay
            ],
            'encoder_predicted_positions': [[4, 9], [1, 0]],
            'encoder_segment_ids': [[1] * 16, [1] * 4 + [0] * 12],
            'encoder_positions': [list(range(16)), [0, 1, 2, 3] + [0] * 12],
        },
    )


def test_15_percent_of_the_tokens_exchange_places_in_ngrams():
    lengths, info = {'targets': 202}, fixtures.vocabulary(300)
    documents = np.tile(np.arange(7, 207), (700, 1))  # no token twice
    out = batch(PermutedTokens(), info, documents, lengths)
    inputs, targets = out['encoder_input_tokens'], out['encoder_target_tokens']
    chosen = out['encoder_loss_weights'] == 1
    assert (chosen.sum(1) == 30).all()  # 21,000 of 700 * 202
    np.testing.assert_array_equal(inputs[~chosen], targets[~chosen])
    assert (inputs != targets)[chosen].mean() == pytest.approx(29 / 30, abs=0.01)
    np.testing.assert_array_equal(np.sort(inputs, axis=1), np.sort(targets, axis=1))
    # Most n-grams have neighbours that stay: runs of chosen tokens are longer than by chance.
    runs = chosen.sum() / (chosen[:, 1:] & ~chosen[:, :-1]).sum()
    assert 1.7 < runs < 2.2
    alone = batch(PermutedTokens(longest_ngram=1), info, documents, lengths)
    chosen = alone['encoder_loss_weights'] == 1
    runs = chosen.sum() / (chosen[:, 1:] & ~chosen[:, :-1]).sum()
    assert runs == pytest.approx(1 / 0.85, abs=0.02)  # by chance


def test_special_tokens_neither_move_nor_are_predicted(vocabulary):
    documents = np.random.default_rng(0).integers(0, 20, (300, 30))
    out = batch(PermutedTokens(rate=0.9), vocabulary, documents, {'targets': 32})
    special = vocabulary.special[out['encoder_target_tokens']]
    assert not out['encoder_loss_weights'][special].any()
    np.testing.assert_array_equal(
        out['encoder_input_tokens'][special], out['encoder_target_tokens'][special]
    )
    assert (out['encoder_loss_weights'].sum(1) == np.minimum(29, (~special).sum(1))).all()


def test_max_predictions_and_rate_0(vocabulary):
    out = batch(PermutedTokens(rate=0.9, max_predictions=3), vocabulary, [range(6, 12)], ONE)
    assert out['encoder_loss_weights'].sum() == 3
    out = batch(PermutedTokens(rate=0.0), vocabulary, [range(6, 12)], ONE)
    assert out['encoder_loss_weights'].sum() == 0
    np.testing.assert_array_equal(out['encoder_input_tokens'], out['encoder_target_tokens'])


def test_a_row_of_special_tokens_has_no_predictions(vocabulary):
    out = batch(PermutedTokens(), vocabulary, [[1, 19, 5]], ONE)
    assert out['encoder_loss_weights'].sum() == 0
    assert out['encoder_input_tokens'].tolist() == [[3, 1, 19, 5, 4, 0, 0, 0]]


CASES = [(Deshuffle(), TWO), (Deshuffle(density=0.4), TWO), (PermutedTokens(rate=0.5), ONE)]


@pytest.mark.parametrize('converter, lengths', CASES)
def test_batches_have_the_shapes_and_types_of_spec(converter, lengths, vocabulary):
    out = batch(converter, vocabulary, [range(6, 17)], lengths)
    assert {n: (x.shape[1:], x.dtype) for n, x in out.items()} == {
        n: (shape, np.dtype(kind)) for n, (shape, kind) in converter.spec(lengths).items()
    }


@pytest.mark.parametrize('converter, lengths', CASES)
def test_a_row_depends_on_its_own_numbers_only(converter, lengths, vocabulary):
    documents = [range(6, 12), [6, 7], [8, 9, 10], range(10, 16)]
    numbers = uniforms((0,), 0, 4, converter.draws(lengths))
    together = batch(converter, vocabulary, documents, lengths, numbers)
    for i, tokens in enumerate(documents):
        alone = batch(converter, vocabulary, [tokens], lengths, numbers[i : i + 1])
        for name, values in alone.items():
            np.testing.assert_array_equal(values[0], together[name][i], err_msg=name)


@pytest.mark.parametrize(
    'objective, lengths, message',
    [
        (deshuffle(), {'inputs': 2, 'targets': 8}, "'inputs'.=2 must be 3 or more"),
        (deshuffle(), {'targets': 8}, "must have 'inputs'"),
        (permuted_tokens(), {'targets': 3}, "'targets'.=3 must be 4 or more"),
        (permuted_tokens(), {'inputs': 8, 'targets': 8}, "unknown feature 'inputs'"),
    ],
)
def test_bad_lengths_are_refused(objective, lengths, message):
    with pytest.raises(ConfigError, match=message):
        objective.converter.check(lengths)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: deshuffle(density=1.5), r'density=1.5 must be in \[0, 1\]; try 1.0'),
        (lambda: permuted_tokens(rate=-1), r'rate=-1 must be in \[0, 1\]; try 0.15'),
        (lambda: permuted_tokens(longest_ngram=0), 'longest_ngram=0 must be 1 or more; try 3'),
        (lambda: permuted_tokens(max_predictions=0), 'max_predictions=0 must be 1 or more'),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_vocabularies_without_the_ids_are_refused(vocabulary):
    with pytest.raises(ConfigError, match='no eos id'):
        Deshuffle().check(TWO, dataclasses.replace(vocabulary, eos=None))
    with pytest.raises(ConfigError, match='no cls id'):
        PermutedTokens().check(ONE, dataclasses.replace(vocabulary, cls=None))
    PermutedTokens().check(ONE, dataclasses.replace(vocabulary, mask=None))  # has no masks


@pytest.mark.parametrize(
    'name, model, stream, expected',
    [
        ('deshuffle', 'encoder_decoder_mini', 'deshuffle', deshuffle()),
        ('permuted_tokens', 'encoder_mini', 'permuted', permuted_tokens()),
    ],
)
def test_the_gin_files_make_these_objectives(name, model, stream, expected, tmp_path):
    two = "'inputs': 8, " if expected == deshuffle() else ''
    (tmp_path / 'run.gin').write_text(
        'from __gin__ import dynamic_registration\n'
        'from t5x_lite import experiment\n'
        'from t5x_lite import optim\n'
        f"include 'models/{model}.gin'\n"
        f"include 'objectives/{name}.gin'\n"
        'experiment.Experiment.optimizer = @optim.AdamW()\n'
        'experiment.Experiment.steps = 7\n'
        'optim.AdamW.learning_rate = 0.1\n'
        f"{stream}/experiment.Stream.mixture = 'any'\n"
        f"{stream}/experiment.Stream.lengths = {{{two}'targets': 8}}\n"
        f'{stream}/experiment.Stream.batch_size = 8\n'
    )
    experiment = config.load(str(tmp_path / 'run.gin')).experiment
    assert experiment.streams[stream].objective == expected
    names = {}
    exec(printing.source(experiment), names)  # it can be saved with a run and read again
    assert names['experiment'] == experiment


@pytest.mark.one
@pytest.mark.parametrize(
    'objective, lengths, stacks',
    [
        (deshuffle(), {'inputs': 10, 'targets': 10}, (1, 1)),
        (permuted_tokens(rate=0.3), {'targets': 16}, (2, 0)),
    ],
)
def test_it_overfits_a_batch(objective, lengths, stacks):
    import test_step

    model = ModelConfig(
        vocab=64, embed=64, heads=4, mlp=128, encoder_layers=stacks[0], decoder_layers=stacks[1]
    )
    stream = Stream(mixture='none', objective=objective, lengths=lengths, batch_size=16)
    experiment = Experiment(
        model=model, streams={'s': stream}, optimizer=AdamW(learning_rate=3e-3, clip=1.0), steps=9
    )
    (data,) = fixtures.batches(experiment, 1)
    values, _ = test_step.run(experiment, [data] * 150)
    assert values[0]['s/nll'] > 3.5 and values[-1]['s/nll'] < 0.05
