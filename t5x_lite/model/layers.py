"""Layers that hold weights: a weight is one line, its shape, its axes, its initial spread."""
# SPDX-License-Identifier: Apache-2.0
# Shape letters, here and everywhere: B batch, L query length, M memory length, D embed, H heads,
# G key-value heads, K head size, F mlp, V vocab, N layers, R rank.

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite.sharding import constrain


def weight(rngs, shape, axes, stddev) -> nnx.Param:
    """A float32 parameter N(0, stddev^2) that knows the logical axis of each dimension."""
    return nnx.Param(stddev * jax.random.normal(rngs.params(), shape), axes=axes)


class Linear(nnx.Module):
    """y = einsum(eqn, x, kernel) + bias; the kernel is cast to the type of x."""

    def __init__(self, eqn, shape, axes, stddev, rngs, *, bias_dims: int = 0):
        self.eqn = eqn
        self.kernel = weight(rngs, shape, axes, stddev)
        shape, axes = shape[-bias_dims:], axes[-bias_dims:]  # the dimensions new in the output
        self.bias = nnx.Param(jnp.zeros(shape), axes=axes) if bias_dims else None

    def __call__(self, x):
        y = jnp.einsum(self.eqn, x, self.kernel[...].astype(x.dtype))
        if self.bias is None:
            return y
        bias = self.bias[...].astype(y.dtype)
        return y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


class Norm(nnx.Module):
    """The weights of a normalisation value (RMSNorm, LayerNorm), applied by calling it."""

    def __init__(self, config):
        self.kind = config.norm
        for name, initial in config.norm.weights.items():
            setattr(self, name, nnx.Param(initial((config.embed,)), axes=(None,)))

    def __call__(self, x):
        return self.kind(x, *(getattr(self, name)[...] for name in self.kind.weights))


class Embedding(nnx.Module):
    """A table [rows, D], looked up by id."""

    def __init__(self, rows, embed, axes, stddev, rngs):
        self.rows = axes[0]
        self.embedding = weight(rngs, (rows, embed), axes, stddev)

    def __call__(self, ids_BxL, dtype):
        table = constrain(self.embedding[...].astype(dtype), self.rows, None)
        return jnp.take(table, ids_BxL, axis=0)

    def logits(self, hidden_BxLxD):
        """Scores of every row, [B, L, V] in float32."""
        table_VxD = self.embedding[...].astype(hidden_BxLxD.dtype)
        return jnp.einsum(
            'BLD,VD->BLV', hidden_BxLxD, table_VxD, preferred_element_type=jnp.float32
        )


class RelativeBias(nnx.Module):
    """T5's table of attention biases, [buckets, H]."""

    def __init__(self, buckets, config, rngs):
        stddev = config.init.stddev('relative_bias', config.embed, config)
        self.relative_bias = weight(rngs, (buckets, config.heads), (None, 'heads'), stddev)

    def __call__(self, buckets_LxM):
        return jnp.take(self.relative_bias[...], buckets_LxM, axis=0).transpose(2, 0, 1)


def dropout(x, rate: float, key):
    """Zeroes a share `rate` of x and scales the rest; x itself if there is no key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
