"""Exact gradients in microbatches, also where rows of the whole batch meet (GradCache)."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.metrics import Mean


class Losses(NamedTuple):
    """A training loss in two halves.

    `apart(params, batches, key)` gives the means {name: Mean} of losses that look at each row by
    itself, and a tree of float arrays [B, ...]: the vectors of rows that are to meet.
    `together(params, vectors, batches)` gives the means of the losses in which they do. What is
    differentiated is the sum of weights[name] * mean.
    """

    apart: Callable
    together: Callable
    weights: Mapping[str, Any]

    def value(self, means: Mapping[str, Mean], counts: Mapping[str, Any]):
        """The weighted sum of those means that have a weight, by the counts given."""
        ratio = lambda name: means[name].total / jnp.maximum(counts[name], 1.0)
        return sum(self.weights[name] * ratio(name) for name in self.weights if name in means)

    def whole(self, params, batches, key=None):
        """The loss of one batch, and all its means."""
        means, vectors = self.apart(params, batches, key)
        means |= self.together(params, vectors, batches)
        return self.value(means, counts_of(means)), means


def counts_of(means: Mapping[str, Mean]) -> dict[str, Any]:
    return {name: mean.count for name, mean in means.items()}


def split(batches, parts: int):
    """Each array [B, ...] as [parts, B / parts, ...]; rows stay on their devices."""
    cut = lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
    return jax.tree.map(cut, batches)


def join(parts):
    """Undoes `split`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), parts)


def gradients(losses: Losses, params, batches, key, parts: int):
    """(loss, all means, gradients) of a batch, worked through in `parts` microbatches.

    Each loss's sum is divided by its count over the *whole* batch before gradients are added, so
    that k microbatches give what one gives. Counts depend on the batch alone: asking for them here
    costs nothing, the compiler drops the model. Each microbatch has a dropout key of its own.
    """
    counts = counts_of(losses.whole(params, batches)[1])
    cut = split(batches, parts), jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(parts))
    shapes = jax.eval_shape(losses.apart, params, *jax.tree.map(lambda x: x[0], cut))
    met, grads, pulls = _meet(losses, params, batches, cut, counts, shapes[1])

    def loss(params, batches, key, pulls):
        means, vectors = losses.apart(params, batches, key)
        return losses.value(means, counts) + _dot(vectors, pulls), means

    def add_part(carry, part):
        (_, means), grads = jax.value_and_grad(loss, has_aux=True)(params, *part)
        return jax.tree.map(jnp.add, carry, (means, grads)), None

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[0])
    (means, grads), _ = jax.lax.scan(add_part, (zeros, grads), (*cut, pulls))
    # A count that is no sum over rows (a constant normaliser) is the whole batch's.
    means = {name: Mean(mean.total, counts[name]) for name, mean in (means | met).items()}
    return losses.value(means, counts), means, grads


def _meet(losses: Losses, params, batches, cut, counts, shapes):
    """Means of `together` on the whole batch, its gradients by params, and by vectors in parts.

    A first pass over the microbatches, without gradients, collects the vectors; the second draws
    the same dropout again. Source: GradCache (Gao et al. 2021b).
    """
    if not jax.tree.leaves(shapes):
        return {}, jax.tree.map(jnp.zeros_like, params), shapes
    collect = lambda _, part: (None, losses.apart(params, *part)[1])
    _, found = jax.lax.scan(collect, None, cut)

    def loss(params, vectors):
        means = losses.together(params, vectors, batches)
        return losses.value(means, counts), means

    grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, means), (grads, pulls) = grad(params, join(found))
    return means, grads, split(pulls, cut[1].shape[0])


def _dot(a, b):
    """The sum of products of two equal trees; its gradient by the first is the second."""
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
