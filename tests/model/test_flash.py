"""The flash kernel equals dense attention, forward and gradients."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.model.attention import attend, causal_mask, near_mask, segment_mask
from t5x_lite.model.flash import Flash, flash_attention
from t5x_lite.model.positions import Relative

RELATIVE = Relative(buckets=8, max_distance=32)
CASES = {
    'bidirectional': (Flash(relative=RELATIVE, block=32, interpret=True), 70, 70),
    'causal': (Flash(relative=RELATIVE, causal=True, block=32, interpret=True), 70, 70),
    'window': (Flash(window=9, cap=2.0, scale=0.3, block=32, interpret=True), 70, 70),
    'cross': (Flash(block=32, interpret=True), 40, 70),
}


def inputs(L, M):
    draw = np.random.default_rng(0)
    shapes = (2, 4, L, 8), (2, 2, M, 8), (2, 2, M, 8), (8, 4), (2, 4, L, 8)
    arrays = [jnp.asarray(draw.normal(size=s), jnp.float32) for s in shapes]
    row = lambda n: np.repeat([1, 2, 0], [20, n - 25, 5])[None].repeat(2, 0)
    return arrays, (jnp.asarray(row(L)), jnp.asarray(row(M)))


def dense(spec, q, k, v, segments, table):
    rows, columns = jnp.arange(q.shape[2]), jnp.arange(k.shape[2])
    mask = segment_mask(*segments)
    mask = mask & causal_mask(rows, columns) if spec.causal else mask
    mask = mask if spec.window is None else mask & near_mask(rows, columns, spec.window)
    bias = None
    if spec.relative is not None:
        bucket = spec.relative.bucket(columns[None] - rows[:, None], not spec.causal)
        bias = jnp.moveaxis(table[bucket], -1, 0)
    y = attend(q, k, v, mask=mask, bias=bias, scale=spec.scale, cap=spec.cap)
    return jnp.where(mask.any(-1)[:, None, :, None], y, 0.0)


@pytest.mark.parametrize('name', CASES)
def test_flash_equals_dense_forward_and_in_all_gradients(name):
    spec, L, M = CASES[name]
    (*arrays, weight), segments = inputs(L, M)

    def loss(path, q, k, v, table):
        if path is flash_attention and spec.relative is None:
            table = None
        y = path(spec, q, k, v, segments, table)
        return jnp.sum(y * weight), y

    run = lambda path: jax.jit(
        jax.value_and_grad(lambda *a: loss(path, *a), (0, 1, 2, 3), has_aux=True)
    )(*arrays)
    (_, y), grads = run(flash_attention)
    (_, want_y), want = run(dense)
    for got, expected in zip((y, *grads), (want_y, *want), strict=True):
        assert jnp.abs(got - expected).max() <= 1e-5 * max(1e-9, jnp.abs(expected).max())


def test_another_segment_changes_nothing_bit_for_bit():
    spec, L, M = CASES['bidirectional']
    (q, k, v, table, _), segments = inputs(L, M)
    before = flash_attention(spec, q, k, v, segments, table)[:, :, :20]
    k, v = k.at[:, :, 20:].add(7.0), v.at[:, :, 20:].add(7.0)
    assert (flash_attention(spec, q, k, v, segments, table)[:, :, :20] == before).all()
