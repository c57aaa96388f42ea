"""The weights of the heads that heads.py names."""
# SPDX-License-Identifier: Apache-2.0

import jax.numpy as jnp
from flax import nnx

from t5x_lite.model.layers import Linear, Norm


class MaskedLM(nnx.Module):
    """Hidden states to vocabulary scores, through the model's own output embedding."""

    def __init__(self, config, rngs, bias: bool):
        D, E = config.embed, config.table
        spread = config.init.stddev('linear', D, config)
        self.activation = config.activation
        self.dense = Linear((D, E), ('embed', None), spread, rngs, bias=bias)
        self.norm = Norm(config.norm, E)
        self.bias = nnx.Param(jnp.zeros((config.rows,)), axes=('vocab',))

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


class Classifier(nnx.Module):
    """Vectors [..., D] to scores [..., labels] in float32."""

    def __init__(self, head, config, rngs):
        D, self.activation = config.embed, head.activation
        spread = config.init.stddev('linear', D, config)
        hidden = ((D, D), ('embed', None), spread, rngs)
        deep = head.activation is not None
        self.dense = Linear(*hidden, bias=head.hidden_bias) if deep else None
        self.norm = Norm(config.norm, D) if head.norm else None
        self.output = Linear((D, head.labels), ('embed', None), spread, rngs, bias=head.bias)

    def __call__(self, x):
        if self.dense is not None:
            x = self.activation(self.dense(x))
            x = x if self.norm is None else self.norm(x)
        return self.output(x).astype(jnp.float32)
