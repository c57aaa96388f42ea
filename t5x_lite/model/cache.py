"""The key-value cache: what decoding remembers of the tokens before."""
# SPDX-License-Identifier: Apache-2.0

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Cache(NamedTuple):
    """What decoding remembers: self-attention keys and values of each layer, and of the memory.

    `segments` marks filled positions; `length` is how many there are, the same for all rows. It is
    the number 0, and not an array, where it is known that there are none.
    """

    keys_NxBxGxMxK: jax.Array
    values_NxBxGxMxK: jax.Array
    segments_BxM: jax.Array
    length: jax.Array
    memory: Any = None  # (keys, values) [N, B, G, M, K] of cross-attention
    memory_segments: Any = None

    @property
    def has_past(self) -> bool:
        """Whether any position may be filled."""
        return not (isinstance(self.length, int) and self.length == 0)

    def extended(self, pairs, segments_BxL) -> 'Cache':
        """The cache with keys and values [N, B, G, L, K] of more tokens, where it ends."""
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=self.length)
        keys, values = (
            put(old, new.astype(old.dtype), axis=3)
            for old, new in zip((self.keys_NxBxGxMxK, self.values_NxBxGxMxK), pairs, strict=True)
        )
        segments_BxM = put(self.segments_BxM, segments_BxL.astype(jnp.int32), axis=1)
        length = self.length + segments_BxL.shape[1]
        return self._replace(
            keys_NxBxGxMxK=keys, values_NxBxGxMxK=values, segments_BxM=segments_BxM, length=length
        )

    def take(self, index_B) -> 'Cache':
        """The rows of these numbers; a row may be taken more than once."""
        layers = lambda x: x[:, index_B]
        return self._replace(
            keys_NxBxGxMxK=layers(self.keys_NxBxGxMxK),
            values_NxBxGxMxK=layers(self.values_NxBxGxMxK),
            segments_BxM=self.segments_BxM[index_B],
            memory=jax.tree.map(layers, self.memory),
            memory_segments=jax.tree.map(lambda x: x[index_B], self.memory_segments),
        )
