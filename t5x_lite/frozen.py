"""Parameters that do not learn: taken out before gradients and optimizer, put back after."""
# SPDX-License-Identifier: Apache-2.0

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Sharding

from t5x_lite import selector
from t5x_lite.errors import ConfigError
from t5x_lite.selector import Choice

NEVER = None  # as a step from which a parameter learns
ALL = (('', True),)


def starts(experiment, params: Mapping[str, Any]) -> Choice:
    """{array: the step from which it learns, or NEVER}; a tuple of them where layers differ.

    `params` are arrays or shapes, nested. Teachers never learn.

    Raises:
      ConfigError: `Experiment.trainable` does not fit the parameters, or nothing learns.
    """
    rules = experiment.trainable
    if rules is None:
        rules = ALL if experiment.adapt is None else experiment.adapt.trainable(experiment.heads)
    rules = selector.resolved(rules, experiment.model)
    rules = [*((f'^heads/{name}/', False) for name in experiment.teachers), *rules]
    owner, shapes = 'Experiment: trainable', {p: x.shape for p, x in flat(params).items()}
    chosen = selector.choose([(p, _start(value)) for p, value in rules], shapes, owner)
    steps = {step for value in chosen.values() for step in selector.each(value, 1)} - {NEVER}
    if not steps or min(steps) > 0:
        raise ConfigError(f'{owner}: nothing learns at step 0; give a pattern the value True')
    _check_adapted(experiment, chosen)
    if max(steps) >= experiment.steps:
        raise ConfigError(
            f'{owner}: {max(steps)} is a step of no update, the run has steps={experiment.steps}; '
            'begin earlier, or give False'
        )
    return chosen


def _check_adapted(experiment, chosen: Choice) -> None:
    """ConfigError if what `Experiment.adapt` adds never learns."""
    added = [value for path, value in chosen.items() if re.search('/adapter/|^prompt/', path)]
    if experiment.adapt is not None and added and all(rests(v) for v in added):
        raise ConfigError(
            f'Experiment: trainable={experiment.trainable!r} lets nothing of adapt='
            f"{experiment.adapt} learn; begin it with ('/adapter/|^prompt/', True), leave it None, "
            'or leave adapt out'
        )


def _start(value: bool | int) -> int | None:
    return (0 if value else NEVER) if isinstance(value, bool) else value


def learns(start: int | None) -> bool:
    """Whether a parameter with that start learns at any step."""
    return start is not NEVER


def rests(start: int | None) -> bool:
    """Whether it never does."""
    return start is NEVER


def split(params: Mapping[str, Any], starts: Choice) -> tuple[dict, dict]:
    """(what learns, what never does); both together are the parameters.

    Of a stack that learns in part, each has its own layers. Arrays, shapes or shardings.
    """
    return part(params, starts, learns), part(params, starts, rests)


def join(trained: Mapping[str, Any], fixed: Mapping[str, Any], starts: Choice) -> dict:
    """The parameters that `split` took apart."""
    return united([trained, fixed], starts, [learns, rests])


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """{path: leaf}, as `encoder/blocks/mlp/wide/kernel`."""
    return flatten_dict(tree, sep='/')


def unflat(leaves: Mapping[str, Any]) -> dict:
    """Undoes `flat`."""
    return unflatten_dict(leaves, sep='/')


def part(tree: Mapping[str, Any], choice: Choice, holds: Callable[[Any], bool]) -> dict:
    """The arrays, and of those whose layers differ the layers, whose value in `choice` holds."""
    out = {}
    for path, x in flat(tree).items():
        value = choice[path]
        if not isinstance(value, tuple):
            out |= {path: x} if holds(value) else {}
        elif rows := _rows(value, holds):
            out[path] = _taken(x, rows)
    return unflat(out)


def chosen_part(choice: Choice, holds: Callable[[Any], bool]) -> Choice:
    """The values of the arrays and layers that `part` takes."""
    kept = {
        path: [v for v in selector.each(value, 1) if holds(v)] for path, value in choice.items()
    }
    return {path: selector.together(values) for path, values in kept.items() if values}


def united(parts: Sequence[Mapping], choice: Choice, tests: Sequence[Callable]) -> dict:
    """The tree whose `part` by each of the tests is given."""
    leaves, out = [flat(tree) for tree in parts], {}
    for path, value in choice.items():
        own = [tree[path] for tree in leaves if path in tree]
        if not isinstance(value, tuple):
            (out[path],) = own
            continue
        order = [row for holds in tests for row in _rows(value, holds)]
        joined = jnp.concatenate(own) if len(own) > 1 else own[0]
        out[path] = joined if order == sorted(order) else joined[np.argsort(order)]
    return unflat(out)


def _rows(values: tuple, holds: Callable[[Any], bool]) -> list[int]:
    return [row for row, value in enumerate(values) if holds(value)]


def _taken(x, rows: list[int]):
    """Those layers of a stack; a sharding, which has layers whole, is that of any of them."""
    if isinstance(x, Sharding):
        return x
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(rows), *x.shape[1:]), x.dtype, sharding=x.sharding)
    if rows == list(range(rows[0], rows[-1] + 1)):
        return x[rows[0] : rows[-1] + 1]
    return x[np.array(rows)]
