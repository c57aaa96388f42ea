"""Sentence pairs: batches, masks beside labels, loss and shares, padding, what is refused."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_step

from t5x_lite import sharding, step
from t5x_lite.data.randomness import uniforms
from t5x_lite.errors import ConfigError
from t5x_lite.evaluate import LossEval
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.interop.families import bert as bert_files
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.model.transformer import build
from t5x_lite.objectives.losses import ClassLoss
from t5x_lite.objectives.mlm import MaskedLM
from t5x_lite.objectives.packed import packed
from t5x_lite.objectives.sentence_pairs import (
    NextSentence,
    SentenceOrder,
    albert,
    bert,
    nsp,
    sop,
)
from t5x_lite.objectives.similarity import pool_cls
from t5x_lite.optim import AdamW

LENGTHS = {'targets': 14}
ALL = [nsp(), sop(), bert(), albert()]
NAMES = ['nsp', 'sop', 'bert', 'albert']
each = pytest.mark.parametrize('objective', ALL, ids=NAMES)


def batch(converter, vocabulary, documents, lengths=LENGTHS, seed=0):
    cutter = converter.cutter(lengths, vocabulary, (seed, 2))
    for tokens in documents:
        cutter.add({'targets': np.array(tokens, np.int32)})
    cutter.flush()
    rows = cutter.take(cutter.ready())
    numbers = uniforms((seed,), 0, len(rows.labels), converter.draws(lengths))
    return converter.batch(rows, lengths, vocabulary, numbers)


def experiment(objective, model=None, length=16):
    stream = Stream(mixture='none', objective=objective, lengths={'targets': length}, batch_size=16)
    sizes = dict(vocab=64, embed=32, heads=2, mlp=64, encoder_layers=1, types=2)
    return Experiment(
        model=ModelConfig(**sizes | (model or {})),
        streams={'p': stream},
        optimizer=AdamW(learning_rate=3e-3, clip=1.0),
        steps=9,
    )


def test_a_batch(vocabulary):
    document = [12, 10, 10, 7, 13, 11, 11, 11, 7]  # A a a. B b b b.
    out = batch(SentenceOrder(short_share=0.0), vocabulary, [document], seed=0)
    swapped = bool(out['sop_labels'][0])
    first = [13, 11, 11, 11, 7] if swapped else [12, 10, 10, 7]
    second = [12, 10, 10, 7] if swapped else [13, 11, 11, 11, 7]
    size = len(first) + 2
    expected = {
        'encoder_input_tokens': [[3, *first, 4, *second, 4, 0, 0]],
        'token_type_ids': [[0] * size + [1] * (12 - size) + [0, 0]],
        'encoder_segment_ids': [[1] * 12 + [0, 0]],
        'encoder_positions': [[*range(12), 0, 0]],
        'sop_labels': [int(swapped)],
        'sop_weights': [1.0],
    }
    assert out.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(out[name], values, err_msg=name)


@each
def test_batches_have_the_shapes_and_types_of_spec(objective, vocabulary):
    converter = objective.converter
    out = batch(converter, vocabulary, [[12, 10, 10, 7] * 9, [13, 11, 11, 7] * 9])
    assert {n: (x.shape[1:], x.dtype) for n, x in out.items()} == {
        n: (shape, np.dtype(kind)) for n, (shape, kind) in converter.spec(LENGTHS).items()
    }


@pytest.mark.parametrize('plain, masked', [(nsp(), bert()), (sop(), albert())])
def test_masks_change_neither_the_pairs_nor_special_tokens(plain, masked, vocabulary):
    rng = np.random.default_rng(0)
    documents = [[12, *rng.integers(6, 17, 3), 7] * 30 for _ in range(20)]
    pairs = batch(plain.converter, vocabulary, documents)
    out = batch(masked.converter, vocabulary, documents)
    np.testing.assert_array_equal(out['encoder_target_tokens'], pairs['encoder_input_tokens'])
    for name in pairs.keys() - {'encoder_input_tokens'}:
        np.testing.assert_array_equal(out[name], pairs[name])
    chosen = out['encoder_loss_weights'] > 0
    assert not vocabulary.special[out['encoder_target_tokens'][chosen]].any()
    inputs, targets = out['encoder_input_tokens'], out['encoder_target_tokens']
    np.testing.assert_array_equal(inputs[~chosen], targets[~chosen])
    lengths = (pairs['encoder_segment_ids'] > 0).sum(1)
    np.testing.assert_array_equal(chosen.sum(1), np.maximum(1, np.rint(0.15 * lengths)))


def test_the_masking_can_be_another(vocabulary):
    out = batch(
        bert(masking=MaskedLM(rate=0.5, max_predictions=2)).converter,
        vocabulary,
        [[12, 10, 10, 7] * 9, [13, 11, 11, 7] * 9],
    )
    assert set(out['encoder_loss_weights'].sum(1)) <= {1, 2}


def test_the_class_loss_of_known_scores():
    hidden_BxLxD = jnp.array([[[2.0, 0.0]], [[0.0, 1.0]], [[0.0, 3.0]], [[9.0, 0.0]]])
    data = {
        'x_labels': jnp.array([0, 0, 1, 1]),
        'x_weights': jnp.array([1.0, 1.0, 1.0, 0.0]),  # the last is padding
        'encoder_segment_ids': jnp.ones((4, 1), int),
    }
    means = ClassLoss(name='x')(None, lambda x: x, {'encoder_hidden': hidden_BxLxD}, data)
    nll = np.log1p(np.exp([-2.0, 1.0, -3.0]))
    assert float(means['loss'].value) == pytest.approx(nll.mean(), abs=1e-6)
    assert float(means['accuracy'].value) == pytest.approx(2 / 3)
    assert float(means['positive_share'].value) == pytest.approx(1 / 3)
    three = lambda x: jnp.pad(x, ((0, 0), (0, 1)))
    means = ClassLoss(name='x')(None, three, {'encoder_hidden': hidden_BxLxD}, data)
    assert 'positive_share' not in means


@pytest.mark.one
@each
def test_padding_rows_and_padding_tokens_change_no_number(objective):
    run = experiment(objective, length=24)
    (data,) = fixtures.batches(run, 1)
    model = build(run.model, run.heads, seed=1)
    means = jax.jit(lambda b: objective.means(model, b))
    values = lambda b: {
        f'{term}/{name}': float(mean.value)
        for term, of_term in means(b).items()
        for name, mean in of_term.items()
    }
    before = values(data['p'])
    padded = {n: np.pad(x, ((0, 3),) + ((0, 0),) * (x.ndim - 1)) for n, x in data['p'].items()}
    assert values(padded) == pytest.approx(before, abs=1e-5)
    hidden = (padded['encoder_segment_ids'] == 0) * 9
    noisy = padded | {'encoder_input_tokens': padded['encoder_input_tokens'] + hidden}
    assert values(noisy) == pytest.approx(before, abs=1e-5)


def test_the_scores_see_both_sentences_and_their_marks_but_not_the_label():
    run = experiment(sop())
    (data,) = fixtures.batches(run, 1)
    model = build(run.model, run.heads, seed=1)

    @jax.jit
    def scores_of(batch):
        outputs = sop().forward(model, batch)
        return model.heads['sop'](pool_cls(outputs['encoder_hidden'], None))

    scores = lambda **changes: scores_of(data['p'] | changes)

    tokens, types = data['p']['encoder_input_tokens'], data['p']['token_type_ids']
    for name, array in (('token_type_ids', 1 - types), ('encoder_input_tokens', tokens.copy())):
        if name == 'encoder_input_tokens':
            array[:, 1] = np.where(array[:, 1] == 20, 21, 20)
        assert float(jnp.abs(scores(**{name: array}) - scores()).max()) > 1e-4, name
    np.testing.assert_array_equal(scores(sop_labels=1 - data['p']['sop_labels']), scores())


@pytest.mark.one
@each
def test_it_overfits_a_batch(objective):
    run = experiment(objective)
    (data,) = fixtures.batches(run, 1)
    values, _ = test_step.run(run, [data] * 200)
    last, kind = values[-1], objective.converter.kind
    prefix = f'p/{kind}' if len(objective.terms) > 1 else 'p'
    assert last[f'{prefix}/loss'] < 0.05 and last[f'{prefix}/accuracy'] == 1
    if 'mlm' in objective.terms:
        assert last['p/mlm/nll'] < 0.05
    assert 0 < last[f'{prefix}/positive_share'] < 1


def test_a_stream_without_scored_tokens_has_held_out_losses():
    """Of real text, where the last batch is padded; the share is that of the split's rows."""
    pytest.importorskip('seqio', reason='seqio is not installed: the compute side alone')
    run = experiment(nsp(), dict(vocab=8192, embed=8, mlp=8), length=128)
    stream = dataclasses.replace(run.streams['p'], mixture='corpus_en_pd')
    run = dataclasses.replace(
        run, streams={'p': stream}, imports=('t5x_lite.data.tasks.corpus_en_pd',)
    )
    mesh = sharding.make_mesh(run.mesh, jax.devices()[:1])
    values = dict(LossEval(baseline=1).open(run, mesh)(step.init_state(run).params))
    assert values.keys() == {'p/loss', 'p/accuracy', 'p/positive_share'}
    assert values['p/loss'] == pytest.approx(np.log(2), abs=0.01)
    assert 0.5 < values['p/positive_share'] < 0.6


@pytest.mark.all
def test_microbatches_change_no_number():
    one = experiment(bert())
    data = fixtures.batches(one, 3)
    two = dataclasses.replace(one, microbatches=2)
    assert test_step.furthest(test_step.run(one, data)[0], test_step.run(two, data)[0]) < 1e-5


@pytest.mark.all
def test_eight_devices_change_no_number():
    run = experiment(albert())
    data = fixtures.batches(run, 3)
    one, eight = (test_step.run(run, data, devices)[0] for devices in (1, 8))
    assert len(jax.devices()) == 8 and test_step.furthest(one, eight) < 1e-5


def test_the_head_is_that_of_bert_files():
    heads = {name: term.head for name, term in bert().terms.items()}
    for name in bert_files.FAMILY.together['BertForPreTraining']:
        assert bert_files.FAMILY.heads[name].build(2) == heads[name]
    assert heads['nsp'] == ClassifierHead(labels=2)


def test_weights_of_the_terms_are_1_to_1_by_default():
    assert {n: t.weight for n, t in bert().terms.items()} == {'mlm': 1.0, 'nsp': 1.0}
    assert {n: t.weight for n, t in albert(sop_weight=0.5).terms.items()} == {
        'mlm': 1.0,
        'sop': 0.5,
    }


@pytest.mark.parametrize('types', [0, 1])
@each
def test_a_model_without_sentence_marks_is_refused(objective, types):
    with pytest.raises(ConfigError, match=rf"'p'.*model.types={types}.*set model.types=2"):
        experiment(objective, dict(types=types))


@pytest.mark.parametrize(
    'lengths, parts',
    [
        ({'targets': 4}, ["lengths['targets']=4", '5 or more']),
        ({'target': 9}, ["'target'", 'nearest: targets']),
        ({}, ["must have 'targets'"]),
    ],
)
@each
def test_bad_lengths_are_refused(objective, lengths, parts):
    with pytest.raises(ConfigError) as error:
        objective.converter.check(lengths)
    assert all(part in str(error.value) for part in [*parts, objective.converter.kind])


@each
def test_a_vocabulary_without_the_ids_is_refused(objective, vocabulary):
    objective.converter.check(LENGTHS, vocabulary)
    with pytest.raises(ConfigError, match='no sep id'):
        objective.converter.check(LENGTHS, dataclasses.replace(vocabulary, sep=None))
    without = dataclasses.replace(vocabulary, mask=None)
    if objective.converter.masking:
        with pytest.raises(ConfigError, match='no mask id'):
            objective.converter.check(LENGTHS, without)
    else:
        objective.converter.check(LENGTHS, without)


def test_a_vocabulary_that_ends_no_sentence_is_refused(vocabulary):
    pieces = [piece if piece not in ('.', '\n') else 'x' for piece in vocabulary.pieces]
    with pytest.raises(ConfigError, match='sop: no piece .* ends a sentence'):
        SentenceOrder().check(LENGTHS, dataclasses.replace(vocabulary, pieces=tuple(pieces)))


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: nsp(documents=1), 'nsp: documents=1 must be an integer of 2 or more.*try 100'),
        (lambda: NextSentence(documents=2.5), 'documents=2.5'),
        (lambda: bert(short_share=1.5), r'nsp: short_share=1.5 must be in \[0, 1\]; try 0.1'),
        (lambda: sop(short_share=-1), 'sop: short_share=-1'),
        (lambda: albert(mlm_weight=-1), 'weight=-1'),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@each
def test_packing_is_refused(objective):
    with pytest.raises(ConfigError, match=f'packed: {objective.converter.kind}_labels of shape'):
        packed(objective=objective).converter.check(LENGTHS)


def test_equal_settings_are_equal_objectives():
    assert bert() == bert(documents=100) != bert(masking=MaskedLM(rate=0.3))
