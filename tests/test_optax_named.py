"""Any optimizer of optax: found by name, right on stacks of layers, placed like the parameters."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import optax
import pytest
from fixtures import batches, experiment
from jax.sharding import PartitionSpec as P
from jax.tree_util import keystr, tree_leaves_with_path
from test_optim import close, stack, train, unstacked
from test_step import furthest, run

from t5x_lite import sharding, step
from t5x_lite.errors import ConfigError
from t5x_lite.optax_named import Optax, known
from t5x_lite.sharding import MeshShape

NEED_MORE = {  # the value of the loss, an argument without default, or a rate that is a number
    *('lbfgs', 'optimistic_adam', 'rprop', 'scale_by_rprop', 'sm3', 'contrib.dpsgd'),
    *('contrib.momo', 'contrib.momo_adam', 'contrib.schedule_free', 'contrib.sophia'),
}
OF_ALL_PARAMETERS = {'contrib.dadapt_adamw', 'contrib.dog', 'contrib.dowg', 'contrib.prodigy'}
WITHOUT_SLOTS = {
    *('fromage', 'noisy_sgd', 'scale_by_learning_rate', 'sgd', 'sign_sgd'),
}
SHARDED = MeshShape(fsdp=4, model=2)


@pytest.mark.parametrize('name', known())
def test_every_state_lies_like_its_parameter_or_the_optimizer_is_refused(name):
    apart = name not in OF_ALL_PARAMETERS
    if name in NEED_MORE:
        with pytest.raises(ConfigError, match='from gradients and a schedule alone'):
            Optax(name=name, learning_rate=1e-3, apart=apart)
        return
    own = experiment(
        'clm', mesh=SHARDED, optimizer=Optax(name=name, learning_rate=1e-3, apart=apart)
    )
    mesh = sharding.make_mesh(own.mesh)
    state = step.abstract_state(own, mesh)
    params = arrays(state.params)
    slots = {
        path: [x for name, x in arrays(state.opt_state).items() if name.endswith(path)]
        for path in params
    }
    for path, param in params.items():
        whole = [x for x in slots[path] if x.shape == param.shape]
        assert all(x.sharding.spec == param.sharding.spec for x in whole), path
    kernel = "['decoder']['blocks']['mlp']['wide']['kernel']"
    assert params[kernel].sharding.spec == P(None, 'fsdp', 'model')
    assert name in WITHOUT_SLOTS or slots[kernel]


def arrays(tree) -> dict:
    return {keystr(path): x for path, x in tree_leaves_with_path(tree)}


@pytest.mark.one
@pytest.mark.parametrize(
    'optimizer',
    [
        Optax(name='contrib.muon', learning_rate=0.01, weight_decay=0.1),
        Optax(name='lamb', learning_rate=0.01, weight_decay=0.1),
        Optax(name='lion', learning_rate=0.01, clip=1.0),
    ],
)
def test_a_stack_is_trained_as_its_layers_would_be(optimizer):
    params, gradients = unstacked(1, 0.05), [unstacked(seed, 0.5 * seed) for seed in range(2, 4)]
    apart = train(optimizer, params, gradients)
    together = train(optimizer, stack(params), [stack(grads) for grads in gradients])
    for one, other in zip(apart, together, strict=True):
        close(other, stack(one), rtol=1e-5, atol=1e-5)


def test_it_is_the_optimizer_of_optax():
    params, grads = unstacked(1, 0.05), unstacked(2)
    own = Optax(name='lion', learning_rate=0.01, settings={'b1': 0.8}, weight_decay=0.1)
    stock = optax.lion(0.01, b1=0.8, weight_decay=0.1, mask=own.decayed)
    found, expected = (x.update(grads, x.init(params), params)[0] for x in (own.build(), stock))
    close(found, expected, rtol=1e-6)


@pytest.mark.all
def test_a_mesh_changes_no_loss_and_the_loss_falls():
    optimizer = Optax(name='lion', learning_rate=1e-3)
    one = experiment('clm', optimizer=optimizer)
    data = batches(one, 1) * 6
    alone, _ = run(one, data)
    many, _ = run(experiment('clm', optimizer=optimizer, mesh=SHARDED), data, 8)
    assert furthest(alone, many) < 1e-5
    assert alone[-1]['clm/nll'] < alone[0]['clm/nll'] - 0.1


@pytest.mark.parametrize(
    'values, words',
    [
        (dict(name='lionn'), "name='lionn' must be an optimizer of optax; nearest: lion"),
        (dict(name='lion', settings={'beta1': 1}), "settings['beta1'] is no setting of optax.lion"),
        (dict(name='lion', settings={'mask': 1}), "settings['mask'] is no setting"),
        (dict(name='sgd', weight_decay=0.1), 'weight_decay=0.1 must be 0: optax.sgd takes none'),
        (dict(name='novograd', weight_decay=0.1), 'try no_decay=()'),
        (dict(name='contrib.prodigy'), 'try apart=False'),
        (dict(name='lion', clip=0), 'clip=0 must be a norm above 0'),
    ],
)
def test_what_optax_does_not_take_is_refused(values, words):
    with pytest.raises(ConfigError) as refused:
        Optax(learning_rate=1e-3, **values)
    assert words in str(refused.value)


def test_equal_values_print_as_the_call_that_makes_them():
    value = Optax(name='lion', learning_rate=1e-4, settings={'b1': 0.95})
    assert value == eval(repr(value), {'Optax': Optax})
    assert np.isclose(float(value.schedule(3)), 1e-4)
