"""An optimizer's state in half the memory: kept in bfloat16, rounded at random, so without bias."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class RoundedState(NamedTuple):
    """What `inner` remembers, its float32 arrays in bfloat16; `count` updates were done."""

    count: jax.Array
    inner: Any


def rounded(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, computing in float32 on a state that is kept in bfloat16 between its updates.

    Rounding is stochastic (Gupta et al. 2015; for optimizers Zamirai et al. 2020): to one of the
    two neighbours, the nearer one more likely, so that the expected value is the exact one. To the
    nearest, a second moment with b2 = 0.999 would never grow: it changes by less than half a unit
    of bfloat16's eight bits. The draws depend on the update and the array alone, not on the mesh.
    """

    def init(params):
        return RoundedState(jnp.int32(0), jax.tree.map(_nearest, inner.init(params)))

    def update(grads, state, params=None):
        wide = jax.tree.map(_widened, state.inner, jax.eval_shape(inner.init, params))
        updates, wide = inner.update(grads, wide, params)
        leaves, tree = jax.tree.flatten(wide)
        key = jax.random.fold_in(jax.random.key(0), state.count)
        keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
        narrow = [at_random(x, k) if _is_kept(x) else x for x, k in zip(leaves, keys, strict=True)]
        return updates, RoundedState(state.count + 1, tree.unflatten(narrow))

    return optax.GradientTransformation(init, update)


def at_random(x: jax.Array, key) -> jax.Array:
    """float32 to bfloat16: up or down with a probability by the distance; what is exact stays."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    low = jax.random.bits(key, x.shape, jnp.uint32) & 0xFFFF
    up = jax.lax.bitcast_convert_type((bits + low) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), up, x).astype(jnp.bfloat16)


def _is_kept(x) -> bool:
    """Arrays in float32; counters, and scalars such as a rate, stay as they are."""
    return x.dtype == jnp.float32 and x.ndim > 0


def _nearest(x):
    return x.astype(jnp.bfloat16) if _is_kept(x) else x


def _widened(x, like):
    return x.astype(like.dtype)
