"""Blocks: one layer's attention, cross-attention and feed-forward, each a residual."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite.model.attention import Attention
from t5x_lite.model.backends import Seen
from t5x_lite.model.layers import Linear, Norm, dropout
from t5x_lite.model.masks import Window
from t5x_lite.sharding import constrain


class Context(NamedTuple):
    """What all layers of a stack share in one pass."""

    positions_BxL: jax.Array
    seen: Seen
    bias: Any = None  # of all layers alike, as the backend makes it
    memory_BxMxD: Any = None
    memory_seen: Seen | None = None
    remember: bool = False  # keys and values, for a cache
    types_BxL: Any = None


class FeedForward(nnx.Module):
    """activation(x W) W', or with a gate activation(x W) * (x G) W'."""

    def __init__(self, config, rngs):
        D, F = config.embed, config.mlp
        same = dict(bias=config.bias, matmul=config.matmul)
        spread = lambda role, fan_in: config.init.stddev(role, fan_in, config)
        self.config = config
        wide = ((D, F), ('embed', 'mlp'), spread('linear', D), rngs)
        self.wide = Linear(*wide, **same)
        self.gate = Linear(*wide, **same) if config.gated else None
        self.out = Linear((F, D), ('mlp', 'embed'), spread('residual', F), rngs, **same)

    def __call__(self, x_BxLxD, key=None):
        h_BxLxF = self.config.activation(self.wide(x_BxLxD))
        if self.gate is not None:
            h_BxLxF = h_BxLxF * self.gate(x_BxLxD)
        h_BxLxF = constrain(h_BxLxF, 'batch', 'length', 'mlp')
        return self.out(dropout(h_BxLxF, self.config.dropout, key))


class Block(nnx.Module):
    """Self-attention, cross-attention where there is a memory, feed-forward; each a residual."""

    def __init__(self, config, cross: bool, rngs):
        norm = lambda: Norm(config.norm, config.embed)
        self.config = config
        self.attention, self.attention_norm = Attention(config, rngs), norm()
        self.cross, self.cross_norm = (Attention(config, rngs), norm()) if cross else (None, None)
        self.mlp, self.mlp_norm = FeedForward(config, rngs), norm()
        kind = config.positions
        self.positions = kind.weights(config, rngs) if kind.per_layer else None

    def __call__(self, x_BxLxD, context: Context, index, key=None, past=None, memory=None):
        """Layer `index`; `past` is its part of a cache, `memory` its cached cross keys and values.

        Returns hidden [B, L, D] and its own keys and values, if they are to be remembered.
        """
        keys = (None,) * 6 if key is None else jax.random.split(key, 6)
        seen, turn = None, self._turn(context, index)

        def self_attention(y_BxLxD):
            nonlocal seen
            pairs = self.attention.keys_values(y_BxLxD, turn)
            seen = pairs if context.remember else None
            return self.attention(
                y_BxLxD,
                pairs,
                self._seen(context, index),
                past=past,
                turn=turn,
                bias=self._bias(context),
                key=keys[0],
            )

        def cross_attention(y_BxLxD):
            pairs = memory or self.cross.keys_values(context.memory_BxMxD)
            return self.cross(y_BxLxD, pairs, context.memory_seen, key=keys[2])

        norm = self.attention_norm
        if not self.config.first_norm:
            norm = lambda x_BxLxD: jnp.where(index == 0, x_BxLxD, self.attention_norm(x_BxLxD))
        x_BxLxD = self._residual(x_BxLxD, norm, self_attention, keys[1])
        if context.memory_BxMxD is not None or memory is not None:
            x_BxLxD = self._residual(x_BxLxD, self.cross_norm, cross_attention, keys[3])
        feed_forward = lambda y_BxLxD: self.mlp(y_BxLxD, keys[4])
        x_BxLxD = self._residual(x_BxLxD, self.mlp_norm, feed_forward, keys[5])
        return constrain(x_BxLxD, 'batch', 'length', None), seen

    def _is_local(self, index):
        every = self.config.local and self.config.local.global_every
        return every is None or index % every != 0

    def _turn(self, context: Context, index):
        is_local = self.config.local is not None and self._is_local(index)
        return lambda x: self.config.positions.rotate(x, context.positions_BxL, is_local)

    def _seen(self, context: Context, index) -> Seen:
        """What this layer sees."""
        if self.config.local is None:
            return context.seen
        window = Window(self.config.local.reach, self._is_local(index))
        return context.seen._replace(window=window)

    def _bias(self, context: Context):
        if self.positions is None:
            return context.bias
        seen = context.seen
        return seen.backend.bias(self.config.positions, self.positions, seen.sight)

    def _residual(self, x_BxLxD, norm, branch, key):
        rate = self.config.dropout
        if self.config.norm_first:
            return x_BxLxD + dropout(branch(norm(x_BxLxD)), rate, key)
        return norm(x_BxLxD + dropout(branch(x_BxLxD), rate, key))
