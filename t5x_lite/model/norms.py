"""Normalisation layers as values: RMSNorm, LayerNorm. Statistics in float32."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * scale (Zhang & Sennrich 2019; T5 and Llama)."""

    eps: float = 1e-6
    weights = {'scale': jnp.ones}  # name -> initial values by shape

    def __call__(self, x, scale):
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return (y * _like(scale, y)).astype(x.dtype)


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
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        y = y * _like(scale, y)
        return (y if bias is None else y + _like(bias, y)).astype(x.dtype)


def _like(weight_D, x):
    return weight_D.reshape((1,) * (x.ndim - 1) + weight_D.shape)
