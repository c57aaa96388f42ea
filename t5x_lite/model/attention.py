"""Attention: masks, the scores, and the layer with its key-value cache."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite.model.layers import Linear, dropout
from t5x_lite.sharding import constrain

# Finite, so that a row that may look nowhere (padding) averages its keys instead of giving NaN.
HIDDEN = -1e30


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


def attend(q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, *, mask=None, bias=None, scale=1.0, rate=0.0, key=None):
    """softmax(q k^T * scale + bias) v, [B, L, H, K]; scores and softmax in float32.

    H is a multiple of G: grouped-query attention shares each key-value head. `mask` is
    [1 or B, L, M] with True = may look; `bias` is [H, L, M].
    """
    B, L, H, K = q_BxLxHxK.shape
    G, M = k_BxMxGxK.shape[2], k_BxMxGxK.shape[1]
    q = q_BxLxHxK.reshape(B, L, G, H // G, K)
    scores = jnp.einsum('BLGSK,BMGK->BGSLM', q, k_BxMxGxK, preferred_element_type=jnp.float32)
    scores = scores * scale
    if bias is not None:
        scores = scores + bias.reshape(1, G, H // G, L, M).astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, HIDDEN)
    shares = jax.nn.softmax(scores, axis=-1).astype(v_BxMxGxK.dtype)
    shares = dropout(shares, rate, key)
    return jnp.einsum('BGSLM,BMGK->BLGSK', shares, v_BxMxGxK).reshape(B, L, H, K)


class Attention(nnx.Module):
    """Multi-head attention (Vaswani et al. 2017) with optional grouped keys and values."""

    def __init__(self, config, rngs):
        D, H, G, K = config.embed, config.heads, config.groups, config.kv
        spread = lambda role, fan_in: config.init.stddev(role, fan_in, config)
        wide = dict(bias_dims=2 if config.bias else 0)
        self.config = config
        axes = ('embed', 'heads', 'kv')
        self.query = Linear('BLD,DHK->BLHK', (D, H, K), axes, spread('query', D), rngs, **wide)
        self.key = Linear('BMD,DGK->BMGK', (D, G, K), axes, spread('linear', D), rngs, **wide)
        self.value = Linear('BMD,DGK->BMGK', (D, G, K), axes, spread('linear', D), rngs, **wide)
        self.out = Linear(
            'BLHK,HKD->BLD',
            (H, K, D),
            ('heads', 'kv', 'embed'),
            spread('residual', H * K),
            rngs,
            bias_dims=1 if config.bias else 0,
        )

    def keys_values(self, memory_BxMxD, positions_BxM=None):
        """Keys and values of a memory, [B, M, G, K] each, turned by their positions if given."""
        k_BxMxGxK, v_BxMxGxK = self.key(memory_BxMxD), self.value(memory_BxMxD)
        if positions_BxM is not None:
            k_BxMxGxK = self.config.positions.rotate(k_BxMxGxK, positions_BxM)
        return k_BxMxGxK, v_BxMxGxK

    def __call__(self, x_BxLxD, keys_values, *, positions=None, mask=None, bias=None, key=None):
        """Attention of x to keys and values, [B, L, D]."""
        config = self.config
        q_BxLxHxK = self.query(x_BxLxD)
        if positions is not None:
            q_BxLxHxK = config.positions.rotate(q_BxLxHxK, positions)
        q_BxLxHxK = constrain(q_BxLxHxK, 'batch', 'length', 'heads', 'kv')
        scale = config.kv**-0.5 if config.scale_attention else 1.0
        y_BxLxHxK = attend(
            q_BxLxHxK, *keys_values, mask=mask, bias=bias, scale=scale, rate=config.dropout, key=key
        )
        return self.out(y_BxLxHxK)
