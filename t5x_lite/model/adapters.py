"""Weights of adapters: what a linear layer adds to its product (LoRA), vectors of prompts."""
# SPDX-License-Identifier: Apache-2.0

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite.model import layers


class LowRank(nnx.Module):
    """scale * (x A) B beside a matrix W [in, out]; B is zero at birth (LoRA: Hu et al. 2021).

    Of a stack of layers, arrays have the layers in front. `dropout` is the rate of x's places that
    are dropped where a key is given (`dropping`).
    """

    def __init__(self, kernel: nnx.Param, rank: int, scale: float, key, dropout: float = 0.0):
        *stacked, size_in, size_out = kernel.shape
        wide, narrow = kernel.get_metadata()['axes']
        units_in, units_out = kernel.get_metadata()['units']
        self.scale, self.dropout = scale, dropout
        down = size_in**-0.5 * jax.random.normal(key, (*stacked, size_in, rank))
        self.down = nnx.Param(down, axes=(wide, 'rank'), units=(units_in, rank))
        up = jnp.zeros((*stacked, rank, size_out))
        self.up = nnx.Param(up, axes=('rank', narrow), units=(rank, units_out))

    def __call__(self, x):
        """What is added to x W; x is [rows, in]."""
        down, up = self.down[...].astype(x.dtype), self.up[...].astype(x.dtype)
        return (x @ down) @ up * jnp.asarray(self.scale, x.dtype)


# Behind all keys that a block makes of its own: jax.random.split(key, n)[i] is fold_in(key, i).
APART = 1000


class Dropping(NamedTuple):
    """A LowRank for one call, with the key that its dropout draws from."""

    adapter: LowRank
    key: Any

    def __call__(self, x):
        return self.adapter(layers.dropout(x, self.adapter.dropout, self.key))


def dropping(block, key):
    """The block with dropout on the inputs of its adapters, each from a key of its own.

    The block itself if there is no key or nothing to drop. Linear layers take no key: it goes with
    the adapter.
    """
    is_adapter = lambda node: isinstance(node, LowRank)
    nodes = jax.tree.leaves(block, is_leaf=is_adapter)
    if key is None or not any(is_adapter(node) and node.dropout for node in nodes):
        return block
    key, count = jax.random.fold_in(key, APART), itertools.count()
    own = lambda node: Dropping(node, jax.random.fold_in(key, next(count)))
    put = lambda node: own(node) if is_adapter(node) else node
    return jax.tree.map(put, block, is_leaf=is_adapter)


class PromptVectors(nnx.Module):
    """Vectors [P, D] that a model looks up for the ids -1, -2, ... (Lester et al. 2021)."""

    def __init__(self, vectors_PxD):
        self.embedding = nnx.Param(vectors_PxD, axes=(None, 'embed'))

    @property
    def length(self) -> int:
        return self.embedding.shape[0]

    def put(self, x_BxLxD, tokens_BxL):
        """The embeddings x, with the prompt's where the ids are below 0."""
        vectors_PxD = self.embedding[...].astype(x_BxLxD.dtype)
        own_BxLxD = jnp.take(vectors_PxD, jnp.maximum(-1 - tokens_BxL, 0), axis=0)
        return jnp.where((tokens_BxL < 0)[..., None], own_BxLxD, x_BxLxD)

    def tokens(self, batch: int):
        """The ids of the prompt, [B, P]."""
        return jnp.broadcast_to(-1 - jnp.arange(self.length)[None], (batch, self.length))

    def before(self, tokens_BxL, *others):
        """Ids, and marks of tokens [B, L] or None, with the prompt's in front: 1, as segments.

        Positions, the last of the marks, go on behind the prompt's.
        """
        *marks, positions_BxL = others
        front_BxP = self.tokens(tokens_BxL.shape[0])
        join = lambda front, x: jnp.concatenate([front.astype(x.dtype), x], axis=1)
        marks = [None if x is None else join(jnp.ones_like(front_BxP), x) for x in marks]
        if positions_BxL is not None:
            positions_BxL = join(-1 - front_BxP, positions_BxL + self.length)
        return join(front_BxP, tokens_BxL), *marks, positions_BxL
