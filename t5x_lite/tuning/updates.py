"""An experiment's optimizer: factors of the rate by parameter, groups that learn from a step on."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t5x_lite import frozen, selector
from t5x_lite.selector import Choice


class GroupsState(NamedTuple):
    """`step` updates were done; the state of each group, by the step from which it learns."""

    step: jax.Array
    groups: dict[str, Any]


def transformation(experiment, params: Mapping[str, Any]) -> optax.GradientTransformation:
    """The optax transformation of what learns, `frozen.split` of these parameters (or shapes)."""
    starts = frozen.starts(experiment, params)
    inner = in_groups(experiment.optimizer, frozen.chosen_part(starts, frozen.learns))
    factors = rate_factors(experiment, params)
    return inner if factors is None else _scaled(inner, factors)


def rate_factors(experiment, params: Mapping[str, Any]) -> Choice | None:
    """{array that learns: the factor of its rate}, a tuple where layers differ; None: 1 for all.

    Raises:
      ConfigError: `Experiment.rate_factors` does not fit the parameters.
    """
    if experiment.rate_factors is None:
        return None
    starts = frozen.starts(experiment, params)
    shapes = {path: x.shape for path, x in frozen.flat(params).items()}
    rules = selector.resolved(experiment.rate_factors, experiment.model)
    chosen, out = selector.choose(rules, shapes, 'Experiment: rate_factors'), {}
    for path, value in chosen.items():
        count = max(len(x) if isinstance(x, tuple) else 1 for x in (value, starts[path]))
        pairs = zip(selector.each(value, count), selector.each(starts[path], count), strict=True)
        kept = [factor for factor, start in pairs if frozen.learns(start)]
        out |= {path: selector.together(kept)} if kept else {}
    return out


def _scaled(inner: optax.GradientTransformation, factors: Choice) -> optax.GradientTransformation:
    """`inner`, its updates (decay among them) times the factors."""

    def scale(update, factor):
        factor_N = np.array(factor, np.float32).reshape(-1, *[1] * (update.ndim - 1))
        return update * (factor_N if isinstance(factor, tuple) else factor)

    def update(grads, state, params):
        updates, state = inner.update(grads, state, params)
        flat = {path: scale(x, factors[path]) for path, x in frozen.flat(updates).items()}
        return frozen.unflat(flat), state

    return optax.GradientTransformation(inner.init, update)


def in_groups(optimizer, starts: Choice) -> optax.GradientTransformation:
    """The optimizer, each group of parameters from its own step on; as it is if all begin at 0.

    A group that waits is not changed, its state is 0, and its gradients are in no norm. It begins
    with a step count of its own; the learning rate is that of the run's step for all groups.
    """
    steps = sorted({step for value in starts.values() for step in selector.each(value, 1)})
    if steps == [0]:
        return optimizer.build()
    tests = [lambda start, step=step: start == step for step in steps]
    groups = {str(step): _from(optimizer, step) for step in steps}
    clip = getattr(optimizer, 'clip', None)
    clipped = optax.identity() if clip is None else optax.clip_by_global_norm(clip)
    parts = lambda tree: [frozen.part(tree, starts, test) for test in tests]

    def init(params):
        pairs = zip(groups.items(), parts(params), strict=True)
        return GroupsState(jnp.int32(0), {name: g.init(own) for (name, g), own in pairs})

    def update(grads, state, params):
        active = [state.step >= step for step in steps]
        grads = [_where(on, own) for on, own in zip(active, parts(grads), strict=True)]
        grads, _ = clipped.update(grads, clipped.init(grads))
        updates, after = [], {}
        for (name, group), on, *own in zip(
            groups.items(), active, grads, parts(params), strict=True
        ):
            before = state.groups[name]
            changes, later = group.update(own[0], before, own[1])
            updates.append(_where(on, changes))
            after[name] = _where(on, later, before)
        updates = frozen.united(updates, starts, tests)
        return updates, GroupsState(state.step + 1, after)

    return optax.GradientTransformation(init, update)


def _from(optimizer, start: int) -> optax.GradientTransformation:
    """The optimizer without clipping, whose own step 0 is the run's step `start`."""
    changes = {'clip': None} if hasattr(optimizer, 'clip') else {}
    rate = lambda count: optimizer.schedule(count + start)
    return dataclasses.replace(optimizer, learning_rate=rate, **changes).build()


def _where(on, tree, otherwise=None):
    """The tree if `on`, else the other one, or zeros."""
    if otherwise is None:
        otherwise = jax.tree.map(jnp.zeros_like, tree)
    return jax.tree.map(lambda x, y: jnp.where(on, x, y), tree, otherwise)
