"""Losses in which rows of the whole batch meet: microbatches and meshes change no number."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math

import fixtures
import jax
import numpy as np
import pytest
from test_step import run

from t5x_lite import microbatches, sharding, step
from t5x_lite.data.loader import ShardBatches
from t5x_lite.errors import ConfigError
from t5x_lite.experiment import Stream
from t5x_lite.objective import Term
from t5x_lite.objectives import similarity
from t5x_lite.objectives.contrastive import mlm_simcse, simcse
from t5x_lite.objectives.crops import crops
from t5x_lite.objectives.losses import TokenLoss
from t5x_lite.objectives.pairs import dual_encoder, supervised_simcse
from t5x_lite.objectives.similarity import pool_first_last, pool_mean
from t5x_lite.optim import AdamW
from t5x_lite.sharding import MeshShape

CLIP = dict(separate=True, temperature=0.07, learn_temperature=True, directions='mean')
# Cosines are divided by temperatures of 0.05 and less: scores of 20 are rounded by 20 * eps. The
# dual encoder's is 0.01.
ROUNDING = 20 * float(np.finfo(np.float32).eps)
TRIPLET = {'anchor': 8, 'positive': 8, 'negative': 8}
PAIR = {'inputs': 6, 'targets': 9}
OBJECTIVES = {
    'simcse': (simcse(), {'targets': 12}),
    'mlm_simcse': (mlm_simcse(), {'targets': 12}),
    'layers': (simcse(pool=pool_first_last), {'targets': 12}),
    'crops': (crops(passage=16, shortest=4), {'targets': 12}),
    'supervised': (supervised_simcse(hard_weight=0.5), TRIPLET),
    'dual': (dual_encoder(margin=0.1), PAIR),
    'clip': (dual_encoder(**CLIP), PAIR),
}


def triplets(seed=0, size=64):
    """Triplets of random words: a positive shares its anchor's first words."""
    rng = np.random.default_rng(seed)
    while True:
        words = rng.integers(7, size - 8, (3, 9)).astype(np.int32)
        words[1, :3] = words[0, :3]
        anchor, positive, negative = (row[: rng.integers(3, 9)] for row in words)
        yield dict(
            anchor=anchor, positive=positive, negative=negative, inputs=anchor, targets=positive
        )


def experiment(name, *, batch_size=16, dropout=0.1, mesh=None, parts=1, **fields):
    objective, lengths = OBJECTIVES[name]
    stream = Stream(mixture='none', objective=objective, lengths=lengths, batch_size=batch_size)
    base = fixtures.experiment('span', model=dict(dropout=dropout, decoder_layers=1), **fields)
    return dataclasses.replace(
        base, streams={name: stream}, microbatches=parts, mesh=mesh or MeshShape()
    )


def batch(experiment, seed=0):
    """One batch, its last row padding."""
    ((name, stream),) = experiment.streams.items()
    text = 'targets' in stream.lengths and len(stream.lengths) == 1
    rows = ShardBatches(
        fixtures.documents(seed) if text else triplets(seed),
        stream.objective.converter,
        stream.lengths,
        fixtures.vocabulary(),
        rows=stream.batch_size,
        seed=(seed,),
    )
    found = next(rows)
    for x in found.values():
        x[-1] = 0
    return {name: found}


def gradients(experiment, batches, params):
    model_of_params = step.model_of(experiment)
    compute = lambda params: step.gradients(experiment, model_of_params, params, batches, 3)
    return jax.device_get(jax.jit(compute)(params))


def by_hand(experiment, batches, params):
    """One big batch whose rows have the dropout of their microbatch, without GradCache."""
    whole = dataclasses.replace(experiment, microbatches=1)
    parts, model_of_params = experiment.microbatches, step.model_of(experiment)
    cut = microbatches.split(batches, parts)
    step_key = jax.random.fold_in(jax.random.key(experiment.seed), 3)
    keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(jax.numpy.arange(parts))
    weights = step.loss_weights(whole, 3)

    def loss(params):
        model = model_of_params(params)
        apart = lambda part, key: step.means_apart(whole, model, part, key)
        means, vectors = jax.vmap(apart)(cut, keys)
        totals = jax.tree.map(lambda x: x.sum(), means)
        totals |= step.means_together(whole, model, microbatches.join(vectors), batches)
        ratio = lambda mean: mean.total / jax.numpy.maximum(mean.count, 1.0)
        return sum(weights[name] * ratio(totals[name]) for name in weights)

    return jax.device_get(jax.jit(jax.value_and_grad(loss))(params))


def close(a, b, atol, rtol=0):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@pytest.mark.one
@pytest.mark.parametrize('parts', [2, 4])
@pytest.mark.parametrize('name', ['simcse', 'crops', 'supervised', 'clip', 'mlm_simcse'])
def test_microbatches_give_the_gradient_of_the_whole_batch(name, parts):
    """With dropout, each row's as in its microbatch; the temperature's gradient included."""
    several = experiment(name, parts=parts)
    batches, params = batch(several), step.init_state(several).params
    total, means, grads = gradients(several, batches, params)
    expected_total, expected = by_hand(several, batches, params)
    assert total == pytest.approx(expected_total, rel=1e-6)  # eight times a float32's rounding
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    close(grads, expected, atol=ROUNDING * max(1.0, scale))
    if name == 'clip':
        temperature = grads['heads']['dual_encoder']['temperature']
        assert abs(temperature) > 1e-4


@pytest.mark.one
@pytest.mark.parametrize('name', ['supervised', 'dual', 'clip'])
def test_without_dropout_microbatches_change_no_number(name):
    one = experiment(name, dropout=0.0)
    batches, params = batch(one), step.init_state(one).params
    first = gradients(one, batches, params)
    second = gradients(dataclasses.replace(one, microbatches=4), batches, params)
    assert first[1].keys() == second[1].keys()
    assert second[1][f'{name}/loss'].count == 15
    scale = max(np.abs(x).max() for x in jax.tree.leaves(first[2]))
    close(first[:2], second[:2], atol=1e-6, rtol=1e-6)
    rounding = 5 * ROUNDING if name == 'dual' else ROUNDING
    close(first[2], second[2], atol=rounding * max(1.0, scale))


def test_a_mean_over_microbatches_would_be_wrong_here():
    """The tests above can fail: with the negatives of its quarter alone a row pays less."""
    one = experiment('supervised', dropout=0.0)
    batches, params = batch(one), step.init_state(one).params
    total = gradients(one, batches, params)[0]
    quarter = jax.tree.map(lambda x: x[:4], batches)
    assert gradients(one, quarter, params)[0] < total - 0.3


@pytest.mark.one
@pytest.mark.parametrize(
    'name, chunk',
    [('simcse', None), ('layers', 5), ('supervised', 5), ('dual', None), ('clip', None)],
)
def test_a_mesh_changes_no_number(name, chunk, monkeypatch):
    """Loss and gradients on data=2, fsdp=2, model=2, in one table or there by chunks of columns."""
    one = experiment(name)
    batches, params = batch(one), step.init_state(one).params
    alone = gradients(one, batches, params)
    if chunk:
        monkeypatch.setattr(similarity, 'WHOLE', 4)
        monkeypatch.setattr(similarity, 'CHUNK', chunk)
    many = dataclasses.replace(one, mesh=MeshShape(data=2, fsdp=2, model=2))
    mesh = sharding.make_mesh(many.mesh)
    where, model_of_params = step.state_shardings(many, mesh).params, step.model_of(many)

    def compute(params, batches):
        with sharding.active(mesh, many.rules):
            return step.gradients(many, model_of_params, params, batches, 3)

    rows = sharding.batch_sharding(mesh)
    placed = jax.device_put(params, where), jax.device_put(batches, rows)
    found = jax.device_get(jax.jit(compute)(*placed))
    scale = max(np.abs(x).max() for x in jax.tree.leaves(alone[2]))
    close(alone[:2], found[:2], atol=2e-6, rtol=2e-6)
    close(alone[2], found[2], atol=2e-6 * max(1.0, scale))


@pytest.mark.all
def test_mesh_and_microbatches_together_change_no_number():
    one = experiment('clip', dropout=0.0)
    data = [batch(one, seed) for seed in range(3)]
    both = dataclasses.replace(one, microbatches=2, mesh=MeshShape(data=2, fsdp=2, model=2))
    (a, _), (b, _) = run(one, data), run(both, data, devices=8)
    for x, y in zip(a, b, strict=True):
        assert x['clip/loss'] == pytest.approx(y['clip/loss'], abs=2e-5)


@pytest.mark.one
@pytest.mark.parametrize('name', ['supervised', 'dual', 'clip'])
def test_an_objective_of_vectors_overfits_a_batch(name):
    one = experiment(name, optimizer=AdamW(learning_rate=3e-3, clip=1.0))
    data = [batch(one)] * 60
    values, _ = run(one, data)
    assert values[0][f'{name}/loss'] > 0.2
    assert values[-1][f'{name}/accuracy'] == 1.0


def test_the_temperature_is_learned_within_its_bound_and_never_decayed():
    one = experiment('clip', optimizer=AdamW(learning_rate=0.5, weight_decay=0.5))
    params = step.init_state(one).params
    decayed = one.optimizer.decayed(params)['heads']['dual_encoder']
    assert decayed['temperature'] is False and decayed['dense']['kernel'] is True
    start = params['heads']['dual_encoder']['temperature']
    assert start == pytest.approx(math.log(1 / 0.07))
    values, state = run(one, [batch(one)] * 8)
    scales = [value['clip/scale'] for value in values]
    assert scales[0] == pytest.approx(1 / 0.07, rel=1e-6) and len(set(scales)) > 1
    assert max(scales) <= 100.0 * (1 + 1e-6)
    params['heads']['dual_encoder']['temperature'] = jax.numpy.float32(9.0)
    model = step.model_of(one)(params)
    kept = step.bounded(model)
    assert kept['heads']['dual_encoder']['temperature'] == pytest.approx(math.log(100.0))
    np.testing.assert_array_equal(
        kept['token_embedding']['embedding'], params['token_embedding']['embedding']
    )


def test_two_towers_are_separate_weights():
    params = step.init_state(experiment('clip')).params
    tower = params['heads']['passage_encoder']
    table = params['token_embedding']['embedding']
    assert tower['token_embedding']['embedding'].shape == table.shape
    assert np.abs(tower['token_embedding']['embedding'] - table).max() > 0
    assert 'decoder' not in tower and 'encoder' in tower
    assert 'passage_encoder' not in step.init_state(experiment('dual')).params['heads']


@pytest.mark.all
def test_every_layers_hidden_states_end_with_the_encoders():
    one = experiment('simcse')
    model = step.model_of(one)(step.init_state(one).params)
    tokens = np.arange(7, 19).reshape(2, 6)
    layers, last = model.encode(tokens, every_layer=True), model.encode(tokens)
    assert layers.shape == (2, *last.shape)
    np.testing.assert_array_equal(layers[-1], last)
    shallow = dataclasses.replace(one, model=dataclasses.replace(one.model, encoder_layers=1))
    params = step.init_state(one).params
    params['encoder']['blocks'] = jax.tree.map(lambda x: x[:1], params['encoder']['blocks'])
    first = step.model_of(shallow)(params).encode(tokens)
    np.testing.assert_allclose(model.encoder.norm(layers[0]), first, atol=1e-5)


def test_a_row_alone_is_refused_unless_it_has_a_negative_of_its_own():
    with pytest.raises(ConfigError, match='batch_size=1 leaves no other row'):
        experiment('dual', batch_size=1)
    experiment('supervised', batch_size=1)


def test_a_batchwide_loss_must_come_in_two_halves():
    with pytest.raises(ConfigError, match='TokenLoss has no embed'):
        Term(loss=TokenLoss(), batchwide=True)
    assert simcse(pool=pool_mean).terms['simcse'].batchwide
