"""The Transformer: blocks, stacks scanned over layers, and Model with encode, decode, logits."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite.errors import ConfigError
from t5x_lite.model.attention import Attention, causal_mask, segment_mask
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.layers import Embedding, Linear, Norm, dropout
from t5x_lite.sharding import constrain

SAVED = {  # what remat keeps from the forward pass
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,
}


class Cache(NamedTuple):
    """What decoding remembers: self-attention keys and values of each layer, and of the memory.

    `segments` marks filled positions; `length` is how many there are, the same for all rows.
    """

    keys_NxBxGxMxK: jax.Array
    values_NxBxGxMxK: jax.Array
    segments_BxM: jax.Array
    length: jax.Array
    memory: Any = None  # (keys, values) [N, B, G, M, K] of cross-attention
    memory_segments: Any = None


class Context(NamedTuple):
    """What all layers of a stack share in one pass."""

    positions_BxL: jax.Array
    mask: Any = None  # [1 or B, L, M]
    bias: Any = None  # [H, L, M]
    memory_BxMxD: Any = None
    memory_mask: Any = None
    length: Any = None  # of the cache


class FeedForward(nnx.Module):
    """activation(x W) W', or with a gate activation(x W) * (x G) W'."""

    def __init__(self, config, rngs):
        D, F, bias = config.embed, config.mlp, config.bias
        spread = lambda role, fan_in: config.init.stddev(role, fan_in, config)
        self.config = config
        wide = ((D, F), ('embed', 'mlp'), spread('linear', D), rngs)
        self.wide = Linear(*wide, bias=bias)
        self.gate = Linear(*wide, bias=bias) if config.gated else None
        self.out = Linear((F, D), ('mlp', 'embed'), spread('residual', F), rngs, bias=bias)

    def __call__(self, x_BxLxD, key=None):
        h_BxLxF = self.config.activation(self.wide(x_BxLxD))
        if self.gate is not None:
            h_BxLxF = h_BxLxF * self.gate(x_BxLxD)
        h_BxLxF = constrain(h_BxLxF, 'batch', 'length', 'mlp')
        return self.out(dropout(h_BxLxF, self.config.dropout, key))


class Block(nnx.Module):
    """Self-attention, cross-attention where there is a memory, feed-forward; each a residual."""

    def __init__(self, config, cross: bool, rngs):
        self.config = config
        self.attention, self.attention_norm = Attention(config, rngs), Norm(config)
        self.cross = Attention(config, rngs) if cross else None
        self.cross_norm = Norm(config) if cross else None
        self.mlp, self.mlp_norm = FeedForward(config, rngs), Norm(config)

    def __call__(self, x_BxLxD, context: Context, key=None, past=None, memory=None):
        """One layer. `past` is its part of a cache, `memory` its cross keys and values if cached.

        Returns hidden [B, L, D] and the keys and values to remember (None without a cache).
        """
        keys = (None,) * 6 if key is None else jax.random.split(key, 6)
        seen = None

        def self_attention(y_BxLxD):
            nonlocal seen
            pairs = self.attention.keys_values(y_BxLxD, context.positions_BxL)
            if past is not None:
                pairs = seen = extend(past, pairs, context.length)
            return self.attention(
                y_BxLxD,
                pairs,
                positions=context.positions_BxL,
                mask=context.mask,
                bias=context.bias,
                key=keys[0],
            )

        def cross_attention(y_BxLxD):
            pairs = memory or self.cross.keys_values(context.memory_BxMxD)
            return self.cross(y_BxLxD, pairs, mask=context.memory_mask, key=keys[2])

        x_BxLxD = self._residual(x_BxLxD, self.attention_norm, self_attention, keys[1])
        if context.memory_BxMxD is not None or memory is not None:
            x_BxLxD = self._residual(x_BxLxD, self.cross_norm, cross_attention, keys[3])
        feed_forward = lambda y_BxLxD: self.mlp(y_BxLxD, keys[4])
        x_BxLxD = self._residual(x_BxLxD, self.mlp_norm, feed_forward, keys[5])
        return constrain(x_BxLxD, 'batch', 'length', None), seen

    def _residual(self, x_BxLxD, norm, branch, key):
        rate = self.config.dropout
        if self.config.norm_first:
            return x_BxLxD + dropout(branch(norm(x_BxLxD)), rate, key)
        return norm(x_BxLxD + dropout(branch(x_BxLxD), rate, key))


def extend(past, pairs, length):
    """A layer's cached keys and values [B, G, M, K] with new ones written from `length` on."""
    return tuple(
        jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), length, axis=2)
        for old, new in zip(past, pairs, strict=True)
    )


class Stack(nnx.Module):
    """Equal blocks as one stacked block, run by a scan over layers; positions; the final norm."""

    def __init__(self, config, layers: int, cross: bool, rngs):
        self.config = config
        self.positions = config.positions.weights(config, rngs)
        make = lambda key: Block(config, cross, nnx.Rngs(params=key))
        self.blocks = jax.vmap(make)(jax.random.split(rngs.params(), layers))
        self.embedding_norm = Norm(config) if config.norm_embedding else None
        self.norm = Norm(config) if config.norm_first else None

    def __call__(self, x_BxLxD, context: Context, key=None, past=None, memory=None):
        """All layers: hidden [B, L, D], and the stacked keys and values to remember."""
        rate, layer_keys = self.config.dropout, None
        if key is not None:
            key, layers_key = jax.random.split(key)
            layer_keys = jax.random.split(layers_key, _layers(self.blocks))
        added = self.config.positions.embed(self.positions, context.positions_BxL, x_BxLxD.dtype)
        x_BxLxD = x_BxLxD if added is None else x_BxLxD + added
        if self.embedding_norm is not None:
            x_BxLxD = self.embedding_norm(x_BxLxD)
        x_BxLxD = constrain(dropout(x_BxLxD, rate, key), 'batch', 'length', None)

        def layer(x_BxLxD, xs):
            block, layer_key, layer_past, layer_memory = xs
            return block(x_BxLxD, context, layer_key, layer_past, layer_memory)

        if self.config.remat != 'none':
            layer = jax.checkpoint(layer, policy=SAVED[self.config.remat], prevent_cse=False)
        xs = (self.blocks, layer_keys, past, memory)
        unroll = min(self.config.unroll, _layers(self.blocks))
        x_BxLxD, seen = jax.lax.scan(layer, x_BxLxD, xs, unroll=unroll)
        return (x_BxLxD if self.norm is None else self.norm(x_BxLxD)), seen

    def bias(self, query_L, key_M, bidirectional: bool):
        return self.config.positions.bias(self.positions, query_L, key_M, bidirectional)


def _layers(blocks) -> int:
    return jax.tree.leaves(blocks)[0].shape[0]


class Model(nnx.Module):
    """An encoder, a decoder or both over one token embedding, and named heads.

    `heads` maps names to values with `build(config, rngs) -> module`.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, heads=None):
        self.config = config
        spread = config.init.stddev('embedding', config.embed, config)
        table = (config.vocab, config.embed, ('vocab', 'embed'), spread, rngs)
        self.token_embedding = Embedding(*table)
        layers, cross = (config.encoder_layers, config.decoder_layers), config.encoder_layers > 0
        self.encoder = Stack(config, layers[0], False, rngs) if layers[0] else None
        self.decoder = Stack(config, layers[1], cross, rngs) if layers[1] else None
        spread = config.init.stddev('linear', config.embed, config)
        table = (config.vocab, config.embed, ('vocab', 'embed'), spread, rngs)
        self.output = None if config.tied else Embedding(*table)
        self.heads = nnx.Dict({k: head.build(config, rngs) for k, head in (heads or {}).items()})

    def encode(self, tokens_BxL, *, segments=None, positions=None, key=None):
        """Hidden states [B, L, D] of the encoder. Segment 0 is padding; dropout if key."""
        if self.encoder is None:
            raise ConfigError('Model.encode: encoder_layers=0, there is no encoder')
        segments = jnp.ones_like(tokens_BxL) if segments is None else segments
        index_L = jnp.arange(tokens_BxL.shape[1])
        context = Context(
            positions_BxL=_positions(tokens_BxL, positions),
            mask=segment_mask(segments, segments),
            bias=self.encoder.bias(index_L, index_L, True),
        )
        return self.encoder(self.embed(tokens_BxL), context, key)[0]

    def decode(
        self,
        tokens_BxL,
        *,
        memory=None,
        memory_segments=None,
        segments=None,
        positions=None,
        prefix=None,
        cache: Cache | None = None,
        key=None,
    ):
        """Hidden states [B, L, D] of the decoder, and the cache with these tokens added, if given.

        Each position sees itself and earlier ones of its segment (`prefix` [B, L]: both ways where
        1), and the memory [B, M, D] of the same segment. With a cache, tokens go on where it ends.
        """
        if self.decoder is None:
            raise ConfigError('Model.decode: decoder_layers=0, there is no decoder')
        segments = jnp.ones_like(tokens_BxL) if segments is None else segments
        start = 0 if cache is None else cache.length
        query_L = start + jnp.arange(tokens_BxL.shape[1])
        key_M, key_segments = query_L, segments
        if cache is not None:
            key_M = jnp.arange(cache.segments_BxM.shape[1])
            key_segments = jax.lax.dynamic_update_slice_in_dim(
                cache.segments_BxM, segments, start, axis=1
            )
            memory_segments = cache.memory_segments
        elif memory is not None and memory_segments is None:
            memory_segments = jnp.ones(memory.shape[:2], jnp.int32)
        context = Context(
            positions_BxL=_positions(tokens_BxL, positions, start),
            mask=segment_mask(segments, key_segments) & causal_mask(query_L, key_M, prefix),
            bias=self.decoder.bias(query_L, key_M, False),
            memory_BxMxD=memory,
            memory_mask=None
            if memory_segments is None
            else segment_mask(segments, memory_segments),
            length=start,
        )
        past = None if cache is None else (cache.keys_NxBxGxMxK, cache.values_NxBxGxMxK)
        cross = None if cache is None else cache.memory
        hidden_BxLxD, seen = self.decoder(self.embed(tokens_BxL), context, key, past, cross)
        if cache is not None:
            length = start + tokens_BxL.shape[1]
            cache = Cache(*seen, key_segments, length, cross, memory_segments)
        return hidden_BxLxD, cache

    def start_cache(self, batch: int, length: int, memory=None, memory_segments=None) -> Cache:
        """An empty cache for `length` positions; the memory's keys and values are computed here."""
        config = self.config
        shape = (config.decoder_layers, batch, config.groups, length, config.kv)
        zeros = jnp.zeros(shape, config.dtype)
        cross = None
        if memory is not None:
            cross = jax.vmap(lambda block: block.cross.keys_values(memory))(self.decoder.blocks)
            if memory_segments is None:
                memory_segments = jnp.ones(memory.shape[:2], jnp.int32)
        filled_BxM = jnp.zeros((batch, length), jnp.int32)
        return Cache(zeros, zeros, filled_BxM, jnp.int32(0), cross, memory_segments)

    def embed(self, tokens_BxL):
        """Token embeddings [B, L, D] in the compute type."""
        return self.token_embedding(tokens_BxL, self.config.dtype)

    def logits(self, hidden_BxLxD):
        """Scores over the vocabulary, [B, L, V] in float32."""
        if self.output is not None:
            return constrain(self.output.logits(hidden_BxLxD), 'batch', 'length', 'vocab')
        logits_BxLxV = self.token_embedding.logits(hidden_BxLxD)
        if self.config.scale_logits:
            logits_BxLxV = logits_BxLxV * self.config.embed**-0.5
        return constrain(logits_BxLxV, 'batch', 'length', 'vocab')


def _positions(tokens_BxL, positions_BxL, start=0):
    if positions_BxL is not None:
        return positions_BxL
    return jnp.broadcast_to(start + jnp.arange(tokens_BxL.shape[1])[None], tokens_BxL.shape)


def build(config: ModelConfig, heads=None, seed: int = 0) -> Model:
    """A model with fresh weights; under `jax.eval_shape`, its shapes alone."""
    return Model(config, nnx.Rngs(params=jax.random.key(seed)), heads)
