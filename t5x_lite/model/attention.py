"""Attention: the scores, computed densely, and the layer with its key-value cache."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite.model.layers import Linear, Norm, dropout, widened
from t5x_lite.model.norms import RMSNorm
from t5x_lite.sharding import constrain

# Finite, so that a row that may look nowhere (padding) averages its keys instead of giving NaN.
HIDDEN = -1e30


def soft_cap(x, cap: float | None):
    """x squeezed smoothly into (-cap, cap) (Gemma 2); x itself if there is no cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


@jax.custom_jvp
def softmax(scores):
    """jax.nn.softmax over the last dimension; its backward pass keeps the result alone.

    jax.nn.softmax's own keeps the exponentials too, twice the memory of dense attention.
    """
    return jax.nn.softmax(scores, axis=-1)


@softmax.defjvp
def _softmax_jvp(primals, tangents):
    shares = softmax(*primals)
    change = shares * tangents[0]
    return shares, change - shares * change.sum(-1, keepdims=True)


def attend(
    q_BxHxLxK,
    k_BxGxMxK,
    v_BxGxMxK,
    *,
    past=None,
    mask=None,
    bias=None,
    scale=1.0,
    cap=None,
    rate=0.0,
    key=None,
):
    """softmax(q k^T * scale + bias) v, [B, H, L, K]; scores and softmax in float32.

    H is a multiple of G: grouped-query attention shares each key-value head. `mask` is
    [1 or B, L, M] with True = may look; `bias` is [H, L, M]; `cap` a soft cap of the scores.
    `past` are more keys and values, which stand in front of the others in mask and bias; they are
    not joined with them: a cache is read where it lies.
    """
    B, H, L, K = q_BxHxLxK.shape
    G = k_BxGxMxK.shape[1]
    parts = [(k_BxGxMxK, v_BxGxMxK)] if past is None else [past, (k_BxGxMxK, v_BxGxMxK)]
    q = q_BxHxLxK.reshape(B, G, H // G, L, K)
    score = lambda k: widened('BGSLK,BGMK->BGSLM', q, k)
    scores = jnp.concatenate([score(k) for k, _ in parts], axis=-1)
    scores = soft_cap(scores * scale, cap)
    if bias is not None:
        scores = scores + bias.reshape(1, G, H // G, *bias.shape[1:]).astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, HIDDEN)
    shares = softmax(scores).astype(v_BxGxMxK.dtype)
    shares = dropout(shares, rate, key)
    shares = jnp.split(shares, [k.shape[2] for k, _ in parts[:-1]], axis=-1)
    each = zip(shares, parts, strict=True)
    y = sum(jnp.einsum('BGSLM,BGMK->BGSLK', share, v) for share, (_, v) in each)
    return y.reshape(B, H, L, K)


class Attention(nnx.Module):
    """Multi-head attention (Vaswani et al. 2017) with optional grouped keys and values.

    With `qk_norm` each head's queries and keys pass an RMSNorm before they are turned (Qwen 3).
    """

    def __init__(self, config, rngs):
        D, H, G, K = config.embed, config.heads, config.groups, config.kv
        spread = lambda role, fan_in: config.init.stddev(role, fan_in, config)
        wide, bias = ('embed', 'heads'), config.bias
        same = dict(bias=bias, matmul=config.matmul)
        q, kv, out = (dict(same, units=units) for units in ((D, H), (D, G), (H, D)))
        self.config = config
        self.query = Linear((D, H * K), wide, spread('query', D), rngs, **q)
        self.key = Linear((D, G * K), wide, spread('linear', D), rngs, **kv)
        self.value = Linear((D, G * K), wide, spread('linear', D), rngs, **kv)
        self.out = Linear((H * K, D), ('heads', 'embed'), spread('residual', H * K), rngs, **out)
        norm = lambda: Norm(RMSNorm(config.norm.eps), K) if config.qk_norm else None
        self.query_norm, self.key_norm = norm(), norm()

    def keys_values(self, memory_BxMxD, turn=None):
        """Keys and values of a memory, [B, G, M, K] each, the keys turned if `turn` is given."""
        # All tokens of a row, also where `length` is split: each query needs them.
        k_BxGxMxK = self._heads(self.key(memory_BxMxD), None)
        v_BxGxMxK = self._heads(self.value(memory_BxMxD), None)
        return self._placed(k_BxGxMxK, self.key_norm, turn), v_BxGxMxK

    def __call__(self, x_BxLxD, keys_values, seen, *, past=None, turn=None, bias=None, key=None):
        """Attention of x to keys and values, [B, L, D]; `turn` is what turned the keys.

        `seen` says who sees whom and what computes it (backends.Seen), `bias` is as that one makes
        it; `past` are keys and values in front of the others.
        """
        q_BxHxLxK = self._placed(self._heads(self.query(x_BxLxD)), self.query_norm, turn)
        args = self.config, q_BxHxLxK, *keys_values, seen
        y_BxHxLxK = seen.backend.attend(*args, past=past, bias=bias, key=key)
        B, L, _ = x_BxLxD.shape
        return self.out(y_BxHxLxK.swapaxes(1, 2).reshape(B, L, -1))

    def _placed(self, x_BxHxLxK, norm, turn):
        x_BxHxLxK = x_BxHxLxK if norm is None else norm(x_BxHxLxK)
        return x_BxHxLxK if turn is None else turn(x_BxHxLxK)

    def _heads(self, x_BxLxP, length='length'):
        """[B, L, heads * K] as [B, heads, L, K]: products over heads need no transposes then."""
        B, L, _ = x_BxLxP.shape
        x_BxHxLxK = x_BxLxP.reshape(B, L, -1, self.config.kv).swapaxes(1, 2)
        return constrain(x_BxHxLxK, 'batch', 'heads', length, 'kv')
