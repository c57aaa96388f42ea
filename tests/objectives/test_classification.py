"""Classification and regression: rows on literals, learning, padding, what is refused."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import jax
import jax.numpy as jnp
import labelled
import numpy as np
import pytest

from t5x_lite import sharding, step
from t5x_lite.data.cells import rows as shown
from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.predict import PredictEval
from t5x_lite.interop.families import bert as bert_files
from t5x_lite.model.heads import ClassifierHead
from t5x_lite.objectives.classification import classification, regression
from t5x_lite.objectives.similarity import pool_last, pool_mean

PAIRS = dict(texts=('a', 'b'))


def batch(objective, examples, vocabulary, length=8):
    converter, lengths = objective.converter, {'inputs': length}
    cutter = converter.cutter(lengths, vocabulary)
    for example in examples:
        cutter.add({name: np.asarray(x) for name, x in example.items()})
    count = cutter.ready()
    out = converter.batch(cutter.take(count), lengths, vocabulary, np.zeros((count, 0)))
    assert {name: (x.shape[1:], x.dtype) for name, x in out.items()} == converter.spec(lengths)
    return out, cutter.dropped


def test_an_example_is_a_row_with_its_label(vocabulary):
    examples = [
        dict(a=[10, 11, 12, 13], b=[14, 15, 16], label=2),
        dict(a=[], b=[14], label=1),
        dict(a=[10], b=[], label=[0]),
    ]
    out, dropped = batch(classification(labels=3, **PAIRS), examples, vocabulary)
    assert dropped == 1
    np.testing.assert_array_equal(
        out['encoder_input_tokens'], [[3, 10, 11, 12, 4, 14, 15, 4], [3, 10, 4, 4, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        out['token_type_ids'], [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(out['class_labels'], [2, 0])
    np.testing.assert_array_equal(out['class_weights'], [1, 1])
    (first, _) = shown(out, vocabulary, 2)
    assert first.others['class_labels'] == '2'


def test_a_number_is_a_label_too(vocabulary):
    out, _ = batch(regression(), [dict(inputs=[10], label=-2.5)], vocabulary, length=3)
    np.testing.assert_array_equal(out['encoder_input_tokens'], [[3, 10, 4]])
    assert 'token_type_ids' not in out
    np.testing.assert_array_equal(out['class_labels'], np.float32([-2.5]))


@pytest.mark.parametrize('label', [3, -1, 1.5])
def test_a_label_that_the_head_does_not_know_is_refused_when_it_is_read(label, vocabulary):
    with pytest.raises(ConfigError, match=f"'label' holds {label}, but labels=3 knows 0 to 2"):
        batch(classification(labels=3), [dict(inputs=[10], label=label)], vocabulary)


def test_the_last_tokens_vector_is_pooled():
    hidden = jnp.arange(12.0).reshape(2, 3, 2)
    mask = jnp.array([[1, 1, 0], [0, 0, 0]], bool)
    np.testing.assert_array_equal(pool_last(hidden, mask), [[2, 3], [6, 7]])


def test_heads_are_those_of_published_files():
    assert classification(labels=5).terms['classifier'].head == (
        bert_files.FAMILY.heads['classifier'].build(5)
    )


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda: classification(labels=0), ['labels=0', '1 or more']),
        (lambda: classification(labels=2, texts=()), ['texts=()']),
        (lambda: classification(labels=2, texts=('label',)), ["label='label'"]),
        (lambda: classification(labels=2, marks='sep'), ["marks='sep'", 'cls']),
        (lambda: classification(labels=2, between=3), ['between=3']),
        (lambda: classification(labels=2, stack='both'), ["stack='both'"]),
        (lambda: classification(labels=2, label_smoothing=1), ['label_smoothing=1', 'try 0.1']),
        (lambda: classification(labels=2, head=ClassifierHead(labels=3)), ['labels', '2']),
        (
            lambda: classification(labels=2, **PAIRS).converter.check({'inputs': 4}),
            ["lengths['inputs']=4", '5 or more'],
        ),
        (
            lambda: labelled.experiment(
                dataclasses.replace(classification(labels=3), terms=classification(labels=2).terms),
                {'inputs': 8},
            ),
            ["term 'classifier' has a head of labels=2, but the objective has 3"],
        ),
        (
            lambda: labelled.experiment(
                classification(labels=2, **PAIRS), {'inputs': 8}, model=dict(types=0)
            ),
            ['types', 'set model.types=2'],
        ),
    ],
)
def test_what_cannot_work_is_refused(make, words):
    with pytest.raises(ConfigError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


def test_a_vocabulary_without_the_marks_is_refused(vocabulary):
    without = dataclasses.replace(vocabulary, cls=None)
    with pytest.raises(ConfigError, match='no cls id'):
        classification(labels=2).converter.check({'inputs': 8}, without)
    classification(labels=2, marks='eos').converter.check({'inputs': 8}, without)


def examples(labels=None, seed=0, count=8):
    draw = np.random.default_rng(seed)
    for i in range(count):
        label = i % labels if labels else np.float32(2 * draw.normal())
        texts = {'inputs': labelled.words(draw, 5), 'inputs_2': labelled.words(draw, 3)}
        yield texts | {'label': label}


DECODER = dict(marks='eos', stack='decoder', pool=pool_last)


@pytest.mark.one
@pytest.mark.parametrize(
    'settings',
    [
        dict(texts=('inputs', 'inputs_2')),
        pytest.param(dict(pool=pool_mean, label_smoothing=0.1), marks=pytest.mark.all),
        pytest.param(
            DECODER | dict(head=ClassifierHead(labels=3, activation=None, bias=False)),
            marks=pytest.mark.all,
        ),
    ],
)
def test_classification_overfits_a_batch(settings):
    run = labelled.experiment(classification(labels=3, **settings), {'inputs': 12})
    first, last, _ = labelled.overfitted(run, examples(3), 60)
    assert first['s/accuracy'] < 0.8 and last['s/accuracy'] == 1.0
    assert last['s/loss'] < (0.05 if 'label_smoothing' not in settings else 0.5)


@pytest.mark.all
def test_regression_overfits_a_batch():
    run = labelled.experiment(regression(), {'inputs': 12})
    first, last, _ = labelled.overfitted(run, examples(), 60)
    assert first['s/loss'] > 0.3 > 0.02 > last['s/loss']


def means(run, batch):
    mesh = sharding.make_mesh(run.mesh, jax.devices()[:1])
    params = step.make_init(run, mesh)().params
    found = step.make_eval_step(run, mesh)(params, {'s': batch})
    return {name: float(mean.value) for name, mean in found.items()}


@pytest.mark.all
@pytest.mark.parametrize('settings', [{}, DECODER])
def test_padding_changes_no_number(settings):
    objective = classification(labels=3, **settings)
    short = labelled.experiment(objective, {'inputs': 7}, batch_size=8)
    long = labelled.experiment(objective, {'inputs': 16}, batch_size=16)
    a = means(short, labelled.batch_of(short, examples(3)))
    b = means(long, labelled.batch_of(long, examples(3)))
    assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.all  # importing torch takes longer than all else
def test_smoothing_is_that_of_pytorch():
    torch = pytest.importorskip('torch', reason='torch is not installed')
    from t5x_lite.objectives.losses import ClassLoss

    scores, labels = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 2, 1, 1])
    data = dict(class_labels=jnp.array(labels), class_weights=jnp.ones(4))
    data['encoder_segment_ids'] = jnp.ones((4, 1), jnp.int32)
    loss = ClassLoss(name='class', label_smoothing=0.2)
    hidden = jnp.array(scores, jnp.float32)[:, None]
    ours = loss(None, lambda x: x, {'encoder_hidden': hidden}, data)['loss'].value
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(scores), torch.tensor(labels), label_smoothing=0.2
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_an_evaluation_of_nothing_that_predicts_is_refused():
    with pytest.raises(ConfigError, match='no loss of clm predicts'):
        fixtures.experiment('clm', evals={'p': PredictEval()})
    with pytest.raises(ConfigError, match="stream 'other' that is not there"):
        labelled.experiment(
            classification(labels=2), {'inputs': 8}, evals={'p': PredictEval(streams=('other',))}
        )
