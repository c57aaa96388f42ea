"""What is frozen: bit-identical after training, without gradient and optimizer state."""
# SPDX-License-Identifier: Apache-2.0

import fixtures
import jax
import numpy as np
import pytest

from t5x_lite import frozen, sharding, step
from t5x_lite.errors import ConfigError
from t5x_lite.optim import Adafactor, AdamW

SMALL = dict(embed=16, mlp=32, heads=2, encoder_layers=3, decoder_layers=0)
LAST_TWO = (('encoder/blocks/[12]/mlp/', True), ('heads', True), ('.*', False))


def experiment(**fields):
    optimizer = AdamW(learning_rate=0.1, weight_decay=0.5)
    return fixtures.experiment(
        'mlm', batch_size=8, model=SMALL, **dict(optimizer=optimizer) | fields
    )


def trained(experiment, steps=2, state=None):
    """(the state before, the state after some steps), on one device."""
    mesh = sharding.make_mesh(experiment.mesh, jax.devices()[:1])
    before = step.make_init(experiment, mesh)() if state is None else state
    kept = jax.tree.map(np.asarray, before)
    train_step = step.make_train_step(experiment, mesh)
    for batches in fixtures.batches(experiment, steps):
        placed = {name: sharding.put_batch(batch, mesh) for name, batch in batches.items()}
        before, _ = train_step(before, placed)
    return kept, before


def moved(before, after) -> dict:
    """{path: which layers of a stack, or whether the array, changed}."""
    out = {}
    for path, old in frozen.flat(before.params).items():
        new = np.asarray(frozen.flat(after.params)[path])
        rows = old.shape[0] if '/blocks/' in path else 1
        both = (x.reshape(rows, -1) for x in (old, new))
        out[path] = [bool((a != b).any()) for a, b in zip(*both, strict=True)]
    return out


@pytest.mark.parametrize(
    'optimizer',
    [
        AdamW(learning_rate=0.1, weight_decay=0.5),
        pytest.param(Adafactor(weight_decay=0.1), marks=pytest.mark.all),
    ],
)
def test_what_is_frozen_stays_bit_identical_and_has_no_state_layers_of_a_stack_too(optimizer):
    one = experiment(trainable=LAST_TWO, optimizer=optimizer)
    before, after = trained(one)
    for path, rows in moved(before, after).items():
        expected = [False, True, True] if '/mlp/' in path else [learnable(path)] * len(rows)
        assert rows == expected, path
    sizes = {path: x.shape for path, x in frozen.flat(before.params).items() if learnable(path)}
    if isinstance(optimizer, AdamW):
        count = sum(2 * np.prod(s) * (2 / 3 if '/blocks/' in p else 1) for p, s in sizes.items())
        state = jax.tree.leaves(after.opt_state)
        assert sum(x.size for x in state if x.ndim) == round(count)


def learnable(path: str) -> bool:
    return '/mlp/' in path or path.startswith('heads')


@pytest.mark.all
def test_nothing_frozen_is_as_before_and_a_rule_for_all_changes_no_number():
    _, plain = trained(experiment())
    _, ruled = trained(experiment(trainable=(('.*', True),), rate_factors=(('.*', 1.0),)))
    jax.tree.map(np.testing.assert_array_equal, plain.params, ruled.params)


@pytest.mark.all
def test_a_factor_scales_the_update_of_a_layer():
    half = (('blocks/0/', 0.0), ('blocks/1/', 0.5), ('.*', 1.0))
    before, full = trained(experiment(), 1)
    _, scaled = trained(experiment(rate_factors=half), 1)
    kernel = lambda state: np.asarray(state.params['encoder']['blocks']['mlp']['wide']['kernel'])
    update = kernel(full) - kernel(before)
    changed = kernel(scaled) - kernel(before)
    np.testing.assert_array_equal(changed[0], 0 * update[0])
    np.testing.assert_allclose(changed[1], 0.5 * update[1], rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(changed[2], update[2])


@pytest.mark.parametrize(
    'rules, told',
    [
        ((('blocks/7/', True), ('.*', False)), "'blocks/7/' is found in no parameter"),
        ((('.*', False),), 'nothing learns at step 0'),
        ((('blocks/0/', 10), ('.*', True)), 'a step of no update'),
    ],
)
def test_rules_that_do_not_fit_the_model_are_refused(rules, told):
    one = experiment(trainable=rules)
    with pytest.raises(ConfigError, match=told):
        frozen.starts(one, step.abstract_params(one))


def test_parts_by_literal_and_what_is_split_off_is_put_back():
    stack = np.arange(6.0).reshape(3, 2)
    params = {'a': np.ones(2), 'blocks': {'k': stack}, 'heads': {'teacher': {'x': np.zeros(1)}}}
    starts = {'a': 0, 'blocks/k': (frozen.NEVER, 7, 0), 'heads/teacher/x': frozen.NEVER}
    trained, fixed = frozen.split(params, starts)
    shown = lambda tree: {path: x.tolist() for path, x in frozen.flat(tree).items()}
    assert shown(trained) == {'a': [1, 1], 'blocks/k': [[2, 3], [4, 5]]}
    assert shown(fixed) == {'blocks/k': [[0, 1]], 'heads/teacher/x': [0]}
    assert shown(frozen.join(trained, fixed, starts)) == shown(params)
