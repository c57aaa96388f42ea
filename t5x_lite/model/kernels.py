"""The kernels that backends.py names, called on each device's own rows and heads."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp

from t5x_lite import sharding
from t5x_lite.model import flash as pallas

HEADS = ('batch', 'heads', None, 'kv')


def flash(backend, config, q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, sight, window, table_RxH):
    """Flash attention [B, H, L, K] by a backends.Flash; what sees nothing is 0."""

    def kernel(reach):
        spec = pallas.Kernel(
            scale=config.attention_scale,
            causal=sight.causal,
            window=reach,
            cap=config.attention_cap,
            relative=None if table_RxH is None else config.positions,
            block=backend.block,
            interpret=backend.interpret,
        )
        axes = [HEADS, HEADS, HEADS, ('batch', None), ('batch', None)]
        axes += [] if table_RxH is None else [(None, 'heads')]
        call = lambda q, k, v, query, key, *table: pallas.flash_attention(
            spec, q, k, v, (query, key), *table
        )
        return sharding.by_parts(call, axes, HEADS)

    segments = sight.query_BxL.astype(jnp.int32), sight.key_BxM.astype(jnp.int32)
    args = [q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, *segments]
    args += [] if table_RxH is None else [table_RxH]
    if window is None or window.here is True:
        return kernel(window and window.reach)(*args)
    return jax.lax.cond(window.here, kernel(window.reach), kernel(None), *args)


def cudnn(config, q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, seen, bias_HxLxM):
    """cuDNN's attention, [B, H, L, K]."""
    sight, mask = seen.sight, seen.layer_mask
    more = {}  # arguments by name, with their axes
    if sight.is_plain:
        # An empty row counts as one token: its result is never used, and must be finite.
        tokens = lambda used: jnp.maximum(used.sum(1, dtype=jnp.int32), 1)
        more['query_seq_lengths'] = tokens(sight.query_BxL), ('batch',)
        more['key_value_seq_lengths'] = tokens(sight.key_BxM), ('batch',)
    if mask is not None:
        rows = None if mask.shape[0] == 1 else 'batch'
        more['mask'] = mask[:, None], (rows, None, None, None)
    if bias_HxLxM is not None:
        more['bias'] = bias_HxLxM[None].astype(q_BxHxLxK.dtype), (None, 'heads', None, None)

    def call(q, k, v, *args):
        turned = (x.swapaxes(1, 2) for x in (q, k, v))
        y_BxLxHxK = jax.nn.dot_product_attention(
            *turned,
            **dict(zip(more, args, strict=True)),
            scale=config.attention_scale,
            is_causal=sight.causal and sight.prefix_BxL is None,
            implementation='cudnn',
        )
        return y_BxLxHxK.swapaxes(1, 2)

    arrays, axes = zip(*more.values(), strict=True)
    args = q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, *arrays
    return sharding.by_parts(call, (HEADS, HEADS, HEADS, *axes), HEADS)(*args)
