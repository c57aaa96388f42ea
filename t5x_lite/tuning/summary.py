"""What of a model learns, in words: counts, the modules, and the optimizer's memory."""
# SPDX-License-Identifier: Apache-2.0

import re
from collections import Counter
from collections.abc import Iterator

import jax

from t5x_lite import frozen, selector, step

SHOWN = 8  # kinds of parameters in a message


def lines(experiment) -> Iterator[str]:
    """One line for all that learns, and one for each kind of it; none if everything does.

    Bytes of the optimizer's state are those of all devices together.
    """
    params = step.abstract_params(experiment)
    starts = frozen.starts(experiment, params)
    counts, waiting, total = Counter(), Counter(), 0
    for path, x in frozen.flat(params).items():
        total += x.size
        values = selector.each(starts[path], 1)
        for value in filter(frozen.learns, values):
            counts[_kind(path)] += x.size // len(values)
            waiting[value] += x.size // len(values)
    learned = counts.total()
    if learned == total and len(waiting) == 1:
        return
    state = jax.eval_shape(lambda: step.init_state(experiment)).opt_state
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    share = learned / total
    yield (
        f'trained: {learned:,} of {total:,} parameters ({share:.2%}); '
        f'optimizer state {held / 2**20:,.1f} MiB'
    )
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
