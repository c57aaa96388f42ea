"""Layers that hold weights: a weight is one line, its shape, its axes, its initial spread."""
# SPDX-License-Identifier: Apache-2.0
# Shape letters, here and everywhere: B batch, L query length, M memory length, D embed, H heads,
# G key-value heads, K head size, F mlp, V vocab, N layers, R rank.

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite import sharding
from t5x_lite.model.matmuls import Float
from t5x_lite.sharding import constrain

FLOAT = Float()
TILE = 128  # of a vocabulary, on GPUs
STEPS = 2**16  # of a dropout rate


def weight(rngs, shape, axes, stddev, units=None) -> nnx.Param:
    """A float32 parameter N(0, stddev^2) that knows the logical axis of each dimension.

    `units` counts what a mesh axis may not cut, where a dimension joins several: heads, say.
    """
    value = stddev * jax.random.normal(rngs.params(), shape)
    return nnx.Param(value, axes=axes, units=units or shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def widened(subscripts: str, a, b):
    """jnp.einsum of two arrays of one type in float32; its gradients are products in that type.

    JAX's own would multiply a float32 gradient by a or b, which GPUs do in float32.
    """
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def _widened_backward(subscripts, factors, grad):
    _, back = jax.vjp(functools.partial(jnp.einsum, subscripts), *factors)
    if grad.dtype != factors[0].dtype:  # written once, narrow, for both products
        grad = jax.lax.optimization_barrier(grad.astype(factors[0].dtype))
    return back(grad)


widened.defvjp(lambda subscripts, *ab: (widened(subscripts, *ab), ab), _widened_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _looked_up(axes, dtype, table_VxD, ids_BxL):
    """Rows of a float32 table, [B, L, D] in `dtype`; their gradients are added up in float32."""
    return jnp.take(constrain(table_VxD.astype(dtype), *axes), ids_BxL, axis=0)


def _looked_up_forward(axes, dtype, table_VxD, ids_BxL):
    return _looked_up(axes, dtype, table_VxD, ids_BxL), (table_VxD, ids_BxL)


def _looked_up_backward(axes, dtype, kept, grad_BxLxD):
    table_VxD, ids_BxL = kept
    zeros_VxD = constrain(jnp.zeros_like(table_VxD), *axes)
    return zeros_VxD.at[ids_BxL].add(grad_BxLxD.astype(table_VxD.dtype)), None


_looked_up.defvjp(_looked_up_forward, _looked_up_backward)


class Linear(nnx.Module):
    """y = x W + b over the last dimension; W [in, out] is cast to the type of x.

    `matmul` (matmuls.py) computes x W. An `adapter`, put there after it is made, adds what it makes
    of x. With a `kernel_scale` [out], put there too, W is the kernel, in int8, times that.
    """

    def __init__(self, size, axes, stddev, rngs, *, bias: bool, units=None, matmul=FLOAT):
        units = units or size
        self.matmul = matmul
        self.kernel = weight(rngs, size, axes, stddev, units)
        zeros = jnp.zeros(size[1:])
        self.bias = nnx.Param(zeros, axes=axes[1:], units=units[1:]) if bias else None
        self.adapter = self.kernel_scale = None

    def __call__(self, x):
        # Rows as one dimension: a plain matrix product, whose gradients need no transposes. On a
        # CPU a feed-forward layer of 256 x 1024 takes 23 ms this way, 39 ms with [B, L] kept apart.
        rows = x.reshape(-1, x.shape[-1])
        scale = None if self.kernel_scale is None else self.kernel_scale[...]
        y = self.matmul.product(rows, self.kernel[...], scale)
        if self.adapter is not None:
            y = y + self.adapter(rows)
        if self.bias is not None:
            y = y + self.bias[...].astype(y.dtype)[None]
        return y.reshape(*x.shape[:-1], y.shape[-1])


class Norm(nnx.Module):
    """The weights of a normalisation value (RMSNorm, LayerNorm), applied by calling it."""

    def __init__(self, kind, size: int):
        self.kind = kind
        for name, initial in kind.weights.items():
            setattr(self, name, nnx.Param(initial((size,)), axes=(None,)))

    def __call__(self, x):
        return self.kind(x, *(getattr(self, name)[...] for name in self.kind.weights))


class Embedding(nnx.Module):
    """A table [rows, D], looked up by id."""

    def __init__(self, rows, embed, axes, stddev, rngs):
        self.rows = axes[0]
        self.embedding = weight(rngs, (rows, embed), axes, stddev)

    def __call__(self, ids_BxL, dtype):
        return _looked_up((self.rows, None), dtype, self.embedding[...], ids_BxL)

    def logits(self, hidden_BxLxD):
        """Scores of every row, [B, L, V] in float32."""
        table_VxD = self.embedding[...].astype(hidden_BxLxD.dtype)
        rows_RxD = hidden_BxLxD.reshape(-1, hidden_BxLxD.shape[-1])
        vocab = table_VxD.shape[0]
        if sharding.platform() == 'gpu' and sharding.parts(self.rows) == 1:
            # Tensor cores want multiples of 8; padding the scores would cost more.
            table_VxD = jnp.pad(table_VxD, ((0, -vocab % TILE), (0, 0)))
        scores_RxV = widened('RD,VD->RV', rows_RxD, table_VxD)[:, :vocab]
        return scores_RxV.reshape(*hidden_BxLxD.shape[:-1], vocab)


class RelativeBias(nnx.Module):
    """T5's table of attention biases, [buckets, H]."""

    def __init__(self, buckets, config, rngs):
        stddev = config.init.stddev('relative_bias', config.embed, config)
        self.relative_bias = weight(rngs, (buckets, config.heads), (None, 'heads'), stddev)

    def __call__(self, buckets_LxM):
        return jnp.take(self.relative_bias[...], buckets_LxM, axis=0).transpose(2, 0, 1)


def dropout(x, rate: float, key):
    """Zeroes a share `rate` of x, to 2^-17, and scales the rest; x itself if there is no key."""
    if key is None or rate == 0.0:
        return x
    dropped = min(round(rate * STEPS), STEPS - 1)
    keep = _random16(key, x.shape) >= dropped
    return jnp.where(keep, x * (STEPS / (STEPS - dropped)), jnp.zeros_like(x))


def _random16(key, shape):
    """Random integers of 16 bits: half the work of 32, which is felt in a step with dropout."""
    *rows, last = shape
    words = jax.random.bits(key, (*rows, -(-last // 2)), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
    return halves.reshape(*rows, -1)[..., :last]
