"""The kernels that backends.py names, called on each device's own rows and heads."""
# SPDX-License-Identifier: Apache-2.0

import jax

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

    args = [q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, sight.query_BxL, sight.key_BxM]
    args += [] if table_RxH is None else [table_RxH]
    if window is None or window.here is True:
        return kernel(window and window.reach)(*args)
    return jax.lax.cond(window.here, kernel(window.reach), kernel(None), *args)


def cudnn(config, q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, mask_BxLxM):
    """cuDNN's attention, [B, H, L, K]."""

    def call(q, k, v, mask):
        turned = (x.swapaxes(1, 2) for x in (q, k, v))
        y_BxLxHxK = jax.nn.dot_product_attention(
            *turned, mask=mask[:, None], scale=config.attention_scale, implementation='cudnn'
        )
        return y_BxLxHxK.swapaxes(1, 2)

    axes = [HEADS, HEADS, HEADS, ('batch', None, None)]
    args = q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, mask_BxLxM
    return sharding.by_parts(call, axes, HEADS)(*args)
