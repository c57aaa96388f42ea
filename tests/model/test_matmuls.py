"""Rounded products: how far off they may be, what they change and what they must not."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib.util

import fixtures
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import flops, frozen, sharding, step
from t5x_lite.errors import ConfigError
from t5x_lite.interop import architectures
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.matmuls import Float, Fp8, Int8
from t5x_lite.optim import AdamW
from t5x_lite.tuning import summary

# Half a step of rounding, as a part of the largest number: 1/255 for int8's 127.5 steps. E4M3 has
# 3 bits after the leading one, E5M2 has 2: as a part of the number itself, 1/16 and 1/8.
HALF = {Int8(): 1 / 255, Fp8(): 1 / 16}
SIZES = dict(embed=32, heads=4, mlp=64, encoder_layers=0, decoder_layers=2)


def experiment(matmul, **fields):
    model = SIZES | dict(matmul=matmul)
    return fixtures.experiment('clm', batch_size=8, model=model, **fields)


def arrays(seed=0, rows=24, inputs=16, outputs=12):
    rng = np.random.default_rng(seed)
    shapes = (rows, inputs), (inputs, outputs), (rows, outputs)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def test_int8_by_literal():
    rows = jnp.array([[127.5, -1.0], [0.0, 0.0]])
    kernel = jnp.array([[255.0, 0.0], [3.0, 0.0]])
    # Scales are 1 for the row, 2 for the column: 3 is 1.5 steps, rounded to even.
    y = Int8().product(rows, kernel)
    np.testing.assert_allclose(y, [[127 * 2 * 127 - 2 * 2, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize('kind', [Int8(), Fp8()])
def test_a_product_is_off_by_no_more_than_rounding(kind):
    rows, kernel, _ = arrays()
    y, exact = kind.product(rows, kernel), np.asarray(rows @ kernel)
    if kind == Int8():
        x = np.abs(rows).max(1, keepdims=True) * HALF[kind] * np.ones_like(rows)
        w = np.abs(kernel).max(0, keepdims=True) * HALF[kind] * np.ones_like(kernel)
    else:
        x, w = np.abs(rows) * HALF[kind] + 1e-3, np.abs(kernel) * HALF[kind] + 1e-3
    bound = x @ np.abs(kernel) + np.abs(rows) @ w + x @ w
    assert (np.abs(y - exact) <= bound * 1.001).all()
    assert not np.allclose(y, exact, rtol=1e-4)


@pytest.mark.parametrize('kind', [Int8(), Fp8()])
def test_gradients_are_those_of_the_rounded_product_but_for_the_gradient_s_own_rounding(kind):
    rows, kernel, grad = arrays()
    _, pull = jax.vjp(kind.product, rows, kernel)
    of_rows, of_kernel = pull(grad)
    identity = jnp.eye(rows.shape[1])
    # Rows of an identity are rounded exactly, but for int8's 127 of 127.5 steps.
    rounded_kernel = kind.product(identity, kernel) * (127.5 / 127 if kind == Int8() else 1)
    exact = np.asarray(grad @ rounded_kernel.T)
    error = np.linalg.norm(of_rows - exact) / np.linalg.norm(exact)
    assert 0 < error < (0.01 if kind == Int8() else 1 / 8)
    exact = np.asarray(rows.T @ grad)
    assert np.linalg.norm(of_kernel - exact) / np.linalg.norm(exact) < HALF[kind] * 2
    assert of_rows.dtype == of_kernel.dtype == jnp.float32


def test_small_gradients_are_not_lost():
    rows, kernel, grad = arrays()
    pull = jax.vjp(Int8().product, rows, kernel)[1]
    small, large = (np.asarray(pull(grad * scale)[0]) / scale for scale in (2.0**-40, 1.0))
    np.testing.assert_allclose(small, large, rtol=1e-6)


def test_a_kernel_kept_as_int8_is_multiplied_as_what_it_stands_for():
    rows, kernel, _ = arrays()
    scale = jnp.full((12,), 0.5)
    whole = jnp.round(kernel * 20)
    for kind in (Float(), Int8(), Fp8()):
        given = kind.product(rows, whole.astype(jnp.int8), scale)
        np.testing.assert_allclose(given, kind.product(rows, whole * 0.5), rtol=1e-6)


def one_step(matmul, dtype: str):
    """(Parameters, {name: value}) after a step of that matmul and compute type."""
    one = experiment(matmul, optimizer=AdamW(learning_rate=1e-3))
    one = dataclasses.replace(one, model=dataclasses.replace(one.model, dtype=dtype))
    (batches,) = fixtures.batches(one, 1)
    model_of = step.model_of(one)

    @jax.jit
    def run(batches):
        return step.train_step(one, model_of, step.init_state(one), batches)

    after, means = run(batches)
    return after.params, {name: float(mean.value) for name, mean in means.items()}


@pytest.mark.parametrize('kind, dtype', [(Int8(), 'float32'), (Fp8(), 'bfloat16')])
def test_a_step_is_near_the_exact_one_and_weights_stay_float32(kind, dtype):
    _, exact = one_step(Float(), dtype)
    params, rounded = one_step(kind, dtype)
    assert {str(x.dtype) for x in frozen.flat(params).values()} == {'float32'}
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    # At birth a loss is that of random guessing, log 64, with either.
    assert exact['loss'] != rounded['loss']
    np.testing.assert_allclose(rounded['loss'], exact['loss'], rtol=0.01)
    np.testing.assert_allclose(rounded['grad_norm'], exact['grad_norm'], rtol=0.1)


def test_weights_are_drawn_alike_and_flops_are_the_same():
    exact, rounded = (experiment(matmul) for matmul in (Float(), Int8()))
    jax.tree.map(np.testing.assert_array_equal, *map(fixtures.params, (exact, rounded)))
    assert flops.train_step_flops(exact) == flops.train_step_flops(rounded)
    assert not architectures.differences(exact.model, rounded.model)


def test_a_mesh_changes_no_rounding():
    losses = []
    for shape in (sharding.MeshShape(data=1), sharding.MeshShape(data=2, fsdp=2, model=2)):
        one = experiment(Int8(), mesh=shape, optimizer=AdamW(learning_rate=1e-3))
        devices = jax.devices()[: 1 if shape.model == 1 else 8]
        mesh = sharding.make_mesh(one.mesh, devices)
        state, run = step.make_init(one, mesh)(), step.make_train_step(one, mesh)
        (batches,) = fixtures.batches(one, 1)
        placed = {name: sharding.put_batch(batch, mesh) for name, batch in batches.items()}
        losses.append(float(run(state, placed)[1]['loss'].value))
    # A sum in another order may round a number the other way.
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def test_without_qwix_the_step_is_refused_and_reading_is_not(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    one = experiment(Int8())
    with pytest.raises(ConfigError, match=r'matmul=Int8\(\) needs qwix; pip install .*Float\(\)'):
        summary.attention(one, 8)


def test_another_value_is_refused():
    with pytest.raises(ConfigError, match=r"matmul='int8' must be Float\(\), Int8\(\) or Fp8\(\)"):
        ModelConfig(vocab=8, embed=8, heads=1, mlp=8, decoder_layers=1, matmul='int8')
