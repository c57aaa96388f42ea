"""Memory of a step on each device, estimated by parts from shapes alone, and what it moves."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite import frozen, selector, sharding_table, step
from t5x_lite.experiment import Experiment, Stream
from t5x_lite.objectives import vocabulary_loss
from t5x_lite.objectives.losses import TokenLoss
from t5x_lite.objectives.similarity import WHOLE
from t5x_lite.sharding import AXES

ROWS = 2039  # a prime: an array whose size it divides has the batch as a dimension


class Memory(NamedTuple):
    """Bytes on each device. What the optimizer holds has the step's counter in it.

    `gradients` are those of what learns, twice with microbatches, which are added up. `activations`
    are what the backward pass keeps, `logits` scores over the vocabulary in float32 and their
    gradient in the compute type, `working` one layer at a time: what remat computes again, and
    weights gathered from `fsdp`.
    """

    parameters: int
    optimizer: int
    gradients: int
    activations: int
    logits: int
    working: int

    @property
    def peak(self) -> int:
        """Bytes at the worst moment: logits are gone before most gradients come."""
        later = self.gradients + self.working
        return self.parameters + self.optimizer + self.activations + max(self.logits, later)


def estimate(experiment: Experiment, mesh) -> Memory:
    """The parts on a mesh (`sharding_table.abstract_mesh`), from shapes and the remat policy.

    Token losses hold as many scores at once as on accelerators.
    """
    rows = list(sharding_table.rows(experiment, mesh))
    of_optimizer = lambda row: row.path.startswith(('opt_state', 'step'))
    params = [row for row in rows if not of_optimizer(row)]
    held = sum(row.bytes for row in params)
    fixed = sum(map(_resting(experiment), params))
    activations, logits, layer = 0, 0, 0
    for name, stream in experiment.streams.items():
        kept = _kept(experiment, name, stream, mesh)
        activations += kept.others + (0 if experiment.model.remat == 'offload' else kept.layers)
        logits = logits + kept.logits
        if experiment.model.remat != 'none':
            model = dataclasses.replace(experiment.model, remat='none')
            plain = dataclasses.replace(experiment, model=model)
            layer = max(layer, _kept(plain, name, stream, mesh).one_layer)
    return Memory(
        parameters=held,
        optimizer=sum(row.bytes for row in rows if of_optimizer(row)),
        gradients=(held - fixed) * (2 if experiment.microbatches > 1 else 1),
        activations=activations,
        logits=logits,
        working=layer + _gathered(experiment, params, mesh),
    )


def _resting(experiment: Experiment):
    """The function row -> bytes of it that never learn."""
    starts = frozen.starts(experiment, step.abstract_params(experiment))

    def of(row) -> int:
        value = starts[row.path]
        values = selector.each(value, 1)
        return row.bytes * sum(map(frozen.rests, values)) // len(values)

    return of


def state_bytes(experiment: Experiment, mesh) -> int:
    """Bytes of the whole TrainState: what a checkpoint takes on disk, uncompressed."""
    size = lambda row: math.prod(row.shape) * jnp.dtype(row.dtype).itemsize
    return sum(size(row) for row in sharding_table.rows(experiment, mesh))


class _Kept(NamedTuple):
    layers: int  # of stacked layers, all of them
    one_layer: int
    others: int
    logits: int


def ways(experiment: Experiment, mesh, axis: str) -> int:
    """Over how many devices a logical axis is split."""
    target = experiment.rules.get(axis)
    names = (target,) if isinstance(target, str) else target or ()
    return math.prod(mesh.shape[name] for name in names)


def _kept(experiment: Experiment, name: str, stream: Stream, mesh) -> _Kept:
    """Bytes of the residuals of a stream's microbatch that depend on its rows, on a device."""
    config, rows = experiment.model, stream.batch_size / experiment.microbatches
    rows_here = rows / ways(experiment, mesh, 'batch') / ways(experiment, mesh, 'length')
    split = {axis: ways(experiment, mesh, axis) for axis in ('heads', 'mlp', 'vocab')}
    layers, one, others, logits = 0.0, 0.0, 0.0, 0.0
    for leaf in _residuals(experiment, name, stream):
        if leaf.size == 0 or leaf.size % ROWS:
            continue
        size = leaf.size * leaf.dtype.itemsize * rows_here / ROWS
        if leaf.size % ROWS**2 == 0:  # rows against all rows of the batch
            size *= min(rows, WHOLE) / ROWS
        stacked = len(leaf.shape) > 2 and leaf.shape[0] % ROWS
        if not stacked and {config.rows, config.vocab} & {*leaf.shape}:
            scores = leaf.size * rows_here / ROWS / split['vocab']
            logits = max(logits, scores / math.ceil(scores / vocabulary_loss.LIMIT))
            continue
        if config.mlp in leaf.shape:
            size /= split['mlp']
        elif len(leaf.shape) > 3 and {config.heads, config.groups} & {*leaf.shape[1:]}:
            size /= split['heads']
        layers, one = (layers + size, one + size / leaf.shape[0]) if stacked else (layers, one)
        others = others if stacked else others + size
    width = 4 + jnp.dtype(config.dtype).itemsize
    return _Kept(int(layers), int(one), int(others), int(width * logits))


def _residuals(experiment: Experiment, name: str, stream: Stream) -> list:
    """Shapes of what differentiating a stream's loss keeps, with ROWS rows, of layers stacked."""
    scanned = dataclasses.replace(experiment.model, unroll=1)
    experiment = dataclasses.replace(experiment, model=scanned)
    model_of = step.model_of(experiment)
    params = step.abstract_params(experiment)
    starts = frozen.starts(experiment, params)
    trained, fixed = frozen.split(params, starts)
    experiment = _at_once(experiment, name, stream)
    weights = step.loss_weights(experiment, 0)
    batch = {
        array: jax.ShapeDtypeStruct((ROWS, *shape[1:]), dtype)
        for array, (shape, dtype) in stream.spec().items()
    }

    def backward(trained, fixed, batch):
        def loss(trained):
            model = model_of(frozen.join(trained, fixed, starts))
            means = step.batch_means(experiment, model, {name: batch}, jax.random.key(0))
            return sum(means[k].total for k in weights if k in means)

        return jax.vjp(loss, trained)[1]

    return jax.tree.leaves(jax.eval_shape(backward, trained, fixed, batch))


def _at_once(experiment: Experiment, name: str, stream: Stream) -> Experiment:
    """The experiment with token losses that make all scores of that stream at once."""
    whole = lambda loss: (
        dataclasses.replace(loss, limit=sys.maxsize) if isinstance(loss, TokenLoss) else loss
    )
    terms = {
        key: dataclasses.replace(term, loss=whole(term.loss))
        for key, term in stream.objective.terms.items()
    }
    objective = dataclasses.replace(stream.objective, terms=terms)
    streams = {**experiment.streams, name: dataclasses.replace(stream, objective=objective)}
    return dataclasses.replace(experiment, streams=streams)


def _gathered(experiment: Experiment, params, mesh) -> int:
    """Bytes of the largest stack's layer, whole but for `model`, in the compute type."""
    if ways(experiment, mesh, 'embed') == 1:
        return 0
    item = jnp.dtype(experiment.model.dtype).itemsize
    stacks = {}
    for row in params:
        if '/blocks/' in row.path:
            split = ways(experiment, mesh, 'embed') if 'embed' in (row.axes or ()) else 1
            size = row.bytes // jnp.dtype(row.dtype).itemsize * split * item // row.shape[0]
            stack = row.path.partition('/blocks/')[0]
            stacks[stack] = stacks.get(stack, 0) + size
    return max(stacks.values(), default=0)


def traffic(experiment: Experiment, memory: Memory, mesh) -> int:
    """Bytes that a step reads and writes at least: state, weights of each pass, activations."""
    passes = (3 if experiment.model.recomputes else 2) * experiment.microbatches
    item = jnp.dtype(experiment.model.dtype).itemsize
    gathered = memory.parameters * ways(experiment, mesh, 'embed')
    weights = passes * gathered * item // 4
    state = 2 * (memory.parameters + memory.optimizer) + 2 * memory.gradients
    return state + weights + 2 * experiment.microbatches * (memory.activations + memory.logits)


def exchanged(experiment: Experiment, memory: Memory, mesh) -> int:
    """Bytes that a device sends in a step by the usual pattern of the mesh's axes."""
    _, data, fsdp, context, model = (mesh.shape[axis] for axis in AXES)
    config, item = experiment.model, jnp.dtype(experiment.model.dtype).itemsize
    passes = (3 if config.recomputes else 2) * experiment.microbatches
    shard, copies = memory.parameters, data * context
    total = shard * (fsdp - 1) * (passes * item / 4 + 1) if fsdp > 1 else 0
    total += 2 * shard * (copies - 1) / copies
    layers = config.encoder_layers + config.decoder_layers
    tokens = experiment.tokens_per_step / ways(experiment, mesh, 'batch')
    if model > 1:  # two products of a layer are summed, forward and backward
        size = tokens / context * config.embed * item
        total += 2 * 4 * layers * size * (model - 1) / model
    if context > 1:  # keys and values of each layer are gathered, their gradients scattered
        size = 2 * tokens * config.groups * config.kv / model * item
        total += 2 * layers * size * (context - 1) / context
    return int(total)


def between_slices(memory: Memory, mesh) -> int:
    """Bytes that a device sends to other slices in a step: its gradients, summed over them."""
    replica = mesh.shape['replica']
    return 2 * memory.parameters * (replica - 1) // replica
