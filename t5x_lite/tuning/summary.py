"""What is said of a model before it runs: what computes attention, and what learns."""
# SPDX-License-Identifier: Apache-2.0

import re
from collections import Counter
from collections.abc import Iterator

import jax

from t5x_lite import frozen, selector, sharding, sharding_table, step
from t5x_lite.model import choosing
from t5x_lite.optim import Optimizer

SHOWN = 8  # kinds of parameters in a message


def attention(experiment, devices: int) -> str:
    """What computes attention in a train step on that many devices, and why; from shapes alone.

    Raises:
      ConfigError: the model names a backend that cannot compute what an objective needs.
    """
    model_of, params = step.model_of(experiment), step.abstract_params(experiment)
    batches = {
        name: {array: jax.ShapeDtypeStruct(*kind) for array, kind in stream.spec().items()}
        for name, stream in experiment.streams.items()
    }
    means = lambda params, *rest: step.batch_means(experiment, model_of(params), *rest)
    mesh = sharding_table.abstract_mesh(experiment, devices)
    with choosing.watching() as found, sharding.active(mesh, experiment.rules):
        jax.eval_shape(means, params, batches, jax.random.key(0))
    return choosing.explained(found)


def learned(experiment) -> Iterator[str]:
    """One line for all that learns, and one for each kind of it where that is not everything.

    Bytes of the optimizer's state are those of all devices together.
    """
    params = step.abstract_params(experiment)
    starts = frozen.starts(experiment, params)
    if isinstance(experiment.optimizer, Optimizer):
        experiment.optimizer.check(list(frozen.flat(params)))
    counts, waiting, total = Counter(), Counter(), 0
    for path, x in frozen.flat(params).items():
        total += x.size
        values = selector.each(starts[path], 1)
        for value in filter(frozen.learns, values):
            counts[_kind(path)] += x.size // len(values)
            waiting[value] += x.size // len(values)
    learning = counts.total()
    state = jax.eval_shape(lambda: step.init_state(experiment)).opt_state
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    share = learning / total
    yield (
        f'trained: {learning:,} of {total:,} parameters ({share:.2%}); '
        f'optimizer state {held / 2**20:,.1f} MiB'
    )
    if learning == total and len(waiting) == 1:
        return
    for kind, count in counts.most_common(SHOWN):
        yield f'  {kind}: {count:,}'
    if len(counts) > SHOWN:
        yield f'  and {len(counts) - SHOWN} more'
    for start, count in sorted(waiting.items()):
        if len(waiting) > 1:
            yield f'  from step {start} on: {count:,}'


def _kind(path: str) -> str:
    """The path without its last name: the module."""
    return re.sub(r'/(kernel|bias|scale|embedding|down|up)$', '', path)
