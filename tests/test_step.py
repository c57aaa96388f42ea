"""The training step: each objective learns, and mesh and microbatches change no number."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import fixtures
import jax
import numpy as np
import optax
import pytest

from t5x_lite import sharding, step
from t5x_lite.errors import ConfigError
from t5x_lite.metrics import Mean
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.optim import Adafactor, AdamW
from t5x_lite.schedules import Constant, Linear
from t5x_lite.sharding import MeshShape
from t5x_lite.term_norms import make_term_norms


def run(experiment, data, devices=1):
    """Every metric's value after each batch, and the last state."""
    mesh = sharding.make_mesh(experiment.mesh, jax.devices()[:devices])
    train_step, state = step.make_train_step(experiment, mesh), step.make_init(experiment, mesh)()
    values = []
    for batches in data:
        placed = {name: sharding.put_batch(batch, mesh) for name, batch in batches.items()}
        state, means = train_step(state, placed)
        values.append({name: float(mean.value) for name, mean in jax.device_get(means).items()})
    return values, state


def furthest(a, b) -> float:
    """The largest difference of the losses of two runs."""
    return max(
        abs(x[name] - y[name]) for x, y in zip(a, b, strict=True) for name in x if 'loss' in name
    )


@pytest.mark.one
@pytest.mark.parametrize('name, steps', [('mlm', 150), ('span', 150), ('clm', 150)])
def test_a_token_objective_overfits_a_batch(name, steps):
    experiment = fixtures.experiment(name, model=dict(embed=64, mlp=128), batch_size=16)
    (batch,) = fixtures.batches(experiment, 1)
    if name == 'clm':  # which token comes first, BOS does not tell
        batch['clm']['decoder_loss_weights'] *= batch['clm']['decoder_positions'] > 0
    values, _ = run(experiment, [batch] * steps)
    assert values[0][f'{name}/nll'] > 3.5
    assert values[-1][f'{name}/nll'] < 0.05
    assert values[-1][f'{name}/accuracy'] > 0.98


@pytest.mark.parametrize('name', ['simcse', 'crops'])
def test_a_contrastive_objective_overfits_a_batch(name):
    experiment = fixtures.experiment(name, model=dict(dropout=0.1), batch_size=16)
    values, _ = run(experiment, fixtures.batches(experiment, 1) * 60)
    assert values[0][f'{name}/loss'] > 0.5
    assert values[-1][f'{name}/accuracy'] == 1.0
    assert values[-1][f'{name}/loss'] < 0.05


@pytest.mark.one
@pytest.mark.parametrize(
    'optimizer, mesh, devices',
    [
        (AdamW(learning_rate=1e-3, clip=1.0), MeshShape(data=2, fsdp=2, model=2), 8),
        (AdamW(learning_rate=1e-3, clip=1.0), MeshShape(replica=2, context=4), 8),
        pytest.param(Adafactor(), MeshShape(fsdp=4), 4, marks=pytest.mark.all),
    ],
)
def test_a_mesh_changes_no_loss(optimizer, mesh, devices):
    """Two streams, three terms, dropout on: the curve is the same to 1e-5 on 1, 4, 8 devices."""
    one = fixtures.experiment('span', 'mlm_simcse', optimizer=optimizer, model=dict(dropout=0.1))
    data = fixtures.batches(one, 4)
    alone, _ = run(one, data)
    many, state = run(dataclasses.replace(one, mesh=mesh), data, devices)
    assert furthest(alone, many) < 1e-5
    kernel = state.params['encoder']['blocks']['mlp']['wide']['kernel']
    assert len({str(s.index) for s in kernel.addressable_shards}) == mesh.fsdp * mesh.model


@pytest.mark.one
@pytest.mark.parametrize('mesh, devices', [(MeshShape(), 1), (MeshShape(data=2, fsdp=2), 4)])
def test_microbatches_change_no_number(mesh, devices):
    """Rows with different counts of scored tokens, one microbatch with none."""
    one = fixtures.experiment('mlm', 'clm', mesh=mesh)
    four = dataclasses.replace(one, microbatches=4)
    data = fixtures.batches(one, 3)
    for batches in data:
        weights = batches['mlm']['encoder_loss_weights']
        weights[::4] = 0.0  # split() puts rows 0, 4, 8, 12 into the first microbatch
        weights[1, 5:] = 0.0
    (a, first), (b, second) = run(one, data, devices), run(four, data, devices)
    assert furthest(a, b) < 2e-6
    for x, y in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-5)


def test_a_mean_of_means_would_be_wrong_here():
    """The test above can fail: halves with unequal counts have another mean."""
    experiment = fixtures.experiment('mlm')
    batch = fixtures.batches(experiment, 1)[0]['mlm']
    batch['encoder_loss_weights'][1::4] = 0.0
    halves = [{k: x[part::2] for k, x in batch.items()} for part in (0, 1)]
    whole, *parts = (run(experiment, [{'mlm': b}])[0][0]['mlm/nll'] for b in (batch, *halves))
    assert abs(np.mean(parts) - whole) > 1e-4


def test_a_batch_without_loss_weights_has_loss_0_and_moves_parameters_by_decay_only():
    optimizer = AdamW(learning_rate=0.1, weight_decay=0.5)
    experiment = fixtures.experiment('clm', optimizer=optimizer)
    data = fixtures.batches(experiment, 1)
    data[0]['clm']['decoder_loss_weights'][:] = 0.0
    before = step.init_state(experiment).params
    values, state = run(experiment, data)
    assert values[0]['loss'] == 0.0 and values[0]['grad_norm'] == 0.0
    table = before['token_embedding']['embedding']
    after = state.params['token_embedding']['embedding']
    np.testing.assert_allclose(after, table * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(state.params['decoder']['norm']['scale'], 1.0)


def test_weights_of_streams_and_terms_scale_their_loss_and_schedules_follow_the_step():
    ramp = Linear(peak=2.0, warmup=2, steps=4)
    plain = fixtures.experiment('clm')
    heavy = dataclasses.replace(
        plain,
        streams={
            'clm': dataclasses.replace(
                plain.streams['clm'], objective=causal_lm(weight=3.0), weight=ramp
            )
        },
        optimizer=AdamW(learning_rate=0.0, weight_decay=0.0),
    )
    values, _ = run(heavy, fixtures.batches(plain, 1) * 4)
    base = values[0]['clm/loss']
    for number, value in enumerate(values):
        assert value['loss'] == pytest.approx(base * 3.0 * float(ramp(number)), rel=1e-6)


def test_weights_and_the_losses_of_streams_are_reported_where_losses_are_added():
    experiment = fixtures.experiment('clm', 'mlm_simcse', model=dict(dropout=0.1))
    ramp = Linear(peak=2.0, warmup=2, steps=4)
    streams = dict(experiment.streams)
    streams['clm'] = dataclasses.replace(streams['clm'], weight=ramp)
    experiment = dataclasses.replace(experiment, streams=streams)
    losses = ('clm/loss', 'mlm_simcse/mlm/loss', 'mlm_simcse/simcse/loss')
    means = {name: Mean(6.0, 2.0 * (i + 1)) for i, name in enumerate(losses)}  # 3, 1.5, 1
    values = {name: float(mean.value) for name, mean in step.sums(experiment, means, 1).items()}
    assert values == {
        'clm/weight': 1.0,
        'mlm_simcse/mlm/weight': pytest.approx(0.1),
        'mlm_simcse/simcse/weight': 1.0,
        'mlm_simcse/loss': pytest.approx(0.1 * 1.5 + 1.0),
    }
    clm = fixtures.experiment('clm')
    assert step.sums(clm, means, 1) == {}
    ramped = {'clm': dataclasses.replace(clm.streams['clm'], weight=ramp)}
    assert list(step.sums(dataclasses.replace(clm, streams=ramped), means, 1)) == ['clm/weight']


@pytest.mark.all
def test_the_norm_of_each_terms_gradient_is_that_of_a_run_with_it_alone():
    layers = dict(encoder_layers=1, decoder_layers=1)
    experiment = fixtures.experiment('clm', 'mlm', model=layers)
    mesh = sharding.make_mesh(experiment.mesh, jax.devices()[:1])
    state, (batches,) = step.make_init(experiment, mesh)(), fixtures.batches(experiment, 1)
    norms = make_term_norms(experiment, mesh)(state, batches)
    assert set(norms) == {'clm/grad_norm', 'mlm/grad_norm'}
    streams = dict(experiment.streams)
    streams['mlm'] = dataclasses.replace(streams['mlm'], weight=0.0)
    values, _ = run(dataclasses.replace(experiment, streams=streams), [batches])
    assert float(norms['clm/grad_norm']) == pytest.approx(values[0]['grad_norm'], rel=1e-5)


def test_the_step_of_a_rate_is_the_updates_done_before_it():
    experiment = fixtures.experiment(
        'clm', optimizer=AdamW(learning_rate=Linear(peak=1.0, warmup=2, steps=4))
    )
    values, state = run(experiment, fixtures.batches(experiment, 3))
    assert [v['learning_rate'] for v in values] == [0.0, 0.5, 1.0]
    assert int(state.step) == 3


def test_gradient_clipping_bounds_the_update_and_reports_the_raw_norm():
    experiment = fixtures.experiment('clm')
    batch = jax.tree.map(np.asarray, fixtures.batches(experiment, 1)[0])
    params = step.init_state(experiment).params
    gradients = jax.jit(
        lambda p: step.gradients(experiment, step.model_of(experiment), p, batch, 0)
    )
    norm = float(optax.tree.norm(gradients(params)[2]))
    values, _ = run(experiment, [batch])
    assert values[0]['grad_norm'] == pytest.approx(norm, rel=1e-5)


def test_an_optimizer_state_lies_like_its_parameter():
    experiment = fixtures.experiment(
        'span',
        mesh=MeshShape(data=2, fsdp=2, model=2),
        optimizer=Adafactor(learning_rate=Constant(value=0.1), min_factored=8),
    )
    mesh = sharding.make_mesh(experiment.mesh)
    state = step.make_init(experiment, mesh)()
    found = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
    }
    rows = [x for name, x in found.items() if "['mlp']['wide']['kernel']" in name and x.ndim == 2]
    assert rows and any('fsdp' in str(x.sharding.spec) for x in rows)


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(mesh=MeshShape(data=3, fsdp=2)), ['data=3', 'there are 8', 'try']),
        (dict(batch_size=12), ["Stream 'clm'", 'batch_size=12', 'data*fsdp=8', 'try 8 or 16']),
        (
            dict(mesh=MeshShape(replica=2, model=2), batch_size=10),
            ['batch_size=10', 'replica*data*fsdp=4', 'try 8 or 12'],
        ),
        (dict(microbatches=3), ['batch_size=16', 'microbatches=3', 'try 15 or 18']),
        (dict(data_shards=5), ['data_shards=5']),
    ],
)
def test_what_does_not_divide_is_refused_with_a_size_that_does(change, words):
    with pytest.raises(ConfigError) as error:
        fixtures.experiment('clm', **change).check_devices(8)
    assert all(word in str(error.value) for word in words), error.value


def test_rows_that_do_not_divide_over_context_are_refused():
    experiment = fixtures.experiment('span', mesh=MeshShape(context=8))
    with pytest.raises(ConfigError, match='_tokens has length 12, which must .*; try 8 or 16'):
        experiment.check_devices(8)


def test_heads_that_do_not_divide_over_the_mesh_are_refused():
    experiment = fixtures.experiment('clm', mesh=MeshShape(model=8))
    with pytest.raises(ConfigError, match=r'heads=4.*model=8; try heads=8'):
        step.state_shardings(experiment, sharding.make_mesh(experiment.mesh))


def test_objectives_that_need_another_stack_are_refused():
    for name, stack in (('clm', 'decoder'), ('mlm', 'encoder'), ('span', 'encoder')):
        with pytest.raises(ConfigError, match=f'model has {stack}_layers=0'):
            fixtures.experiment(name, model={f'{stack}_layers': 0})
