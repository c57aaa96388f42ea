"""Objectives with labels: microbatches, meshes and rows of padding change no number."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import jax
import labelled
import numpy as np
import pytest
import test_step
from test_classification import means

from t5x_lite.objectives.classification import classification, regression
from t5x_lite.objectives.multiple_choice import multiple_choice
from t5x_lite.objectives.span_qa import span_qa
from t5x_lite.objectives.supervised import seq2seq
from t5x_lite.objectives.tagging import tagging
from t5x_lite.sharding import MeshShape

pytestmark = pytest.mark.all
OBJECTIVES = {
    'classification': (classification(labels=3, label_smoothing=0.1), {'inputs': 12}),
    'regression': (regression(), {'inputs': 12}),
    'tagging': (tagging(tags=('O', 'B-a', 'I-a')), {'inputs': 12}),
    'span_qa': (span_qa(stride=4, question_length=3), {'inputs': 12}),
    'multiple_choice': (multiple_choice(choices=2), {'inputs': 12}),
    'seq2seq': (seq2seq(), {'inputs': 8, 'targets': 8}),
}


def examples(count):
    """Examples with the features of all objectives, of unequal lengths."""
    draw = np.random.default_rng(0)
    for _ in range(count):
        size = int(draw.integers(3, 9))
        texts = {n: labelled.words(draw, size) for n in ('inputs', 'context', 'targets')}
        texts |= {n: labelled.words(draw, 3) for n in ('question', 'choice_0', 'choice_1')}
        numbers = dict(words=np.arange(size) // 2, tags=draw.integers(0, 3, (size + 1) // 2))
        yield texts | numbers | dict(answers=np.array([0, 2]), label=int(draw.integers(0, 2)))


def experiment(name, batch_size=8, **fields):
    return labelled.experiment(*OBJECTIVES[name], batch_size=batch_size, **fields)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_microbatches_and_a_mesh_change_no_number(name):
    one = experiment(name)
    data = [{'s': labelled.batch_of(one, examples(8))}] * 3
    alone, _ = test_step.run(one, data)
    many = dataclasses.replace(one, microbatches=2, mesh=MeshShape(data=2, model=2))
    parted, _ = test_step.run(many, data, devices=4)
    for a, b in zip(alone, parted, strict=True):
        own = [f's/{name}' for name in ('loss', 'nll') if f's/{name}' in a]
        assert own and all(a[n] == pytest.approx(b[n], rel=2e-5) for n in own)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_rows_of_padding_change_no_number(name):
    full, padded = experiment(name, batch_size=8), experiment(name, batch_size=16)
    batch = labelled.batch_of(full, examples(8))
    pad = lambda x: np.pad(x, ((0, 8),) + ((0, 0),) * (x.ndim - 1))
    found = means(full, batch), means(padded, {n: pad(x) for n, x in batch.items()})
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize('name', ['classification', 'tagging', 'multiple_choice', 'span_qa'])
def test_a_model_that_knows_nothing_of_the_text_is_at_chance(name):
    """All scores equal: the loss is that of a uniform guess among what may be chosen."""
    run = experiment(name)
    objective, batch = run.streams['s'].objective, labelled.batch_of(run, examples(8))
    (term,) = objective.terms.values()
    flat = {n: jax.numpy.zeros((8, 12, 4)) for n in _hidden(objective)}
    head = lambda x: jax.numpy.zeros((*x.shape[:-1], term.head.labels))
    loss = float(term.loss(None, head, flat, batch)['loss'].value)
    used_B = np.count_nonzero(batch.get('encoder_segment_ids', np.zeros((8, 1))), axis=1)
    weights_B = batch.get('span_weights', np.ones(8))
    chance = {
        'classification': np.log(3),
        'tagging': np.log(3),
        'multiple_choice': np.log(2),
        'span_qa': (np.log(np.maximum(used_B, 1)) * weights_B).sum() / weights_B.sum(),
    }
    assert loss == pytest.approx(chance[name], rel=1e-5)


def _hidden(objective):
    spec = objective.converter.spec({'inputs': 12})
    ends = '_input_tokens'
    return [n.replace(ends, '_hidden') for n in spec if n.endswith(ends)]
