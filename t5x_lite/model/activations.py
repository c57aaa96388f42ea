"""Activation functions, by the names experiments use."""
# SPDX-License-Identifier: Apache-2.0

import math

import jax
import jax.numpy as jnp

from t5x_lite import sharding


def _sloped(both):
    """The function x -> y of `both`, x -> (y, slope), whose backward pass keeps one array.

    On a CPU that is the slope, elsewhere x, which is there already: computing the slope again costs
    less than writing it.
    """
    keeps_slope, keeps_x = (jax.custom_vjp(lambda x: both(x)[0]) for _ in range(2))
    keeps_slope.defvjp(both, lambda slope, grad: (grad * slope,))
    keeps_x.defvjp(lambda x: (both(x)[0], x), lambda x, grad: (grad * both(x)[1],))
    return lambda x: (keeps_slope if sharding.platform() == 'cpu' else keeps_x)(x)


@_sloped
def _gelu(x):
    below = 0.5 * (1.0 + jax.lax.erf(x * 0.5**0.5))
    return x * below, below + x * jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5


@_sloped
def _gelu_tanh(x):
    tanh_x = jnp.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x))
    below = 0.5 * (1.0 + tanh_x)
    inner = (2 / math.pi) ** 0.5 * (1.0 + 3 * 0.044715 * x * x)
    return x * below, below + 0.5 * x * (1.0 - tanh_x * tanh_x) * inner


def relu(x):
    return jax.nn.relu(x)


def gelu(x):
    """Exact GELU, x * Phi(x) (BERT). By erf: jax.nn.gelu's erfc is three times slower on a CPU."""
    return _gelu(x)


def gelu_tanh(x):
    """GELU by its tanh approximation (GPT-2, T5 1.1)."""
    return _gelu_tanh(x)


def silu(x):
    """x * sigmoid(x), also called swish (Llama)."""
    return jax.nn.silu(x)


def tanh(x):
    """Hyperbolic tangent (BERT's pooler)."""
    return jnp.tanh(x)
