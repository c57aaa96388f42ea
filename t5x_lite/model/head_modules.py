"""The weights of the heads that heads.py names."""
# SPDX-License-Identifier: Apache-2.0

import jax.numpy as jnp
from flax import nnx

from t5x_lite.model.layers import Linear, Norm


class MaskedLM(nnx.Module):
    """Hidden states to vocabulary scores, through the model's own output embedding."""

    def __init__(self, config, rngs):
        D = config.embed
        spread = config.init.stddev('linear', D, config)
        self.activation = config.activation
        self.dense = Linear((D, D), ('embed', None), spread, rngs, bias=True)
        self.norm = Norm(config)
        self.bias = nnx.Param(jnp.zeros((config.vocab,)), axes=('vocab',))

    def __call__(self, hidden_BxLxD, model):
        hidden_BxLxD = self.norm(self.activation(self.dense(hidden_BxLxD)))
        return model.logits(hidden_BxLxD) + self.bias[...][None, None]


class Sentence(nnx.Module):
    """Pooled vectors [B, D] to sentence vectors [B, D]."""

    def __init__(self, config, rngs):
        D = config.embed
        spread = config.init.stddev('linear', D, config)
        self.dense = Linear((D, D), ('embed', None), spread, rngs, bias=True)

    def __call__(self, pooled_BxD):
        return jnp.tanh(self.dense(pooled_BxD))
