"""Flash attention as a Pallas TPU kernel, with T5's relative bias computed inside."""
# SPDX-License-Identifier: Apache-2.0

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from t5x_lite.errors import ConfigError
from t5x_lite.model.attention import HIDDEN, soft_cap
from t5x_lite.model.positions import Relative


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What one attention kernel computes; `window` is the reach to either side, None for all."""

    scale: float = 1.0
    causal: bool = False
    window: int | None = None
    cap: float | None = None
    relative: Relative | None = None
    block: int = 128
    interpret: bool = False

    def __post_init__(self):
        if self.block < 8 or self.block % 8:
            raise ConfigError(f'Kernel: block={self.block} must be a multiple of 8; try 128')

    def places(self, i, j):
        """Row and column numbers of block (i, j), [L, M] each."""
        shape = (self.block, self.block)
        rows = i * self.block + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
        return rows, j * self.block + jax.lax.broadcasted_iota(jnp.int32, shape, 1)

    def needed(self, i, j):
        """Whether causality and window leave anything of block (i, j)."""
        first, last = j * self.block - (i + 1) * self.block + 1, (j + 1 - i) * self.block - 1
        needed = j >= 0
        if self.causal:
            needed &= first <= 0
        if self.window is not None:
            needed &= (first <= self.window) & (last >= -self.window)
        return needed

    def far(self, i, j):
        """Whether block (i, j) has one bucket, the last before or the last after its queries.

        From `max_distance` on a bucket is that by a whole bucket, however logarithms are rounded.
        """
        first, last = j * self.block - (i + 1) * self.block + 1, (j + 1 - i) * self.block - 1
        return (first >= self.relative.max_distance) | (last <= -self.relative.max_distance)

    def last(self, i, j):
        """The bucket of a far block (i, j)."""
        buckets = self.relative.buckets
        return jnp.where(j > i, buckets - 1, (buckets if self.causal else buckets // 2) - 1)

    def bucket(self, i, j):
        """Buckets of block (i, j), [L, M]."""
        rows, columns = self.places(i, j)
        return self.relative.bucket(columns - rows, not self.causal)

    def bias(self, i, j, biases):
        """The bias of block (i, j), [L, M]."""

        def near():
            bucket, bias = self.bucket(i, j), jnp.zeros((self.block, self.block))
            for n in range(self.relative.buckets):
                bias += jnp.where(bucket == n, biases[n], 0.0)
            return bias

        def far():
            before = biases[len(biases) - 1 if self.causal else len(biases) // 2 - 1]
            return jnp.full((self.block, self.block), jnp.where(j > i, biases[-1], before))

        return jax.lax.cond(self.far(i, j), far, near)

    def scores(self, i, j, q, k, segments, biases):
        """Capped scores before the bias, scores and mask of block (i, j), [L, M] each."""
        rows, columns = self.places(i, j)
        raw = _dot(q, k, 1, 1) * self.scale
        capped = score = soft_cap(raw, self.cap)
        mask = (segments[0] == segments[1]) & (segments[1] > 0)
        if self.causal:
            mask &= columns <= rows
        if self.window is not None:
            mask &= jnp.abs(columns - rows) <= self.window
        if self.relative is not None:
            score += self.bias(i, j, biases)
        return capped, jnp.where(mask, score, HIDDEN), mask


def _dot(a, b, over_a, over_b):
    dims = (((over_a,), (over_b,)), ((), ()))
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


def _biases(spec, table):
    """This head's bias per bucket; read here, as a program's number is unknown inside `when`."""
    head, buckets = pl.program_id(1), spec.relative.buckets if spec.relative else 0
    return [table[head, n] for n in range(buckets)]


def _forward_kernel(spec, table, q, k, v, q_seg, k_seg, out, lse, top, total, mix):
    i, j = pl.program_id(2), pl.program_id(3)
    biases = _biases(spec, table)

    @pl.when(j == 0)
    def _():
        top[...] = jnp.full_like(top, HIDDEN)
        total[...] = jnp.zeros_like(total)
        mix[...] = jnp.zeros_like(mix)

    @pl.when(spec.needed(i, j))
    def _():
        segments = q_seg[0], k_seg[0]
        _, score, mask = spec.scores(i, j, q[0, 0], k[0, 0], segments, biases)
        new = jnp.maximum(top[...], score.max(1, keepdims=True))
        shares = jnp.where(mask, jnp.exp(score - new), 0.0)
        fade = jnp.exp(top[...] - new)
        total[...] = total[...] * fade + shares.sum(1, keepdims=True)
        mix[...] = mix[...] * fade + _dot(shares.astype(v.dtype), v[0, 0], 1, 0)
        top[...] = new

    @pl.when(j == pl.num_programs(3) - 1)
    def _():
        safe = jnp.where(total[...] > 0, total[...], 1.0)
        out[0, 0] = (mix[...] / safe).astype(out.dtype)
        lse[0, 0] = top[...] + jnp.log(safe)


def _score_gradient(spec, i, j, biases, refs):
    _, q, k, v, q_seg, k_seg, d_out, lse, delta = refs
    segments = q_seg[0], k_seg[0]
    capped, score, mask = spec.scores(i, j, q[0, 0], k[0, 0], segments, biases)
    shares = jnp.where(mask, jnp.exp(score - lse[0, 0]), 0.0)
    d_score = shares * (_dot(d_out[0, 0], v[0, 0], 1, 1) - delta[0, 0])
    squeeze = 1.0 if spec.cap is None else 1 - (capped / spec.cap) ** 2
    return shares, d_score, d_score * squeeze * spec.scale


def _add_by_bucket(spec, i, j, d_table, d_score):
    """Adds the gradient of block (i, j) to that of the buckets, [1, 1, 1, R]."""
    place = jax.lax.broadcasted_iota(jnp.int32, d_table.shape[2:], 1)

    @pl.when(spec.far(i, j))
    def _():
        d_table[0, 0] += jnp.where(place == spec.last(i, j), jnp.sum(d_score), 0.0)

    @pl.when(jnp.logical_not(spec.far(i, j)))
    def _():
        bucket = spec.bucket(i, j)
        for n in range(spec.relative.buckets):
            part = jnp.sum(jnp.where(bucket == n, d_score, 0.0))
            d_table[0, 0] += jnp.where(place == n, part, 0.0)


def _query_kernel(spec, *refs):
    *inputs, dq, d_table, sum_q = refs
    i, j = pl.program_id(2), pl.program_id(3)
    biases = _biases(spec, inputs[0])

    @pl.when((i == 0) & (j == 0))
    def _():
        d_table[...] = jnp.zeros_like(d_table)

    @pl.when(j == 0)
    def _():
        sum_q[...] = jnp.zeros_like(sum_q)

    @pl.when(spec.needed(i, j))
    def _():
        _, d_score, d_raw = _score_gradient(spec, i, j, biases, inputs)
        k = inputs[2][0, 0]
        sum_q[...] += _dot(d_raw.astype(k.dtype), k, 1, 0)
        if spec.relative is not None:
            _add_by_bucket(spec, i, j, d_table, d_score)

    @pl.when(j == pl.num_programs(3) - 1)
    def _():
        dq[0, 0] = sum_q[...].astype(dq.dtype)


def _key_kernel(spec, *refs):
    *inputs, dk, dv, sum_k, sum_v = refs
    j, i = pl.program_id(2), pl.program_id(3)
    biases = _biases(spec, inputs[0])

    @pl.when(i == 0)
    def _():
        sum_k[...] = jnp.zeros_like(sum_k)
        sum_v[...] = jnp.zeros_like(sum_v)

    @pl.when(spec.needed(i, j))
    def _():
        shares, _, d_raw = _score_gradient(spec, i, j, biases, inputs)
        q, d_out = inputs[1][0, 0], inputs[6][0, 0]
        sum_k[...] += _dot(d_raw.astype(q.dtype), q, 0, 0)
        sum_v[...] += _dot(shares.astype(d_out.dtype), d_out, 0, 0)

    @pl.when(i == pl.num_programs(3) - 1)
    def _():
        dk[0, 0], dv[0, 0] = sum_k[...], sum_v[...]


def _call(kernel, spec, products, args, out, scratch, swap=False):
    """The kernel, of so many products a block, over (B, H, L, M) blocks; `swap`: (B, H, M, L)."""
    q, k = args[1], args[2]
    B, H, L, K = q.shape
    n, share = spec.block, H // k.shape[1]
    at = lambda f: (lambda b, h, x, y: f(b, h, y, x)) if swap else f
    row = lambda w: pl.BlockSpec((1, 1, n, w), at(lambda b, h, i, j: (b, h, i, 0)))
    key = pl.BlockSpec((1, 1, n, K), at(lambda b, h, i, j: (b, jax.lax.div(h, share), j, 0)))
    specs = [pl.BlockSpec(memory_space=pltpu.SMEM), row(K), key, key]
    specs += [pl.BlockSpec((1, n, 1), at(lambda b, h, i, j: (b, i, 0)))]
    specs += [pl.BlockSpec((1, 1, n), at(lambda b, h, i, j: (b, 0, j)))]
    specs += [row(a.shape[-1]) for a in args[6:]]
    own = pl.BlockSpec((1, 1, n, K), at(lambda b, h, i, j: (b, h, j, 0)))
    table = lambda w: pl.BlockSpec((1, 1, 1, w), lambda b, h, i, j: (b, h, 0, 0))
    kinds = {'row': row, 'key': lambda w: own, 'table': table}
    blocks = (L // n, k.shape[2] // n)
    return pl.pallas_call(
        functools.partial(kernel, spec),
        grid=(B, H, *(blocks[::-1] if swap else blocks)),
        in_specs=specs,
        out_specs=[kinds[kind](shape[-1]) for kind, shape, _ in out],
        out_shape=[jax.ShapeDtypeStruct(shape, dtype) for _, shape, dtype in out],
        scratch_shapes=[pltpu.VMEM((n, w), jnp.float32) for w in scratch],
        cost_estimate=_cost(spec, products, args, out, swap),
        interpret=spec.interpret,
    )(*args)


def _cost(spec, products, args, out, swap):
    """What a kernel computes of `products` a block, and moves between HBM and VMEM.

    What belongs to the outer axis is moved once, of the other one all for each block of the outer.
    """
    (B, H, L, K), M, n = args[1].shape, args[2].shape[2], spec.block
    blocks = int(np.sum(spec.needed(*np.indices((L // n, M // n)))))
    width = lambda arrays: sum(x.shape[-1] * x.dtype.itemsize for x in arrays)
    made = lambda of: [jax.ShapeDtypeStruct(*a) for kind, *a in out if kind == of]
    rows = L * (width([args[1], *args[6:], *made('row')]) + 4)  # with the segments
    keys = M * (width([*args[2:4], *made('key')]) + 4)
    moved = M // n * rows + keys if swap else rows + L // n * keys
    return pl.CostEstimate(
        flops=B * H * blocks * products * 2 * n * n * K,
        transcendentals=B * H * blocks * n * n * (1 if spec.cap is None else 2),
        bytes_accessed=B * H * (moved + width(made('table'))),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(spec, table, q, k, v, q_seg, k_seg):
    return _flash_forward(spec, table, q, k, v, q_seg, k_seg)[0]


def _flash_forward(spec, *args):
    B, H, L, K = args[1].shape
    out = [('row', (B, H, L, K), args[1].dtype), ('row', (B, H, L, 1), jnp.float32)]
    y, lse = _call(_forward_kernel, spec, 2, args, out, (1, 1, K))
    return y, (args, y, lse)


def _flash_backward(spec, kept, d_out):
    args, y, lse = kept
    table, q, k, v = args[:4]
    (B, H, _, K), (G, M) = q.shape, k.shape[1:3]
    delta = jnp.sum(y.astype(jnp.float32) * d_out.astype(jnp.float32), -1, keepdims=True)
    args = (*args, d_out, lse, delta)
    f32, wide = jnp.float32, table.shape[1]
    out = [('row', q.shape, q.dtype), ('table', (B, H, 1, wide), f32)]
    dq, d_table = _call(_query_kernel, spec, 3, args, out, (K,))
    out = [('key', (B, H, M, K), f32)] * 2
    dk, dv = _call(_key_kernel, spec, 4, args, out, (K, K), swap=True)
    grouped = lambda x: x.reshape(B, G, H // G, M, K).sum(2)
    d_table = d_table.sum((0, 2)).astype(table.dtype)
    return d_table, dq, grouped(dk).astype(k.dtype), grouped(dv).astype(v.dtype), None, None


_flash.defvjp(_flash_forward, _flash_backward)


def flash_attention(spec, q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, segments, table_RxH=None):
    """Attention by `spec`, [B, H, L, K]; `segments` are ([B, L], [B, M]), padding is 0.

    `table_RxH` is the float32 bucket table of `spec.relative`. Rows that see nothing are 0.
    """
    if (table_RxH is None) != (spec.relative is None):
        raise ConfigError('flash_attention: give a table exactly where Kernel.relative is set')
    H, L = q_BxHxLxK.shape[1:3]
    fill = lambda x, axis: jnp.pad(
        x, [(0, -x.shape[a] % spec.block if a == axis else 0) for a in range(x.ndim)]
    )
    table = jnp.zeros((H, 1)) if table_RxH is None else table_RxH.T
    q_seg, k_seg = (fill(s, 1).astype(jnp.int32) for s in segments)
    q, k, v = (fill(x, 2) for x in (q_BxHxLxK, k_BxGxMxK, v_BxGxMxK))
    return _flash(spec, table, q, k, v, q_seg[:, :, None], k_seg[:, None, :])[:, :, :L]
