"""FLOPs of a train step: matrix products of the traced forward, and of the backward they cause."""
# SPDX-License-Identifier: Apache-2.0
# A product [m, k] x [k, n] is 2 m k n, and for each factor that learning reaches the backward pass
# has another one. The square of attention counts in full, masked or not, in a kernel or not, and
# the vocabulary where a loss is computed. Lookups, norms, activations, softmax, dropout,
# recomputation and the optimizer do not count.

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from t5x_lite import frozen, step
from t5x_lite.experiment import Experiment
from t5x_lite.model.backends import Dense
from t5x_lite.model.matmuls import Float

NOTHING_LEARNED = ('stop_gradient', 'argmax', 'sign', 'floor', 'round')


def train_step_flops(experiment: Experiment) -> int:
    """FLOPs of one update over all streams, a teacher's forward and GradCache's first pass too."""
    total = _traced(experiment, _loss)[1]
    if experiment.microbatches > 1:  # rows that meet are encoded once more, without gradients
        total += _traced(experiment, _vectors)[0]
    return total


def forward_flops(experiment: Experiment) -> int:
    """FLOPs of the forward pass of one step's batches with their losses."""
    return _traced(experiment, _loss)[0]


def _loss(experiment: Experiment, model, batches, key):
    weights = step.loss_weights(experiment, 0)
    means = step.batch_means(experiment, model, batches, key)
    return [means[name].total for name in weights]


def _vectors(experiment: Experiment, model, batches, key):
    return jax.tree.leaves(step.means_apart(experiment, model, batches, key)[1])


def _traced(experiment: Experiment, outputs) -> tuple[int, int]:
    """FLOPs of a forward alone, and with its backward, from shapes: no memory is taken."""
    plain = dataclasses.replace(experiment.model, remat='none', attention=Dense(), matmul=Float())
    experiment = dataclasses.replace(experiment, model=plain)
    model_of = step.model_of(experiment)
    params = step.abstract_params(experiment)
    starts = frozen.starts(experiment, params)
    trained, fixed = frozen.split(params, starts)
    batches = {
        name: {array: jax.ShapeDtypeStruct(*kind) for array, kind in stream.spec().items()}
        for name, stream in experiment.streams.items()
    }

    def forward(trained, fixed, batches):
        model = model_of(frozen.join(trained, fixed, starts))
        return outputs(experiment, model, batches, jax.random.key(0))

    jaxpr = jax.make_jaxpr(forward)(trained, fixed, batches).jaxpr
    jaxpr, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    count = len(jax.tree.leaves(trained))
    learns = [place < count for place, is_used in enumerate(used) if is_used]
    forward_only, both, _ = products(jaxpr, learns)
    return forward_only, both


def products(jaxpr, learns: list[bool]) -> tuple[int, int, list[bool]]:
    """FLOPs of a jaxpr's products, with those of its gradients, and which outputs learning reaches.

    `learns` says of each input whether it depends on what is trained.
    """
    known, forward, both = dict(zip(jaxpr.invars, learns, strict=True)), 0, 0
    for eqn in jaxpr.eqns:
        ins = [not hasattr(var, 'val') and known.get(var, False) for var in eqn.invars]
        reached = any(ins) and eqn.primitive.name not in NOTHING_LEARNED
        outs, once, twice = [reached] * len(eqn.outvars), 0, 0
        if eqn.primitive.name == 'dot_general':
            once = _product(eqn)
            twice = once * (1 + sum(ins))
        elif inner := list(_inner(eqn)):
            found = [_call(eqn, body, ins) for body in inner]
            once, twice = (max(counts) for counts in list(zip(*found, strict=True))[:2])
            outs = [any(column) for column in zip(*(outs for *_, outs in found), strict=True)]
        forward, both = forward + once, both + twice
        for var, reached in zip(eqn.outvars, outs, strict=True):
            known[var] = reached and jnp.issubdtype(var.aval.dtype, jnp.floating)
    outs = [not hasattr(var, 'val') and known.get(var, False) for var in jaxpr.outvars]
    return forward, both, outs


def _product(eqn) -> int:
    (left, _), _ = eqn.params['dimension_numbers']
    contracted = math.prod(eqn.invars[0].aval.shape[axis] for axis in left)
    return 2 * math.prod(eqn.outvars[0].aval.shape) * contracted


def _inner(eqn):
    """The jaxprs inside an equation; of a custom gradient its forward alone."""
    names = ('jaxpr', 'call_jaxpr', 'fun_jaxpr', 'branches', 'body_jaxpr')
    for name in names:
        found = eqn.params.get(name, ())
        for closed in found if isinstance(found, tuple | list) else [found]:
            yield getattr(closed, 'jaxpr', closed)


def _call(eqn, body, ins: list[bool]) -> tuple[int, int, list[bool]]:
    """`products` of a body; what a loop carries is followed until it changes no more."""
    kind, params = eqn.primitive.name, eqn.params
    if kind == 'scan':
        # Rows of what it runs over, and of what it stacks, have one dimension less inside.
        alike = lambda outer, inner: sum(
            a.aval.ndim == b.aval.ndim for a, b in zip(outer, inner, strict=True)
        )
        carried, times = alike(eqn.outvars, body.outvars), params['length']
        start = alike(eqn.invars, body.invars) - carried
    elif kind == 'while':  # how often is not known: once
        ins = ins[params['cond_nconsts'] :]
        start, times = params['body_nconsts'], 1
        carried = len(ins) - start
    else:
        return products(body, ins[1:] if kind == 'cond' else ins)
    while True:
        once, twice, outs = products(body, ins)
        carry = [a or b for a, b in zip(ins[start : start + carried], outs, strict=False)]
        if carry == ins[start : start + carried]:
            return times * once, times * twice, outs
        ins = [*ins[:start], *carry, *ins[start + carried :]]
