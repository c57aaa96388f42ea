"""Sums of token losses over a vocabulary, in chunks where the scores would not fit at once."""
# SPDX-License-Identifier: Apache-2.0
# A chunk's gradients are computed with its loss, in the forward pass, so that its scores are made
# once and never kept. They can be: the sums are linear in what each token counts.

import math

import jax
import jax.numpy as jnp

from t5x_lite import sharding

# Scores [B, C, V] that a device holds at once, if TokenLoss does not say. On a CPU loss and
# gradients of 16 x 256 tokens over 32,000 words (D=256) took 2.44 s and 1,049 MB of temporaries at
# once, 1.27 s and 74 MB by 2**23; accelerators want larger products and fewer sums over devices.
LIMITS = {'cpu': 2**23, 'gpu': 2**28}
LIMIT = 2**27


def sums(score, losses, hidden_BxLxD, targets_BxL, counts_BxLx2, limit: int | None = None):
    """Three scalars, float32: the loss to learn from, the plain one, and how many are right.

    Args:
      score: hidden [B, C, D] to scores [B, C, V].
      losses: (scores, targets [B, C]) to losses, plain losses, and whether each is right, [B, C].
      counts_BxLx2: what each token counts in the first sum, and in the two others.
      limit: how many scores a device holds at once at most, None: what suits it. It changes no
        number but by rounding.
    """

    def add(hidden_BxCxD, targets_BxC, counts_BxCx2):
        loss_BxC, nll_BxC, right_BxC = losses(score(hidden_BxCxD), targets_BxC)
        learned_BxC, plain_BxC = counts_BxCx2[..., 0], counts_BxCx2[..., 1]
        others = (nll_BxC * plain_BxC).sum(), (right_BxC * plain_BxC).sum()
        return (loss_BxC * learned_BxC).sum(), jax.lax.stop_gradient(others)

    chunks = pieces(jax.eval_shape(score, hidden_BxLxD).shape, limit)
    if chunks == 1:
        loss, others = add(hidden_BxLxD, targets_BxL, counts_BxLx2)
        return loss, *others
    return _in_chunks(add, hidden_BxLxD, targets_BxL, counts_BxLx2, chunks)


def pieces(scores_BxLxV: tuple[int, int, int], limit: int | None) -> int:
    """Into how many chunks a row's tokens are cut; 1 is all at once."""
    B, L, V = scores_BxLxV
    limit = limit or LIMITS.get(sharding.platform(), LIMIT)
    sizes = {'batch': B, 'length': L, 'vocab': V}
    here = math.prod(-(-size // sharding.parts(axis)) for axis, size in sizes.items())
    return min(L, -(-here // limit))


def _in_chunks(add, hidden_BxLxD, targets_BxL, counts_BxLx2, chunks: int):
    """`sums` with each row's tokens in that many chunks, of every `chunks`-th token each.

    So a chunk has rows, and stretches of a row, of all devices: they keep what they had.
    """
    length = hidden_BxLxD.shape[1]
    size = -(-length // chunks)

    def cut(x):
        x = jnp.pad(x, ((0, 0), (0, size * chunks - length)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], size, chunks, *x.shape[2:]), 2, 0)

    def joined(x):
        x = jnp.moveaxis(x, 0, 2)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]

    rest = cut(targets_BxL), cut(counts_BxLx2)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rest)
    one = jax.ShapeDtypeStruct(
        (hidden_BxLxD.shape[0], size, hidden_BxLxD.shape[2]), hidden_BxLxD.dtype
    )
    add, weights = jax.closure_convert(add, one, *shapes)
    grad = jax.value_and_grad(lambda x, w, *rest: add(x, *rest, *w), argnums=(0, 1), has_aux=True)

    @jax.custom_vjp
    def total(hidden_BxLxD, weights, rest):
        def step(_, xs):
            loss, others = add(*xs, *weights)
            return None, (loss, *others)

        return tuple(x.sum() for x in jax.lax.scan(step, None, (cut(hidden_BxLxD), *rest))[1])

    def forward(hidden_BxLxD, weights, rest):
        def step(of_weights, xs):
            (loss, others), (of_hidden, more) = grad(xs[0], weights, *xs[1:])
            return jax.tree.map(jnp.add, of_weights, more), ((loss, *others), of_hidden)

        start = jax.tree.map(jnp.zeros_like, weights)
        of_weights, (parts, of_hidden) = jax.lax.scan(step, start, (cut(hidden_BxLxD), *rest))
        return tuple(x.sum() for x in parts), (joined(of_hidden), of_weights)

    def backward(grads, pulls):
        return *jax.tree.map(lambda x: (x * pulls[0]).astype(x.dtype), grads), None

    total.defvjp(forward, backward)
    return total(hidden_BxLxD, weights, rest)
