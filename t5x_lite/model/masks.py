"""Who sees whom: masks, and Sight, which says by kind what a mask is made of."""
# SPDX-License-Identifier: Apache-2.0

from typing import NamedTuple

import jax
import jax.numpy as jnp


def segment_mask(query_BxL, key_BxM):
    """May look: the same segment, and no padding (segment 0). [B, L, M], True = may look."""
    same_BxLxM = query_BxL[:, :, None] == key_BxM[:, None, :]
    return same_BxLxM & (key_BxM > 0)[:, None, :]


def causal_mask(query_L, key_M, prefix_BxM=None):
    """May look: earlier positions, and inside a prefix both ways. [1 or B, L, M].

    `prefix_BxM` (seqio's `decoder_causal_attention`) is 1 on the prefix; it needs L = M.
    """
    mask = (key_M[None, :] <= query_L[:, None])[None]
    if prefix_BxM is None:
        return mask
    inside = prefix_BxM > 0
    return mask | (inside[:, :, None] & inside[:, None, :])


def order_mask(reach_BxL, order_BxM):
    """May look: keys whose order is at most the query's reach (permuted LM). [B, L, M]."""
    return order_BxM[:, None, :] <= reach_BxL[:, :, None]


def near_mask(query_L, key_M, reach: int):
    """May look: at most `reach` tokens away. [1, L, M]."""
    return (jnp.abs(key_M[None, :] - query_L[:, None]) <= reach)[None]


class Sight(NamedTuple):
    """Who sees whom in one pass, the same in all layers but for windows.

    A token sees those of its own segment (0 is padding), of them, if `causal`, itself and earlier
    ones and those of its prefix, and with an order those within its reach. `past_BxM` are segments
    of a cache, whose tokens stand in front of the keys and are all earlier. Segments of booleans
    say that each row holds one text, and padding after it.
    """

    query_BxL: jax.Array  # segments
    key_BxM: jax.Array
    query_L: jax.Array | None = None  # places in the row, or in the cache; None: of two texts
    key_M: jax.Array | None = None  # those of the past in front
    causal: bool = False
    prefix_BxL: jax.Array | None = None
    order: tuple | None = None  # (order, reach), [B, L] each
    past_BxM: jax.Array | None = None

    @property
    def is_plain(self) -> bool:
        """Lengths of the rows and `causal` say all: one text a row, no prefix, order or past."""
        single = self.query_BxL.dtype == self.key_BxM.dtype == bool
        return single and self.prefix_BxL is None and self.order is None and self.past_BxM is None

    def mask(self):
        """[B, L, M], True = may look."""
        mask = segment_mask(self.query_BxL, self.key_BxM)
        if self.causal:
            mask = mask & causal_mask(self.query_L, self.query_L, self.prefix_BxL)
        if self.order is not None:
            order_BxL, reach_BxL = self.order
            mask = mask & order_mask(reach_BxL, order_BxL)
        if self.past_BxM is None:
            return mask
        return jnp.concatenate([segment_mask(self.query_BxL, self.past_BxM), mask], axis=2)


class Window(NamedTuple):
    """In one layer: tokens see at most `reach` tokens either way, where `here`."""

    reach: int
    here: bool | jax.Array

    def mask(self, sight: Sight):
        """[1, L, M], True = may look."""
        near = near_mask(sight.query_L, sight.key_M, self.reach)
        return near | jnp.logical_not(self.here)
