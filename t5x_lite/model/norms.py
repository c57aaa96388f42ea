"""Normalisation layers as values: RMSNorm, LayerNorm. Statistics in float32."""
# SPDX-License-Identifier: Apache-2.0
# The backward pass keeps x and two numbers a row; JAX's own would keep float32 arrays of x's size.

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from t5x_lite import sharding


@dataclass(frozen=True)
class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * scale (Zhang & Sennrich 2019; T5 and Llama)."""

    eps: float = 1e-6
    weights = {'scale': jnp.ones}  # name -> initial values by shape

    def __call__(self, x, scale):
        return _normed(self.eps, False, x, scale, None)


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean) / sqrt(variance + eps) * scale + bias (Ba et al. 2016; BERT and GPT-2).

    `bias=False` leaves the bias out (ModernBERT).
    """

    eps: float = 1e-5
    bias: bool = True

    @property
    def weights(self):
        return {'scale': jnp.ones, 'bias': jnp.zeros} if self.bias else {'scale': jnp.ones}

    def __call__(self, x, scale, bias=None):
        return _normed(self.eps, True, x, scale, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _normed(eps: float, centred: bool, x, scale, bias):
    return _forward(eps, centred, x, scale, bias)[0]


def _forward(eps, centred, x, scale, bias):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True) if centred else None
    wide = wide - mean if centred else wide
    inverse = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + eps)
    y = wide * inverse * _like(scale, x)
    y = y if bias is None else y + _like(bias, x)
    return y.astype(x.dtype), (x, mean, inverse, scale, bias)


def _backward(eps, centred, kept, grad):
    x, mean, inverse, scale, bias = kept
    grad, wide = grad.astype(jnp.float32), x.astype(jnp.float32)
    unit = (wide - mean if centred else wide) * inverse
    of_unit = grad * _like(scale, x)
    of_x = of_unit - unit * (of_unit * unit).mean(-1, keepdims=True)
    of_x = of_x - of_unit.mean(-1, keepdims=True) if centred else of_x
    rows = tuple(range(x.ndim - 1))
    if sharding.platform() == 'gpu':  # computed again for sums over rows, rather than written
        wide, mean, inverse = jax.lax.optimization_barrier((x, mean, inverse))
        wide = wide.astype(jnp.float32)
        unit = (wide - mean if centred else wide) * inverse
    of_bias = None if bias is None else grad.sum(rows).astype(bias.dtype)
    of_scale = (grad * unit).sum(rows).astype(scale.dtype)
    return (of_x * inverse).astype(x.dtype), of_scale, of_bias


_normed.defvjp(_forward, _backward)


def _like(weight_D, x):
    return weight_D.reshape((1,) * (x.ndim - 1) + weight_D.shape)
