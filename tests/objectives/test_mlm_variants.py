"""Masked LM by words, n-grams, spans and entities, with static masks and RoBERTa's counts."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from pathlib import Path

import fixtures
import numpy as np
import pytest

from t5x_lite import config
from t5x_lite.data.masking import Entities, Ngrams, Spans, Tokens, WholeWords
from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.objectives.mlm import MaskedLM, mlm
from t5x_lite.optim import AdamW

CHOICES = (Tokens(), WholeWords(), Ngrams(), Spans(), Entities())
named = pytest.mark.parametrize('choose', CHOICES, ids=lambda c: type(c).__name__)
LENGTHS = {'targets': 32}
ROWS = 40
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def words(vocabulary):
    """The vocabulary, in which the pieces a to D go on with a word."""
    starts = vocabulary.starts_word & (np.arange(20) < 12)
    return dataclasses.replace(vocabulary, starts_word=starts)


def rows_of(converter, vocabulary, count=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    cutter = converter.cutter(LENGTHS, vocabulary)
    for _ in range(count):
        size = rng.integers(2, 31)
        entities = np.repeat(rng.integers(0, 2, 10), 3)[:size] * np.arange(1, 31)[:size]
        entities = np.where(entities > 0, (entities + 2) // 3, 0).astype(np.int32)
        cutter.add({'targets': rng.integers(6, 17, size).astype(np.int32), 'entities': entities})
    return cutter.take(count)


def batch(converter, vocabulary, rows=None, first=0):
    rows = rows_of(converter, vocabulary) if rows is None else rows
    numbers = uniforms((1,), first, ROWS, converter.draws(LENGTHS))
    return converter.batch(rows, LENGTHS, vocabulary, numbers)


@named
def test_batches_have_the_shapes_and_types_of_spec(choose, words):
    converter = MaskedLM(choose=choose, random_count=True, static=3)
    out = batch(converter, words)
    assert {k: (x.shape[1:], x.dtype) for k, x in out.items()} == converter.spec(LENGTHS)


@named
def test_budgets_are_kept_and_only_predicted_text_is_changed(choose, words):
    out = batch(MaskedLM(choose=choose, rate=0.3, max_predictions=7), words)
    inputs, targets = out['encoder_input_tokens'], out['encoder_target_tokens']
    chosen = out['encoder_loss_weights'] > 0
    lengths = (out['encoder_segment_ids'] > 0).sum(1)
    budgets = np.minimum(7, np.maximum(1, np.rint(0.3 * lengths)))
    assert (chosen.sum(1) <= budgets).all() and chosen.sum() > 0.8 * budgets.sum()
    assert not words.special[targets[chosen]].any()
    np.testing.assert_array_equal(inputs[~chosen], targets[~chosen])
    assert set(inputs[inputs != targets]) <= {5, *range(6, 17)}


@named
def test_rate_0_changes_nothing(choose, words):
    out = batch(MaskedLM(choose=choose, rate=0.0), words)
    assert out['encoder_loss_weights'].sum() == 0
    np.testing.assert_array_equal(out['encoder_input_tokens'], out['encoder_target_tokens'])


@named
def test_a_row_of_special_tokens_has_no_predictions(choose, words):
    converter = MaskedLM(choose=choose)
    cutter = converter.cutter(LENGTHS, words)
    tokens = np.array([1, 2, 0, 19, 5, 1], np.int32)
    cutter.add({'targets': tokens, 'entities': np.array([0, 1, 1, 1, 0, 0], np.int32)})
    cutter.flush()
    numbers = uniforms((0,), 0, 1, converter.draws(LENGTHS))
    out = converter.batch(cutter.take(1), LENGTHS, words, numbers)
    assert out['encoder_loss_weights'].sum() == 0
    np.testing.assert_array_equal(out['encoder_input_tokens'][0, 1:7], tokens)


@named
def test_a_row_s_masks_do_not_depend_on_the_rows_beside_it(choose, words):
    converter = MaskedLM(choose=choose)
    whole = batch(converter, words)
    for row in (0, 17, 39):
        cutter_rows = rows_of(converter, words)
        pick = lambda x, row=row: x[row : row + 1]
        if choose.features:
            rows, marks = cutter_rows
            one = type(cutter_rows)(
                type(rows)(*map(pick, rows)), {k: pick(x) for k, x in marks.items()}
            )
        else:
            one = type(cutter_rows)(*map(pick, cutter_rows))
        numbers = uniforms((1,), row, 1, converter.draws(LENGTHS))
        alone = converter.batch(one, LENGTHS, words, numbers)
        for name, x in alone.items():
            np.testing.assert_array_equal(x[0], whole[name][row], err_msg=name)


def test_entities_are_predicted_and_masked_as_wholes(words):
    converter = MaskedLM(choose=Entities(), rate=0.4, random_share=0.0)
    rows = rows_of(converter, words)
    seen = 0
    for first in range(0, 20 * ROWS, ROWS):
        out = batch(converter, words, rows, first)
        chosen = out['encoder_loss_weights'][:, 1:-1] > 0
        masked = out['encoder_input_tokens'][:, 1:-1] == 5
        for row, marks in enumerate(rows.marks['entities']):
            for entity in set(marks) - {0}:
                members = marks == entity
                assert len(set(chosen[row][members])) == len(set(masked[row][members])) == 1
                seen += masked[row][members].all()
    assert seen > 500


def test_80_10_10_holds_of_spans(words):
    converter = MaskedLM(choose=Spans(), rate=0.5)
    rows = rows_of(converter, words)
    inputs, targets, chosen = [], [], []
    for first in range(0, 400 * ROWS, ROWS):
        out = batch(converter, words, rows, first)
        for values, name in ((inputs, 'input_tokens'), (targets, 'target_tokens')):
            values.append(out[f'encoder_{name}'])
        chosen.append(out['encoder_loss_weights'] > 0)
    inputs, targets, chosen = map(np.concatenate, (inputs, targets, chosen))
    assert chosen.sum() > 100_000  # more than 20,000 spans
    assert abs((inputs[chosen] == 5).mean() - 0.8) < 0.01
    assert abs((inputs[chosen] == targets[chosen]).mean() - (0.1 + 0.1 / 11)) < 0.01


def test_static_masks_repeat_and_there_are_as_many_as_asked_for(words):
    converter = MaskedLM(rate=0.3, static=10)
    rows = rows_of(converter, words, 3)
    rows = type(rows)(*(np.concatenate([x] * 14)[:ROWS] for x in rows))
    kinds = {0: [], 1: [], 2: []}
    for first in range(0, 20 * ROWS, ROWS):  # as if in other epochs
        out = batch(converter, words, rows, first)
        for row in range(ROWS):
            kinds[row % 3].append(out['encoder_input_tokens'][row].tobytes())
    for row, found in kinds.items():
        shares = np.unique(found, return_counts=True)[1] / len(found)
        assert len(shares) == 10, row
        assert 0.05 < shares.min() and shares.max() < 0.2  # 260 or so of each ten
    dynamic = MaskedLM(rate=0.3)
    assert (
        len(
            {
                batch(dynamic, words, rows, f)['encoder_input_tokens'][0].tobytes()
                for f in range(0, 20 * ROWS, ROWS)
            }
        )
        > 15
    )


def test_random_counts_have_the_exact_mean(words):
    converter = MaskedLM(rate=0.3, random_count=True)
    rows = rows_of(converter, words)
    lengths = rows.lengths + 2
    counts = [
        batch(converter, words, rows, first)['encoder_loss_weights'].sum(1)
        for first in range(0, 500 * ROWS, ROWS)
    ]
    exact = 0.3 * lengths
    for found in counts[:20]:
        assert ((found >= np.floor(exact)) & (found <= np.ceil(exact))).all()
    assert np.abs(np.mean(counts, axis=0) - exact).max() < 0.08
    assert abs(np.mean(counts) - exact.mean()) < 0.01


def test_the_default_is_tokens_with_the_same_numbers_as_ever(words):
    assert mlm() == mlm(choose=Tokens()) != mlm(choose=WholeWords())
    assert MaskedLM().draws(LENGTHS) == 64
    assert MaskedLM(choose=Spans()).draws(LENGTHS) == 128


@pytest.mark.parametrize(
    'name, choose',
    [('whole_word', WholeWords()), ('ngram', Ngrams()), ('span', Spans()), ('entity', Entities())],
)
def test_every_variant_has_its_gin_file(name, choose):
    files = [str(PROJECT / f'configs/{f}.gin') for f in ('runs/mlm_mini', f'objectives/mlm_{name}')]
    assert config.load(files).experiment.streams['mlm'].objective == mlm(choose=choose)


def test_only_entities_ask_for_annotations():
    assert MaskedLM(choose=Ngrams()).features == ('targets',)
    assert MaskedLM(choose=Entities()).features == ('entities', 'targets')


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'static': 0}, 'static=0 must be 1 or more; use None for new masks each epoch'),
        ({'choose': 'words'}, "choose='words' must be a value of t5x_lite.data.masking"),
        ({'choose': Spans}, 'must be a value of t5x_lite.data.masking'),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        mlm(**settings)


def test_masked_spans_of_a_batch_are_learned():
    import test_step

    model = ModelConfig(vocab=64, embed=64, heads=4, mlp=128, encoder_layers=2)
    stream = Stream(
        mixture='none', objective=mlm(choose=Spans()), lengths={'targets': 16}, batch_size=16
    )
    experiment = Experiment(
        model=model, streams={'m': stream}, optimizer=AdamW(learning_rate=3e-3, clip=1.0), steps=9
    )
    (data,) = fixtures.batches(experiment, 1)
    values, _ = test_step.run(experiment, [data] * 120)
    assert values[0]['m/nll'] > 3.5 and values[-1]['m/nll'] < 0.05
