"""GELU and softmax keep one array each for the backward pass; their gradients are JAX's own."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.model import activations, attention

PAIRS = {
    'gelu': (activations.gelu, lambda x: jax.nn.gelu(x, approximate=False)),
    'gelu_tanh': (activations.gelu_tanh, lambda x: jax.nn.gelu(x, approximate=True)),
    'softmax': (attention.softmax, jax.nn.softmax),
}


def pulled(function, x):
    pull = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    return jax.grad(lambda x: (function(x) * pull).sum())(x)


@pytest.mark.parametrize('name', PAIRS)
def test_values_and_gradients_are_those_of_jax(name):
    ours, theirs = PAIRS[name]
    x = jnp.concatenate([jnp.linspace(-9, 9, 63), jnp.zeros(1)]).reshape(4, 16)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-6)
    np.testing.assert_allclose(pulled(ours, x), pulled(theirs, x), atol=2e-6)


@pytest.mark.parametrize('name', PAIRS)
def test_second_derivatives_are_those_of_jax(name):
    ours, theirs = PAIRS[name]
    x = jnp.linspace(-3, 3, 16).reshape(2, 8)
    twice = lambda function: jax.grad(lambda x: jnp.square(pulled(function, x)).sum())(x)
    np.testing.assert_allclose(twice(ours), twice(theirs), atol=2e-5)


@pytest.mark.parametrize('name', PAIRS)
def test_the_backward_pass_keeps_one_array(name):
    x = jnp.ones((4, 16))
    kept = jax.tree.leaves(jax.vjp(PAIRS[name][0], x)[1])
    assert sum(leaf.size for leaf in kept) == x.size
