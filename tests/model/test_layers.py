"""Dropout's share and scale; products and look-ups in bfloat16; what a norm keeps."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_lite.model.layers import Embedding, dropout, widened
from t5x_lite.model.norms import LayerNorm, RMSNorm


@pytest.mark.parametrize('rate', [0.1, 0.37, 0.9])
@pytest.mark.parametrize('last', [64, 65, 1])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate, last):
    x = jnp.full((4000, last), 3.0)
    y = np.asarray(dropout(x, rate, jax.random.key(0)))
    share, spread = (y == 0).mean(), np.sqrt(rate * (1 - rate) / y.size)
    assert abs(share - rate) < 5 * spread
    np.testing.assert_allclose(y[y != 0], 3.0 / (1 - rate), rtol=2e-4)
    assert dropout(x, 0.0, jax.random.key(0)) is x and dropout(x, rate, None) is x


def test_neighbours_are_dropped_independently():
    kept = np.asarray(dropout(jnp.ones((2000, 64)), 0.5, jax.random.key(1))) > 0
    together = (kept[:, ::2] & kept[:, 1::2]).mean()  # both halves of one word
    assert abs(together - 0.25) < 0.01
    again = np.asarray(dropout(jnp.ones((2000, 64)), 0.5, jax.random.key(1))) > 0
    assert (kept == again).all()


def test_a_widened_product_is_in_float32_and_its_gradients_in_the_factors_type():
    draw = np.random.default_rng(0)
    a, b, pull = (draw.normal(size=size) for size in ((5, 7), (3, 7), (5, 3)))
    narrow = jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16)
    y, back = jax.vjp(lambda a, b: widened('RD,VD->RV', a, b), *narrow)
    exact = np.asarray(narrow[0], np.float64) @ np.asarray(narrow[1], np.float64).T
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, exact, atol=1e-6 * np.abs(exact).max())
    of_a, of_b = back(jnp.asarray(pull, jnp.float32))
    assert of_a.dtype == of_b.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(of_a, np.float32), pull @ b, atol=0.05)
    np.testing.assert_allclose(np.asarray(of_b, np.float32), pull.T @ a, atol=0.08)
    products = str(jax.make_jaxpr(back)(jnp.zeros((5, 3))))
    assert 'f32[5,7]' not in products and 'f32[3,7]' not in products


def test_gradients_of_a_token_that_occurs_often_add_up_in_float32():
    table = Embedding(4, 2, (None, 'embed'), 0.1, nnx.Rngs(params=0))
    graph, state = nnx.split(table)
    ids = jnp.full((1, 5000), 3)

    def total(state):
        return nnx.merge(graph, state)(ids, jnp.bfloat16).astype(jnp.float32).sum()

    (found,) = jax.tree.leaves(jax.grad(total)(state))
    np.testing.assert_array_equal(found[3], 5000.0)  # in bfloat16 it stops at 256
    assert (found[:3] == 0).all()


@pytest.mark.parametrize('norm', [RMSNorm(), LayerNorm(), LayerNorm(bias=False)])
def test_a_norm_has_jaxs_gradients_and_keeps_x_and_two_numbers_a_row(norm):
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(3, 5, 16)) + 0.5, jnp.float32)
    weights = [jnp.asarray(draw.normal(size=16), jnp.float32) for _ in norm.weights]
    pull = jnp.asarray(draw.normal(size=x.shape), jnp.float32)

    def plain(x, scale, bias=0.0):
        x = x - x.mean(-1, keepdims=True) if isinstance(norm, LayerNorm) else x
        y = x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + norm.eps)
        return y * scale[None, None] + (bias if isinstance(bias, float) else bias[None, None])

    y, back = jax.vjp(norm, x, *weights)
    want, want_back = jax.vjp(plain, x, *weights)
    for got, expected in zip((y, *back(pull)), (want, *want_back(pull)), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())
    narrow = jax.vjp(norm, x.astype(jnp.bfloat16), *weights)[1]
    kept = sorted(leaf.nbytes for leaf in jax.tree.leaves(narrow))
    assert kept[-1] == 2 * x.size and sum(kept[:-1]) <= 2 * 4 * 15 + 2 * 4 * 16
