"""The weights of the heads that heads.py names."""
# SPDX-License-Identifier: Apache-2.0

import math

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

    def __call__(self, pooled_BxD, view: int = 0):
        """The same for every view (0 queries, 1 keys, 2 hard negatives)."""
        return jnp.tanh(self.dense(pooled_BxD))


class Similarity(nnx.Module):
    """Pooled vectors [B, D] to vectors [B, size], and perhaps a learned temperature."""

    def __init__(self, head, config, rngs):
        size = (config.embed, config.embed if head.size is None else head.size)
        spread = config.init.stddev('linear', config.embed, config)
        make = lambda: Linear(size, ('embed', None), spread, rngs, bias=False)
        self.dense, self.other = make(), make() if head.separate else None
        self.temperature = None if head.temperature is None else _log_scale(head.temperature)

    def __call__(self, pooled_BxD, view: int = 0):
        """View 0 are queries; the others have a matrix of their own if it is `separate`."""
        own = view == 0 or self.other is None
        return (self.dense if own else self.other)(pooled_BxD)


def _log_scale(temperature: float) -> nnx.Param:
    start, bounds = -math.log(temperature), (-math.inf, math.log(100.0))
    return nnx.Param(jnp.float32(start), axes=(), clip=bounds)


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
