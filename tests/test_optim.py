"""Schedules on literals; optimizers against their equations; stacked layers equal unstacked."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite import optim, rounded_state
from t5x_lite.errors import ConfigError
from t5x_lite.optim import Adafactor, AdamW, StableAdamW
from t5x_lite.schedules import (
    BertLinear,
    Constant,
    Cosine,
    Linear,
    Rsqrt,
    RsqrtWarmup,
    WarmupStableDecay,
)

RAMP = dict(peak=2.0, warmup=10, steps=110)


@pytest.mark.parametrize(
    'schedule, expected',
    [
        (Constant(value=0.5), {0: 0.5, 10**6: 0.5}),
        (Rsqrt(), {0: 0.01, 10_000: 0.01, 40_000: 0.005}),
        (RsqrtWarmup(rate=3.0, warmup=100), {0: 0.0, 50: 0.15, 100: 0.3, 400: 0.15}),
        (Linear(**RAMP), {0: 0.0, 5: 1.0, 10: 2.0, 60: 1.0, 109: 0.02, 110: 0.0, 500: 0.0}),
        (Linear(peak=2.0, warmup=0, steps=4), {0: 2.0, 1: 1.5, 4: 0.0}),
        (Linear(peak=2.0, warmup=4, steps=4), {0: 0.0, 3: 1.5, 4: 2.0}),
        (BertLinear(peak=2.0, warmup=10, steps=100), {0: 0.0, 9: 1.8, 10: 1.8, 50: 1.0, 101: 0.0}),
        (Cosine(**RAMP), {0: 0.0, 10: 2.0, 35: 1 + 0.5**0.5, 60: 1.0, 110: 0.0, 200: 0.0}),
        (Cosine(**RAMP, floor=0.1), {5: 1.0, 10: 2.0, 60: 1.1, 110: 0.2, 200: 0.2}),
        (WarmupStableDecay(**RAMP, decay=64), {5: 1.0, 46: 2.0, 50: 1.5, 62: 1.0, 110: 0.0}),
        (WarmupStableDecay(**RAMP, decay=0), {10: 2.0, 109: 2.0}),
    ],
)
def test_schedule_values(schedule, expected):
    traced = jax.jit(schedule)
    for step, value in expected.items():
        for result in (schedule(step), traced(jnp.int32(step))):
            assert result.dtype == jnp.float32 and result.shape == ()
            np.testing.assert_allclose(result, value, rtol=1e-6, atol=1e-7)


def test_values_compare_and_print_as_the_call_that_makes_them():
    value = AdamW(learning_rate=Cosine(**RAMP), clip=1.0, no_decay=['bias$'])
    assert eval(repr(value)) == value
    assert value != AdamW(learning_rate=Cosine(**RAMP), no_decay=['bias$'])
    assert Adafactor() == Adafactor(learning_rate=Rsqrt())


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda: Linear(peak=-1.0, warmup=1, steps=2), 'Linear: peak=-1.0 .* try peak=0.001'),
        (lambda: Linear(peak=1.0, warmup=3, steps=2), 'warmup=3 must be at most steps=2'),
        (lambda: Linear(peak=1.0, warmup=1e4, steps=10**6), r'warmup=10000.0 .* warmup=10000$'),
        (lambda: Cosine(**RAMP, floor=2.0), 'Cosine: floor=2.0'),
        (lambda: Rsqrt(warmup=0), 'Rsqrt: warmup=0'),
        (lambda: Constant(value=float('nan')), 'Constant: value=nan'),
        (lambda: WarmupStableDecay(**RAMP, decay=101), 'decay=101 .* try decay=100'),
        (lambda: AdamW(learning_rate='1e-3'), "AdamW: learning_rate='1e-3'"),
        (lambda: AdamW(learning_rate=Rsqrt), 'AdamW: learning_rate=.* or a schedule'),
        (lambda: AdamW(learning_rate=1.0, b2=1.0), 'AdamW: b2=1.0'),
        (lambda: AdamW(learning_rate=1.0, eps=0.0), 'AdamW: eps=0.0'),
        (lambda: AdamW(learning_rate=1.0, clip=0.0), 'AdamW: clip=0.0'),
        (lambda: Adafactor(state_dtype='f8'), "Adafactor: state_dtype='f8'"),
        (lambda: AdamW(learning_rate=1.0, no_decay='bias'), "AdamW: no_decay='bias'"),
        (lambda: AdamW(learning_rate=1.0, no_decay=('(',)), 'AdamW: no_decay='),
        (lambda: StableAdamW(learning_rate=1.0, weight_decay=-1), 'StableAdamW: weight_decay=-1'),
        (lambda: Adafactor(clip_rms=0), 'Adafactor: clip_rms=0'),
        (lambda: Adafactor(min_factored=1.5), 'Adafactor: min_factored=1.5'),
    ],
)
def test_a_bad_value_is_refused_by_name(make, words):
    with pytest.raises(ConfigError) as error:
        make()
    assert re.search(words, str(error.value)), error.value


def draw(shapes, seed=0, scale=1.0):
    """A tree of arrays N(0, scale^2) of those shapes."""
    rng = np.random.default_rng(seed)
    make = lambda shape: jnp.float32(scale * rng.standard_normal(shape))
    return jax.tree.map(make, shapes, is_leaf=lambda x: isinstance(x, tuple))


def train(optimizer, params, gradients):
    """Parameters after each update, given the gradient of each."""
    transform = optimizer.build()
    state = jax.jit(transform.init)(params)
    update, history = jax.jit(transform.update), []
    for grads in gradients:
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


def close(actual, expected, rtol=1e-6, atol=1e-7):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol, atol), actual, expected)


def adam_reference(param, gradients, rate, b1, b2, eps, decay, corrected, stable=False):
    """The published equations, in float64."""
    param, m, v, out = np.float64(param), 0.0, 0.0, []
    for t, g in enumerate(np.float64(gradients)):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        fix = (1 - b1 ** (t + 1), 1 - b2 ** (t + 1)) if corrected else (1, 1)
        m_hat, v_hat = m / fix[0], v / fix[1]
        rms = np.sqrt(np.mean(g**2 / np.maximum(v_hat, eps**2)))
        now = rate(t) / max(1.0, rms) if stable else rate(t)
        param = param - now * (m_hat / (np.sqrt(v_hat) + eps) + decay * param)
        out.append(param)
    return out


SETTINGS = dict(b1=0.9, b2=0.98, eps=1e-6)


@pytest.mark.parametrize('corrected', [False, True])
def test_adamw_is_its_equations(corrected):
    param = draw((3, 4))
    gradients = [draw((3, 4), seed) for seed in range(1, 6)]
    settings = dict(weight_decay=0.1, bias_correction=corrected, **SETTINGS)
    optimizer = AdamW(learning_rate=Linear(peak=0.1, warmup=2, steps=6), **settings)
    rate = lambda t: [0.0, 0.05, 0.1, 0.075, 0.05][t]
    expected = adam_reference(param, gradients, rate, **SETTINGS, decay=0.1, corrected=corrected)
    close(train(optimizer, param, gradients), expected, rtol=1e-5)


def test_stable_adamw_is_its_equations():
    param = draw((3, 4))
    gradients = [draw((3, 4), seed, scale=4.0**seed) for seed in range(1, 6)]
    optimizer = StableAdamW(learning_rate=0.1, weight_decay=0.1, **SETTINGS)
    args = dict(param=param, gradients=gradients, rate=lambda t: 0.1, decay=0.1, corrected=True)
    expected = adam_reference(**args, **SETTINGS, stable=True)
    close(train(optimizer, param, gradients), expected, rtol=1e-5)
    plain = adam_reference(**args, **SETTINGS)
    assert np.max(np.abs(plain[-1] - expected[-1])) > 0.01  # 1000 times the tolerance above


def adafactor_reference(param, gradients, rate, factored):
    """Shazeer & Stern 2018, algorithm 4 with T5's constants, in float64, for one matrix."""
    param, row, col, v, out = np.float64(param), 0.0, 0.0, 0.0, []
    for t, g in enumerate(np.float64(gradients), start=1):
        keep, square = 1 - t**-0.8, g**2 + 1e-30
        row = keep * row + (1 - keep) * square.mean(axis=1, keepdims=True)
        col = keep * col + (1 - keep) * square.mean(axis=0, keepdims=True)
        v = keep * v + (1 - keep) * square
        u = g / np.sqrt(row * col / row.mean() if factored else v)
        u = u / max(1.0, np.sqrt(np.mean(u**2)))
        param = param - rate * max(1e-3, np.sqrt(np.mean(param**2))) * u
        out.append(param)
    return out


@pytest.mark.parametrize('shape', [(128, 130), (130, 128), (127, 200)])
def test_adafactor_is_t5s_equations(shape):
    factored = min(shape) >= 128
    param = draw(shape, scale=0.05)
    gradients = [draw(shape, seed, scale=2.0**seed) for seed in range(1, 5)]
    expected = adafactor_reference(param, gradients, 0.01, factored)
    close(train(Adafactor(), param, gradients), expected, rtol=1e-5)
    state = jax.eval_shape(Adafactor().build().init, param)
    assert (param.size in [leaf.size for leaf in jax.tree.leaves(state)]) != factored


def test_adafactor_moves_a_zero_weight():
    moved = train(Adafactor(learning_rate=1.0), jnp.zeros(4), [jnp.ones(4)])[0]
    close(moved, np.full(4, -1e-3))  # by rate * max(1e-3, RMS(0))


BLOCK = {'mlp': {'kernel': (128, 129), 'bias': (129,)}, 'query': {'kernel': (130, 2, 131)}}
LAYERS = {'encoder': 2, 'decoder': 3}
OPTIMIZERS = [
    Adafactor(weight_decay=0.001),
    StableAdamW(learning_rate=0.01, weight_decay=0.1),
    AdamW(learning_rate=0.01, weight_decay=0.1, clip=1.0),
    optim.bert_adamw(1e-3),
]


def unstacked(seed, spread=1.0):
    """A tree whose layers lie side by side, each at another scale."""
    tree = {'token_embedding': {'embedding': draw((140, 130), seed, spread)}}
    for name, layers in LAYERS.items():
        scale = lambda i: spread * 10.0 ** (i - 1)
        blocks = {f'layer{i}': draw(BLOCK, 10 * seed + i, scale(i)) for i in range(layers)}
        tree[name] = {'layers': blocks, 'norm': {'scale': draw((130,), seed)}}
    return tree


def stack(tree):
    """The same with each layer's arrays as [layers, ...] below 'blocks'."""
    out = dict(tree)
    for name in LAYERS:
        layers = tree[name]['layers'].values()
        blocks = jax.tree.map(lambda *xs: jnp.stack(xs), *layers)
        out[name] = {'blocks': blocks, 'norm': tree[name]['norm']}
    return out


@pytest.mark.one
@pytest.mark.parametrize('optimizer', OPTIMIZERS, ids=lambda value: type(value).__name__)
def test_scanned_and_unscanned_trees_train_identically(optimizer):
    params, gradients = unstacked(1, 0.05), [unstacked(seed, 0.5 * seed) for seed in range(2, 6)]
    apart = train(optimizer, params, gradients)
    together = train(optimizer, stack(params), [stack(grads) for grads in gradients])
    for one, other in zip(apart, together, strict=True):
        close(other, stack(one), rtol=1e-6, atol=1e-6)


def test_stock_adafactor_on_a_stack_is_another_optimizer():
    """Why `per_layer` is there."""
    params, grads = stack(unstacked(1, 0.05)), stack(unstacked(2))
    right = Adafactor(learning_rate=0.01).build()
    stock = optax.adafactor(0.01)
    first = lambda optimizer: jax.jit(optimizer.update)(grads, optimizer.init(params), params)[0]
    expected, wrong = first(right), first(stock)
    close(wrong['token_embedding'], expected['token_embedding'])
    kernel = lambda tree: tree['decoder']['blocks']['mlp']['kernel']
    assert np.max(np.abs(kernel(wrong) / kernel(expected))) > 5


@pytest.mark.parametrize('optimizer', OPTIMIZERS, ids=lambda value: type(value).__name__)
def test_the_state_of_a_stack_keeps_layers_in_front(optimizer):
    state = jax.eval_shape(optimizer.build().init, stack(unstacked(1)))
    paths = jax.tree_util.tree_leaves_with_path(state)
    shapes = {jax.tree_util.keystr(path, simple=True, separator='/'): x.shape for path, x in paths}
    for name, layers in LAYERS.items():
        assert {s[0] for path, s in shapes.items() if f'{name}/blocks/' in path} == {layers}
    assert {s for path, s in shapes.items() if path.endswith('count')} == {()}


def test_a_transform_that_mixes_layers_is_refused():
    """A global norm has no value of its own per layer: it belongs outside `per_layer`."""
    params = {'blocks': {'kernel': jnp.ones((2, 3))}, 'head': {'kernel': jnp.ones(3)}}
    transform = optim.per_layer(optax.clip_by_global_norm(1.0))
    with pytest.raises(ValueError, match='vmap'):
        transform.update(params, transform.init(params), params)


def test_decay_spares_biases_scales_tables_and_temperatures():
    mlp = {'kernel': (2, 3, 4), 'bias': (2, 4)}
    heads = {'clm': {'bias': (5,)}, 'simcse': {'temperature': ()}}
    decoder = {'blocks': {'mlp': mlp}, 'norm': {'scale': (3,)}, 'table': {'relative_bias': (4, 2)}}
    params = draw({'decoder': decoder, 'heads': heads, 'token_embedding': {'embedding': (5, 3)}})
    still = jax.tree.map(jnp.zeros_like, params)
    for optimizer, left in (
        (AdamW(learning_rate=0.5, weight_decay=0.2), 0.9),
        (StableAdamW(learning_rate=0.5, weight_decay=0.2), 0.9),
        (Adafactor(weight_decay=0.2), 0.8),  # not scaled by the rate
    ):
        moved = train(optimizer, params, [still])[0]
        ratio = jax.tree.map(lambda new, old: np.asarray(new / old), moved, params)
        for path, value in jax.tree_util.tree_leaves_with_path(ratio):
            name = jax.tree_util.keystr(path, simple=True, separator='/')
            decays = name.endswith(('mlp/kernel', 'token_embedding/embedding'))
            np.testing.assert_allclose(value, left if decays else 1.0, 1e-6, err_msg=name)


def test_no_decay_is_a_choice():
    optimizer = AdamW(learning_rate=1.0, no_decay=('embedding$', '^head/'))
    params = {'embedding': 0, 'head': {'kernel': 0}, 'body': {'bias': 0, 'head': 0}}
    kept = {'embedding': False, 'head': {'kernel': False}, 'body': {'bias': True, 'head': True}}
    assert optimizer.decayed(params) == kept
    optimizer.check(['embedding', 'head/kernel', 'body/bias'])
    with pytest.raises(ConfigError, match=r"no_decay: '\^head/' is found in no parameter; nearest"):
        optimizer.check(['embedding', 'heads/kernel'])
    AdamW(learning_rate=1.0).check(['kernel'])  # the default fits models without biases too


@pytest.mark.parametrize('norm, share', [(10.0, 0.1), (0.5, 1.0)])
def test_clip_bounds_the_global_norm(norm, share):
    """Adam's first m is (1 - b1) g: it shows the gradient that Adam was given."""
    grads = {'a': jnp.float32([0.6 * norm]), 'b': jnp.float32([[0.0, 0.8 * norm]])}
    transform = AdamW(learning_rate=1.0, clip=1.0, b1=0.0).build()
    _, state = transform.update(grads, transform.init(grads), grads)
    close(optax.tree.get(state, 'mu'), jax.tree.map(lambda g: share * g, grads))


@pytest.mark.parametrize('optimizer', [AdamW(learning_rate=0.1), Adafactor(min_factored=2)])
def test_a_state_in_bfloat16_takes_half_and_changes_the_first_update_little(optimizer):
    rng = np.random.default_rng(0)
    params = {'blocks': {'kernel': jnp.asarray(rng.normal(size=(2, 8, 8)), jnp.float32)}}
    grads = jax.tree.map(jnp.sin, params)
    half = dataclasses.replace(optimizer, state_dtype='bfloat16')
    updates, moments = [], []
    for transform in (optimizer.build(), half.build()):
        state = transform.init(params)
        update, state = jax.jit(transform.update)(grads, state, params)
        updates.append(update['blocks']['kernel'])
        moments.append(sum(x.nbytes for x in jax.tree.leaves(state) if x.ndim > 1))
    assert moments[0] == 2 * moments[1]
    close(*updates, rtol=1e-6)  # the state was 0, and the update is in float32


def test_a_second_moment_in_bfloat16_still_grows_to_the_squared_gradient():
    """Rounded to the nearest it would stop at a few per cent: a step is below half a unit."""
    transform = AdamW(learning_rate=0.1, state_dtype='bfloat16').build()
    params = {'kernel': jnp.zeros((64, 64))}
    grads = {'kernel': jnp.full((64, 64), 2.0)}
    state, nearest = transform.init(params), jnp.bfloat16(0)

    def step(carry, _):
        state, nearest = carry
        _, state = transform.update(grads, state, params)
        return (state, (0.999 * jnp.float32(nearest) + 0.001 * 4).astype(jnp.bfloat16)), None

    (state, nearest), _ = jax.lax.scan(step, (state, nearest), None, length=3000)
    exact = 4 * (1 - 0.999**3000)
    nu = [x for x in jax.tree.leaves(state) if x.ndim == 2][-1]
    assert nu.dtype == jnp.bfloat16 and nearest < 0.5 * exact
    assert float(nu.astype(jnp.float32).mean()) == pytest.approx(exact, rel=0.01)


def test_rounding_at_random_keeps_what_is_exact_and_is_right_on_average():
    exact = jnp.array([0.0, -1.5, 2.0**-130, jnp.inf, 3e38])
    kept = rounded_state.at_random(exact, jax.random.key(0)).astype(jnp.float32)
    np.testing.assert_array_equal(kept[:4], exact[:4])
    x = jnp.full(100_000, 1 + 2.0**-9)  # a quarter of the way to the next one
    found = rounded_state.at_random(x, jax.random.key(1)).astype(jnp.float32)
    assert set(np.unique(found)) == {1.0, 1 + 2.0**-7}
    assert float((found > 1).mean()) == pytest.approx(0.25, abs=0.01)


def test_rate_t_is_used_for_update_t_plus_1():
    optimizer = AdamW(learning_rate=Linear(peak=1.0, warmup=2, steps=9), weight_decay=0.0, b1=0.0)
    history = train(optimizer, jnp.zeros(1), [jnp.ones(1)] * 3)
    assert [float(optimizer.schedule(t)) for t in range(3)] == [0.0, 0.5, 1.0]
    close([float(p[0]) for p in history], [0.0, -0.5, -1.5], rtol=1e-5)
    assert AdamW(learning_rate=0.25).schedule(7) == 0.25
