"""The Transformer: stacks of blocks scanned over layers, and Model with encode, decode, logits."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from t5x_lite import sharding
from t5x_lite.errors import ConfigError
from t5x_lite.model.adapters import dropping
from t5x_lite.model.attention import HIDDEN, soft_cap
from t5x_lite.model.blocks import Block, Context
from t5x_lite.model.cache import Cache
from t5x_lite.model.choosing import see
from t5x_lite.model.config import ModelConfig
from t5x_lite.model.layers import Embedding, Linear, Norm, dropout
from t5x_lite.model.masks import Sight
from t5x_lite.sharding import constrain

# Stacks of up to so many layers are not scanned, by platform (docs/performance.md). On TPUs scans
# keep the compiler's time short; what is computed again must be an iteration of its own.
UNROLLED = {'cpu': 4, 'gpu': 24}
LAYER_INPUT = 'layer_input'
SAVED = {  # what remat keeps from the forward pass
    'offload': jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[LAYER_INPUT],
        offload_src='device',
        offload_dst='pinned_host',
    ),
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,
}


class Stack(nnx.Module):
    """What is added to token embeddings; equal blocks, stacked, run by a scan; the final norm."""

    def __init__(self, config, layers: int, cross: bool, types: int, rngs):
        self.config, D, E = config, config.embed, config.table
        kind = config.positions
        self.positions = None if kind.per_layer else kind.weights(config, rngs)
        make = lambda key: Block(config, cross, nnx.Rngs(params=key))
        self.blocks = jax.vmap(make)(jax.random.split(rngs.params(), layers))
        spread = lambda role, fan_in: config.init.stddev(role, fan_in, config)
        table = (types, E, (None, 'embed'), spread('embedding', E), rngs)
        self.types = Embedding(*table) if types else None
        self.embedding_norm = Norm(config.norm, E) if config.norm_embedding else None
        wider = ((E, D), (None, 'embed'), spread('linear', E), rngs)
        self.projection = None if E == D else Linear(*wider, bias=True)
        self.norm = Norm(config.norm, D) if config.norm_first else None

    def __call__(self, x_BxLxD, context: Context, key=None, past=None, memory=None):
        """All layers: hidden [B, L, D], and the stacked keys and values to remember."""
        hidden_BxLxD, (seen, _) = self.run(x_BxLxD, context, key, past, memory)
        return hidden_BxLxD, seen

    def run(self, x_BxLxD, context: Context, key=None, past=None, memory=None, *, keep=False):
        """`__call__` with (keys and values, hidden states of each layer [N, B, L, D] if `keep`).

        The last of these has no final norm yet.
        """
        layers, layer_keys = _layers(self.blocks), None
        if key is not None:
            key, layers_key = jax.random.split(key)
            layer_keys = jax.random.split(layers_key, layers)
        x_BxLxD = dropout(self.embedded(x_BxLxD, context), self.config.dropout, key)
        x_BxLxD = x_BxLxD if self.projection is None else self.projection(x_BxLxD)
        x_BxLxD = constrain(x_BxLxD, 'batch', 'length', None)

        def layer(x_BxLxD, xs):
            block, index, layer_key, *rest = xs
            x_BxLxD = checkpoint_name(x_BxLxD, LAYER_INPUT)
            block = dropping(block, layer_key)
            x_BxLxD, seen = block(x_BxLxD, context, index, layer_key, *rest)
            return x_BxLxD, (seen, x_BxLxD if keep else None)

        if self.config.remat in SAVED:
            layer = jax.checkpoint(layer, policy=SAVED[self.config.remat], prevent_cse=False)
        xs = (self.blocks, jnp.arange(layers), layer_keys, past, memory)
        x_BxLxD, kept = jax.lax.scan(layer, x_BxLxD, xs, unroll=self._at_once(layers))
        return (x_BxLxD if self.norm is None else self.norm(x_BxLxD)), kept

    def _at_once(self, layers: int) -> int:
        """How many layers an iteration of the scan has."""
        if self.config.unroll is not None:
            return min(self.config.unroll, layers)
        whole = self.config.remat not in SAVED and layers <= UNROLLED.get(sharding.platform(), 0)
        return layers if whole else 1

    def embedded(self, x_BxLxD, context: Context):
        """Token embeddings with what else is known of the tokens, [B, L, table], normed if so set.

        Dropout and the projection to the layers' width come after it.
        """
        dtype = x_BxLxD.dtype
        added = self.config.positions.embed(self.positions, context.positions_BxL, dtype)
        x_BxLxD = x_BxLxD if added is None else x_BxLxD + added
        if self.types is not None:
            types_BxL = context.types_BxL
            types_BxL = jnp.zeros(x_BxLxD.shape[:2], int) if types_BxL is None else types_BxL
            x_BxLxD = x_BxLxD + self.types(types_BxL, dtype)
        if self.embedding_norm is not None:
            x_BxLxD = self.embedding_norm(x_BxLxD)
        return x_BxLxD

    def bias(self, seen):
        """What all layers alike add to attention scores, as its backend makes it, or None."""
        if self.config.positions.per_layer:
            return None
        return seen.backend.bias(self.config.positions, self.positions, seen.sight)


def _layers(blocks) -> int:
    return jax.tree.leaves(blocks)[0].shape[0]


class Model(nnx.Module):
    """An encoder, a decoder or both over one token embedding, and named heads.

    `heads` maps names to values with `build(config, rngs) -> module`.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, heads=None):
        self.config = config
        spread = config.init.stddev('embedding', config.embed, config)
        table = (config.rows, config.table, ('vocab', 'embed'))
        self.token_embedding = Embedding(*table, spread, rngs)
        encoder, decoder = config.encoder_layers, config.decoder_layers
        self.encoder = Stack(config, encoder, False, config.types, rngs) if encoder else None
        self.decoder = Stack(config, decoder, encoder > 0, 0, rngs) if decoder else None
        spread = config.init.stddev('linear', config.embed, config)
        self.output = None if config.tied else Embedding(*table, spread, rngs)
        self.prompt = None  # learned vectors in front of the first stack's tokens (prompt tuning)
        self.heads = nnx.Dict({k: head.build(config, rngs) for k, head in (heads or {}).items()})

    def encode(
        self,
        tokens_BxL,
        *,
        segments=None,
        positions=None,
        types=None,
        order=None,
        key=None,
        every_layer: bool = False,
    ):
        """Hidden states [B, L, D] of the encoder. Segment 0 is padding; dropout if key.

        `types` [B, L] marks sentences A and B (`token_type_ids`), all 0 if None. `order`, a pair of
        integers [B, L] (order, reach), lets a token see those of its segment whose order is at most
        its own reach; all of them if None. With `every_layer` those after each layer, [N, B, L, D];
        the last, and only it, after the final norm. Where a decoder follows, a prompt's come first.
        """
        if self.encoder is None:
            raise ConfigError('Model.encode: encoder_layers=0, there is no encoder')
        skip = 0
        if self.prompt is not None:
            marks = segments, positions
            tokens_BxL, segments, positions = self.prompt.before(tokens_BxL, *marks)
            types = None if types is None else jnp.pad(types, ((0, 0), (self.prompt.length, 0)))
            skip = 0 if self.decoder is not None else self.prompt.length
        if order is not None:
            self.config.check_order('Model.encode')
        marks, dropping = (segments, positions, types, order), key is not None
        context = both_ways(self.encoder, tokens_BxL, *marks, dropping=dropping)
        run = self.encoder.run(self.embed(tokens_BxL), context, key, keep=every_layer)
        hidden_BxLxD, (_, layers_NxBxLxD) = run
        hidden = layers_NxBxLxD.at[-1].set(hidden_BxLxD) if every_layer else hidden_BxLxD
        return hidden[..., skip:, :]

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
        prompt = self.prompt if self.encoder is None and cache is None else None
        if prompt is not None:
            marks = segments, prefix, positions
            tokens_BxL, segments, prefix, positions = prompt.before(tokens_BxL, *marks)
        segments = jnp.ones_like(tokens_BxL) if segments is None else segments
        start = 0 if cache is None else cache.length
        key_M = query_L = start + jnp.arange(tokens_BxL.shape[1])
        past, filled = None, None
        if cache is not None:
            memory_segments = cache.memory_segments
            if cache.has_past:
                past = cache.keys_NxBxGxMxK, cache.values_NxBxGxMxK
                key_M = jnp.concatenate([jnp.arange(cache.segments_BxM.shape[1]), query_L])
                filled = cache.segments_BxM
        elif memory is not None:
            memory_segments = _memory_segments(memory, memory_segments)
        sight = Sight(segments, segments, query_L, key_M, True, prefix, past_BxM=filled)
        own = dict(dropping=key is not None, cached=cache is not None)
        seen = see(self.config, sight, **own)
        context = Context(
            positions_BxL=_positions(tokens_BxL, positions, start),
            seen=seen,
            bias=self.decoder.bias(seen),
            memory_BxMxD=memory,
            remember=cache is not None,
        )
        if memory_segments is not None:
            across = Sight(segments, memory_segments)
            context = context._replace(memory_seen=see(self.config, across, cross=True, **own))
        cross = None if cache is None else cache.memory
        hidden_BxLxD, pairs = self.decoder(self.embed(tokens_BxL), context, key, past, cross)
        cache = None if cache is None else cache.extended(pairs, segments)
        return hidden_BxLxD if prompt is None else hidden_BxLxD[:, prompt.length :], cache

    def start_cache(self, batch: int, length: int, memory=None, memory_segments=None) -> Cache:
        """A cache for `length` positions; the memory's keys and values are computed here.

        It is empty, but for the prompt of a decoder that stands alone.
        """
        config, first = self.config, self.prompt if self.encoder is None else None
        length = length if first is None else length + first.length
        shape = (config.decoder_layers, batch, config.groups, length, config.kv)
        zeros = constrain(jnp.zeros(shape, config.dtype), 'layers', 'batch', 'heads', None, 'kv')
        cross = None
        if memory is not None:
            cross = jax.vmap(lambda block: block.cross.keys_values(memory))(self.decoder.blocks)
            memory_segments = _memory_segments(memory, memory_segments)
        filled_BxM = jnp.zeros((batch, length), jnp.int32)
        cache = Cache(zeros, zeros, filled_BxM, 0, cross, memory_segments)
        return cache if first is None else self.decode(first.tokens(batch), cache=cache)[1]

    def embed(self, tokens_BxL):
        """Token embeddings [B, L, D] in the compute type."""
        if self.prompt is None:
            return self.token_embedding(tokens_BxL, self.config.dtype)
        x_BxLxD = self.token_embedding(jnp.maximum(tokens_BxL, 0), self.config.dtype)
        return self.prompt.put(x_BxLxD, tokens_BxL)

    def logits(self, hidden_BxLxD):
        """Scores over the vocabulary, [B, L, V] in float32."""
        config, output = self.config, self.output or self.token_embedding
        logits_BxLxV = output.logits(hidden_BxLxD)
        if config.tied and config.scale_logits:
            logits_BxLxV = logits_BxLxV * config.embed**-0.5
        logits_BxLxV = soft_cap(logits_BxLxV, config.logits_cap)
        if config.rows > config.vocab:  # rows that pad the table are never the answer
            used_V = jnp.arange(config.rows) < config.vocab
            logits_BxLxV = jnp.where(used_V[None, None], logits_BxLxV, HIDDEN)
        return constrain(logits_BxLxV, 'batch', 'length', 'vocab')


def both_ways(
    stack: Stack,
    tokens_BxL,
    segments=None,
    positions=None,
    types=None,
    order=None,
    *,
    dropping: bool,
) -> Context:
    """The context of an encoder's pass: each token sees all those of its segment.

    But for an `order` (see Model.encode); `dropping` says whether the pass has a dropout key.
    """
    segments = jnp.ones_like(tokens_BxL) if segments is None else segments
    index_L = jnp.arange(tokens_BxL.shape[1])
    sight = Sight(segments, segments, index_L, index_L, order=order)
    seen = see(stack.config, sight, dropping=dropping)
    return Context(
        positions_BxL=_positions(tokens_BxL, positions),
        seen=seen,
        bias=stack.bias(seen),
        types_BxL=types,
    )


def _memory_segments(memory_BxMxD, segments):
    """Segments [B, M] of a memory; of a prompt in front of its text, that of the text."""
    if segments is None:
        return jnp.ones(memory_BxMxD.shape[:2], jnp.int32)
    more = memory_BxMxD.shape[1] - segments.shape[1]
    return jnp.pad(segments, ((0, 0), (more, 0)), constant_values=1) if more else segments


def _positions(tokens_BxL, positions_BxL, start=0):
    if positions_BxL is not None:
        return positions_BxL
    return jnp.broadcast_to(start + jnp.arange(tokens_BxL.shape[1])[None], tokens_BxL.shape)


def build(config: ModelConfig, heads=None, seed: int = 0) -> Model:
    """A model with fresh weights; under `jax.eval_shape`, its shapes alone."""
    return Model(config, nnx.Rngs(params=jax.random.key(seed)), heads)
